//! How a trace shows what nodes do: a line for each effect, beginning with the node and its term, as in `n3@2`.

use std::fmt;

use raft_core::effect::{Persist, RoleKind};
use raft_core::membership::Membership;
use raft_core::message::{AppendEntries, AppendEntriesReply, AppendResult, Envelope, InstallSnapshot, Message};
use raft_core::port::Stored;
use raft_core::status::{FollowerStatus, ProgressKind, Status};
use raft_core::types::{Entry, EntryId, Index, NodeId, Payload, RequestId, Round, Snapshot, Term};

/// What a node is: `n3@2 follower(n1)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The node.
    pub id: NodeId,
    /// Its role.
    pub role: RoleKind,
    /// Its term.
    pub term: Term,
    /// Whom it follows.
    pub leader: Option<NodeId>,
}

impl Standing {
    /// What `status` says of it.
    pub fn of(status: &Status) -> Self {
        Self { id: status.id, role: status.role, term: status.term, leader: status.leader }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} {}", self.id, self.term, self.role)?;
        match self.leader {
            Some(leader) if leader != self.id => write!(f, "({leader})"),
            _ => Ok(()),
        }
    }
}

/// The name of a message's kind, as the paper has it.
pub fn kind(message: &Message) -> &'static str {
    match message {
        Message::RequestPreVote { .. } => "RequestPreVote",
        Message::RequestPreVoteReply { .. } => "RequestPreVoteReply",
        Message::RequestVote { .. } => "RequestVote",
        Message::RequestVoteReply { .. } => "RequestVoteReply",
        Message::AppendEntries(_) => "AppendEntries",
        Message::AppendEntriesReply(_) => "AppendEntriesReply",
        Message::InstallSnapshot(_) => "InstallSnapshot",
        Message::TimeoutNow => "TimeoutNow",
        Message::ReadIndex { .. } => "ReadIndex",
        Message::ReadIndexReply { .. } => "ReadIndexReply",
    }
}

/// A message that is sent: `n3@2 → n1 RequestVote last=1@1`; or lost: `n3@2 ↛ n1 …`.
pub fn sent(envelope: &Envelope, arrow: &str) -> String {
    let Envelope { from, to, term, message } = envelope;
    format!("{from}@{term} {arrow} {to} {}", describe(message))
}

/// A message as its receiver sees it: `n3@2 RequestVote last=1@1`.
pub fn received(envelope: &Envelope) -> String {
    let Envelope { from, term, message, .. } = envelope;
    format!("{from}@{term} {}", describe(message))
}

fn describe(message: &Message) -> String {
    let kind = kind(message);
    match message {
        Message::RequestPreVote { last } | Message::RequestVote { last, transfer: false } => {
            format!("{kind} last={last}")
        }
        Message::RequestVote { last, transfer: true } => format!("{kind} last={last} transfer"),
        Message::RequestPreVoteReply { request_term, granted } => {
            format!("{kind} {} request_term={request_term}", verdict(*granted))
        }
        Message::RequestVoteReply { granted } => format!("{kind} {}", verdict(*granted)),
        Message::AppendEntries(AppendEntries { prev, entries, commit, round }) => {
            format!("{kind} prev={prev}{} commit={commit}{}", spaced(&runs(entries)), in_round(*round))
        }
        Message::AppendEntriesReply(AppendEntriesReply { round, result }) => {
            let result = match result {
                AppendResult::Accepted { matched } => format!("matched={matched}"),
                AppendResult::Rejected { prev, hint } => format!("rejected prev={prev} hint={hint}"),
            };
            format!("{kind} {result}{}", in_round(*round))
        }
        Message::InstallSnapshot(InstallSnapshot { snapshot, round }) => {
            format!("{kind} {}{}", self::snapshot(snapshot), in_round(*round))
        }
        Message::TimeoutNow => kind.to_string(),
        Message::ReadIndex { token } => format!("{kind} {token}"),
        Message::ReadIndexReply { token, index: Some(index) } => format!("{kind} {token} index={index}"),
        Message::ReadIndexReply { token, index: None } => format!("{kind} {token} refused"),
    }
}

fn verdict(granted: bool) -> &'static str {
    if granted { "granted" } else { "refused" }
}

