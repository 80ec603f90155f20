//! The log (§5.3, §7): entries since the last snapshot, what of them is committed, durable, in memory, and the memberships among them.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::entries::Entries;
use crate::membership::{Membership, MembershipStack};
use crate::port::OlderEntries;
use crate::recent::Recent;
use crate::terms::Terms;
use crate::types::{Entry, EntryId, Index, Payload, Snapshot, Term, WriteId};

/// The entries of this node, in order, with what is known of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Log {
    /// The terms of all entries, those that have left memory included.
    terms: Terms,
    /// Those in memory: the last ones.
    recent: Recent,
    memberships: MembershipStack,
    /// The highest entry known to be committed. Never moves back, never past the last entry.
    commit_index: Index,
    durability: Durability,
}

/// How a leader's entries were fitted into the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spliced {
    /// The first entry that was cut off because the leader's differ from there on.
    pub truncated_from: Option<Index>,
    /// The first entry that is new.
    pub appended_from: Option<Index>,
    /// Whether another membership is in force than before.
    pub membership_changed: bool,
}

impl Log {
    /// The log of a node that has stored `entries` after `older` ones after `snapshot`, all of them durable, of which those up to `commit_index` are
    /// committed.
    pub fn new(snapshot: Snapshot, older: OlderEntries, entries: Vec<Entry>, commit_index: Index) -> Self {
        let mut log = Self {
            terms: Terms::after(snapshot.last),
            recent: Recent::after(snapshot.last),
            memberships: MembershipStack::after(snapshot.last.index, snapshot.membership.clone()),
            commit_index,
            durability: Durability::default(),
        };
        log.restore(older);
        entries.into_iter().for_each(|entry| log.append_own([entry]));
        assert!((log.base().index..=log.last().index).contains(&commit_index), "only stored entries are committed");
        log.durability = Durability::all_durable(log.last().index);
        log
    }

    fn restore(&mut self, OlderEntries { last, terms, memberships }: OlderEntries) {
        if let Some(first_of_term) = terms.last() {
            self.recent = Recent::after(EntryId::new(last, first_of_term.term));
        }
        terms.into_iter().for_each(|id| self.terms.append(id));
        memberships.into_iter().for_each(|(index, membership)| self.memberships.push(index, membership));
    }

    /// The last entry of the snapshot that the log begins after; zero if it is whole.
    pub fn base(&self) -> EntryId {
        self.terms.base()
    }

    /// The last entry; zero if there is none.
    pub fn last(&self) -> EntryId {
        self.recent.last()
    }

