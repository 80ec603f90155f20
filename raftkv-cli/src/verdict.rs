//! What an attempt's answer means for the request.

use crate::error::Error;
use prost::Message;
use raftkv_proto::raft::v1::{Outcome, SubmitCommandReply};
use raftkv_proto::raftkv::v1::{ErrorDetail, Reason};
use std::error::Error as StdError;
use std::io;
use std::time::Duration;
use tonic::{Code, ConnectError, Status};

/// What one attempt says about the request.
#[derive(Debug)]
pub(crate) enum Verdict<T> {
    /// It was carried out.
    Done(T),
    /// It was carried out, and failed; every attempt would hear the same.
    Failed(Error),
    /// This attempt changed nothing, and another would fare no better.
    Rejected(Error),
    /// This attempt changed nothing: another node leads.
    NotLeader { leader_id: u64, leader_address: String },
    /// This attempt changed nothing: no leader is known.
    NoLeader,
    /// This attempt changed nothing: the node has not begun.
    NotBegun,
    /// This attempt changed nothing: there is too much to do.
    Busy { message: String, retry_after: Duration },
    /// Nothing was sent: there was no connection.
    Unreachable(String),
    /// It may have been carried out, or yet be.
    Lost(String),
    /// It may have been carried out, and asking again would not tell: the answer is too large.
    TooLarge(String),
    /// It may have been carried out, and asking again would not tell: the answer is no longer kept.
    Forgotten(String),
    /// This attempt changed nothing, and neither will another of the same session.
    SessionExpired { message: String, log_time_ms: u64 },
}

impl<T> Verdict<T> {
    /// Judges a gRPC error that `endpoint` gave.
    pub(crate) fn of_status(endpoint: &str, status: &Status) -> Self {
        if let Some(reason) = connection_failure(status) {
            return Self::Unreachable(reason);
        }
        let message = status.message().to_owned();
        let detail = ErrorDetail::decode(status.details()).unwrap_or_default();
        let retry_after = Duration::from_millis(detail.retry_after_ms);
        match detail.reason() {
            Reason::NotLeader => Self::redirect(detail.leader_id, detail.leader_address),
            Reason::NoLeader => Self::NoLeader,
            Reason::NotBegun => Self::NotBegun,
            Reason::Invalid => Self::Rejected(Error::Invalid(message)),
            Reason::Failed => Self::Failed(Error::Failed(message)),
            Reason::Unexpected => Self::Failed(Error::Unexpected(message)),
            Reason::NoSuchLease => Self::Failed(Error::NoSuchLease(message)),
            Reason::Compacted => Self::Failed(Error::Compacted(message)),
            Reason::TooStale => Self::Busy { message, retry_after },
            Reason::OutcomeUnknown if detail.forgotten => Self::Forgotten(message),
            Reason::OutcomeUnknown => Self::Lost(message),
            Reason::Busy => Self::Busy { message, retry_after },
            Reason::NoRoom => Self::Rejected(Error::NoRoom(message)),
            Reason::SessionExpired => Self::SessionExpired { message, log_time_ms: detail.log_time_ms },
            Reason::Unspecified => Self::of_code(endpoint, status),
        }
    }

    /// Judges an error that carries no detail: it came from tonic, a proxy, or something that is not RaftKV.
    fn of_code(endpoint: &str, status: &Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::InvalidArgument => Self::Rejected(Error::Invalid(message)),
            Code::FailedPrecondition => Self::Failed(Error::Failed(message)),
            Code::Unauthenticated | Code::PermissionDenied => Self::Rejected(Error::Denied(message)),
            Code::Unimplemented => Self::Rejected(Error::Incompatible { endpoint: endpoint.to_owned(), message }),
            Code::ResourceExhausted => Self::Busy { message, retry_after: Duration::ZERO },
            Code::OutOfRange => Self::TooLarge(message),
            _ => Self::Lost(format!("gave no answer ({})", innermost(status))),
        }
    }

    fn redirect(leader_id: u64, leader_address: String) -> Self {
        if leader_address.is_empty() {
            return Self::NoLeader;
        }
        Self::NotLeader { leader_id, leader_address }
    }
}

