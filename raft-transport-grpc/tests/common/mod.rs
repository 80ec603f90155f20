//! Nodes for tests: a transport behind a real server on a loopback port, each on a runtime of its own, so that one can be
//! killed as a process would be.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::membership::Membership;
use raft_core::message::{AppendEntries, AppendEntriesReply, AppendResult, Envelope, InstallSnapshot, Message};
use raft_core::port::{Capture, SnapshotError, Staging, Transport};
use raft_core::types::{
    ClusterId, Entry, EntryId, Identity, Incarnation, Index, Member, NodeId, Payload, Round, Snapshot, Term,
};
use raft_transport_grpc::{AppendEntriesStream, GrpcTransport, InstallSnapshotStream, Options, PeerStatus, Recipient};
use raftkv_proto::raft::v1 as wire;
use raftkv_proto::raft::v1::raft_service_client::RaftServiceClient;
use raftkv_proto::raft::v1::raft_service_server::{RaftService, RaftServiceServer};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

/// Longer than anything that goes well takes.
pub const PATIENCE: Duration = Duration::from_secs(10);
pub const CLUSTER: ClusterId = ClusterId(0xc1);

/// A node under test.
pub struct TestNode {
    pub identity: Identity,
    pub address: String,
    pub transport: GrpcTransport,
    pub inbox: Receiver<Envelope>,
    pub reports: Receiver<Report>,
    pub staging: Arc<FakeStaging>,
    runtime: Option<Runtime>,
}

/// What the transport says of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    Progress(NodeId),
    Sent(NodeId, bool),
}

/// Puts what the core must hear into channels.
struct Mailbox {
    inbox: Mutex<Sender<Envelope>>,
    reports: Mutex<Sender<Report>>,
}

impl Recipient for Mailbox {
    fn deliver(&self, envelope: Envelope) -> bool {
        self.inbox.lock().unwrap().send(envelope).is_ok()
    }

    fn snapshot_progress(&self, to: NodeId) {
        let _ = self.reports.lock().unwrap().send(Report::Progress(to));
    }

    fn snapshot_sent(&self, to: NodeId, arrived: bool) {
        let _ = self.reports.lock().unwrap().send(Report::Sent(to, arrived));
    }
}

/// Delegates to a transport, as the server of RaftKV does.
struct Service(GrpcTransport);

#[tonic::async_trait]
impl RaftService for Service {
    type AppendEntriesStream = AppendEntriesStream;
    type InstallSnapshotStream = InstallSnapshotStream;

    async fn identify(&self, request: Request<wire::IdentifyRequest>) -> Result<Response<wire::IdentifyReply>, Status> {
        self.0.identify(request).await
    }

    async fn request_vote(
        &self,
        request: Request<wire::RequestVoteRequest>,
    ) -> Result<Response<wire::RequestVoteReply>, Status> {
        self.0.request_vote(request).await
    }

    async fn append_entries(
        &self,
        request: Request<Streaming<wire::AppendEntriesRequest>>,
    ) -> Result<Response<AppendEntriesStream>, Status> {
        self.0.append_entries(request).await
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::InstallSnapshotRequest>>,
    ) -> Result<Response<InstallSnapshotStream>, Status> {
        self.0.install_snapshot(request).await
    }

    async fn timeout_now(
        &self,
        request: Request<wire::TimeoutNowRequest>,
    ) -> Result<Response<wire::TimeoutNowReply>, Status> {
        self.0.timeout_now(request).await
    }

    async fn read_index(
        &self,
        request: Request<wire::ReadIndexRequest>,
    ) -> Result<Response<wire::ReadIndexReply>, Status> {
        self.0.read_index(request).await
    }

    /// Answers with what it was told, in the name of whoever told it.
    async fn compare_checksums(
        &self,
        request: Request<wire::CompareChecksumsRequest>,
    ) -> Result<Response<wire::CompareChecksumsReply>, Status> {
        let caller = self.0.caller(request.metadata())?;
        let checksum =
            request.into_inner().checksum.map(|told| wire::StateChecksum { fault: caller.node.to_string(), ..told });
        Ok(Response::new(wire::CompareChecksumsReply { checksum }))
    }

