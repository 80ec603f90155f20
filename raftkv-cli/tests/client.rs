//! The client library against nodes that misbehave in every way a cluster can.

mod support;

use raftkv_cli::{Client, Error, MAX_REQUEST_BYTES, Statement};
use std::time::{Duration, Instant};
use support::{Act, Node, breaking, endpoints, nowhere, silent, start};
use tonic::Code;

fn client(endpoints: impl IntoIterator<Item = String>) -> Client {
    Client::builder().endpoints(endpoints).timeout(Duration::from_secs(5)).build().unwrap()
}

/// A client that soon gives up.
fn hasty(endpoints: impl IntoIterator<Item = String>) -> Client {
    client(endpoints).with_timeout(Duration::from_millis(400))
}

fn applied(node: &Node) -> u64 {
    node.state.lock().unwrap().applied
}

#[tokio::test]
async fn keys_are_put_read_and_deleted() {
    let nodes = start(1);
    let client = client(endpoints(&nodes));
    assert!(client.get("x").await.unwrap().entry.is_none());
    assert!(!client.put("x", "1").await.unwrap().replaced);
    assert!(client.put("x", "2").await.unwrap().replaced);
    let entry = client.get("x").await.unwrap().entry.unwrap();
    assert_eq!((&entry.value[..], entry.version), (&b"2"[..], 2));
    assert_eq!(client.delete("x").await.unwrap().deleted, 1);
    assert_eq!(client.delete("x").await.unwrap().deleted, 0);
}

#[tokio::test]
async fn each_write_has_the_next_sequence_and_says_what_was_answered() {
    let nodes = start(1);
    let client = client(endpoints(&nodes));
    client.put("x", "1").await.unwrap();
    client.sql(["INSERT INTO t VALUES (1)"]).await.unwrap();
    client.submit("set y=1").await.unwrap();
    client.delete("x").await.unwrap();
    let seen = nodes[0].seen();
    let numbers: Vec<_> = seen.iter().map(|seen| (seen.sequence, seen.answered)).collect();
    assert_eq!(numbers, [(1, 0), (2, 1), (3, 2), (4, 3)]);
    assert_eq!(seen[0].client_id.len(), 16);
    assert!(seen.iter().all(|other| other.client_id == seen[0].client_id));
}

#[tokio::test]
async fn a_redirect_is_followed_and_remembered() {
    let nodes = start(2);
    nodes[0].always(Act::NotLeader(2, nodes[1].address.clone()));
    let client = client([nodes[0].address.clone()]);
    client.put("x", "1").await.unwrap();
    client.put("x", "2").await.unwrap();
    client.submit("set x=3").await.unwrap();
    assert_eq!(nodes[0].seen().len(), 1, "only the first call asks the follower");
    assert_eq!(applied(&nodes[0]), 3);
}

#[tokio::test]
async fn submit_follows_redirects_in_replies() {
    let nodes = start(2);
    nodes[0].always(Act::NotLeader(2, nodes[1].address.clone()));
    client([nodes[0].address.clone()]).submit("set x=1").await.unwrap();
    assert_eq!((nodes[0].seen().len(), nodes[1].seen().len()), (1, 1));
}

#[tokio::test]
async fn a_leader_whose_address_means_nothing_here_is_found_among_the_endpoints() {
    let nodes = start(3);
    for follower in &nodes[..2] {
        follower.always(Act::NotLeader(3, nowhere()));
    }
    let client = client(endpoints(&nodes));
    client.put("x", "1").await.unwrap();
    assert_eq!(applied(&nodes[2]), 1);
}

