//! A disk that takes its time: what is written survives a power loss only once it is durable.

use std::collections::VecDeque;

use raft_core::effect::Persist;
use raft_core::port::Stored;
use raft_core::types::{Entry, WriteId};

/// A node's disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// What a power loss leaves.
    durable: Image,
    /// What there is once all that was written is durable: the node's own view.
    written: Image,
    /// What makes the one into the other, oldest first.
    underway: VecDeque<Write>,
    /// The last write since power was there.
    last_write: WriteId,
}

/// What is on a disk, and what it stands for.
#[derive(Clone, Debug)]
pub struct Image {
    /// What a node finds there.
    pub stored: Stored,
    /// All entries from the first on, those in whose place a snapshot has come included.
    pub log: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Write {
    persist: Persist,
    /// Of an installed snapshot: the entries that it stands for.
    installed: Vec<Entry>,
}

impl Disk {
    /// A disk with this on it, durable.
    pub fn new(stored: Stored) -> Self {
        let image = Image { log: stored.entries.clone(), stored };
        Self { durable: image.clone(), written: image, underway: VecDeque::new(), last_write: WriteId::default() }
    }

    /// What a power loss leaves.
    pub fn durable(&self) -> &Image {
        &self.durable
    }

    /// What the node has written, durable or not.
    pub fn written(&self) -> &Image {
        &self.written
    }

    /// How many writes are not durable yet.
    pub fn underway(&self) -> usize {
        self.underway.len()
    }

    /// Takes a write, in a world where `committed` is committed. It becomes durable later.
    pub fn write(&mut self, persist: Persist, committed: &[Entry]) {
        assert_eq!(persist.id, self.last_write.next(), "writes are numbered without a gap");
        self.last_write = persist.id;
        let installed = persist.install.as_ref().map_or(0, |snapshot| snapshot.last.index.0 as usize);
        let write = Write { persist, installed: committed[..installed].to_vec() };
        self.written.carry_out(&write);
        self.underway.push_back(write);
    }

    /// Makes writes durable up to `id`.
    pub fn make_durable(&mut self, id: WriteId) {
        while self.underway.front().is_some_and(|write| write.persist.id <= id) {
            self.make_next_durable();
        }
    }

    /// Loses all writes under way but the first `kept`, which were just in time.
    pub fn lose_power(&mut self, kept: usize) {
        for _ in 0..kept {
            self.make_next_durable();
        }
        self.underway.clear();
        self.written = self.durable.clone();
        self.last_write = WriteId::default();
    }

    fn make_next_durable(&mut self) {
        let write = self.underway.pop_front().expect("a write is under way");
        self.durable.carry_out(&write);
    }
}

impl Image {
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
