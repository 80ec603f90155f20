//! A test for each rule of Ongaro's thesis on membership changes (chapter 4), in its order. The node under test is `n1`; see [`MembershipChange`]
//! for when a change takes a joint configuration.

mod common;

use std::collections::BTreeMap;

use raft_core::effect::{Effect, Refusal, RoleKind};
use raft_core::input::Input;
use raft_core::membership::{Change, ChangeError, Membership, MembershipChange};
use raft_core::message::{AppendEntries, Message};
use raft_core::port::Stored;
use raft_core::types::{Entry, EntryId, Index, Member, NodeId, Payload, RequestId, Round, Term};

use common::{ME, Subject, accepted, accepted_in, append, id, receive, sent};

const GRANTED: Message = Message::RequestVoteReply { granted: true };
const TIMEOUT: u32 = 15;

fn ids<T: FromIterator<NodeId>>(ids: &[u64]) -> T {
    ids.iter().copied().map(NodeId).collect()
}

/// A membership of these voters and learners.
fn of(voters: &[u64], learners: &[u64]) -> Membership {
    joint(voters, &[], learners)
}

/// A membership that is joint unless `outgoing` is empty.
fn joint(voters: &[u64], outgoing: &[u64], learners: &[u64]) -> Membership {
    let all = [voters, outgoing, learners].concat();
    let members: BTreeMap<NodeId, Member> = all.iter().map(|&id| (NodeId(id), Member::default())).collect();
    Membership {
        voters: ids(voters),
        outgoing: ids(outgoing),
        learners: ids(learners),
        members,
        ..Membership::default()
    }
}

/// The leader of term 2 in a cluster that began with `membership`. Its first entry, `2@2`, is committed.
fn leader(membership: Membership) -> Subject {
    let voters: Vec<u64> = membership.voters.iter().map(|id| id.0).filter(|&id| id != ME.0).collect();
    let mut n1 = Subject::start(Stored::first(membership));
    n1.win();
    for id in voters {
        n1.receive(id, 2, accepted(2));
    }
    assert_eq!(commit(&n1), 2);
    n1
}

/// A follower in term 1 that has stored `before`, and has appended what n2 sent as `2@1`: `after`, uncommitted.
fn follower(before: Membership, after: Membership) -> Subject {
    let mut n1 = Subject::start(Stored::first(before));
    n1.receive(2, 1, configuration(id(1, 1), after, 1));
    n1
}

/// A request to store a membership after `prev`, in the same term.
fn configuration(prev: EntryId, membership: Membership, commit: u64) -> Message {
    let entry = Entry { id: id(prev.index.0 + 1, prev.term.0), payload: Payload::Membership(membership.into()) };
    Message::AppendEntries(AppendEntries { prev, entries: vec![entry].into(), commit: Index(commit), round: Round(0) })
}

fn change(n1: &mut Subject, changes: &[Change]) -> Vec<Effect> {
    let change = MembershipChange { changes: changes.to_vec(), stay_joint: false };
    n1.run(Input::ChangeMembership { id: RequestId(1), change })
}

fn add(id: u64) -> Change {
    Change::AddVoter(NodeId(id), Member::default())
}

fn add_learner(id: u64, promote: bool) -> Change {
    Change::AddLearner { id: NodeId(id), member: Member::default(), promote }
}

fn remove(id: u64) -> Change {
    Change::Remove(NodeId(id))
}

fn promote(id: u64) -> Change {
    Change::Promote(NodeId(id))
}

fn refusal(effects: &[Effect]) -> Option<Refusal> {
    effects.iter().find_map(|effect| match effect {
        Effect::Refuse { reason, .. } => Some(*reason),
        _ => None,
    })
}

fn commit(n1: &Subject) -> u64 {
    n1.status().commit_index.0
}

fn role(n1: &Subject) -> RoleKind {
    n1.status().role
}

/// Who is asked for a vote, or whether it would be given.
fn asked(effects: &[Effect]) -> Vec<u64> {
    let asks = |message: &Message| matches!(message, Message::RequestVote { .. } | Message::RequestPreVote { .. });
    sent(effects).into_iter().filter(|(_, message)| asks(message)).map(|(to, _)| to).collect()
}

