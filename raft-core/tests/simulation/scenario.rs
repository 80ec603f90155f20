//! What a run is like: the size of the cluster, its settings, and which faults it meets how often. All drawn from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use raft_core::config::Config;
use raft_core::membership::Membership;
use raft_core::types::{Member, NodeId};

use crate::random::Random;

/// Moments in a tick of a node whose clock is right. All times are in moments.
pub const TICK: u64 = 100;

/// Everything about a run that does not change on the way.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub membership: Membership,
    pub config: Config,
    /// How long the faults go on.
    pub storm: u64,
    pub network: NetworkFaults,
    /// How long a write takes to become durable.
    pub write_time: Range<u64>,
    /// How many inputs in a hundred wait for the next, to be taken in with it.
    pub gathered: u64,
    /// The time between two crashes, partitions or pauses, and how long each lasts.
    pub fault_pause: Range<u64>,
    pub fault_time: Range<u64>,
    /// Which faults there are, each as often as it is named.
    pub faults: Vec<Fault>,
    /// The time between two requests of clients.
    pub request_pause: Range<u64>,
    /// The time between two requests of operators.
    pub operation_pause: Range<u64>,
    /// Nodes that are there, but no members at first.
    pub spares: u64,
}

/// What happens to single messages.
#[derive(Clone, Debug)]
pub struct NetworkFaults {
    /// How long a message is under way.
    pub delay: Range<u64>,
    /// How many in a hundred are lost, are repeated, and come very late.
    pub lost: u64,
    pub repeated: u64,
    pub late: u64,
    pub late_delay: Range<u64>,
}

/// What happens to nodes and links.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// A node loses power, and comes back.
    Crash,
    /// All nodes lose power at once.
    Blackout,
    /// Two groups of nodes don't reach each other.
    Split,
    /// One node can't reach the others, or can't be reached by them, or both.
    Isolate,
    /// Some directed links are cut, at random.
    CutLinks,
    /// A node does nothing for a while, and then finds all that has come for it.
    Pause,
}

impl Scenario {
    /// The scenario of a seed.
    pub fn draw(random: &mut Random) -> Self {
        let mood = random.pick(&Mood::ALL);
        let few_bytes = [1, 100, 1_000, 1 << 20];
        let election_timeout_ticks = random.pick(&[6, 10, 15]);
        // Clocks are up to a fifth too fast, and the first of so many ticks may come at once.
        let lease = u64::from(election_timeout_ticks - 1) * TICK * 8 / 10;
        let config = Config {
            election_timeout_ticks,
            lease: random.pick(&[None, Some(lease)]),
            heartbeat_ticks: random.pick(&[1, 2, 3]),
            max_append_bytes: random.pick(&few_bytes),
            max_inflight_messages: random.pick(&[1, 2, 64]),
            max_inflight_bytes: random.pick(&few_bytes),
            max_uncommitted_bytes: random.pick(&[200, 2_000, 1 << 20]),
            max_cached_bytes: random.pick(&[0, 300, 1 << 20]),
            max_applying_bytes: random.pick(&[0, 300, 1 << 20]),
            snapshot_after_entries: random.pick(&[1, 5, 20, 100_000]),
            kept_entries: random.pick(&[0, 1, 5, 30]),
            ..Config::new(NodeId(1))
        };
        Self {
            membership: draw_membership(random),
            config,
            storm: mood.storm(random),
            network: mood.network(random),
            write_time: mood.write_time(),
            gathered: random.pick(&[0, 20, 70]),
            fault_pause: mood.fault_pause(random),
            fault_time: mood.fault_time(random),
            faults: mood.faults(),
            request_pause: mood.request_pause(random),
            operation_pause: TICK..random.pick(&[5, 20, 60, 100_000]) * TICK,
            spares: random.pick(&[0, 1, 2]),
        }
    }

    /// A cluster of `nodes` voters without any faults but those that a test brings about.
    pub fn quiet(nodes: u64) -> Self {
        let members = (1..=nodes).map(|id| (NodeId(id), Member::default())).collect();
        Self {
            membership: Membership::of_voters(members),
            config: Config { election_timeout_ticks: 10, heartbeat_ticks: 3, ..Config::new(NodeId(1)) },
            storm: 0,
            network: NetworkFaults { delay: 5..50, lost: 0, repeated: 0, late: 0, late_delay: 1..2 },
            write_time: 1..20,
            gathered: 0,
            fault_pause: TICK..2 * TICK,
            fault_time: TICK..2 * TICK,
            faults: Vec::new(),
            request_pause: TICK..2 * TICK,
            operation_pause: TICK..2 * TICK,
            spares: 0,
        }
    }

    /// The longest time between two elections that a node may draw.
    pub fn longest_election_timeout(&self) -> u64 {
        u64::from(self.config.election_timeout_ticks) * 2 * TICK
    }
}

