//! Ports in memory that tests can pause, cut and break, and clusters of nodes over them.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use raft_core::effect::{Persist, Refusal, RoleKind};
use raft_core::membership::{Change, Membership, MembershipChange};
use raft_core::message::Envelope;
use raft_core::port::{Capture, LogStore, SnapshotError, Staging, StateMachine, Stored, Transport};
use raft_core::types::{Entry, EntryId, HardState, Index, Member, NodeId, Payload, Snapshot};
use raftkv_server::node::memory::{MemoryCapture, MemoryStaging, StagingError};
use raftkv_server::node::{self, Changed, Handle, Mailbox, Options, Proposed, RequestError, Running};

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
    has_bad_sectors: bool,
    is_forgetful: bool,
    writes: usize,
    loads: usize,
}

impl LogControl {
    fn lock(&self) -> MutexGuard<'_, LogShared> {
        self.shared.lock().unwrap()
    }

    /// Lets all writes fail from now on.
    pub(crate) fn break_down(&self) {
        self.lock().is_broken = true;
    }

    /// Lets all loads fail from now on.
    pub(crate) fn break_reads(&self) {
        self.lock().has_bad_sectors = true;
    }

    /// Whether loads find nothing, as if all were compacted.
    pub(crate) fn forget(&self, is_forgetful: bool) {
        self.lock().is_forgetful = is_forgetful;
    }

    /// Begins the log after a snapshot that was received, and not installed.
    pub(crate) fn received(snapshot: Snapshot) -> Self {
        let log = Self::default();
        log.lock().stored =
            Stored { hard_state: HardState { term: snapshot.last.term, vote: None }, snapshot, ..Stored::default() };
        log
    }

    pub(crate) fn writes(&self) -> usize {
        self.lock().writes
    }

    pub(crate) fn loads(&self) -> usize {
        self.lock().loads
    }

    /// The last entry that is compacted.
    pub(crate) fn compacted(&self) -> Index {
        self.lock().stored.snapshot.last.index
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

    fn read(&mut self, from: Index, max_bytes: u64) -> Result<Vec<Entry>, Broken> {
        let mut log = self.0.lock();
        log.loads += 1;
        if log.has_bad_sectors {
            return Err(Broken);
        }
        if log.is_forgetful {
            return Ok(Vec::new());
        }
        Ok(log.stored.read(from, max_bytes))
    }
}

/// What a [`Recorder`] has applied. Clones share it, so it survives its node.
#[derive(Clone, Default)]
pub(crate) struct Record {
    shared: Arc<Mutex<Recorded>>,
    pub(crate) staging: MemoryStaging,
    /// Holds up transactions.
    pub(crate) gate: Gate,
}

#[derive(Default)]
struct Recorded {
    applied: EntryId,
    commands: Vec<Bytes>,
    snapshots_taken: usize,
    snapshots_installed: usize,
    captures_to_fail: usize,
}

impl Record {
    pub(crate) fn commands(&self) -> Vec<Bytes> {
        self.shared.lock().unwrap().commands.clone()
    }

    pub(crate) fn snapshots_taken(&self) -> usize {
        self.shared.lock().unwrap().snapshots_taken
    }

    pub(crate) fn snapshots_installed(&self) -> usize {
        self.shared.lock().unwrap().snapshots_installed
    }

    /// Lets this many captures fail.
    pub(crate) fn fail_captures(&self, count: usize) {
        self.shared.lock().unwrap().captures_to_fail = count;
    }

    pub(crate) fn captures_to_fail(&self) -> usize {
        self.shared.lock().unwrap().captures_to_fail
    }
}

/// A state machine that remembers its commands and answers how many there were. The commands `panic` and `fail` do as they say.
pub(crate) struct Recorder(pub(crate) Record);

impl StateMachine for Recorder {
    type Error = StateError;
    type Response = u64;

