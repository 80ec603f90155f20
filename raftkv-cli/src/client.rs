//! The client: what a program calls.

use crate::backup::Backup;
use crate::call::{self, Request};
use crate::error::{Error, Trouble, TroubleKind};
use crate::keys::{Consistency, KeyRange, Lookup};
use crate::program::Program;
use crate::query::Rows;
use crate::requests::Sorted;
use crate::router::Router;
use crate::session::{Session, Ticket};
use crate::statement::Statement;
use crate::verdict::Verdict;
use bytes::Bytes;
use raftkv_proto::MAX_REQUEST_BYTES;
use raftkv_proto::raft::v1::{SubmitCommandReply, SubmitCommandRequest};
use raftkv_proto::raftkv::v1::{
    AddMemberRequest, BackupRequest, ChecksumsReply, ChecksumsRequest, CompactReply, CompactRequest, DeleteReply,
    DeleteRequest, DemoteMemberRequest, ExecuteReply, ExecuteRequest, GetReply, GetRequest, GrantLeaseReply,
    GrantLeaseRequest, KeepLeaseReply, KeepLeaseRequest, ListLeasesReply, ListLeasesRequest, ListMembersReply,
    ListMembersRequest, MembershipReply, PromoteMemberRequest, PutReply, PutRequest, QueryRequest, RangeReply,
    RangeRequest, RemoveMemberRequest, ReplaceMemberRequest, RevokeLeaseReply, RevokeLeaseRequest, RunReply,
    RunRequest, Session as SessionFields, StatusReply, StatusRequest, TransferLeaderReply, TransferLeaderRequest,
    UpdateMemberRequest, VerifyReply, VerifyRequest,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Asking a single node how it is waits no longer than this: a node that takes longer is not well.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// A client of a RaftKV cluster. Clones share connections and identity; use one from as many tasks as you like.
///
/// Every call finds the leader by itself, waits out elections, and retries until its timeout; a write is applied once
/// however often it was sent. An error says whether a write can have happened: [`Error::OutcomeUnknown`] means that it
/// may have, every other error that it has not.
///
/// Dropping a call's future abandons the call; a write may then have happened.
#[derive(Clone)]
pub struct Client {
    router: Arc<Router>,
    session: Arc<Session>,
    timeout: Duration,
    consistency: Consistency,
}

/// Sets a [`Client`] up.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    timeout: Duration,
}

impl ClientBuilder {
    /// Adds nodes to ask first, each `host:port`. Some of the nodes are enough, as long as one of them runs: the
    /// leader's address is learnt from them.
    #[must_use]
    pub fn endpoints(mut self, endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.endpoints.extend(endpoints.into_iter().map(Into::into));
        self
    }

    /// How long a call may take, retries included; 5 seconds by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The client. Connections are made when they are first needed.
    ///
    /// # Errors
    /// [`Error::Config`] if no endpoint was given or one is malformed.
    pub fn build(self) -> Result<Client, Error> {
        let router = Arc::new(Router::new(self.endpoints)?);
        let consistency = Consistency::default();
        Ok(Client { router, session: Arc::default(), timeout: self.timeout, consistency })
    }
}

