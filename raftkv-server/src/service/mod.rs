//! What clients and peers call, turned into calls of the [store](crate::store::Store). Each file is one service of the wire format.

pub mod cluster;
mod convert;
pub mod kv;
pub mod lease;
pub mod maintenance;
pub mod program;
pub mod raft;
pub mod sql;

use prost::Message;
use raft_store_sqlite::SessionId;
use raftkv_proto::raftkv::v1::{AnswerHeader, ErrorDetail, Reason, Session};
use tonic::{Code, Status};

use crate::gate::{Gate, Open};
use crate::store::{Failure, Leader, Position};

/// The longest message of an error, in bytes. It travels in a header, of which the other side takes 16 KiB, and may
/// take three times its length there.
const MAX_MESSAGE_BYTES: usize = 4 << 10;

// What clients keep to is what the state machine allows.
const _: () = assert!(raftkv_proto::MAX_UNANSWERED == raft_store_sqlite::limits::UNANSWERED);

/// How long to wait before asking again where no leader is known.
const ELECTION_PAUSE_MS: u64 = 100;
/// How long to wait before asking again where too much is waiting.
const BUSY_PAUSE_MS: u64 = 200;

/// The running node, or the error that there is none yet.
fn running(gate: &Gate) -> Result<&Open, Failure> {
    gate.opened().ok_or(Failure::NotBegun)
}

/// What every answer says of itself.
fn header(gate: &Gate, position: Position) -> Option<AnswerHeader> {
    let Position { revision, index } = position;
    Some(AnswerHeader { node_id: gate.id().0, revision, applied_index: index.0 })
}

/// The session that makes a command apply once, if the client names itself.
fn session(session: Option<Session>) -> Option<SessionId> {
    let Session { client_id, opened_ms, sequence, answered } = session?;
    (!client_id.is_empty()).then_some(SessionId { client: client_id, opened_ms, sequence, answered })
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let (code, reason, retry_after_ms) = match &failure {
            Failure::NotLeader(_) => (Code::Unavailable, Reason::NotLeader, 0),
            Failure::NoLeader(_) => (Code::Unavailable, Reason::NoLeader, ELECTION_PAUSE_MS),
            Failure::NotBegun => (Code::Unavailable, Reason::NotBegun, ELECTION_PAUSE_MS),
            Failure::Invalid(_) => (Code::InvalidArgument, Reason::Invalid, 0),
            Failure::Failed(_) => (Code::FailedPrecondition, Reason::Failed, 0),
            Failure::Unexpected(_) => (Code::FailedPrecondition, Reason::Unexpected, 0),
            Failure::NoSuchLease(_) => (Code::NotFound, Reason::NoSuchLease, 0),
            Failure::Compacted(_) => (Code::OutOfRange, Reason::Compacted, 0),
            Failure::TooStale(_) => (Code::Unavailable, Reason::TooStale, ELECTION_PAUSE_MS),
            Failure::Unknown(_) | Failure::Forgotten | Failure::ChangeUnknown => {
                (Code::Unknown, Reason::OutcomeUnknown, 0)
            }
            Failure::SessionExpired { .. } => (Code::Aborted, Reason::SessionExpired, 0),
            Failure::Busy(_) => (Code::ResourceExhausted, Reason::Busy, BUSY_PAUSE_MS),
            Failure::NoRoom(_) => (Code::ResourceExhausted, Reason::NoRoom, 0),
        };
        let forgotten = failure == Failure::Forgotten;
        let mut detail = ErrorDetail { reason: reason.into(), retry_after_ms, forgotten, ..ErrorDetail::default() };
        match &failure {
            Failure::NotLeader(Leader { id, address }) => {
                (detail.leader_id, detail.leader_address) = (id.0, address.clone());
            }
            Failure::SessionExpired { log_time_ms } => detail.log_time_ms = *log_time_ms,
            _ => {}
        }
        Self::with_details(code, shortened(failure.to_string()), detail.encode_to_vec().into())
    }
}

/// What fits of a message: it may quote what a client sent, at any length.
fn shortened(mut message: String) -> String {
    let end = (0..=MAX_MESSAGE_BYTES).rev().find(|&end| message.is_char_boundary(end));
    message.truncate(end.unwrap_or_default());
    message
}
#[cfg(test)]
mod tests {
    use raft_core::types::NodeId;

    use super::*;

    #[test]
    fn a_redirect_names_the_leader_in_its_details() {
        let leader = Leader { id: NodeId(2), address: "b:1".to_owned() };
        let status = Status::from(Failure::NotLeader(leader));
        assert_eq!(status.code(), Code::Unavailable);
        let detail = ErrorDetail::decode(status.details()).unwrap();
        assert_eq!(detail.reason(), Reason::NotLeader);
        assert_eq!((detail.leader_id, &*detail.leader_address), (2, "b:1"));
    }

    #[test]
    fn a_session_needs_a_client() {
        assert_eq!(session(None), None);
        assert_eq!(session(Some(Session { sequence: 1, ..Session::default() })), None);
        let named = Session { client_id: "c".into(), opened_ms: 3, sequence: 2, answered: 1 };
        assert_eq!(
            session(Some(named)),
            Some(SessionId { client: "c".into(), opened_ms: 3, sequence: 2, answered: 1 })
        );
    }
}
