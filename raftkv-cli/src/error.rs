//! What can go wrong, and above all whether a write can have happened nevertheless.

use std::fmt;
use std::time::Duration;

/// Why a call did not succeed.
///
/// All but [`Error::OutcomeUnknown`] promise that a write was not applied.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client was set up wrongly: a malformed endpoint, or none. The caller's fault.
    #[error("{0}")]
    Config(String),

    /// The server refused the request: malformed, too large or not allowed. The caller's fault.
    #[error("{0}")]
    Invalid(String),

    /// The statement itself failed (a constraint, a missing table) and changed nothing.
    #[error("{0}")]
    Failed(String),

    /// A step of the program did not count what the program expects, and nothing was changed.
    #[error("{0}")]
    Unexpected(String),

    /// There is no such lease: it was never granted, or is over. Nothing was changed.
    #[error("{0}")]
    NoSuchLease(String),

    /// What the state was at the revision is forgotten.
    #[error("{0}")]
    Compacted(String),

    /// The server does not let this client in.
    #[error("{0}")]
    Denied(String),

    /// What answers at this endpoint does not speak RaftKV, or another version of it.
    #[error("{endpoint} does not speak this version of RaftKV's protocol: {message}")]
    Incompatible {
        /// The endpoint, as `host:port`.
        endpoint: String,
        /// What it said.
        message: String,
    },

    /// The endpoints belong to different clusters, so nothing was asked of this one.
    #[error("{endpoint} belongs to cluster {theirs:016x}, and {other} to cluster {ours:016x}")]
    OtherCluster {
        /// The endpoint, as `host:port`.
        endpoint: String,
        /// Its cluster.
        theirs: u64,
        /// An endpoint that was asked before.
        other: String,
        /// The cluster of that one.
        ours: u64,
    },

    /// The answer to a read is larger than this client accepts.
    #[error("the answer is too large: {0}")]
    TooLarge(String),

    /// The leader had too much to do for as long as the call lasted.
    #[error("the cluster is busy: {message} (tried for {waited:.1?})")]
    Busy {
        /// What the leader said.
        message: String,
        /// How long the client kept trying.
        waited: Duration,
    },

    /// The leader's disk is nearly full: nothing was changed, and nothing but what removes keys is written until there is room.
    #[error("{0}")]
    NoRoom(String),

    /// The cluster does not take the client's session, nor the new one that the client began: its time has just moved on by more
    /// than half an hour, or has been told wrongly.
    #[error("{message}")]
    SessionExpired {
        /// What the leader said.
        message: String,
        /// The cluster's time, in milliseconds since 1970.
        log_time_ms: u64,
    },

    /// No leader could be reached for as long as the call lasted.
    #[error("{}", describe(troubles))]
    Unavailable {
        /// What happened last at each address that was tried.
        troubles: Vec<Trouble>,
    },

    /// The request was sent, and no answer came that says what became of it. It may have been applied, or yet be.
    #[error("the outcome is unknown: {reason}")]
    OutcomeUnknown {
        /// Why there is no answer.
        reason: String,
        /// What happened last at each address that was tried.
        troubles: Vec<Trouble>,
    },
}

impl Error {
    /// A short, stable name of the kind of error, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::Invalid(_) => "invalid",
            Self::Failed(_) => "failed",
            Self::Unexpected(_) => "unexpected",
            Self::NoSuchLease(_) => "no_such_lease",
            Self::Compacted(_) => "compacted",
            Self::Denied(_) => "denied",
            Self::Incompatible { .. } => "incompatible",
            Self::OtherCluster { .. } => "other_cluster",
            Self::TooLarge(_) => "too_large",
            Self::Busy { .. } => "busy",
            Self::NoRoom(_) => "no_room",
            Self::SessionExpired { .. } => "session_expired",
            Self::Unavailable { .. } => "unavailable",
            Self::OutcomeUnknown { .. } => "outcome_unknown",
        }
    }

    /// What to do next, where there is more to say than the message does.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Config(_)
            | Self::Invalid(_)
            | Self::Failed(_)
            | Self::Unexpected(_)
            | Self::NoSuchLease(_)
            | Self::Compacted(_) => return None,
            Self::Denied(_) => "check this client's credentials".to_owned(),
            Self::Incompatible { .. } => {
                "check the endpoints, and that servers and client are of like versions".to_owned()
            }
            Self::OtherCluster { .. } => "name endpoints of one cluster only".to_owned(),
            Self::TooLarge(_) => "ask for less at once, with LIMIT for example".to_owned(),
            Self::Busy { .. } => "try again later, or send less at once".to_owned(),
            Self::NoRoom(_) => {
                "raftkv-cli status says at which nodes, and transfer-leader moves the lead to one that has room"
                    .to_owned()
            }
            Self::SessionExpired { .. } => "check the clocks of the nodes, and try again".to_owned(),
            Self::Unavailable { troubles } => hint_at(troubles),
            Self::OutcomeUnknown { .. } => "look whether it was applied before sending it again".to_owned(),
        };
        Some(hint)
    }
}

/// What happened last at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The address, as `host:port`.
    pub address: String,
    /// What happened.
    pub kind: TroubleKind,
}

