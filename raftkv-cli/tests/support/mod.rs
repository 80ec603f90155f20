//! A cluster that is not one: nodes that share a map, speak the real protocol, and misbehave on request.

#![allow(dead_code, unreachable_pub)]

use prost::Message;
use raftkv_proto::raft::v1::raft_service_server::{RaftService, RaftServiceServer};
use raftkv_proto::raft::v1::{self as raft, Outcome, SubmitCommandReply, SubmitCommandRequest};
use raftkv_proto::raftkv::v1::cluster_server::{Cluster, ClusterServer};
use raftkv_proto::raftkv::v1::kv_server::{Kv, KvServer};
use raftkv_proto::raftkv::v1::maintenance_server::{Maintenance, MaintenanceServer};
use raftkv_proto::raftkv::v1::sql_server::{Sql, SqlServer};
use raftkv_proto::raftkv::v1::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::sleep;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};

/// All fakes run here, so that tests that block leave them alone.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// What a node does with one request.
#[derive(Clone, Debug)]
pub enum Act {
    /// Carries it out and answers.
    Serve,
    /// Names another as the leader.
    NotLeader(u64, String),
    NoLeader,
    NotBegun,
    /// Asks to come back after so many milliseconds.
    Busy(u64),
    Fail(&'static str),
    Refuse(&'static str),
    /// Carries it out, but the answer gets lost.
    ServeAndLose,
    /// Does not know what became of it.
    Unsure,
    /// Says that the answer is no longer kept.
    Forget,
    /// Says that the session has ended, at this time of the cluster.
    Expire(u64),
    /// Carries it out after a while.
    ServeAfter(Duration),
    /// Answers with a bare gRPC code, as something that is not RaftKV would.
    Code(Code),
}

/// What every node has seen and done, in order of arrival.
#[derive(Default)]
pub struct State {
    pub keys: BTreeMap<Vec<u8>, KeyValue>,
    pub revision: u64,
    /// How often writes were really applied.
    pub applied: u64,
    /// The answers kept for retries: whether the key existed.
    answers: BTreeMap<(Vec<u8>, u64), bool>,
    pub seen: Vec<Seen>,
}

/// A request, as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub node: u64,
    pub at: Instant,
    pub what: String,
    pub client_id: Vec<u8>,
    pub opened_ms: u64,
    pub sequence: u64,
    pub answered: u64,
    pub statements: Vec<Statement>,
}

/// A node: what it does next, and for ever after.
#[derive(Clone)]
pub struct Node {
    pub id: u64,
    pub address: String,
    script: Arc<Mutex<VecDeque<Act>>>,
    always: Arc<Mutex<Act>>,
    status: Arc<Mutex<StatusReply>>,
    /// What it says of checksums, one after the other; the last for ever.
    pub checksums: Arc<Mutex<VecDeque<ChecksumsReply>>>,
    pub state: Arc<Mutex<State>>,
}

/// Starts `count` nodes with ids from 1. All serve.
pub fn start(count: u64) -> Vec<Node> {
    let state = Arc::new(Mutex::new(State { revision: 1, ..State::default() }));
    let nodes: Vec<Node> = (1..=count).map(|id| Node::start(id, state.clone())).collect();
    let member = |node: &Node| MemberStatus {
        id: node.id,
        address: node.address.clone(),
        voter: true,
        match_index: 7,
        active: true,
        role: MemberRole::Voter.into(),
        incarnation: 100 + node.id,
        progress: if node.id == 1 { Progress::Unspecified } else { Progress::Replicate }.into(),
        next_index: 8,
        ..MemberStatus::default()
    };
    let members: Vec<MemberStatus> = nodes.iter().map(member).collect();
    for node in &nodes {
        let role = if node.id == 1 { "leader" } else { "follower" };
        *node.status.lock().unwrap() = StatusReply {
            node_id: node.id,
            address: node.address.clone(),
            cluster_id: u64::MAX,
            role: role.to_owned(),
            term: 3,
            leader_id: 1,
            leader_address: nodes[0].address.clone(),
            commit_index: 7,
            applied_index: 8 - node.id,
            last_index: 7,
            revision: 5,
            members: members.clone(),
            version: "0.1.0".to_owned(),
            first_index: 1,
            ..StatusReply::default()
        };
    }
    nodes
}

/// The addresses of nodes, as the client wants them.
pub fn endpoints(nodes: &[Node]) -> Vec<String> {
    nodes.iter().map(|node| node.address.clone()).collect()
}

/// An address where nobody listens.
pub fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// An address where connections are taken and nothing is ever said, as a paused process does.
pub fn silent() -> String {
    let (listener, address) = outside(listen());
    RUNTIME.spawn(async move {
        let mut connections = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            connections.push(connection);
        }
    });
    address
}

