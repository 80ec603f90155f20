//! A leader: replicates its log, commits, and answers reads.

mod changes;
pub mod followers;
mod lease;
mod reads;
mod transfer;

use alloc::vec::Vec;
use bytes::Bytes;
use core::cmp::Reverse;
use core::mem;

use crate::effect::{Effect, Malformed, Refusal};
use crate::entries::Entries;
use crate::input::ReadMode;
use crate::membership::{Membership, MembershipChange};
use crate::message::{AppendEntriesReply, AppendResult, Message};
use crate::replica::Replica;
use crate::role::leader::changes::Changes;
use crate::role::leader::followers::Followers;
use crate::role::leader::reads::{Reader, Reads};
use crate::role::leader::transfer::Handover;
use crate::status::FollowerStatus;
use crate::timer::Timer;
use crate::types::{EntryId, Index, NodeId, Payload, ReadToken, RequestId, Term, WriteId};

/// For how many election timeouts a leader's disk may stand still: as long as a slow disk takes for a write, and then some.
const DISK_PATIENCE: u32 = 10;

/// What a node knows while it leads a term (§5.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leader {
    followers: Followers,
    reads: Reads,
    handover: Handover,
    changes: Changes,
    heartbeat: Timer,
    /// When to see whether a majority still answers.
    quorum_check: Timer,
    /// When to see whether this node's disk still writes.
    disk_check: Timer,
    /// The write that was under way at the last look, if any.
    checked_write: Option<WriteId>,
    /// The entry that began the term. Once it is committed, so is all before it (§8).
    noop_index: Index,
}

/// Whether a leader may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// A majority answers, as far as is known.
    Held,
    /// No majority has answered for an election timeout (thesis §6.2), this node's disk stands still, or it has no vote any more.
    Lost,
}

impl Leader {
    /// Begins the term: with an entry of its own, which commits all before it (§8).
    pub fn new(replica: &mut Replica) -> Self {
        replica.forget_undecided_elections();
        let followers = Followers::new(replica);
        let noop_index = replica.append(Payload::Noop).index;
        Self {
            followers,
            reads: Reads::new(replica.config().lease),
            handover: Handover::default(),
            changes: Changes::new(replica),
            heartbeat: Timer::new(replica.config().heartbeat_ticks),
            quorum_check: Timer::new(replica.config().election_timeout_ticks),
            disk_check: Timer::new(replica.config().election_timeout_ticks.saturating_mul(DISK_PATIENCE)),
            checked_write: None,
            noop_index,
        }
    }

    /// What it knows of each follower.
    pub fn follower_statuses(&self) -> Vec<FollowerStatus> {
        self.followers.statuses()
    }

    /// To whom it hands over leadership, if it does. No client changes anything meanwhile.
    pub fn successor(&self) -> Option<NodeId> {
        self.handover.successor()
    }

    /// Counts one tick: whether a majority still answers, and heartbeats, which a leader that gives up does not send any more.
    pub fn tick(&mut self, replica: &mut Replica) -> Leadership {
        self.followers.tick(replica.config());
        self.changes.tick(replica);
        if self.quorum_check.tick() {
            self.look_for_better_leader(replica);
            if !self.followers.take_quorum_active(replica) {
                return Leadership::Lost;
            }
        }
        if self.disk_check.tick() && self.disk_stands_still(replica) {
            return Leadership::Lost;
        }
        if self.heartbeat.tick() {
            self.reads.renew_lease();
            self.followers.send_heartbeats(replica, self.reads.round());
            self.handover.repeat();
        }
        self.handover.tick(replica);
        self.advance_handover(replica);
        Leadership::Held
    }

    /// Whether the same write has been under way since the last look. The others commit without this node, but it can't apply what its own log
    /// may lose, so as a leader it would keep everyone waiting.
    fn disk_stands_still(&mut self, replica: &Replica) -> bool {
        let write = replica.log().write_under_way();
        write.is_some() && mem::replace(&mut self.checked_write, write) == write
    }