    /// The term of the entry at `index`, if the log knows it.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index > self.last().index {
            return None;
        }
        self.terms.at(index)
    }

    /// Whether the log holds this very entry, and so the same entries as any log that does (§5.3).
    pub fn contains(&self, id: EntryId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// The last entry whose index and term are not above those given: where two logs may agree, skipping whole terms (§5.3).
    pub fn last_not_above(&self, index: Index, term: Term) -> EntryId {
        self.terms.last_not_above(index.min(self.last().index), term)
    }

    /// Entries from `from` up to `to`, both included: at least one, if there is one, and then as many as fit in `max_bytes`. None if the first has
    /// left memory.
    pub fn entries(&self, from: Index, to: Index, max_bytes: u64) -> Option<Entries> {
        (from > self.recent.before().index).then(|| self.recent.fitting(from, to, max_bytes))
    }

    /// Whether `entries` are what this log holds from `from` on: what was read back from disk is checked, for it may have been asked for before a
    /// truncation.
    pub fn holds_slice(&self, from: Index, entries: &[Entry]) -> bool {
        let mut next = from;
        let is_held = |entry: &Entry| {
            let is_next = entry.id.index == next && next > self.base().index;
            next = next.next();
            is_next && self.contains(entry.id)
        };
        !entries.is_empty() && entries.iter().all(is_held)
    }

    /// The entries from `from` on, which are in memory.
    pub fn entries_from(&self, from: Index) -> Entries {
        self.recent.range(from, self.last().index)
    }

    /// Appends entries, which others may share, after the last.
    pub fn append(&mut self, entries: Entries) {
        let mut last = self.last();
        entries.iter().for_each(|entry| note_next(&mut self.terms, &mut self.memberships, &mut last, entry));
        self.recent.append(entries);
    }

    /// Appends entries, which nobody else has yet, after the last.
    pub fn append_own(&mut self, entries: impl IntoIterator<Item = Entry>) {
        let mut last = self.last();
        self.recent.extend(entries);
        let new = self.recent.last_piece_after(last.index);
        new.iter().for_each(|entry| note_next(&mut self.terms, &mut self.memberships, &mut last, entry));
    }

    /// Lets entries leave memory that are committed and durable, oldest first, until the rest fits in `max_bytes`.
    pub fn evict(&mut self, max_bytes: u64) {
        self.recent.evict(self.commit_index.min(self.durable_index()), max_bytes);
    }

    /// What a snapshot of the state at `index` includes, if the log knows.
    pub fn snapshot_at(&self, index: Index) -> Option<Snapshot> {
        let term = self.term_at(index)?;
        Some(Snapshot { last: EntryId::new(index, term), membership: self.memberships.committed(index).clone() })
    }

    /// Drops the entries up to `snapshot`'s last, which is committed (§7).
    pub fn compact(&mut self, snapshot: &Snapshot) {
        let last = snapshot.last;
        assert!(self.contains(last) && last.index <= self.commit_index, "only committed entries are compacted");
        self.terms.compact(last);
        self.memberships.compact(last.index);
        self.recent.forget_to(last.index);
    }

    /// Replaces the whole log by `snapshot`, which is beyond what is committed here and contradicts or exceeds the log (§7). Returns the first entry
    /// beyond the snapshot that goes, if any.
    pub fn install(&mut self, snapshot: &Snapshot) -> Option<Index> {
        let last = snapshot.last;
        assert!(last.index > self.commit_index && !self.contains(last), "a snapshot is installed for what it adds");
        let beyond = last.index.next();
        let truncated_from = (self.last().index >= beyond).then_some(beyond);
        self.durability.truncate(self.commit_index.next());
        self.recent.clear(last);
        self.terms = Terms::after(last);
        self.memberships = MembershipStack::after(last.index, snapshot.membership.clone());
        self.commit_index = last.index;
        truncated_from
    }

    /// Makes the log hold `entries`, which follow each other and one that it holds. Existing entries are cut off only from the first
    /// that differs (§5.3), so a late message can't undo a later one.
    ///
    /// Fails, changing nothing, with the committed entry that would have to go.
    pub fn splice(&mut self, mut entries: Entries) -> Result<Spliced, EntryId> {
        let known = entries.iter().take_while(|entry| self.contains(entry.id)).count();
        let Some(first_new) = entries.get(known).map(|entry| entry.id.index) else {
            return Ok(Spliced::default());
        };
        let mut membership_changed = false;
        let conflict = self.term_at(first_new).map(|term| EntryId::new(first_new, term));
        if let Some(conflict) = conflict {
            if first_new <= self.commit_index {
                return Err(conflict);
            }
            membership_changed = self.truncate(first_new);
        }
        entries.advance(known);
        membership_changed |= entries.iter().any(|entry| matches!(entry.payload, Payload::Membership(_)));
        self.append(entries);
        Ok(Spliced { truncated_from: conflict.map(|id| id.index), appended_from: Some(first_new), membership_changed })
    }

    /// Returns whether a membership went with the entries.
    fn truncate(&mut self, from: Index) -> bool {
        assert!(from > self.commit_index, "committed entries stay");
        let previous = from.prev();
        let term = self.terms.at(previous).expect("what is committed stays");
        self.recent.truncate(EntryId::new(previous, term));
        self.terms.truncate(from);
        self.durability.truncate(from);
        self.memberships.truncate(from)
    }

    /// The membership in force.
    pub fn membership(&self) -> &Arc<Membership> {
        self.memberships.effective()
    }

    /// Whether the membership in force can't be rolled back any more.
    pub fn membership_is_committed(&self) -> bool {
        self.memberships.is_committed(self.commit_index)
    }

    /// The membership in force, and all that it may yet be rolled back to.
    pub fn possible_memberships(&self) -> impl Iterator<Item = &Arc<Membership>> {
        self.memberships.possible(self.commit_index)
    }

    /// The highest entry known to be committed.
    pub fn commit_index(&self) -> Index {
        self.commit_index
    }

    /// Notes that entries up to `index`, all of which the log holds, are committed. An older index is ignored.
    pub fn commit_to(&mut self, index: Index) {
        assert!(index <= self.last().index, "only stored entries commit");
        self.commit_index = self.commit_index.max(index);
    }

    /// The size of the entries that are not committed yet.
    pub fn uncommitted_bytes(&self) -> u64 {
        self.recent.bytes_after(self.commit_index)
    }

    /// The highest entry that is durable on this node.
    pub fn durable_index(&self) -> Index {
        self.durability.durable_index
    }

    /// The oldest write that is not durable yet, if any.
    pub fn write_under_way(&self) -> Option<WriteId> {
        self.durability.unconfirmed.front().map(|(id, _)| *id)
    }

    /// Notes that write `id` brings the disk in line with the log as it is now.
    pub fn note_write(&mut self, id: WriteId) {
        let last = self.last().index;
        self.durability.unconfirmed.push_back((id, last));
    }

    /// Notes that all writes up to `id` are durable.
    pub fn confirm_writes(&mut self, id: WriteId) {
        self.durability.confirm(id);
    }
}

