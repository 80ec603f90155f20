//! Changes of the membership (§6, thesis §4): which may be made, and which are due.

use alloc::collections::BTreeMap;
use alloc::vec;

use crate::effect::Refusal;
use crate::membership::{Change, Membership, MembershipChange};
use crate::replica::Replica;
use crate::types::{Index, NodeId};

/// The leader's view of changes: one at a time, none before the leader has committed an entry of its term, none that gives a vote to a learner who
/// is far behind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Changes {
    learners: BTreeMap<NodeId, CatchUp>,
}

/// How fast a learner follows, told in rounds (thesis §4.2.1): in each it is sent what the log held when the round began. It has caught up while
/// they take less than an election timeout, for then the cluster would not be without it for longer than in an election.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct CatchUp {
    /// The end of the log when the round began.
    target: Index,
    /// Since then. Heartbeats end the rounds of an idle log, so that this grows only where the learner lags or is silent.
    elapsed_ticks: u32,
    /// Whether the last round was quick enough, and this one may still be.
    caught_up: bool,
}

impl Changes {
    /// Begins to watch the learners of the membership in force.
    pub fn new(replica: &Replica) -> Self {
        let mut changes = Self { learners: BTreeMap::new() };
        changes.use_membership(replica);
        changes
    }

    /// Watches the learners of the membership in force, and no others.
    pub fn use_membership(&mut self, replica: &Replica) {
        let (learners, target) = (&replica.membership().learners, replica.log().last().index);
        self.learners.retain(|id, _| learners.contains(id));
        for &id in learners {
            self.learners.entry(id).or_insert(CatchUp { target, elapsed_ticks: 0, caught_up: false });
        }
    }

    /// Counts one tick.
    pub fn tick(&mut self, replica: &Replica) {
        for learner in self.learners.values_mut() {
            learner.elapsed_ticks = learner.elapsed_ticks.saturating_add(1);
            learner.caught_up &= learner.elapsed_ticks < replica.config().election_timeout_ticks;
        }
    }

    /// Notes that the log of `id` is durable and matches up to `matched`, by entries or by a snapshot.
    pub fn accepted(&mut self, replica: &Replica, id: NodeId, matched: Index) {
        let Some(learner) = self.learners.get_mut(&id).filter(|learner| matched >= learner.target) else { return };
        learner.caught_up = learner.elapsed_ticks < replica.config().election_timeout_ticks;
        learner.target = replica.log().last().index;
        learner.elapsed_ticks = 0;
    }

    fn has_caught_up(&self, id: NodeId) -> bool {
        self.learners.get(&id).is_some_and(|learner| learner.caught_up)
    }

    /// The membership that a request leads to.
    pub fn change(&self, replica: &Replica, change: &MembershipChange) -> Result<Membership, Refusal> {
        may_change(replica)?;
        let before = replica.membership();
        let next = before.change(change).map_err(Refusal::Change)?;
        let mut promoted = before.learners.intersection(&next.voters);
        match promoted.find(|&&id| !self.has_caught_up(id)) {
            Some(&id) => Err(Refusal::NotCaughtUp(id)),
            None => Ok(next),
        }
    }

    /// The membership that follows a joint one, upon request.
    pub fn leave_joint(&self, replica: &Replica) -> Result<Membership, Refusal> {
        may_change(replica)?;
        replica.membership().leave_joint().map_err(Refusal::Change)
    }

    /// The change that the leader makes by itself now, whoever began it: it leaves a joint configuration, or promotes a learner. It follows
    /// from the state alone, so that no restart or new leader forgets it; while it is in the log uncommitted, none is due.
    pub fn due(&self, replica: &Replica) -> Option<Membership> {
        let membership = replica.membership();
        let next = if membership.is_joint() {
            membership.leave_joint().ok().filter(|_| !membership.stays_joint)
        } else {
            let &id = membership.promotable.iter().find(|&&id| self.has_caught_up(id))?;
            membership.change(&MembershipChange { changes: vec![Change::Promote(id)], stay_joint: false }).ok()
        };
        next.filter(|_| may_change(replica).is_ok())
    }

    /// Whether this leader has no vote any more, for good: it is time to go. Until then it leads without counting itself (§6).
    pub fn is_removed(&self, replica: &Replica) -> bool {
        !replica.membership().is_voter(replica.id()) && may_change(replica).is_ok()
    }
}

/// Whether the membership in force is settled, so that another may follow. Quorums of two that are both under way need not share a node: so
/// one must be committed first, also one of an earlier leader, which is certain only once an entry of this term is (thesis §4.1).
fn may_change(replica: &Replica) -> Result<(), Refusal> {
    let log = replica.log();
    if log.term_at(log.commit_index()) != Some(replica.term()) {
        return Err(Refusal::TermNotCommitted);
    }
    if !log.membership_is_committed() {
        return Err(Refusal::ChangeUnderWay);
    }
    Ok(())
}
