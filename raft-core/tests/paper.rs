//! A test for each rule of Figure 2 of the Raft paper (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm",
//! extended version), in the figure's order, and for what later sections and Ongaro's thesis add. The node under test is `n1`.

mod common;

use std::collections::BTreeSet;

use raft_core::config::Config;
use raft_core::effect::{Effect, Persist, Refusal, RoleKind};
use raft_core::input::Input;
use raft_core::membership::Membership;
use raft_core::message::{AppendEntries, AppendEntriesReply, AppendResult, Message};
use raft_core::port::Stored;
use raft_core::types::{EntryId, HardState, Index, NodeId, Payload, RequestId, Round, Term, WriteId};

use common::{
    ME, Subject, accepted, accepted_in, append, applied, command, id, receive, rejected, sent, served, stored,
    stored_in, voters, writes,
};

const GRANTED: Message = Message::RequestVoteReply { granted: true };
const REFUSED: Message = Message::RequestVoteReply { granted: false };

fn request_vote(last: EntryId) -> Message {
    Message::RequestVote { last, transfer: false }
}

fn request_pre_vote(last: EntryId) -> Message {
    Message::RequestPreVote { last }
}

fn pre_vote_reply(request_term: u64, granted: bool) -> Message {
    Message::RequestPreVoteReply { request_term: Term(request_term), granted }
}

/// The requests to store entries among effects: to whom, the entry before them, and their ids.
fn appends(effects: &[Effect]) -> Vec<(u64, EntryId, Vec<EntryId>)> {
    let append = |(to, message)| match message {
        Message::AppendEntries(AppendEntries { prev, entries, .. }) => {
            Some((to, prev, entries.iter().map(|entry| entry.id).collect()))
        }
        _ => None,
    };
    sent(effects).into_iter().filter_map(append).collect()
}

/// The answers to requests to store entries.
fn results(effects: &[Effect]) -> Vec<AppendResult> {
    let result = |(_, message)| match message {
        Message::AppendEntriesReply(AppendEntriesReply { result, .. }) => Some(result),
        _ => None,
    };
    sent(effects).into_iter().filter_map(result).collect()
}

/// The rounds that an effect's `AppendEntries` carry.
fn rounds(effects: &[Effect]) -> BTreeSet<Round> {
    let round = |(_, message)| match message {
        Message::AppendEntries(append) => Some(append.round),
        _ => None,
    };
    sent(effects).into_iter().filter_map(round).collect()
}

fn has_matched(index: u64) -> AppendResult {
    AppendResult::Accepted { matched: Index(index) }
}

/// The log that a follower has, seen through what it can acknowledge.
fn holds(subject: &mut Subject, last: EntryId) -> bool {
    let leader = subject.status().leader.map_or(2, |leader| leader.0);
    let effects = subject.receive(leader, subject.term(), append(last, &[], 0));
    results(&effects) == [has_matched(last.index.0)]
}

// ---------------------------------------------------------------------------------------------------------------- State

/// Figure 2, State: "Persistent state on all servers (updated on stable storage before responding to RPCs)": the term.
#[test]
fn state_current_term_is_durable_before_the_response() {
    let mut n1 = Subject::start(stored(3, &[1]));
    let effects = n1.step(receive(2, 5, append(id(1, 1), &[], 0)));
    assert_eq!(writes(&effects)[0].hard_state, Some(HardState { term: Term(5), vote: None }));
    assert_eq!(sent(&effects), [], "nothing is said of term 5 yet");
    assert_eq!(results(&n1.confirm()), [has_matched(1)]);
}

/// Figure 2, State: `votedFor` is durable before the vote leaves.
#[test]
fn state_voted_for_is_durable_before_the_response() {
    let mut n1 = Subject::start(stored(3, &[1]));
    let effects = n1.step(receive(2, 2, request_vote(id(1, 1))));
    assert_eq!(writes(&effects)[0].hard_state, Some(HardState { term: Term(2), vote: Some(NodeId(2)) }));
    assert_eq!(sent(&effects), [], "the vote could still be lost");
    assert_eq!(sent(&n1.confirm()), [(2, GRANTED)]);

    let mut in_its_term = Subject::start(stored_in(3, &[1], 2, None));
    let effects = in_its_term.step(receive(2, 2, request_vote(id(1, 1))));
    assert_eq!(writes(&effects)[0].hard_state, Some(HardState { term: Term(2), vote: Some(NodeId(2)) }));
    assert_eq!(sent(&effects), [], "the term is durable, but not the vote");
}

/// Figure 2, State: `log[]` is durable before its entries are acknowledged.
#[test]
fn state_log_is_durable_before_the_response() {
    let mut n1 = Subject::start(stored(3, &[1]));
    let effects = n1.step(receive(2, 1, append(id(1, 1), &[1, 1], 0)));
    assert_eq!(writes(&effects)[0].entries[..], [command(2, 1), command(3, 1)]);
    assert_eq!(results(&effects), [], "the entries could still be lost");
    assert_eq!(results(&n1.confirm()), [has_matched(3)]);
}

/// Figure 2, State: a heartbeat acknowledges what is durable by then; what is still being written follows.
#[test]
fn state_heartbeats_acknowledge_only_what_is_durable() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.step(receive(2, 1, append(id(1, 1), &[1, 1], 0)));
    assert_eq!(results(&n1.step(receive(2, 1, append(id(3, 1), &[], 0)))), [has_matched(1)]);
    assert_eq!(results(&n1.confirm()), [has_matched(3)]);
}