/// Waits for a future on the fakes' runtime, also where the caller is inside a runtime of its own.
fn outside<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    std::thread::spawn(move || RUNTIME.block_on(future)).join().unwrap()
}

/// An address where connections are taken, listened to for a moment and closed without a word.
pub fn breaking() -> String {
    let (listener, address) = outside(listen());
    RUNTIME.spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            RUNTIME.spawn(async move {
                let mut ignored = tokio::io::sink();
                let read = tokio::io::copy(&mut connection, &mut ignored);
                let _ = tokio::time::timeout(Duration::from_millis(50), read).await;
            });
        }
    });
    address
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

impl Node {
    fn start(id: u64, state: Arc<Mutex<State>>) -> Self {
        outside(Self::serve(id, state))
    }

    async fn serve(id: u64, state: Arc<Mutex<State>>) -> Self {
        let (listener, address) = listen().await;
        let node = Self {
            id,
            address,
            script: Arc::default(),
            always: Arc::new(Mutex::new(Act::Serve)),
            status: Arc::default(),
            checksums: Arc::default(),
            state,
        };
        let server = tonic::transport::Server::builder()
            .add_service(KvServer::new(node.clone()).max_decoding_message_size(64 << 20))
            .add_service(SqlServer::new(node.clone()))
            .add_service(ClusterServer::new(node.clone()))
            .add_service(MaintenanceServer::new(node.clone()))
            .add_service(RaftServiceServer::new(node.clone()));
        RUNTIME.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        node
    }

    /// Does this next, once, after what it was told before.
    pub fn next(&self, act: Act) {
        self.script.lock().unwrap().push_back(act);
    }

    /// Does this whenever nothing else is due.
    pub fn always(&self, act: Act) {
        *self.always.lock().unwrap() = act;
    }

    /// What the node says of itself.
    pub fn change_status(&self, change: impl FnOnce(&mut StatusReply)) {
        change(&mut self.status.lock().unwrap());
    }

    /// The requests that this node has seen.
    pub fn seen(&self) -> Vec<Seen> {
        let state = self.state.lock().unwrap();
        state.seen.iter().filter(|seen| seen.node == self.id).cloned().collect()
    }

    fn header(&self) -> Option<AnswerHeader> {
        let revision = self.state.lock().unwrap().revision;
        Some(AnswerHeader { node_id: self.id, revision, applied_index: revision })
    }

    fn saw(&self, what: impl Into<String>, session: Option<Session>, statements: Vec<Statement>) {
        let Session { client_id, sequence, answered, opened_ms } = session.unwrap_or_default();
        let seen = Seen {
            node: self.id,
            at: Instant::now(),
            what: what.into(),
            client_id: client_id.to_vec(),
            opened_ms,
            sequence,
            answered,
            statements,
        };
        self.state.lock().unwrap().seen.push(seen);
    }

    /// Plays the next act; `serve` is what it does if it serves.
    async fn act<T>(&self, serve: impl FnOnce() -> T) -> Result<Response<T>, Status> {
        let act = self.script.lock().unwrap().pop_front();
        match act.unwrap_or_else(|| self.always.lock().unwrap().clone()) {
            Act::Serve => Ok(Response::new(serve())),
            Act::ServeAfter(pause) => {
                sleep(pause).await;
                Ok(Response::new(serve()))
            }
            Act::ServeAndLose => {
                serve();
                Err(Status::unavailable("the connection broke"))
            }
            Act::Code(code) => Err(Status::new(code, "no idea")),
            Act::NotLeader(leader_id, leader_address) => {
                let detail = ErrorDetail { leader_id, leader_address, ..reason(Reason::NotLeader) };
                Err(error(Code::Unavailable, "not the leader", &detail))
            }
            Act::NoLeader => Err(error(Code::Unavailable, "no leader", &reason(Reason::NoLeader))),
            Act::NotBegun => Err(error(Code::Unavailable, "waits", &reason(Reason::NotBegun))),
            Act::Busy(retry_after_ms) => {
                let detail = ErrorDetail { retry_after_ms, ..reason(Reason::Busy) };
                Err(error(Code::ResourceExhausted, "too much is waiting", &detail))
            }
            Act::Fail(message) => Err(error(Code::FailedPrecondition, message, &reason(Reason::Failed))),
            Act::Refuse(message) => Err(error(Code::InvalidArgument, message, &reason(Reason::Invalid))),
            Act::Forget => {
                let detail = ErrorDetail { forgotten: true, ..reason(Reason::OutcomeUnknown) };
                Err(error(Code::Unknown, "no longer kept", &detail))
            }
            Act::Expire(log_time_ms) => {
                let detail = ErrorDetail { log_time_ms, ..reason(Reason::SessionExpired) };
                Err(error(Code::Aborted, "the session has ended", &detail))
            }
            Act::Unsure => Err(error(Code::Unknown, "stepped down", &reason(Reason::OutcomeUnknown))),
        }
    }

