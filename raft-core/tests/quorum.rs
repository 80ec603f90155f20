//! The arithmetic of majorities, against a twin that takes the definitions at their word.

#[path = "common/random.rs"]
mod random;

use std::collections::{BTreeMap, BTreeSet};

use raft_core::membership::Membership;
use raft_core::quorum::{self, VoteResult};
use raft_core::types::{Index, NodeId};

use random::Random;

/// How many random cases of each kind.
const CASES: usize = 50_000;

/// How many ids there are.
const NODES: u64 = 9;

/// Whether `part` is more than half of `voters`.
fn is_majority(voters: &BTreeSet<NodeId>, part: impl Fn(NodeId) -> bool) -> bool {
    voters.iter().filter(|&&id| part(id)).count() * 2 > voters.len()
}

/// The highest value, of all that appear, that a majority of each set has reached.
fn naive_agreed(sets: &[&BTreeSet<NodeId>], reached: &[u64]) -> u64 {
    let is_agreed = |value: &u64| sets.iter().all(|voters| is_majority(voters, |id| reached[id.0 as usize] >= *value));
    reached.iter().copied().filter(is_agreed).max().unwrap_or(0)
}

/// Won if those who have granted are majorities; lost if they were not even with all who have not answered.
fn naive_vote_result(sets: &[&BTreeSet<NodeId>], votes: &BTreeMap<NodeId, bool>) -> VoteResult {
    let wins_if =
        |silent: bool| sets.iter().all(|voters| is_majority(voters, |id| votes.get(&id).copied().unwrap_or(silent)));
    match (wins_if(false), wins_if(true)) {
        (true, _) => VoteResult::Won,
        (false, true) => VoteResult::Pending,
        (false, false) => VoteResult::Lost,
    }
}

/// The sets of voters that must agree.
fn sets(membership: &Membership) -> Vec<&BTreeSet<NodeId>> {
    let outgoing = Some(&membership.outgoing).filter(|outgoing| !outgoing.is_empty());
    [&membership.voters].into_iter().chain(outgoing).collect()
}

/// Any set of nodes.
fn draw_nodes(random: &mut Random) -> BTreeSet<NodeId> {
    (0..NODES).filter(|_| random.percent(50)).map(NodeId).collect()
}

/// Half of them joint, with overlap or without.
fn draw_membership(random: &mut Random) -> Membership {
    let outgoing = if random.percent(50) { draw_nodes(random) } else { BTreeSet::new() };
    let (voters, learners) = (draw_nodes(random), draw_nodes(random));
    Membership { voters, outgoing, learners, ..Membership::default() }
}

#[test]
fn agreed_is_the_highest_value_that_majorities_have_reached() {
    let mut random = Random::new(1);
    for _ in 0..CASES {
        let membership = draw_membership(&mut random);
        let reached: Vec<u64> = (0..NODES).map(|_| random.between(0..6)).collect();
        let agreed = membership.agreed(|id| Index(reached[id.0 as usize]));
        let naive = naive_agreed(&sets(&membership), &reached);
        assert_eq!(agreed, Index(naive), "{membership:?}, who have reached {reached:?}");
        let simple = quorum::agreed(&membership.voters, |id| reached[id.0 as usize]);
        assert_eq!(simple, naive_agreed(&[&membership.voters], &reached), "{:?}: {reached:?}", membership.voters);
    }
}

#[test]
fn a_vote_is_decided_once_no_answer_can_change_it() {
    let mut random = Random::new(2);
    for _ in 0..CASES {
        let membership = draw_membership(&mut random);
        let answers = (0..NODES).map(|id| (NodeId(id), random.pick(&[None, Some(false), Some(true)])));
        let votes: BTreeMap<_, _> = answers.filter_map(|(id, answer)| Some((id, answer?))).collect();
        let naive = naive_vote_result(&sets(&membership), &votes);
        assert_eq!(membership.vote_result(&votes), naive, "{membership:?} answer {votes:?}");
        let simple = quorum::vote_result(&membership.voters, &votes);
        assert_eq!(simple, naive_vote_result(&[&membership.voters], &votes), "{:?}: {votes:?}", membership.voters);
    }
}

/// Any two majorities share a node, also those of a joint configuration and of either of its parts (§6).
#[test]
fn any_two_majorities_share_a_node() {
    for size in 1..=NODES as usize {
        assert!(2 * quorum::majority(size) > size, "two majorities of {size} can do without a common node");
        assert!(quorum::majority(size) <= size, "all {size} together are a majority");
    }
}

#[test]
fn nobody_agrees_on_nothing() {
    let nobody = Membership::default();
    assert_eq!(nobody.agreed(|_| Index(9)), Index::ZERO);
    assert_eq!(nobody.vote_result(&BTreeMap::from([(NodeId(1), true)])), VoteResult::Lost);
}