/// Figure 2, State: term, vote and log survive a restart. The first index is 1.
#[test]
fn state_persistent_state_is_restored() {
    let mut n1 = Subject::start(stored_in(3, &[1, 1, 2], 4, Some(3)));
    let status = n1.status();
    assert_eq!((status.term, status.last_index, status.durable_index), (Term(4), Index(3), Index(3)));
    assert_eq!(status.membership.voters.len(), 3, "the membership is the entry at index 1");
    assert_eq!(sent(&n1.receive(2, 4, request_vote(id(3, 2)))), [(2, REFUSED)], "its vote went to n3");
    assert_eq!(sent(&n1.receive(3, 4, request_vote(id(3, 2)))), [(3, GRANTED)]);
}

/// Figure 2, State: `commitIndex` and `lastApplied` are "initialized to 0, increase monotonically". Here they start where the
/// state machine is, for that is durable.
#[test]
fn state_commit_index_and_last_applied_start_at_zero_and_never_fall() {
    let mut n1 = Subject::start(stored(3, &[1, 1, 1]));
    assert_eq!((n1.status().commit_index, n1.status().applied_index), (Index(0), Index(0)));
    n1.receive(2, 1, append(id(3, 1), &[], 3));
    n1.receive(2, 1, append(id(3, 1), &[], 1));
    assert_eq!(n1.status().commit_index, Index(3));
    n1.step(Input::Applied(Index(3)));
    n1.step(Input::Applied(Index(1)));
    assert_eq!(n1.status().applied_index, Index(3));

    let restarted = Subject::with(Config::new(ME), stored(3, &[1, 1, 1]), id(2, 1));
    assert_eq!((restarted.status().commit_index, restarted.status().applied_index), (Index(2), Index(2)));
}

/// Figure 2, State: "Volatile state on leaders (reinitialized after election)": `nextIndex` to the last index + 1, `matchIndex` to 0.
#[test]
fn state_next_index_and_match_index_are_reinitialized_after_election() {
    let mut n1 = Subject::start(stored(3, &[1, 1, 1]));
    for last_index in [3, 4] {
        n1.win();
        let followers = n1.status().followers;
        assert_eq!(followers.len(), 2);
        for follower in followers {
            assert_eq!((follower.next_index, follower.match_index), (Index(last_index + 1), Index(0)));
        }
        n1.receive(2, n1.term(), accepted(last_index + 1));
        n1.receive(3, n1.term() + 1, REFUSED);
    }
}

// ---------------------------------------------------------------------------------- AppendEntries RPC, receiver implementation

/// Figure 2, AppendEntries 1: "Reply false if term < currentTerm".
#[test]
fn append_entries_1_of_an_old_term_is_refused() {
    let mut n1 = Subject::start(stored_in(3, &[1], 3, None));
    let effects = n1.receive(2, 2, append(id(1, 1), &[2], 2));
    assert!(matches!(results(&effects)[..], [AppendResult::Rejected { .. }]));
    assert_eq!((n1.status().last_index, n1.status().commit_index, n1.status().leader), (Index(1), Index(0), None));
}

/// Figure 2, AppendEntries 2: "Reply false if log doesn't contain an entry at prevLogIndex".
#[test]
fn append_entries_2_after_a_gap_is_refused() {
    let mut n1 = Subject::start(stored(3, &[1]));
    let effects = n1.receive(2, 1, append(id(3, 1), &[1], 0));
    assert_eq!(results(&effects), [AppendResult::Rejected { prev: Index(3), hint: id(1, 1) }]);
    assert_eq!(n1.status().last_index, Index(1));
}

/// Figure 2, AppendEntries 2: … "whose term matches prevLogTerm".
#[test]
fn append_entries_2_after_an_entry_of_another_term_is_refused() {
    let mut n1 = Subject::start(stored(3, &[1, 2]));
    let effects = n1.receive(2, 3, append(id(2, 3), &[3], 0));
    assert_eq!(results(&effects), [AppendResult::Rejected { prev: Index(2), hint: id(2, 2) }]);
    assert_eq!(n1.status().last_index, Index(2));
}

/// Figure 2, AppendEntries 3: "If an existing entry conflicts with a new one […], delete the existing entry and all that follow it".
#[test]
fn append_entries_3_deletes_what_conflicts_and_all_that_follows() {
    let mut n1 = Subject::start(stored(3, &[1, 1, 2, 2, 2]));
    let effects = n1.receive(2, 3, append(id(2, 1), &[3], 0));
    assert_eq!(writes(&effects)[0].truncate_from, Some(Index(3)), "truncation and append are one write");
    assert_eq!(writes(&effects)[0].entries[..], [command(3, 3)]);
    assert_eq!(results(&effects), [has_matched(3)]);
    assert_eq!(n1.status().last_index, Index(3));
}

/// Figure 2, AppendEntries 3: without a conflict nothing is deleted, so a late message can't undo a newer one.
#[test]
fn append_entries_3_deletes_nothing_without_a_conflict() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.receive(2, 1, append(id(1, 1), &[1, 1, 1], 0));
    let late = n1.receive(2, 1, append(id(1, 1), &[1], 0));
    assert_eq!(writes(&late).len(), 0);
    assert_eq!(n1.status().last_index, Index(4));
    assert!(holds(&mut n1, id(4, 1)));
}

/// Figure 2, AppendEntries 4: "Append any new entries not already in the log".
#[test]
fn append_entries_4_appends_only_what_is_new() {
    let mut n1 = Subject::start(stored(3, &[1, 1]));
    let effects = n1.receive(2, 1, append(id(1, 1), &[1, 1], 0));
    let [write] = writes(&effects)[..] else { panic!("one write") };
    assert_eq!((write.truncate_from, &write.entries[..]), (None, &[command(3, 1)][..]));
    assert_eq!(results(&effects), [has_matched(3)]);
}

