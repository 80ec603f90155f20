//! What a node starts from: the last entries, and of those before them what it must know.

use std::collections::VecDeque;

use raft_core::port::OlderEntries;
use raft_core::types::{Entry, EntryId, Index, Payload};

use super::batches::missing;
use crate::error::Error;

/// Is shown all entries in order, and keeps the last that have together at most so many bytes.
pub(super) struct Loader {
    max_bytes: u64,
    /// The entry before the first, then the last one that was shown.
    last: EntryId,
    older: OlderEntries,
    recent: VecDeque<Entry>,
    recent_bytes: u64,
}

impl Loader {
    pub(super) fn new(before: EntryId, max_bytes: u64) -> Self {
        let (older, recent) = (OlderEntries::default(), VecDeque::new());
        Self { max_bytes, last: before, older, recent, recent_bytes: 0 }
    }

    pub(super) fn take(&mut self, entry: Entry) -> Result<(), Error> {
        if entry.id.term < self.last.term {
            let what = "its term is lower than that of an earlier one".into();
            return Err(Error::Damaged { index: entry.id.index, what });
        }
        self.last = entry.id;
        self.recent_bytes = self.recent_bytes.saturating_add(entry.size_bytes());
        self.recent.push_back(entry);
        while self.recent_bytes > self.max_bytes
            && let Some(oldest) = self.recent.pop_front()
        {
            self.recent_bytes -= oldest.size_bytes();
            self.let_go(oldest);
        }
        Ok(())
    }

    fn let_go(&mut self, Entry { id, payload }: Entry) {
        if self.older.terms.last().is_none_or(|last| last.term < id.term) {
            self.older.terms.push(id);
        }
        if let Payload::Membership(membership) = payload {
            self.older.memberships.push((id.index, membership));
        }
        self.older.last = id.index;
    }

    /// What there is, if the last entry that was shown is the one there must be.
    pub(super) fn finish(self, last: Index) -> Result<(OlderEntries, Vec<Entry>), Error> {
        if self.last.index != last {
            return Err(missing(self.last.index.next()));
        }
        Ok((self.older, self.recent.into()))
    }
}
