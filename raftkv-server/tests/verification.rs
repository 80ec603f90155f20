//! Nodes compare their states. One whose files somebody has changed stops and says so, and the others go on.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use raft_core::types::{ClusterId, Identity, Incarnation, NodeId};
use raft_store_sqlite::Checksum;
use raft_transport_grpc::handshake::Handshake;
use raftkv_cli::Client;
use raftkv_cli::reply::ChecksumProgress;
use raftkv_cli::request::ReplaceMemberRequest;
use raftkv_proto::raft::v1::raft_service_client::RaftServiceClient;
use raftkv_proto::raft::v1::{CompareChecksumsRequest, EntryId, StateChecksum};
use rusqlite::Connection;
use support::writers::{Writers, assert_files_agree, assert_written_once};
use support::{Cluster, direct, eventually};

const PATIENCE: Duration = Duration::from_secs(40);

/// Changes a node's state behind its back.
fn change(cluster: &Cluster, id: u64, sql: &str) {
    Connection::open(cluster.place(id).state_file()).unwrap().execute_batch(sql).unwrap();
}

/// What node `of` knows of the nodes' checksums at an entry.
async fn known(cluster: &Cluster, of: u64, index: u64) -> BTreeMap<u64, Vec<u8>> {
    let reply = cluster.client().checksums(&cluster.place(of).address, index).await;
    let checksums = reply.map(|reply| reply.checksums).unwrap_or_default();
    checksums.into_iter().map(|checksum| (checksum.node_id, checksum.digest.to_vec())).collect()
}

/// Has the states compared, and returns what node `of` then knows of all of `ids`.
async fn verify(cluster: &Cluster, of: u64, ids: &[u64]) -> BTreeMap<u64, Vec<u8>> {
    let index = cluster.client().verify().await.unwrap().index;
    eventually("checksums of all nodes", PATIENCE, async || {
        let known = known(cluster, of, index).await;
        known.keys().eq(ids).then_some(known)
    })
    .await
}

async fn are_alike(cluster: &Cluster) {
    let found = verify(cluster, 1, &cluster.ids()).await;
    assert!(found.values().all(|digest| *digest == found[&1] && digest.len() == 32), "{found:?}");
}

/// As `raftkv-cli member replace` does.
async fn replace(client: &Client, id: u64) {
    let request = ReplaceMemberRequest { id, ..Default::default() };
    assert!(client.replace_member(request).await.unwrap().changed);
}

#[tokio::test]
async fn nodes_that_came_to_their_states_by_different_ways_find_them_alike_under_writes() {
    let mut cluster = Cluster::start_with_flags(3, &["--snapshot-after=100", "--keep-entries=5"]).await;
    let writers = Writers::start(&cluster, 4).await;
    writers.have_written(50).await;
    are_alike(&cluster).await;
    // One was killed, one gets a snapshot, and all have restarted at other times.
    cluster.node(3).kill();
    writers.have_written(300).await;
    cluster.node(3).start();
    let id = cluster.add(1);
    cluster.node(id).start();
    cluster.voters_are(&[1, 2, 3, id]).await;
    are_alike(&cluster).await;
    writers.have_written(50).await;
    are_alike(&cluster).await;
    let acknowledged = writers.stop().await;
    assert_written_once(&cluster, &acknowledged).await;
    assert_files_agree(&cluster).await;
    for id in cluster.ids() {
        assert_eq!(cluster.status(id).await.unwrap().alarms, [""; 0], "node {id}");
        cluster.place(id).says("the states of all nodes are the same at entry").await;
    }
}

#[tokio::test]
async fn a_node_whose_file_was_changed_stops_saying_so_and_comes_back_with_one_command() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client();
    client.sql(["CREATE TABLE t (a)"]).await.unwrap();
    client.sql(["INSERT INTO t VALUES (1), (2)"]).await.unwrap();
    are_alike(&cluster).await;

    // Somebody opens the file of one node and makes a table of their own.
    assert_eq!(cluster.node(3).terminate(), 0);
    change(&cluster, 3, "CREATE TABLE mine (a); INSERT INTO mine VALUES (1)");
    cluster.node(3).start();
    let others = [1, 2];
    let found = verify(&cluster, cluster.leader_among(&others).await, &[1, 2, 3]).await;
    assert_eq!(found[&1], found[&2]);
    assert_ne!(found[&1], found[&3]);
    assert_eq!(cluster.node(3).ended().await, 1);
    let said = cluster.place(3).log_text();
    assert!(said.contains("its state is not that of the cluster") && said.contains("nodes 1, 2 have"), "{said}");
    assert!(said.contains("raftkv-cli member replace"), "{said}");

    // It does not come back just so.
    cluster.node(3).start();
    assert_eq!(cluster.node(3).ended().await, 1);
    let again = cluster.place(3).log_text()[said.len()..].to_owned();
    assert!(again.contains("its state is not that of the cluster") && again.contains("nodes 1, 2 have"), "{again}");

    // The others go on, and say what happened.
    client.put("x", "1").await.unwrap();
    for id in others {
        let alarms = cluster.status(id).await.unwrap().alarms;
        assert!(alarms[0].contains("node 3 must not serve"), "node {id}: {alarms:?}");
    }

    cluster.node(3).wipe();
    cluster.node(3).start();
    cluster.place(3).says("member replace 3").await;
    replace(&client, 3).await;
    cluster.voters_are(&[1, 2, 3]).await;
    are_alike(&cluster).await;
    assert_files_agree(&cluster).await;
    for id in cluster.ids() {
        assert_eq!(cluster.status(id).await.unwrap().alarms, [""; 0], "node {id}");
    }
}