/// Figure 2, AppendEntries 4: what is acknowledged is what this leader is known to have; an old tail beyond it is not.
#[test]
fn append_entries_4_acknowledges_no_unmatched_tail() {
    let mut n1 = Subject::start(stored(3, &[1, 1, 2, 2]));
    assert_eq!(results(&n1.receive(2, 3, append(id(1, 1), &[1], 0))), [has_matched(2)]);
    assert_eq!(results(&n1.receive(2, 3, append(id(1, 1), &[], 0))), [has_matched(2)]);
}

/// Figure 2, AppendEntries 5: "set commitIndex = min(leaderCommit, index of last new entry)".
#[test]
fn append_entries_5_commits_what_the_leader_has_committed() {
    for (leader_commit, commit_index) in [(2, 2), (3, 3), (9, 3)] {
        let mut n1 = Subject::start(stored(3, &[1]));
        n1.receive(2, 1, append(id(1, 1), &[1, 1], leader_commit));
        assert_eq!(n1.status().commit_index, Index(commit_index), "with leaderCommit {leader_commit}");
    }
}

/// Figure 2, AppendEntries 5: "last new entry" is the last that this message has shown to match; an old tail beyond it may differ
/// from what the leader has committed there.
#[test]
fn append_entries_5_commits_no_unmatched_tail() {
    let mut n1 = Subject::start(stored(3, &[1, 1, 2, 2]));
    n1.receive(2, 3, append(id(2, 1), &[], 4));
    assert_eq!(n1.status().commit_index, Index(2));
}

// ------------------------------------------------------------------------------------ RequestVote RPC, receiver implementation

/// Figure 2, RequestVote 1: "Reply false if term < currentTerm".
#[test]
fn request_vote_1_of_an_old_term_is_refused() {
    let mut n1 = Subject::start(stored_in(3, &[1], 3, None));
    assert_eq!(sent(&n1.receive(2, 2, request_vote(id(9, 2)))), [(2, REFUSED)]);
    assert_eq!(n1.term(), 3);
}

/// Figure 2, RequestVote 2: a vote is granted "if votedFor is null or candidateId": first come, first served.
#[test]
fn request_vote_2_one_vote_a_term() {
    let mut n1 = Subject::start(stored(3, &[1]));
    assert_eq!(sent(&n1.receive(2, 2, request_vote(id(1, 1)))), [(2, GRANTED)]);
    assert_eq!(sent(&n1.receive(3, 2, request_vote(id(1, 1)))), [(3, REFUSED)]);
    assert_eq!(sent(&n1.receive(2, 2, request_vote(id(1, 1)))), [(2, GRANTED)], "the first reply may be lost");
    assert_eq!(sent(&n1.receive(3, 3, request_vote(id(1, 1)))), [(3, GRANTED)], "a new term, a new vote");
}

/// Figure 2, RequestVote 2, and §5.4.1: only for a log "at least as up-to-date as receiver's": the later last term wins, and in the
/// same term the longer log.
#[test]
fn request_vote_2_only_for_a_log_as_recent() {
    for (last, reply) in
        [(id(3, 2), GRANTED), (id(4, 2), GRANTED), (id(1, 3), GRANTED), (id(2, 2), REFUSED), (id(9, 1), REFUSED)]
    {
        let mut n1 = Subject::start(stored(3, &[1, 1, 2]));
        assert_eq!(sent(&n1.receive(2, 4, request_vote(last))), [(2, reply)], "for a log that ends with {last}");
    }
}

// -------------------------------------------------------------------------------------------------- Rules for all servers

/// Figure 2, all servers: "If commitIndex > lastApplied: increment lastApplied, apply log[lastApplied]": in order, each once.
#[test]
fn all_servers_apply_what_is_committed_in_order_and_once() {
    let mut n1 = Subject::start(stored(3, &[1, 1, 1]));
    assert_eq!(applied(&n1.receive(2, 1, append(id(3, 1), &[], 2))), [id(1, 1), id(2, 1)]);
    assert_eq!(applied(&n1.receive(2, 1, append(id(3, 1), &[], 2))), []);
    assert_eq!(applied(&n1.receive(2, 1, append(id(3, 1), &[1], 4))), [id(3, 1), id(4, 1)]);
}

/// Figure 2, all servers, with durable states: an entry is applied only once it is durable here, so that no state is ahead of its log.
#[test]
fn all_servers_apply_only_what_is_durable() {
    let mut n1 = Subject::start(stored(3, &[1]));
    let effects = n1.step(receive(2, 1, append(id(1, 1), &[1], 2)));
    assert_eq!((applied(&effects), n1.status().commit_index), (vec![id(1, 1)], Index(2)));
    assert_eq!(applied(&n1.confirm()), [id(2, 1)]);
}

/// Figure 2, all servers: "If RPC request or response contains term T > currentTerm: set currentTerm = T, convert to follower".
#[test]
fn all_servers_follow_a_higher_term() {
    let messages = [append(id(1, 1), &[], 0), accepted(1), REFUSED, pre_vote_reply(9, false)];
    for message in messages {
        for role in [RoleKind::Follower, RoleKind::PreCandidate, RoleKind::Candidate, RoleKind::Leader] {
            let mut n1 = Subject::start(stored(3, &[1]));
            match role {
                RoleKind::Follower => (),
                RoleKind::PreCandidate => drop(n1.await_timeout()),
                RoleKind::Candidate => drop(n1.campaign()),
                RoleKind::Leader => drop(n1.win()),
            }
            assert_eq!(n1.status().role, role);
            n1.receive(2, 9, message.clone());
            assert_eq!((n1.status().role, n1.term()), (RoleKind::Follower, 9), "a {role}, after {message:?}");
        }
    }
}

