//! Who waits for which entry. Pure: they keep what they are given, and say whose time has come.

use std::collections::BTreeMap;

use raft_core::types::{EntryId, Index, RequestId, Term};

/// Those who wait for an entry to be applied.
///
/// An index may have several waiters, of different terms: an entry of a leader who was deposed may have been cut off here and live on
/// elsewhere. Only what is applied decides.
#[derive(Debug)]
pub(super) struct Waiters<T> {
    by_entry: BTreeMap<(Index, Term), T>,
    /// The term of the last entry that was applied. Never falls.
    applied_term: Term,
}

/// What the application of an entry means for those who wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decision<T> {
    /// Waited for this very entry.
    pub(super) applied: Option<T>,
    /// Waited for others, which will never be applied.
    pub(super) lost: Vec<T>,
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Self { by_entry: BTreeMap::new(), applied_term: Term::default() }
    }
}

impl<T> Waiters<T> {
    /// `waiter` waits for `entry`.
    pub(super) fn insert(&mut self, entry: EntryId, waiter: T) {
        self.by_entry.insert((entry.index, entry.term), waiter);
    }

    /// `entry` is to be applied. Entries come in order, so it decides for its own index and all lower ones. Terms never fall in a log, so from
    /// the first entry of a term on, it also decides for all of older terms: no higher index will hold them.
    pub(super) fn decide(&mut self, entry: EntryId) -> Decision<T> {
        let later = self.by_entry.split_off(&(entry.index.next(), Term(0)));
        let mut due = std::mem::replace(&mut self.by_entry, later);
        let applied = due.remove(&(entry.index, entry.term));
        let mut lost: Vec<T> = due.into_values().collect();
        if entry.term > self.applied_term {
            self.applied_term = entry.term;
            lost.extend(self.take_older_than(entry.term));
        }
        Decision { applied, lost }
    }

    /// A snapshot covers all entries up to `last`: returns those who waited for one of them, and can't learn what became of it.
    pub(super) fn cover(&mut self, last: Index) -> Vec<T> {
        let later = self.by_entry.split_off(&(last.next(), Term(0)));
        std::mem::replace(&mut self.by_entry, later).into_values().collect()
    }

    /// All who wait.
    pub(super) fn take_all(&mut self) -> Vec<T> {
        std::mem::take(&mut self.by_entry).into_values().collect()
    }

    fn take_older_than(&mut self, term: Term) -> impl Iterator<Item = T> + use<T> {
        let all = std::mem::take(&mut self.by_entry);
        let (older, kept): (BTreeMap<_, _>, _) = all.into_iter().partition(|((_, of), _)| *of < term);
        self.by_entry = kept;
        older.into_values()
    }

    /// Drops those who fail the test.
    pub(super) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.by_entry.retain(|_, waiter| keep(waiter));
    }
}

/// Those who wait to read: first for the index to read at, then for that index to be applied.
#[derive(Debug)]
pub(super) struct Readers<T> {
    asking: BTreeMap<RequestId, Vec<T>>,
    by_index: BTreeMap<Index, Vec<T>>,
}

impl<T> Default for Readers<T> {
    fn default() -> Self {
        Self { asking: BTreeMap::new(), by_index: BTreeMap::new() }
    }
}

impl<T> Readers<T> {
    /// `readers` wait for the outcome of the read `id`.
    pub(super) fn ask(&mut self, id: RequestId, readers: Vec<T>) {
        self.asking.insert(id, readers);
    }

    /// The readers of `id` may read once `index` is applied.
    pub(super) fn serve(&mut self, id: RequestId, index: Index) {
        let readers = self.asking.remove(&id).unwrap_or_default();
        self.by_index.entry(index).or_default().extend(readers);
    }

    /// The readers of `id`, who shall not read.
    pub(super) fn refuse(&mut self, id: RequestId) -> Vec<T> {
        self.asking.remove(&id).unwrap_or_default()
    }

    /// Those who may read now that `applied` is applied, with their index.
    pub(super) fn take_ready(&mut self, applied: Index) -> Vec<(Index, T)> {
        let later = self.by_index.split_off(&applied.next());
        let ready = std::mem::replace(&mut self.by_index, later);
        ready.into_iter().flat_map(|(index, readers)| readers.into_iter().map(move |reader| (index, reader))).collect()
    }

    /// All who wait for an index to be applied.
    pub(super) fn take_all_served(&mut self) -> Vec<T> {
        std::mem::take(&mut self.by_index).into_values().flatten().collect()
    }

    /// Drops those who fail the test.
    pub(super) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        // A read that is still being asked for keeps its place, so that its outcome finds it.
        self.asking.values_mut().for_each(|readers| readers.retain(&keep));
        self.by_index.values_mut().for_each(|readers| readers.retain(&keep));
        self.by_index.retain(|_, readers| !readers.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64, term: u64) -> EntryId {
        EntryId::new(Index(index), Term(term))
    }

