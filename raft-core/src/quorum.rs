//! Majorities: who has won, what is committed. Arithmetic on plain sets.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::numbers::NodeId;

/// The state of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VoteResult {
    /// Not decided yet.
    Pending,
    /// A majority has granted its vote.
    Won,
    /// A majority can't be reached any more.
    Lost,
}

impl VoteResult {
    /// The result where both elections must be won.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Lost, _) | (_, Self::Lost) => Self::Lost,
            (Self::Won, Self::Won) => Self::Won,
            (Self::Pending, _) | (_, Self::Pending) => Self::Pending,
        }
    }
}

/// How many of `voters` nodes are a majority.
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The highest value that a majority of `voters` has reached, such as the index that is committed; the least value if there are no
/// voters, who agree on nothing.
pub fn agreed<T: Ord + Copy + Default>(voters: &BTreeSet<NodeId>, reached: impl Fn(NodeId) -> T) -> T {
    let needed = majority(voters.len());
    // Voters are few, so that to count them anew for a value costs less than to sort all values somewhere.
    let is_agreed = |value: T| voters.iter().filter(|&&id| reached(id) >= value).count() >= needed;
    let higher = |best: T, value: T| if value > best && is_agreed(value) { value } else { best };
    voters.iter().map(|&id| reached(id)).fold(T::default(), higher)
}

/// The state of an election among `voters`; lost if there are none. Votes of others do not count.
pub fn vote_result(voters: &BTreeSet<NodeId>, votes: &BTreeMap<NodeId, bool>) -> VoteResult {
    let needed = majority(voters.len());
    let granted = voters.iter().filter(|id| votes.get(id) == Some(&true)).count();
    let refused = voters.iter().filter(|id| votes.get(id) == Some(&false)).count();
    if granted >= needed {
        VoteResult::Won
    } else if voters.len() - refused < needed {
        VoteResult::Lost
    } else {
        VoteResult::Pending
    }
}
