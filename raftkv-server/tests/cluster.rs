//! A cluster of real processes keeps its word, whatever happens to them.

mod support;

use std::time::{Duration, Instant};

use raftkv_cli::Error;
use raftkv_proto::raftkv::v1::GetRequest;
use raftkv_proto::raftkv::v1::kv_client::KvClient;
use support::proxy::Proxy;
use support::writers::{Writers, assert_files_agree, assert_written_once};
use support::{Cluster, TestNode, direct, eventually, free_ports, now_ms};
use tokio::task::JoinSet;
use tokio::time::sleep;

#[tokio::test]
async fn nodes_started_in_any_order_and_seconds_apart_elect_a_leader_and_all_take_writes() {
    let mut cluster = Cluster::new(3);
    for id in [3, 1, 2] {
        cluster.node(id).start();
        sleep(Duration::from_secs(1)).await;
    }
    cluster.leader().await;
    for id in [1, 2, 3] {
        let (key, value) = (format!("key{id}"), format!("value{id}"));
        cluster.client_at(id).put(key.clone(), value.clone()).await.unwrap();
        for other in [1, 2, 3] {
            let entry = cluster.client_at(other).get(key.clone()).await.unwrap().entry.expect("it was written");
            assert_eq!(entry.value, value);
        }
    }
    assert_files_agree(&cluster).await;
}

#[tokio::test]
async fn a_cluster_of_one_serves_and_keeps_its_data() {
    let mut cluster = Cluster::start(1).await;
    cluster.client().submit("set x=1").await.unwrap();
    assert_eq!(cluster.node(1).terminate(), 0);
    cluster.node(1).start();
    assert_eq!(cluster.client().submit("get x").await.unwrap().result, "1");
    cluster.node(1).kill();
    cluster.node(1).start();
    assert_eq!(cluster.client().submit("get x").await.unwrap().result, "1");
}

#[tokio::test]
async fn a_killed_leader_costs_less_than_two_seconds_and_no_write() {
    let mut cluster = Cluster::start(3).await;
    let writers = Writers::start(&cluster, 8).await;
    writers.have_written(200).await;

    let leader = cluster.leader().await;
    cluster.node(leader).kill();
    let killed = Instant::now();
    writers.write_again().await;
    assert!(killed.elapsed() < Duration::from_secs(2), "no write succeeded for {:?}", killed.elapsed());

    writers.have_written(200).await;
    cluster.node(leader).start();
    writers.have_written(200).await;
    let acknowledged = writers.stop().await;
    assert_written_once(&cluster, &acknowledged).await;
    assert_files_agree(&cluster).await;
}

#[tokio::test]
async fn all_nodes_killed_at_once_come_back_with_every_write() {
    let mut cluster = Cluster::start(3).await;
    let writers = Writers::start(&cluster, 8).await;
    for _ in 0..2 {
        writers.have_written(200).await;
        cluster.nodes_mut().for_each(TestNode::kill);
        cluster.start_all();
    }
    writers.have_written(200).await;
    let acknowledged = writers.stop().await;
    assert_written_once(&cluster, &acknowledged).await;
    assert_files_agree(&cluster).await;
}

#[tokio::test]
async fn a_paused_leader_does_not_answer_from_its_own_state() {
    let cluster = Cluster::start(3).await;
    cluster.client().put("x", "old").await.unwrap();
    let paused = cluster.leader().await;
    let direct = direct(&cluster, paused).await;
    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != paused).collect();

    cluster.place(paused).pause();
    cluster.leader_among(&others).await;
    cluster.client_at(others[0]).put("x", "new").await.unwrap();
    // These wait in the paused node's sockets, and are the first that it sees when it wakes up.
    let mut reads = JoinSet::new();
    for _ in 0..50 {
        let mut kv = KvClient::new(direct.clone());
        reads.spawn(async move { kv.get(GetRequest { key: "x".into(), ..Default::default() }).await });
    }
    sleep(Duration::from_millis(100)).await;
    cluster.place(paused).resume();
    for reply in reads.join_all().await.into_iter().flatten() {
        assert_eq!(reply.into_inner().entry.unwrap().value, "new", "a read was answered from an old state");
    }
    let reply = cluster.client_at(paused).get("x").await.unwrap();
    assert_eq!(reply.entry.unwrap().value, "new");
}

#[tokio::test]
async fn a_node_that_was_away_catches_up() {
    let mut cluster = Cluster::start(3).await;
    let away = cluster.ids().into_iter().find(|id| *id != 1).unwrap();
    cluster.node(away).kill();
    for i in 0..50 {
        cluster.client().put(format!("key{i}"), "value").await.unwrap();
    }
    cluster.node(away).start();
    assert_files_agree(&cluster).await;
}

