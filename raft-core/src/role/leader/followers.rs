//! What the leader knows of each follower, and what it sends next.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::config::Config;
use crate::log::Log;
use crate::message::{AppendEntries, Message};
use crate::replica::Replica;
use crate::status::{FollowerStatus, ProgressKind};
use crate::types::{Entry, EntryId, Index, NodeId, Round};

/// All followers of a leader, in order of id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Followers {
    by_id: BTreeMap<NodeId, FollowerState>,
}

/// What the leader knows of one follower (Figure 2, "volatile state on leaders").
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct FollowerState {
    /// The highest entry known to be durable there and to match this log. Zero at first; never moves back.
    match_index: Index,
    /// The next entry to send. Always above `match_index`.
    next_index: Index,
    progress: Progress,
    /// The latest of this leader's rounds that it has echoed.
    round: Round,
    /// Whether it was heard of since the last check of the quorum.
    active: bool,
}

/// How a follower is sent entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Progress {
    /// Where the logs agree is not known: one message at a time.
    Probe {
        /// A message is under way. If it is lost, the next heartbeat finds out.
        awaiting_reply: bool,
    },
    /// The logs agree before `next_index`: entries are sent ahead of their acknowledgement.
    Replicate {
        /// What is under way.
        inflight: Inflight,
    },
}

/// Entries on their way to a follower, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Inflight {
    /// The last entry of each message, and its size in bytes.
    messages: VecDeque<(Index, u64)>,
    bytes: u64,
}

impl Followers {
    /// All other members, whose logs are tried at the end of this one first.
    pub fn new(replica: &Replica) -> Self {
        let next_index = replica.log().last().index.next();
        let others = replica.membership().nodes().filter(|&id| id != replica.id());
        Self { by_id: others.map(|id| (id, FollowerState::new(next_index))).collect() }
    }

    /// The highest entry known to match on `id`; zero if it is no follower.
    pub fn match_index(&self, id: NodeId) -> Index {
        self.by_id.get(&id).map_or(Index::ZERO, |follower| follower.match_index)
    }

    /// The latest round that `id` has echoed.
    pub fn round(&self, id: NodeId) -> Round {
        self.by_id.get(&id).map_or(Round::default(), |follower| follower.round)
    }

    /// Each follower, for people and metrics.
    pub fn statuses(&self) -> Vec<FollowerStatus> {
        let status = |(&id, follower): (&NodeId, &FollowerState)| FollowerStatus {
            id,
            match_index: follower.match_index,
            next_index: follower.next_index,
            active: follower.active,
            progress: match follower.progress {
                Progress::Probe { .. } => ProgressKind::Probe,
                Progress::Replicate { .. } => ProgressKind::Replicate,
            },
        };
        self.by_id.iter().map(status).collect()
    }

    /// Whether a majority, this node included, was heard of since the last call.
    pub fn take_quorum_active(&mut self, replica: &Replica) -> bool {
        let is_active = |id| id == replica.id() || self.by_id.get(&id).is_some_and(|follower| follower.active);
        let has_quorum = replica.membership().agreed(is_active);
        self.by_id.values_mut().for_each(|follower| follower.active = false);
        has_quorum
    }

    /// Notes that `id` has answered, having seen `round`.
    pub fn heard(&mut self, id: NodeId, round: Round) {
        if let Some(follower) = self.by_id.get_mut(&id) {
            follower.active = true;
            follower.round = follower.round.max(round);
        }
    }

    /// Notes that the log of `id` is durable and matches up to `matched`.
    pub fn accepted(&mut self, id: NodeId, matched: Index) {
        if let Some(follower) = self.by_id.get_mut(&id) {
            follower.accepted(matched);
        }
    }

    /// Notes that the log of `id` does not hold the entry at `prev`, and may agree with this one at `hint`.
    pub fn rejected(&mut self, log: &Log, id: NodeId, prev: Index, hint: EntryId) {
        if let Some(follower) = self.by_id.get_mut(&id) {
            follower.rejected(log, prev, hint);
        }
    }

    /// Sends each follower what it lacks, as far as its window allows.
    pub fn replicate(&mut self, replica: &mut Replica, round: Round) {
        for (&id, follower) in &mut self.by_id {
            while follower.may_send(replica) {
                let entries = replica.log().entries(follower.next_index, replica.config().max_append_bytes);
                follower.send(replica, id, entries, round);
            }
        }
    }

    /// Sends each follower an `AppendEntries` without entries. Its answer shows whether what was sent before has arrived.
    pub fn send_heartbeats(&mut self, replica: &mut Replica, round: Round) {
        for (&id, follower) in &mut self.by_id {
            follower.send(replica, id, Vec::new(), round);
        }
    }
}

impl FollowerState {
    fn new(next_index: Index) -> Self {
        Self {
            match_index: Index::ZERO,
            next_index,
            progress: Progress::Probe { awaiting_reply: false },
            round: Round::default(),
            active: true,
        }
    }

    fn may_send(&self, replica: &Replica) -> bool {
        match &self.progress {
            Progress::Probe { awaiting_reply } => !awaiting_reply,
            Progress::Replicate { inflight } => {
                self.next_index <= replica.log().last().index && !inflight.is_full(replica.config())
            }
        }
    }

    /// Sends `entries`, which start at `next_index`, and notes that they are under way.
    fn send(&mut self, replica: &mut Replica, id: NodeId, entries: Vec<Entry>, round: Round) {
        let prev_index = self.next_index.prev();
        let prev_term = replica.log().term_at(prev_index).expect("a follower is sent what the log holds");
        match &mut self.progress {
            Progress::Probe { awaiting_reply } => *awaiting_reply = true,
            Progress::Replicate { inflight } => {
                if let Some(last) = entries.last() {
                    inflight.add(last.id.index, entries.iter().map(Entry::size_bytes).sum());
                    self.next_index = last.id.index.next();
                }
            }
        }
        let prev = EntryId::new(prev_index, prev_term);
        let commit = replica.log().commit_index();
        replica.send(id, Message::AppendEntries(AppendEntries { prev, entries, commit, round }));
    }

    fn accepted(&mut self, matched: Index) {
        self.match_index = self.match_index.max(matched);
        self.next_index = self.next_index.max(self.match_index.next());
        match &mut self.progress {
            Progress::Probe { .. } => self.progress = Progress::Replicate { inflight: Inflight::default() },
            Progress::Replicate { inflight } => inflight.arrived(matched),
        }
    }

    fn rejected(&mut self, log: &Log, prev: Index, hint: EntryId) {
        let is_late = match &self.progress {
            Progress::Probe { .. } => prev != self.next_index.prev(),
            Progress::Replicate { .. } => prev >= self.next_index,
        };
        if is_late || prev <= self.match_index {
            return;
        }
        let agreed = log.last_not_above(hint.index, hint.term).index;
        self.next_index = agreed.next().min(prev).max(self.match_index.next());
        self.progress = Progress::Probe { awaiting_reply: false };
    }
}

impl Inflight {
    fn is_full(&self, config: &Config) -> bool {
        let has_too_many_bytes = !self.messages.is_empty() && self.bytes >= config.max_inflight_bytes;
        has_too_many_bytes || self.messages.len() >= config.max_inflight_messages
    }

    fn add(&mut self, last: Index, bytes: u64) {
        self.messages.push_back((last, bytes));
        self.bytes += bytes;
    }

    fn arrived(&mut self, matched: Index) {
        while let Some(&(last, bytes)) = self.messages.front()
            && last <= matched
        {
            self.messages.pop_front();
            self.bytes -= bytes;
        }
    }
}
