//! Who belongs to the cluster: voters, learners, joint configurations (§6), and how memberships follow each other in the log.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::numbers::{Incarnation, Index, NodeId};
use crate::quorum::{self, VoteResult};

/// What the membership records of a node besides its place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Member {
    /// Where to reach it, in whatever form the transport understands. The core does not look inside.
    pub address: String,
    /// The disk behind the id.
    pub incarnation: Incarnation,
    /// How much it should lead, against the others: a leader hands over to a voter of higher priority that has all entries. Zero at first.
    pub priority: u32,
}

/// A configuration of the cluster (§6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    /// Those whose votes and acknowledgements count.
    pub voters: BTreeSet<NodeId>,
    /// Not empty in a joint configuration: the voters of the configuration being left, a majority of which is needed as well.
    pub outgoing: BTreeSet<NodeId>,
    /// Those who receive the log but have no vote. In a joint configuration also those of `outgoing` who will be learners.
    pub learners: BTreeSet<NodeId>,
    /// The learners who become voters by themselves once they have caught up.
    pub promotable: BTreeSet<NodeId>,
    /// Whether a joint configuration is left only when told.
    pub stays_joint: bool,
    /// What is recorded of each node that a set above names.
    pub members: BTreeMap<NodeId, Member>,
}

impl Membership {
    /// A configuration in which all of `members` vote.
    pub fn of_voters(members: BTreeMap<NodeId, Member>) -> Self {
        Self { voters: members.keys().copied().collect(), members, ..Self::default() }
    }

    /// Whether `id` has a vote.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// Every node that receives the log, in order of id.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.keys().copied()
    }

    /// The highest value that a majority, or both majorities of a joint configuration, have reached: of the indexes that each node has
    /// acknowledged, the one that is committed.
    pub fn agreed<T: Ord + Copy + Default>(&self, reached: impl Fn(NodeId) -> T) -> T {
        let incoming = quorum::agreed(&self.voters, &reached);
        if self.outgoing.is_empty() {
            return incoming;
        }
        incoming.min(quorum::agreed(&self.outgoing, &reached))
    }

    /// The state of an election, counted in each configuration by itself rather than over their union.
    pub fn vote_result(&self, votes: &BTreeMap<NodeId, bool>) -> VoteResult {
        let incoming = quorum::vote_result(&self.voters, votes);
        if self.outgoing.is_empty() {
            return incoming;
        }
        incoming.and(quorum::vote_result(&self.outgoing, votes))
    }
}

/// What is to change in a membership: several members at once, in order. It takes a joint configuration if more than one voter comes or goes (§6),
/// and a single step otherwise (thesis §4.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MembershipChange {
    /// The changes, at least one.
    pub changes: Vec<Change>,
    /// Enter a joint configuration in any case, and leave it only when told.
    pub stay_joint: bool,
}

/// A change of one member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A node that is no member becomes a voter at once. It can hold up commits until it has caught up: better begin as a learner.
    AddVoter(NodeId, Member),
    /// A node that is no member becomes a learner.
    AddLearner {
        /// The node.
        id: NodeId,
        /// What to record of it.
        member: Member,
        /// Whether it becomes a voter by itself once it has caught up.
        promote: bool,
    },
    /// A learner that has caught up becomes a voter.
    Promote(NodeId),
    /// A voter becomes a learner.
    Demote(NodeId),
    /// A member is no member any more.
    Remove(NodeId),
    /// Record something else of a member. Its incarnation can't change: another disk is another member, to be removed and added.
    Update(NodeId, Member),
}

