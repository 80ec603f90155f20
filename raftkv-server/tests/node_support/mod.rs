//! Ports in memory that tests can pause, cut and break, and clusters of nodes over them.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use raft_core::effect::{Persist, RoleKind};
use raft_core::membership::Membership;
use raft_core::message::Envelope;
use raft_core::port::{LogStore, StateMachine, Stored, Transport};
use raft_core::types::{Entry, EntryId, Index, Member, NodeId, Payload};
use raftkv_server::node::{self, Handle, Mailbox, Options, Proposed, RequestError, Running};

/// How long anything may take before a test fails. Far more than it does take.
const DEADLINE: Duration = Duration::from_secs(30);

/// What a faulty port says.
#[derive(Debug, thiserror::Error)]
#[error("broken for the test")]
pub(crate) struct Broken;

/// Where a thread can be held up.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    pub(crate) fn close(&self) {
        self.set(true);
    }

    pub(crate) fn open(&self) {
        self.set(false);
    }

    fn set(&self, is_closed: bool) {
        *self.shared.0.lock().unwrap() = is_closed;
        self.shared.1.notify_all();
    }

    /// Waits while it is closed.
    fn pass(&self) {
        let (is_closed, changed) = &*self.shared;
        drop(changed.wait_while(is_closed.lock().unwrap(), |is_closed| *is_closed).unwrap());
    }
}

/// What a [`MemoryLog`] holds, and how it behaves. Clones share it, so it survives its node.
#[derive(Clone, Default)]
pub(crate) struct LogControl {
    shared: Arc<Mutex<LogShared>>,
    /// Holds up writes.
    pub(crate) gate: Gate,
}

#[derive(Default)]
struct LogShared {
    stored: Stored,
    is_broken: bool,
    writes: usize,
}

impl LogControl {
    fn lock(&self) -> MutexGuard<'_, LogShared> {
        self.shared.lock().unwrap()
    }

    /// Lets all writes fail from now on.
    pub(crate) fn break_down(&self) {
        self.lock().is_broken = true;
    }

    pub(crate) fn writes(&self) -> usize {
        self.lock().writes
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.lock().stored.entries.clone()
    }
}

pub(crate) struct MemoryLog(pub(crate) LogControl);

impl LogStore for MemoryLog {
    type Error = Broken;

    fn load(&mut self) -> Result<Stored, Broken> {
        Ok(self.0.lock().stored.clone())
    }

    fn write(&mut self, writes: &[Persist]) -> Result<(), Broken> {
        self.0.gate.pass();
        let mut log = self.0.lock();
        if log.is_broken {
            return Err(Broken);
        }
        log.writes += 1;
        writes.iter().for_each(|write| log.stored.carry_out(write));
        Ok(())
    }

    fn read(&mut self, _from: Index, _max_bytes: u64) -> Result<Vec<Entry>, Broken> {
        panic!("nothing reads it: the core keeps all entries")
    }
}

/// What a [`Recorder`] has applied. Clones share it, so it survives its node.
#[derive(Clone, Default)]
pub(crate) struct Record {
    shared: Arc<Mutex<Recorded>>,
    /// Holds up transactions.
    pub(crate) gate: Gate,
}

#[derive(Default)]
struct Recorded {
    applied: EntryId,
    commands: Vec<Bytes>,
}

impl Record {
    pub(crate) fn commands(&self) -> Vec<Bytes> {
        self.shared.lock().unwrap().commands.clone()
    }
}

/// A state machine that remembers its commands and answers how many there were. The commands `panic` and `fail` do as they say.
pub(crate) struct Recorder(pub(crate) Record);

impl StateMachine for Recorder {
    type Error = Broken;
    type Response = u64;

    fn applied(&self) -> Result<EntryId, Broken> {
        Ok(self.0.shared.lock().unwrap().applied)
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Option<u64>>, Broken> {
        self.0.gate.pass();
        let mut recorded = self.0.shared.lock().unwrap();
        entries.iter().map(|entry| recorded.apply(entry)).collect()
    }
}

impl Recorded {
    fn apply(&mut self, entry: &Entry) -> Result<Option<u64>, Broken> {
        assert_eq!(entry.id.index, self.applied.index.next(), "entries follow without a gap");
        self.applied = entry.id;
        let Payload::Command(command) = &entry.payload else { return Ok(None) };
        match &command[..] {
            b"panic" => panic!("asked to"),
            b"fail" => Err(Broken),
            _ => {
                self.commands.push(command.clone());
                Ok(Some(self.commands.len() as u64))
            }
        }
    }
}

/// Carries messages between the nodes of a process, except where a link is cut.
#[derive(Clone, Default)]
pub(crate) struct Network {
    shared: Arc<Mutex<Links>>,
}

#[derive(Default)]
struct Links {
    mailboxes: BTreeMap<NodeId, Mailbox>,
    cut: BTreeSet<(NodeId, NodeId)>,
}

impl Network {
    pub(crate) fn connect(&self, id: NodeId, mailbox: Mailbox) {
        self.shared.lock().unwrap().mailboxes.insert(id, mailbox);
    }

