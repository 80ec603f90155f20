//! What is on a disk of the simulation, and what it stands for.

use raft_core::effect::Persist;
use raft_core::port::Stored;
use raft_core::types::Entry;

use crate::disk::Content;

/// What is on a disk.
#[derive(Clone, Debug)]
pub struct Image {
    /// What a node finds there.
    pub stored: Stored,
    /// All entries from the first on, those in whose place a snapshot has come included.
    pub log: Vec<Entry>,
}

/// A write, in a world that knows what snapshots stand for.
#[derive(Clone, Debug)]
pub struct Write {
    persist: Persist,
    /// Of an installed snapshot: the entries that it stands for.
    installed: Vec<Entry>,
}

impl Image {
    /// What is there of a log that is whole.
    pub fn new(stored: Stored) -> Self {
        Self { log: stored.entries.clone(), stored }
    }
}

impl Write {
    /// A write where `committed` is committed.
    pub fn new(persist: Persist, committed: &[Entry]) -> Self {
        let installed = persist.install.as_ref().map_or(0, |snapshot| snapshot.last.index.0 as usize);
        Self { persist, installed: committed[..installed].to_vec() }
    }
}

impl Content for Image {
    type Write = Write;

    fn carry_out(&mut self, Write { persist, installed }: &Write) {
        self.stored.carry_out(persist);
        if let Some(from) = persist.truncate_from {
            self.log.truncate(from.prev().0 as usize);
        }
        if persist.install.is_some() {
            self.log.clone_from(installed);
        }
        self.log.extend_from_slice(&persist.entries);
        let kept = self.log.len() - self.stored.entries.len();
        assert_eq!(self.log[kept..], self.stored.entries, "a disk holds the end of the log");
        assert_eq!(self.stored.snapshot.last.index.0 as usize, kept, "a snapshot stands for the rest");
    }
}
