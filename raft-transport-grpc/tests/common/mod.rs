//! Nodes for tests: a transport behind a real server on a loopback port, each on a runtime of its own, so that one can be
//! killed as a process would be.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::membership::Membership;
use raft_core::message::{AppendEntries, AppendEntriesReply, AppendResult, Envelope, Message};
use raft_core::port::Transport;
use raft_core::types::{ClusterId, Entry, EntryId, Identity, Incarnation, Index, Member, NodeId, Payload, Round, Term};
use raft_transport_grpc::{AppendEntriesStream, GrpcTransport, Options, PeerStatus};
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
    runtime: Option<Runtime>,
}

/// Delegates to a transport, as the server of RaftKV does.
struct Service(GrpcTransport);

#[tonic::async_trait]
impl RaftService for Service {
    type AppendEntriesStream = AppendEntriesStream;

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
        let runtime = runtime();
        let listener = bind(&runtime, address);
        let address = listener.local_addr().unwrap().to_string();
        let (sender, inbox) = mpsc::channel();
        let deliver = move |envelope| sender.send(envelope).is_ok();
        let handle = runtime.handle().clone();
        let transport = GrpcTransport::new(identity, address.clone(), options.clone(), handle, deliver);
        serve(&runtime, listener, &options, Service(transport.clone()));
        Self { identity, address, transport, inbox, runtime: Some(runtime) }
    }

    pub fn id(&self) -> NodeId {
        self.identity.node
    }

    /// What a membership records of it.
    pub fn member(&self) -> (NodeId, Member) {
        (self.id(), Member { address: self.address.clone(), incarnation: self.identity.incarnation })
    }

    pub fn send(&self, to: NodeId, term: u64, message: Message) {
        self.transport.send(Envelope { from: self.id(), to, term: Term(term), message });
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
    Message::RequestVote { last: EntryId::new(Index(3), Term(2)) }
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
    _runtime: Runtime,
}

impl Proxy {
    pub fn to(target: &str) -> Self {
        let runtime = runtime();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let frozen = Arc::new(tokio::sync::watch::Sender::new(false));
        let (target, freeze) = (target.to_owned(), Arc::clone(&frozen));
        runtime.spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let (target, mut frozen) = (target.clone(), freeze.subscribe());
                tokio::spawn(async move {
                    let mut server = tokio::net::TcpStream::connect(target).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => (),
                        _ = async { frozen.wait_for(|frozen| *frozen).await.map(|_| ()) } => (),
                    }
                    // Holds both sockets open, and reads from neither.
                    std::future::pending::<()>().await;
                });
            }
        });
        Self { address, frozen, _runtime: runtime }
    }

    /// From now on nothing passes, and nothing is closed.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }
}
