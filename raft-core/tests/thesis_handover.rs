//! A test for each rule of Ongaro's thesis on handing leadership over (§3.10), on reads without the log (§6.4) and on leases (§6.4.1). The node
//! under test is `n1`.

mod common;

use std::collections::BTreeMap;

use raft_core::config::Config;
use raft_core::effect::{Effect, Refusal, RoleKind};
use raft_core::input::{Input, ReadMode};
use raft_core::membership::Membership;
use raft_core::message::Message;
use raft_core::port::Stored;
use raft_core::types::{EntryId, Index, Member, Moment, NodeId, ReadToken, RequestId, Term};

use common::{ME, Subject, accepted, accepted_in, append, id, sent, served, stored};

const REFUSED: Message = Message::RequestVoteReply { granted: false };
const GRANTED: Message = Message::RequestVoteReply { granted: true };
const TIMEOUT: u32 = 15;

/// The leader of three nodes in term 2, whose first entry `2@2` is committed; n3 has nothing of it yet.
fn leader(config: Config) -> Subject {
    let mut n1 = Subject::with(config, stored(3, &[1]), EntryId::ZERO);
    n1.tick(TIMEOUT);
    if n1.status().role == RoleKind::Follower {
        n1.win();
    } else {
        n1.with_pre_votes();
        n1.receive(2, n1.term(), GRANTED);
    }
    n1.receive(2, 2, accepted(2));
    assert_eq!((n1.status().role, n1.status().commit_index), (RoleKind::Leader, Index(2)));
    n1
}

fn leased() -> Config {
    Config { lease: Some(10), ..Config::new(ME) }
}

fn transfer(n1: &mut Subject, request: u64, to: u64) -> Vec<Effect> {
    n1.run(Input::TransferLeadership { id: RequestId(request), to: NodeId(to) })
}

fn lease_read(n1: &mut Subject, request: u64, now: u64) -> Vec<Effect> {
    n1.run(Input::Read { id: RequestId(request), mode: ReadMode::Lease { now: Moment(now) } })
}

fn refused(effects: &[Effect]) -> Vec<(u64, Refusal)> {
    let refusal = |effect: &Effect| match effect {
        Effect::Refuse { id, reason, .. } => Some((id.0, *reason)),
        _ => None,
    };
    effects.iter().filter_map(refusal).collect()
}

fn stepped_down(effects: &[Effect]) -> Vec<u64> {
    let id = |effect: &Effect| match effect {
        Effect::SteppedDown { id } => Some(id.0),
        _ => None,
    };
    effects.iter().filter_map(id).collect()
}

fn tells(effects: &[Effect], to: u64) -> bool {
    sent(effects).contains(&(to, Message::TimeoutNow))
}

fn vote(last: EntryId, transfer: bool) -> Message {
    Message::RequestVote { last, transfer }
}

/// Thesis §3.10: "The prior leader stops accepting new client requests", and "fully updates the target server's log to match its own".
#[test]
fn section_3_10_the_target_catches_up_and_no_writes_come_in() {
    let mut n1 = leader(Config::new(ME));
    assert!(!tells(&transfer(&mut n1, 1, 3), 3), "n3 lacks an entry");
    assert_eq!(n1.status().transferring_to, Some(NodeId(3)));
    assert_eq!(refused(&n1.propose(2)), [(2, Refusal::Transferring)]);
    assert!(tells(&n1.receive(3, 2, accepted(2)), 3));
    assert!(!tells(&n1.receive(3, 2, accepted(2)), 3), "once is enough, until the next heartbeat");
}

/// Thesis §3.10: the target "starts a new election", as if its timeout had elapsed, and here without a pre-vote.
#[test]
fn section_3_10_the_target_stands_at_once() {
    let mut n1 = Subject::start(stored(3, &[1]));
    let effects = n1.step(common::receive(2, 1, Message::TimeoutNow));
    assert_eq!(sent(&effects), [], "its vote for itself is not durable");
    assert_eq!((n1.status().role, n1.term()), (RoleKind::Candidate, 2));
    let asks = vote(id(1, 1), true);
    assert_eq!(sent(&n1.confirm()), [(2, asks.clone()), (3, asks)]);
}