/// Notes what the entry after `last` begins: a term, a membership. Then it is the last itself.
fn note_next(terms: &mut Terms, memberships: &mut MembershipStack, last: &mut EntryId, entry: &Entry) {
    assert!(entry.id.index == last.index.next(), "entries follow each other without a gap");
    assert!(entry.id.term >= last.term, "terms never fall along the log");
    if let Payload::Membership(membership) = &entry.payload {
        memberships.push(entry.id.index, membership.clone());
    }
    if entry.id.term > last.term {
        terms.append(entry.id);
    }
    *last = entry.id;
}

/// Which entries are durable. Told by the numbers of writes and not by entries, so that the late confirmation of an entry that was
/// cut off can't confirm its successor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Durability {
    durable_index: Index,
    /// Writes under way, with the last entry that each makes durable.
    unconfirmed: VecDeque<(WriteId, Index)>,
}

impl Durability {
    fn all_durable(last: Index) -> Self {
        Self { durable_index: last, unconfirmed: VecDeque::new() }
    }

    fn confirm(&mut self, id: WriteId) {
        while let Some(&(write, last)) = self.unconfirmed.front()
            && write <= id
        {
            self.durable_index = last;
            self.unconfirmed.pop_front();
        }
    }

    fn truncate(&mut self, from: Index) {
        let limit = from.prev();
        self.durable_index = self.durable_index.min(limit);
        for (_, last) in &mut self.unconfirmed {
            *last = limit.min(*last);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use alloc::collections::BTreeMap;
    use alloc::vec;
    use bytes::Bytes;
    use core::hash::{Hash, Hasher};
    use std::hash::DefaultHasher;

    use super::*;
    use crate::timer::Jitter;
    use crate::types::{Member, NodeId};

    /// The entry with this id: in all logs the same, as Raft promises. Each fourth or so holds a membership.
    fn entry(id: EntryId) -> Entry {
        let number = id.index.0 * 31 + id.term.0;
        let payload = match number % 4 {
            0 => {
                let members = BTreeMap::from([(NodeId(number), Member::default())]);
                Payload::Membership(Membership::of_voters(members).into())
            }
            1 => Payload::Noop,
            _ => Payload::Command(Bytes::from(vec![0; number as usize % 50])),
        };
        Entry { id, payload }
    }

    /// A log that takes the rules at their word: it compares entry by entry, forgets nothing, and keeps a copy of itself for each write.
    #[derive(Default)]
    struct Twin {
        /// The snapshot that the log begins after.
        snapshot: Snapshot,
        /// Each entry from 1 on, whether compacted or brought by a snapshot,
        /// with a number that no other has, so that one that was cut off is not taken for its like.
        entries: Vec<(EntryId, u64)>,
        appended: u64,
        commit: usize,
        disk: Vec<(EntryId, u64)>,
        writes: Vec<(WriteId, Vec<(EntryId, u64)>)>,
    }

    impl Twin {
        fn append(&mut self, id: EntryId) {
            self.appended += 1;
            self.entries.push((id, self.appended));
        }

        fn splice(&mut self, ids: &[EntryId]) -> Result<Spliced, EntryId> {
            let before = self.newest_membership();
            let mut spliced = Spliced::default();
            for &id in ids {
                let position = id.index.0 as usize - 1;
                match self.entries.get(position) {
                    Some((own, _)) if *own == id => continue,
                    Some((own, _)) if position < self.commit => return Err(*own),
                    Some(_) => {
                        self.entries.truncate(position);
                        spliced.truncated_from = Some(id.index);
                    }
                    None => (),
                }
                self.append(id);
                spliced.appended_from = spliced.appended_from.or(Some(id.index));
            }
            spliced.membership_changed = before != self.newest_membership();
            Ok(spliced)
        }

        fn confirm(&mut self, id: WriteId) {
            while self.writes.first().is_some_and(|(write, _)| *write <= id) {
                self.disk = self.writes.remove(0).1;
            }
        }

        /// How much of the log would survive a power loss.
        fn durable(&self) -> u64 {
            self.entries.iter().zip(&self.disk).take_while(|(a, b)| a == b).count() as u64
        }

        /// Takes all up to `last` from elsewhere.
        fn install(&mut self, last: EntryId) -> Option<Index> {
            let beyond = last.index.next();
            let truncated_from = (self.last().index >= beyond).then_some(beyond);
            self.entries.truncate(self.commit);
            while self.entries.len() < last.index.0 as usize {
                let index = Index(self.entries.len() as u64 + 1);
                self.append(EntryId::new(index, last.term));
            }
            self.commit = self.entries.len();
            self.snapshot = self.snapshot_at(self.commit);
            truncated_from
        }

        fn snapshot_at(&self, index: usize) -> Snapshot {
            let last = if index == 0 { EntryId::ZERO } else { self.entries[index - 1].0 };
            Snapshot { last, membership: self.membership(index) }
        }

        /// Whether the log knows the entry, or begins after it.
        fn knows(&self, id: EntryId) -> bool {
            id == self.snapshot.last
                || (id.index > self.snapshot.last.index && self.entries.iter().any(|own| own.0 == id))
        }

        /// The number of the entry whose membership is in force.
        fn newest_membership(&self) -> Option<u64> {
            let is_membership = |id| matches!(entry(id).payload, Payload::Membership(_));
            self.entries.iter().rev().find(|(id, _)| is_membership(*id)).map(|(_, number)| *number)
        }

        /// The membership in force among the first `end` entries.
        fn membership(&self, end: usize) -> Arc<Membership> {
            let payload = |&(id, _): &(EntryId, u64)| match entry(id).payload {
                Payload::Membership(membership) => Some(membership),
                Payload::Noop | Payload::Command(_) => None,
            };
            self.entries[..end].iter().rev().find_map(payload).unwrap_or_default()
        }

        /// The memberships from the committed one on.
        fn possible_memberships(&self) -> Vec<Arc<Membership>> {
            let mut memberships = vec![self.membership(self.commit)];
            let later = self.entries[self.commit..].iter().map(|(id, _)| entry(*id).payload);
            memberships.extend(later.filter_map(|payload| match payload {
                Payload::Membership(membership) => Some(membership),
                Payload::Noop | Payload::Command(_) => None,
            }));
            memberships
        }

        fn last(&self) -> EntryId {
            self.entries.last().map_or(EntryId::ZERO, |(id, _)| *id)
        }

        /// Ids that a leader could send, following one that is here: mostly those that are here as well.
        fn draw_continuation(&self, jitter: &mut Jitter) -> Vec<EntryId> {
            let base = self.snapshot.last.index.0 as u32;
            let start = jitter.draw(base..self.entries.len() as u32 + 1) as usize;
            let mut previous = if start == 0 { EntryId::ZERO } else { self.entries[start - 1].0 };
            let mut ids = Vec::new();
            for _ in 0..jitter.draw(0..6) {
                let own = self.entries.get(previous.index.0 as usize).map(|(id, _)| *id);
                let term = match own {
                    Some(id) if id.term >= previous.term && jitter.draw(0..8) > 0 => id.term,
                    _ => Term(previous.term.0.max(1) + u64::from(jitter.draw(0..2))),
                };
                previous = EntryId::new(previous.index.next(), term);
                ids.push(previous);
            }
            ids
        }
    }

    fn assert_same(log: &Log, twin: &Twin, jitter: &mut Jitter) {
        let base = twin.snapshot.last;
        let ids: Vec<EntryId> = twin.entries.iter().map(|(id, _)| *id).collect();
        let all: Vec<Entry> = ids.iter().copied().map(entry).collect();
        assert_eq!((log.base(), log.last()), (base, twin.last()));
        assert_eq!(*log.membership(), twin.membership(twin.entries.len()));
        assert!(log.possible_memberships().eq(&twin.possible_memberships()));
        assert_eq!(log.commit_index().0, twin.commit as u64);
        assert_eq!(log.durable_index().0, twin.durable());
        let uncommitted: u64 = all[twin.commit..].iter().map(Entry::size_bytes).sum();
        assert_eq!(log.uncommitted_bytes(), uncommitted);

        let id = EntryId::new(Index(jitter.draw(0..12).into()), Term(jitter.draw(0..6).into()));
        assert_eq!(log.contains(id), twin.knows(id));
        let known = ids.iter().filter(|own| own.index > base.index);
        let below = known.rev().find(|own| own.index <= id.index && own.term <= id.term);
        assert_eq!(log.last_not_above(id.index, id.term), *below.unwrap_or(&base));
        let snapshot =
            (id.index >= base.index && id.index <= twin.last().index).then(|| twin.snapshot_at(id.index.0 as usize));
        assert_eq!(log.snapshot_at(id.index), snapshot);
        assert_same_entries(log, &all, id.index, jitter.draw(0..300).into());
    }

    /// What is in memory reads as what was stored, and only what is committed and durable can have left.
    fn assert_same_entries(log: &Log, all: &[Entry], from: Index, max_bytes: u64) {
        let rest = all.get((from.0 as usize).wrapping_sub(1)..).unwrap_or_default();
        let Some(read) = log.entries(from, Index::LAST, max_bytes) else {
            let kept = log.commit_index().min(log.durable_index()).max(log.base().index);
            return assert!(from <= kept, "{from} has left memory too early");
        };
        assert_eq!(read[..], rest[..read.len()]);
        assert_eq!(read.is_empty(), rest.is_empty());
        assert!(read.is_empty() || log.holds_slice(from, &read));
        let bytes = |count: usize| rest[..count].iter().map(Entry::size_bytes).sum::<u64>();
        assert!(read.len() <= 1 || bytes(read.len()) <= max_bytes);
        assert!(read.len() == rest.len() || bytes(read.len() + 1) > max_bytes);
        assert_eq!(log.entries_from(from)[..], *rest);
    }

    /// Lets entries leave memory: as many as must, and no more.
    fn evict(log: &mut Log, max_bytes: u64) {
        let in_memory = |log: &Log| log.entries_from(log.recent.before().index.next());
        let bytes = |log: &Log| in_memory(log).iter().map(Entry::size_bytes).sum::<u64>();
        let before = in_memory(log).len();
        log.evict(max_bytes);
        let evictable = log.commit_index().min(log.durable_index());
        assert!(bytes(log) <= max_bytes || log.recent.before().index >= evictable, "it goes as far as it may");
        if in_memory(log).len() < before {
            assert!(
                bytes(log) + entry(log.recent.before()).size_bytes() > max_bytes,
                "it goes no further than it must"
            );
        }
    }

    /// A log that has stored the same and starts again, with only the last entries in memory.
    fn restored(twin: &Twin, in_memory: usize) -> Log {
        let base = twin.snapshot.last;
        let stored = twin.entries[base.index.0 as usize..].iter().map(|(id, _)| entry(*id));
        let mut older: Vec<Entry> = stored.collect();
        let entries = older.split_off(older.len().saturating_sub(in_memory));
        let mut terms: Vec<EntryId> = older.iter().map(|entry| entry.id).collect();
        terms.dedup_by_key(|id| id.term);
        let memberships = older.iter().filter_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some((entry.id.index, membership.clone())),
            Payload::Noop | Payload::Command(_) => None,
        });
        let last = older.last().map_or(Index::ZERO, |entry| entry.id.index);
        let older = OlderEntries { last, terms, memberships: memberships.collect() };
        Log::new(twin.snapshot.clone(), older, entries, Index(twin.commit as u64))
    }