    /// Applies a write once for each session and sequence. Returns whether the key existed.
    fn write(&self, key: &[u8], value: Option<&[u8]>, session: &Session) -> bool {
        let mut state = self.state.lock().unwrap();
        let id = (session.client_id.to_vec(), session.sequence);
        if let Some(existed) = state.answers.get(&id) {
            return *existed;
        }
        state.applied += 1;
        state.revision += 1;
        let revision = state.revision;
        let old = state.keys.remove(key);
        if let Some(value) = value {
            let entry = KeyValue {
                key: key.to_vec().into(),
                value: value.to_vec().into(),
                create_revision: old.as_ref().map_or(revision, |old| old.create_revision),
                mod_revision: revision,
                version: old.as_ref().map_or(0, |old| old.version) + 1,
                lease: 0,
            };
            state.keys.insert(key.to_vec(), entry);
        }
        state.answers.insert(id, old.is_some());
        old.is_some()
    }
}

fn reason(reason: Reason) -> ErrorDetail {
    ErrorDetail { reason: reason.into(), ..ErrorDetail::default() }
}

fn error(code: Code, message: &str, detail: &ErrorDetail) -> Status {
    Status::with_details(code, message, detail.encode_to_vec().into())
}

#[tonic::async_trait]
impl Kv for Node {
    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutReply>, Status> {
        let PutRequest { key, value, session, .. } = request.into_inner();
        self.saw("put", session.clone(), Vec::new());
        self.act(|| {
            let replaced = self.write(&key, Some(&value), &session.unwrap_or_default());
            PutReply { header: self.header(), replaced, previous: None }
        })
        .await
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetReply>, Status> {
        let GetRequest { key, .. } = request.into_inner();
        self.saw("get", None, Vec::new());
        self.act(|| {
            let entry = self.state.lock().unwrap().keys.get(&key.to_vec()).cloned();
            GetReply { header: self.header(), entry }
        })
        .await
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteReply>, Status> {
        let DeleteRequest { key, session, .. } = request.into_inner();
        self.saw("delete", session.clone(), Vec::new());
        self.act(|| {
            let existed = self.write(&key, None, &session.unwrap_or_default());
            DeleteReply { header: self.header(), deleted: existed.into(), previous: Vec::new() }
        })
        .await
    }

    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<RangeReply>, Status> {
        Err(Status::unimplemented("not told here"))
    }

    async fn compact(&self, _: Request<CompactRequest>) -> Result<Response<CompactReply>, Status> {
        Err(Status::unimplemented("not told here"))
    }
}

#[tonic::async_trait]
impl Sql for Node {
    type QueryStream = ReceiverStream<Result<QueryReply, Status>>;

    async fn query(&self, _: Request<QueryRequest>) -> Result<Response<Self::QueryStream>, Status> {
        Err(Status::unimplemented("not told here"))
    }

    /// A SELECT returns one row of everything; anything else affects as many rows as it has parameters.
    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<ExecuteReply>, Status> {
        let ExecuteRequest { statements, session, .. } = request.into_inner();
        self.saw("execute", session, statements.clone());
        self.act(|| ExecuteReply { header: self.header(), results: statements.iter().map(result).collect() }).await
    }
}

fn result(statement: &Statement) -> StatementResult {
    use value::Kind;
    if !statement.sql.to_ascii_uppercase().starts_with("SELECT") {
        let rows_affected = statement.parameters.len() as u64;
        return StatementResult { rows_affected, last_insert_id: 9, ..StatementResult::default() };
    }
    let kinds = [
        Some(Kind::Integer(i64::MIN)),
        Some(Kind::Real(1.0)),
        Some(Kind::Text("a\tb".into())),
        Some(Kind::Blob(vec![0, 255].into())),
        None,
    ];
    StatementResult {
        columns: ["i", "r", "t", "b", "n"].map(str::to_owned).to_vec(),
        rows: vec![Row { values: kinds.into_iter().map(|kind| Value { kind }).collect() }],
        ..StatementResult::default()
    }
}

#[tonic::async_trait]
impl Cluster for Node {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        Ok(Response::new(self.status.lock().unwrap().clone()))
    }

    async fn list_members(&self, _: Request<ListMembersRequest>) -> Result<Response<ListMembersReply>, Status> {
        let StatusReply { cluster_id, members, .. } = self.status.lock().unwrap().clone();
        self.act(|| ListMembersReply { node_id: self.id, cluster_id, members }).await
    }

    async fn add_member(&self, request: Request<AddMemberRequest>) -> Result<Response<MembershipReply>, Status> {
        self.change(format!("{:?}", request.into_inner())).await
    }

    async fn promote_member(
        &self,
        request: Request<PromoteMemberRequest>,
    ) -> Result<Response<MembershipReply>, Status> {
        self.change(format!("{:?}", request.into_inner())).await
    }

    async fn demote_member(&self, request: Request<DemoteMemberRequest>) -> Result<Response<MembershipReply>, Status> {
        self.change(format!("{:?}", request.into_inner())).await
    }

    async fn remove_member(&self, request: Request<RemoveMemberRequest>) -> Result<Response<MembershipReply>, Status> {
        self.change(format!("{:?}", request.into_inner())).await
    }

    async fn update_member(&self, request: Request<UpdateMemberRequest>) -> Result<Response<MembershipReply>, Status> {
        self.change(format!("{:?}", request.into_inner())).await
    }

    async fn replace_member(
        &self,
        request: Request<ReplaceMemberRequest>,
    ) -> Result<Response<MembershipReply>, Status> {
        self.change(format!("{:?}", request.into_inner())).await
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderReply>, Status> {
        let TransferLeaderRequest { to } = request.into_inner();
        self.saw(format!("transfer to {to}"), None, Vec::new());
        let leader_id = if to == 0 { 2 } else { to };
        let reply = TransferLeaderReply { node_id: self.id, leader_id, term: 4, ..TransferLeaderReply::default() };
        self.act(|| reply).await
    }
}

#[tonic::async_trait]
impl Maintenance for Node {
    type BackupStream = tokio_stream::Iter<std::vec::IntoIter<Result<BackupReply, Status>>>;

    /// A backup of ten bytes, of which node 2 leaves out the last, and node 3 sends some that are not what it says.
    async fn backup(&self, _: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let header = Some(BackupHeader { header: self.header(), cluster_id: 7, size_bytes: 10 });
        let piece = |data: &'static str| {
            let crc32c = crc32c::crc32c(if self.id == 3 { b"other" } else { data.as_bytes() });
            Ok(BackupReply { data: data.into(), crc32c, ..BackupReply::default() })
        };
        let mut replies = vec![Ok(BackupReply { header, ..BackupReply::default() }), piece("SQLite"), piece("file")];
        if self.id == 2 {
            replies.pop();
        }
        Ok(Response::new(tokio_stream::iter(replies)))
    }

    async fn verify(&self, _: Request<VerifyRequest>) -> Result<Response<VerifyReply>, Status> {
        self.saw("verify".to_owned(), None, Vec::new());
        self.act(|| VerifyReply { node_id: self.id, index: 9 }).await
    }

    async fn checksums(&self, request: Request<ChecksumsRequest>) -> Result<Response<ChecksumsReply>, Status> {
        assert_eq!(request.into_inner().index, 9);
        let mut replies = self.checksums.lock().unwrap();
        let reply = if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() };
        Ok(Response::new(reply.ok_or_else(|| Status::unavailable("it is stopping"))?))
    }
}