/// Figure 2, all servers: a request for a vote of a higher term makes a follower, too, unless it hears from a leader (§6).
#[test]
fn all_servers_follow_the_higher_term_of_a_candidate() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.campaign();
    let effects = n1.receive(2, 7, request_vote(id(1, 1)));
    assert_eq!((n1.status().role, n1.term()), (RoleKind::Follower, 7));
    assert_eq!(sent(&effects), [(2, GRANTED)]);
}

// ------------------------------------------------------------------------------------------------------ Rules for followers

/// Figure 2, followers: "Respond to RPCs from candidates and leaders".
#[test]
fn followers_respond_to_candidates_and_leaders() {
    let mut n1 = Subject::start(stored(3, &[1]));
    assert_eq!(sent(&n1.receive(2, 1, request_pre_vote(id(1, 1)))), [(2, pre_vote_reply(1, true))]);
    assert_eq!(sent(&n1.receive(2, 2, request_vote(id(1, 1)))), [(2, GRANTED)]);
    assert_eq!(sent(&n1.receive(2, 2, append(id(1, 1), &[], 0))), [(2, accepted(1))]);
}

/// Figure 2, followers: "If election timeout elapses without receiving AppendEntries RPC from current leader or granting vote to
/// candidate: convert to candidate".
#[test]
fn followers_stand_for_election_after_the_timeout() {
    let (ticks, _) = Subject::start(stored(3, &[1])).await_timeout();
    assert!((15..30).contains(&ticks), "after {ticks} ticks");
}

/// Figure 2, followers: each `AppendEntries` of the leader restarts the timeout.
#[test]
fn followers_wait_while_they_hear_from_the_leader() {
    let mut n1 = Subject::start(stored(3, &[1]));
    for _ in 0..20 {
        n1.receive(2, 1, append(id(1, 1), &[], 0));
        n1.tick(14);
        assert_eq!(n1.status().role, RoleKind::Follower);
    }
    let (ticks, _) = n1.await_timeout();
    assert!(ticks + 14 >= 15);
}

/// Figure 2, followers: granting a vote restarts the timeout; refusing one doesn't.
#[test]
fn followers_wait_after_granting_a_vote() {
    let mut n1 = Subject::start(stored(3, &[1, 1]));
    for term in 2..20 {
        n1.receive(2, term, request_vote(id(2, 1)));
        n1.tick(14);
        assert_eq!(n1.status().role, RoleKind::Follower);
    }
    let mut refusing = Subject::start(stored_in(3, &[1, 1], 2, None));
    let stands = (0..30).any(|_| {
        refusing.receive(2, 2, request_vote(id(1, 1)));
        refusing.tick(1);
        refusing.status().role == RoleKind::PreCandidate
    });
    assert!(stands, "a candidate that can't win holds up nobody");
}

// ----------------------------------------------------------------------------------------------------- Rules for candidates

/// Figure 2, candidates: "On conversion to candidate, start election: increment currentTerm, vote for self, […] send RequestVote RPCs to
/// all other servers". The requests leave once the vote is durable.
#[test]
fn candidates_start_an_election() {
    let mut n1 = Subject::start(stored(3, &[1, 1]));
    n1.await_timeout();
    let effects = n1.step(receive(2, 1, pre_vote_reply(1, true)));
    assert_eq!(writes(&effects)[0].hard_state, Some(HardState { term: Term(2), vote: Some(ME) }));
    assert_eq!(sent(&effects), [], "its own vote could still be lost");
    n1.step(Input::Persisted(WriteId(0)));
    n1.step(receive(2, 2, GRANTED));
    assert_eq!(n1.status().role, RoleKind::Candidate, "and so does not count yet");
    let requests = sent(&n1.confirm());
    assert_eq!(requests[..2], [(2, request_vote(id(2, 1))), (3, request_vote(id(2, 1)))]);
    assert_eq!(n1.status().role, RoleKind::Leader, "both votes count now");
}

/// Figure 2, candidates: … "reset election timer".
#[test]
fn candidates_reset_their_election_timer() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.campaign();
    n1.tick(14);
    assert_eq!(n1.status().role, RoleKind::Candidate);
}

/// Figure 2, candidates: "If votes received from majority of servers: become leader".
#[test]
fn candidates_lead_with_a_majority() {
    let mut n1 = Subject::start(stored(5, &[1]));
    n1.campaign();
    n1.receive(2, 2, GRANTED);
    n1.receive(2, 2, GRANTED);
    n1.receive(9, 2, GRANTED);
    n1.receive(3, 2, REFUSED);
    assert_eq!(n1.status().role, RoleKind::Candidate, "two of five, a stranger, and a repetition");
    n1.receive(4, 2, GRANTED);
    assert_eq!((n1.status().role, n1.status().leader), (RoleKind::Leader, Some(ME)));
}

/// Figure 2, candidates: votes of an older term don't count, nor do pre-votes.
#[test]
fn candidates_count_the_votes_of_their_term() {
    let mut n1 = Subject::start(stored_in(3, &[1], 2, None));
    n1.campaign();
    n1.receive(3, 2, GRANTED);
    n1.receive(3, 3, pre_vote_reply(3, true));
    n1.receive(3, 2, pre_vote_reply(2, true));
    assert_eq!((n1.status().role, n1.term()), (RoleKind::Candidate, 3));
}

