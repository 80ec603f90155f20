//! A follower far behind is caught up in bounded memory, while the others go on.

#[path = "common/store.rs"]
mod store;

use std::collections::VecDeque;

use bytes::Bytes;
use raft_core::config::Config;
use raft_core::effect::{Effect, RoleKind};
use raft_core::input::Input;
use raft_core::membership::Membership;
use raft_core::message::{AppendEntries, Envelope, Message};
use raft_core::node::Node;
use raft_core::port::Stored;
use raft_core::types::{Entry, EntryId, Index, Member, NodeId, Payload, RequestId, Term};

/// How far the follower is behind. A million takes ten times as long and no more memory.
const ENTRIES: u64 = 100_000;
const LEADER: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);
const LATECOMER: NodeId = NodeId(3);

const MAX_APPEND_BYTES: u64 = 4_000;
const MAX_INFLIGHT_BYTES: u64 = 16_000;
const MAX_CACHED_BYTES: u64 = 8_000;
const MAX_APPLYING_BYTES: u64 = 8_000;
/// How large an entry counts.
const ENTRY_BYTES: u64 = 40;
/// How many ticks a proposal takes: to the peer, onto its disk, and back; the leader's own disk is as quick.
const COMMIT_TICKS: usize = 5;

/// A node whose disk keeps everything, and whose machine has at most a step of work before it.
struct Server {
    node: Node,
    stored: Stored,
    inputs: VecDeque<Input>,
    /// The bytes of entries that wait to be taken in, as messages or as what was read.
    waiting_bytes: u64,
    /// What the state machine was given and has not reported: the last entry, and the size.
    applying: VecDeque<(Index, u64)>,
}

struct Cluster {
    servers: [Server; 3],
}

fn membership() -> Membership {
    Membership::of_voters([LEADER, PEER, LATECOMER].map(|id| (id, Member::default())).into())
}

fn long_log() -> Stored {
    let command = |index| Entry {
        id: EntryId::new(Index(index), Term(1)),
        payload: Payload::Command(Bytes::from(vec![b'x'; 8])),
    };
    let mut stored = Stored::first(membership());
    stored.entries.extend((2..=ENTRIES).map(command));
    stored
}

fn size(entries: &[Entry]) -> u64 {
    entries.iter().map(Entry::size_bytes).sum()
}

/// The bytes of entries in an input.
fn bytes(input: &Input) -> u64 {
    match input {
        Input::Receive(Envelope { message: Message::AppendEntries(AppendEntries { entries, .. }), .. }) => {
            size(entries)
        }
        Input::Loaded { entries: Ok(entries), .. } => size(entries),
        _ => 0,
    }
}

impl Server {
    fn new(id: NodeId, stored: Stored, applied: u64) -> Self {
        let config = Config {
            max_append_bytes: MAX_APPEND_BYTES,
            max_inflight_bytes: MAX_INFLIGHT_BYTES,
            max_cached_bytes: MAX_CACHED_BYTES,
            max_applying_bytes: MAX_APPLYING_BYTES,
            snapshot_after_entries: u64::MAX,
            ..Config::new(id)
        };
        let applied = if applied == 0 { EntryId::ZERO } else { EntryId::new(Index(applied), Term(1)) };
        let handed_over = store::handing_over(stored.clone(), Some(10));
        let node = Node::new(config, handed_over, applied).expect("it starts");
        Self { node, stored, inputs: VecDeque::new(), waiting_bytes: 0, applying: VecDeque::new() }
    }

    fn push(&mut self, input: Input) {
        self.waiting_bytes += bytes(&input);
        self.inputs.push_back(input);
    }

    fn pop(&mut self) -> Option<Input> {
        let input = self.inputs.pop_front()?;
        self.waiting_bytes -= bytes(&input);
        if let Input::Applied(index) = &input {
            self.applying.retain(|(last, _)| last > index);
        }
        Some(input)
    }
}

impl Cluster {
    fn server(&mut self, id: NodeId) -> &mut Server {
        &mut self.servers[id.0 as usize - 1]
    }

