//! Reading: consistent, bounded, and never in the way of writing.

mod common;

use std::time::{Duration, Instant};

use common::{Store, command, put, sql};
use raft_core::types::Index;
use raft_store_sqlite::{Command, Error, Kind, ReadLimits, Reader, Statement, Value, limits};

fn kind(reader: &Reader, texts: &[&str]) -> Result<Kind, Error> {
    reader.prepare(&texts.iter().map(|text| Statement::new(*text).into()).collect::<Vec<_>>())
}

#[test]
fn a_read_sees_what_was_applied() {
    let mut store = Store::new();
    let reader = store.parts.reader.clone();
    assert_eq!(reader.get(&"a".into()).unwrap().value, None);
    store.run(put("a", "1"));
    let seen = reader.get(&"a".into()).unwrap();
    assert_eq!((seen.revision, seen.applied.index), (2, Index(1)));
    store.sql(&["CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"]);
    let seen = reader.query(&[Statement::new("SELECT * FROM t"), Statement::new("SELECT 2; SELECT 3")]).unwrap();
    assert_eq!((seen.revision, seen.applied.index), (3, Index(2)));
    assert_eq!(
        seen.value.iter().map(|result| result.rows[0][0].clone()).collect::<Vec<_>>(),
        [1, 2, 3].map(Value::Integer)
    );
}

#[test]
fn statements_are_sorted_into_reads_and_writes() {
    let mut store = Store::new();
    store.sql(&["CREATE TABLE t (a)"]);
    let reader = &store.parts.reader;
    for texts in [
        &["SELECT * FROM t"][..],
        &["SELECT * FROM kv; SELECT datetime('now', '-1 day')", "VALUES (1)"],
        &["WITH x AS (SELECT 1) SELECT * FROM x"],
        &["EXPLAIN INSERT INTO t VALUES (1)"],
        &["PRAGMA table_info(t)"],
        &["SELECT * FROM made_meanwhile;"],
        &["SELECT random()"],
    ] {
        assert_eq!(kind(reader, texts).unwrap(), Kind::Read, "{texts:?}");
    }
    for texts in [
        &["INSERT INTO t VALUES (1)"][..],
        &["WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x"],
        &["SELECT 1", "DELETE FROM t"],
        &["SELECT 1; DELETE FROM t"],
        &["INSERT INTO t VALUES (1) RETURNING a"],
        &["CREATE TABLE u (a)", "INSERT INTO u VALUES (1)", "SELECT * FROM u"],
        &["CREATE TABLE u (a); INSERT INTO u VALUES (1); SELECT * FROM u"],
        &["SELECT * FROM made_meanwhile; DELETE FROM t"],
        &["DROP TABLE made_meanwhile"],
        &["REINDEX"],
    ] {
        assert_eq!(kind(reader, texts).unwrap(), Kind::Write, "{texts:?}");
    }
}

#[test]
fn what_may_not_be_replicated_is_refused_before() {
    let store = Store::new();
    let reader = &store.parts.reader;
    for text in [
        "BEGIN",
        "COMMIT",
        "SAVEPOINT a",
        "ATTACH ':memory:' AS x",
        "PRAGMA user_version = 7",
        "PRAGMA user_version",
        "CREATE TEMP TABLE t (a)",
        "INSERT INTO kv (key) VALUES (1)",
        "DELETE FROM raft_meta",
        "SELECT * FROM raft_answers",
        "SELECT load_extension('x')",
        "CREATE TABLE t (a); BEGIN",
        "ANALYZE",
    ] {
        let error = kind(reader, &[text]).unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{text}: {error}");
    }
    for text in ["SELEC 1", "SELECT (", "SELECT 'a", "", "-- x", "CREATE TABLE t (a); SELEC"] {
        let error = kind(reader, &[text]).unwrap_err();
        assert!(matches!(error, Error::Statement(_)), "{text}: {error}");
    }
    let error = kind(reader, &[&"x".repeat(limits::SQL_BYTES + 1)]).unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 1_048_576, actual: 1_048_577, .. }), "{error}");
    assert!(matches!(kind(reader, &["SELECT 1\0"]), Err(Error::Invalid(_))));
    assert!(matches!(kind(reader, &[]), Err(Error::Invalid(_))));
    let error = kind(reader, &["EXPLAIN SELECT 1", "CREATE TABLE t (a)"]).unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
}

