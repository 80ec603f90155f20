//! What the core orders. Data without behaviour.

use alloc::sync::Arc;
use core::fmt;

use crate::entries::Entries;
use crate::membership::{ChangeError, Membership};
use crate::message::Envelope;
use crate::types::{EntryId, HardState, Index, NodeId, RequestId, Round, Snapshot, Term, WriteId};

/// An order to the driver. *Carry each out when you see it, `Persist` in order, and say `Persisted(n)` when write n is
/// durable*: that is the whole contract.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// This node's role, term or leader has changed: for people and metrics.
    Became {
        /// What it is now.
        role: RoleKind,
        /// Its current term.
        term: Term,
        /// Who leads that term, if known.
        leader: Option<NodeId>,
    },
    /// The membership in force has changed: these are the nodes to talk to.
    UseMembership(Arc<Membership>),
    /// Write this durably, then report [`Persisted`](crate::input::Input::Persisted).
    Persist(Persist),
    /// Send this, now. It may be lost, repeated or reordered, but not altered.
    Send(Envelope),
    /// The batch of proposals `id` stands in this leader's log. Each of its entries is *applied* when [`Apply`](Self::Apply) yields
    /// an entry of its index and term, *lost* when `Apply` yields one of its index and another term, and *unknown* when
    /// [`InstallSnapshot`](Self::InstallSnapshot) passes its index.
    Appended {
        /// The batch.
        id: RequestId,
        /// Its first entry; the others follow without a gap.
        first: EntryId,
        /// How many entries it has.
        count: u64,
    },
    /// Apply these to the state machine, in order; they follow the last `Apply` without a gap. Then report
    /// [`Applied`](crate::input::Input::Applied).
    Apply(Entries),
    /// Read these entries from the log, then report [`Loaded`](crate::input::Input::Loaded). They have left memory, and are needed again.
    Load {
        /// The first.
        from: Index,
        /// How much to read at the most, but at least one entry.
        max_bytes: u64,
    },
    /// The log is long: make the state durable, up to this entry or further, then report
    /// [`SnapshotTaken`](crate::input::Input::SnapshotTaken). Its entries can then be dropped from the log.
    TakeSnapshot(Snapshot),
    /// Begin a copy of the state for `to`, at any entry from the last reported [`Applied`](crate::input::Input::Applied) on, and report
    /// [`SnapshotCaptured`](crate::input::Input::SnapshotCaptured). If the next step then orders to send an `InstallSnapshot`, the copy goes with it,
    /// followed by [`SnapshotProgress`](crate::input::Input::SnapshotProgress) and [`SnapshotSent`](crate::input::Input::SnapshotSent); otherwise it
    /// is not needed any more.
    CaptureSnapshot {
        /// Who needs it.
        to: NodeId,
    },
    /// Replace the state by the snapshot that was received, the durable write of which has been confirmed. Takes its place among the `Apply`, and is
    /// reported by [`Applied`](crate::input::Input::Applied) likewise.
    InstallSnapshot(Snapshot),
    /// This node does not lead any more, as the transfer or step-down `id` has asked.
    SteppedDown {
        /// The request.
        id: RequestId,
    },
    /// Answer the read `id` once the state machine has applied `index`.
    ServeRead {
        /// The read.
        id: RequestId,
        /// What the state must include.
        index: Index,
    },
    /// A request will not happen, certainly.
    Refuse {
        /// The proposal or read.
        id: RequestId,
        /// Why.
        reason: Refusal,
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// A message made no sense and changed nothing: worth a line in the log.
    Discard {
        /// Who sent it.
        from: NodeId,
        /// What was wrong with it.
        reason: Malformed,
    },
    /// Another node has broken a rule that safety rests on. This node does nothing any more: stop it, keep its files.
    Halt(Violation),
}