/// Who is sent entries.
fn fed(effects: &[Effect]) -> Vec<u64> {
    let has_entries =
        |message: &Message| matches!(message, Message::AppendEntries(append) if !append.entries.is_empty());
    sent(effects).into_iter().filter(|(_, message)| has_entries(message)).map(|(to, _)| to).collect()
}

/// The latest round among the messages of a leader.
fn round(effects: &[Effect]) -> u64 {
    let round = |(_, message)| match message {
        Message::AppendEntries(append) => append.round.0,
        _ => 0,
    };
    sent(effects).into_iter().map(round).max().unwrap_or_default()
}

fn pre_vote_reply(term: u64) -> Message {
    Message::RequestPreVoteReply { request_term: Term(term), granted: true }
}

fn request_vote(last: EntryId) -> Message {
    Message::RequestVote { last, transfer: false }
}

// ------------------------------------------------------------------------------------------------ 4.1, single servers

/// Thesis §4.1: "The new configuration takes effect on each server as soon as it is added to that server's log", and "a majority of the new configuration is
/// used to determine the Cnew entry's commitment".
#[test]
fn section_4_1_the_leader_uses_a_configuration_once_appended() {
    let mut n1 = leader(of(&[1, 2, 3], &[]));
    let round = round(&change(&mut n1, &[add(4)]));
    assert_eq!(n1.status().membership, of(&[1, 2, 3, 4], &[]));
    n1.receive(2, 2, accepted(3));
    assert_eq!(commit(&n1), 2, "two of three, but of four");
    n1.receive(4, 2, accepted_in(round, 3));
    assert_eq!(commit(&n1), 3, "n4 is one of the three");
}

/// Thesis §4.1: "each server always uses the latest configuration found in its log", committed or not, also as a candidate.
#[test]
fn section_4_1_a_follower_uses_a_configuration_once_appended() {
    let mut n1 = follower(of(&[1, 2, 3], &[]), of(&[1, 2, 3, 4], &[]));
    assert_eq!((n1.status().membership, commit(&n1)), (of(&[1, 2, 3, 4], &[]), 1));
    assert_eq!(asked(&n1.await_timeout().1), [2, 3, 4]);
    n1.receive(3, 1, pre_vote_reply(1));
    assert_eq!(role(&n1), RoleKind::PreCandidate, "two of three, but of four");
    n1.receive(4, 1, pre_vote_reply(1));
    assert_eq!(role(&n1), RoleKind::Candidate);
}

/// Thesis §4.1: with one voter more or less, "any majority of the old cluster overlaps with any majority of the new cluster"; other changes take §4.3.
#[test]
fn section_4_1_one_voter_at_a_time_needs_no_joint_configuration() {
    let three = of(&[1, 2, 3], &[4]);
    let next = |changes: &[Change]| {
        let change = MembershipChange { changes: changes.to_vec(), stay_joint: false };
        three.change(&change).unwrap()
    };
    for single in
        [vec![add(5)], vec![remove(3)], vec![promote(4)], vec![Change::Demote(NodeId(1)), add_learner(5, false)]]
    {
        assert!(!next(&single).is_joint(), "{single:?}");
    }
    for several in
        [vec![add(5), remove(3)], vec![add(5), add(6)], vec![remove(1), remove(2)], vec![promote(4), remove(3)]]
    {
        assert!(next(&several).is_joint(), "{several:?}");
    }
}

/// Thesis §4.1: only once an entry is committed, "further configuration changes may be started".
#[test]
fn section_4_1_one_change_at_a_time() {
    let mut n1 = leader(of(&[1, 2, 3], &[]));
    change(&mut n1, &[add_learner(4, false)]);
    assert_eq!(refusal(&change(&mut n1, &[remove(2)])), Some(Refusal::ChangeUnderWay));
    n1.receive(2, 2, accepted(3));
    assert_eq!(refusal(&change(&mut n1, &[remove(2)])), None);
}