    /// Appends commands to the log.
    pub fn propose(&mut self, replica: &mut Replica, id: RequestId, commands: Vec<Bytes>) {
        if commands.is_empty() {
            return refuse(replica, id, Refusal::Empty);
        }
        if self.successor().is_some() {
            return refuse(replica, id, Refusal::Transferring);
        }
        if replica.log().uncommitted_bytes() > replica.config().max_uncommitted_bytes {
            return refuse(replica, id, Refusal::Overloaded);
        }
        let count = commands.len() as u64;
        let first = replica.append_commands(commands);
        replica.order(Effect::Appended { id, first, count });
    }

    /// Answers a read once a majority has confirmed that this node still leads (§8, thesis §6.4), or at once under a lease (thesis §6.4.1).
    pub fn read(&mut self, replica: &mut Replica, id: RequestId, mode: ReadMode) {
        let index = replica.log().commit_index();
        if let ReadMode::Lease { now } = mode
            && self.reads.is_leased(now)
            && index >= self.noop_index
        {
            return replica.order(Effect::ServeRead { id, index });
        }
        self.await_quorum(replica, Reader::Client(id));
    }

    /// Answers a follower what a state must include for a read that begins now.
    fn read_index(&mut self, replica: &mut Replica, id: NodeId, token: ReadToken) {
        if !replica.membership().members.contains_key(&id) {
            // It does not belong to the cluster, as far as is known, and could be anyone.
            return replica.send(id, Message::ReadIndexReply { token, index: None });
        }
        self.await_quorum(replica, Reader::Follower { id, token });
    }

    fn await_quorum(&mut self, replica: &mut Replica, reader: Reader) {
        let index = replica.log().commit_index().max(self.noop_index);
        if self.reads.add(reader, index) {
            self.followers.send_heartbeats(replica, self.reads.round());
        }
        self.confirm_reads(replica);
    }

    /// Hands leadership over to another voter (thesis §3.10).
    pub fn transfer(&mut self, replica: &mut Replica, id: RequestId, to: NodeId) {
        if self.successor().is_some() {
            return refuse(replica, id, Refusal::Transferring);
        }
        if !may_succeed(replica, to) {
            return refuse(replica, id, Refusal::NoSuccessor(to));
        }
        self.begin_handover(replica, Some(id), to);
    }

    /// From here on another may be elected at any time, so no lease holds, and none will in this term: `TimeoutNow` may arrive late.
    fn begin_handover(&mut self, replica: &mut Replica, id: Option<RequestId>, to: NodeId) {
        self.reads.give_up_lease();
        self.handover.begin(replica.config(), id, to);
        self.advance_handover(replica);
    }

    fn advance_handover(&mut self, replica: &mut Replica) {
        let Some(to) = self.successor() else { return };
        if !may_succeed(replica, to) {
            return self.handover.give_up(replica, Refusal::NoSuccessor(to));
        }
        self.handover.advance(replica, self.followers.match_index(to));
    }

    /// Hands over to the voter that should lead rather than this node, if one is there and has caught up.
    fn look_for_better_leader(&mut self, replica: &mut Replica) {
        if !self.handover.may_look() {
            return;
        }
        let membership = replica.membership();
        let priority = |id| membership.priority(id);
        let has_caught_up = |id| self.followers.match_index(id) >= replica.log().commit_index().max(self.noop_index);
        let is_better =
            |&id: &NodeId| priority(id) > priority(replica.id()) && self.followers.is_active(id) && has_caught_up(id);
        let best = membership.voters.iter().copied().filter(is_better).max_by_key(|&id| (priority(id), Reverse(id)));
        if let Some(to) = best {
            self.begin_handover(replica, None, to);
        }
    }

    /// Appends another membership, if it may follow the one in force (§6, thesis §4).
    pub fn change_membership(&mut self, replica: &mut Replica, id: RequestId, change: &MembershipChange) {
        let next = self.changes.change(replica, change);
        self.conclude_change(replica, id, next);
    }

