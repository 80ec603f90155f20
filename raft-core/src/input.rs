//! What the core is told. Data without behaviour.

use alloc::vec::Vec;
use bytes::Bytes;

use crate::membership::MembershipChange;
use crate::message::Envelope;
use crate::types::{Entry, Index, Moment, NodeId, RequestId, WriteId};

/// Something that happened, for [`Node::step`](crate::node::Node::step).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// One tick of the clock has passed.
    Tick,
    /// A message has arrived.
    Receive(Envelope),
    /// Replicate these commands, in this order. Ends in [`Effect::Appended`](crate::effect::Effect::Appended) or
    /// [`Effect::Refuse`](crate::effect::Effect::Refuse).
    Propose {
        /// Names the batch in its outcome.
        id: RequestId,
        /// The commands, at least one.
        commands: Vec<Bytes>,
    },
    /// A linearizable read is wanted. Ends in [`Effect::ServeRead`](crate::effect::Effect::ServeRead) or
    /// [`Effect::Refuse`](crate::effect::Effect::Refuse).
    Read {
        /// Names the read in its outcome. The core makes its own tokens, so a repeated id is harmless.
        id: RequestId,
        /// What must be certain before it is answered.
        mode: ReadMode,
    },
    /// Change the membership (§6, thesis §4). Ends in [`Effect::Appended`](crate::effect::Effect::Appended), of one entry, or
    /// [`Effect::Refuse`](crate::effect::Effect::Refuse). Where the change leads through a joint configuration, the leader leaves it by itself, unless
    /// the change says otherwise.
    ChangeMembership {
        /// Names the change in its outcome.
        id: RequestId,
        /// What is to change.
        change: MembershipChange,
    },
    /// Leave a joint configuration that was entered to stay. Ends as [`ChangeMembership`](Self::ChangeMembership).
    LeaveJoint {
        /// Names the change in its outcome.
        id: RequestId,
    },
    /// Hand leadership to `to` (thesis §3.10). Ends in [`Effect::SteppedDown`](crate::effect::Effect::SteppedDown) or
    /// [`Effect::Refuse`](crate::effect::Effect::Refuse), within an election timeout.
    TransferLeadership {
        /// Names the transfer in its outcome.
        id: RequestId,
        /// Who is to lead: a voter.
        to: NodeId,
    },
    /// Stop leading, at once and without a successor. Ends in [`Effect::SteppedDown`](crate::effect::Effect::SteppedDown) or
    /// [`Effect::Refuse`](crate::effect::Effect::Refuse).
    StepDown {
        /// Names the request in its outcome.
        id: RequestId,
    },
    /// Do not wait for the election timeout: ask now whether this node would be elected, as if it had passed. Does nothing on a leader, or on a
    /// node that may not stand.
    Campaign,
    /// The answer to [`Effect::Load`](crate::effect::Effect::Load).
    Loaded {
        /// What the load asked for.
        from: Index,
        /// The entries from there on, at least one; or that they could not be read.
        entries: Result<Vec<Entry>, LoadFailed>,
    },
    /// The state machine's state up to this entry is durable: the answer to [`Effect::TakeSnapshot`](crate::effect::Effect::TakeSnapshot). May be
    /// said unasked.
    SnapshotTaken(Index),
    /// A copy of the state for `to` is ready: the answer to [`Effect::CaptureSnapshot`](crate::effect::Effect::CaptureSnapshot).
    SnapshotCaptured {
        /// Whom it is for.
        to: NodeId,
        /// The last entry that it includes.
        index: Index,
    },
    /// A part of the snapshot for `to` has arrived there. Says that it is worth waiting for the rest.
    SnapshotProgress {
        /// Who receives it.
        to: NodeId,
    },
    /// The transfer of the snapshot for `to` has ended.
    SnapshotSent {
        /// Who was to receive it.
        to: NodeId,
        /// Whether all of it has arrived there. If not, or if it could not be captured, the leader tries again after a while.
        arrived: bool,
    },
    /// All writes up to this one are durable. May be repeated, and may skip numbers.
    Persisted(WriteId),
    /// The state machine has applied all entries up to this one.
    Applied(Index),
}

/// How a linearizable read is confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadMode {
    /// By a majority that still follows the leader after the read began (thesis §6.4). Rests on nothing but Raft.
    #[default]
    Quorum,
    /// By a majority that followed the leader within the last [`lease`](crate::config::Config::lease), if there is one, else by a quorum (thesis
    /// §6.4.1). Rests on clocks: see there.
    Lease {
        /// The time now, or shortly before. Must not be later than the actual time, and never falls.
        now: Moment,
    },
}

/// Entries could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LoadFailed;