    async fn submit_command(
        &self,
        _: Request<wire::SubmitCommandRequest>,
    ) -> Result<Response<wire::SubmitCommandReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}

/// Node `id` of the usual cluster; its incarnation is 100 times its id.
pub fn identity(id: u64) -> Identity {
    Identity { cluster: CLUSTER, node: NodeId(id), incarnation: Incarnation(100 * id) }
}

/// An address where nobody listens, and nobody else can while this lives.
pub struct DeadAddress {
    pub address: String,
    _socket: TcpSocket,
}

impl DeadAddress {
    pub fn reserve() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self { address: socket.local_addr().unwrap().to_string(), _socket: socket }
    }
}

/// A runtime with a thread of its own.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A client of the node at `address`.
pub async fn client(address: &str) -> RaftServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    RaftServiceClient::new(endpoint.connect().await.unwrap())
}

/// Takes a port of the loopback interface; `:0` picks a free one.
pub fn bind(runtime: &Runtime, address: &str) -> TcpListener {
    runtime.block_on(TcpListener::bind(address)).unwrap()
}

/// Serves on a port until the runtime ends.
pub fn serve<S: RaftService>(runtime: &Runtime, listener: TcpListener, options: &Options, service: S) {
    let _guard = runtime.enter();
    let service = options.limit(RaftServiceServer::new(service));
    let router = options.server().add_service(service);
    runtime.spawn(router.serve_with_incoming(Options::incoming(listener)));
}

impl TestNode {
    /// Node `id` of the usual cluster, on a free port.
    pub fn start(id: u64) -> Self {
        Self::start_with(identity(id), "127.0.0.1:0", Options::default())
    }

    /// A node on a given address.
    pub fn start_with(identity: Identity, address: &str, options: Options) -> Self {
        Self::start_behind(identity, address, options, str::to_owned)
    }

    /// A node that tells others another address than its own, made from it.
    pub fn start_behind(
        identity: Identity,
        address: &str,
        options: Options,
        advertise: impl FnOnce(&str) -> String,
    ) -> Self {
        let runtime = runtime();
        let listener = bind(&runtime, address);
        let address = advertise(&listener.local_addr().unwrap().to_string());
        let ((sender, inbox), (reporter, reports)) = (mpsc::channel(), mpsc::channel());
        let mailbox = Mailbox { inbox: Mutex::new(sender), reports: Mutex::new(reporter) };
        let staging = Arc::new(FakeStaging::default());
        let handle = runtime.handle().clone();
        let transport =
            GrpcTransport::new(identity, address.clone(), options.clone(), handle, mailbox, staging.clone());
        serve(&runtime, listener, &options, Service(transport.clone()));
        Self { identity, address, transport, inbox, reports, staging, runtime: Some(runtime) }
    }

    pub fn id(&self) -> NodeId {
        self.identity.node
    }

    /// What a membership records of it.
    pub fn member(&self) -> (NodeId, Member) {
        (self.id(), Member { address: self.address.clone(), incarnation: self.identity.incarnation, priority: 0 })
    }

    pub fn send(&self, to: NodeId, term: u64, message: Message) {
        self.transport.send(Envelope { from: self.id(), to, term: Term(term), message });
    }

    /// Sends a snapshot whose last entry is at `index`.
    pub fn send_snapshot(&self, to: NodeId, index: u64, capture: FakeCapture) {
        let envelope = Envelope { from: self.id(), to, term: Term(5), message: install(index) };
        self.transport.send_snapshot(envelope, Box::new(FakeCapture { last: last(index), ..capture }));
    }

    /// Waits for the end of a snapshot's transfer. Returns to whom it was, and whether it arrived.
    pub fn sent(&self) -> (NodeId, bool) {
        loop {
            if let Report::Sent(to, arrived) = self.reports.recv_timeout(PATIENCE).expect("the transfer ends") {
                return (to, arrived);
            }
        }
    }

    /// The next message for the core.
    pub fn receive(&self) -> Envelope {
        self.inbox.recv_timeout(PATIENCE).expect("a message arrives")
    }