/// What the thesis lacks (Ongaro on raft-dev, July 2015): a leader changes nothing before it has committed an entry of its term, or its majorities and
/// those of an older leader's change need not meet.
#[test]
fn section_4_1_no_change_before_the_term_has_committed() {
    let mut n1 = Subject::start(Stored::first(of(&[1, 2, 3], &[])));
    n1.win();
    assert_eq!(refusal(&change(&mut n1, &[add(4)])), Some(Refusal::TermNotCommitted));
    n1.receive(2, 2, accepted(1));
    assert_eq!(refusal(&change(&mut n1, &[add(4)])), Some(Refusal::TermNotCommitted), "committed, but of term 1");
    n1.receive(2, 2, accepted(2));
    assert_eq!(refusal(&change(&mut n1, &[add(4)])), None);
}

/// Thesis §4.1: an uncommitted entry may go when leadership changes; "in this case, a server must be prepared to fall back to the previous configuration in
/// its log".
#[test]
fn section_4_1_a_configuration_goes_with_its_entry() {
    let mut n1 = follower(of(&[1, 2, 3], &[]), of(&[1, 2, 3, 4], &[]));
    n1.receive(3, 2, append(id(1, 1), &[2], 1));
    assert_eq!(n1.status().membership, of(&[1, 2, 3], &[]));
    assert_eq!(asked(&n1.await_timeout().1), [2, 3]);
}

/// Thesis §4.1: the log is on disk, and so is the configuration, committed or not: a restart forgets none and waits for no old majority.
#[test]
fn section_4_1_a_configuration_survives_a_restart() {
    let mut stored = Stored::first(of(&[1, 2], &[]));
    stored.entries.push(Entry { id: id(2, 1), payload: Payload::Membership(of(&[1], &[]).into()) });
    let mut n1 = Subject::with(raft_core::config::Config::new(ME), stored, id(1, 1));
    assert_eq!((n1.status().membership, commit(&n1)), (of(&[1], &[]), 1));
    n1.tick(2 * TIMEOUT);
    assert_eq!((role(&n1), commit(&n1)), (RoleKind::Leader, 3), "alone, it is its own majority");
}

/// Thesis §4.1: "A server accepts AppendEntries requests from a leader that is not part of the server's latest configuration."
#[test]
fn section_4_1_a_leader_outside_the_own_configuration_is_followed() {
    let mut n1 = Subject::start(Stored::first(of(&[1, 2, 3], &[])));
    assert_eq!(sent(&n1.receive(4, 2, append(id(1, 1), &[2], 2))), [(4, accepted(2))]);
    assert_eq!((n1.status().leader, commit(&n1)), (Some(NodeId(4)), 2));
}

/// Thesis §4.1: "A server also grants its vote to a candidate that is not part of the server's latest configuration", or that is a learner to it; even
/// if it has none itself, as far as it knows.
#[test]
fn section_4_1_a_candidate_outside_the_own_configuration_gets_a_vote() {
    for membership in [of(&[1, 2, 3], &[]), of(&[1, 2, 3], &[4]), of(&[2, 3], &[1]), Membership::default()] {
        let mut n1 = Subject::start(Stored::first(membership));
        assert_eq!(sent(&n1.receive(4, 1, Message::RequestPreVote { last: id(1, 1) })), [(4, pre_vote_reply(1))]);
        assert_eq!(sent(&n1.receive(4, 2, request_vote(id(1, 1)))), [(4, GRANTED)]);
    }
}

/// Of those who have left nothing counts any more, in elections or for commits.
#[test]
fn section_4_1_who_has_left_does_not_count() {
    let mut n1 = leader(of(&[1, 2, 3, 4], &[]));
    n1.propose(1);
    change(&mut n1, &[remove(4)]);
    n1.receive(4, 2, accepted(4));
    assert_eq!(commit(&n1), 2);
    n1.receive(3, 2, accepted(4));
    assert_eq!(commit(&n1), 4);

    let mut candidate = follower(of(&[1, 2, 3, 4], &[]), of(&[1, 2, 3], &[]));
    candidate.await_timeout();
    candidate.receive(4, 1, pre_vote_reply(1));
    assert_eq!(role(&candidate), RoleKind::PreCandidate);
    candidate.receive(3, 1, pre_vote_reply(1));
    assert_eq!(role(&candidate), RoleKind::Candidate);
}

