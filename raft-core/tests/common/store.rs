//! What a log store does at a start: it hands over the end of a long log.

use std::mem;

use raft_core::port::{OlderEntries, Stored};
use raft_core::types::{Entry, EntryId, Index, Payload, Term};

/// What a log store hands over that keeps all but the last `in_memory` entries to itself.
pub fn handing_over(mut stored: Stored, in_memory: Option<usize>) -> Stored {
    let kept = in_memory.unwrap_or(usize::MAX).min(stored.entries.len());
    let entries = stored.entries.split_off(stored.entries.len() - kept);
    Stored { older: describe(&stored.entries), entries, ..stored }
}

/// What is said of entries that are not handed over.
fn describe(entries: &[Entry]) -> OlderEntries {
    let mut term = Term(0);
    let begins_term = |id: &EntryId| mem::replace(&mut term, id.term) != id.term;
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