/// A node without a vote obeys nobody who tells it to stand.
#[test]
fn section_3_10_learners_neither_succeed_nor_stand() {
    let members: BTreeMap<NodeId, Member> = (1..=3).map(|id| (NodeId(id), Member::default())).collect();
    let of = |voters: &[u64], learners: &[u64]| Membership {
        voters: voters.iter().copied().map(NodeId).collect(),
        learners: learners.iter().copied().map(NodeId).collect(),
        ..Membership::of_voters(members.clone())
    };
    let mut learner = Subject::start(Stored::first(of(&[2, 3], &[1])));
    learner.receive(2, 1, Message::TimeoutNow);
    learner.run(Input::Campaign);
    assert_eq!((learner.status().role, learner.term()), (RoleKind::Follower, 1));

    let mut n1 = Subject::start(Stored::first(of(&[1, 2], &[3])));
    n1.win();
    for to in [1, 3, 4] {
        assert_eq!(refused(&transfer(&mut n1, to, to)), [(to, Refusal::NoSuccessor(NodeId(to)))]);
    }
}

/// Thesis §3.10 and §4.2.3: the flag lets voters depose a leader that they still hear; without it they don't.
#[test]
fn section_3_10_voters_let_the_target_through() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.receive(2, 1, append(id(1, 1), &[], 0));
    assert_eq!(sent(&n1.receive(3, 2, vote(id(1, 1), false))), []);
    assert_eq!(sent(&n1.receive(3, 2, vote(id(1, 1), true))), [(3, GRANTED)]);
    assert_eq!(sent(&n1.receive(2, 2, vote(id(1, 1), true))), [(2, REFUSED)], "one vote a term, flag or not");
}

/// Thesis §3.10: "If leadership transfer does not complete after about an election timeout, the prior leader aborts the transfer and resumes accepting
/// client requests."
#[test]
fn section_3_10_a_transfer_is_given_up_after_an_election_timeout() {
    let mut n1 = leader(Config::new(ME));
    n1.receive(3, 2, accepted(1));
    transfer(&mut n1, 1, 3);
    assert_eq!(refused(&n1.tick(TIMEOUT - 1)), []);
    n1.receive(2, 2, accepted(2));
    assert_eq!(refused(&n1.tick(1)), [(1, Refusal::TransferTimedOut)]);
    assert_eq!(refused(&n1.propose(2)), []);
    assert_eq!(stepped_down(&n1.receive(2, 3, REFUSED)), [] as [u64; 0], "the transfer has had its outcome");
}

/// A transfer ends in `SteppedDown` when this node does not lead any more, and in nothing else.
#[test]
fn section_3_10_a_transfer_has_one_outcome() {
    let mut n1 = leader(Config::new(ME));
    transfer(&mut n1, 1, 3);
    let effects = n1.receive(3, 3, vote(id(2, 2), true));
    assert_eq!((stepped_down(&effects), refused(&effects)), (vec![1], vec![]));

    let mut told = leader(Config::new(ME));
    transfer(&mut told, 1, 3);
    let effects = told.run(Input::StepDown { id: RequestId(2) });
    assert_eq!((stepped_down(&effects), refused(&effects)), (vec![1, 2], vec![]));
}

/// Thesis §6.4, and for followers: "the follower would issue its own request to the leader asking for readIndex".
#[test]
fn section_6_4_a_follower_reads_at_the_index_that_the_leader_has_confirmed() {
    let mut n1 = Subject::start(stored(3, &[1, 1]));
    n1.receive(2, 1, append(id(2, 1), &[], 1));
    let asked = sent(&n1.read(1));
    let [(2, Message::ReadIndex { token })] = asked[..] else { panic!("{asked:?}") };
    let answer = |token, index| Message::ReadIndexReply { token, index: Some(Index(index)) };
    assert_eq!(served(&n1.receive(3, 1, answer(token, 2))), [], "n3 does not lead");
    assert_eq!(served(&n1.receive(2, 1, answer(ReadToken(token.0 - 1), 2))), [], "another question");
    assert_eq!(served(&n1.receive(2, 1, answer(token, 2))), [(1, 2)]);
    assert_eq!(served(&n1.receive(2, 1, answer(token, 2))), [], "once");
}

/// Names of questions differ between starts, so that no answer of an earlier life fits.
#[test]
fn section_6_4_questions_have_names_of_their_own_at_each_start() {
    let token = |seed| {
        let mut n1 = Subject::with(Config { seed, ..Config::new(ME) }, stored(3, &[1]), EntryId::ZERO);
        n1.receive(2, 1, append(id(1, 1), &[], 0));
        sent(&n1.read(1))
    };
    assert_eq!(token(1), token(1));
    assert_ne!(token(1), token(2));
}

