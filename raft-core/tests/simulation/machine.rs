//! One machine of the cluster: its disk, its state machine, and the node that runs while there is power.

use raft_core::config::Config;
use raft_core::input::Input;
use raft_core::node::Node;
use raft_core::port::Stored;
use raft_core::status::Status;
use raft_core::types::{Entry, EntryId, Snapshot};

use crate::disk::Disk;
use crate::image::Image;
use crate::random::Random;
use crate::store::handing_over;

/// A machine.
#[derive(Clone, Debug)]
pub struct Machine {
    pub disk: Disk<Image>,
    /// Nothing while there is no power.
    pub node: Option<Node>,
    /// What has come for the node, and waits to be taken in together with what comes next.
    pub waiting: Vec<Input>,
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
            disk: Disk::new(Image::new(stored)),
            status: node.status(),
            node: Some(node),
            waiting: Vec::new(),
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
        self.waiting.clear();
        self.disk.lose_power(random.below(self.disk.underway() + 1));
        self.applied_durably += random.below(self.applied.len() - self.applied_durably + 1);
        self.applied.truncate(self.applied_durably);
    }

    /// The power is back: the node starts from what is durable.
    pub fn boot(&mut self, config: Config, random: &mut Random) {
        self.finish_install();
        let stored = handing_over(self.disk.durable().stored.clone(), random.pick(&[Some(0), Some(1), Some(3), None]));
        let node = Node::new(config, stored, self.applied()).expect("a node starts from whatever a power loss leaves");
        self.status = node.status();
        self.node = Some(node);
        self.life += 1;
    }
}
