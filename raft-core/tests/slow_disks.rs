//! Elections where every disk takes its time, on a clock of ticks: slow disks may delay a leader, but not prevent one.

use std::collections::{BTreeMap, VecDeque};

use raft_core::config::Config;
use raft_core::effect::{Effect, RoleKind};
use raft_core::input::Input;
use raft_core::membership::Membership;
use raft_core::node::Node;
use raft_core::port::Stored;
use raft_core::types::{EntryId, Member, NodeId, RequestId, WriteId};

/// How many ticks a message takes.
const NETWORK_TICKS: u64 = 1;

/// A node whose disk does one write at a time, for all that has queued up.
struct Server {
    node: Node,
    queued: Option<WriteId>,
    busy_until: u64,
}

/// A cluster whose disks take `disk_ticks` for a write.
struct Cluster {
    servers: BTreeMap<NodeId, Server>,
    disk_ticks: u64,
    now: u64,
    /// What happens when, in the order in which it was caused.
    due: BTreeMap<(u64, u64), (NodeId, Input)>,
    caused: u64,
    leaders: usize,
}

impl Cluster {
    fn new(nodes: u64, disk_ticks: u64, seed: u64) -> Self {
        let membership = Membership::of_voters((1..=nodes).map(|id| (NodeId(id), Member::default())).collect());
        let server = |id: NodeId| {
            let config = Config { seed: seed * 100 + id.0, ..Config::new(id) };
            let node = Node::new(config, Stored::first(membership.clone()), EntryId::ZERO).unwrap();
            (id, Server { node, queued: None, busy_until: 0 })
        };
        let servers = membership.nodes().map(server).collect();
        Self { servers, disk_ticks, now: 0, due: BTreeMap::new(), caused: 0, leaders: 0 }
    }

    fn tick(&mut self) {
        self.now += 1;
        let mut inputs: VecDeque<_> = self.servers.keys().map(|id| (*id, Input::Tick)).collect();
        while let Some(due) = self.due.first_entry().filter(|due| due.key().0 <= self.now) {
            inputs.push_back(due.remove());
        }
        for (id, input) in inputs {
            for effect in self.servers.get_mut(&id).unwrap().node.step(input) {
                self.carry_out(id, effect);
            }
        }
        for id in self.servers.keys().copied().collect::<Vec<_>>() {
            self.write(id);
        }
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect) {
        match effect {
            Effect::Persist(write) => self.servers.get_mut(&id).unwrap().queued = Some(write.id),
            Effect::Send(envelope) => self.schedule(NETWORK_TICKS, envelope.to, Input::Receive(envelope)),
            Effect::Became { role: RoleKind::Leader, .. } => self.leaders += 1,
            _ => (),
        }
    }

    fn write(&mut self, id: NodeId) {
        let (now, disk_ticks) = (self.now, self.disk_ticks);
        let server = self.servers.get_mut(&id).unwrap();
        if server.busy_until <= now
            && let Some(write) = server.queued.take()
        {
            server.busy_until = now + disk_ticks;
            self.schedule(disk_ticks, id, Input::Persisted(write));
        }
    }

    fn schedule(&mut self, ticks: u64, to: NodeId, input: Input) {
        self.caused += 1;
        self.due.insert((self.now + ticks, self.caused), (to, input));
    }

    /// The ticks until there is a leader, if there is one in time.
    fn elect(&mut self, within_ticks: u64) -> Option<u64> {
        (0..within_ticks).find(|_| {
            self.tick();
            self.leaders > 0
        })
    }
}

#[test]
fn disks_slower_than_an_election_timeout_delay_a_leader_but_prevent_none() {
    for nodes in [3, 5] {
        // Elections time out after 15 to 30 ticks.
        for disk_ticks in [1, 10, 15, 20, 30, 60, 100] {
            for seed in 0..20 {
                let elected = Cluster::new(nodes, disk_ticks, seed).elect(10_000);
                assert!(elected.is_some(), "{nodes} nodes, disks of {disk_ticks} ticks, seed {seed}");
            }
        }
    }
}

#[test]
fn a_leader_on_slow_disks_stays() {
    for disk_ticks in [20, 60] {
        for seed in 0..10 {
            let mut cluster = Cluster::new(3, disk_ticks, seed);
            let elected = cluster.elect(10_000);
            assert!(elected.is_some(), "disks of {disk_ticks} ticks, seed {seed}");
            // An election that was under way may end this leader's term, but in the end nobody stands any more.
            (0..1000).for_each(|_| cluster.tick());
            let before = cluster.leaders;
            (0..1000).for_each(|_| cluster.tick());
            assert_eq!(cluster.leaders, before, "disks of {disk_ticks} ticks, seed {seed}");
        }
    }
}

#[test]
fn a_leader_whose_disk_stands_still_makes_way() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(3, 1, seed);
        cluster.elect(1000).unwrap();
        (0..50).for_each(|_| cluster.tick());
        let leads = |cluster: &Cluster, id: NodeId| cluster.servers[&id].node.status().role == RoleKind::Leader;
        let stalled = cluster.servers.keys().copied().find(|id| leads(&cluster, *id)).unwrap();
        cluster.servers.get_mut(&stalled).unwrap().busy_until = u64::MAX;
        cluster.schedule(1, stalled, Input::Propose { id: RequestId(1), commands: vec!["set x=1".into()] });
        // Ten to twenty election timeouts until it gives up, and an election.
        (0..500).for_each(|_| cluster.tick());
        assert!(!leads(&cluster, stalled), "seed {seed}");
        assert!(cluster.servers.keys().any(|id| leads(&cluster, *id)), "seed {seed}: another one leads");
    }
}
