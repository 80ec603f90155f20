//! The arithmetic of majorities, against a twin that takes the definitions at their word.

#[path = "common/random.rs"]
mod random;

use std::collections::{BTreeMap, BTreeSet};

use raft_core::membership::{Change, ChangeError, Member, Membership, MembershipChange};
use raft_core::quorum::{self, VoteResult};
use raft_core::types::{Incarnation, Index, NodeId};

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

// Changes of membership.

/// What a node is, to the twin of a change: it keeps a place for each node instead of sets of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Voter,
    Learner,
    Promotable,
}

type Places = BTreeMap<NodeId, (Place, Member)>;

fn places(membership: &Membership) -> Places {
    let place = |id| match (membership.voters.contains(id), membership.promotable.contains(id)) {
        (true, _) => Place::Voter,
        (false, true) => Place::Promotable,
        (false, false) => Place::Learner,
    };
    membership.members.iter().map(|(id, member)| (*id, (place(id), member.clone()))).collect()
}

fn naive_step(places: &mut Places, change: &Change) -> Result<(), ChangeError> {
    let (id, is_addition) = match change {
        Change::AddVoter(id, _) | Change::AddLearner { id, .. } => (*id, true),
        Change::Promote(id) | Change::Demote(id) | Change::Remove(id) | Change::Update(id, _) => (*id, false),
    };
    let old = places.get(&id).cloned();
    let new = match (change, old) {
        _ if is_addition && (id.0 == 0 || id.0 > i64::MAX as u64) => return Err(ChangeError::Id(id)),
        (_, Some(_)) if is_addition => return Err(ChangeError::Member(id)),
        (_, None) if !is_addition => return Err(ChangeError::NoMember(id)),
        (Change::AddVoter(_, member), _) => Some((Place::Voter, member.clone())),
        (Change::AddLearner { member, promote: true, .. }, _) => Some((Place::Promotable, member.clone())),
        (Change::AddLearner { member, promote: false, .. }, _) => Some((Place::Learner, member.clone())),
        (Change::Promote(_), Some((Place::Voter, _))) => return Err(ChangeError::NoLearner(id)),
        (Change::Promote(_), Some((_, member))) => Some((Place::Voter, member)),
        (Change::Demote(_), Some((Place::Voter, member))) => Some((Place::Learner, member)),
        (Change::Demote(_), _) => return Err(ChangeError::NoVoter(id)),
        (Change::Update(_, member), Some((place, _))) => Some((place, member.clone())),
        (Change::Remove(_) | Change::Promote(_) | Change::Update(..), _) => None,
    };
    places.remove(&id);
    places.extend(new.map(|new| (id, new)));
    Ok(())
}

/// All places after the changes, or the first objection.
fn naive_change(before: &Places, changes: &[Change]) -> Result<Places, ChangeError> {
    if changes.is_empty() {
        return Err(ChangeError::Empty);
    }
    let mut after = before.clone();
    for change in changes {
        naive_step(&mut after, change)?;
    }
    if !after.values().any(|(place, _)| *place == Place::Voter) {
        return Err(ChangeError::NoVotersLeft);
    }
    if after == *before {
        return Err(ChangeError::Nothing);
    }
    for (id, (_, member)) in &after {
        if before.get(id).is_some_and(|(_, old)| old.incarnation != member.incarnation) {
            return Err(ChangeError::OtherIncarnation(*id));
        }
    }
    Ok(after)
}

fn draw_member(random: &mut Random) -> Member {
    let incarnation = Incarnation(if random.percent(90) { 1 } else { 2 });
    Member { address: format!("host{}", random.between(0..2)), incarnation, priority: random.between(0..2) as u32 }
}

fn draw_settled(random: &mut Random) -> Membership {
    let mut membership = Membership::default();
    for id in (1..NODES).map(NodeId) {
        match random.between(0..5) {
            0..2 => drop(membership.voters.insert(id)),
            2 => drop(membership.learners.insert(id)),
            3 => drop((membership.learners.insert(id), membership.promotable.insert(id))),
            _ => continue,
        }
        membership.members.insert(id, draw_member(random));
    }
    if membership.voters.is_empty() { draw_settled(random) } else { membership }
}

fn draw_change(random: &mut Random) -> Change {
    let id = NodeId(if random.percent(2) { 0 } else { random.between(1..NODES) });
    let member = draw_member(random);
    match random.between(0..7) {
        0 => Change::AddVoter(id, member),
        1 => Change::AddLearner { id, member, promote: random.percent(50) },
        2 => Change::Promote(id),
        3 => Change::Demote(id),
        4 | 5 => Change::Remove(id),
        _ => Change::Update(id, member),
    }
}