fn in_round(round: Round) -> String {
    if round == Round::default() { String::new() } else { format!(" round={round}") }
}

fn spaced(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" {text}") }
}

/// A write: `#4 term=2 vote=n3 truncate=3 append=3..5@2`.
pub fn write(persist: &Persist) -> String {
    let mut line = persist.id.to_string();
    if let Some(hard_state) = persist.hard_state {
        line += &format!(" term={}", hard_state.term);
        line += &hard_state.vote.map(|vote| format!(" vote={vote}")).unwrap_or_default();
    }
    line += &persist.truncate_from.map(|from| format!(" truncate={from}")).unwrap_or_default();
    for (what, snapshot) in [("compact", &persist.compact), ("install", &persist.install)] {
        line += &snapshot.as_ref().map(|snapshot| format!(" {what} {}", self::snapshot(snapshot))).unwrap_or_default();
    }
    if !persist.entries.is_empty() {
        line += &format!(" append {}", runs(&persist.entries));
    }
    line
}

/// A log: `log 1@1 2..4@2`, or `log after 3@2 4@2` where it begins later.
pub fn log(stored: &Stored) -> String {
    let after = match stored.snapshot.last {
        EntryId::ZERO => String::new(),
        last => format!(" after {last}"),
    };
    format!("log{after}{}", spaced(&runs(&stored.entries)))
}

/// Entries, those of one term together: `1@1 2..4@2`.
pub fn runs(entries: &[Entry]) -> String {
    let runs = entries.chunk_by(|a, b| a.id.term == b.id.term && a.id.index.next() == b.id.index);
    let show = |run: &[Entry]| range(run[0].id, run.len() as u64);
    runs.map(show).collect::<Vec<_>>().join(" ")
}

/// `count` entries of one term: `3@2`, `3..5@2`.
pub fn range(first: EntryId, count: u64) -> String {
    match count {
        1 => first.to_string(),
        _ => format!("{}..{}@{}", first.index, first.index.0 + count - 1, first.term),
    }
}

/// Entries with what they hold: `2@2 noop, 3@2 x=1`.
pub fn contents(entries: &[Entry]) -> String {
    let show = |Entry { id, payload }: &Entry| match payload {
        Payload::Noop => format!("{id} noop"),
        Payload::Command(command) => format!("{id} {}", String::from_utf8_lossy(command)),
        Payload::Membership(membership) => format!("{id} {}", members(membership)),
    };
    entries.iter().map(show).collect::<Vec<_>>().join(", ")
}

/// A snapshot: `last=7@3 membership n1 n2 n3`.
pub fn snapshot(snapshot: &Snapshot) -> String {
    format!("last={} {}", snapshot.last, members(&snapshot.membership))
}

/// A membership: `membership n1 n2 n3`.
pub fn members(membership: &Membership) -> String {
    let mut line = "membership".to_string();
    let mut add = |title: &str, ids: &mut dyn Iterator<Item = &NodeId>| {
        let ids: String = ids.map(|id| format!(" {id}")).collect();
        if !ids.is_empty() {
            line += &format!("{title}{ids}");
        }
    };
    add("", &mut membership.voters.iter());
    add(" outgoing", &mut membership.outgoing.iter());
    add(" learners", &mut membership.learners.iter());
    add(" promotable", &mut membership.promotable.iter());
    if membership.stays_joint {
        line += " stays joint";
    }
    line
}

/// A node's status in a line, a leader's followers included.
pub fn status(status: &Status) -> String {
    let Status { last_index, durable_index, commit_index, applied_index, .. } = status;
    let standing = Standing::of(status);
    let followers: String = status.followers.iter().map(follower).collect();
    format!(
        "{standing} last={last_index} durable={durable_index} commit={commit_index} applied={applied_index}{followers}"
    )
}

fn follower(follower: &FollowerStatus) -> String {
    let FollowerStatus { id, match_index, next_index, active, progress } = follower;
    let progress = match progress {
        ProgressKind::Snapshot => " snapshot",
        ProgressKind::Probe | ProgressKind::Replicate => "",
    };
    format!(", {id} match={match_index} next={next_index}{progress}{}", if *active { "" } else { " silent" })
}

/// A read that can be answered.
pub fn serve(id: RequestId, index: Index) -> String {
    format!("serve {id} at {index}")
}