/// One atomic write: all of it becomes durable, or nothing. Carried out in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Persist {
    /// Its number, for `Persisted`. Numbers count up by one from 1 at every start.
    pub id: WriteId,
    /// If there: the term and vote to store.
    pub hard_state: Option<HardState>,
    /// If there: drop the entries from this index on.
    pub truncate_from: Option<Index>,
    /// If there: record this as the snapshot that the log begins after, and drop the entries up to its last. The state holds them, durably.
    pub compact: Option<Snapshot>,
    /// If there: as `compact`, of a snapshot that was received and is not the state yet. A start that finds it recorded, and the state behind it, must
    /// install it first.
    pub install: Option<Snapshot>,
    /// Entries to append after what is left.
    pub entries: Entries,
}

/// A role without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoleKind {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would be elected, in the term it is in (thesis §9.6).
    PreCandidate,
    /// Stands for election in its term.
    Candidate,
    /// Leads its term.
    Leader,
}

impl fmt::Display for RoleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        })
    }
}

/// Why a proposal or read will not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// This node does not lead.
    #[error("this node is not the leader")]
    NotLeader,
    /// It led when the read came, and does not any more.
    #[error("this node is no longer the leader")]
    LeadershipLost,
    /// Too many bytes wait to be committed.
    #[error("too much waits to be committed; try again later")]
    Overloaded,
    /// The batch is empty.
    #[error("a proposal has at least one command")]
    Empty,
    /// Leadership is being handed over.
    #[error("leadership is being handed over; try again in a moment")]
    Transferring,
    /// The transfer of leadership took too long, and was given up.
    #[error("the transfer took too long and was given up")]
    TransferTimedOut,
    /// Only another voter can take over leadership.
    #[error("{0} can't take over: it is not another voter of this cluster")]
    NoSuccessor(NodeId),
    /// The leader has not committed an entry of its term yet, so an earlier change may be under way unseen.
    #[error("the leader's term has only begun; try again in a moment")]
    TermNotCommitted,
    /// One change at a time.
    #[error("another membership change is under way")]
    ChangeUnderWay,
    /// A learner's log is too far behind for a vote.
    #[error("{0} has not caught up yet")]
    NotCaughtUp(NodeId),
    /// The change makes no sense.
    #[error(transparent)]
    Change(ChangeError),
}

/// What was wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// It is addressed to another node.
    #[error("it is meant for {0}")]
    NotForUs(NodeId),
    /// Its sender is this node, or has an id that no node can have.
    #[error("its sender can't be {0}")]
    Sender(NodeId),
    /// Its term is beyond the last there may be.
    #[error("its term {0} is out of range")]
    Term(Term),
    /// Its entries do not follow each other, or their terms fall or are above the sender's.
    #[error("its entries are not a valid continuation of {0}")]
    Entries(EntryId),
    /// It offers a snapshot at a position where no entry can be, or of a term above its own.
    #[error("there can be no snapshot that ends with {0}")]
    Snapshot(EntryId),
    /// It acknowledges what was never sent.
    #[error("it acknowledges entry {0}, which was never sent to it")]
    NeverSent(Index),
    /// It echoes a round of the leader that was never begun.
    #[error("it confirms round {0}, which was never begun")]
    NeverBegun(Round),
}

/// Proof that a rule which safety rests on was broken elsewhere. Shown as a sentence that a person can act on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Two nodes lead one term (§5.2, election safety).
    #[error("both {first} and {second} claim to lead term {term}: two nodes share an id, or a node has lost its vote")]
    TwoLeaders {
        /// The term.
        term: Term,
        /// The leader known so far.
        first: NodeId,
        /// The other.
        second: NodeId,
    },
    /// A leader contradicts an entry that is committed here (§5.4, leader completeness).
    #[error("leader {leader} contradicts the committed entry {committed}: a node has lost part of its log")]
    CommittedEntry {
        /// Who sent it.
        leader: NodeId,
        /// The entry that is committed here.
        committed: EntryId,
    },
}