/// What a run is mostly about. Several narrow kinds find more than one that mixes all (a mix dulls each of its parts).
#[derive(Clone, Copy, Debug)]
enum Mood {
    /// Messages that are lost, repeated and late.
    Network,
    /// Nodes that come and go.
    Crashes,
    /// Elections, one after the other, with few entries in each term.
    Elections,
    Partitions,
    /// Leaders that fall asleep and wake up, with messages that are late.
    Pauses,
    SlowDisks,
    Everything,
}

impl Mood {
    const ALL: [Self; 7] = [
        Self::Network,
        Self::Crashes,
        Self::Elections,
        Self::Partitions,
        Self::Pauses,
        Self::SlowDisks,
        Self::Everything,
    ];

    fn network(self, random: &mut Random) -> NetworkFaults {
        let quick = 5..random.pick(&[20, 150]);
        let calm = NetworkFaults { delay: quick, lost: 0, repeated: 0, late: 0, late_delay: TICK..10 * TICK };
        match self {
            Self::SlowDisks => calm,
            Self::Pauses => NetworkFaults { late: 20, late_delay: TICK..30 * TICK, ..calm },
            Self::Crashes | Self::Elections | Self::Partitions => {
                NetworkFaults { lost: 2, repeated: 2, late: 2, ..calm }
            }
            Self::Network | Self::Everything => NetworkFaults {
                delay: 5..random.pick(&[100, 3 * TICK]),
                lost: random.pick(&[1, 10, 30]),
                repeated: random.pick(&[1, 20]),
                late: random.pick(&[1, 10]),
                late_delay: TICK..40 * TICK,
            },
        }
    }

    fn write_time(self) -> Range<u64> {
        match self {
            Self::Network | Self::Partitions | Self::Pauses => 1..20,
            Self::Crashes | Self::Elections => 10..2 * TICK,
            Self::SlowDisks | Self::Everything => 10..8 * TICK,
        }
    }

    /// Elections take the time in which others get much done.
    fn storm(self, random: &mut Random) -> u64 {
        let storm = random.between(100..400) * TICK;
        if matches!(self, Self::Elections) { 3 * storm } else { storm }
    }

    fn fault_time(self, random: &mut Random) -> Range<u64> {
        match self {
            Self::Elections => TICK..15 * TICK,
            _ => TICK..random.pick(&[10, 40]) * TICK,
        }
    }

    fn fault_pause(self, random: &mut Random) -> Range<u64> {
        match self {
            Self::Elections => TICK..15 * TICK,
            _ => 5 * TICK..random.pick(&[20, 60]) * TICK,
        }
    }

    fn request_pause(self, random: &mut Random) -> Range<u64> {
        match self {
            Self::Elections => 10..30 * TICK,
            _ => 10..random.pick(&[100, 400]),
        }
    }

    fn faults(self) -> Vec<Fault> {
        use Fault::{Blackout, Crash, CutLinks, Isolate, Pause, Split};
        match self {
            Self::Network => vec![Pause],
            Self::Crashes => vec![Crash, Crash, Crash, Crash, Isolate, Blackout],
            Self::Elections => vec![Crash, Crash, Crash, Isolate, CutLinks],
            Self::Pauses => vec![Pause, Pause, Pause, Isolate],
            Self::Partitions => vec![Split, Isolate, Isolate, CutLinks, CutLinks, Pause],
            Self::SlowDisks => vec![Crash, Crash, Isolate, Pause],
            Self::Everything => vec![Crash, Crash, Blackout, Split, Isolate, CutLinks, Pause],
        }
    }
}

/// Mostly 3, 5 or 7 voters, also one or an even number; now and then a learner besides, or a joint configuration (§6).
fn draw_membership(random: &mut Random) -> Membership {
    let nodes = |ids: Range<u64>| ids.map(NodeId).collect::<BTreeSet<_>>();
    let (voters, outgoing, learners) = match random.below(12) {
        0 => (nodes(1..2), nodes(0..0), nodes(0..0)),
        1 => (nodes(1..3), nodes(0..0), nodes(0..0)),
        2..6 => (nodes(1..4), nodes(0..0), nodes(0..0)),
        6 => (nodes(1..5), nodes(0..0), nodes(0..0)),
        7 | 8 => (nodes(1..6), nodes(0..0), nodes(0..0)),
        9 => (nodes(1..8), nodes(0..0), nodes(0..0)),
        10 => (nodes(1..4), nodes(0..0), nodes(4..5)),
        _ => (nodes(1..4), nodes(3..6), nodes(0..0)),
    };
    let all = voters.iter().chain(&outgoing).chain(&learners);
    let members = all.map(|&id| (id, Member::default())).collect::<BTreeMap<_, _>>();
    let stays_joint = !outgoing.is_empty() && random.percent(50);
    Membership { voters, outgoing, learners, members, stays_joint, ..Membership::default() }
}