#[tonic::async_trait]
impl RaftService for Node {
    type AppendEntriesStream = tokio_stream::Pending<Result<raft::AppendEntriesReply, Status>>;
    type InstallSnapshotStream = tokio_stream::Pending<Result<raft::InstallSnapshotReply, Status>>;

    async fn identify(&self, _: Request<raft::IdentifyRequest>) -> Result<Response<raft::IdentifyReply>, Status> {
        Err(Status::unimplemented("a fake has no peers"))
    }

    async fn request_vote(
        &self,
        _: Request<raft::RequestVoteRequest>,
    ) -> Result<Response<raft::RequestVoteReply>, Status> {
        Err(Status::unimplemented("a fake has no peers"))
    }

    async fn append_entries(
        &self,
        _: Request<Streaming<raft::AppendEntriesRequest>>,
    ) -> Result<Response<Self::AppendEntriesStream>, Status> {
        Err(Status::unimplemented("a fake has no peers"))
    }

    async fn install_snapshot(
        &self,
        _: Request<Streaming<raft::InstallSnapshotRequest>>,
    ) -> Result<Response<Self::InstallSnapshotStream>, Status> {
        Err(Status::unimplemented("a fake has no peers"))
    }

    async fn timeout_now(
        &self,
        _: Request<raft::TimeoutNowRequest>,
    ) -> Result<Response<raft::TimeoutNowReply>, Status> {
        Err(Status::unimplemented("a fake has no peers"))
    }