impl Client {
    /// Begins to set up a client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder { endpoints: Vec::new(), timeout: TIMEOUT_DEFAULT }
    }

    /// The same client with another timeout for each call.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same client whose reads are as fresh as this says. Without it they are linearizable: an answer is no older than its call.
    #[must_use]
    pub fn with_consistency(&self, consistency: Consistency) -> Self {
        Self { consistency, ..self.clone() }
    }

    /// Sets `key` to `value`.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<PutReply, Error> {
        self.put_under(0, key, value).await
    }

    /// Sets `key` to `value`, until `lease` is over.
    pub async fn put_under(
        &self,
        lease: u64,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<PutReply, Error> {
        let request = PutRequest { key: key.into(), value: value.into(), lease, ..PutRequest::default() };
        self.write(|session| PutRequest { session: Some(session), ..request.clone() }).await
    }

    /// Reads `key`.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<GetReply, Error> {
        self.get_at(0, key).await
    }

    /// Reads `key` as it was at a revision; 0 stands for now.
    pub async fn get_at(&self, revision: u64, key: impl Into<Bytes>) -> Result<GetReply, Error> {
        self.call(GetRequest { key: key.into(), consistency: Some(self.consistency.into()), revision }).await
    }

    /// Reads keys.
    pub async fn find(&self, lookup: Lookup) -> Result<RangeReply, Error> {
        self.call(RangeRequest { lookup: Some(lookup.into()), consistency: Some(self.consistency.into()) }).await
    }

    /// Deletes keys, as many as there are of those meant.
    pub async fn delete(&self, range: impl Into<KeyRange>) -> Result<DeleteReply, Error> {
        let request = match range.into() {
            KeyRange::Key(key) => DeleteRequest { key, ..DeleteRequest::default() },
            range => DeleteRequest { range: Some(range.into()), ..DeleteRequest::default() },
        };
        self.write(|session| DeleteRequest { session: Some(session), ..request.clone() }).await
    }

    /// Runs a program: all of its steps, or none.
    pub async fn run(&self, program: Program) -> Result<RunReply, Error> {
        let only_reads = program.only_reads();
        let consistency = Some(self.consistency.into());
        let request = RunRequest { steps: program.into_steps(), session: None, consistency };
        let request = |session| RunRequest { session: Some(session), ..request.clone() };
        self.write(|session| Sorted { request: request(session), only_reads }).await
    }

    /// Makes a lease that lasts for `ttl` unless it is kept alive: with the number `lease`, or with one of its own.
    pub async fn grant_lease(&self, ttl: Duration, lease: Option<u64>) -> Result<GrantLeaseReply, Error> {
        let (lease, ttl_ms) = (lease.unwrap_or_default(), u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        self.write(|session| GrantLeaseRequest { lease, ttl_ms, session: Some(session) }).await
    }

    /// Lets a lease last anew, from now on.
    pub async fn keep_lease(&self, lease: u64) -> Result<KeepLeaseReply, Error> {
        self.call(KeepLeaseRequest { lease }).await
    }

    /// Ends a lease, and deletes its keys.
    pub async fn revoke_lease(&self, lease: u64) -> Result<RevokeLeaseReply, Error> {
        self.write(|session| RevokeLeaseRequest { lease, session: Some(session) }).await
    }

    /// The leases, or only the one; with their keys, if `keys`.
    pub async fn leases(&self, only: Option<u64>, keys: bool) -> Result<ListLeasesReply, Error> {
        let consistency = Some(self.consistency.into());
        self.call(ListLeasesRequest { lease: only.unwrap_or_default(), keys, consistency }).await
    }

    /// Forgets what keys were before `revision`, and the changes up to it.
    pub async fn compact(&self, revision: u64) -> Result<CompactReply, Error> {
        self.call(CompactRequest { revision }).await
    }

    /// Runs SQL statements as one atomic command: all of them, or none if one fails.
    pub async fn sql(&self, statements: impl IntoIterator<Item = impl Into<Statement>>) -> Result<ExecuteReply, Error> {
        let statements: Vec<Statement> = statements.into_iter().map(Into::into).collect();
        let only_reads = statements.iter().all(Statement::only_reads);
        let statements: Vec<_> = statements.into_iter().map(Into::into).collect();
        let consistency = Some(self.consistency.into());
        let request = |session| ExecuteRequest { statements: statements.clone(), session: Some(session), consistency };
        self.write(|session| Sorted { request: request(session), only_reads }).await
    }

    /// Runs a statement that only reads, whose rows come as they are found: for results of any size. The timeout is for the first of them.
    pub async fn query(&self, statement: impl Into<Statement>) -> Result<Rows, Error> {
        let statements = vec![statement.into().into()];
        self.call(QueryRequest { statements, consistency: Some(self.consistency.into()) }).await
    }

    /// Runs statements that only read, all on one state, as [`query`](Self::query) runs one. [`Rows::next_statement`] goes from one to the next.
    pub async fn query_all(&self, statements: impl IntoIterator<Item = impl Into<Statement>>) -> Result<Rows, Error> {
        let statements = statements.into_iter().map(|statement| statement.into().into()).collect();
        self.call(QueryRequest { statements, consistency: Some(self.consistency.into()) }).await
    }

    /// Runs one command given as text: `set k=v`, `get k`, `del k`, or SQL.
    pub async fn submit(&self, command: impl Into<String>) -> Result<SubmitCommandReply, Error> {
        let command = command.into();
        self.write(|SessionFields { client_id, sequence, answered, opened_ms }| SubmitCommandRequest {
            command: command.clone(),
            client_id,
            sequence,
            answered,
            opened_ms,
        })
        .await
    }

    /// Asks the node at `endpoint` what it knows of itself and the cluster. Asks once, and not for long.
    pub async fn status(&self, endpoint: &str) -> Result<StatusReply, Error> {
        self.ask(endpoint, StatusRequest {}).await
    }

    /// Asks all endpoints at once, and returns each with its answer.
    pub async fn status_all(&self) -> Vec<(String, Result<StatusReply, Error>)> {
        let mut answers = JoinSet::new();
        for (place, endpoint) in self.router.endpoints().iter().cloned().enumerate() {
            let client = self.clone();
            answers.spawn(async move { (place, client.status(&endpoint).await, endpoint) });
        }
        let mut answers = answers.join_all().await;
        answers.sort_by_key(|(place, _, _)| *place);
        answers.into_iter().map(|(_, answer, endpoint)| (endpoint, answer)).collect()
    }

    /// Copies the state of a node, as fresh as [`with_consistency`](Self::with_consistency) says, while it goes on. The timeout is for the beginning.
    pub async fn back_up(&self) -> Result<Backup, Error> {
        self.call(BackupRequest { consistency: Some(self.consistency.into()) }).await
    }

    /// Has every node compute the checksum of its state at one and the same entry, and compare it with those of the others. Returns the entry at
    /// once; [`checksums`](Self::checksums) tells what came of it.
    pub async fn verify(&self) -> Result<VerifyReply, Error> {
        self.call(VerifyRequest {}).await
    }

    /// Asks the node at `endpoint` what it knows of the checksums at an entry that [`verify`](Self::verify) has told. Asks once, and not for long.
    pub async fn checksums(&self, endpoint: &str, index: u64) -> Result<ChecksumsReply, Error> {
        self.ask(endpoint, ChecksumsRequest { index }).await
    }

    /// Who belongs to the cluster.
    pub async fn members(&self) -> Result<ListMembersReply, Error> {
        self.call(ListMembersRequest {}).await
    }

    /// Adds a node that runs and belongs to no cluster. Like all calls that change the membership, it may be repeated: one that finds its
    /// work done succeeds, and says so.
    pub async fn add_member(&self, request: AddMemberRequest) -> Result<MembershipReply, Error> {
        self.call(request).await
    }

    /// Makes a voter of a learner; waits until it has caught up.
    pub async fn promote_member(&self, id: u64) -> Result<MembershipReply, Error> {
        self.call(PromoteMemberRequest { id }).await
    }

    /// Makes a learner of a voter.
    pub async fn demote_member(&self, id: u64) -> Result<MembershipReply, Error> {
        self.call(DemoteMemberRequest { id }).await
    }

    /// Removes a member.
    pub async fn remove_member(&self, id: u64) -> Result<MembershipReply, Error> {
        self.call(RemoveMemberRequest { id }).await
    }

    /// Changes what is recorded of a member.
    pub async fn update_member(&self, request: UpdateMemberRequest) -> Result<MembershipReply, Error> {
        self.call(request).await
    }

    /// Gives a member's place to the same node with a new data directory.
    pub async fn replace_member(&self, request: ReplaceMemberRequest) -> Result<MembershipReply, Error> {
        self.call(request).await
    }

    /// Hands leadership to the voter `to`; if none is named, to the preferred of those that are alive and keep up. Returns once it leads.
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<TransferLeaderReply, Error> {
        let reply = self.call(TransferLeaderRequest { to: to.unwrap_or_default() }).await?;
        // The node that answered does not lead any more.
        self.router.prefer(reply.leader_id, reply.leader_address.clone());
        Ok(reply)
    }

    /// Sends what `request` makes of a place in the session. Where the cluster takes that session no more, and the request is certainly
    /// not applied, sends it once more, in a new session.
    async fn write<R: Request>(&self, request: impl Fn(SessionFields) -> R) -> Result<R::Reply, Error> {
        let deadline = Instant::now() + self.timeout;
        let ticket = self.begin().await?;
        match self.call_until(deadline, request(ticket.fields.clone())).await {
            Err(Error::SessionExpired { log_time_ms, .. }) => self.session.begin_anew(&ticket, log_time_ms)?,
            result => return result,
        }
        drop(ticket);
        let ticket = self.begin().await?;
        self.call_until(deadline, request(ticket.fields.clone())).await
    }

    async fn begin(&self) -> Result<Ticket<'_>, Error> {
        let waited = self.timeout;
        let message = "this client has too many writes under way".to_owned();
        timeout(waited, self.session.begin()).await.map_err(|_| Error::Busy { message, waited })?
    }

    /// Asks one node, once, and not for long.
    async fn ask<R: Request>(&self, endpoint: &str, request: R) -> Result<R::Reply, Error> {
        let silent = Err(TroubleKind::Silent);
        let asked = timeout(STATUS_TIMEOUT.min(self.timeout), self.ask_at(endpoint, request)).await.unwrap_or(silent);
        asked.map_err(|kind| Error::Unavailable { troubles: vec![Trouble { address: endpoint.to_owned(), kind }] })
    }

    async fn ask_at<R: Request>(&self, endpoint: &str, request: R) -> Result<R::Reply, TroubleKind> {
        let channel = self.router.channel(endpoint).await.map_err(TroubleKind::Unreachable)?;
        let verdict = request.send(channel, endpoint.to_owned()).await;
        let reply = match verdict {
            Verdict::Done(reply) => reply,
            Verdict::Unreachable(reason) => return Err(TroubleKind::Unreachable(reason)),
            Verdict::Lost(reason) => return Err(TroubleKind::Lost(reason)),
            Verdict::NotBegun => return Err(TroubleKind::NotBegun),
            Verdict::Failed(error) | Verdict::Rejected(error) => return Err(TroubleKind::Lost(format!("({error})"))),
            _ => return Err(TroubleKind::Lost("gave an unexpected answer".to_owned())),
        };
        self.router.identified(endpoint, R::answered_by(&reply));
        Ok(reply)
    }

    async fn call<R: Request>(&self, request: R) -> Result<R::Reply, Error> {
        self.call_until(Instant::now() + self.timeout, request).await
    }

    async fn call_until<R: Request>(&self, deadline: Instant, request: R) -> Result<R::Reply, Error> {
        if request.bytes() > MAX_REQUEST_BYTES {
            let message =
                format!("the request is larger than {MAX_REQUEST_BYTES} bytes, which is the most that is accepted");
            return Err(Error::Invalid(message));
        }
        call::run(self.router.clone(), request, deadline.saturating_duration_since(Instant::now())).await
    }
}
