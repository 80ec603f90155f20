//! However nodes start, stop, lose their disks and move before they have begun: those that begin, begin one cluster.

use std::collections::BTreeMap;

use raft_core::types::{ClusterId, Incarnation, Member, NodeId};
use raft_store_sqlite::Contract;
use raft_transport_grpc::handshake::PROTOCOL;
use raftkv_server::begin::{Answer, Decision, Obstacle, Statement, decide};
use raftkv_server::peer::Peer;

/// Numbers that look random, from a seed.
struct Chance(u64);

impl Chance {
    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

struct Node {
    id: NodeId,
    peers: Vec<Peer>,
    is_up: bool,
    /// What it says of itself now.
    statement: Statement,
    /// What it stated when its round began, and the answers so far.
    round: Option<(Statement, Vec<Answer>)>,
    /// Decided, but not on its disk.
    decided: Option<Statement>,
    /// On its disk.
    begun: Option<Statement>,
    /// Whether the others have begun with the disk that it had before, so that a person must act.
    is_barred: bool,
}

impl Node {
    fn new(id: u64, size: u64, incarnation: u64) -> Self {
        let others = (1..=size).filter(|other| *other != id);
        let peers = others.map(|other| Peer { id: None, address: format!("localhost:{other}") }).collect();
        let statement = alone(NodeId(id), incarnation, "localhost");
        Self {
            id: NodeId(id),
            peers,
            is_up: true,
            statement,
            round: None,
            decided: None,
            begun: None,
            is_barred: false,
        }
    }

    fn stop(&mut self) {
        self.is_up = false;
        (self.round, self.decided) = (None, None);
    }

    /// Starts again, with what its disk holds: nothing, if it was wiped.
    fn start(&mut self, incarnation: u64, host: &str) {
        self.is_up = true;
        self.statement = match &self.begun {
            Some(begun) => begun.clone(),
            None => alone(self.id, incarnation, host),
        };
    }
}

fn alone(id: NodeId, incarnation: u64, host: &str) -> Statement {
    let member =
        Member { address: format!("{host}:{}", id.0), incarnation: Incarnation(incarnation), ..Member::default() };
    let (cluster, members) = (ClusterId::default(), [(id, member.clone())].into());
    Statement { protocol: PROTOCOL, id, member, cluster, members, complete: false, contract: Contract::default() }
}

struct World {
    nodes: BTreeMap<u64, Node>,
    chance: Chance,
    disks: u64,
}

impl World {
    fn new(size: u64, seed: u64) -> Self {
        let nodes = (1..=size).map(|id| (id, Node::new(id, size, id))).collect();
        Self { nodes, chance: Chance(seed), disks: size }
    }

    /// Something happens to a node.
    fn stir(&mut self) {
        let id = 1 + self.chance.below(self.nodes.len() as u64);
        let event = self.chance.below(9);
        let host = ["localhost", "127.0.0.1"][self.chance.below(2) as usize];
        let node = self.nodes.get_mut(&id).unwrap();
        let old_disk = node.statement.member.incarnation.0;
        match event {
            0 if node.is_up => node.stop(),
            1 if node.is_up => {
                node.stop();
                node.start(old_disk, host);
            }
            // Nobody wipes the disk of a node that has begun.
            2 if node.begun.is_none() => {
                self.disks += 1;
                node.stop();
                node.is_barred = false;
                node.start(self.disks, host);
            }
            3 if !node.is_up => node.start(old_disk, host),
            // Some nodes are fast, and others in the middle of something for long.
            _ => (0..self.chance.below(4)).for_each(|_| self.act(id)),
        }
    }

    /// A node does the next thing that it has to do: asks one peer, concludes a round, or writes to its disk.
    fn act(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        if !node.is_up || node.begun.is_some() {
            return;
        }
        if let Some(decided) = node.decided.take() {
            node.statement = decided.clone();
            node.begun = Some(decided);
            return;
        }
        let (own, answers) = node.round.take().unwrap_or_else(|| (node.statement.clone(), Vec::new()));
        match node.peers.get(answers.len()).map(|peer| peer.address.clone()) {
            Some(address) => self.ask(id, &address, own, answers),
            None => self.conclude(id, &own, &answers),
        }
    }

    fn ask(&mut self, id: u64, address: &str, own: Statement, mut answers: Vec<Answer>) {
        let (_, asked) = address.split_once(':').unwrap();
        let peer = &self.nodes[&asked.parse().unwrap()];
        answers.push(match peer.is_up {
            true => Answer::Stated(peer.statement.clone()),
            false => Answer::Silent("it is down".to_owned()),
        });
        self.nodes.get_mut(&id).unwrap().round = Some((own, answers));
    }

    fn conclude(&mut self, id: u64, own: &Statement, answers: &[Answer]) {
        let node = self.nodes.get_mut(&id).unwrap();
        match decide(own, &node.peers, answers) {
            Ok(Decision::Begin(beginning)) => {
                let first = beginning.stored.entries.first().map(|entry| entry.payload.clone());
                let Some(raft_core::types::Payload::Membership(membership)) = first else {
                    panic!("memberships do not change here, so the first is known")
                };
                let members = membership.members.clone();
                node.decided = Some(Statement { cluster: beginning.cluster, members, complete: true, ..own.clone() });
            }
            Ok(Decision::Continue { members, complete, obstacles }) => {
                node.is_barred = obstacles.iter().any(|obstacle| matches!(obstacle, Obstacle::OtherDisk { .. }));
                node.statement = Statement { members, complete, ..own.clone() };
            }
            Err(error) => panic!("no two nodes have one id here: {error}"),
        }
    }

    fn check(&self, seed: u64) {
        let mut begun = self.nodes.values().filter_map(|node| node.begun.as_ref());
        let Some(first) = begun.next() else { return };
        for other in begun {
            assert_eq!(first.cluster, other.cluster, "seed {seed}: {first:?} and {other:?}");
            assert_eq!(first.members, other.members, "seed {seed}");
        }
    }
}

#[test]
fn all_that_begin_begin_one_cluster_and_in_the_end_all_do() {
    let mut begun_early = 0;
    for seed in 0..8000 {
        let mut world = World::new([2, 2, 2, 3][seed as usize % 4], seed);
        for _ in 0..60 {
            world.stir();
            world.check(seed);
        }
        begun_early += world.nodes.values().filter(|node| node.begun.is_some()).count();
        for node in world.nodes.values_mut().filter(|node| !node.is_up) {
            node.start(node.statement.member.incarnation.0, "localhost");
        }
        for _ in 0..400 {
            let id = 1 + world.chance.below(world.nodes.len() as u64);
            world.act(id);
            world.check(seed);
        }
        for node in world.nodes.values() {
            assert!(node.begun.is_some() || node.is_barred, "seed {seed}: {} never begins", node.id);
        }
    }
    assert!(begun_early > 500, "the storm must reach beginnings, too: {begun_early}");
}

#[test]
fn only_a_node_whose_disk_was_wiped_late_needs_a_person() {
    for seed in 0..1000 {
        let mut world = World::new(3, seed);
        while world.nodes.values().any(|node| node.begun.is_none()) {
            let id = 1 + world.chance.below(3);
            world.act(id);
        }
        world.check(seed);
        assert!(world.nodes.values().all(|node| !node.is_barred), "seed {seed}");
    }
}
