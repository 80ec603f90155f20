//! Why a request has no answer.

use raft_core::types::NodeId;
use raft_store_sqlite::{Error, Outcome};
use tracing::error;

use crate::room::Shortage;

/// A node that leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The node.
    pub id: NodeId,
    /// Where to reach it.
    pub address: String,
}

/// Why a request has no answer. Each says whether a command can have taken effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Certainly not applied.
    #[error("this node does not lead; ask node {} at {}", .0.id.0, .0.address)]
    NotLeader(Leader),
    /// Certainly not applied.
    #[error("{0}; try again in a moment")]
    NoLeader(&'static str),
    /// Certainly not applied.
    #[error("this node has not begun: it waits for its peers; raftkv-cli status says for which")]
    NotBegun,
    /// Certainly not applied: the request is malformed, too large, or not allowed.
    #[error("{0}")]
    Invalid(String),
    /// The command failed alike on every node, and changed nothing.
    #[error("{0}")]
    Failed(String),
    /// A step did not count what its program expects, alike on every node. Nothing was changed.
    #[error("{0}")]
    Unexpected(String),
    /// Nothing was changed.
    #[error("there is no lease {0}: it was never granted, or it is over")]
    NoSuchLease(u64),
    /// Not applied now. It may have been applied before, if it was sent before.
    #[error(
        "the session has ended, or was not opened near the cluster's time: not applied now; send a first attempt again in a new \
         session; of a retry, only the data can tell"
    )]
    SessionExpired {
        /// The cluster's time: a session that is opened then can begin.
        log_time_ms: u64,
    },
    /// What the state was at a revision is not known any more.
    #[error("{0}")]
    Compacted(String),
    /// This node's state may be older than a read allows.
    #[error("{0}")]
    TooStale(&'static str),
    /// It may or may not be applied.
    #[error("{0}; retry with the same client id and sequence to find out")]
    Unknown(&'static str),
    /// It may have been applied before. It was not applied now.
    #[error(
        "the answer to this sequence is no longer kept, since its client had confirmed it: the command may have been applied, and \
         asking again will not tell; read the data to find out"
    )]
    Forgotten,
    /// A change of the membership or of leadership that may or may not come about.
    #[error("whether the change came about is not known; ask for it again, which does no harm if it did")]
    ChangeUnknown,
    /// Certainly not applied: something else must end first.
    #[error("{0}")]
    Busy(String),
    /// Certainly not applied: the leader's disk is nearly full.
    #[error("{0}: nothing is written but what removes keys, and reads go on; make room there, or give the disk more")]
    NoRoom(Shortage),
}

/// For an answer of another kind than the command's, which a state machine does not give.
pub(crate) fn unexpected() -> Failure {
    Failure::Unknown("the answer does not fit the command")
}

impl Failure {
    /// What a command that changed nothing came to, if that is what it did.
    pub(super) fn of_outcome(outcome: Outcome) -> Result<Outcome, Self> {
        Err(match outcome {
            Outcome::Failed { message } => Self::Failed(message),
            Outcome::Unexpected { message } => Self::Unexpected(message),
            Outcome::NoSuchLease { lease } => Self::NoSuchLease(lease),
            Outcome::Forgotten => Self::Forgotten,
            Outcome::TooManyUnanswered => Self::Invalid(
                "this client has too many commands whose answers it has not confirmed; confirm some with `answered`"
                    .to_owned(),
            ),
            Outcome::SessionExpired { time_ms } => Self::SessionExpired { log_time_ms: time_ms },
            Outcome::TooManySessions => {
                Self::Busy("there are too many sessions; those that are not used end within an hour".to_owned())
            }
            outcome => return Ok(outcome),
        })
    }
}

pub(super) fn busy() -> Failure {
    Failure::Busy("too many requests are waiting; try again later".to_owned())
}

/// What the store says of a request that it does not carry out.
pub(super) fn refused(error: Error) -> Failure {
    match error {
        Error::TooLarge { .. } | Error::Invalid(_) | Error::Refused(_) => Failure::Invalid(error.to_string()),
        Error::Statement(_) | Error::ReadTimeout(_) => Failure::Failed(error.to_string()),
        Error::Unexpected(message) => Failure::Unexpected(message),
        Error::Compacted { .. } => Failure::Compacted(error.to_string()),
        error => unreadable(&error),
    }
}

/// The state file can't be read. A read changes nothing, and another node may answer it.
pub(super) fn unreadable(error: &Error) -> Failure {
    error!("{error}");
    Failure::NoLeader("the state of this node can't be read, see its log")
}
