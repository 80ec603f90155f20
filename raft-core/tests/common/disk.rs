//! A disk that takes its time: what is written survives a power loss only once it is durable.

use std::collections::VecDeque;

use raft_core::effect::Persist;
use raft_core::port::Stored;
use raft_core::types::WriteId;

/// A node's disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// What a power loss leaves.
    durable: Stored,
    /// What there is once all that was written is durable: the node's own view.
    written: Stored,
    /// What makes the one into the other, oldest first.
    underway: VecDeque<Persist>,
    /// The last write since power was there.
    last_write: WriteId,
}

impl Disk {
    /// A disk with this on it, durable.
    pub fn new(stored: Stored) -> Self {
        Self { durable: stored.clone(), written: stored, underway: VecDeque::new(), last_write: WriteId::default() }
    }

    /// What a power loss leaves.
    pub fn durable(&self) -> &Stored {
        &self.durable
    }

    /// What the node has written, durable or not.
    pub fn written(&self) -> &Stored {
        &self.written
    }

    /// How many writes are not durable yet.
    pub fn underway(&self) -> usize {
        self.underway.len()
    }

    /// Takes a write. It becomes durable later.
    pub fn write(&mut self, write: Persist) {
        assert_eq!(write.id, self.last_write.next(), "writes are numbered without a gap");
        self.last_write = write.id;
        self.written.carry_out(&write);
        self.underway.push_back(write);
    }

    /// Makes writes durable up to `id`.
    pub fn make_durable(&mut self, id: WriteId) {
        while self.underway.front().is_some_and(|write| write.id <= id) {
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
