//! A candidate: asks for votes, in two stages.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::effect::RoleKind;
use crate::message::Message;
use crate::quorum::VoteResult;
use crate::replica::Replica;
use crate::timer::Timer;
use crate::types::{EntryId, NodeId, Term};

/// What a node knows while it stands for election (§5.2, thesis §9.6).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    stage: Stage,
    /// Answers so far; the first of each voter counts.
    votes: BTreeMap<NodeId, bool>,
    election: Timer,
}

/// How far the candidacy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Asks whether it would win, in the term it is in. Disturbs nobody.
    PreVote,
    /// Stands in its term, for which it has voted for itself.
    Vote,
}

impl Candidate {
    /// Asks all voters whether they would vote for this node in the next term. It would itself.
    pub fn ask_pre_votes(replica: &mut Replica) -> Self {
        let election = replica.new_election_timer();
        let mut candidate = Self { stage: Stage::PreVote, votes: BTreeMap::new(), election };
        candidate.votes.insert(replica.id(), true);
        request(replica, |last| Message::RequestPreVote { last });
        candidate
    }

    /// Asks all voters for their vote in this node's term. Its own counts, and the requests leave, once the vote is durable.
    /// `transfer` says that the leader has asked it to stand.
    pub fn ask_votes(replica: &mut Replica, transfer: bool) -> Self {
        let election = replica.new_vote_timer();
        request(replica, |last| Message::RequestVote { last, transfer });
        Self { stage: Stage::Vote, votes: BTreeMap::new(), election }
    }

    /// How far the candidacy is.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The role's name.
    pub fn kind(&self) -> RoleKind {
        match self.stage {
            Stage::PreVote => RoleKind::PreCandidate,
            Stage::Vote => RoleKind::Candidate,
        }
    }

    /// Counts one tick. True if the election has taken too long: it is time for another.
    pub fn tick(&mut self) -> bool {
        self.election.tick()
    }

    /// Answers a message of its term, or a pre-vote from below it. Returns the state of the election.
    pub fn receive(&mut self, replica: &mut Replica, from: NodeId, term: Term, message: Message) -> VoteResult {
        match message {
            Message::RequestPreVote { last } => replica.answer_pre_vote(from, term, last),
            Message::RequestVote { last, .. } => {
                if replica.answer_vote(from, last) {
                    self.election.restart();
                }
            }
            Message::RequestPreVoteReply { request_term, granted } => {
                if self.stage == Stage::PreVote && request_term == replica.term() {
                    self.count(replica, from, granted);
                }
            }
            Message::RequestVoteReply { granted } => {
                if self.stage == Stage::Vote {
                    self.count(replica, from, granted);
                }
            }
            Message::AppendEntries(_) | Message::InstallSnapshot(_) | Message::TimeoutNow => {
                unreachable!("a candidate that hears from the leader follows it first")
            }
            Message::ReadIndex { token } => replica.send(from, Message::ReadIndexReply { token, index: None }),
            // Late answers to the leader or the follower that this node was before.
            Message::AppendEntriesReply(_) | Message::ReadIndexReply { .. } => (),
        }
        self.result(replica)
    }

    fn count(&mut self, replica: &Replica, voter: NodeId, granted: bool) {
        if replica.membership().is_voter(voter) {
            self.votes.entry(voter).or_insert(granted);
        }
    }

    /// Counts this node's own vote, once it is durable. Returns the state of the election.
    pub fn persisted(&mut self, replica: &Replica) -> VoteResult {
        if self.stage == Stage::Vote && replica.hard_state_is_durable() {
            self.votes.insert(replica.id(), true);
        }
        self.result(replica)
    }

    /// The state of the election.
    pub fn result(&self, replica: &Replica) -> VoteResult {
        replica.membership().vote_result(&self.votes)
    }
}

/// Sends a request that names this node's last entry to all other voters.
fn request(replica: &mut Replica, message: impl Fn(EntryId) -> Message) {
    let last = replica.log().last();
    let membership = replica.membership();
    let others: Vec<NodeId> = membership.nodes().filter(|&id| membership.is_voter(id) && id != replica.id()).collect();
    for id in others {
        replica.send(id, message(last));
    }
}
