//! What the leader knows of each follower, and what it sends next.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::mem;

use crate::config::Config;
use crate::effect::Effect;
use crate::entries::Entries;
use crate::log::Log;
use crate::message::{AppendEntries, InstallSnapshot, Message};
use crate::replica::Replica;
use crate::status::{FollowerStatus, ProgressKind};
use crate::types::{Entry, EntryId, Index, NodeId, Round};

/// All followers of a leader, in order of id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Followers {
    /// Few, so that each is soon found.
    all: Vec<FollowerState>,
}

/// What the leader knows of one follower (Figure 2, "volatile state on leaders").
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct FollowerState {
    id: NodeId,
    /// The highest entry known to be durable there and to match this log. Zero at first; never moves back.
    match_index: Index,
    /// The next entry to send. Always above `match_index`.
    next_index: Index,
    progress: Progress,
    /// The latest of this leader's rounds that it has echoed.
    round: Round,
    /// The round that began when it became a member. Echoes of older ones are those of a former member of its id, perhaps with another disk.
    since: Round,
    /// Whether it was heard of since the last check of the quorum.
    active: bool,
    /// Whether it was heard of between that check and the one before.
    was_active: bool,
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
        /// The entries from here on have left memory, and are being read.
        loading: Option<Index>,
    },
    /// It needs entries that are compacted: it gets the state instead (§7).
    Snapshot {
        /// How far that is.
        stage: SnapshotStage,
        /// Nothing after this entry is compacted until it has ended.
        needed: Index,
        /// For how many ticks nothing was heard of it.
        silent_ticks: u32,
    },
}

/// How far a follower's snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum SnapshotStage {
    /// A copy of the state is being made.
    Capturing,
    /// It is on its way, or has arrived and is being installed.
    Sending,
    /// It has failed. It is tried again after an election timeout.
    Failed,
}

