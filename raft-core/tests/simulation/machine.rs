//! One machine of the cluster: its disk, its state machine, and the node that runs while there is power.

use raft_core::config::Config;
use raft_core::node::Node;
use raft_core::port::{OlderEntries, Stored};
use raft_core::status::Status;
use raft_core::types::{Entry, EntryId, Payload, Snapshot};

use crate::disk::Disk;
use crate::random::Random;

/// A machine.
#[derive(Clone, Debug)]
pub struct Machine {
    pub disk: Disk,
    /// Nothing while there is no power.
    pub node: Option<Node>,
    /// The node after its last step.
    pub status: Status,
    /// Counts the starts: what belongs to an earlier life of the node never reaches a later one.
    pub life: u64,
    /// What the state machine has applied, durable or not.
    applied: Vec<EntryId>,
    /// How much of it a power loss is sure to leave. The state may lag after one; it never tears.
    applied_durably: usize,
    /// The time between two ticks of this machine's clock.
    pub tick_time: u64,
    /// Until then it does nothing.
    pub paused_until: u64,
    /// When the last write under way becomes durable.
    pub disk_busy_until: u64,
}

impl Machine {
    /// A machine with a new node.
    pub fn new(config: Config, stored: Stored, tick_time: u64) -> Self {
        let node = Node::new(config, stored.clone(), EntryId::ZERO).expect("a new cluster starts");
        Self {
            disk: Disk::new(stored),
            status: node.status(),
            node: Some(node),
            life: 1,
            applied: Vec::new(),
            applied_durably: 0,
            tick_time,
            paused_until: 0,
            disk_busy_until: 0,
        }
    }

    /// The last entry that the state machine has applied.
    pub fn applied(&self) -> EntryId {
        self.applied.last().copied().unwrap_or_default()
    }

    /// Applies entries to the state machine.
    pub fn apply(&mut self, entries: &[Entry]) {
        self.applied.extend(entries.iter().map(|entry| entry.id));
    }

    /// The state up to `last` survives a power loss from now on.
    pub fn save(&mut self) {
        self.applied_durably = self.applied.len();
    }

    /// Replaces the state by a snapshot, durably.
    pub fn install(&mut self, snapshot: &Snapshot) {
        let included = &self.disk.durable().log[..snapshot.last.index.0 as usize];
        assert!(included.len() > self.applied.len(), "a snapshot adds to the state");
        self.applied = included.iter().map(|entry| entry.id).collect();
        self.save();
    }

    /// A snapshot that is recorded in the log but is not the state yet is installed at the start.
    fn finish_install(&mut self) {
        let snapshot = self.disk.durable().stored.snapshot.clone();
        if snapshot.last.index > self.applied().index {
            self.install(&snapshot);
        }
    }

    /// The power goes: the node is gone, with the writes and the state that were not durable yet. Each write under way may have made it.
    pub fn lose_power(&mut self, random: &mut Random) {
        self.node = None;
        self.disk.lose_power(random.below(self.disk.underway() + 1));
        self.applied_durably += random.below(self.applied.len() - self.applied_durably + 1);
        self.applied.truncate(self.applied_durably);
    }

    /// The power is back: the node starts from what is durable.
    pub fn boot(&mut self, config: Config, random: &mut Random) {
        self.finish_install();
        let stored = hand_over(self.disk.durable().stored.clone(), random.pick(&[0, 1, 3, usize::MAX]));
        let node = Node::new(config, stored, self.applied()).expect("a node starts from whatever a power loss leaves");
        self.status = node.status();
        self.node = Some(node);
        self.life += 1;
    }
}

/// What a store hands over that keeps only the last `kept` entries in memory, and knows of the others what a node must know.
fn hand_over(mut stored: Stored, kept: usize) -> Stored {
    let older = stored.entries.len().saturating_sub(kept);
    let mut last = stored.snapshot.last;
    for entry in stored.entries.drain(..older) {
        if stored.older.terms.is_empty() || entry.id.term > last.term {
            stored.older.terms.push(entry.id);
        }
        if let Payload::Membership(membership) = entry.payload {
            stored.older.memberships.push((entry.id.index, membership));
        }
        last = entry.id;
        stored.older = OlderEntries { last: entry.id.index, ..stored.older };
    }
    stored
}
