//! Where terms begin in the log: what is known of an entry without holding it.

use alloc::vec::Vec;

use crate::types::{EntryId, Index, Term};

/// The terms of all entries of a log, in as much memory as there are terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Terms {
    /// The entry that the log begins after.
    base: EntryId,
    /// Each entry after `base` whose term is above its predecessor's.
    starts: Vec<EntryId>,
}

impl Terms {
    /// A log that begins after `base`, and has no entries yet.
    pub fn after(base: EntryId) -> Self {
        Self { base, starts: Vec::new() }
    }

    /// The entry that the log begins after.
    pub fn base(&self) -> EntryId {
        self.base
    }

    /// Adds an entry, or the first of several of one term.
    pub fn append(&mut self, id: EntryId) {
        let last_term = self.starts.last().map_or(self.base.term, |start| start.term);
        if id.term > last_term {
            self.starts.push(id);
        }
    }

    /// Forgets the entries from `from` on.
    pub fn truncate(&mut self, from: Index) {
        let keep = self.starts.partition_point(|start| start.index < from);
        self.starts.truncate(keep);
    }

    /// Forgets the entries up to `base`, which is one of them.
    pub fn compact(&mut self, base: EntryId) {
        self.starts.retain(|start| start.index > base.index);
        self.base = base;
    }

    /// The term of the entry at `index`, if that is not before the base. Beyond the last entry: the last term.
    pub fn at(&self, index: Index) -> Option<Term> {
        let begun = self.starts.partition_point(|start| start.index <= index);
        match begun.checked_sub(1) {
            Some(position) => Some(self.starts[position].term),
            None => (index >= self.base.index).then_some(self.base.term),
        }
    }

    /// The last entry whose index and term are not above those given; the base if there is none after it.
    pub fn last_not_above(&self, index: Index, term: Term) -> EntryId {
        let end = self.starts.partition_point(|start| start.index <= index && start.term <= term);
        let start = end.checked_sub(1).map_or(self.base, |position| self.starts[position]);
        // The run of one term ends where the next begins.
        let run_end = self.starts.get(end).map_or(index, |next| next.index.prev().min(index));
        if start.term > term { start } else { EntryId::new(run_end.max(start.index), start.term) }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::timer::Jitter;

    fn draw_id(jitter: &mut Jitter) -> EntryId {
        EntryId::new(Index(jitter.draw(0..30).into()), Term(jitter.draw(0..9).into()))
    }

    /// What the table says, told from the ids of all entries, the base first.
    fn assert_same(terms: &Terms, ids: &[EntryId], jitter: &mut Jitter) {
        let (base, last) = (ids[0], ids[ids.len() - 1]);
        assert_eq!(terms.base(), base);
        for index in (0..last.index.0 + 3).map(Index) {
            let at = ids.iter().find(|id| id.index == index).map(|id| id.term);
            let expected = if index > last.index { Some(last.term) } else { at };
            assert_eq!(terms.at(index), expected, "at {index} of {ids:?}");
        }
        let EntryId { index, term } = draw_id(jitter);
        let index = index.min(last.index);
        let below = ids.iter().rev().find(|id| id.index <= index && id.term <= term);
        assert_eq!(terms.last_not_above(index, term), *below.unwrap_or(&base), "not above {index}@{term} of {ids:?}");
    }

    #[test]
    fn the_table_agrees_with_a_list_of_all_ids() {
        for seed in 0..2_000 {
            let mut jitter = Jitter::new(seed);
            let base = if jitter.draw(0..2) == 0 { EntryId::ZERO } else { EntryId::new(Index(5), Term(2)) };
            let (mut terms, mut ids) = (Terms::after(base), vec![base]);
            for _ in 0..40 {
                let last = ids[ids.len() - 1];
                let position = jitter.draw(0..ids.len() as u32) as usize;
                match jitter.draw(0..8) {
                    0 => {
                        terms.truncate(ids[position].index.next());
                        ids.truncate(position + 1);
                    }
                    1 => {
                        terms.compact(ids[position]);
                        ids.drain(..position);
                    }
                    _ => {
                        let term = Term((last.term.0 + u64::from(jitter.draw(0..4)) / 3).max(1));
                        let id = EntryId::new(last.index.next(), term);
                        terms.append(id);
                        ids.push(id);
                    }
                }
                assert_same(&terms, &ids, &mut jitter);
                let starts = ids.windows(2).filter(|pair| pair[0].term < pair[1].term).count();
                assert_eq!(terms.starts.len(), starts, "no more than there are terms");
            }
        }
    }
}