/// Figure 2, candidates, and §5.2: the only node of a cluster is its own majority, once its vote is durable.
#[test]
fn candidates_without_peers_lead_once_their_vote_is_durable() {
    let mut n1 = Subject::start(stored(1, &[1]));
    while n1.status().role == RoleKind::Follower {
        n1.step(Input::Tick);
    }
    assert_eq!((n1.status().role, n1.term()), (RoleKind::Candidate, 2));
    n1.confirm();
    assert_eq!(n1.status().role, RoleKind::Leader);
}

/// Figure 2, candidates: "If AppendEntries RPC received from new leader: convert to follower". It keeps its vote.
#[test]
fn candidates_follow_the_leader_of_their_term() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.campaign();
    let effects = n1.receive(2, 2, append(id(1, 1), &[2], 0));
    assert_eq!((n1.status().role, n1.status().leader, n1.term()), (RoleKind::Follower, Some(NodeId(2)), 2));
    assert_eq!(results(&effects), [has_matched(2)]);
    assert_eq!(sent(&n1.receive(3, 2, request_vote(id(9, 1)))), [(3, REFUSED)]);
}

/// Figure 2, candidates: "If election timeout elapses: start new election".
#[test]
fn candidates_try_again_after_the_timeout() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.campaign();
    n1.await_timeout();
    n1.with_pre_votes();
    assert_eq!((n1.status().role, n1.term()), (RoleKind::Candidate, 3));
}

// -------------------------------------------------------------------------------------------------------- Rules for leaders

/// Figure 2, leaders: "Upon election: send initial empty AppendEntries RPCs (heartbeat) to each server". Here they carry the entry that
/// begins the term (§8).
#[test]
fn leaders_announce_themselves_at_once() {
    let mut n1 = Subject::start(stored(3, &[1, 1]));
    let effects = n1.win();
    assert_eq!(appends(&effects), [(2, id(2, 1), vec![id(3, 2)]), (3, id(2, 1), vec![id(3, 2)])]);
}

/// Figure 2, leaders: … "repeat during idle periods to prevent election timeouts".
#[test]
fn leaders_send_heartbeats() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.win();
    n1.receive(2, 2, accepted(2));
    n1.receive(3, 2, accepted(2));
    for _ in 0..10 {
        assert_eq!(appends(&n1.tick(5)), [(2, id(2, 2), vec![]), (3, id(2, 2), vec![])]);
        n1.receive(2, 2, accepted(2));
    }
}

/// Figure 2, leaders: "If command received from client: append entry to local log, respond after entry applied to state machine".
#[test]
fn leaders_append_commands_and_respond_once_applied() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.win();
    n1.receive(2, 2, accepted(2));
    let effects = n1.propose(7);
    assert!(effects.contains(&Effect::Appended { id: RequestId(7), first: id(3, 2), count: 1 }));
    assert_eq!(applied(&effects), []);
    assert_eq!(applied(&n1.receive(2, 2, accepted(3))), [id(3, 2)], "which is the outcome of request 7");
}

/// Figure 2, leaders: "If last log index ≥ nextIndex for a follower: send AppendEntries RPC with log entries starting at nextIndex".
#[test]
fn leaders_send_each_follower_what_it_lacks() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.win();
    n1.receive(2, 2, accepted(2));
    assert_eq!(appends(&n1.propose(1)), [(2, id(2, 2), vec![id(3, 2)])], "n3 has not answered the first message yet");
    assert_eq!(
        appends(&n1.propose(2)),
        [(2, id(3, 2), vec![id(4, 2)])],
        "ahead of the acknowledgement (thesis §10.2.2)"
    );
    assert_eq!(appends(&n1.receive(3, 2, accepted(2))), [(3, id(2, 2), vec![id(3, 2), id(4, 2)])]);
}

/// Figure 2, leaders: "If successful: update nextIndex and matchIndex for follower". Late acknowledgements take nothing back.
#[test]
fn leaders_note_what_followers_have() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.win();
    n1.propose(1);
    for matched in [3, 2] {
        n1.receive(2, 2, accepted(matched));
        let follower = &n1.status().followers[0];
        assert_eq!((follower.match_index, follower.next_index), (Index(3), Index(4)), "after {matched}");
    }
}

/// Figure 2, leaders: acknowledgements of an older term say nothing of this one's log.
#[test]
fn leaders_ignore_acknowledgements_of_older_terms() {
    let mut n1 = Subject::start(stored_in(3, &[1], 2, None));
    n1.win();
    n1.receive(2, 2, accepted(2));
    assert_eq!((n1.status().commit_index, n1.status().followers[0].match_index), (Index(0), Index(0)));
}

/// Figure 2, leaders: "If AppendEntries fails because of log inconsistency: decrement nextIndex and retry".
#[test]
fn leaders_go_back_where_logs_differ() {
    let mut n1 = Subject::start(stored(3, &[1, 1, 1]));
    n1.win();
    let effects = n1.receive(2, 2, rejected(3, id(2, 1)));
    assert_eq!(appends(&effects), [(2, id(2, 1), vec![id(3, 1), id(4, 2)])]);
}

/// Figure 2, leaders: "If there exists an N such that N > commitIndex, a majority of matchIndex[i] ≥ N, and log[N].term == currentTerm:
/// set commitIndex = N".
#[test]
fn leaders_commit_what_a_majority_holds() {
    let mut n1 = Subject::start(stored(5, &[1]));
    n1.win();
    n1.propose(1);
    n1.receive(2, 2, accepted(3));
    assert_eq!(n1.status().commit_index, Index(0), "on two of five");
    n1.receive(3, 2, accepted(2));
    assert_eq!(n1.status().commit_index, Index(2), "three hold entry 2");
    n1.receive(4, 2, accepted(3));
    assert_eq!(n1.status().commit_index, Index(3));
}

