//! The numbers and records that everything else speaks of.

use alloc::sync::Arc;
use bytes::Bytes;

use crate::membership::Membership;

pub use crate::membership::Member;
pub use crate::numbers::{
    ClusterId, EntryId, Incarnation, Index, Moment, NodeId, ReadToken, RequestId, Round, Term, WriteId,
};

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Its position and term.
    pub id: EntryId,
    /// What it holds.
    pub payload: Payload,
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// Nothing: the entry a leader begins its term with, to learn what is committed (§8).
    Noop,
    /// A command for the state machine. The core does not look inside.
    Command(Bytes),
    /// A membership, in force from the moment it is appended (§6). Shared, for commands are what logs are full of, and should not pay for its size.
    Membership(Arc<Membership>),
}

impl Entry {
    /// What the entry counts towards limits in bytes: its payload and a fixed share for its envelope.
    pub fn size_bytes(&self) -> u64 {
        const ENVELOPE_BYTES: u64 = 32;
        const MEMBER_BYTES: u64 = 64;
        ENVELOPE_BYTES
            + match &self.payload {
                Payload::Noop => 0,
                Payload::Command(command) => command.len() as u64,
                Payload::Membership(membership) => MEMBER_BYTES * membership.members.len() as u64,
            }
    }
}

/// What is known of a state by itself (§7): which entries it includes, and the membership at that point. The state's data is the driver's business.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// The last entry that the state includes; zero for an empty state.
    pub last: EntryId,
    /// The membership at `last`: that of the last membership entry at or before it.
    pub membership: Arc<Membership>,
}

/// What must survive a restart besides the log (Figure 2, "persistent state").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// The latest term this node has seen. Never falls.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
}

/// Who a node is: what it states to its peers, and what its data directory is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster it belongs to; zero if it has not begun.
    pub cluster: ClusterId,
    /// Its place in the membership.
    pub node: NodeId,
    /// The disk behind it.
    pub incarnation: Incarnation,
}
