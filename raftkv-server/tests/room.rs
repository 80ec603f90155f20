//! A node whose disk is nearly full refuses what takes room, and does everything else.

mod support;

use std::time::Duration;

use raftkv_cli::{Error, Program};
use support::{Cluster, eventually};

fn is_refused<T>(answer: Result<T, Error>) {
    match answer.err() {
        Some(Error::NoRoom(message)) => assert!(message.contains("less than --min-free-space"), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_node_without_room_refuses_writes_in_time_and_goes_on_to_read_and_remove() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client();
    for key in ["a", "b", "c"] {
        client.put(key, "1").await.unwrap();
    }
    client.sql(["CREATE TABLE t (a)"]).await.unwrap();
    assert_eq!(cluster.status(1).await.unwrap().alarms, Vec::<String>::new());

    assert_eq!(cluster.node(1).terminate(), 0);
    // More than any disk has.
    cluster.node(1).add_flag("--min-free-space=1EiB");
    cluster.node(1).start();
    cluster.leader().await;
    let client = cluster.client();
    is_refused(client.put("a", "2").await);
    is_refused(client.sql(["INSERT INTO t VALUES (1)"]).await);
    is_refused(client.run(Program::new().delete("b").put("d", "1")).await);
    is_refused(client.submit("set a=2").await);
    assert_eq!(client.get("a").await.unwrap().entry.unwrap().value, "1");
    assert!(client.delete("a").await.unwrap().deleted > 0);
    client.run(Program::new().delete("b")).await.unwrap();
    assert!(client.get("b").await.unwrap().entry.is_none());
    let alarms = cluster.status(1).await.unwrap().alarms;
    assert!(alarms.iter().any(|alarm| alarm.contains("nearly full")), "{alarms:?}");

    cluster.node(1).terminate();
    cluster.node(1).remove_flag("--min-free-space");
    cluster.node(1).start();
    cluster.leader().await;
    cluster.client().put("a", "2").await.unwrap();
}

#[tokio::test]
async fn a_follower_without_room_holds_up_nobody_and_raises_an_alarm() {
    let mut cluster = Cluster::new(3);
    cluster.node(3).add_flag("--min-free-space=1EiB");
    cluster.start_all();
    eventually("a leader with room", Duration::from_secs(30), async || {
        if cluster.leader().await != 3 {
            return Some(());
        }
        let _ = cluster.client().transfer_leader(Some(1)).await;
        None
    })
    .await;
    cluster.client_at(3).put("a", "1").await.unwrap();
    for id in cluster.ids() {
        assert_eq!(cluster.status(id).await.unwrap().alarms.len(), usize::from(id == 3), "node {id}");
    }
}
