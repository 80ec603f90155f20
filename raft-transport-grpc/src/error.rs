//! Why a peer can't be reached, and whose fault it is.

use std::error::Error as StdError;

use tonic::{Code, Status};

use crate::convert::Malformed;
use crate::handshake::Mismatch;

/// Why there is no connection to a peer, or no longer one.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was given as an address is none.
    #[error("`{0}` is not an address: expected host:port")]
    Address(String),
    /// Neither the membership, nor a flag, nor the peer itself says where it is.
    #[error("no address is known for it")]
    NoAddress,
    /// Nobody answers there. It may come back.
    #[error("{0}")]
    Unreachable(String),
    /// It takes too long to answer. It may recover.
    #[error("no answer in time")]
    TimedOut,
    /// It answers, and has not begun yet: it waits for its own peers.
    #[error("it has not begun yet")]
    NotBegun,
    /// Whoever answers there does not fit us: the operator must act.
    #[error("{0}")]
    Mismatch(#[from] Mismatch),
    /// It refuses us because we don't fit it: the operator must act.
    #[error("it refuses this node: {0}")]
    Refused(String),
    /// It answers nonsense: a defect there, or a version that is too new.
    #[error("it sent a message that makes no sense: {0}")]
    Malformed(#[from] Malformed),
    /// The call failed in another way.
    #[error("the call failed ({code:?}): {message}")]
    Failed {
        /// The status code of gRPC.
        code: Code,
        /// What the status says.
        message: String,
    },
    /// It ended the connection in good order.
    #[error("it closed the connection")]
    Closed,
    /// This node's own copy of its state can't be read.
    #[error("the captured state can't be read: {0}")]
    Capture(String),
    /// It has announced another address.
    #[error("it has moved to another address")]
    Moved,
}

impl Error {
    /// Whether only a person can mend it.
    pub fn needs_operator(&self) -> bool {
        matches!(self, Self::Address(_) | Self::NoAddress | Self::Mismatch(_) | Self::Refused(_) | Self::Malformed(_))
    }
}

impl Error {
    /// Whether another attempt may do better by itself.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut | Self::NotBegun | Self::Closed | Self::Moved => true,
            Self::Failed { code, .. } => {
                matches!(code, Code::Unavailable | Code::DataLoss | Code::Cancelled | Code::Unknown)
            }
            Self::Capture(_) => false,
            _ => !self.needs_operator(),
        }
    }
}

impl From<tonic::transport::Error> for Error {
    fn from(error: tonic::transport::Error) -> Self {
        Self::Unreachable(deepest(&error).to_string())
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::FailedPrecondition => Self::Refused(status.message().to_owned()),
            Code::DeadlineExceeded => Self::TimedOut,
            code => match status.source() {
                // A source is a failure of the connection itself.
                Some(source) => Self::Unreachable(deepest(source).to_string()),
                None => Self::Failed { code, message: status.message().to_owned() },
            },
        }
    }
}

impl From<tokio::time::error::Elapsed> for Error {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::TimedOut
    }
}

/// The cause of the cause: gRPC's errors wrap "connection refused" in layers that say nothing.
fn deepest<'a>(mut error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}
