//! Who belongs to the cluster: voters, learners, joint configurations (§6), and how memberships follow each other in the log.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
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
}

/// A configuration of the cluster (§6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    /// Those whose votes and acknowledgements count.
    pub voters: BTreeSet<NodeId>,
    /// Not empty in a joint configuration: the voters of the configuration being left, a majority of which is needed as well.
    pub outgoing: BTreeSet<NodeId>,
    /// Those who receive the log but have no vote.
    pub learners: BTreeSet<NodeId>,
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