#[tokio::test]
async fn a_silent_address_that_a_follower_names_costs_little() {
    let nodes = start(2);
    nodes[0].always(Act::NotLeader(2, silent()));
    let began = Instant::now();
    client(endpoints(&nodes)).put("x", "1").await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_node_that_is_known_by_its_id_is_asked_where_it_answered() {
    let nodes = start(3);
    let client = client(endpoints(&nodes));
    client.status_all().await;
    nodes[0].always(Act::NotLeader(3, nowhere()));
    client.put("x", "1").await.unwrap();
    assert_eq!(nodes[1].seen().len(), 0, "straight to node 3");
    assert_eq!(nodes[2].seen().len(), 1);
}

#[tokio::test]
async fn an_unreachable_node_is_passed_over() {
    let nodes = start(1);
    let client = client([nowhere(), nodes[0].address.clone()]);
    client.put("x", "1").await.unwrap();
    client.get("x").await.unwrap();
}

#[tokio::test]
async fn a_new_leader_is_found_when_the_old_one_steps_down() {
    let nodes = start(2);
    let client = client(endpoints(&nodes));
    client.put("x", "1").await.unwrap();
    nodes[0].always(Act::NotLeader(2, nodes[1].address.clone()));
    client.put("x", "2").await.unwrap();
    assert_eq!(nodes[1].seen().len(), 1);
}

#[tokio::test]
async fn an_election_is_waited_out() {
    let nodes = start(2);
    for act in [Act::NoLeader, Act::NoLeader, Act::NotLeader(0, String::new())] {
        nodes[0].next(act);
    }
    nodes[1].next(Act::NoLeader);
    nodes[1].next(Act::NoLeader);
    nodes[1].next(Act::NoLeader);
    client(endpoints(&nodes)).put("x", "1").await.unwrap();
    assert_eq!(applied(&nodes[0]), 1);
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_sent_again_with_the_same_sequence_and_applied_once() {
    let nodes = start(2);
    nodes[0].next(Act::ServeAndLose);
    nodes[1].next(Act::NotLeader(1, nodes[0].address.clone()));
    let reply = client(endpoints(&nodes)).put("x", "1").await.unwrap();
    assert!(!reply.replaced, "the first answer, not that of a second application");
    let state = nodes[0].state.lock().unwrap();
    assert_eq!(state.applied, 1);
    assert_eq!(state.seen.len(), 3);
    assert!(state.seen.iter().all(|seen| seen.sequence == 1 && seen.client_id == state.seen[0].client_id));
}

#[tokio::test]
async fn an_outcome_that_the_server_does_not_know_is_asked_for_again() {
    let nodes = start(1);
    nodes[0].next(Act::Unsure);
    nodes[0].next(Act::Unsure);
    client(endpoints(&nodes)).submit("set x=1").await.unwrap();
    let sequences: Vec<u64> = nodes[0].seen().iter().map(|seen| seen.sequence).collect();
    assert_eq!(sequences, [1, 1, 1]);
}

#[tokio::test]
async fn a_paused_leader_does_not_use_up_the_whole_timeout() {
    let nodes = start(1);
    let client = client([silent(), nodes[0].address.clone()]);
    let began = Instant::now();
    client.put("x", "1").await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let began = Instant::now();
    client.put("x", "2").await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(500), "the node that answered is preferred from now on");
    assert_eq!(nodes[0].seen()[0].sequence, 1);
}

#[tokio::test]
async fn a_slow_answer_is_waited_for_while_others_are_asked() {
    let nodes = start(2);
    nodes[0].always(Act::ServeAfter(Duration::from_millis(1500)));
    nodes[1].always(Act::NotLeader(1, nodes[0].address.clone()));
    client(endpoints(&nodes)).put("x", "1").await.unwrap();
    assert_eq!(nodes[0].seen().len(), 1, "never two attempts at one node");
    assert!(!nodes[1].seen().is_empty());
}

#[tokio::test]
async fn a_write_that_was_sent_and_never_answered_is_unknown() {
    for client in [hasty([silent()]), hasty([breaking()]), hasty([silent(), nowhere()])] {
        let error = client.put("x", "1").await.unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
        let error = client.submit("set x=1").await.unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_stays_unknown_when_nobody_leads_afterwards() {
    let nodes = start(1);
    nodes[0].next(Act::ServeAndLose);
    nodes[0].always(Act::NoLeader);
    let error = hasty(endpoints(&nodes)).put("x", "1").await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
}

#[tokio::test]
async fn a_refusal_proves_nothing_about_an_earlier_attempt() {
    let nodes = start(1);
    nodes[0].next(Act::ServeAndLose);
    nodes[0].next(Act::Refuse("too large"));
    let error = hasty(endpoints(&nodes)).put("x", "1").await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    nodes[0].next(Act::ServeAndLose);
    nodes[0].next(Act::Fail("constraint"));
    let error = hasty(endpoints(&nodes)).put("x", "1").await.unwrap_err();
    assert!(matches!(error, Error::Failed(_)), "a failure is the command's own, stored answer: {error}");
}

#[tokio::test]
async fn a_write_whose_answer_is_no_longer_kept_is_unknown_at_once() {
    let nodes = start(1);
    nodes[0].always(Act::Forget);
    let client = client(endpoints(&nodes));
    for error in [client.put("x", "1").await.unwrap_err(), client.submit("set x=1").await.unwrap_err()] {
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    }
    assert_eq!(nodes[0].seen().len(), 2, "asking again would not tell");
}

#[tokio::test]
async fn a_first_attempt_in_a_session_that_has_ended_is_sent_again_in_a_new_one() {
    let nodes = start(1);
    let client = client(endpoints(&nodes));
    client.put("x", "1").await.unwrap();
    nodes[0].next(Act::Expire(7000));
    client.put("x", "2").await.unwrap();
    nodes[0].next(Act::Expire(8000));
    client.submit("set x=3").await.unwrap();
    client.delete("x").await.unwrap();
    let seen: Vec<_> = nodes[0].seen().iter().map(|seen| (seen.sequence, seen.opened_ms)).collect();
    let opened = seen[0].1;
    assert_eq!(seen, [(1, opened), (2, opened), (1, 7000), (2, 7000), (1, 8000), (2, 8000)]);
    let seen = nodes[0].seen();
    assert!(seen[1].client_id != seen[2].client_id && seen[3].client_id != seen[4].client_id);
    assert_eq!(applied(&nodes[0]), 4);
}

#[tokio::test]
async fn a_retry_in_a_session_that_has_ended_is_unknown() {
    let nodes = start(1);
    let client = client(endpoints(&nodes));
    for lost in [Act::ServeAndLose, Act::Unsure] {
        nodes[0].next(lost);
        nodes[0].next(Act::Expire(7000));
        let error = client.put("x", "1").await.unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    }
    assert_eq!(applied(&nodes[0]), 1, "what may have been applied is not sent in another session");
}

#[tokio::test]
async fn an_attempt_under_way_is_not_forgotten_when_another_finds_the_session_ended() {
    let nodes = start(2);
    nodes[0].always(Act::ServeAfter(Duration::from_secs(3)));
    nodes[1].always(Act::Expire(7000));
    let error = client(endpoints(&nodes)).put("x", "1").await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
}

#[tokio::test]
async fn a_cluster_that_takes_no_session_is_not_asked_for_ever() {
    let nodes = start(1);
    nodes[0].always(Act::Expire(7000));
    let client = client(endpoints(&nodes));
    let error = client.put("x", "1").await.unwrap_err();
    assert!(matches!(error, Error::SessionExpired { log_time_ms: 7000, .. }), "{error}");
    assert_eq!(nodes[0].seen().len(), 2);
}

#[tokio::test]
async fn a_write_that_was_never_sent_or_only_refused_is_certainly_not_applied() {
    let nodes = start(1);
    nodes[0].always(Act::NoLeader);
    for client in [hasty([nowhere()]), hasty(endpoints(&nodes)), hasty([nowhere(), nodes[0].address.clone()])] {
        let error = client.put("x", "1").await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_read_without_an_answer_is_unavailable_never_unknown() {
    let client = hasty([silent()]);
    let errors = [
        client.get("x").await.unwrap_err(),
        client.sql(["SELECT 1"]).await.unwrap_err(),
        client.submit("get x").await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    }
    let error = client.sql(["SELECT 1", "DELETE FROM t"]).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
}

#[tokio::test]
async fn a_failed_or_refused_command_is_not_tried_again() {
    let nodes = start(2);
    nodes[0].next(Act::Fail("UNIQUE constraint failed: users.id"));
    nodes[0].next(Act::Refuse("syntax error"));
    let client = client(endpoints(&nodes));
    let error = client.sql(["INSERT INTO users VALUES (1)"]).await.unwrap_err();
    assert!(matches!(&error, Error::Failed(message) if message.contains("UNIQUE")), "{error}");
    let error = client.sql(["INSRT"]).await.unwrap_err();
    assert!(matches!(&error, Error::Invalid(message) if message == "syntax error"), "{error}");
    assert_eq!(nodes[0].seen().len() + nodes[1].seen().len(), 2);
}

#[tokio::test]
async fn what_is_not_raftkv_is_told_apart() {
    let nodes = start(1);
    nodes[0].next(Act::Code(Code::Unimplemented));
    nodes[0].next(Act::Code(Code::Unauthenticated));
    let client = client(endpoints(&nodes));
    assert!(matches!(client.put("x", "1").await, Err(Error::Incompatible { .. })));
    assert!(matches!(client.put("x", "1").await, Err(Error::Denied(_))));
}

#[tokio::test]
async fn a_busy_leader_is_given_the_time_it_asks_for() {
    let nodes = start(2);
    nodes[0].next(Act::Busy(150));
    client(endpoints(&nodes)).put("x", "1").await.unwrap();
    let seen = nodes[0].seen();
    assert_eq!((seen.len(), nodes[1].seen().len()), (2, 0));
    assert!(seen[1].at - seen[0].at >= Duration::from_millis(150));
    nodes[0].always(Act::Busy(50));
    let error = hasty(endpoints(&nodes[..1])).put("x", "2").await.unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
}

#[tokio::test]
async fn nodes_that_name_each_other_are_not_asked_in_a_frenzy() {
    let nodes = start(2);
    nodes[0].always(Act::NotLeader(2, nodes[1].address.clone()));
    nodes[1].always(Act::NotLeader(1, nodes[0].address.clone()));
    let error = hasty(endpoints(&nodes)).put("x", "1").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let attempts = nodes[0].seen().len() + nodes[1].seen().len();
    assert!((4..=24).contains(&attempts), "{attempts}");
}

#[tokio::test]
async fn a_request_that_no_server_accepts_is_not_sent() {
    let nodes = start(1);
    let error = client(endpoints(&nodes)).put("x", vec![0; MAX_REQUEST_BYTES]).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    assert!(nodes[0].seen().is_empty());
    client(endpoints(&nodes)).put("x", vec![0; MAX_REQUEST_BYTES - 100]).await.unwrap();
    assert_eq!(applied(&nodes[0]), 1);
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_an_error() {
    let nodes = start(1);
    let key = b"x".to_vec();
    let value = vec![0; raftkv_cli::MAX_REPLY_BYTES + 1].into();
    let entry = raftkv_cli::reply::KeyValue { key: key.clone().into(), value, ..Default::default() };
    nodes[0].state.lock().unwrap().keys.insert(key, entry);
    let error = client(endpoints(&nodes)).get("x").await.unwrap_err();
    assert!(matches!(error, Error::TooLarge(_)), "{error}");
}

#[tokio::test]
async fn many_writes_in_flight_keep_their_numbers_apart() {
    let nodes = start(2);
    nodes[0].always(Act::ServeAfter(Duration::from_millis(20)));
    let client = client(endpoints(&nodes));
    let mut writes = tokio::task::JoinSet::new();
    for i in 0..200 {
        let client = client.clone();
        writes.spawn(async move { client.put(format!("k{i}"), "v").await });
    }
    for result in writes.join_all().await {
        result.unwrap();
    }
    client.put("last", "v").await.unwrap();
    let seen = nodes[0].seen();
    let mut sequences: Vec<u64> = seen.iter().map(|seen| seen.sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=201).collect::<Vec<_>>());
    assert!(seen.iter().all(|seen| seen.answered < seen.sequence));
    let last = seen.iter().find(|seen| seen.sequence == 201).unwrap();
    assert_eq!(last.answered, 200);
}

#[tokio::test]
async fn an_abandoned_write_does_not_hold_up_what_may_be_forgotten() {
    let nodes = start(1);
    nodes[0].next(Act::ServeAfter(Duration::from_secs(60)));
    let client = client(endpoints(&nodes));
    let abandoned = tokio::time::timeout(Duration::from_millis(100), client.put("x", "1")).await;
    assert!(abandoned.is_err());
    client.put("x", "2").await.unwrap();
    assert_eq!(nodes[0].seen().last().map(|seen| (seen.sequence, seen.answered)), Some((2, 1)));
}

#[tokio::test]
async fn statements_carry_typed_parameters() {
    let nodes = start(1);
    let insert = Statement::new("INSERT INTO t VALUES (?, ?, ?)").bind(1).bind("x").bind(None::<i64>);
    let reply = client(endpoints(&nodes)).sql([insert, "DELETE FROM t".into()]).await.unwrap();
    assert_eq!(reply.results.iter().map(|result| result.rows_affected).collect::<Vec<_>>(), [3, 0]);
    assert_eq!(nodes[0].seen()[0].statements.len(), 2);
}

#[tokio::test]
async fn status_names_who_does_not_answer() {
    let nodes = start(2);
    let gone = nowhere();
    let paused = silent();
    let client = client([nodes[0].address.clone(), gone.clone(), paused, nodes[1].address.clone()]);
    let answers = client.status_all().await;
    assert_eq!(answers[0].1.as_ref().unwrap().role, "leader");
    assert_eq!(answers[1].1.as_ref().unwrap_err().to_string(), format!("no endpoint reachable: {gone} refused"));
    assert!(answers[2].1.is_err());
    assert_eq!(answers[3].1.as_ref().unwrap().node_id, 2);
}