#[test]
fn a_read_can_not_write() {
    let mut store = Store::new();
    store.sql(&["CREATE TABLE t (a)"]);
    for text in ["INSERT INTO t VALUES (1)", "SELECT 1; DELETE FROM t", "VACUUM", "BEGIN", "PRAGMA user_version = 3"] {
        let error = store.parts.reader.query(&[Statement::new(text)]).unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{text}: {error}");
    }
    let error = store.parts.reader.query(&[Statement::new("SELECT * FROM nowhere")]).unwrap_err();
    assert!(matches!(&error, Error::Statement(why) if why == "no such table: nowhere"), "{error}");
    assert_eq!(store.value("SELECT count(*) FROM t"), Value::Integer(0));
}

#[test]
fn a_read_is_bounded_in_rows_bytes_and_time() {
    let store = Store::new();
    let endless = "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT";
    let limits = ReadLimits { rows: 10, bytes: 1000, time: Duration::from_millis(100) };
    let reader = store.parts.reader.with_limits(limits);
    let query = |text: String| reader.query(&[Statement::new(text)]).unwrap_err();
    let error = query(format!("{endless} n FROM r"));
    assert!(error.to_string().contains("more than 10 rows"), "{error}");
    let error = query(format!("{endless} zeroblob(n * 200) FROM r"));
    assert!(error.to_string().contains("more than 1000 bytes"), "{error}");
    let start = Instant::now();
    let error = query(format!("{endless} n FROM r WHERE n < 0"));
    assert!(matches!(error, Error::ReadTimeout(100)), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(reader.query(&[Statement::new("SELECT 1")]).unwrap().value.len(), 1, "the next read has its own time");
}

#[test]
fn a_read_in_progress_holds_up_no_write_and_sees_one_state() {
    let mut store = Store::new();
    store.sql(&["CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"]);
    let reader = store.parts.reader.clone();
    // Long enough for the writes below, and its two halves must agree.
    let slow = "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 300000)
                SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM r), (SELECT count(*) FROM t)";
    let reading = std::thread::spawn(move || {
        reader.query(&[Statement::new(slow), Statement::new("SELECT count(*) FROM t")]).unwrap()
    });
    for n in 0..50 {
        store.run(sql(&[&format!("INSERT INTO t VALUES ({n})")]));
    }
    let results = reading.join().unwrap().value;
    assert_eq!(results[0].rows[0][0], results[0].rows[0][2]);
    assert_eq!(results[0].rows[0][0], results[1].rows[0][0]);
    assert_eq!(store.value("SELECT count(*) FROM t"), Value::Integer(51));
}

/// A node's clock may be behind that of the leader that stamped what it reads.
#[test]
fn a_read_sees_no_time_before_that_of_what_it_reads() {
    let mut store = Store::new();
    store.sql(&["CREATE TABLE t (at DEFAULT CURRENT_TIMESTAMP)"]);
    /// The first moment of the year 2999.
    const LATE_MS: u64 = 32_472_144_000_000;
    let insert = Command { time_ms: LATE_MS, ..command(sql(&["INSERT INTO t DEFAULT VALUES"])) };
    assert_eq!(store.value("SELECT datetime('now') < '2999'"), Value::Integer(1), "it is the node's own otherwise");
    store.apply(&[insert]);
    assert_eq!(
        store.value("SELECT at || ' ' || datetime('now') FROM t"),
        Value::Text("2999-01-01 00:00:00 2999-01-01 00:00:00".into())
    );
}

#[test]
fn many_threads_read_at_once() {
    let mut store = Store::new();
    store.run(put("a", "1"));
    std::thread::scope(|scope| {
        for _ in 0..20 {
            let reader = store.parts.reader.clone();
            scope.spawn(move || {
                for _ in 0..50 {
                    assert_eq!(reader.get(&"a".into()).unwrap().value.unwrap().value, "1");
                }
            });
        }
    });
}

#[test]
fn text_that_is_not_utf8_is_returned_as_its_bytes() {
    let store = Store::new();
    assert_eq!(store.value("SELECT CAST(x'ff' AS TEXT)"), Value::Blob(b"\xff"[..].into()));
}
