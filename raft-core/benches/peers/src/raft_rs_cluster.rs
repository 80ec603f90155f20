//! Three nodes of raft-rs.

use std::mem;

use raft::prelude::{ConfState, Entry, HardState, Message, MessageType, Snapshot};
use raft::storage::Storage;
use raft::{Config, GetEntriesContext, RaftState, RawNode, StateRole, StorageError};
use slog::{Discard, Logger};

use crate::{Applied, Cluster, Load};

/// Three nodes, whose network is a queue each.
pub struct RaftRsCluster {
    servers: Vec<Server>,
    leader: usize,
}

/// A node and its driver.
pub struct Server {
    /// The node.
    pub node: RawNode<Disk>,
    inbox: Vec<Message>,
    applied: Applied,
}

/// A log in memory. The first entry has index 1.
#[derive(Default)]
pub struct Disk {
    hard_state: HardState,
    membership: ConfState,
    entries: Vec<Entry>,
}

impl Cluster for RaftRsCluster {
    const NAME: &str = "raft-rs";

    fn start() -> Self {
        let mut cluster = Self { servers: (1..=3).map(Server::new).collect(), leader: 0 };
        while !cluster.has_leader() {
            cluster.tick();
        }
        cluster
    }

    fn replicate(&mut self, load: &Load) {
        let goal = self.servers[self.leader].applied.after(load);
        for batches in load.rounds() {
            for _ in 0..batches {
                let proposal = propose(self.leader as u64 + 1, load);
                self.servers[self.leader].inbox.push(proposal);
            }
            self.settle();
        }
        while self.servers.iter().any(|server| server.applied != goal) {
            self.tick();
        }
    }
}

/// A batch as one message.
fn propose(leader: u64, load: &Load) -> Message {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgPropose);
    message.from = leader;
    let entry = || Entry { data: load.payload.clone(), ..Entry::default() };
    message.entries = (0..load.batch).map(|_| entry()).collect::<Vec<_>>().into();
    message
}

impl RaftRsCluster {
    /// Lets one tick pass on all nodes.
    pub fn tick(&mut self) {
        for id in 0..self.servers.len() {
            self.servers[id].node.tick();
            self.carry_out(id);
        }
        self.settle();
    }

    /// The nodes, the leader first.
    pub fn into_nodes(mut self) -> Vec<RawNode<Disk>> {
        self.servers.swap(0, self.leader);
        self.servers.into_iter().map(|server| server.node).collect()
    }

    fn has_leader(&mut self) -> bool {
        let leads = |server: &Server| server.node.raft.state == StateRole::Leader;
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

    fn take_turn(&mut self, id: usize) {
        let server = &mut self.servers[id];
        let mut inbox = mem::take(&mut server.inbox);
        for message in inbox.drain(..) {
            server.node.step(message).expect("the message makes sense");
        }
        server.inbox = inbox;
        self.carry_out(id);
    }

    fn carry_out(&mut self, id: usize) {
        while self.servers[id].node.has_ready() {
            let server = &mut self.servers[id];
            let mut ready = server.node.ready();
            let early = ready.take_messages();
            server.apply(ready.take_committed_entries());
            let disk = server.node.mut_store();
            disk.append(ready.take_entries());
            if let Some(hard_state) = ready.hs() {
                disk.hard_state = hard_state.clone();
            }
            let durable = ready.take_persisted_messages();
            let mut light = server.node.advance(ready);
            server.apply(light.take_committed_entries());
            server.node.advance_apply();
            self.send([early, durable, light.take_messages()]);
        }
    }

    fn send(&mut self, messages: [Vec<Message>; 3]) {
        for message in messages.into_iter().flatten() {
            let to = message.to as usize - 1;
            self.servers[to].inbox.push(message);
        }
    }
}

impl Server {
    fn new(id: u64) -> Self {
        let config = Config {
            id,
            election_tick: 15,
            heartbeat_tick: 5,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 64,
            pre_vote: true,
            check_quorum: true,
            skip_bcast_commit: true,
            batch_append: true,
            ..Config::default()
        };
        let membership = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
        let disk = Disk { membership, ..Disk::default() };
        let node = RawNode::new(&config, disk, &Logger::root(Discard, slog::o!())).expect("a new node starts");
        Self { node, inbox: Vec::new(), applied: Applied::default() }
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries.iter().filter(|entry| !entry.data.is_empty()) {
            self.applied.add(&entry.data);
        }
    }
}

impl Disk {
    /// Takes the entries away, to see what a node is without them.
    pub fn clear(&mut self) {
        self.entries = Vec::new();
    }

    fn append(&mut self, entries: Vec<Entry>) {
        if let Some(first) = entries.first() {
            self.entries.truncate(first.index as usize - 1);
            self.entries.extend(entries);
        }
    }
}

impl Storage for Disk {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.membership.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let mut entries = self.entries[low as usize - 1..high as usize - 1].to_vec();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match index.checked_sub(1) {
            None => Ok(0),
            Some(position) => {
                let entry = self.entries.get(position as usize);
                entry.map(|entry| entry.term).ok_or(raft::Error::Store(StorageError::Unavailable))
            }
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.entries.len() as u64)
    }

    fn snapshot(&self, _: u64, _: u64) -> raft::Result<Snapshot> {
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
