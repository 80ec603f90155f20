//! A disk that takes its time: what is written survives a power loss only once it is durable.

use std::collections::VecDeque;

use raft_core::effect::Persist;
use raft_core::port::Stored;
use raft_core::types::WriteId;

/// What is on a disk.
pub trait Content: Clone {
    /// What makes one content into the next.
    type Write;

    /// Carries out a write.
    fn carry_out(&mut self, write: &Self::Write);
}

impl Content for Stored {
    type Write = Persist;

    fn carry_out(&mut self, write: &Persist) {
        Self::carry_out(self, write);
    }
}

/// A node's disk.
#[derive(Clone, Debug)]
pub struct Disk<C: Content> {
    /// What a power loss leaves.
    durable: C,
    /// What there is once all that was written is durable: the node's own view.
    written: C,
    /// What makes the one into the other, oldest first.
    underway: VecDeque<(WriteId, C::Write)>,
    /// The last write since power was there.
    last_write: WriteId,
}

impl<C: Content> Disk<C> {
    /// A disk with this on it, durable.
    pub fn new(content: C) -> Self {
        Self { durable: content.clone(), written: content, underway: VecDeque::new(), last_write: WriteId::default() }
    }

    /// What a power loss leaves.
    pub fn durable(&self) -> &C {
        &self.durable
    }

    /// What the node has written, durable or not.
    pub fn written(&self) -> &C {
        &self.written
    }

    /// How many writes are not durable yet.
    pub fn underway(&self) -> usize {
        self.underway.len()
    }

    /// Takes write `id`. It becomes durable later.
    pub fn write(&mut self, id: WriteId, write: C::Write) {
        assert_eq!(id, self.last_write.next(), "writes are numbered without a gap");
        self.last_write = id;
        self.written.carry_out(&write);
        self.underway.push_back((id, write));
    }

    /// Makes writes durable up to `id`.
    pub fn make_durable(&mut self, id: WriteId) {
        while self.underway.front().is_some_and(|(write, _)| *write <= id) {
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
        let (_, write) = self.underway.pop_front().expect("a write is under way");
        self.durable.carry_out(&write);
    }
}
