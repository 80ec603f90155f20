//! Backups are made while writes go on, of any node, and begin new clusters.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use raftkv_cli::{Client, Consistency, Error};
use rusqlite::Connection;
use support::writers::{Writers, assert_files_agree};
use support::{Cluster, run_to_end};

/// Writes a backup into a file, as the command does.
async fn back_up(client: &Client, path: &Path) -> u64 {
    let mut backup = client.back_up().await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = backup.next().await.unwrap() {
        bytes.extend_from_slice(&piece);
    }
    std::fs::write(path, bytes).unwrap();
    backup.header().header.unwrap().revision
}

fn restored(cluster: &mut Cluster, from: &Path) {
    cluster.node(1).remove_flag("--peers");
    cluster.node(1).add_flag(&format!("--restore={}", from.display()));
    cluster.node(1).start();
}

#[tokio::test]
async fn a_backup_of_a_follower_under_writes_has_all_that_was_acknowledged_and_begins_another_cluster() {
    let old = Cluster::start(3).await;
    old.client().sql(["CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, x'00'), (2, 0.1)"]).await.unwrap();
    old.client().put("kept", "1").await.unwrap();
    let writers = Writers::start(&old, 4).await;
    writers.have_written(200).await;
    old.client().put("acknowledged", "yes").await.unwrap();
    let leader = old.leader().await;
    let follower = old.ids().into_iter().find(|id| *id != leader).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup.db");
    let revision = back_up(&old.client_at(follower), &path).await;
    writers.stop().await;

    let file = Connection::open(&path).unwrap();
    let one = |sql: &str| file.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(one("SELECT count(*) FROM kv WHERE key IN ('kept', 'acknowledged')"), 2);
    assert_eq!(one("SELECT count(*) FROM t WHERE b IN (x'00', 0.1)"), 2);
    assert_eq!(one("SELECT revision FROM raft_meta"), revision as i64);
    assert!(revision > 200, "what the writers wrote is in it: revision {revision}");
    drop(file);

    let mut new = Cluster::new(1);
    restored(&mut new, &path);
    new.leader().await;
    let client = new.client();
    assert_eq!(client.get("acknowledged").await.unwrap().entry.unwrap().value, "yes");
    assert_eq!(client.put("more", "1").await.unwrap().header.unwrap().revision, revision + 1);
    for voters in [&[1, 2][..], &[1, 2, 3]] {
        let id = new.add(1);
        new.node(id).start();
        new.voters_are(voters).await;
    }
    assert_eq!(new.client_at(3).get("kept").await.unwrap().entry.unwrap().value, "1");
    assert_files_agree(&new).await;
    let clusters = [old.status(1).await.unwrap().cluster_id, new.status(1).await.unwrap().cluster_id];
    assert_ne!(clusters[0], clusters[1]);

    // Started again with the same flags, it goes on with what it has.
    new.client().put("later", "1").await.unwrap();
    new.node(1).kill();
    new.node(1).start();
    new.node(1).says("is not used").await;
    assert_eq!(new.client_at(1).get("later").await.unwrap().entry.unwrap().value, "1");
}

#[tokio::test]
async fn a_cluster_begins_with_tables_of_somebody_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2)").unwrap();
    let mut cluster = Cluster::new(1);
    restored(&mut cluster, &path);
    cluster.leader().await;
    let reply = cluster.client().sql(["INSERT INTO t SELECT sum(a) FROM t RETURNING a"]).await.unwrap();
    assert_eq!(reply.results[0].rows.len(), 1);
    cluster.client().put("a", "1").await.unwrap();
    let id = cluster.add(1);
    cluster.node(id).start();
    cluster.voters_are(&[1, 2]).await;
    assert_files_agree(&cluster).await;
}

#[tokio::test]
async fn what_can_not_be_restored_is_said_and_begins_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = format!("--data-dir={}", folder.path().join("data").display());
    let bad = folder.path().join("bad.db");
    let restore = |file: &PathBuf| format!("--restore={}", file.display());
    for (content, expected) in [
        (None, "unable to open"),
        (
            Some(
                "no database, and that for more than the hundred bytes of a header, which is needed for SQLite to look at it",
            ),
            "not a database",
        ),
    ] {
        content.iter().for_each(|text| std::fs::write(&bad, text).unwrap());
        let output = run_to_end(&["--id=1", "--port=0", &data, &restore(&bad)]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("can't be restored") && text.contains(expected), "{text}");
    }
    let output = run_to_end(&["--id=1", "--port=0", &data, &restore(&bad), "--peers=localhost:1"]);
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test]
async fn a_node_alone_gives_what_it_has_if_that_is_enough() {
    let mut cluster = Cluster::start(3).await;
    cluster.client().put("a", "1").await.unwrap();
    cluster.settled(&[1, 2, 3]).await;
    cluster.node(1).kill();
    cluster.node(2).kill();
    let folder = tempfile::tempdir().unwrap();
    let alone = cluster.client_at(3).with_timeout(Duration::from_secs(2));
    let refused = alone.back_up().await.map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused}");
    let path = folder.path().join("backup.db");
    back_up(&alone.with_consistency(Consistency::Stale { max_age: None }), &path).await;
    let file = Connection::open(&path).unwrap();
    assert_eq!(file.query_row("SELECT value FROM kv", [], |row| row.get::<_, String>(0)).unwrap(), "1");
}