    /// Appends the membership that follows a joint one that was entered to stay.
    pub fn leave_joint(&mut self, replica: &mut Replica, id: RequestId) {
        let next = self.changes.leave_joint(replica);
        self.conclude_change(replica, id, next);
    }

    fn conclude_change(&mut self, replica: &mut Replica, id: RequestId, next: Result<Membership, Refusal>) {
        match next {
            _ if self.successor().is_some() => refuse(replica, id, Refusal::Transferring),
            Ok(membership) => {
                let first = self.use_membership(replica, membership);
                replica.order(Effect::Appended { id, first, count: 1 });
            }
            Err(reason) => refuse(replica, id, reason),
        }
    }

    /// Puts a membership in force, which begins a round: the answers of a node that was removed and added again can be told by it. Without those
    /// who have left, more may be committed.
    fn use_membership(&mut self, replica: &mut Replica, membership: Membership) -> EntryId {
        let entry = replica.append(Payload::Membership(membership.into()));
        self.reads.begin_round_of_other_voters();
        self.followers.use_membership(replica, self.reads.round());
        self.changes.use_membership(replica);
        self.advance_commit(replica);
        self.confirm_reads(replica);
        entry
    }

    /// Makes the change that is due, if any. A leader that has no vote any more goes.
    fn tend_membership(&mut self, replica: &mut Replica) -> Leadership {
        if let Some(membership) = self.changes.due(replica) {
            self.use_membership(replica, membership);
        }
        if !self.changes.is_removed(replica) {
            return Leadership::Held;
        }
        // All get what there is, and learn that they can do without this node; and one that can lead at once does.
        self.replicate(replica);
        self.followers.send_heartbeats(replica, self.reads.round());
        if let Some(successor) = self.heir(replica) {
            replica.send(successor, Message::TimeoutNow);
        }
        Leadership::Lost
    }

    /// The voter of the highest priority among those that have the whole log, and of those the one with the lowest id.
    fn heir(&self, replica: &Replica) -> Option<NodeId> {
        let (membership, last) = (replica.membership(), replica.log().last().index);
        let complete = membership.voters.iter().copied().filter(|&id| self.followers.match_index(id) == last);
        complete.max_by_key(|&id| (membership.priority(id), Reverse(id)))
    }

    /// Answers a message of its term, or a pre-vote from below it.
    pub fn receive(&mut self, replica: &mut Replica, from: NodeId, term: Term, message: Message) -> Leadership {
        match message {
            Message::RequestPreVote { .. } => replica.refuse_pre_vote(from, term),
            // It has voted for itself, so this refuses.
            Message::RequestVote { last, .. } => {
                replica.answer_vote(from, last);
            }
            Message::AppendEntriesReply(reply) => self.append_reply(replica, from, reply),
            Message::AppendEntries(_) | Message::InstallSnapshot(_) | Message::TimeoutNow => {
                unreachable!("another leader in this term stops the node first")
            }
            Message::ReadIndex { token } => self.read_index(replica, from, token),
            // Votes that came after the majority's, and an answer to the follower that this node was before.
            Message::RequestPreVoteReply { .. } | Message::RequestVoteReply { .. } | Message::ReadIndexReply { .. } => {
            }
        }
        self.tend_membership(replica)
    }

    fn append_reply(&mut self, replica: &mut Replica, from: NodeId, reply: AppendEntriesReply) {
        if let Err(reason) = self.check(replica, &reply) {
            return replica.discard(from, reason);
        }
        if !self.followers.is_known_since(from, reply.round) {
            return;
        }
        self.followers.heard(from, reply.round);
        match reply.result {
            AppendResult::Accepted { matched } => {
                self.followers.accepted(replica.log(), from, matched);
                self.changes.accepted(replica, from, matched);
                // Most acknowledgements come when a majority has gone before.
                if matched > replica.log().commit_index() {
                    self.advance_commit(replica);
                }
                self.advance_handover(replica);
            }
            AppendResult::Rejected { prev, hint } => self.followers.rejected(replica.log(), from, prev, hint),
        }
        self.confirm_reads(replica);
    }