    #[test]
    fn a_log_agrees_with_its_naive_twin() {
        let (mut cuts, mut refusals, mut installs) = (0, 0, 0);
        for seed in 0..1_500 {
            let mut jitter = Jitter::new(seed);
            let (mut log, mut twin) =
                (Log::new(Snapshot::default(), OlderEntries::default(), Vec::new(), Index::ZERO), Twin::default());
            let mut write = WriteId(0);
            for _ in 0..30 {
                match jitter.draw(0..14) {
                    10 => {
                        let index = jitter.draw(twin.snapshot.last.index.0 as u32..twin.commit as u32 + 1);
                        let snapshot = twin.snapshot_at(index as usize);
                        log.compact(&snapshot);
                        twin.snapshot = snapshot;
                    }
                    11 | 12 => evict(&mut log, jitter.draw(0..200).into()),
                    13 => {
                        let index = Index(twin.commit as u64 + 1 + u64::from(jitter.draw(0..4)));
                        let last = EntryId::new(index, Term(twin.last().term.0 + u64::from(jitter.draw(0..2))));
                        if !twin.knows(last) && jitter.draw(0..3) == 0 {
                            let truncated_from = twin.install(last);
                            assert_eq!(log.install(&twin.snapshot), truncated_from);
                            installs += 1;
                        }
                    }
                    0..5 => {
                        let ids = twin.draw_continuation(&mut jitter);
                        let result = log.splice(ids.iter().copied().map(entry).collect());
                        assert_eq!(result, twin.splice(&ids), "of {ids:?} in {:?}", twin.entries);
                        cuts += u32::from(result.is_ok_and(|spliced| spliced.truncated_from.is_some()));
                        refusals += u32::from(result.is_err());
                    }
                    5 => {
                        let last = twin.last();
                        let id = EntryId::new(last.index.next(), Term(last.term.0.max(1)));
                        log.append_own([entry(id)]);
                        twin.append(id);
                    }
                    6 => {
                        let index = jitter.draw(0..twin.entries.len() as u32 + 1) as usize;
                        log.commit_to(Index(index as u64));
                        twin.commit = twin.commit.max(index);
                    }
                    7 | 8 => {
                        write = write.next();
                        log.note_write(write);
                        twin.writes.push((write, twin.entries.clone()));
                    }
                    _ => {
                        let confirmed = WriteId(jitter.draw(0..write.0 as u32 + 2).into());
                        log.confirm_writes(confirmed);
                        twin.confirm(confirmed);
                    }
                }
                assert_same(&log, &twin, &mut jitter);
            }
        }
        assert!(cuts > 500 && refusals > 100, "{cuts} cuts and {refusals} refusals prove little");
        assert!(installs > 500, "{installs} installs prove little");
    }