#[tokio::test]
async fn a_leader_that_differs_stops_as_well() {
    let cluster = Cluster::start(3).await;
    cluster.client().sql(["CREATE TABLE t (a)"]).await.unwrap();
    cluster.client().sql(["INSERT INTO t VALUES (1)"]).await.unwrap();
    cluster.settled(&cluster.ids()).await;
    let mut cluster = cluster;
    let leader = cluster.leader().await;
    // While it runs.
    change(&cluster, leader, "UPDATE t SET a = 1.0");
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    cluster.client().verify().await.unwrap();
    assert_eq!(cluster.node(leader).ended().await, 1);
    cluster.leader_among(&others).await;
    cluster.client().put("x", "1").await.unwrap();
}

#[tokio::test]
async fn where_no_state_is_that_of_most_voters_all_say_so_and_nobody_stops() {
    let mut cluster = Cluster::start(3).await;
    cluster.client().sql(["CREATE TABLE t (a)"]).await.unwrap();
    cluster.settled(&cluster.ids()).await;
    for id in [1, 2] {
        change(&cluster, id, &format!("INSERT INTO t VALUES ({id})"));
    }
    for id in cluster.ids() {
        let index = cluster.client().verify().await.unwrap().index;
        eventually("an alarm", PATIENCE, async || {
            let status = cluster.status(id).await?;
            let all_known = known(&cluster, id, index).await.len() == 3;
            (all_known && status.alarms.first()?.contains("nobody can tell which is right")).then_some(())
        })
        .await;
    }
    cluster.client().put("x", "1").await.unwrap();
    for id in cluster.ids() {
        assert!(cluster.node(id).is_running(), "node {id}");
    }
}

#[tokio::test]
async fn states_are_compared_by_themselves() {
    let mut cluster = Cluster::start_with_flags(3, &["--verify-every=1s"]).await;
    let leader = cluster.leader().await;
    let changed = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    cluster.settled(&[changed]).await;
    change(&cluster, changed, "CREATE TABLE mine (a)");
    assert_eq!(cluster.node(changed).ended().await, 1);
}

/// The next comparison is a minute away, if nobody is started.
#[tokio::test]
async fn a_node_that_was_started_is_looked_at_soon() {
    let mut cluster = Cluster::start_with_flags(3, &["--verify-every=1m"]).await;
    for id in cluster.ids() {
        cluster.place(id).says("the states of all nodes are the same at entry").await;
    }
    assert_eq!(cluster.node(3).terminate(), 0);
    change(&cluster, 3, "CREATE TABLE mine (a)");
    cluster.node(3).start();
    assert_eq!(cluster.node(3).ended().await, 1);
}

#[tokio::test]
async fn a_node_that_is_past_an_entry_has_no_checksum_there_and_says_so() {
    let mut cluster = Cluster::start(1).await;
    let index = cluster.client().verify().await.unwrap().index;
    eventually("its checksum", PATIENCE, async || (!known(&cluster, 1, index).await.is_empty()).then_some(())).await;
    assert_eq!(cluster.node(1).terminate(), 0);
    cluster.node(1).start();
    cluster.leader().await;
    let progress = async |index: u64| {
        let reply = cluster.client().checksums(&cluster.place(1).address, index).await.unwrap();
        assert!(reply.checksums.is_empty());
        reply.progress()
    };
    assert_eq!(progress(index).await, ChecksumProgress::Passed);
    assert_eq!(progress(index + 1_000_000).await, ChecksumProgress::Waiting);
}

/// Ids are free to make up, and what is told of them would fill the memory.
#[tokio::test]
async fn a_stranger_is_not_listened_to() {
    let cluster = Cluster::start(1).await;
    let cluster_id = ClusterId(cluster.status(1).await.unwrap().cluster_id);
    let stranger = Identity { cluster: cluster_id, node: NodeId(9), incarnation: Incarnation(9) };
    let at = Some(EntryId { index: 1000, term: 1 });
    let checksum = StateChecksum { at, digest: vec![7; 32].into(), kind: Checksum::kind(), ..Default::default() };
    for checksum in [Some(checksum), None] {
        let call = Handshake::new(stranger, NodeId(1)).stamp(CompareChecksumsRequest { checksum });
        let refused = RaftServiceClient::new(direct(&cluster, 1).await).compare_checksums(call).await.unwrap_err();
        assert!(refused.message().contains("does not know the caller"), "{refused}");
    }
}