/// Thesis §6.4.1: within the lease, a leader "can service read-only queries without communicating".
#[test]
fn section_6_4_1_a_confirmed_round_gives_a_lease_from_its_beginning() {
    let mut n1 = leader(leased());
    assert_eq!(served(&lease_read(&mut n1, 1, 100)), [], "nobody has promised anything yet");
    assert_eq!(served(&n1.receive(2, 2, accepted_in(1, 2))), [(1, 2)]);
    assert_eq!(served(&lease_read(&mut n1, 2, 109)), [(2, 2)]);
    assert_eq!(served(&lease_read(&mut n1, 3, 110)), [], "counted from when the round began");
    assert_eq!(served(&lease_read(&mut n1, 4, 105)), [], "time never falls");
}

/// Thesis §6.4.1: "the leader's lease would also be expired early" by a transfer, for `TimeoutNow` may arrive at any later time.
#[test]
fn section_6_4_1_a_transfer_ends_leases_for_the_term() {
    let mut n1 = leader(leased());
    lease_read(&mut n1, 1, 100);
    n1.receive(2, 2, accepted_in(1, 2));
    n1.receive(3, 2, accepted_in(1, 2));
    transfer(&mut n1, 2, 3);
    assert_eq!(served(&lease_read(&mut n1, 3, 101)), []);
    assert_eq!(served(&n1.receive(2, 2, accepted_in(2, 2))), [(3, 2)], "a quorum still serves");
    n1.tick(TIMEOUT - 1);
    n1.receive(2, 2, accepted_in(2, 2));
    assert_eq!(refused(&n1.tick(1)), [(2, Refusal::TransferTimedOut)]);
    assert_eq!(served(&lease_read(&mut n1, 4, 102)), [], "TimeoutNow may still be under way");
}

/// A leader that has not committed in its term does not know what is committed, lease or not.
#[test]
fn section_6_4_1_no_lease_read_before_the_term_has_committed() {
    let mut n1 = Subject::with(leased(), stored(3, &[1, 1]), EntryId::ZERO);
    n1.win();
    lease_read(&mut n1, 1, 100);
    n1.receive(2, 2, accepted_in(1, 2));
    assert_eq!(served(&lease_read(&mut n1, 2, 101)), []);
    assert_eq!(served(&n1.receive(2, 2, accepted_in(1, 3)))[..1], [(1, 3)]);
}

/// Thesis §6.4.1 rests on voters that have forgotten nothing: one that has just started may have heard from a leader just before.
#[test]
fn section_6_4_1_voters_help_nobody_just_after_their_start() {
    let pre_vote = Message::RequestPreVote { last: id(1, 1) };
    let answers =
        |n1: &mut Subject| (sent(&n1.receive(3, 1, pre_vote.clone())), sent(&n1.receive(3, 2, vote(id(1, 1), false))));
    let reply = |granted| vec![(3, Message::RequestPreVoteReply { request_term: Term(1), granted })];
    let mut n1 = Subject::with(leased(), stored(3, &[1]), EntryId::ZERO);
    n1.run(Input::Campaign);
    assert_eq!(n1.status().role, RoleKind::Follower, "nor itself");
    n1.tick(TIMEOUT - 1);
    assert_eq!(answers(&mut n1), (reply(false), vec![]));
    n1.tick(1);
    assert_eq!(answers(&mut n1), (reply(true), vec![(3, GRANTED)]));

    let mut without = Subject::start(stored(3, &[1]));
    assert_eq!(answers(&mut without), (reply(true), vec![(3, GRANTED)]));
}

/// A promise outlives the term in which it was made: a late reply of a higher term must not set the voter free.
#[test]
fn section_6_4_1_a_higher_term_does_not_end_a_promise() {
    let mut n1 = Subject::with(leased(), stored(3, &[1]), EntryId::ZERO);
    n1.tick(5);
    n1.receive(2, 1, append(id(1, 1), &[], 0));
    n1.receive(3, 4, REFUSED);
    assert_eq!((n1.term(), n1.status().leader), (4, None));
    assert_eq!(sent(&n1.receive(3, 4, vote(id(1, 1), false))), []);
    assert_eq!(sent(&n1.receive(3, 5, vote(id(1, 1), false))), []);
    n1.run(Input::Campaign);
    assert_eq!(n1.status().role, RoleKind::Follower);
    assert_eq!(sent(&n1.receive(3, 5, vote(id(1, 1), true))), [(3, GRANTED)], "the leader itself wants it");
}
