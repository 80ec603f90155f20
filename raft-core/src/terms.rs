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
