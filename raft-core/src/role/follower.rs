//! A follower: stores what its leader sends, and votes.

mod reads;

use crate::effect::{Effect, Refusal, Violation};
use crate::message::{AppendEntries, AppendEntriesReply, AppendResult, InstallSnapshot, Message};
use crate::replica::Replica;
use crate::role::follower::reads::Reads;
use crate::timer::Timer;
use crate::types::{EntryId, Index, NodeId, RequestId, Round, Term};

/// What a node knows while it does not stand for election (§5.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Follower {
    /// Who leads the term, once heard of.
    leader: Option<NodeId>,
    election: Timer,
    /// The highest entry known to match the leader's log. Zero at first; never moves back.
    matched_index: Index,
    /// The highest entry that was acknowledged to the leader. Never above `matched_index`.
    acknowledged_index: Index,
    /// The latest of the leader's rounds that was seen.
    round: Round,
    /// None unless there is a leader to ask.
    reads: Reads,
}

impl Follower {
    /// A follower that has not heard from a leader yet.
    pub fn new(replica: &mut Replica) -> Self {
        Self {
            leader: None,
            election: replica.new_election_timer(),
            matched_index: Index::ZERO,
            acknowledged_index: Index::ZERO,
            round: Round::default(),
            reads: Reads::default(),
        }
    }

    /// Who leads the term, once heard of.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Notes who leads the term.
    pub fn follow(&mut self, leader: NodeId) {
        assert!(self.leader.is_none_or(|known| known == leader), "a term has one leader");
        self.leader = Some(leader);
    }

    /// Whether a leader was heard of within the least election timeout: then nobody else has reason to stand (§6).
    pub fn hears_leader(&self, replica: &Replica) -> bool {
        self.leader.is_some() && self.election.elapsed_ticks() < replica.config().election_timeout_ticks
    }

    /// Counts one tick. True if it is time to stand for election.
    pub fn tick(&mut self, replica: &mut Replica) -> bool {
        let stands = self.election.tick();
        if let Some(leader) = self.leader
            && !stands
        {
            self.reads.tick(replica, leader);
        }
        stands
    }

    /// Answers a read from this node's own state, once the leader has said what that must include.
    pub fn read(&mut self, replica: &mut Replica, id: RequestId) {
        match self.leader {
            Some(leader) => self.reads.add(replica, leader, id),
            None => replica.order(Effect::Refuse { id, reason: Refusal::NotLeader, leader: None }),
        }
    }

    /// Gives up what only a follower of this leader can finish.
    pub fn resign(&mut self, replica: &mut Replica) {
        self.reads.give_up(replica);
    }

    /// Answers a message of its term, or a pre-vote from below it.
    pub fn receive(&mut self, replica: &mut Replica, from: NodeId, term: Term, message: Message) {
        match message {
            Message::RequestPreVote { .. } if self.hears_leader(replica) => replica.refuse_pre_vote(from, term),
            Message::RequestPreVote { last } => replica.answer_pre_vote(from, term, last),
            Message::RequestVote { last, .. } => {
                if replica.answer_vote(from, last) {
                    self.election = replica.new_election_timer();
                }
            }
            Message::AppendEntries(append) => self.append(replica, from, append),
            Message::InstallSnapshot(install) => self.install(replica, from, install),
            // The node obeys, which ends this role.
            Message::TimeoutNow => (),
            Message::ReadIndex { token } => replica.send(from, Message::ReadIndexReply { token, index: None }),
            Message::ReadIndexReply { token, index } => {
                if self.leader == Some(from) {
                    self.reads.answered(replica, from, token, index);
                }
            }
            // Late answers to a candidate or leader that this node is no more.
            Message::RequestPreVoteReply { .. } | Message::RequestVoteReply { .. } | Message::AppendEntriesReply(_) => {
            }
        }
    }

