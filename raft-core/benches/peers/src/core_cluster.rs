//! Three nodes of raft-core.

use std::iter::Chain;
use std::mem;
use std::option::IntoIter;

use raft_core::config::Config;
use raft_core::effect::{Effect, Persist, RoleKind};
use raft_core::entries::Entries;
use raft_core::input::Input;
use raft_core::membership::Membership;
use raft_core::message::{Envelope, Message};
use raft_core::node::Node;
use raft_core::port::Stored;
use raft_core::types::{Entry, EntryId, HardState, Index, Member, NodeId, Payload, RequestId, WriteId};

use crate::{Applied, Cluster, Load};

/// Three nodes, whose network is a queue each.
pub struct CoreCluster {
    servers: Vec<Server>,
    leader: usize,
    /// Where the nodes put their effects, which are carried out at once.
    effects: Vec<Effect>,
}

/// A node and its driver.
pub struct Server {
    /// The node.
    pub node: Node,
    inbox: Vec<Input>,
    disk: Disk,
    applied: Applied,
}

/// A log in memory.
#[derive(Default)]
struct Disk {
    hard_state: HardState,
    /// As they were written, none of them copied.
    written: Vec<Entries>,
}

/// What the driver owes its node after it has carried out effects.
#[derive(Default)]
struct Debts {
    written: Option<WriteId>,
    applied: Option<Index>,
}

impl Cluster for CoreCluster {
    const NAME: &str = "raft-core";

    fn start() -> Self {
        let ids = [1, 2, 3].map(NodeId);
        let membership = Membership::of_voters(ids.map(|id| (id, Member::default())).into());
        let servers = ids.map(|id| Server::new(id, Stored::first(membership.clone())));
        let mut cluster = Self { servers: servers.into(), leader: 0, effects: Vec::new() };
        while !cluster.has_leader() {
            cluster.tick();
        }
        cluster
    }

    fn replicate(&mut self, load: &Load) {
        let goal = self.servers[self.leader].applied.after(load);
        for batches in load.rounds() {
            for _ in 0..batches {
                let commands = vec![load.payload.clone(); load.batch];
                self.servers[self.leader].inbox.push(Input::Propose { id: RequestId(1), commands });
            }
            self.settle();
        }
        while self.servers.iter().any(|server| server.applied != goal) {
            self.tick();
        }
    }
}

impl CoreCluster {
    /// Lets one tick pass on all nodes.
    pub fn tick(&mut self) {
        self.servers.iter_mut().for_each(|server| server.inbox.push(Input::Tick));
        self.settle();
    }

    /// The nodes, the leader first.
    pub fn into_nodes(mut self) -> Vec<Node> {
        self.servers.swap(0, self.leader);
        self.servers.into_iter().map(|server| server.node).collect()
    }

    fn has_leader(&mut self) -> bool {
        let leads = |server: &Server| server.node.status().role == RoleKind::Leader;
        self.leader = self.servers.iter().position(leads).unwrap_or(0);
        leads(&self.servers[self.leader])
    }

    /// Lets all nodes work until nothing waits any more.
    fn settle(&mut self) {
        while self.servers.iter().any(|server| !server.inbox.is_empty()) {
            for id in 0..self.servers.len() {
                if !self.servers[id].inbox.is_empty() {
                    self.take_turn(id);
                }
            }
        }
    }

    /// Takes in all that waits, and then what that has made durable and applied, each in one step.
    fn take_turn(&mut self, id: usize) {
        let mut inbox = mem::take(&mut self.servers[id].inbox);
        let mut debts = self.step(id, inbox.drain(..));
        self.servers[id].inbox = inbox;
        while !debts.is_paid() {
            debts = self.step(id, debts);
        }
    }

    fn step(&mut self, id: usize, inputs: impl IntoIterator<Item = Input>) -> Debts {
        let mut debts = Debts::default();
        let mut effects = mem::take(&mut self.effects);
        self.servers[id].node.step_all(inputs, &mut effects);
        for effect in effects.drain(..) {
            let server = &mut self.servers[id];
            match effect {
                Effect::Persist(write) => {
                    debts.written = Some(write.id);
                    server.disk.write(write);
                }
                Effect::Send(envelope) => {
                    let to = envelope.to.0 as usize - 1;
                    self.servers[to].inbox.push(Input::Receive(arrived(envelope)));
                }
                Effect::Apply(entries) => {
                    debts.applied = entries.last().map(|entry| entry.id.index);
                    entries.iter().for_each(|entry| server.apply(entry));
                }
                _ => (),
            }
        }
        self.effects = effects;
        debts
    }
}

/// The message as its receiver has it: with entries of its own, which it can't share with the sender across a network.
fn arrived(mut envelope: Envelope) -> Envelope {
    if let Message::AppendEntries(append) = &mut envelope.message {
        append.entries = append.entries.to_vec().into();
    }
    envelope
}

impl Server {
    fn new(id: NodeId, stored: Stored) -> Self {
        let config = Config { snapshot_after_entries: u64::MAX, ..Config::new(id) };
        let disk = Disk { hard_state: stored.hard_state, written: vec![stored.entries.clone().into()] };
        let node = Node::new(config, stored, EntryId::ZERO).expect("a new node starts");
        Self { node, inbox: Vec::new(), disk, applied: Applied::default() }
    }

    fn apply(&mut self, entry: &Entry) {
        if let Payload::Command(command) = &entry.payload {
            self.applied.add(command);
        }
    }
}

impl Disk {
    fn write(&mut self, write: Persist) {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(from) = write.truncate_from {
            self.truncate(from.0 as usize - 1);
        }
        self.written.push(write.entries);
    }

    /// Keeps the first `count` entries.
    fn truncate(&mut self, mut count: usize) {
        for entries in &mut self.written {
            entries.truncate(count);
            count -= entries.len();
        }
    }
}

impl Debts {
    fn is_paid(&self) -> bool {
        self.written.is_none() && self.applied.is_none()
    }
}

/// One write stands for all that were ordered, as one sync would.
impl IntoIterator for Debts {
    type Item = Input;
    type IntoIter = Chain<IntoIter<Input>, IntoIter<Input>>;

    fn into_iter(self) -> Self::IntoIter {
        self.written.map(Input::Persisted).into_iter().chain(self.applied.map(Input::Applied))
    }
}
