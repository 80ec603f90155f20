//! A disk that keeps apart what is durable and what only was ordered.

use std::collections::VecDeque;

use raft_core::effect::Persist;
use raft_core::port::Stored;
use raft_core::types::WriteId;

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