/// For how many election timeouts a snapshot may make no progress before it is begun anew. Whoever sends it reports its end; this is for one who
/// can't any more.
const SNAPSHOT_PATIENCE: u32 = 20;

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
        Self { all: others.map(|id| FollowerState::new(id, next_index, Round::default())).collect() }
    }

    /// Follows the membership in force, since `round`: new members are probed from the end of the log on, those who have left are forgotten.
    pub fn use_membership(&mut self, replica: &Replica, round: Round) {
        let (members, next_index) = (&replica.membership().members, replica.log().last().index.next());
        self.all.retain(|follower| members.contains_key(&follower.id));
        for &id in members.keys().filter(|&&id| id != replica.id()) {
            if self.of(id).is_none() {
                self.all.push(FollowerState::new(id, next_index, round));
            }
        }
        self.all.sort_unstable_by_key(|follower| follower.id);
    }

    /// Whether an answer that echoes `round` is that of a member.
    pub fn is_known_since(&self, id: NodeId, round: Round) -> bool {
        self.of(id).is_some_and(|follower| follower.since <= round)
    }

    /// The highest entry known to match on `id`; zero if it is no follower.
    pub fn match_index(&self, id: NodeId) -> Index {
        self.of(id).map_or(Index::ZERO, |follower| follower.match_index)
    }

    /// The latest round that `id` has echoed.
    pub fn round(&self, id: NodeId) -> Round {
        self.of(id).map_or(Round::default(), |follower| follower.round)
    }

    /// Whether `id` was heard of lately: since the last check of the quorum, which may have been a moment ago, or the one before.
    pub fn is_active(&self, id: NodeId) -> bool {
        self.of(id).is_some_and(|follower| follower.active || follower.was_active)
    }

    /// Each follower, for people and metrics.
    pub fn statuses(&self) -> Vec<FollowerStatus> {
        let status = |follower: &FollowerState| FollowerStatus {
            id: follower.id,
            match_index: follower.match_index,
            next_index: follower.next_index,
            active: follower.active || follower.was_active,
            progress: match follower.progress {
                Progress::Probe { .. } => ProgressKind::Probe,
                Progress::Replicate { .. } => ProgressKind::Replicate,
                Progress::Snapshot { .. } => ProgressKind::Snapshot,
            },
        };
        self.all.iter().map(status).collect()
    }

    /// Whether a majority, this node included, was heard of since the last call.
    pub fn take_quorum_active(&mut self, replica: &Replica) -> bool {
        let is_active = |id| id == replica.id() || self.of(id).is_some_and(|follower| follower.active);
        let has_quorum = replica.membership().agreed(is_active);
        for follower in &mut self.all {
            follower.was_active = mem::take(&mut follower.active);
        }
        has_quorum
    }

    /// Notes that `id` has answered, having seen `round`.
    pub fn heard(&mut self, id: NodeId, round: Round) {
        if let Some(follower) = self.of_mut(id) {
            follower.active = true;
            follower.round = follower.round.max(round);
        }
    }

    /// Notes that the log of `id` is durable and matches up to `matched`.
    pub fn accepted(&mut self, log: &Log, id: NodeId, matched: Index) {
        if let Some(follower) = self.of_mut(id) {
            follower.accepted(log, matched);
        }
    }

    /// Notes that the log of `id` does not hold the entry at `prev`, and may agree with this one at `hint`.
    pub fn rejected(&mut self, log: &Log, id: NodeId, prev: Index, hint: EntryId) {
        if let Some(follower) = self.of_mut(id) {
            follower.rejected(log, prev, hint);
        }
    }

    /// Sends each follower what it lacks, as far as its window allows.
    pub fn replicate(&mut self, replica: &mut Replica, round: Round) {
        for follower in &mut self.all {
            while follower.may_send(replica) {
                follower.send_next(replica, round);
            }
        }
    }

    /// Sends entries that were read back to those who wait for them; or notes that they could not be read.
    pub fn loaded(&mut self, replica: &mut Replica, from: Index, entries: Option<&Entries>, round: Round) {
        for follower in &mut self.all {
            follower.loaded(replica, from, entries, round);
        }
    }

    /// The entry after which nothing may be compacted: the last that a snapshot on its way to a follower includes.
    pub fn needed(&self) -> Index {
        let needed = |follower: &FollowerState| match follower.progress {
            Progress::Snapshot { needed, .. } => Some(needed),
            Progress::Probe { .. } | Progress::Replicate { .. } => None,
        };
        self.all.iter().filter_map(needed).min().unwrap_or(Index(u64::MAX))
    }

    /// Offers the captured state, which includes entries up to `index`, to the follower for which it was made.
    pub fn snapshot_captured(&mut self, replica: &mut Replica, id: NodeId, index: Index, round: Round) {
        if let Some(follower) = self.of_mut(id) {
            follower.snapshot_captured(replica, index, round);
        }
    }

    /// Notes that a part of the snapshot has arrived at `id`.
    pub fn snapshot_progress(&mut self, id: NodeId) {
        if let Some(FollowerState { progress: Progress::Snapshot { silent_ticks, .. }, .. }) = self.of_mut(id) {
            *silent_ticks = 0;
        }
    }

    /// Notes that all of the snapshot has arrived at `id`, or will not.
    pub fn snapshot_sent(&mut self, id: NodeId, arrived: bool) {
        if let Some(FollowerState { progress: Progress::Snapshot { silent_ticks, stage, .. }, .. }) = self.of_mut(id) {
            *silent_ticks = 0;
            if !arrived {
                *stage = SnapshotStage::Failed;
            }
        }
    }

    /// Counts one tick.
    pub fn tick(&mut self, config: &Config) {
        self.all.iter_mut().for_each(|follower| follower.tick(config));
    }

    /// Sends each follower an `AppendEntries` without entries. Its answer shows whether what was sent before has arrived.
    pub fn send_heartbeats(&mut self, replica: &mut Replica, round: Round) {
        for follower in &mut self.all {
            follower.send(replica, Entries::default(), round);
        }
    }

    fn of(&self, id: NodeId) -> Option<&FollowerState> {
        self.all.iter().find(|follower| follower.id == id)
    }

    fn of_mut(&mut self, id: NodeId) -> Option<&mut FollowerState> {
        self.all.iter_mut().find(|follower| follower.id == id)
    }
}

impl FollowerState {
    fn new(id: NodeId, next_index: Index, since: Round) -> Self {
        Self {
            id,
            match_index: Index::ZERO,
            next_index,
            progress: Progress::Probe { awaiting_reply: false },
            round: Round::default(),
            since,
            active: true,
            was_active: true,
        }
    }

    fn may_send(&self, replica: &Replica) -> bool {
        match &self.progress {
            Progress::Probe { awaiting_reply } => !awaiting_reply,
            Progress::Replicate { inflight, loading } => {
                let lacks_entries = self.next_index <= replica.log().last().index;
                lacks_entries && loading.is_none() && !inflight.is_full(replica.config())
            }
            Progress::Snapshot { .. } => false,
        }
    }

    /// Sends what comes next: entries, a probe without any where they have left memory, or the state where they are compacted.
    fn send_next(&mut self, replica: &mut Replica, round: Round) {
        if self.next_index <= replica.log().base().index {
            return self.begin_snapshot(replica);
        }
        let max_bytes = replica.config().max_append_bytes;
        match (replica.log().entries(self.next_index, Index::LAST, max_bytes), &mut self.progress) {
            (Some(entries), _) => self.send(replica, entries, round),
            (None, Progress::Replicate { loading, .. }) => {
                *loading = Some(self.next_index);
                replica.order(Effect::Load { from: self.next_index, max_bytes });
            }
            (None, Progress::Probe { .. } | Progress::Snapshot { .. }) => {
                self.send(replica, Entries::default(), round);
            }
        }
    }