    /// Whether a reply can answer something that this leader has sent.
    fn check(&self, replica: &Replica, reply: &AppendEntriesReply) -> Result<(), Malformed> {
        if reply.round > self.reads.round() {
            return Err(Malformed::NeverBegun(reply.round));
        }
        match reply.result {
            AppendResult::Accepted { matched } if matched > replica.log().last().index => {
                Err(Malformed::NeverSent(matched))
            }
            AppendResult::Accepted { .. } | AppendResult::Rejected { .. } => Ok(()),
        }
    }

    /// Sends on entries that were read back.
    pub fn loaded(&mut self, replica: &mut Replica, from: Index, entries: Option<&Entries>) {
        self.followers.loaded(replica, from, entries, self.reads.round());
    }

    /// The entry after which nothing may be compacted.
    pub fn needed(&self) -> Index {
        self.followers.needed()
    }

    /// Offers a captured state to the follower for which it was made.
    pub fn snapshot_captured(&mut self, replica: &mut Replica, to: NodeId, index: Index) {
        self.followers.snapshot_captured(replica, to, index, self.reads.round());
    }

    /// Notes that a part of a snapshot has arrived.
    pub fn snapshot_progress(&mut self, to: NodeId) {
        self.followers.snapshot_progress(to);
    }

    /// Notes that a snapshot has arrived, or will not.
    pub fn snapshot_sent(&mut self, to: NodeId, arrived: bool) {
        self.followers.snapshot_sent(to, arrived);
    }

    /// Counts what has become durable on this node's own disk.
    pub fn persisted(&mut self, replica: &mut Replica) -> Leadership {
        self.advance_commit(replica);
        self.confirm_reads(replica);
        self.tend_membership(replica)
    }

    /// Sends each follower what it lacks. Done once, after all that has arrived was taken in, so that what came together goes together.
    pub fn replicate(&mut self, replica: &mut Replica) {
        self.followers.replicate(replica, self.reads.round());
    }

    /// Gives up what only a leader can finish.
    pub fn resign(&mut self, replica: &mut Replica) {
        for id in self.reads.take_all() {
            replica.order(Effect::Refuse { id, reason: Refusal::LeadershipLost, leader: None });
        }
        self.handover.conclude(replica);
    }

    /// Commits what a majority has made durable, if that is an entry of this term; all before it is then committed, too (§5.4.2).
    fn advance_commit(&mut self, replica: &mut Replica) {
        let (id, durable) = (replica.id(), replica.log().durable_index());
        let match_index = |node| if node == id { durable } else { self.followers.match_index(node) };
        let index = replica.membership().agreed(match_index);
        if index > replica.log().commit_index() && replica.log().term_at(index) == Some(replica.term()) {
            replica.commit_to(index);
        }
    }

    fn confirm_reads(&mut self, replica: &mut Replica) {
        if self.reads.are_settled() {
            return;
        }
        let (id, latest) = (replica.id(), self.reads.round());
        let round = |node| if node == id { latest } else { self.followers.round(node) };
        if self.reads.confirm(replica.membership().agreed(round)) {
            self.followers.send_heartbeats(replica, self.reads.round());
        }
        for (reader, index) in self.reads.take_ready(replica.log().commit_index()) {
            match reader {
                Reader::Client(id) => replica.order(Effect::ServeRead { id, index }),
                Reader::Follower { id, token } => {
                    replica.send(id, Message::ReadIndexReply { token, index: Some(index) });
                }
            }
        }
    }
}

/// Only another voter can take over, and one that stays.
fn may_succeed(replica: &Replica, id: NodeId) -> bool {
    id != replica.id() && replica.membership().voters.contains(&id)
}

fn refuse(replica: &mut Replica, id: RequestId, reason: Refusal) {
    let leader = Some(replica.id());
    replica.order(Effect::Refuse { id, reason, leader });
}