    /// Drops what `from` sends to `to`.
    pub(crate) fn cut(&self, from: NodeId, to: NodeId) {
        self.shared.lock().unwrap().cut.insert((from, to));
    }

    /// Drops what `id` sends and what is sent to it.
    pub(crate) fn isolate(&self, id: NodeId) {
        let mut links = self.shared.lock().unwrap();
        let others: Vec<_> = links.mailboxes.keys().copied().collect();
        for other in others {
            links.cut.extend([(id, other), (other, id)]);
        }
    }

    pub(crate) fn heal(&self) {
        self.shared.lock().unwrap().cut.clear();
    }

    /// Delivers a message as if it had come over the network.
    pub(crate) fn deliver(&self, envelope: Envelope) {
        let links = self.shared.lock().unwrap();
        if let Some(mailbox) =
            links.mailboxes.get(&envelope.to).filter(|_| !links.cut.contains(&(envelope.from, envelope.to)))
        {
            mailbox.deliver(envelope);
        }
    }
}

impl Transport for Network {
    fn send(&self, envelope: Envelope) {
        self.deliver(envelope);
    }

    fn use_membership(&self, _membership: &Membership) {}
}

/// A node, and what is behind it.
pub(crate) struct TestNode {
    pub(crate) id: NodeId,
    pub(crate) handle: Handle<u64>,
    pub(crate) running: Running,
    pub(crate) log: LogControl,
    pub(crate) record: Record,
}

impl TestNode {
    /// Starts a node on what `log` and `record` hold.
    pub(crate) fn start(options: Options, network: &Network, log: LogControl, record: Record) -> Self {
        let id = options.core.id;
        let (mailbox, inbox) = node::mailbox(&options);
        network.connect(id, mailbox);
        let (handle, running) =
            node::start(options, inbox, MemoryLog(log.clone()), Recorder(record.clone()), network.clone()).unwrap();
        Self { id, handle, running, log, record }
    }

    /// A cluster of this node alone, which leads and has applied its first entries.
    pub(crate) async fn alone(options: Options) -> Self {
        let log = first_log(1);
        let node = Self::start(options, &Network::default(), log, Record::default());
        node.led().await;
        node
    }

    /// Waits until it leads, and has applied its term's first entry.
    pub(crate) async fn led(&self) {
        until("the node leads", || {
            let status = self.handle.status();
            status.role == RoleKind::Leader && status.applied_index == status.last_index
        })
        .await;
    }

    /// Proposes in the background.
    pub(crate) fn propose(
        &self,
        command: &'static str,
    ) -> tokio::task::JoinHandle<Result<Proposed<u64>, RequestError>> {
        let handle = self.handle.clone();
        tokio::spawn(async move { handle.propose(Bytes::from_static(command.as_bytes())).await })
    }
}

/// Nodes in one process.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<TestNode>,
    pub(crate) network: Network,
}

impl Cluster {
    pub(crate) fn start(size: u64) -> Self {
        let network = Network::default();
        let nodes =
            (1..=size).map(|id| TestNode::start(options(id), &network, first_log(size), Record::default())).collect();
        Self { nodes, network }
    }

    pub(crate) fn node(&self, id: NodeId) -> &TestNode {
        self.nodes.iter().find(|node| node.id == id).unwrap()
    }

    /// The node that leads in the highest term, once all but `without` follow it.
    pub(crate) async fn leader(&self, without: Option<NodeId>) -> &TestNode {
        let nodes: Vec<_> = self.nodes.iter().filter(|node| Some(node.id) != without).collect();
        until("there is a leader", || {
            let first = nodes[0].handle.status();
            first.leader.is_some_and(|leader| Some(leader) != without)
                && nodes.iter().all(|node| {
                    let status = node.handle.status();
                    (status.term, status.leader) == (first.term, first.leader)
                })
        })
        .await;
        self.node(nodes[0].handle.status().leader.unwrap())
    }

    /// Proposes wherever the leader is, again where it is certain that nothing was done.
    pub(crate) async fn propose(&self, command: &'static str, without: Option<NodeId>) -> Proposed<u64> {
        loop {
            match within(self.leader(without).await.propose(command)).await.unwrap() {
                Ok(proposed) => return proposed,
                Err(RequestError::NotLeader { .. } | RequestError::Lost) => (),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Settings for tests: the defaults, with a seed for each node.
pub(crate) fn options(id: u64) -> Options {
    Options::new(NodeId(id))
}

/// What each node of a new cluster of `size` voters stores first.
pub(crate) fn first_log(size: u64) -> LogControl {
    let members = (1..=size).map(|id| (NodeId(id), Member::default())).collect();
    let log = LogControl::default();
    log.lock().stored = Stored::first(Membership::of_voters(members));
    log
}

/// Waits for a condition that other threads bring about.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Waits for what must come.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

/// Waits for a node's end.
pub(crate) async fn ended(running: Running) -> node::Ended {
    within(tokio::task::spawn_blocking(move || running.wait())).await.unwrap()
}

/// The text as a command.
pub(crate) fn command(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}