    fn append(&mut self, replica: &mut Replica, leader: NodeId, append: AppendEntries) {
        let AppendEntries { prev, entries, commit, round } = append;
        self.election = replica.new_election_timer();
        self.round = self.round.max(round);
        if prev.index < replica.log().base().index {
            // What was compacted here was committed, so the leader has it, too.
            return self.acknowledge_committed(replica, leader);
        }
        if !replica.log().contains(prev) {
            return self.reject(replica, leader, prev);
        }
        let is_heartbeat = entries.is_empty();
        let matched_index = prev.index.plus(entries.len() as u64);
        if let Err(committed) = replica.splice(entries) {
            return replica.halt(Violation::CommittedEntry { leader, committed });
        }
        self.matched_index = self.matched_index.max(matched_index);
        // Only what this message has shown to match: the log may hold an obsolete tail beyond it.
        replica.commit_to(commit.min(matched_index));
        if is_heartbeat || matched_index <= replica.log().durable_index() {
            self.acknowledge(replica, leader);
        }
    }

    /// Takes a snapshot in place of the log, unless the log holds as much already (§7).
    fn install(&mut self, replica: &mut Replica, leader: NodeId, install: InstallSnapshot) {
        let InstallSnapshot { snapshot, round } = install;
        self.election = replica.new_election_timer();
        self.round = self.round.max(round);
        let last = snapshot.last;
        if let Some(committed) = contradicted(replica, last) {
            return replica.halt(Violation::CommittedEntry { leader, committed });
        }
        if last.index <= replica.log().commit_index() {
            return self.acknowledge_committed(replica, leader);
        }
        self.matched_index = self.matched_index.max(last.index);
        if replica.log().contains(last) {
            // All that it includes is here, as entries.
            replica.commit_to(last.index);
        } else {
            replica.install(snapshot);
        }
        if self.matched_index <= replica.log().durable_index() {
            self.acknowledge(replica, leader);
        }
    }

    /// Acknowledges what is committed: every leader has it (§5.4, leader completeness).
    fn acknowledge_committed(&mut self, replica: &mut Replica, leader: NodeId) {
        self.matched_index = self.matched_index.max(replica.log().commit_index());
        self.acknowledge(replica, leader);
    }

    /// Acknowledges what matches and is durable, by now. Entries still being written are acknowledged when they are.
    fn acknowledge(&mut self, replica: &mut Replica, leader: NodeId) {
        let matched = self.matched_index.min(replica.log().durable_index());
        self.acknowledged_index = self.acknowledged_index.max(matched);
        self.reply(replica, leader, AppendResult::Accepted { matched });
    }

    /// Says where to look for agreement next: not above `prev`, and not in a term above prev's (§5.3).
    fn reject(&self, replica: &mut Replica, leader: NodeId, prev: EntryId) {
        if let Some(committed) = contradicted(replica, prev) {
            return replica.halt(Violation::CommittedEntry { leader, committed });
        }
        let hint = replica.log().last_not_above(prev.index, prev.term);
        self.reply(replica, leader, AppendResult::Rejected { prev: prev.index, hint });
    }

    fn reply(&self, replica: &mut Replica, leader: NodeId, result: AppendResult) {
        replica.send(leader, Message::AppendEntriesReply(AppendEntriesReply { round: self.round, result }));
    }

    /// Acknowledges what a write has made durable, once for all that it covers.
    pub fn persisted(&mut self, replica: &mut Replica) {
        let matched = self.matched_index.min(replica.log().durable_index());
        if let Some(leader) = self.leader
            && matched > self.acknowledged_index
        {
            self.acknowledge(replica, leader);
        }
    }
}

/// The committed entry of this node that a leader whose log holds `prev` can't have. Every leader has all committed entries (§5.4).
fn contradicted(replica: &Replica, prev: EntryId) -> Option<EntryId> {
    let log = replica.log();
    let term = log.term_at(prev.index)?;
    (prev.index <= log.commit_index() && term != prev.term).then(|| EntryId::new(prev.index, term))
}