/// What happened at an address, other than an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TroubleKind {
    /// No connection: certainly nothing was sent.
    Unreachable(String),
    /// No answer so far.
    Silent,
    /// The connection broke, or the server does not know the outcome.
    Lost(String),
    /// It does not lead, and names who does.
    NotLeader(String),
    /// It knows of no leader.
    NoLeader,
    /// It has not begun: it waits for the other nodes of its first start.
    NotBegun,
    /// It can't do it now.
    Busy(String),
}

impl TroubleKind {
    fn is_out_of_reach(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Silent | Self::Lost(_))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, kind } = self;
        match kind {
            TroubleKind::Unreachable(reason) | TroubleKind::Lost(reason) => write!(f, "{address} {reason}"),
            TroubleKind::Silent => write!(f, "{address} does not answer"),
            TroubleKind::NotLeader(leader) => write!(f, "{address} names {leader} as the leader"),
            TroubleKind::NoLeader => write!(f, "{address} knows of no leader"),
            TroubleKind::NotBegun => write!(f, "{address} has not begun"),
            TroubleKind::Busy(message) => write!(f, "{address} is busy: {message}"),
        }
    }
}

fn describe(troubles: &[Trouble]) -> String {
    let all = troubles.len();
    let out_of_reach = list(troubles.iter().filter(|trouble| trouble.kind.is_out_of_reach()));
    let count = troubles.iter().filter(|trouble| trouble.kind.is_out_of_reach()).count();
    if count == all {
        return format!("no endpoint reachable: {out_of_reach}");
    }
    if waits_to_begin(troubles) {
        return format!("the cluster has not begun: {}", list(troubles));
    }
    if count > 0 {
        return format!("no leader: {count} of {all} endpoints unreachable ({out_of_reach})");
    }
    format!("no leader: {}", list(troubles))
}

/// Whether a node waits for its first start, and all others are out of reach or wait as well.
fn waits_to_begin(troubles: &[Trouble]) -> bool {
    let waits = |trouble: &Trouble| trouble.kind == TroubleKind::NotBegun;
    troubles.iter().any(waits) && troubles.iter().all(|trouble| waits(trouble) || trouble.kind.is_out_of_reach())
}

fn hint_at(troubles: &[Trouble]) -> String {
    if waits_to_begin(troubles) {
        return "`raftkv-cli status` shows what the nodes wait for".to_owned();
    }
    let names = |address: &str| troubles.iter().any(|other| other.kind == TroubleKind::NotLeader(address.to_owned()));
    let unreachable_leader = troubles.iter().find(|it| it.kind.is_out_of_reach() && names(&it.address));
    if let Some(Trouble { address, .. }) = unreachable_leader {
        return format!("the leader says it is at {address}: start it, or name an endpoint that reaches it");
    }
    if troubles.iter().all(|trouble| trouble.kind.is_out_of_reach()) {
        return "start the nodes (`raftkv-server demo` starts three), or name others with --endpoints".to_owned();
    }
    "most of the nodes must run for one to lead: `raftkv-cli status` shows which do".to_owned()
}

/// The troubles, in one line.
pub(crate) fn list<'a>(troubles: impl IntoIterator<Item = &'a Trouble>) -> String {
    troubles.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable(kinds: &[TroubleKind]) -> Error {
        let trouble = |(i, kind): (usize, &TroubleKind)| Trouble { address: format!("n{i}:1"), kind: kind.clone() };
        Error::Unavailable { troubles: kinds.iter().enumerate().map(trouble).collect() }
    }

    #[test]
    fn unavailable_says_who_was_out_of_reach() {
        let refused = TroubleKind::Unreachable("refused".into());
        let none = unavailable(&[refused.clone(), TroubleKind::Silent]);
        assert_eq!(none.to_string(), "no endpoint reachable: n0:1 refused, n1:1 does not answer");
        let some = unavailable(&[TroubleKind::NoLeader, refused.clone(), refused.clone()]);
        assert_eq!(some.to_string(), "no leader: 2 of 3 endpoints unreachable (n1:1 refused, n2:1 refused)");
        let all = unavailable(&[TroubleKind::NoLeader]);
        assert_eq!(all.to_string(), "no leader: n0:1 knows of no leader");
    }

    #[test]
    fn nodes_that_wait_for_their_first_start_have_no_leader_to_miss() {
        let refused = TroubleKind::Unreachable("refused".into());
        let waiting = unavailable(&[TroubleKind::NotBegun, refused]);
        assert_eq!(waiting.to_string(), "the cluster has not begun: n0:1 has not begun, n1:1 refused");
        assert!(waiting.hint().unwrap().contains("raftkv-cli status"));
        let begun = unavailable(&[TroubleKind::NotBegun, TroubleKind::NoLeader]);
        assert!(begun.to_string().starts_with("no leader: "));
    }

    #[test]
    fn the_hint_names_a_leader_that_cannot_be_reached() {
        let refused = TroubleKind::Unreachable("refused".into());
        let error = unavailable(&[refused, TroubleKind::NotLeader("n0:1".into())]);
        assert!(error.hint().unwrap().contains("the leader says it is at n0:1"));
    }
}