/// An id that was removed and added again may have another disk: what the former one has acknowledged is not counted, however late it arrives.
#[test]
fn section_4_1_a_former_member_does_not_answer_for_its_successor() {
    let mut n1 = leader(of(&[1, 2, 3], &[]));
    n1.propose(1);
    let former = round(&change(&mut n1, &[remove(3)]));
    n1.receive(2, 2, accepted_in(former, 4));
    let present = round(&change(&mut n1, &[add(3)]));
    assert!(present > former, "each membership begins a round");
    n1.receive(3, 2, accepted_in(former, 5));
    let matched = |n1: &Subject| n1.status().followers[1].match_index;
    assert_eq!((matched(&n1), commit(&n1)), (Index(0), 4));
    n1.receive(3, 2, accepted_in(present, 5));
    assert_eq!((matched(&n1), commit(&n1)), (Index(5), 5));
}

/// The last voter stays, and a change that makes no sense is refused whole.
#[test]
fn section_4_1_somebody_is_left_to_decide() {
    let mut n1 = leader(of(&[1, 2], &[3]));
    let reason = |error| Some(Refusal::Change(error));
    assert_eq!(refusal(&change(&mut n1, &[remove(1), remove(2)])), reason(ChangeError::NoVotersLeft));
    assert_eq!(refusal(&change(&mut n1, &[add(4), remove(5)])), reason(ChangeError::NoMember(NodeId(5))));
    assert_eq!(n1.status().membership, of(&[1, 2], &[3]));
}

// ---------------------------------------------------------------------------------------- 4.2.1, catching up new servers

/// Thesis §4.2.1: the leader "replicates log entries to it, but it is not yet counted towards majorities for voting or commitment purposes".
#[test]
fn section_4_2_1_a_learner_is_fed_and_does_not_count() {
    let mut n1 = leader(of(&[1, 2, 3], &[4]));
    n1.receive(4, 2, accepted(2));
    assert_eq!(fed(&n1.propose(1)), [2, 3, 4]);
    n1.receive(4, 2, accepted(3));
    assert_eq!(commit(&n1), 2);

    let mut candidate = Subject::start(Stored::first(of(&[1, 2, 3], &[4])));
    assert_eq!(asked(&candidate.await_timeout().1), [2, 3]);
    candidate.receive(4, 1, pre_vote_reply(1));
    assert_eq!(role(&candidate), RoleKind::PreCandidate);
}

/// Thesis §6.2 with §4.2.1: nor is a learner a sign that a majority still follows.
#[test]
fn section_4_2_1_a_learner_keeps_no_leader_in_office() {
    let mut n1 = leader(of(&[1, 2, 3], &[4]));
    for _ in 0..2 * TIMEOUT {
        n1.tick(1);
        n1.receive(4, 2, accepted(2));
    }
    assert_eq!(role(&n1), RoleKind::Follower);
}

/// Thesis §4.2.1: "If the last round lasts less than an election timeout, then the leader adds the new server to the cluster". A round ends when the
/// learner has all that the log held when it began.
#[test]
fn section_4_2_1_a_learner_is_promoted_after_a_quick_round() {
    let mut n1 = leader(of(&[1, 2, 3], &[4]));
    let tick = |n1: &mut Subject, ticks| {
        for _ in 0..ticks {
            n1.tick(1);
            n1.receive(2, 2, accepted(2));
        }
    };
    assert_eq!(refusal(&change(&mut n1, &[promote(4)])), Some(Refusal::NotCaughtUp(NodeId(4))));
    n1.propose(1);
    tick(&mut n1, TIMEOUT);
    n1.receive(4, 2, accepted(2));
    assert_eq!(refusal(&change(&mut n1, &[promote(4)])), Some(Refusal::NotCaughtUp(NodeId(4))), "the round was long");
    tick(&mut n1, TIMEOUT - 1);
    n1.receive(4, 2, accepted(2));
    assert_eq!(refusal(&change(&mut n1, &[promote(4)])), Some(Refusal::NotCaughtUp(NodeId(4))), "it lacks 3@2");
    n1.receive(4, 2, accepted(3));
    assert_eq!(refusal(&change(&mut n1, &[promote(4)])), None);
}