    #[test]
    fn the_entry_itself_is_applied() {
        let mut waiters = Waiters::default();
        waiters.insert(id(7, 3), "a");
        waiters.insert(id(8, 3), "b");
        assert_eq!(waiters.decide(id(6, 3)), Decision { applied: None, lost: vec![] });
        assert_eq!(waiters.decide(id(7, 3)), Decision { applied: Some("a"), lost: vec![] });
        assert_eq!(waiters.decide(id(8, 3)), Decision { applied: Some("b"), lost: vec![] });
    }

    #[test]
    fn another_term_at_the_index_is_a_loss() {
        let mut waiters = Waiters::default();
        waiters.insert(id(7, 3), "a");
        assert_eq!(waiters.decide(id(7, 4)), Decision { applied: None, lost: vec!["a"] });
    }

    #[test]
    fn the_first_entry_of_a_term_decides_for_all_older_ones() {
        let mut waiters = Waiters::default();
        waiters.insert(id(7, 3), "a");
        waiters.insert(id(100, 3), "b");
        waiters.insert(id(101, 4), "c");
        assert_eq!(waiters.decide(id(7, 4)), Decision { applied: None, lost: vec!["a", "b"] });
        assert_eq!(waiters.decide(id(101, 4)), Decision { applied: Some("c"), lost: vec![] });
    }

    #[test]
    fn an_older_entry_at_the_same_index_may_still_win() {
        let mut waiters = Waiters::default();
        waiters.insert(id(7, 3), "older");
        waiters.insert(id(7, 5), "newer");
        assert_eq!(waiters.decide(id(7, 3)), Decision { applied: Some("older"), lost: vec!["newer"] });
    }

    #[test]
    fn nobody_is_left_behind_a_later_entry() {
        let mut waiters = Waiters::default();
        waiters.insert(id(7, 3), "a");
        waiters.insert(id(9, 3), "b");
        assert_eq!(waiters.decide(id(9, 3)), Decision { applied: Some("b"), lost: vec!["a"] });
    }

    #[test]
    fn a_snapshot_covers_those_up_to_its_last_entry() {
        let mut waiters = Waiters::default();
        waiters.insert(id(7, 3), "a");
        waiters.insert(id(8, 4), "b");
        waiters.insert(id(9, 4), "c");
        assert_eq!(waiters.cover(Index(8)), ["a", "b"]);
        assert_eq!(waiters.take_all(), ["c"]);
    }

    #[test]
    fn waiters_who_left_are_dropped() {
        let mut waiters = Waiters::default();
        waiters.insert(id(7, 3), "a");
        waiters.insert(id(8, 3), "b");
        waiters.retain(|waiter| *waiter != "a");
        assert_eq!(waiters.decide(id(8, 3)), Decision { applied: Some("b"), lost: vec![] });
    }

    #[test]
    fn reads_wait_for_their_index() {
        let mut readers = Readers::default();
        readers.ask(RequestId(1), vec!["a", "b"]);
        readers.ask(RequestId(2), vec!["c"]);
        readers.serve(RequestId(2), Index(9));
        readers.serve(RequestId(1), Index(5));
        assert!(readers.take_ready(Index(4)).is_empty());
        assert_eq!(readers.take_ready(Index(5)), [(Index(5), "a"), (Index(5), "b")]);
        assert_eq!(readers.take_ready(Index(20)), [(Index(9), "c")]);
    }

    #[test]
    fn a_refused_read_gives_its_readers_back() {
        let mut readers = Readers::default();
        readers.ask(RequestId(1), vec!["a", "b"]);
        assert_eq!(readers.refuse(RequestId(1)), ["a", "b"]);
        assert!(readers.refuse(RequestId(1)).is_empty());
    }

    #[test]
    fn readers_who_know_their_index_can_be_taken_back() {
        let mut readers = Readers::default();
        readers.ask(RequestId(1), vec!["a"]);
        readers.ask(RequestId(2), vec!["b"]);
        readers.serve(RequestId(1), Index(5));
        assert_eq!(readers.take_all_served(), ["a"]);
        assert_eq!(readers.refuse(RequestId(2)), ["b"]);
    }

    #[test]
    fn readers_who_left_are_dropped_in_both_places() {
        let mut readers = Readers::default();
        readers.ask(RequestId(1), vec!["a", "b"]);
        readers.ask(RequestId(2), vec!["a"]);
        readers.serve(RequestId(2), Index(5));
        readers.retain(|reader| *reader != "a");
        readers.serve(RequestId(1), Index(6));
        assert_eq!(readers.take_ready(Index(9)), [(Index(6), "b")]);
    }
}
