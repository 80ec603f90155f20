//! What a node says of itself, for people and metrics.

use alloc::vec::Vec;
use core::fmt;

use crate::effect::RoleKind;
use crate::membership::Membership;
use crate::types::{Index, NodeId, Term};

/// A node at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// The node.
    pub id: NodeId,
    /// Its role.
    pub role: RoleKind,
    /// Its current term.
    pub term: Term,
    /// Who leads that term, if known.
    pub leader: Option<NodeId>,
    /// The highest entry it knows to be committed.
    pub commit_index: Index,
    /// The highest entry its state machine has reported applied.
    pub applied_index: Index,
    /// The last entry of its log.
    pub last_index: Index,
    /// The highest entry that is durable on this node.
    pub durable_index: Index,
    /// The last entry that the log does not hold any more, a snapshot having taken its place; zero if it is whole.
    pub snapshot_index: Index,
    /// The membership in force.
    pub membership: Membership,
    /// Of a leader: what it knows of each other member. Empty otherwise.
    pub followers: Vec<FollowerStatus>,
    /// Of a leader that hands over: to whom.
    pub transferring_to: Option<NodeId>,
}

/// What a leader knows of a follower.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FollowerStatus {
    /// The follower.
    pub id: NodeId,
    /// The highest entry known to be durable there and to match the leader's log.
    pub match_index: Index,
    /// The next entry to send.
    pub next_index: Index,
    /// Whether it was heard of within the last two election timeouts.
    pub active: bool,
    /// How it is sent entries.
    pub progress: ProgressKind,
}

/// How a leader brings a follower up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProgressKind {
    /// It looks for where the logs agree.
    Probe,
    /// It sends entries ahead of their acknowledgement.
    Replicate,
    /// It sends a snapshot.
    Snapshot,
}

impl fmt::Display for ProgressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Probe => "probe",
            Self::Replicate => "replicate",
            Self::Snapshot => "snapshot",
        })
    }
}
