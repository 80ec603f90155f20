//! Keys, programs, leases and reads of all kinds, over the wire.

mod support;

use std::time::Duration;

use raftkv_cli::reply::StepResult;
use raftkv_cli::reply::step_result::Result as Outcome;
use raftkv_cli::{Client, Compare, Consistency, Error, KeyRange, Lookup, Output, Program, Relation, Statement};
use raftkv_proto::raftkv::v1 as wire;
use raftkv_proto::raftkv::v1::kv_client::KvClient;
use raftkv_proto::raftkv::v1::sql_client::SqlClient;
use support::{Cluster, direct, eventually};

async fn keys(client: &Client, lookup: Lookup) -> Vec<(String, String)> {
    let found = client.find(lookup).await.unwrap().found.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    found.entries.iter().map(|entry| (text(&entry.key), text(&entry.value))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn outcomes(results: Vec<StepResult>) -> Vec<Outcome> {
    results.into_iter().filter_map(|step| step.result).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_read_in_ranges_and_as_they_were() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    for (key, value) in [("a/1", "one"), ("a/2", "two"), ("b", "other"), ("a/1", "uno")] {
        client.put(key, value).await.unwrap();
    }
    let prefix = || Lookup::new(KeyRange::prefix("a/"));
    assert_eq!(keys(&client, prefix()).await, pairs(&[("a/1", "uno"), ("a/2", "two")]));
    assert_eq!(keys(&client, prefix().at(4)).await, pairs(&[("a/1", "one"), ("a/2", "two")]));
    assert_eq!(keys(&client, prefix().limit(1).keys_only()).await, pairs(&[("a/1", "")]));
    let limited = client.find(prefix().limit(1)).await.unwrap().found.unwrap();
    assert_eq!((limited.count, limited.more), (2, true));
    assert_eq!(client.find(prefix().count_only()).await.unwrap().found.unwrap().count, 2);

    client.compact(5).await.unwrap();
    assert!(matches!(client.find(prefix().at(4)).await, Err(Error::Compacted(_))));
    assert!(matches!(client.find(prefix().at(99)).await, Err(Error::Invalid(_))));
    assert_eq!(keys(&client, prefix().at(5)).await, pairs(&[("a/1", "uno"), ("a/2", "two")]));
    assert_eq!(client.delete(KeyRange::prefix("a/")).await.unwrap().deleted, 2);
    assert_eq!(keys(&client, Lookup::new(KeyRange::all())).await, pairs(&[("b", "other")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_feeds_its_steps_and_happens_whole_or_not_at_all() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    client.sql(["CREATE TABLE stock (item TEXT PRIMARY KEY, n INTEGER)"]).await.unwrap();
    client.sql(["CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)"]).await.unwrap();
    client.sql(["INSERT INTO stock VALUES ('pear', 1)"]).await.unwrap();
    let order = || {
        let take = Statement::new("UPDATE stock SET n = n - 1 WHERE item = ? AND n > 0").bind("pear");
        Program::new()
            .sql(take)
            .expect(1, 1)
            .sql("INSERT INTO orders (item) VALUES ('pear') RETURNING id, item")
            .put("last/order", Output { step: 1, row: 0, column: 0 })
            .get("last/order")
            .sql(Statement::new("SELECT ? || ' ' || ?").bind(Output { step: 3, row: 0, column: 1 }).bind(Output {
                step: 1,
                row: 0,
                column: 1,
            }))
    };
    let results = outcomes(client.run(order()).await.unwrap().results);
    let Some(Outcome::Sql(last)) = results.last() else { panic!("{results:?}") };
    let value = last.results[0].rows[0].values[0].clone();
    assert_eq!(raftkv_cli::Value::from(value), raftkv_cli::Value::from("1 pear"));

    let refused = client.run(order()).await.unwrap_err();
    assert!(matches!(&refused, Error::Unexpected(why) if why.contains("step 0 counts 0")), "{refused}");
    let count = client.sql(["SELECT count(*), (SELECT n FROM stock) FROM orders"]).await.unwrap();
    let row: Vec<_> = count.results[0].rows[0].values.iter().cloned().map(raftkv_cli::Value::from).collect();
    assert_eq!(row, [1.into(), 0.into()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_swap_one_wins() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    let mut attempts = tokio::task::JoinSet::new();
    for number in 0..8 {
        let client = cluster.client();
        attempts.spawn(async move {
            let lock = Program::new().put("lock", number.to_string());
            let program = Program::new().when([Compare::is_absent("lock")], lock, Program::new().get("lock"));
            let results = outcomes(client.run(program).await.unwrap().results);
            let Some(Outcome::If(either)) = results.into_iter().next() else { panic!() };
            either.held
        });
    }
    let held = attempts.join_all().await;
    assert_eq!(held.iter().filter(|held| **held).count(), 1, "{held:?}");
    let revision = client.get("lock").await.unwrap().entry.unwrap().mod_revision;
    let stale = Compare::mod_revision("lock", Relation::Equal, revision - 1);
    let reply = client.run(Program::new().when([stale], Program::new().delete("lock"), Program::new())).await.unwrap();
    assert!(matches!(outcomes(reply.results).first(), Some(Outcome::If(either)) if !either.held));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_goes_with_its_lease_on_every_node() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    let kept = client.grant_lease(Duration::from_secs(600), Some(7)).await.unwrap().lease;
    let short = client.grant_lease(Duration::from_millis(700), None).await.unwrap().lease;
    assert_eq!(kept, 7);
    assert!(matches!(client.grant_lease(Duration::from_secs(1), Some(7)).await, Err(Error::Failed(_))));
    client.put_under(short, "gone", "1").await.unwrap();
    client.put_under(kept, "kept", "1").await.unwrap();
    assert_eq!(client.leases(Some(kept), true).await.unwrap().leases[0].keys, ["kept"]);
    client.keep_lease(kept).await.unwrap();
    for id in cluster.ids() {
        let node = cluster.client_at(id).with_consistency(Consistency::Stale { max_age: None });
        eventually("the key is gone", Duration::from_secs(20), async || {
            node.get("gone").await.ok().filter(|reply| reply.entry.is_none())
        })
        .await;
    }
    assert!(matches!(client.keep_lease(short).await, Err(Error::NoSuchLease(_))));
    assert!(matches!(client.put_under(short, "late", "1").await, Err(Error::NoSuchLease(_))));
    assert!(client.get("late").await.unwrap().entry.is_none());
    assert_eq!(client.revoke_lease(kept).await.unwrap().deleted, 1);
    assert!(client.leases(None, false).await.unwrap().leases.is_empty());
    assert!(client.get("kept").await.unwrap().entry.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_as_fresh_as_it_asks_to_be() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let written = cluster.client().put("x", "1").await.unwrap().header.unwrap();
    let follower = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let mut kv = KvClient::new(direct(&cluster, follower).await);
    let ask = |consistency| wire::GetRequest { key: "x".into(), consistency: Some(consistency), revision: 0 };
    let level = |level: wire::Level| wire::Consistency { level: level.into(), ..Default::default() };
    for level in [level(wire::Level::Linearizable), level(wire::Level::Lease)] {
        let reply = kv.get(ask(level)).await.unwrap().into_inner();
        assert_eq!(reply.entry.unwrap().value, "1");
    }
    // A stale read that must include the write sees it.
    let own = wire::Consistency { applied_index: written.applied_index, ..level(wire::Level::Stale) };
    assert_eq!(kv.get(ask(own)).await.unwrap().into_inner().entry.unwrap().value, "1");

    // Without a majority, whatever the node has is told to those who want no more than that.
    cluster.ids().into_iter().filter(|id| *id != follower).for_each(|id| cluster.node(id).kill());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(kv.get(ask(level(wire::Level::Stale))).await.unwrap().into_inner().entry.unwrap().value, "1");
    let bounded = wire::Consistency { max_age_ms: 50, ..level(wire::Level::Stale) };
    let refused = kv.get(ask(bounded)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert!(refused.message().contains("older than the read allows"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_of_any_size_streams_its_rows() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    client.sql(["CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)"]).await.unwrap();
    let fill = "INSERT INTO t (b) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150000)
                SELECT printf('%050d', i) FROM n";
    client.sql([fill]).await.unwrap();
    let mut sql = SqlClient::new(direct(&cluster, cluster.leader().await).await);
    let statement = |sql: &str| wire::Statement { sql: sql.to_owned(), parameters: Vec::new() };
    let statements = vec![statement("SELECT a, b FROM t ORDER BY a"), statement("SELECT count(*) AS n FROM t")];
    let mut stream = sql.query(wire::QueryRequest { statements, consistency: None }).await.unwrap().into_inner();
    let (mut columns, mut rows, mut revision) = (Vec::new(), [0, 0], 0);
    while let Some(reply) = stream.message().await.unwrap() {
        revision += reply.header.map_or(0, |header| header.revision);
        columns.extend(reply.columns);
        rows[reply.statement as usize] += reply.rows.len();
    }
    assert_eq!((columns, rows), (vec!["a".to_owned(), "b".to_owned(), "n".to_owned()], [150_000, 1]));
    assert!(revision > 0, "the state's revision is told once");

    let write = wire::QueryRequest { statements: vec![statement("DELETE FROM t")], consistency: None };
    assert_eq!(sql.query(write).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    let fails = vec![statement("SELECT a, CASE WHEN a > 1000 THEN abs(-9223372036854775808) END FROM t")];
    let mut stream = sql.query(wire::QueryRequest { statements: fails, consistency: None }).await.unwrap().into_inner();
    let ended = loop {
        match stream.message().await {
            Ok(Some(_)) => (),
            Ok(None) => panic!("it should fail"),
            Err(status) => break status,
        }
    };
    assert!(ended.message().contains("integer overflow"), "{ended}");
}