    fn applied(&self) -> Result<EntryId, StateError> {
        Ok(self.0.shared.lock().unwrap().applied)
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Option<u64>>, StateError> {
        self.0.gate.pass();
        let mut recorded = self.0.shared.lock().unwrap();
        entries.iter().map(|entry| recorded.apply(entry)).collect()
    }

    fn take_snapshot(&mut self) -> Result<EntryId, StateError> {
        let mut recorded = self.0.shared.lock().unwrap();
        recorded.snapshots_taken += 1;
        Ok(recorded.applied)
    }

    fn capture(&mut self) -> Result<Box<dyn Capture>, StateError> {
        let mut recorded = self.0.shared.lock().unwrap();
        if recorded.captures_to_fail > 0 {
            recorded.captures_to_fail -= 1;
            return Err(Broken.into());
        }
        Ok(Box::new(MemoryCapture::new(recorded.applied, recorded.commands.join(&b'\n'))))
    }

    fn staging(&self) -> Arc<dyn Staging> {
        Arc::new(self.0.staging.clone())
    }

    fn install(&mut self, snapshot: &Snapshot) -> Result<(), StateError> {
        self.0.gate.pass();
        let state = self.0.staging.take(snapshot.last)?;
        let mut recorded = self.0.shared.lock().unwrap();
        assert!(snapshot.last.index > recorded.applied.index, "a state never goes back");
        let commands = state.split(|byte| *byte == b'\n').filter(|command| !command.is_empty());
        recorded.commands = commands.map(|command| state.slice_ref(command)).collect();
        recorded.applied = snapshot.last;
        recorded.snapshots_installed += 1;
        Ok(())
    }
}

/// Why a [`Recorder`] failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) enum StateError {
    Broken(#[from] Broken),
    Staging(#[from] StagingError),
}

impl Recorded {
    fn apply(&mut self, entry: &Entry) -> Result<Option<u64>, StateError> {
        assert_eq!(entry.id.index, self.applied.index.next(), "entries follow without a gap");
        self.applied = entry.id;
        let Payload::Command(command) = &entry.payload else { return Ok(None) };
        match &command[..] {
            b"panic" => panic!("asked to"),
            b"fail" => Err(Broken.into()),
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
    pub(crate) pieces: Valve,
}

/// How many bytes of a snapshot go at a time.
const PIECE_BYTES: usize = 64;

/// Lets a number of things pass.
#[derive(Clone, Default)]
pub(crate) struct Valve {
    /// How many more may pass; none: any number.
    shared: Arc<(Mutex<Option<usize>>, Condvar)>,
}

impl Valve {
    pub(crate) fn open(&self) {
        self.set(None);
    }

    /// Lets so many pass, and then none.
    pub(crate) fn limit(&self, count: usize) {
        self.set(Some(count));
    }

    pub(crate) fn is_used_up(&self) -> bool {
        *self.shared.0.lock().unwrap() == Some(0)
    }

    fn set(&self, left: Option<usize>) {
        *self.shared.0.lock().unwrap() = left;
        self.shared.1.notify_all();
    }

    fn pass(&self) {
        let (left, changed) = &*self.shared;
        let mut left = changed.wait_while(left.lock().unwrap(), |left| *left == Some(0)).unwrap();
        *left = left.map(|left| left - 1);
    }
}

#[derive(Default)]
struct Links {
    mailboxes: BTreeMap<NodeId, Mailbox>,
    staging: BTreeMap<NodeId, Arc<dyn Staging>>,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// The latest transfer of a snapshot on each link, by the number of its capture.
    transfers: BTreeMap<(NodeId, NodeId), u64>,
    captures: u64,
}

impl Network {
    pub(crate) fn connect(&self, id: NodeId, mailbox: Mailbox, staging: Arc<dyn Staging>) {
        let mut links = self.shared.lock().unwrap();
        links.mailboxes.insert(id, mailbox);
        links.staging.insert(id, staging);
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

    fn begin_transfer(&self, link: (NodeId, NodeId)) -> u64 {
        let mut links = self.shared.lock().unwrap();
        links.captures += 1;
        let number = links.captures;
        links.transfers.insert(link, number);
        number
    }

    /// Brings a capture over piece by piece, unless the link is cut meanwhile.
    fn carry(&self, link: (NodeId, NodeId), number: u64, capture: &mut dyn Capture) -> Result<(), SnapshotError> {
        let mut offset = self.staging(link)?.begin(number, capture.last(), capture.size_bytes())?;
        while offset < capture.size_bytes() {
            self.pieces.pass();
            let piece = capture.read(offset, PIECE_BYTES)?;
            self.staging(link)?.write(number, offset, &piece)?;
            offset += piece.len() as u64;
            self.report(link, number, |mailbox| mailbox.snapshot_progress(link.1));
        }
        self.staging(link)?.finish(number)
    }

    fn staging(&self, link: (NodeId, NodeId)) -> Result<Arc<dyn Staging>, SnapshotError> {
        let links = self.shared.lock().unwrap();
        let staging = links.staging.get(&link.1).filter(|_| !links.cut.contains(&link));
        staging.cloned().ok_or_else(|| Broken.into())
    }

    /// Reports on a transfer, unless another has replaced it.
    fn report(&self, link: (NodeId, NodeId), number: u64, report: impl Fn(&Mailbox) -> bool) {
        let links = self.shared.lock().unwrap();
        if links.transfers.get(&link) == Some(&number) {
            report(&links.mailboxes[&link.0]);
        }
    }
}

impl Transport for Network {
    fn send(&self, envelope: Envelope) {
        self.deliver(envelope);
    }

    fn send_snapshot(&self, envelope: Envelope, mut capture: Box<dyn Capture>) {
        let link = (envelope.from, envelope.to);
        let number = self.begin_transfer(link);
        let network = self.clone();
        std::thread::spawn(move || {
            let arrived = network.carry(link, number, &mut *capture).is_ok();
            if arrived {
                network.deliver(envelope);
            }
            network.report(link, number, |mailbox| mailbox.snapshot_sent(link.1, arrived));
        });
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
        network.connect(id, mailbox, Arc::new(record.staging.clone()));
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

    /// A cluster of `size`, and as many nodes as `spare` that belong to none yet.
    pub(crate) fn with_spare(size: u64, spare: u64, options: impl Fn(u64) -> Options) -> Self {
        let network = Network::default();
        let log = |id| if id <= size { first_log(size) } else { LogControl::default() };
        let start = |id| TestNode::start(options(id), &network, log(id), Record::default());
        let nodes = (1..=size + spare).map(start).collect();
        Self { nodes, network }
    }

    /// The leader of the highest term, as it says itself.
    pub(crate) async fn leading(&self) -> &TestNode {
        let leading = || {
            let term = self.nodes.iter().map(|node| node.handle.status().term).max();
            self.nodes.iter().find(|node| {
                let status = node.handle.status();
                status.role == RoleKind::Leader && Some(status.term) == term
            })
        };
        until("a node leads", || leading().is_some()).await;
        leading().unwrap_or(&self.nodes[0])
    }

    /// Changes the membership wherever the leader is, again where it is certain that nothing was done and where another try may do it.
    pub(crate) async fn change(&self, changes: Vec<Change>) -> Changed {
        within(self.try_to_change(changes)).await
    }

    async fn try_to_change(&self, changes: Vec<Change>) -> Changed {
        loop {
            let change = MembershipChange { changes: changes.clone(), stay_joint: false };
            match self.leading().await.handle.change_membership(change).await {
                Ok(changed) => return changed,
                Err(
                    RequestError::NotLeader { .. }
                    | RequestError::Lost
                    | RequestError::Transferring
                    | RequestError::Refused(
                        Refusal::TermNotCommitted | Refusal::ChangeUnderWay | Refusal::NotCaughtUp(_),
                    ),
                ) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Takes a node out, to be stopped or restarted.
    pub(crate) fn take(&mut self, id: NodeId) -> TestNode {
        let position = self.nodes.iter().position(|node| node.id == id).unwrap();
        self.nodes.remove(position)
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

/// Settings under which snapshots are taken all the time.
pub(crate) fn with_snapshots(id: u64) -> Options {
    let mut options = options(id);
    options.core.snapshot_after_entries = 20;
    options.core.kept_entries = 5;
    options
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