/// Figure 2, leaders, and thesis §10.2.1: the leader's own disk is one of the majority only when it has finished; it need not be.
#[test]
fn leaders_count_themselves_once_durable() {
    let mut slow = Subject::start(stored(5, &[1]));
    slow.win();
    slow.step(common::propose(1));
    slow.step(receive(2, 2, accepted(3)));
    slow.step(receive(3, 2, accepted(3)));
    assert_eq!(slow.status().commit_index, Index(2), "entry 3 is on two disks of five");
    let effects = slow.step(receive(4, 2, accepted(3)));
    assert_eq!(slow.status().commit_index, Index(3), "three followers are a majority without the leader");
    assert_eq!(applied(&effects), [], "but its own state machine waits for its own disk");
    assert_eq!(applied(&slow.confirm()), [id(3, 2)]);
}

// -------------------------------------------------------------------------------------------------------- Beyond Figure 2

/// §5.2: "each server will vote for at most one candidate in a given term", also if it loses power in between.
#[test]
fn section_5_2_one_vote_a_term_over_restarts() {
    let mut before = Subject::start(stored(3, &[1]));
    let effects = before.receive(2, 2, request_vote(id(1, 1)));
    let hard_state = writes(&effects)[0].hard_state.expect("the vote is written");
    let mut after = Subject::start(Stored { hard_state, ..stored(3, &[1]) });
    assert_eq!(sent(&after.receive(3, 2, request_vote(id(1, 1)))), [(3, REFUSED)]);
}

/// §5.2: timeouts are drawn anew each time, "from a fixed interval", so that split votes are rare.
#[test]
fn section_5_2_timeouts_are_random() {
    let timeouts = |seed| {
        let config = Config { seed, ..Config::new(ME) };
        let mut n1 = Subject::with(config, stored(3, &[1]), EntryId::ZERO);
        (0..200).map(|_| n1.await_timeout().0).collect::<Vec<_>>()
    };
    let distinct: BTreeSet<u32> = timeouts(1).into_iter().collect();
    assert!(distinct.iter().all(|ticks| (15..30).contains(ticks)) && distinct.len() > 10, "{distinct:?}");
    assert_ne!(timeouts(1), timeouts(2), "nodes differ");
    assert_eq!(timeouts(1), timeouts(1), "a seed repeats itself");
}

/// §5.2: a vote that still waits for the disk dies with its term: only the newer one leaves.
#[test]
fn section_5_2_withheld_votes_die_with_their_term() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.step(receive(2, 2, request_vote(id(1, 1))));
    n1.step(receive(3, 3, request_vote(id(1, 1))));
    assert_eq!(sent(&n1.confirm()), [(3, GRANTED)]);
}

/// §5.3: a rejection skips all conflicting entries of a term at once: "one AppendEntries RPC will be required for each term with conflicting
/// entries, rather than one RPC per entry".
#[test]
fn section_5_3_rejections_skip_whole_terms() {
    let mut follower = Subject::start(stored(3, &[1, 2, 2, 2, 2]));
    let effects = follower.receive(2, 4, append(id(5, 1), &[4], 0));
    assert_eq!(
        results(&effects),
        [AppendResult::Rejected { prev: Index(5), hint: id(1, 1) }],
        "it has only entry 1 of term 1"
    );

    let mut leader = Subject::start(stored(3, &[1, 3, 3, 3, 3]));
    leader.win();
    let effects = leader.receive(2, 4, rejected(5, id(5, 2)));
    assert_eq!(appends(&effects)[0].1, id(1, 1), "its own entries of term 3 can't be those of term 2");
}

/// §5.4.2 and Figure 8: a leader does not commit an entry of an old term because a majority holds it. (c): S1 leads term 4 and has copied the entry of
/// term 2 to a majority; yet S5 can still win, and overwrite it, as in (d).
#[test]
fn figure_8_old_entries_are_not_committed_by_counting() {
    let mut s1 = Subject::start(stored_in(5, &[1, 2], 3, None));
    s1.win();
    assert_eq!(s1.term(), 4);
    s1.receive(2, 4, accepted(2));
    s1.receive(3, 4, accepted(2));
    assert_eq!(s1.status().commit_index, Index(0), "entry 2@2 is on S1, S2 and S3, and not committed");

    let s5_last = id(2, 3);
    let mut s2 = Subject::start(stored_in(5, &[1, 2], 4, Some(1)));
    assert_eq!(sent(&s2.receive(5, 5, request_vote(s5_last))), [(5, GRANTED)], "(d): S2 would vote for S5");
}

/// §5.4.2 and Figure 8 (e): an entry of the leader's own term commits all before it.
#[test]
fn figure_8_an_entry_of_the_own_term_commits_the_old_ones() {
    let mut s1 = Subject::start(stored_in(5, &[1, 2], 3, None));
    s1.win();
    s1.receive(2, 4, accepted(3));
    let effects = s1.receive(3, 4, accepted(3));
    assert_eq!(applied(&effects), [id(1, 1), id(2, 2), id(3, 4)]);

    let mut s2 = Subject::start(stored_in(5, &[1, 2, 4], 4, Some(1)));
    assert_eq!(sent(&s2.receive(5, 5, request_vote(id(2, 3)))), [(5, REFUSED)], "(e): now S5 can't win");
}