/// Thesis §4.2.1: a learner that falls silent has not caught up any more: what it needs to be told grows.
#[test]
fn section_4_2_1_a_learner_that_falls_silent_is_not_promoted() {
    let mut n1 = leader(of(&[1, 2, 3], &[4]));
    n1.receive(4, 2, accepted(2));
    for _ in 0..TIMEOUT {
        n1.tick(1);
        n1.receive(2, 2, accepted(2));
    }
    assert_eq!(refusal(&change(&mut n1, &[promote(4)])), Some(Refusal::NotCaughtUp(NodeId(4))));
}

/// Thesis §4.2.1: who was added to become a voter does so without being asked for again.
#[test]
fn section_4_2_1_a_promotable_learner_is_promoted_by_the_leader() {
    let mut n1 = leader(of(&[1, 2, 3], &[]));
    let round = round(&change(&mut n1, &[add_learner(4, true)]));
    n1.receive(4, 2, accepted_in(round, 3));
    assert!(!n1.status().membership.is_voter(NodeId(4)), "its own addition is not committed");
    n1.receive(2, 2, accepted(3));
    assert_eq!(n1.status().membership, of(&[1, 2, 3, 4], &[]));
}

// ------------------------------------------------------------------------------------- 4.2.2, removing the current leader

/// Thesis §4.2.2: "a leader that is removed from the configuration steps down once the Cnew entry is committed"; until then it "replicates log entries but
/// does not count itself in majorities".
#[test]
fn section_4_2_2_a_removed_leader_leads_until_that_is_committed() {
    let mut n1 = leader(of(&[1, 2, 3], &[]));
    change(&mut n1, &[remove(1)]);
    assert_eq!(fed(&n1.propose(2)), [2, 3], "it leads a cluster that it does not belong to");
    n1.receive(2, 2, accepted(4));
    assert_eq!((role(&n1), commit(&n1)), (RoleKind::Leader, 2), "one of two");
    let effects = n1.receive(3, 2, accepted(4));
    assert_eq!((role(&n1), commit(&n1)), (RoleKind::Follower, 4));
    let told: Vec<u64> = sent(&effects).iter().filter(|(_, m)| *m == Message::TimeoutNow).map(|(to, _)| *to).collect();
    assert_eq!(told.len(), 1, "another takes over at once (thesis §3.10)");
}

/// Thesis §4.2.2: a demoted leader goes, too, and is no candidate any more.
#[test]
fn section_4_2_2_a_demoted_leader_steps_down() {
    let mut n1 = leader(of(&[1, 2, 3], &[]));
    change(&mut n1, &[Change::Demote(ME)]);
    n1.receive(2, 2, accepted(3));
    n1.receive(3, 2, accepted(3));
    assert_eq!(role(&n1), RoleKind::Follower);
    n1.tick(4 * TIMEOUT);
    assert_eq!((role(&n1), n1.term()), (RoleKind::Follower, 2));
}

/// Thesis §4.2.2: "a server that is not part of its own latest configuration should still start new elections, as it might still be needed until the Cnew entry is
/// committed". Then it asks the others, does not count itself, and is not in the way once that is so.
#[test]
fn section_4_2_2_who_is_removed_may_still_stand() {
    let mut n1 = follower(of(&[1, 2, 3], &[]), of(&[2, 3], &[]));
    assert_eq!(asked(&n1.await_timeout().1), [2, 3]);
    n1.receive(3, 1, pre_vote_reply(1));
    assert_eq!(role(&n1), RoleKind::PreCandidate, "one of two");
    n1.receive(2, 1, pre_vote_reply(1));
    assert_eq!(role(&n1), RoleKind::Candidate);

    let mut removed = follower(of(&[1, 2, 3], &[]), of(&[2, 3], &[]));
    removed.receive(2, 1, append(id(2, 1), &[], 2));
    removed.tick(4 * TIMEOUT);
    assert_eq!((role(&removed), removed.term()), (RoleKind::Follower, 1));
}