/// Why a change makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// No changes.
    #[error("a membership change has at least one change")]
    Empty,
    /// The id is out of range.
    #[error("{0} is not a possible id: ids are from 1 to {last}", last = NodeId::LAST.0)]
    Id(NodeId),
    /// It is a member already.
    #[error("{0} is a member already")]
    Member(NodeId),
    /// It is no member.
    #[error("{0} is not a member")]
    NoMember(NodeId),
    /// It is no learner.
    #[error("{0} is not a learner")]
    NoLearner(NodeId),
    /// It is no voter.
    #[error("{0} is not a voter")]
    NoVoter(NodeId),
    /// Nobody could decide anything any more.
    #[error("a cluster keeps at least one voter")]
    NoVotersLeft,
    /// The disk behind an id can't be exchanged in place: the new one has forgotten what the old one has promised.
    #[error("{0} has another disk: remove it first, then add it again")]
    OtherIncarnation(NodeId),
    /// All is as it should be.
    #[error("this changes nothing")]
    Nothing,
    /// The configuration is joint.
    #[error("the configuration is joint: leave it first")]
    Joint,
    /// The configuration is not joint.
    #[error("the configuration is not joint")]
    NotJoint,
}

/// The memberships that the log holds, oldest first. The last is in force, committed or not; it goes when its entry is cut off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MembershipStack {
    entries: Vec<(Index, Membership)>,
    /// In force where the log holds none: nobody belongs to the cluster.
    none: Membership,
}

impl MembershipStack {
    /// The membership in force.
    pub fn effective(&self) -> &Membership {
        self.entries.last().map_or(&self.none, |(_, membership)| membership)
    }

    /// The membership of a log that begins after the entry at `index`, where `membership` was in force.
    pub fn after(index: Index, membership: Membership) -> Self {
        Self { entries: vec![(index, membership)], none: Membership::default() }
    }

    /// Forgets the memberships that are superseded at `index`.
    pub fn compact(&mut self, index: Index) {
        let superseded = self.entries.partition_point(|(own, _)| *own <= index).saturating_sub(1);
        self.entries.drain(..superseded);
    }

    /// The membership in force at `commit`, which can't be rolled back.
    pub fn committed(&self, commit: Index) -> &Membership {
        self.entries.iter().rev().find(|(index, _)| *index <= commit).map_or(&self.none, |(_, membership)| membership)
    }

    /// Puts the membership of the entry at `index` in force.
    pub fn push(&mut self, index: Index, membership: Membership) {
        assert!(self.entries.last().is_none_or(|(last, _)| *last < index), "memberships follow each other in the log");
        self.entries.push((index, membership));
    }

    /// Rolls back the memberships of entries from `from` on. Returns whether there were any.
    pub fn truncate(&mut self, from: Index) -> bool {
        let keep = self.entries.partition_point(|(index, _)| *index < from);
        let rolled_back = keep < self.entries.len();
        self.entries.truncate(keep);
        rolled_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ids: &[u64]) -> Membership {
        Membership::of_voters(ids.iter().map(|&id| (NodeId(id), Member::default())).collect())
    }

    #[test]
    fn memberships_roll_back_with_their_entries() {
        let mut stack = MembershipStack::default();
        assert_eq!(*stack.effective(), Membership::default(), "nobody belongs to the cluster yet");
        stack.push(Index(1), of(&[1]));
        stack.push(Index(4), of(&[1, 2]));
        assert_eq!(*stack.effective(), of(&[1, 2]), "in force once appended");
        assert!(!stack.truncate(Index(5)), "entry 4 stays");
        assert!(stack.truncate(Index(4)));
        assert_eq!(*stack.effective(), of(&[1]));
        assert!(stack.truncate(Index(1)));
        assert_eq!(*stack.effective(), Membership::default());
    }

    #[test]
    fn the_committed_membership_is_the_last_at_or_before_the_commit_index() {
        let mut stack = MembershipStack::default();
        stack.push(Index(2), of(&[1]));
        stack.push(Index(4), of(&[1, 2]));
        for (commit, expected) in
            [(0, of(&[])), (1, of(&[])), (2, of(&[1])), (3, of(&[1])), (4, of(&[1, 2])), (9, of(&[1, 2]))]
        {
            assert_eq!(*stack.committed(Index(commit)), expected, "at {commit}");
        }
    }

    #[test]
    fn both_configurations_of_a_joint_one_vote() {
        let joint = Membership { outgoing: [NodeId(3)].into(), learners: [NodeId(4)].into(), ..of(&[1, 2]) };
        let voters = (1..=5).filter(|&id| joint.is_voter(NodeId(id)));
        assert!(voters.eq([1, 2, 3]));
    }
}