    pub fn status(&self, peer: NodeId) -> PeerStatus {
        self.transport.peers().into_iter().find(|status| status.id == peer).expect("there is a link")
    }

    pub fn wait_connected(&self, peer: NodeId) {
        eventually("connected", || self.status(peer).connected);
    }

    /// Waits until the link to the peer complains, and returns the complaint.
    pub fn wait_problem(&self, peer: NodeId, part: &str) -> String {
        eventually(part, || self.status(peer).problem.contains(part));
        self.status(peer).problem
    }

    /// Ends as a killed process does: at once, and all its sockets with it.
    pub fn kill(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(PATIENCE);
        }
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Waits until something holds.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The membership in which all of these vote.
pub fn membership(members: impl IntoIterator<Item = (NodeId, Member)>) -> Membership {
    Membership::of_voters(members.into_iter().collect::<BTreeMap<_, _>>())
}

/// Makes all of these know each other, and waits for their connections.
pub fn connect(nodes: &[&TestNode]) {
    let membership = membership(nodes.iter().map(|node| node.member()));
    for node in nodes {
        node.transport.use_membership(&membership);
    }
    for node in nodes {
        for peer in nodes.iter().filter(|peer| peer.id() != node.id()) {
            node.wait_connected(peer.id());
        }
    }
}

/// A heartbeat that can be told from others by its round.
pub fn heartbeat(round: u64) -> Message {
    append(0, round, Vec::new())
}

/// Entries of term 1 after `prev`, with these commands.
pub fn append(prev: u64, round: u64, commands: Vec<Bytes>) -> Message {
    let entries = (prev + 1..)
        .zip(commands)
        .map(|(index, command)| Entry { id: EntryId::new(Index(index), Term(1)), payload: Payload::Command(command) });
    let prev = EntryId::new(Index(prev), Term(u64::from(prev > 0)));
    Message::AppendEntries(AppendEntries { prev, entries: entries.collect(), commit: Index(0), round: Round(round) })
}

pub fn accepted(round: u64) -> Message {
    let result = AppendResult::Accepted { matched: Index(round) };
    Message::AppendEntriesReply(AppendEntriesReply { round: Round(round), result })
}

pub fn request_vote() -> Message {
    Message::RequestVote { last: EntryId::new(Index(3), Term(2)), transfer: true }
}

pub fn request_pre_vote() -> Message {
    Message::RequestPreVote { last: EntryId::new(Index(3), Term(2)) }
}

/// The round of a heartbeat or append.
pub fn round(envelope: &Envelope) -> u64 {
    match &envelope.message {
        Message::AppendEntries(append) => append.round.0,
        other => panic!("not an AppendEntries: {other:?}"),
    }
}

/// A way to a node that can be cut without either side being told, as when a machine vanishes.
pub struct Proxy {
    pub address: String,
    frozen: Arc<tokio::sync::watch::Sender<bool>>,
    cuts: Arc<tokio::sync::watch::Sender<u64>>,
    _runtime: Runtime,
}

impl Proxy {
    pub fn to(target: &str) -> Self {
        let runtime = runtime();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let frozen = Arc::new(tokio::sync::watch::Sender::new(false));
        let cuts = Arc::new(tokio::sync::watch::Sender::new(0));
        let (target, freeze, cut) = (target.to_owned(), Arc::clone(&frozen), Arc::clone(&cuts));
        runtime.spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let (target, mut frozen, mut cut) = (target.clone(), freeze.subscribe(), cut.subscribe());
                tokio::spawn(async move {
                    let mut server = tokio::net::TcpStream::connect(target).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => (),
                        _ = cut.changed() => return,
                        _ = async { frozen.wait_for(|frozen| *frozen).await.map(|_| ()) } => (),
                    }
                    // Holds both sockets open, and reads from neither.
                    std::future::pending::<()>().await;
                });
            }
        });
        Self { address, frozen, cuts, _runtime: runtime }
    }

    /// Closes all connections. New ones are made as before.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// From now on nothing passes, and nothing is closed.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }
}

/// The last entry of a snapshot.
pub fn last(index: u64) -> EntryId {
    EntryId::new(Index(index), Term(3))
}