    #[test]
    fn a_restored_log_agrees_with_its_naive_twin() {
        for seed in 0..1_000 {
            let mut jitter = Jitter::new(seed);
            let mut twin = Twin::default();
            if jitter.draw(0..2) == 0 {
                twin.install(EntryId::new(Index(3), Term(2)));
            }
            let begins = twin.entries.len();
            for _ in 0..jitter.draw(1..9) {
                let last = twin.last();
                twin.append(EntryId::new(last.index.next(), Term(last.term.0.max(1) + u64::from(jitter.draw(0..2)))));
            }
            twin.commit = jitter.draw(begins as u32..twin.entries.len() as u32 + 1) as usize;
            twin.disk = twin.entries.clone();
            let mut log = restored(&twin, jitter.draw(0..9) as usize);
            let unknown = log.base().index.0.max(log.recent.before().index.0) as usize;
            for _ in 0..10 {
                let ids = twin.draw_continuation(&mut jitter);
                assert_eq!(log.splice(ids.iter().copied().map(entry).collect()), twin.splice(&ids));
                // Of entries that were never in memory, the size is not known.
                if twin.commit >= unknown {
                    assert_same(&log, &twin, &mut jitter);
                }
                assert_eq!((log.last(), log.durable_index().0), (twin.last(), twin.durable()));
                assert_eq!(*log.membership(), twin.membership(twin.entries.len()));
            }
        }
    }