    /// Sends `entries`, which start at `next_index`, and notes that they are under way.
    fn send(&mut self, replica: &mut Replica, entries: Entries, round: Round) {
        let prev_index = self.prev_index(replica.log());
        let prev_term = replica.log().term_at(prev_index).expect("a follower is sent what the log holds");
        match &mut self.progress {
            Progress::Probe { awaiting_reply } => *awaiting_reply = true,
            Progress::Replicate { inflight, .. } => {
                if let Some(last) = entries.last() {
                    inflight.add(last.id.index, entries.iter().map(Entry::size_bytes).sum());
                    self.next_index = last.id.index.next();
                }
            }
            Progress::Snapshot { .. } => (),
        }
        let prev = EntryId::new(prev_index, prev_term);
        let commit = replica.log().commit_index();
        replica.send(self.id, Message::AppendEntries(AppendEntries { prev, entries, commit, round }));
    }

    /// The entry before those that are sent next. Of what is compacted, the term is not known: a follower behind it hears of the leader nevertheless.
    fn prev_index(&self, log: &Log) -> Index {
        self.next_index.prev().max(log.base().index)
    }

    fn loaded(&mut self, replica: &mut Replica, from: Index, entries: Option<&Entries>, round: Round) {
        let Progress::Replicate { loading, .. } = &mut self.progress else { return };
        if loading.take_if(|asked| *asked == from).is_none() || self.next_index != from {
            return;
        }
        match entries {
            // They may have been asked for by another, who takes more at a time.
            Some(entries) => {
                let entries = entries.slice(0..fitting(entries, replica.config().max_append_bytes));
                self.send(replica, entries, round);
            }
            // The answer to the next heartbeat brings it to try again.
            None => self.progress = Progress::Probe { awaiting_reply: true },
        }
    }

    fn begin_snapshot(&mut self, replica: &mut Replica) {
        let needed = replica.applied_index();
        self.progress = Progress::Snapshot { stage: SnapshotStage::Capturing, needed, silent_ticks: 0 };
        replica.order(Effect::CaptureSnapshot { to: self.id });
    }

    fn snapshot_captured(&mut self, replica: &mut Replica, index: Index, round: Round) {
        let Progress::Snapshot { stage, needed, silent_ticks } = &mut self.progress else { return };
        if *stage != SnapshotStage::Capturing {
            return;
        }
        let commit_index = replica.log().commit_index();
        match replica.log().snapshot_at(index) {
            Some(snapshot) if index <= commit_index => {
                (*stage, *needed, *silent_ticks) = (SnapshotStage::Sending, index, 0);
                replica.send(self.id, Message::InstallSnapshot(InstallSnapshot { snapshot, round }));
            }
            _ => *stage = SnapshotStage::Failed,
        }
    }

    fn tick(&mut self, config: &Config) {
        let Progress::Snapshot { stage, silent_ticks, .. } = &mut self.progress else { return };
        *silent_ticks = silent_ticks.saturating_add(1);
        let patience_ticks = match stage {
            SnapshotStage::Failed => config.election_timeout_ticks,
            SnapshotStage::Capturing | SnapshotStage::Sending => {
                config.election_timeout_ticks.saturating_mul(SNAPSHOT_PATIENCE)
            }
        };
        if *silent_ticks >= patience_ticks {
            // Its answer to the next heartbeat brings the next try: no copy of the state is made for a follower that is down.
            self.progress = Progress::Probe { awaiting_reply: true };
        }
    }

    fn accepted(&mut self, log: &Log, matched: Index) {
        self.match_index = self.match_index.max(matched);
        self.next_index = self.next_index.max(self.match_index.next());
        match &mut self.progress {
            Progress::Replicate { inflight, .. } => inflight.arrived(matched),
            // Wherever the state came from: what follows is in the log.
            Progress::Snapshot { .. } if self.match_index < log.base().index => (),
            Progress::Probe { .. } | Progress::Snapshot { .. } => {
                self.progress = Progress::Replicate { inflight: Inflight::default(), loading: None };
            }
        }
    }

    fn rejected(&mut self, log: &Log, prev: Index, hint: EntryId) {
        let last_prev = self.prev_index(log);
        let is_late = match &self.progress {
            Progress::Probe { .. } => prev != last_prev,
            Progress::Replicate { .. } => prev > last_prev,
            Progress::Snapshot { .. } => true,
        };
        if is_late || prev <= self.match_index {
            return;
        }
        let agreed = log.last_not_above(hint.index, hint.term).index;
        self.next_index = agreed.next().min(prev).max(self.match_index.next());
        self.progress = Progress::Probe { awaiting_reply: false };
    }
}

/// How many of `entries` fit in `max_bytes`, but at least one, if there is one.
fn fitting(entries: &[Entry], max_bytes: u64) -> usize {
    let mut bytes: u64 = 0;
    let fits = |entry: &&Entry| {
        bytes = bytes.saturating_add(entry.size_bytes());
        bytes <= max_bytes
    };
    entries.iter().take_while(fits).count().max(1).min(entries.len())
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