#[tokio::test]
async fn a_node_that_is_cut_off_does_not_raise_the_term_and_catches_up_when_it_returns() {
    let way = free_ports(1)[0];
    let mut cluster = Cluster::with_way_to_3(way);
    let proxy = Proxy::start(way, cluster.port(3)).await;
    cluster.start_all();
    while cluster.leader().await == 3 {
        cluster.node(3).kill();
        cluster.leader_among(&[1, 2]).await;
        cluster.node(3).start();
    }
    // Until all have applied the same, one may still be about to begin.
    cluster.settled(&[1, 2, 3]).await;
    let before = cluster.status(1).await.unwrap();

    proxy.cut();
    eventually("the node's loss of its leader", Duration::from_secs(10), async || {
        (cluster.status(3).await.unwrap().leader_id == 0).then_some(())
    })
    .await;
    cluster.client_at(1).put("x", "1").await.unwrap();
    // Long enough for many elections.
    sleep(Duration::from_secs(2)).await;
    proxy.mend();
    assert_files_agree(&cluster).await;
    for id in [1, 2, 3] {
        let after = cluster.status(id).await.unwrap();
        assert_eq!((after.term, after.leader_id), (before.term, before.leader_id), "node {id}");
    }
}

#[tokio::test]
async fn a_node_whose_disk_fails_stops_and_has_lost_nothing_when_it_returns() {
    let mut cluster = Cluster::new(1);
    cluster.node(1).start_with_little_room(8 << 10);
    cluster.leader().await;
    let client = cluster.client().with_timeout(Duration::from_secs(2));
    let value = "v".repeat(100 << 10);
    let mut acknowledged = 0;
    let error = loop {
        match client.put(format!("key{acknowledged}"), value.clone()).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    assert!(acknowledged > 0, "some writes had room");
    assert_eq!(cluster.node(1).ended().await, 1);
    let log = cluster.place(1).log_text();
    assert!(log.contains("error: the node stopped: "), "{log}");

    cluster.node(1).start();
    for number in 0..acknowledged {
        let entry = cluster.client().get(format!("key{number}")).await.unwrap().entry;
        assert!(entry.is_some_and(|entry| entry.value == value), "key{number} was acknowledged");
    }
}

#[tokio::test]
async fn all_addresses_may_change_over_a_restart() {
    let mut cluster = Cluster::start(3).await;
    cluster.client().put("x", "1").await.unwrap();
    cluster.nodes_mut().for_each(|node| assert_eq!(node.terminate(), 0));
    cluster.move_all();
    cluster.start_all();
    let leader = cluster.leader().await;
    for id in cluster.ids() {
        // Through redirects to the leader's new address.
        let entry = cluster.client_at(id).get("x").await.unwrap().entry;
        assert_eq!(entry.unwrap().value, "1");
        let known = async || cluster.status(id).await.filter(|status| status.leader_id == leader);
        let status = eventually("word of the leader", Duration::from_secs(10), known).await;
        assert_eq!(status.leader_address, cluster.place(leader).address);
    }
}

#[tokio::test]
async fn a_repeated_command_is_applied_once_and_gets_the_first_answer() {
    use raftkv_proto::raft::v1::raft_service_client::RaftServiceClient;
    use raftkv_proto::raft::v1::{Outcome, SubmitCommandRequest};

    let cluster = Cluster::start(3).await;
    cluster.client().sql(["CREATE TABLE t (a INTEGER PRIMARY KEY)"]).await.unwrap();
    let mut raft = RaftServiceClient::new(direct(&cluster, cluster.leader().await).await);
    let request = SubmitCommandRequest {
        command: "INSERT INTO t DEFAULT VALUES RETURNING a".to_owned(),
        client_id: "a client".into(),
        opened_ms: now_ms(),
        sequence: 1,
        ..Default::default()
    };
    let mut answers = Vec::new();
    for _ in 0..3 {
        let reply = raft.submit_command(request.clone()).await.unwrap().into_inner();
        assert!(reply.success, "{}", reply.error);
        answers.push(reply.result);
    }
    assert_eq!(answers, ["a\n1", "a\n1", "a\n1"]);
    let confirmed = SubmitCommandRequest { command: "set x=1".to_owned(), sequence: 2, answered: 1, ..request.clone() };
    assert!(raft.submit_command(confirmed).await.unwrap().into_inner().success);
    let forgotten = raft.submit_command(request).await.unwrap().into_inner();
    assert_eq!((forgotten.outcome(), forgotten.forgotten), (Outcome::Unknown, true), "{}", forgotten.error);
    assert_eq!(cluster.client().submit("SELECT count(*) AS n FROM t").await.unwrap().result, "n\n1");
}

#[tokio::test]
async fn a_node_asked_to_stop_ends_in_order_and_one_whose_parent_dies_too() {
    let mut cluster = Cluster::start(3).await;
    assert_eq!(cluster.node(1).terminate(), 0);
    cluster.node(2).orphan();
    let deadline = Duration::from_secs(10);
    let place = cluster.node(2);
    let begun = Instant::now();
    while place.is_running() {
        assert!(begun.elapsed() < deadline, "{}", place.log_text());
        sleep(Duration::from_millis(20)).await;
    }
}
