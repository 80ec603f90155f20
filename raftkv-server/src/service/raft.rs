//! `raft.v1.RaftService`: what nodes say to each other, and `SubmitCommand`.

use std::sync::Arc;

use raft_core::types::{ClusterId, Identity, Incarnation, NodeId};
use raft_store_sqlite::{Action, Lookup, Statement, StatementResult, StepResult, Value};
use raft_transport_grpc::handshake::{Handshake, Mismatch, Purpose};
use raft_transport_grpc::{
    AppendEntriesStream, GrpcTransport, InstallSnapshotStream, Options, PeerStatus, Throttle, identify,
};
use raftkv_proto::raft::v1 as wire;
use raftkv_proto::raft::v1::Outcome;
use raftkv_proto::raft::v1::raft_service_server::RaftService;
use raftkv_proto::raftkv::v1::Session;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use super::{running, session};
use crate::begin::Statement as CallerStatement;
use crate::command_text::{self, CommandText};
use crate::gate::{Gate, Open};
use crate::store::{Consistency, Failure, Leader, Position, unexpected};

/// The service, over the node behind a gate.
#[derive(Clone, Debug)]
pub struct RaftApi {
    gate: Arc<Gate>,
    refusals: Arc<Throttle>,
}

impl RaftApi {
    /// The service of the node behind `gate`.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate, refusals: Arc::default() }
    }

    fn transport(&self) -> Result<&GrpcTransport, Status> {
        let open = self.gate.opened();
        open.map(|open| &open.transport).ok_or_else(|| Status::unavailable("starting: this node has not begun"))
    }

    /// Whether the caller is told who this node is. A caller that has not begun and has this node's own id is told as well, so that it learns
    /// whose id it has taken.
    fn check_caller(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let cluster = ClusterId::default();
        let own = self.gate.statement();
        let us = Identity { cluster, node: own.id, incarnation: own.member.incarnation };
        let handshake = Handshake::read(metadata);
        let from = handshake.as_ref().map_or(NodeId::NONE, |handshake| handshake.from.node);
        let checked = handshake.and_then(|it| it.check(&us, Purpose::Identify, Incarnation::default()));
        match checked {
            Ok(()) | Err(Mismatch::SameId { .. }) => Ok(()),
            Err(mismatch) => {
                if self.refusals.admits(from, &mismatch.to_string()) {
                    warn!(peer = %from, "refused a call: {mismatch}");
                }
                Err(mismatch.into())
            }
        }
    }
}

impl RaftApi {
    /// Says so if a member would apply commands otherwise than this node. To refuse it would end what it is a part of.
    fn compare_contracts(&self, caller: &CallerStatement) {
        let checked = self.gate.lobby().statement().contract.check(&caller.contract);
        if let Err(why) = checked
            && self.refusals.admits(caller.id, &why.to_string())
        {
            warn!("node {} {why}", caller.id.0);
        }
    }
}

#[tonic::async_trait]
impl RaftService for RaftApi {
    type AppendEntriesStream = AppendEntriesStream;
    type InstallSnapshotStream = InstallSnapshotStream;

    async fn identify(&self, request: Request<wire::IdentifyRequest>) -> Result<Response<wire::IdentifyReply>, Status> {
        let has_begun = Handshake::read(request.metadata()).is_ok_and(|it| it.from.cluster != ClusterId::default());
        match self.gate.opened() {
            Some(open) if has_begun => {
                if let Some(caller) = request.get_ref().caller.clone().and_then(|it| CallerStatement::try_from(it).ok())
                {
                    self.compare_contracts(&caller);
                    look_for_copies(open, caller);
                }
                open.transport.identify(request).await
            }
            _ => {
                self.check_caller(request.metadata())?;
                Ok(Response::new(self.gate.statement().into()))
            }
        }
    }

    async fn request_vote(
        &self,
        request: Request<wire::RequestVoteRequest>,
    ) -> Result<Response<wire::RequestVoteReply>, Status> {
        self.transport()?.request_vote(request).await
    }

