//! A disk that keeps apart what is durable and what only was ordered.

use std::collections::VecDeque;

use raft_core::effect::Persist;
use raft_core::port::{OlderEntries, Stored};
use raft_core::types::{Entry, EntryId, Index, Payload, Term, WriteId};

/// A node's disk. A crash loses what was not confirmed.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    durable: Stored,
    unconfirmed: VecDeque<Persist>,
    /// Whether writes wait for [`Disk::confirm`] rather than being durable at once.
    pub is_held: bool,
}

impl Disk {
    /// A disk that holds `stored`.
    pub fn new(stored: Stored) -> Self {
        Self { durable: stored, ..Self::default() }
    }

    /// What a node would start from now.
    pub fn durable(&self) -> &Stored {
        &self.durable
    }

    /// Takes an order to write.
    pub fn write(&mut self, persist: Persist) {
        self.unconfirmed.push_back(persist);
    }

    /// The last write that is not durable yet.
    pub fn last_unconfirmed(&self) -> Option<WriteId> {
        self.unconfirmed.back().map(|persist| persist.id)
    }

    /// Makes all writes up to `id` durable.
    pub fn confirm(&mut self, id: WriteId) {
        while self.unconfirmed.front().is_some_and(|persist| persist.id <= id) {
            let persist = self.unconfirmed.pop_front().expect("there is one");
            self.durable.carry_out(&persist);
        }
    }

    /// Loses what is not durable.
    pub fn lose_unconfirmed(&mut self) {
        self.unconfirmed.clear();
        self.is_held = false;
    }
}

/// What a log store hands over that keeps all but the last `in_memory` entries to itself.
pub fn handing_over(mut stored: Stored, in_memory: Option<usize>) -> Stored {
    let kept = in_memory.unwrap_or(usize::MAX).min(stored.entries.len());
    let entries = stored.entries.split_off(stored.entries.len() - kept);
    Stored { older: describe(&stored.entries), entries, ..stored }
}

/// What is said of entries that are not handed over.
fn describe(entries: &[Entry]) -> OlderEntries {
    let mut term = Term(0);
    let begins_term = |id: &EntryId| std::mem::replace(&mut term, id.term) != id.term;
    let membership = |entry: &Entry| match &entry.payload {
        Payload::Membership(membership) => Some((entry.id.index, membership.clone())),
        Payload::Noop | Payload::Command(_) => None,
    };
    OlderEntries {
        last: entries.last().map_or(Index::ZERO, |entry| entry.id.index),
        terms: entries.iter().map(|entry| entry.id).filter(begins_term).collect(),
        memberships: entries.iter().filter_map(membership).collect(),
    }
}

/// Reads entries as a log store does: at least one, if there is one, and then as many as fit in `max_bytes`.
pub fn read(stored: &Stored, from: Index, max_bytes: u64) -> Vec<Entry> {
    let mut bytes = 0;
    let from_there = stored.entries.iter().skip_while(|entry| entry.id.index < from);
    let fits = |entry: &&Entry| {
        let is_first = entry.id.index == from;
        bytes += entry.size_bytes();
        is_first || (bytes <= max_bytes && entry.id.index > from)
    };
    from_there.take_while(fits).cloned().collect()
}
