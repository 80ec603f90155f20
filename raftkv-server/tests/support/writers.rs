//! Clients that write while something happens, and what must be true of their writes afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use raft_store_sqlite::dump;
use raftkv_cli::{Client, Error, Statement};
use tokio::task::JoinSet;

use super::Cluster;

/// Clients that insert numbered rows into a table, as fast as they are acknowledged. The table takes duplicates, to show them.
pub struct Writers {
    count: tokio::sync::watch::Receiver<u64>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<(u64, u64)>,
}

impl Writers {
    /// Starts `number` of them, once the table is there.
    pub async fn start(cluster: &Cluster, number: u64) -> Self {
        cluster.client().sql(["CREATE TABLE writes (writer INTEGER, number INTEGER)"]).await.unwrap();
        let (sender, count) = tokio::sync::watch::channel(0);
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for writer in 1..=number {
            let (client, sender, stop) = (cluster.client(), sender.clone(), stop.clone());
            tasks.spawn(async move {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    insert(&client, writer, number + 1).await;
                    number += 1;
                    sender.send_modify(|count| *count += 1);
                }
                (writer, number)
            });
        }
        Self { count, stop, tasks }
    }

    /// Waits for that many more writes.
    pub async fn have_written(&self, more: u64) {
        let mut count = self.count.clone();
        let goal = *count.borrow() + more;
        let reached = tokio::time::timeout(Duration::from_secs(30), count.wait_for(|count| *count >= goal));
        reached.await.expect("writes go on").unwrap();
    }

    /// Waits until a write succeeds that was sent after this call.
    pub async fn write_again(&self) {
        // Each writer may have one write under way that the cluster acknowledged before the call.
        self.have_written(self.tasks.len() as u64 + 1).await;
    }

    /// How many writes of each writer were acknowledged: numbers 1 up to that.
    pub async fn stop(self) -> BTreeMap<u64, u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await.into_iter().collect()
    }
}

/// Inserts a row; where the outcome stays unknown, fails the test, for the client retries longer than the cluster needs.
async fn insert(client: &Client, writer: u64, number: u64) {
    let statement = Statement::new("INSERT INTO writes VALUES (?, ?)").bind(writer as i64).bind(number as i64);
    match client.sql([statement]).await {
        Ok(_) => (),
        Err(error @ Error::OutcomeUnknown { .. }) => panic!("write {number} of {writer}: {error}"),
        Err(error) => panic!("write {number} of {writer} failed: {error}"),
    }
}

/// Checks that each acknowledged write is in the table, and once.
pub async fn assert_written_once(cluster: &Cluster, acknowledged: &BTreeMap<u64, u64>) {
    let sql =
        "SELECT writer, count(*), count(DISTINCT number), max(number) FROM writes GROUP BY writer ORDER BY writer";
    let result = cluster.client().submit(sql).await.unwrap().result;
    let rows: Vec<_> = result.lines().skip(1).map(str::to_owned).collect();
    let expected: Vec<_> =
        acknowledged.iter().map(|(writer, count)| format!("{writer}\t{count}\t{count}\t{count}")).collect();
    assert_eq!(rows, expected, "writer, rows, different rows, greatest number");
}

/// Checks that the state files hold the same, once the nodes have nothing more to do.
pub async fn assert_files_agree(cluster: &Cluster) {
    assert_files_agree_of(cluster, &cluster.ids()).await;
}

/// The same for some of the nodes. What a node says of itself may be a tick old, so a file that is behind is looked at again for a while.
pub async fn assert_files_agree_of(cluster: &Cluster, ids: &[u64]) {
    cluster.settled(ids).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let files: Vec<_> = ids.iter().map(|id| dump(&cluster.place(*id).state_file()).unwrap()).collect();
        assert!(files[0].contains("applied"), "the applied index is compared, too: {}", files[0]);
        let Some(other) = files.iter().find(|file| **file != files[0]) else { return };
        assert!(Instant::now() < deadline, "the files differ for good:\n{other}\nand\n{}", files[0]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