/// §5.4.3: what is committed is never overwritten; a leader that would do so proves that a node has lost its log.
#[test]
fn section_5_4_3_committed_entries_are_never_overwritten() {
    let mut n1 = Subject::start(stored(3, &[1, 1, 1]));
    n1.receive(2, 1, append(id(3, 1), &[], 3));
    let effects = n1.receive(3, 2, append(id(2, 1), &[2], 0));
    assert!(matches!(effects.last(), Some(Effect::Halt(_))), "{effects:?}");
    assert_eq!(n1.tick(100), [], "it does nothing any more");
}

/// §5.5: RPCs are idempotent: one that arrives twice is answered twice and changes nothing.
#[test]
fn section_5_5_messages_are_idempotent() {
    let mut n1 = Subject::start(stored(3, &[1]));
    let message = append(id(1, 1), &[1, 1], 2);
    assert_eq!(results(&n1.receive(2, 1, message.clone())), [has_matched(3)]);
    let again = n1.receive(2, 1, message);
    assert_eq!((results(&again), writes(&again), applied(&again)), (vec![has_matched(3)], vec![], vec![]));
}

/// §6, thesis §4.2.3: "if a server receives a RequestVote RPC within the minimum election timeout of hearing from a current leader, it does not update
/// its term or grant its vote".
#[test]
fn section_6_who_hears_from_a_leader_deposes_nobody() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.receive(2, 1, append(id(1, 1), &[], 0));
    n1.tick(14);
    assert_eq!(sent(&n1.receive(3, 9, request_vote(id(9, 8)))), []);
    assert_eq!(n1.term(), 1);

    let mut leader = Subject::start(stored(3, &[1]));
    leader.win();
    leader.receive(3, 9, request_vote(id(9, 8)));
    assert_eq!((leader.status().role, leader.term()), (RoleKind::Leader, 2));
}

/// Thesis §4.2.1: a node without a vote never stands for election; but it notices that the leader is gone, and then holds up nobody who
/// stands.
#[test]
fn thesis_4_2_1_a_learner_stands_never_and_in_nobodys_way() {
    let membership = Membership { learners: [ME].into(), voters: [2, 3, 4].map(NodeId).into(), ..voters(1..=4) };
    let mut n1 = Subject::start(Stored::first(membership));
    n1.receive(2, 1, append(id(1, 1), &[], 0));
    assert_eq!(sent(&n1.receive(3, 1, request_pre_vote(id(1, 1)))), [(3, pre_vote_reply(1, false))]);
    n1.tick(2 * 15);
    assert_eq!((n1.status().role, n1.status().leader), (RoleKind::Follower, None));
    assert_eq!(sent(&n1.receive(3, 1, request_pre_vote(id(1, 1)))), [(3, pre_vote_reply(1, true))]);
}

/// §8: a leader commits "a blank no-op entry into the log at the start of its term".
#[test]
fn section_8_a_term_begins_with_a_no_op() {
    let mut n1 = Subject::start(stored(1, &[1, 1]));
    let (_, effects) = n1.await_timeout();
    let entries: Vec<_> = writes(&effects).iter().flat_map(|write| &write.entries).collect();
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].id, &entries[0].payload), (id(3, 2), &Payload::Noop));
    assert_eq!(applied(&effects), [id(1, 1), id(2, 1), id(3, 2)], "and so learns what is committed");
}

/// §8: a new leader answers no read before an entry of its term is committed: only then it knows what is.
#[test]
fn section_8_reads_wait_for_the_no_op() {
    let mut n1 = Subject::start(stored(3, &[1, 1]));
    n1.win();
    let round = *rounds(&n1.read(1)).last().expect("the read asks who still follows");
    assert_eq!(served(&n1.receive(2, 2, accepted_in(round.0, 2))), [], "confirmed, but 3@2 is not committed");
    assert_eq!(served(&n1.receive(2, 2, accepted_in(round.0, 3))), [(1, 3)]);
}

/// §8, thesis §6.4: a leader answers a read once "a majority of the cluster" has confirmed after it came that the leader still is one.
#[test]
fn section_8_reads_wait_for_a_majority() {
    let mut n1 = Subject::start(stored(5, &[1]));
    n1.win();
    for follower in 2..=5 {
        n1.receive(follower, 2, accepted(2));
    }
    let effects = n1.read(1);
    let round = rounds(&effects).last().expect("a round begins").0;
    assert_eq!(appends(&effects).len(), 4, "at once, without waiting for the next heartbeat");
    assert_eq!(served(&effects), []);
    assert_eq!(served(&n1.receive(2, 2, accepted_in(round - 1, 2))), [], "an answer to what was sent before the read");
    assert_eq!(served(&n1.receive(3, 2, accepted_in(round, 2))), [], "two of five");
    assert_eq!(served(&n1.receive(4, 2, accepted_in(round, 2))), [(1, 2)]);
}

/// Thesis §6.4: reads that come while a round is under way wait for the next, so that no late answer confirms a younger read.
#[test]
fn thesis_6_4_a_round_confirms_no_later_read() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.win();
    n1.receive(2, 2, accepted(2));
    let first = rounds(&n1.read(1)).last().expect("a round begins").0;
    assert_eq!(rounds(&n1.read(2)), BTreeSet::new(), "a round is under way");
    let effects = n1.receive(2, 2, accepted_in(first, 2));
    assert_eq!(served(&effects), [(1, 2)]);
    let second = rounds(&effects).last().expect("the next round begins").0;
    assert!(second > first);
    assert_eq!(served(&n1.receive(2, 2, accepted_in(first, 2))), [], "a repeated answer to the first round");
    assert_eq!(served(&n1.receive(2, 2, accepted_in(second, 2))), [(2, 2)]);
}