// ---------------------------------------------------------------------------------------------- 4.2.3, disruptive servers

/// Thesis §4.2.3: "if a server receives a RequestVote request within the minimum election timeout of hearing from a current leader, it does not update its
/// term or grant its vote".
#[test]
fn section_4_2_3_who_hears_a_leader_helps_no_removed_server() {
    let mut n1 = Subject::start(Stored::first(of(&[1, 2, 3], &[])));
    n1.receive(2, 1, append(id(1, 1), &[], 1));
    n1.tick(TIMEOUT - 1);
    assert_eq!(sent(&n1.receive(4, 9, request_vote(id(9, 9)))), []);
    assert_eq!((n1.term(), n1.status().leader), (1, Some(NodeId(2))));
    n1.tick(1);
    assert_eq!(sent(&n1.receive(4, 9, request_vote(id(9, 9)))), [(4, GRANTED)]);
}

/// Thesis §4.2.3: "if a leader is able to get heartbeats to its cluster, then it will not be deposed by larger term numbers".
#[test]
fn section_4_2_3_a_leader_is_not_deposed_by_a_removed_server() {
    let mut n1 = leader(of(&[1, 2, 3, 4], &[]));
    change(&mut n1, &[remove(4)]);
    assert!(fed(&n1.propose(2)).iter().all(|&to| to != 4), "who is removed is sent nothing");
    n1.receive(4, 9, request_vote(id(9, 9)));
    assert_eq!((role(&n1), n1.term()), (RoleKind::Leader, 2));
}

// ---------------------------------------------------------------------------------------------- 4.3, arbitrary changes

/// Thesis §4.3: "Log entries are replicated to all servers in both configurations", and "agreement […] requires majorities from both the old and new
/// configurations".
#[test]
fn section_4_3_entries_need_both_majorities() {
    let mut n1 = leader(of(&[1, 2, 3], &[]));
    let effects = change(&mut n1, &[add(4), add(5), remove(2), remove(3)]);
    assert_eq!(n1.status().membership, joint(&[1, 4, 5], &[1, 2, 3], &[]));
    let round = round(&effects);
    n1.receive(4, 2, accepted_in(round, 3));
    n1.receive(5, 2, accepted_in(round, 3));
    assert_eq!(commit(&n1), 2, "three of five, but only one of those before");
    let effects = n1.receive(2, 2, accepted(3));
    assert_eq!(fed(&effects), [4, 5], "it is committed, and left: those who go are sent nothing more");
    assert_eq!((n1.status().membership, commit(&n1)), (of(&[1, 4, 5], &[]), 3));
}

/// Thesis §4.3: elections, too, need both majorities.
#[test]
fn section_4_3_elections_need_both_majorities() {
    let mut n1 = follower(of(&[1, 2, 3], &[]), joint(&[1, 4, 5], &[1, 2, 3], &[]));
    assert_eq!(asked(&n1.await_timeout().1), [2, 3, 4, 5]);
    n1.receive(4, 1, pre_vote_reply(1));
    n1.receive(5, 1, pre_vote_reply(1));
    assert_eq!(role(&n1), RoleKind::PreCandidate, "three of five, but only one of those before");
    n1.receive(3, 1, pre_vote_reply(1));
    assert_eq!(role(&n1), RoleKind::Candidate);
    n1.receive(4, 2, GRANTED);
    n1.receive(2, 2, GRANTED);
    assert_eq!(role(&n1), RoleKind::Leader);
}

/// Thesis §4.3: "Any server from either configuration may serve as leader."
#[test]
fn section_4_3_voters_of_either_configuration_stand() {
    for membership in [joint(&[1, 4, 5], &[2, 3, 4], &[]), joint(&[2, 4, 5], &[1, 2, 3], &[])] {
        let mut n1 = Subject::start(Stored::first(membership));
        n1.await_timeout();
        n1.receive(4, 1, pre_vote_reply(1));
        n1.receive(2, 1, pre_vote_reply(1));
        n1.receive(3, 1, pre_vote_reply(1));
        n1.receive(5, 1, pre_vote_reply(1));
        assert_eq!(role(&n1), RoleKind::Candidate);
    }
}

