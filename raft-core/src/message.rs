//! What nodes say to each other. Data without behaviour.

use crate::entries::Entries;
use crate::types::{EntryId, Index, NodeId, ReadToken, Round, Snapshot, Term};

/// A message with its addressee and its sender's term.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Envelope {
    /// Who sent it.
    pub from: NodeId,
    /// Who is to receive it.
    pub to: NodeId,
    /// The sender's current term when it was sent.
    pub term: Term,
    /// What it says.
    pub message: Message,
}

/// The RPCs of the paper, requests and replies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// Would you vote for me in the term after mine (thesis §9.6)? Changes nobody's term or vote.
    RequestPreVote {
        /// The candidate's last entry.
        last: EntryId,
    },
    /// The answer to `RequestPreVote`.
    RequestPreVoteReply {
        /// The term of the request that this answers: the candidate's, which may be above the voter's own.
        request_term: Term,
        /// Whether the vote would be granted.
        granted: bool,
    },
    /// Vote for me in this term (§5.2).
    RequestVote {
        /// The candidate's last entry.
        last: EntryId,
        /// Whether the leader itself has asked the candidate to stand (thesis §3.10): then voters need not wait for it to fall silent.
        transfer: bool,
    },
    /// The answer to `RequestVote`.
    RequestVoteReply {
        /// Whether the vote was granted, durably.
        granted: bool,
    },
    /// Store these entries (§5.3); a heartbeat if there are none.
    AppendEntries(AppendEntries),
    /// The answer to one or several `AppendEntries`.
    AppendEntriesReply(AppendEntriesReply),
    /// Replace your state and log by this snapshot (§7). Arrives once the data that belongs to it is complete, verified and durable. Answered by an
    /// `AppendEntriesReply`.
    InstallSnapshot(InstallSnapshot),
    /// Stand for election at once (thesis §3.10).
    TimeoutNow,
    /// What must a state include to answer a read that begins now (thesis §6.4)?
    ReadIndex {
        /// Names the question; echoed in the reply.
        token: ReadToken,
    },
    /// The answer to `ReadIndex`.
    ReadIndexReply {
        /// The question that this answers.
        token: ReadToken,
        /// What a state must include. None if the sender does not lead any more, and cannot say.
        index: Option<Index>,
    },
}

/// A leader's offer of a snapshot (§7).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InstallSnapshot {
    /// What the snapshot includes.
    pub snapshot: Snapshot,
    /// The leader's latest round of confirming its leadership.
    pub round: Round,
}

/// A leader's request to store entries (§5.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppendEntries {
    /// The entry just before `entries`, which the follower must have.
    pub prev: EntryId,
    /// Entries to store, contiguous from `prev`.
    pub entries: Entries,
    /// The leader's commit index.
    pub commit: Index,
    /// The leader's latest round of confirming its leadership.
    pub round: Round,
}

/// A follower's answer to `AppendEntries`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppendEntriesReply {
    /// The latest round the follower has seen from this leader in this term.
    pub round: Round,
    /// Whether its log held `prev`.
    pub result: AppendResult,
}

/// Whether a follower's log held the entry before the new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppendResult {
    /// It did.
    Accepted {
        /// The highest index up to which the follower's log is durable and known to match the leader's.
        matched: Index,
    },
    /// It did not.
    Rejected {
        /// The index of the `prev` that was not found, which tells a late rejection from a new one.
        prev: Index,
        /// The follower's last entry at or before `prev` whose term is not above prev's: where to look next.
        hint: EntryId,
    },
}

impl InstallSnapshot {
    /// Whether a leader of `leader_term` can have such a snapshot. At the very end of the range no entry could follow.
    pub fn is_possible(&self, leader_term: Term) -> bool {
        let last = self.snapshot.last;
        (Index(1)..Index::LAST).contains(&last.index) && (Term(1)..=leader_term).contains(&last.term)
    }
}

impl AppendEntries {
    /// Whether the entries follow `prev` and each other without a gap, in terms that never fall and are not above `leader_term`.
    pub fn is_continuous(&self, leader_term: Term) -> bool {
        let is_possible = |id: EntryId| id.term <= leader_term && (id.index == Index::ZERO) == (id.term == Term(0));
        let mut last = self.prev;
        is_possible(last)
            && self.entries.iter().all(|entry| {
                // At both ends of the range, the next position is no other.
                let is_next = entry.id.index > last.index && entry.id.index.prev() == last.index;
                let follows = is_next && entry.id.term >= last.term;
                last = entry.id;
                follows && is_possible(last)
            })
    }
}

impl Message {
    /// Whether only the leader of the envelope's term sends this.
    pub fn is_from_leader(&self) -> bool {
        matches!(self, Self::AppendEntries(_) | Self::InstallSnapshot(_) | Self::TimeoutNow)
    }

    /// Whether this answers a request.
    pub fn is_reply(&self) -> bool {
        match self {
            Self::RequestPreVoteReply { .. }
            | Self::RequestVoteReply { .. }
            | Self::AppendEntriesReply(_)
            | Self::ReadIndexReply { .. } => true,
            Self::RequestPreVote { .. }
            | Self::RequestVote { .. }
            | Self::AppendEntries(_)
            | Self::InstallSnapshot(_)
            | Self::TimeoutNow
            | Self::ReadIndex { .. } => false,
        }
    }
}