    /// One tick passes, and each node takes in what has come by now. What that brings about comes with the next.
    fn tick(&mut self) {
        for id in [LEADER, PEER, LATECOMER] {
            self.server(id).push(Input::Tick);
            for _ in 0..self.server(id).inputs.len() {
                let input = self.server(id).pop().expect("it is there");
                self.step(id, input);
            }
        }
    }

    fn step(&mut self, id: NodeId, input: Input) {
        for effect in self.server(id).node.step(input) {
            self.carry_out(id, effect);
        }
        self.check_bounds();
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect) {
        match effect {
            Effect::Persist(write) => {
                self.server(id).stored.carry_out(&write);
                self.server(id).push(Input::Persisted(write.id));
            }
            Effect::Send(envelope) => {
                if let Message::AppendEntries(append) = &envelope.message {
                    assert!(size(&append.entries) <= MAX_APPEND_BYTES, "a message is bounded");
                }
                self.server(envelope.to).push(Input::Receive(envelope));
            }
            Effect::Load { from, max_bytes } => {
                let read = self.server(id).stored.read(from, max_bytes);
                self.server(id).push(Input::Loaded { from, entries: Ok(read) });
            }
            Effect::Apply(entries) => {
                let last = entries.last().expect("there is something to apply").id.index;
                let size = size(&entries);
                self.server(id).applying.push_back((last, size));
                self.server(id).push(Input::Applied(last));
            }
            Effect::Halt(violation) => panic!("{violation}"),
            _ => (),
        }
    }

    /// What is under way to a node or was read for it, and what its state machine has before it, stays within the limits.
    fn check_bounds(&self) {
        for Server { waiting_bytes, applying, .. } in &self.servers {
            let most = MAX_INFLIGHT_BYTES + MAX_APPEND_BYTES + MAX_APPLYING_BYTES;
            assert!(*waiting_bytes <= most, "{waiting_bytes} bytes wait to be taken in");
            let applying: u64 = applying.iter().map(|(_, size)| size).sum();
            assert!(applying <= MAX_APPLYING_BYTES + ENTRY_BYTES, "{applying} bytes wait to be applied");
        }
    }

    /// What nodes hold in memory, told by the length of what they print.
    fn check_memory(&self) {
        for Server { node, .. } in &self.servers {
            let length = format!("{node:?}").len() as u64;
            let entries_in_memory = (MAX_CACHED_BYTES + MAX_INFLIGHT_BYTES + 2 * MAX_APPEND_BYTES) / ENTRY_BYTES;
            assert!(length < 10_000 + 250 * entries_in_memory, "a node prints {length} bytes");
        }
    }

    fn leader(&self) -> Option<NodeId> {
        let leads = |server: &&Server| server.node.status().role == RoleKind::Leader;
        self.servers.iter().find(leads).map(|server| server.node.status().id)
    }

    fn commit_index(&self, id: NodeId) -> Index {
        self.servers[id.0 as usize - 1].node.status().commit_index
    }
}

#[test]
fn a_follower_far_behind_is_caught_up_in_bounded_memory_while_the_others_go_on() {
    let mut cluster = Cluster {
        servers: [
            Server::new(LEADER, long_log(), ENTRIES),
            Server::new(PEER, long_log(), ENTRIES),
            Server::new(LATECOMER, Stored::first(membership()), 0),
        ],
    };
    while cluster.leader().is_none() {
        cluster.tick();
    }
    let leader = cluster.leader().expect("there is one now");
    let mut proposed = VecDeque::new();
    let mut ticks = 0;
    while cluster.commit_index(LATECOMER) < Index(ENTRIES) {
        ticks += 1;
        proposed.push_back(cluster.servers[leader.0 as usize - 1].node.status().last_index.next());
        cluster.step(leader, Input::Propose { id: RequestId(ticks), commands: vec![Bytes::from_static(b"x")] });
        cluster.tick();
        if proposed.len() > COMMIT_TICKS {
            let index = proposed.pop_front().expect("there are some");
            assert!(cluster.commit_index(leader) >= index, "{index} waits for more than {COMMIT_TICKS} ticks");
        }
        if ticks % 200 == 0 {
            cluster.check_memory();
        }
    }
    let round_trips = ENTRIES * ENTRY_BYTES / MAX_INFLIGHT_BYTES;
    assert!(ticks < 10 * round_trips, "{ticks} ticks for {round_trips} windows");
}