    async fn append_entries(
        &self,
        request: Request<Streaming<wire::AppendEntriesRequest>>,
    ) -> Result<Response<AppendEntriesStream>, Status> {
        self.transport()?.append_entries(request).await
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::InstallSnapshotRequest>>,
    ) -> Result<Response<InstallSnapshotStream>, Status> {
        self.transport()?.install_snapshot(request).await
    }

    async fn timeout_now(
        &self,
        request: Request<wire::TimeoutNowRequest>,
    ) -> Result<Response<wire::TimeoutNowReply>, Status> {
        self.transport()?.timeout_now(request).await
    }

    async fn read_index(
        &self,
        request: Request<wire::ReadIndexRequest>,
    ) -> Result<Response<wire::ReadIndexReply>, Status> {
        self.transport()?.read_index(request).await
    }

    async fn compare_checksums(
        &self,
        request: Request<wire::CompareChecksumsRequest>,
    ) -> Result<Response<wire::CompareChecksumsReply>, Status> {
        let from = self.transport()?.caller(request.metadata())?;
        let open = running(&self.gate)?;
        let checksum = open.verification.compare(&from, request.into_inner().checksum)?;
        Ok(Response::new(wire::CompareChecksumsReply { checksum }))
    }

    async fn submit_command(
        &self,
        request: Request<wire::SubmitCommandRequest>,
    ) -> Result<Response<wire::SubmitCommandReply>, Status> {
        let result = submit(&self.gate, request.into_inner()).await;
        Ok(Response::new(reply(&self.gate, result)))
    }
}

/// Looks whether a member that calls also runs elsewhere, as where its data directory was copied: two that share a vote can elect two leaders.
fn look_for_copies(open: &Open, caller: CallerStatement) {
    let elsewhere = |peer: &PeerStatus| peer.id == caller.id && peer.connected && peer.address != caller.member.address;
    let Some(peer) = open.transport.peers().into_iter().find(elsewhere) else { return };
    // Asked as a node that has not begun: any node answers such a one.
    let from = Identity { cluster: ClusterId::default(), ..open.identity };
    tokio::spawn(async move {
        let answer = identify(&peer.address, from, wire::IdentifyRequest::default(), &Options::default()).await;
        let Some(other) = answer.ok().and_then(|reply| CallerStatement::try_from(reply).ok()) else { return };
        // A node states one address, by whichever name it is reached.
        let is_copy = other.id == caller.id
            && other.member.incarnation == caller.member.incarnation
            && other.member.address != caller.member.address;
        if is_copy {
            warn!(
                "node {} runs twice, at {} and at {}, with copies of one data directory, which can cost acknowledged writes: stop one of them, \
                 then run: raftkv-cli member replace {} --force --address ADDRESS-OF-THE-OTHER",
                caller.id.0, other.member.address, caller.member.address, caller.id.0
            );
        }
    });
}

/// A command's result, for a person.
struct Done {
    outcome: Outcome,
    text: String,
    position: Position,
}

async fn submit(gate: &Gate, request: wire::SubmitCommandRequest) -> Result<Done, Failure> {
    let wire::SubmitCommandRequest { command, client_id, sequence, answered, opened_ms } = request;
    let session = session(Some(Session { client_id, opened_ms, sequence, answered }));
    let command = command_text::parse(&command).map_err(|error| Failure::Invalid(error.to_string()))?;
    let store = &running(gate)?.store;
    match command {
        CommandText::Set { key, value } => {
            let applied = store.write(vec![Action::put(key, value).into()], session).await?;
            Ok(Done { outcome: Outcome::Ok, text: String::new(), position: applied.position })
        }
        CommandText::Delete { key } => {
            let applied = store.write(vec![Action::delete(key).into()], session).await?;
            let [StepResult::Deleted { count, .. }] = *applied.results else { return Err(unexpected()) };
            Ok(Done { outcome: Outcome::Ok, text: count.to_string(), position: applied.position })
        }
        CommandText::Get { key } => {
            let (found, position) = store.find(Lookup::key(key), Consistency::default()).await?;
            let entry = found.entries.into_iter().next();
            let outcome = if entry.is_some() { Outcome::Ok } else { Outcome::NotFound };
            let text = entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()).unwrap_or_default();
            Ok(Done { outcome, text, position })
        }
        CommandText::Sql(sql) => {
            let (results, position) = store.sql(vec![Statement::new(sql)], session, Consistency::default()).await?;
            let text = results.iter().map(result_text).collect::<Vec<_>>().join("\n");
            Ok(Done { outcome: Outcome::Ok, text, position })
        }
    }
}