    async fn read_index(&self, _: Request<raft::ReadIndexRequest>) -> Result<Response<raft::ReadIndexReply>, Status> {
        Err(Status::unimplemented("a fake has no peers"))
    }

    async fn compare_checksums(
        &self,
        _: Request<raft::CompareChecksumsRequest>,
    ) -> Result<Response<raft::CompareChecksumsReply>, Status> {
        Err(Status::unimplemented("a fake has no peers"))
    }

    async fn submit_command(
        &self,
        request: Request<SubmitCommandRequest>,
    ) -> Result<Response<SubmitCommandReply>, Status> {
        let SubmitCommandRequest { command, client_id, sequence, answered, opened_ms } = request.into_inner();
        let session = Session { client_id, opened_ms, sequence, answered };
        self.saw(command.clone(), Some(session.clone()), Vec::new());
        let answer = self.act(|| self.run(&command, &session)).await;
        Ok(Response::new(answer.map_or_else(|status| in_reply(self.id, &status), Response::into_inner)))
    }
}

impl Node {
    /// Notes a change of the membership, and says that it is done, or, from the second time on, that there was nothing to do.
    async fn change(&self, what: String) -> Result<Response<MembershipReply>, Status> {
        let changed = self.seen().iter().all(|seen| seen.what != what);
        self.saw(what, None, Vec::new());
        let StatusReply { cluster_id, members, .. } = self.status.lock().unwrap().clone();
        self.act(|| MembershipReply { node_id: self.id, cluster_id, members, changed }).await
    }

    fn run(&self, command: &str, session: &Session) -> SubmitCommandReply {
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        let mut reply = SubmitCommandReply { success: true, node_id: self.id, ..SubmitCommandReply::default() };
        reply.set_outcome(Outcome::Ok);
        match verb {
            "set" => drop(self.write(key.as_bytes(), Some(value.as_bytes()), session)),
            "del" => drop(self.write(key.as_bytes(), None, session)),
            _ => match self.state.lock().unwrap().keys.get(key.as_bytes()) {
                Some(entry) => reply.result = String::from_utf8_lossy(&entry.value).into_owned(),
                None => reply.set_outcome(Outcome::NotFound),
            },
        }
        reply.revision = self.state.lock().unwrap().revision;
        reply
    }
}

/// SubmitCommand tells in its reply what the other calls tell in an error.
fn in_reply(node_id: u64, status: &Status) -> SubmitCommandReply {
    let detail = ErrorDetail::decode(status.details()).unwrap();
    let outcome = match detail.reason() {
        Reason::NotLeader => Outcome::NotLeader,
        Reason::NoLeader | Reason::NotBegun | Reason::TooStale => Outcome::NoLeader,
        Reason::Invalid => Outcome::Invalid,
        Reason::Failed | Reason::Unexpected | Reason::NoSuchLease | Reason::Compacted => Outcome::Failed,
        Reason::Busy => Outcome::Busy,
        Reason::NoRoom => Outcome::NoRoom,
        Reason::SessionExpired => Outcome::SessionExpired,
        Reason::OutcomeUnknown | Reason::Unspecified => Outcome::Unknown,
    };
    SubmitCommandReply {
        outcome: outcome.into(),
        error: status.message().to_owned(),
        leader_id: detail.leader_id,
        leader_address: detail.leader_address,
        node_id,
        forgotten: detail.forgotten,
        log_time_ms: detail.log_time_ms,
        ..SubmitCommandReply::default()
    }
}

/// Waits for a condition; panics if it does not come true within 5 seconds.
pub fn wait_until(mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(5), "waited in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}
