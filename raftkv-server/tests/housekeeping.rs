//! A cluster removes what has expired by itself, and writes nothing while there is nothing to remove.

mod support;

use std::time::Duration;

use prost::Message;
use raft_store_sqlite::limits::{SESSION_MS, SESSIONS};
use raftkv_cli::{Error, Lookup};
use raftkv_proto::raftkv::v1::kv_client::KvClient;
use raftkv_proto::raftkv::v1::{ErrorDetail, PutRequest, Reason, Session};
use rusqlite::{Connection, OpenFlags};
use support::writers::assert_files_agree;
use support::{Cluster, TestNode, direct, eventually, now_ms};
use tokio::time::sleep;
use tonic::Code;

/// How many rows a node's table has.
fn count(node: &TestNode, table: &str) -> u64 {
    let state = Connection::open_with_flags(node.state_file(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    state.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

/// Fails if the log grows within some looks of the housekeeping. Where leadership changes meanwhile, which takes an entry, looks again.
async fn writes_nothing(cluster: &Cluster) {
    // What a node says of itself may be a tick old, and so not know of all that was written.
    let written = cluster.client().get("x").await.unwrap().header.unwrap().applied_index;
    while cluster.settled(&cluster.ids()).await < written {
        sleep(Duration::from_millis(10)).await;
    }
    loop {
        let before = (cluster.settled(&cluster.ids()).await, term(cluster).await);
        sleep(Duration::from_secs(3)).await;
        let after = (cluster.settled(&cluster.ids()).await, term(cluster).await);
        if before.1 == after.1 {
            return assert_eq!(before.0, after.0, "an idle cluster has written entries");
        }
    }
}

async fn term(cluster: &Cluster) -> u64 {
    let id = cluster.leader().await;
    cluster.status(id).await.map_or(0, |status| status.term)
}

#[tokio::test]
async fn sessions_are_removed_when_they_have_ended_and_not_before() {
    let mut cluster = Cluster::start(3).await;
    for i in 0..5 {
        cluster.client().put(format!("key{i}"), "value").await.unwrap();
    }
    writes_nothing(&cluster).await;
    for node in cluster.nodes() {
        assert_eq!((count(node, "raft_sessions"), count(node, "raft_answers")), (5, 5), "node {}", node.id);
    }

    // Four of them were last used more than an hour ago.
    cluster.nodes_mut().for_each(|node| assert_eq!(node.terminate(), 0));
    for node in cluster.nodes() {
        let state = Connection::open(node.state_file()).unwrap();
        let past = "UPDATE raft_sessions SET last_used_ms = last_used_ms - ?1 WHERE client <>
                    (SELECT client FROM raft_sessions ORDER BY last_used_ms DESC, client LIMIT 1)";
        assert_eq!(state.execute(past, [SESSION_MS]).unwrap(), 4);
    }
    cluster.start_all();
    eventually("the end of sessions on all nodes", Duration::from_secs(20), async || {
        let has_one = |node| (count(node, "raft_sessions"), count(node, "raft_answers")) == (1, 1);
        cluster.nodes().all(has_one).then_some(())
    })
    .await;
    assert_files_agree(&cluster).await;
    writes_nothing(&cluster).await;
}

#[tokio::test]
async fn a_client_more_than_can_be_kept_is_asked_to_come_back() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.put("x", "1").await.unwrap();
    assert_eq!(cluster.node(1).terminate(), 0);
    // As if there were as many as there may be.
    let state = Connection::open(cluster.place(1).state_file()).unwrap();
    state.execute("UPDATE raft_meta SET sessions = ?1", [SESSIONS]).unwrap();
    drop(state);
    cluster.start_all();
    cluster.leader().await;

    client.put("x", "2").await.unwrap();
    let mut kv = KvClient::new(direct(&cluster, 1).await);
    let session = Session { client_id: "another".into(), opened_ms: now_ms(), sequence: 1, answered: 0 };
    let request = PutRequest { key: "x".into(), value: "3".into(), session: Some(session), ..Default::default() };
    let status = kv.put(request).await.unwrap_err();
    let detail = ErrorDetail::decode(status.details()).unwrap();
    assert_eq!((status.code(), detail.reason()), (Code::ResourceExhausted, Reason::Busy), "{status}");
    assert!(detail.retry_after_ms > 0);
    assert_eq!(client.get("x").await.unwrap().entry.unwrap().value, "2");
}

#[tokio::test]
async fn keys_go_with_a_lease_that_nobody_keeps_though_its_owner_and_the_leader_are_gone() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client();
    // On a slow machine, a lease may be over before it is used.
    eventually("a key under a lease", Duration::from_secs(20), async || {
        let lease = client.grant_lease(Duration::from_secs(2), None).await.unwrap().lease;
        client.put_under(lease, "under", "1").await.ok()
    })
    .await;
    client.put("free", "1").await.unwrap();
    drop(client);
    let leader = cluster.leader().await;
    cluster.node(leader).kill();

    eventually("the end of the lease", Duration::from_secs(20), async || {
        cluster.client().get("under").await.unwrap().entry.is_none().then_some(())
    })
    .await;
    cluster.node(leader).start();
    assert_files_agree(&cluster).await;
    for node in cluster.nodes() {
        assert_eq!((count(node, "raft_leases"), count(node, "kv")), (0, 1), "node {}", node.id);
    }
    writes_nothing(&cluster).await;
}

#[tokio::test]
async fn history_is_forgotten_when_it_is_old_enough_and_what_is_stays() {
    let cluster = Cluster::start_with_flags(3, &["--history=1s"]).await;
    let client = cluster.client();
    let first = client.put("x", "1").await.unwrap().header.unwrap().revision;
    client.put("x", "2").await.unwrap();
    client.put("y", "1").await.unwrap();
    client.delete("y").await.unwrap();

    eventually("the end of history on all nodes", Duration::from_secs(20), async || {
        let is_forgotten = |node| (count(node, "raft_kv_deleted"), count(node, "raft_changes")) == (0, 1);
        cluster.nodes().all(is_forgotten).then_some(())
    })
    .await;
    let error = client.find(Lookup::new("x").at(first)).await.unwrap_err();
    assert!(matches!(error, Error::Compacted(_)), "{error}");
    assert_eq!(client.get("x").await.unwrap().entry.unwrap().value, "2");
    writes_nothing(&cluster).await;
    assert_files_agree(&cluster).await;
}

#[tokio::test]
async fn history_may_be_kept_for_ever() {
    for flags in [&[][..], &["--history=0"]] {
        let cluster = Cluster::start_with_flags(1, flags).await;
        let client = cluster.client();
        let first = client.put("x", "1").await.unwrap().header.unwrap().revision;
        client.put("x", "2").await.unwrap();
        writes_nothing(&cluster).await;
        let found = client.find(Lookup::new("x").at(first)).await.unwrap().found.unwrap();
        assert_eq!(found.entries[0].value, "1");
    }
}