/// Thesis §4.3: "Once Cold,new has been committed, […] it is now safe for the leader to create a log entry describing Cnew", and no sooner: not when it
/// is found uncommitted in a log, before an entry of the new term is committed.
#[test]
fn section_4_3_a_joint_configuration_is_left_once_committed() {
    let mut stored = Stored::first(of(&[1, 2, 3], &[]));
    stored
        .entries
        .push(Entry { id: id(2, 1), payload: Payload::Membership(joint(&[1, 4, 5], &[1, 2, 3], &[]).into()) });
    let mut n1 = Subject::start(stored);
    n1.await_timeout();
    for (from, vote) in [(2, 1), (4, 1)] {
        n1.receive(from, vote, pre_vote_reply(1));
    }
    for from in [2, 4] {
        n1.receive(from, 2, GRANTED);
    }
    n1.receive(4, 2, accepted(3));
    n1.receive(5, 2, accepted(3));
    n1.receive(2, 2, accepted(2));
    assert!(n1.status().membership.is_joint(), "both have it, but no entry of this term");
    assert_eq!(commit(&n1), 0);
    n1.receive(2, 2, accepted(3));
    assert_eq!(n1.status().membership, of(&[1, 4, 5], &[]));
}

/// Thesis §4.3: a leader that is not in Cnew goes once that is committed, by a majority without it.
#[test]
fn section_4_3_a_leader_of_the_old_configuration_goes_with_it() {
    let mut n1 = leader(of(&[1, 2, 3], &[]));
    let first = round(&change(&mut n1, &[add(4), remove(1)]));
    n1.receive(2, 2, accepted(3));
    let left = round(&n1.receive(3, 2, accepted(3)));
    assert_eq!((n1.status().membership, role(&n1)), (of(&[2, 3, 4], &[]), RoleKind::Leader));
    n1.receive(2, 2, accepted(4));
    assert_eq!(role(&n1), RoleKind::Leader, "itself it does not count");
    n1.receive(4, 2, accepted_in(first.max(left), 4));
    assert_eq!(role(&n1), RoleKind::Follower);
}

/// Nothing else changes while a configuration is joint; and one that was entered to stay is left when told, not before.
#[test]
fn section_4_3_a_joint_configuration_that_stays_is_left_when_told() {
    let mut n1 = leader(of(&[1, 2, 3], &[]));
    let stay = MembershipChange { changes: vec![Change::Demote(NodeId(3))], stay_joint: true };
    n1.run(Input::ChangeMembership { id: RequestId(1), change: stay });
    let leave = |n1: &mut Subject| n1.run(Input::LeaveJoint { id: RequestId(2) });
    assert_eq!(refusal(&leave(&mut n1)), Some(Refusal::ChangeUnderWay));
    n1.receive(2, 2, accepted(3));
    assert!(n1.status().membership.is_joint());
    assert_eq!(refusal(&change(&mut n1, &[remove(2)])), Some(Refusal::Change(ChangeError::Joint)));
    assert_eq!(refusal(&leave(&mut n1)), None);
    assert_eq!(n1.status().membership, of(&[1, 2], &[3]));
    assert_eq!(refusal(&leave(&mut n1)), Some(Refusal::ChangeUnderWay));
}

/// Thesis §4.3 on restarts: both halves are in force again.
#[test]
fn section_4_3_a_joint_configuration_survives_a_restart() {
    let mut stored = Stored::first(of(&[1, 2, 3], &[]));
    stored.entries.push(Entry { id: id(2, 1), payload: Payload::Membership(joint(&[1], &[1, 2, 3], &[]).into()) });
    let mut n1 = Subject::start(stored);
    n1.tick(2 * TIMEOUT);
    assert_eq!(role(&n1), RoleKind::PreCandidate, "alone it is a majority of the new configuration only");
    n1.step(receive(2, 1, pre_vote_reply(1)));
    assert_eq!(role(&n1), RoleKind::Candidate);
}