fn reply(gate: &Gate, result: Result<Done, Failure>) -> wire::SubmitCommandReply {
    let leader = gate.opened().and_then(|open| open.store.known_leader());
    let mut reply = wire::SubmitCommandReply { node_id: gate.id().0, ..Default::default() };
    name_leader(&mut reply, leader);
    match result {
        Ok(Done { outcome, text, position }) => {
            reply.success = true;
            reply.outcome = outcome.into();
            reply.result = text;
            reply.revision = position.revision;
        }
        Err(failure) => {
            reply.outcome = outcome(&failure).into();
            reply.error = failure.to_string();
            reply.forgotten = failure == Failure::Forgotten;
            match failure {
                Failure::NotLeader(leader) => name_leader(&mut reply, Some(leader)),
                Failure::NoLeader(_) | Failure::NotBegun => name_leader(&mut reply, None),
                Failure::SessionExpired { log_time_ms } => reply.log_time_ms = log_time_ms,
                _ => (),
            }
        }
    }
    reply
}

fn name_leader(reply: &mut wire::SubmitCommandReply, leader: Option<Leader>) {
    reply.leader_id = leader.as_ref().map_or(0, |leader| leader.id.0);
    reply.leader_address = leader.map(|leader| leader.address).unwrap_or_default();
}

fn outcome(failure: &Failure) -> Outcome {
    match failure {
        Failure::NotLeader(_) => Outcome::NotLeader,
        Failure::NoLeader(_) | Failure::NotBegun | Failure::TooStale(_) => Outcome::NoLeader,
        Failure::Invalid(_) => Outcome::Invalid,
        Failure::Failed(_) | Failure::Unexpected(_) | Failure::NoSuchLease(_) | Failure::Compacted(_) => {
            Outcome::Failed
        }
        Failure::Unknown(_) | Failure::Forgotten | Failure::ChangeUnknown => Outcome::Unknown,
        Failure::SessionExpired { .. } => Outcome::SessionExpired,
        Failure::Busy(_) => Outcome::Busy,
        Failure::NoRoom(_) => Outcome::NoRoom,
    }
}

/// Rows as tab-separated lines under a line of names; without columns, how many rows were changed.
fn result_text(result: &StatementResult) -> String {
    if result.columns.is_empty() {
        let plural = if result.rows_affected == 1 { "" } else { "s" };
        return format!("{} row{plural} affected", result.rows_affected);
    }
    let names = result.columns.iter().map(|name| escape(name)).collect::<Vec<_>>().join("\t");
    let row = |row: &Vec<Value>| row.iter().map(value_text).collect::<Vec<_>>().join("\t");
    std::iter::once(names).chain(result.rows.iter().map(row)).collect::<Vec<_>>().join("\n")
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(integer) => integer.to_string(),
        Value::Real(real) => format!("{real:?}"),
        Value::Text(text) => escape(text),
        Value::Blob(blob) => {
            let hex: String = blob.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("x'{hex}'")
        }
    }
}

/// A text on one line and in one column.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_on_lines_under_their_names() {
        let result = StatementResult {
            columns: vec!["a".to_owned(), "b\tc".to_owned()],
            rows: vec![
                vec![Value::Integer(1), Value::Null],
                vec![Value::Real(1.0), Value::Text("two\nlines".to_owned())],
                vec![Value::Blob(vec![0, 255].into()), Value::Text(String::new())],
            ],
            ..StatementResult::default()
        };
        assert_eq!(result_text(&result), "a\tb\\tc\n1\tNULL\n1.0\ttwo\\nlines\nx'00ff'\t");
    }

    #[test]
    fn without_rows_it_says_how_many_changed() {
        let changed = |rows_affected| StatementResult { rows_affected, ..StatementResult::default() };
        assert_eq!(result_text(&changed(1)), "1 row affected");
        assert_eq!(result_text(&changed(2)), "2 rows affected");
    }
}
