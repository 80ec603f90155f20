//! Who belongs to the cluster: voters, learners, joint configurations (§6), and how memberships follow each other in the log.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
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

    /// How much `id` should lead, against the others; zero where that is not recorded.
    pub fn priority(&self, id: NodeId) -> u32 {
        self.members.get(&id).map_or(0, |member| member.priority)
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

    /// Whether two configurations must agree, while one gives way to the other (§6).
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// The membership that follows this one: a joint one if more than one voter comes or goes, or if the change asks for it. A change is
    /// carried out whole or not at all.
    ///
    /// ```
    /// use raft_core::membership::{Change, Member, Membership, MembershipChange};
    /// use raft_core::types::NodeId;
    ///
    /// let three = Membership::of_voters((1..=3).map(|id| (NodeId(id), Member::default())).collect());
    /// let replace = vec![Change::AddVoter(NodeId(4), Member::default()), Change::Remove(NodeId(1))];
    /// let joint = three.change(&MembershipChange { changes: replace, stay_joint: false }).unwrap();
    /// assert_eq!(joint.voters, [NodeId(2), NodeId(3), NodeId(4)].into());
    /// assert_eq!(joint.outgoing, three.voters, "a majority of these is needed as well");
    /// ```
    ///
    /// # Errors
    ///
    /// If a change makes no sense, given those before it, or if this membership is joint.
    pub fn change(&self, change: &MembershipChange) -> Result<Self, ChangeError> {
        if self.is_joint() {
            return Err(ChangeError::Joint);
        }
        if change.changes.is_empty() {
            return Err(ChangeError::Empty);
        }
        let mut next = self.clone();
        change.changes.iter().try_for_each(|change| next.make(change))?;
        self.check_successor(&next)?;
        // Majorities that differ by one node share one; others need not (thesis §4.1).
        if change.stay_joint || self.voters.symmetric_difference(&next.voters).count() > 1 {
            next.enter_joint(self, change.stay_joint);
        }
        Ok(next)
    }

    /// The membership that follows a joint one: without the outgoing voters, except those who have become learners.
    ///
    /// ```
    /// use raft_core::membership::{Change, Member, Membership, MembershipChange};
    /// use raft_core::types::NodeId;
    ///
    /// let three = Membership::of_voters((1..=3).map(|id| (NodeId(id), Member::default())).collect());
    /// let changes = vec![Change::Remove(NodeId(2)), Change::Demote(NodeId(3))];
    /// let one = three.change(&MembershipChange { changes, stay_joint: false }).unwrap().leave_joint().unwrap();
    /// assert_eq!(one.voters, [NodeId(1)].into());
    /// assert_eq!(one.learners, [NodeId(3)].into());
    /// assert!(one.nodes().eq([NodeId(1), NodeId(3)]));
    /// ```
    ///
    /// # Errors
    ///
    /// If this membership is not joint.
    pub fn leave_joint(&self) -> Result<Self, ChangeError> {
        if !self.is_joint() {
            return Err(ChangeError::NotJoint);
        }
        let mut next = Self { outgoing: BTreeSet::new(), stays_joint: false, ..self.clone() };
        next.members.retain(|id, _| next.voters.contains(id) || next.learners.contains(id));
        Ok(next)
    }

    /// Makes one change.
    fn make(&mut self, change: &Change) -> Result<(), ChangeError> {
        match change {
            Change::AddVoter(id, member) => {
                self.add(*id, member)?;
                self.voters.insert(*id);
            }
            Change::AddLearner { id, member, promote } => {
                self.add(*id, member)?;
                self.learners.insert(*id);
                if *promote {
                    self.promotable.insert(*id);
                }
            }
            Change::Promote(id) => {
                self.member(*id)?;
                if !self.learners.remove(id) {
                    return Err(ChangeError::NoLearner(*id));
                }
                self.promotable.remove(id);
                self.voters.insert(*id);
            }
            Change::Demote(id) => {
                self.member(*id)?;
                if !self.voters.remove(id) {
                    return Err(ChangeError::NoVoter(*id));
                }
                self.learners.insert(*id);
            }
            Change::Remove(id) => {
                self.member(*id)?;
                self.members.remove(id);
                for set in [&mut self.voters, &mut self.learners, &mut self.promotable] {
                    set.remove(id);
                }
            }
            Change::Update(id, member) => *self.member(*id)? = member.clone(),
        }
        Ok(())
    }

    fn add(&mut self, id: NodeId, member: &Member) -> Result<(), ChangeError> {
        if !id.is_possible() {
            return Err(ChangeError::Id(id));
        }
        if self.members.contains_key(&id) {
            return Err(ChangeError::Member(id));
        }
        self.members.insert(id, member.clone());
        Ok(())
    }

    fn member(&mut self, id: NodeId) -> Result<&mut Member, ChangeError> {
        self.members.get_mut(&id).ok_or(ChangeError::NoMember(id))
    }

    /// Whether `next`, which all changes together have made of this membership, may follow it.
    fn check_successor(&self, next: &Self) -> Result<(), ChangeError> {
        if next.voters.is_empty() {
            return Err(ChangeError::NoVotersLeft);
        }
        if next == self {
            return Err(ChangeError::Nothing);
        }
        let has_other_disk = |(id, member): &(&NodeId, &Member)| {
            self.members.get(id).is_some_and(|own| own.incarnation != member.incarnation)
        };
        match next.members.iter().find(has_other_disk) {
            Some((id, _)) => Err(ChangeError::OtherIncarnation(*id)),
            None => Ok(()),
        }
    }

    /// Keeps the voters of `before`, and what is recorded of them, until the joint configuration is left.
    fn enter_joint(&mut self, before: &Self, stays_joint: bool) {
        self.outgoing = before.voters.clone();
        self.stays_joint = stays_joint;
        for (id, member) in before.members.iter().filter(|(id, _)| before.voters.contains(id)) {
            self.members.entry(*id).or_insert_with(|| member.clone());
        }
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

/// The membership that the log begins with, nobody if it is whole, and those that it holds. The last is in force, committed or not; it goes when its
/// entry is cut off.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MembershipStack {
    /// At least one.
    entries: Vec<(Index, Arc<Membership>)>,
}

impl Default for MembershipStack {
    fn default() -> Self {
        Self::after(Index::ZERO, Arc::default())
    }
}

impl MembershipStack {
    /// The membership in force.
    pub fn effective(&self) -> &Arc<Membership> {
        &self.last().1
    }

    fn last(&self) -> &(Index, Arc<Membership>) {
        self.entries.last().expect("the membership that the log begins with stays")
    }

    /// Whether the membership in force can't be rolled back once entries up to `commit` are committed.
    pub fn is_committed(&self, commit: Index) -> bool {
        self.last().0 <= commit
    }

    /// The membership of a log that begins after the entry at `index`, where `membership` was in force.
    pub fn after(index: Index, membership: Arc<Membership>) -> Self {
        Self { entries: vec![(index, membership)] }
    }

    /// Forgets the memberships that are superseded at `index`, which is not before the log, and where the log now begins.
    pub fn compact(&mut self, index: Index) {
        self.entries.drain(..self.position_at(index));
        self.entries[0].0 = index;
    }

    /// The membership in force at `commit`, which can't be rolled back.
    pub fn committed(&self, commit: Index) -> &Arc<Membership> {
        &self.entries[self.position_at(commit)].1
    }

    /// All memberships that may be the committed one, where entries up to `commit` are known to be committed.
    pub fn possible(&self, commit: Index) -> impl Iterator<Item = &Arc<Membership>> {
        self.entries[self.position_at(commit)..].iter().map(|(_, membership)| membership)
    }

    /// Where the last membership at or before `index`, which is not before the log, stands.
    fn position_at(&self, index: Index) -> usize {
        self.entries.partition_point(|(own, _)| *own <= index).saturating_sub(1)
    }

    /// Puts the membership of the entry at `index` in force.
    pub fn push(&mut self, index: Index, membership: Arc<Membership>) {
        assert!(self.last().0 < index, "memberships follow each other in the log");
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
        assert_eq!(**stack.effective(), Membership::default(), "nobody belongs to the cluster yet");
        stack.push(Index(1), of(&[1]).into());
        stack.push(Index(4), of(&[1, 2]).into());
        assert_eq!(**stack.effective(), of(&[1, 2]), "in force once appended");
        assert!(!stack.truncate(Index(5)), "entry 4 stays");
        assert!(stack.truncate(Index(4)));
        assert_eq!(**stack.effective(), of(&[1]));
        assert!(stack.truncate(Index(1)));
        assert_eq!(**stack.effective(), Membership::default());
    }

    #[test]
    fn the_committed_membership_is_the_last_at_or_before_the_commit_index() {
        let mut stack = MembershipStack::default();
        stack.push(Index(2), of(&[1]).into());
        stack.push(Index(4), of(&[1, 2]).into());
        for (commit, expected) in
            [(0, of(&[])), (1, of(&[])), (2, of(&[1])), (3, of(&[1])), (4, of(&[1, 2])), (9, of(&[1, 2]))]
        {
            assert_eq!(**stack.committed(Index(commit)), expected, "at {commit}");
        }
    }

    #[test]
    fn both_configurations_of_a_joint_one_vote() {
        let joint = Membership { outgoing: [NodeId(3)].into(), learners: [NodeId(4)].into(), ..of(&[1, 2]) };
        let voters = (1..=5).filter(|&id| joint.is_voter(NodeId(id)));
        assert!(voters.eq([1, 2, 3]));
    }
}