/// Most changes drawn blindly make no sense: of those that do, or would but for one, lists are made.
fn draw_changes(random: &mut Random, membership: &Membership) -> MembershipChange {
    let mut places = places(membership);
    let mut changes = Vec::new();
    for _ in 0..random.between(0..12) {
        let change = draw_change(random);
        if naive_step(&mut places, &change).is_ok() || random.percent(1) {
            changes.push(change);
        }
    }
    MembershipChange { changes, stay_joint: random.percent(20) }
}

fn voters_of(places: &Places) -> BTreeSet<NodeId> {
    places.iter().filter(|(_, (place, _))| *place == Place::Voter).map(|(id, _)| *id).collect()
}

/// §6 and thesis §4.1, §4.3: entering and leaving.
#[test]
fn changes_lead_to_where_each_alone_would() {
    let mut random = Random::new(3);
    let (mut simple, mut joint) = (0, 0);
    for _ in 0..CASES {
        let before = draw_settled(&mut random);
        let change = draw_changes(&mut random, &before);
        let result = before.change(&change);
        let after = match naive_change(&places(&before), &change.changes) {
            Ok(after) => after,
            Err(error) => {
                assert_eq!(result, Err(error), "{before:?} {change:?}");
                continue;
            }
        };
        let entered = result.unwrap_or_else(|error| panic!("{before:?} {change:?}: {error}"));
        let settled = if entered.is_joint() { entered.leave_joint().expect("it is joint") } else { entered.clone() };
        assert_eq!(places(&settled), after, "{before:?} {change:?}");
        assert!(settled.voters.is_disjoint(&settled.learners) && settled.promotable.is_subset(&settled.learners));
        assert!(!settled.stays_joint && !settled.is_joint());
        let (old, new) = (before.voters.clone(), voters_of(&after));
        let moved = old.union(&new).count() - old.intersection(&new).count();
        assert_eq!(entered.is_joint(), moved > 1 || change.stay_joint, "{before:?} {change:?}");
        if entered.is_joint() {
            joint += 1;
            assert_eq!((&entered.voters, &entered.outgoing), (&new, &old));
            assert_eq!(entered.stays_joint, change.stay_joint);
            let named: BTreeSet<NodeId> = after.keys().chain(&old).copied().collect();
            assert!(entered.nodes().eq(named), "all who are named are recorded until it is left");
            assert_eq!(entered.change(&change), Err(ChangeError::Joint));
        } else {
            simple += 1;
            assert_eq!(entered.leave_joint(), Err(ChangeError::NotJoint));
        }
    }
    assert!(simple > CASES / 10 && joint > CASES / 10, "{simple} simple, {joint} joint");
}

/// Thesis §4.1: whatever decides before a change, and whatever after, share a node. So do the joint configuration and the one it leads to.
#[test]
fn adjacent_memberships_have_no_disjoint_quorums() {
    let mut random = Random::new(4);
    for _ in 0..CASES {
        let before = draw_settled(&mut random);
        let Ok(entered) = before.change(&draw_changes(&mut random, &before)) else { continue };
        let left = entered.leave_joint().unwrap_or_else(|_| entered.clone());
        // Half of the nodes grant, the others refuse: if the former are a quorum of one, the latter are none of its neighbour.
        let side: BTreeSet<NodeId> = draw_nodes(&mut random);
        let of_side = |inside| (1..NODES).map(NodeId).map(|id| (id, side.contains(&id) == inside)).collect();
        let wins = |membership: &Membership, inside| membership.vote_result(&of_side(inside)) == VoteResult::Won;
        for (one, other) in [(&before, &entered), (&entered, &left), (&entered, &entered)] {
            for inside in [true, false] {
                assert!(!(wins(one, inside) && wins(other, !inside)), "{one:?} and {other:?}, split by {side:?}");
            }
        }
    }
}

/// Thesis §4.3: what counts as a quorum is that of each configuration, also where one node is in both.
#[test]
fn learners_never_count() {
    let three = Membership::of_voters((1..=3).map(|id| (NodeId(id), Member::default())).collect());
    let learners: BTreeSet<NodeId> = (4..=9).map(NodeId).collect();
    let with_learners = Membership { learners: learners.clone(), promotable: learners.clone(), ..three };
    let reached = |id: NodeId| if learners.contains(&id) { Index(9) } else { Index(id.0) };
    assert_eq!(with_learners.agreed(reached), Index(2));
    let votes = (3..=9).map(|id| (NodeId(id), true)).collect();
    assert_eq!(with_learners.vote_result(&votes), VoteResult::Pending);
}