    /// A model checker takes equal states for one.
    #[test]
    fn equal_logs_are_equal_in_whatever_pieces_their_entries_came() {
        let ids: Vec<EntryId> = (1..=6).map(|index| EntryId::new(Index(index), Term(1))).collect();
        let log = |pieces: &[usize]| {
            let mut log = Log::new(Snapshot::default(), OlderEntries::default(), Vec::new(), Index::ZERO);
            let mut entries = ids.iter().copied().map(entry);
            pieces.iter().for_each(|&count| log.append(entries.by_ref().take(count).collect()));
            log
        };
        let (whole, mut parts) = (log(&[6]), log(&[1, 2, 3]));
        assert_eq!((&parts, hash(&parts)), (&whole, hash(&whole)));
        parts.splice([entry(EntryId::new(Index(6), Term(2)))].into_iter().collect()).unwrap();
        assert_ne!(parts, whole, "of as many entries, but others");
        assert_ne!(log(&[5]), whole);

        let [mut whole, mut parts] = [log(&[6]), log(&[4, 2])].map(|log| restarted(log, Index(3)));
        whole.compact(&whole.snapshot_at(Index(2)).unwrap());
        parts.compact(&parts.snapshot_at(Index(1)).unwrap());
        parts.compact(&parts.snapshot_at(Index(2)).unwrap());
        assert_eq!((&parts, hash(&parts)), (&whole, hash(&whole)));
        let restored = Log::new(
            whole.snapshot_at(Index(2)).unwrap(),
            OlderEntries::default(),
            whole.entries_from(Index(3)).to_vec(),
            Index(3),
        );
        assert_eq!((&restored, hash(&restored)), (&whole, hash(&whole)), "however many bytes were before them");
    }

    /// With all entries durable, and those up to `commit` committed.
    fn restarted(mut log: Log, commit: Index) -> Log {
        log.note_write(WriteId(1));
        log.confirm_writes(WriteId(1));
        log.commit_to(commit);
        log
    }

    fn hash(log: &Log) -> u64 {
        let mut hasher = DefaultHasher::new();
        log.hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn a_restored_log_is_durable() {
        let ids = [(1, 1), (2, 1), (3, 4)].map(|(index, term)| EntryId::new(Index(index), Term(term)));
        let log =
            Log::new(Snapshot::default(), OlderEntries::default(), ids.into_iter().map(entry).collect(), Index(2));
        assert_eq!((log.last(), log.durable_index(), log.commit_index()), (ids[2], Index(3), Index(2)));
    }
}