/// §8: a node alone is its own majority.
#[test]
fn section_8_a_single_node_answers_reads_at_once() {
    let mut n1 = Subject::start(stored(1, &[1]));
    n1.campaign();
    assert_eq!(served(&n1.read(1)), [(1, 2)]);
}

/// Thesis §6.2: "a leader steps down if an election timeout elapses without a successful round of heartbeats to a majority".
#[test]
fn thesis_6_2_a_leader_without_a_majority_steps_down() {
    let mut n1 = Subject::start(stored(5, &[1]));
    n1.win();
    let mut effects = n1.read(1);
    for _ in 0..2 * 15 {
        n1.receive(2, 2, accepted(2));
        effects.extend(n1.tick(1));
    }
    assert_eq!(
        (n1.status().role, n1.status().leader, n1.term()),
        (RoleKind::Follower, None, 2),
        "two of five is no majority"
    );
    let lost = Effect::Refuse { id: RequestId(1), reason: Refusal::LeadershipLost, leader: None };
    assert!(effects.contains(&lost), "the read ends, too: {effects:?}");
}

/// Thesis §6.2: a leader that hears from a majority stays.
#[test]
fn thesis_6_2_a_leader_with_a_majority_stays() {
    let mut n1 = Subject::start(stored(5, &[1]));
    n1.win();
    for _ in 0..100 {
        n1.receive(2, 2, accepted(2));
        n1.receive(3, 2, rejected(0, EntryId::ZERO));
        n1.tick(1);
    }
    assert_eq!(n1.status().role, RoleKind::Leader, "an answer is a sign of life, whatever it says");
}

/// Thesis §6.2 and §4.2.3: who steps down keeps its vote: there is one a term.
#[test]
fn thesis_6_2_stepping_down_keeps_the_vote() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.win();
    n1.tick(2 * 15);
    assert_eq!((n1.status().role, n1.term()), (RoleKind::Follower, 2));
    assert_eq!(sent(&n1.receive(2, 2, request_vote(id(9, 2)))), [(2, REFUSED)]);
}

/// Thesis §9.6: a node asks first whether it would win, and "only increments its term […] if it learns from a majority".
#[test]
fn thesis_9_6_pre_vote_comes_before_the_term() {
    let mut n1 = Subject::start(stored(3, &[1]));
    let (_, effects) = n1.await_timeout();
    assert_eq!(sent(&effects), [(2, request_pre_vote(id(1, 1))), (3, request_pre_vote(id(1, 1)))]);
    assert_eq!(writes(&effects), [] as [&Persist; 0], "nothing has changed");
    for _ in 0..10 {
        n1.await_timeout();
    }
    assert_eq!(n1.term(), 1, "a node cut off alone never raises its term");
    n1.with_pre_votes();
    assert_eq!(n1.term(), 2);
}

/// Thesis §9.6: a majority that would not vote for it ends the attempt, without a trace.
#[test]
fn thesis_9_6_a_lost_pre_vote_changes_nothing() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.await_timeout();
    n1.receive(2, 1, pre_vote_reply(1, false));
    n1.receive(3, 1, pre_vote_reply(1, false));
    assert_eq!((n1.status().role, n1.term()), (RoleKind::Follower, 1));
}

/// Thesis §9.6: a pre-vote is granted if "the candidate's log is sufficiently up-to-date" and the voter has not heard from a leader, whatever
/// its vote; neither term nor vote nor timer change.
#[test]
fn thesis_9_6_a_pre_vote_promises_nothing() {
    let mut n1 = Subject::start(stored_in(3, &[1, 1], 2, Some(3)));
    let before = n1.status();
    for (last, granted) in [(id(2, 1), true), (id(1, 1), false)] {
        let effects = n1.receive(2, 7, request_pre_vote(last));
        assert_eq!(sent(&effects), [(2, pre_vote_reply(7, granted))]);
        assert_eq!(writes(&effects).len(), 0);
    }
    assert_eq!(n1.status(), before);
    assert_eq!(sent(&n1.receive(3, 2, request_vote(id(2, 1)))), [(3, GRANTED)], "its vote is n3's as before");
}

/// Thesis §9.6: who hears from a leader refuses: the candidate is what is cut off, not the leader.
#[test]
fn thesis_9_6_who_hears_from_a_leader_refuses() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.receive(2, 1, append(id(1, 1), &[], 0));
    assert_eq!(sent(&n1.receive(3, 1, request_pre_vote(id(9, 1)))), [(3, pre_vote_reply(1, false))]);
    let mut leader = Subject::start(stored(3, &[1]));
    leader.win();
    assert_eq!(sent(&leader.receive(3, 2, request_pre_vote(id(9, 2)))), [(3, pre_vote_reply(2, false))]);
}

/// Thesis §10.2.1 and §5.4: a late confirmation of an entry that was cut off does not confirm the one that took its place.
#[test]
fn thesis_10_2_1_late_writes_confirm_nothing_else() {
    let mut n1 = Subject::start(stored(3, &[1]));
    n1.step(receive(2, 2, append(id(1, 1), &[2, 2], 0)));
    n1.step(receive(3, 3, append(id(1, 1), &[3, 3], 0)));
    let first = n1.step(Input::Persisted(WriteId(1)));
    assert_eq!((results(&first), n1.status().durable_index), (vec![], Index(1)));
    assert_eq!(results(&n1.confirm()).last(), Some(&has_matched(3)));
}
