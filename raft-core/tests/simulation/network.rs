//! A network that loses, repeats, delays and reorders messages, and can be cut.

use std::collections::BTreeSet;

use raft_core::types::NodeId;

use crate::random::Random;
use crate::scenario::NetworkFaults;

/// What the network does to messages.
#[derive(Clone, Debug)]
pub struct Network {
    faults: NetworkFaults,
    /// Links that are cut, from a node to a node.
    cut: BTreeSet<(NodeId, NodeId)>,
}

impl Network {
    /// A network without partitions.
    pub fn new(faults: NetworkFaults) -> Self {
        Self { faults, cut: BTreeSet::new() }
    }

    /// After how long a message that is sent now arrives: once, several times, or never.
    pub fn delays(&self, random: &mut Random) -> Vec<u64> {
        if random.percent(self.faults.lost) {
            return Vec::new();
        }
        let copies = if random.percent(self.faults.repeated) { 2 } else { 1 };
        (0..copies).map(|_| self.delay(random)).collect()
    }

    fn delay(&self, random: &mut Random) -> u64 {
        let is_late = random.percent(self.faults.late);
        random.between(if is_late { self.faults.late_delay.clone() } else { self.faults.delay.clone() })
    }

    /// Whether a message from `from` reaches `to` at this moment.
    pub fn connects(&self, from: NodeId, to: NodeId) -> bool {
        !self.cut.contains(&(from, to))
    }

    /// Cuts these links, and mends all others.
    pub fn cut(&mut self, links: BTreeSet<(NodeId, NodeId)>) {
        self.cut = links;
    }

    /// Mends all links, and treats messages well from now on.
    pub fn calm_down(&mut self) {
        self.cut.clear();
        self.faults = NetworkFaults { delay: 5..20, lost: 0, repeated: 0, late: 0, ..self.faults.clone() };
    }
}