/// A snapshot's message. Its membership has something of everything.
pub fn install(index: u64) -> Message {
    let record =
        |id: u64| (NodeId(id), Member { address: format!("m{id}:1"), incarnation: Incarnation(id), priority: 7 });
    let membership = Membership {
        outgoing: [NodeId(2)].into(),
        learners: [NodeId(3)].into(),
        promotable: [NodeId(3)].into(),
        stays_joint: true,
        voters: [NodeId(1)].into(),
        members: (1..=3).map(record).collect(),
    };
    let snapshot = Snapshot { last: last(index), membership: membership.into() };
    Message::InstallSnapshot(InstallSnapshot { snapshot, round: Round(9) })
}

/// The byte of a fake state at an offset. No two megabytes of it are alike.
pub fn content(offset: u64) -> u8 {
    (offset ^ (offset >> 8) ^ (offset >> 16) ^ (offset >> 24)) as u8
}

/// A state of any size that takes no memory.
pub struct FakeCapture {
    pub last: EntryId,
    pub size_bytes: u64,
    /// How many bytes were read, all in all.
    pub read: Arc<Mutex<u64>>,
    pub fails: bool,
}

impl FakeCapture {
    pub fn of(size_bytes: u64) -> Self {
        Self { last: EntryId::ZERO, size_bytes, read: Arc::default(), fails: false }
    }
}

impl Capture for FakeCapture {
    fn last(&self) -> EntryId {
        self.last
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&mut self, offset: u64, max_bytes: usize) -> Result<Bytes, SnapshotError> {
        if self.fails {
            return Err("a bad sector".into());
        }
        let end = self.size_bytes.min(offset + max_bytes as u64);
        *self.read.lock().unwrap() += end - offset;
        Ok((offset..end).map(content).collect())
    }
}

/// Checks what arrives and forgets it.
#[derive(Default)]
pub struct FakeStaging {
    pub state: Mutex<Staged>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub struct Staged {
    pub capture: u64,
    pub last: EntryId,
    pub size_bytes: u64,
    pub received: u64,
    pub finished: u64,
    /// Where each transfer began or went on.
    pub begun: Vec<u64>,
    /// How many bytes were written, all in all.
    pub written: u64,
    /// The call that fails.
    pub fails: &'static str,
    /// The call that does not return.
    pub stalls: &'static str,
}

impl FakeStaging {
    pub fn set(&self, change: impl FnOnce(&mut Staged)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    pub fn get<T>(&self, read: impl FnOnce(&Staged) -> T) -> T {
        read(&self.state.lock().unwrap())
    }

    fn enter(&self, call: &str) -> Result<std::sync::MutexGuard<'_, Staged>, SnapshotError> {
        let state = self.state.lock().unwrap();
        let (state, _) = self.changed.wait_timeout_while(state, PATIENCE, |state| state.stalls == call).unwrap();
        if state.fails == call { Err(format!("{call} fails: disk full").into()) } else { Ok(state) }
    }
}

impl Staging for FakeStaging {
    fn begin(&self, capture: u64, last: EntryId, size_bytes: u64) -> Result<u64, SnapshotError> {
        let mut state = self.enter("begin")?;
        if state.capture != capture {
            (state.capture, state.last, state.size_bytes, state.received) = (capture, last, size_bytes, 0);
        }
        let received = state.received;
        state.begun.push(received);
        Ok(received)
    }

    fn write(&self, capture: u64, offset: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        let mut state = self.enter("write")?;
        let expected = (offset..).map(content).take(bytes.len());
        if (state.capture, state.received) != (capture, offset) || !expected.eq(bytes.iter().copied()) {
            return Err(format!("this is not what follows {state:?}").into());
        }
        state.received += bytes.len() as u64;
        state.written += bytes.len() as u64;
        Ok(())
    }

    fn finish(&self, capture: u64) -> Result<(), SnapshotError> {
        let mut state = self.enter("finish")?;
        if state.capture != capture || state.received != state.size_bytes {
            return Err("it is not whole".into());
        }
        state.finished += 1;
        Ok(())
    }
}