impl Verdict<SubmitCommandReply> {
    /// Judges the reply to `SubmitCommand`, which says in itself what became of the command.
    pub(crate) fn of_submit(reply: SubmitCommandReply) -> Self {
        let SubmitCommandReply { error: message, leader_id, leader_address, .. } = &reply;
        let message = message.clone();
        match reply.outcome() {
            Outcome::Ok | Outcome::NotFound => Self::Done(reply),
            Outcome::NotLeader => Self::redirect(*leader_id, leader_address.clone()),
            Outcome::NoLeader => Self::NoLeader,
            Outcome::Invalid => Self::Rejected(Error::Invalid(message)),
            Outcome::Failed => Self::Failed(Error::Failed(message)),
            Outcome::Busy => Self::Busy { message, retry_after: Duration::ZERO },
            Outcome::NoRoom => Self::Rejected(Error::NoRoom(message)),
            Outcome::SessionExpired => Self::SessionExpired { message, log_time_ms: reply.log_time_ms },
            Outcome::Unknown if reply.forgotten => Self::Forgotten(message),
            Outcome::Unknown => Self::Lost(message),
            // An outcome of a later version: `success` is what it always was, and anything else is in doubt.
            Outcome::Unspecified if reply.success => Self::Done(reply),
            Outcome::Unspecified => Self::Lost(message),
        }
    }
}

/// Why there was no connection, if that is what the status says. Then nothing was sent.
fn connection_failure(status: &Status) -> Option<String> {
    chain(status).any(<dyn StdError>::is::<ConnectError>).then(|| innermost(status))
}

/// The first cause of an error, in a few words.
pub(crate) fn innermost(error: &(dyn StdError + 'static)) -> String {
    let cause = chain(error).last().unwrap_or(error);
    match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "refused".to_owned(),
        Some(io::ErrorKind::TimedOut) => "does not answer".to_owned(),
        _ => cause.downcast_ref::<Status>().map_or_else(|| cause.to_string(), |status| status.message().to_owned()),
    }
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(code: Code, detail: &ErrorDetail) -> Verdict<()> {
        Verdict::of_status("n1:1", &Status::with_details(code, "why", detail.encode_to_vec().into()))
    }

    #[test]
    fn the_detail_decides() {
        let reason = |reason: Reason| ErrorDetail { reason: reason.into(), ..ErrorDetail::default() };
        let leader = ErrorDetail { leader_id: 2, leader_address: "n2:1".into(), ..reason(Reason::NotLeader) };
        assert!(matches!(judge(Code::Unavailable, &leader), Verdict::NotLeader { leader_id: 2, .. }));
        assert!(matches!(judge(Code::Unavailable, &reason(Reason::NotLeader)), Verdict::NoLeader));
        assert!(matches!(judge(Code::Unavailable, &reason(Reason::NotBegun)), Verdict::NotBegun));
        assert!(matches!(judge(Code::InvalidArgument, &reason(Reason::Invalid)), Verdict::Rejected(_)));
        assert!(matches!(judge(Code::FailedPrecondition, &reason(Reason::Failed)), Verdict::Failed(_)));
        assert!(matches!(judge(Code::Unknown, &reason(Reason::OutcomeUnknown)), Verdict::Lost(_)));
        let forgotten = ErrorDetail { forgotten: true, ..reason(Reason::OutcomeUnknown) };
        assert!(matches!(judge(Code::Unknown, &forgotten), Verdict::Forgotten(_)));
        assert!(matches!(judge(Code::ResourceExhausted, &reason(Reason::Busy)), Verdict::Busy { .. }));
        let expired = ErrorDetail { log_time_ms: 7, ..reason(Reason::SessionExpired) };
        assert!(matches!(judge(Code::Aborted, &expired), Verdict::SessionExpired { log_time_ms: 7, .. }));
    }

    #[test]
    fn without_a_detail_an_error_is_in_doubt_unless_its_code_is_clear() {
        let none = ErrorDetail::default();
        for code in [Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled, Code::DeadlineExceeded] {
            assert!(matches!(judge(code, &none), Verdict::Lost(_)), "{code:?}");
        }
        assert!(matches!(judge(Code::Unauthenticated, &none), Verdict::Rejected(Error::Denied(_))));
        assert!(matches!(judge(Code::Unimplemented, &none), Verdict::Rejected(Error::Incompatible { .. })));
    }

    #[test]
    fn details_that_are_not_ours_are_no_reason_to_panic() {
        let status = Status::with_details(Code::Internal, "why", bytes::Bytes::from_static(b"\xff\xff\xff"));
        assert!(matches!(Verdict::<()>::of_status("n1:1", &status), Verdict::Lost(_)));
    }
}
