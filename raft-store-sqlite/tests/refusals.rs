//! What may not be replicated: refused before, with the reason; and where it gets into the log all the same, refused alike on every
//! node, with the same reason.

mod common;

use common::{Store, sql};
use raft_store_sqlite::{Error, Operation, Parameter, Statement, Value, limits};

/// Statements, and a part of the reason why not.
const REFUSED: &[(&str, &str)] = &[
    // Other files.
    ("ATTACH ':memory:' AS other", "the replicated database alone"),
    ("ATTACH 'file:other.db?mode=memory' AS other", "the replicated database alone"),
    ("DETACH main", "the replicated database alone"),
    ("VACUUM", "the replicated database alone"),
    ("VACUUM INTO 'copy.db'", "the replicated database alone"),
    ("SELECT load_extension('evil')", "load_extension"),
    ("SELECT load_extension('evil', 'entry')", "load_extension"),
    // Settings.
    ("PRAGMA user_version = 7", "PRAGMA user_version"),
    ("PRAGMA user_version", "PRAGMA user_version"),
    ("PRAGMA main.synchronous = OFF", "PRAGMA synchronous"),
    ("PRAGMA journal_mode(DELETE)", "PRAGMA journal_mode"),
    ("PRAGMA foreign_keys = OFF", "PRAGMA foreign_keys"),
    ("PRAGMA reverse_unordered_selects = ON", "PRAGMA reverse_unordered_selects"),
    ("PRAGMA recursive_triggers = ON", "PRAGMA recursive_triggers"),
    ("PRAGMA case_sensitive_like = ON", "PRAGMA case_sensitive_like"),
    ("PRAGMA trusted_schema = ON", "PRAGMA trusted_schema"),
    ("PRAGMA optimize", "PRAGMA optimize"),
    ("ANALYZE", "ANALYZE"),
    ("ANALYZE t", "ANALYZE"),
    // Our tables.
    ("SELECT * FROM raft_sessions", "belongs to RaftKV"),
    ("SELECT (SELECT count(*) FROM raft_meta)", "belongs to RaftKV"),
    ("WITH x AS (SELECT * FROM raft_answers) SELECT * FROM x", "belongs to RaftKV"),
    ("INSERT INTO raft_kv (key) VALUES (1)", "belongs to RaftKV"),
    ("REPLACE INTO raft_changes SELECT * FROM raft_changes", "belongs to RaftKV"),
    ("DELETE FROM raft_changes", "belongs to RaftKV"),
    ("UPDATE raft_meta SET applied_index = 0", "belongs to RaftKV"),
    ("UPDATE t SET a = 1 FROM raft_meta", "belongs to RaftKV"),
    ("DELETE FROM t WHERE a IN (SELECT client FROM raft_sessions)", "belongs to RaftKV"),
    ("DROP TABLE raft_sessions", "belong to RaftKV"),
    ("DROP VIEW kv", "belong to RaftKV"),
    ("ALTER TABLE raft_kv RENAME TO mine", "belong to RaftKV"),
    ("CREATE INDEX i ON raft_kv (version)", "belong to RaftKV"),
    ("CREATE TRIGGER g AFTER INSERT ON raft_kv BEGIN SELECT 1; END", "belong to RaftKV"),
    ("CREATE TABLE raft_mine (a)", "belong to RaftKV"),
    ("DELETE FROM kv", "put and delete"),
    ("UPDATE kv SET value = 1", "put and delete"),
    ("INSERT INTO kv (key) VALUES (1)", "put and delete"),
    // Transactions.
    ("BEGIN", "one transaction already"),
    ("BEGIN IMMEDIATE", "one transaction already"),
    ("COMMIT", "one transaction already"),
    ("END TRANSACTION", "one transaction already"),
    ("ROLLBACK", "one transaction already"),
    ("ROLLBACK TO command", "one transaction already"),
    ("SAVEPOINT command", "one transaction already"),
    ("RELEASE command", "one transaction already"),
    ("INSERT INTO t VALUES (1); COMMIT", "one transaction already"),
    // What is not replicated, or not the same.
    ("CREATE TEMP TABLE x (a)", "would not be replicated"),
    ("CREATE TABLE temp.x (a)", "would not be replicated"),
    ("CREATE TEMP VIEW x AS SELECT 1", "would not be replicated"),
    ("CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END", "would not be replicated"),
    ("CREATE VIRTUAL TABLE x USING fts5 (a)", "virtual tables (fts5)"),
    ("CREATE VIRTUAL TABLE x USING rtree (id, a, b)", "virtual tables (rtree)"),
    ("SELECT total_changes()", "differ between nodes"),
    ("SELECT sqlite_version()", "differ between nodes"),
    ("SELECT sqlite_source_id()", "differ between nodes"),
    ("SELECT sqlite_compileoption_used('SOUNDEX')", "differ between nodes"),
    ("INSERT INTO t VALUES (sqlite_version())", "differ between nodes"),
    ("SELECT * FROM dbstat", "this node's file"),
    ("INSERT INTO sqlite_sequence VALUES ('t', 1)", "sqlite_sequence can't be set"),
];

#[test]
fn it_is_refused_before_it_is_replicated() {
    let store = store();
    for (text, reason) in REFUSED {
        let error = store.parts.reader.prepare(&[Statement::new(*text).into()]).expect_err(text);
        assert!(matches!(error, Error::Refused(_)), "{text}: {error:?}");
        assert!(error.to_string().contains(reason), "{text}: {error}");
    }
}

#[test]
fn it_fails_and_changes_nothing_where_it_is_applied() {
    let mut store = store();
    let before = tables(&store);
    for (text, reason) in REFUSED {
        let why = store.sql_failure(&["INSERT INTO t VALUES ('undone')", text]);
        assert!(why.contains(reason), "{text}: {why}");
    }
    assert_eq!(tables(&store), before);
}

#[test]
fn it_is_refused_in_a_read() {
    let store = store();
    for (text, _) in REFUSED {
        let error = store.parts.reader.query(&[Statement::new(*text)]).expect_err(text);
        assert!(matches!(error, Error::Refused(_)), "{text}: {error:?}");
    }
}

/// Some things SQLite asks about only when it gets to them.
#[test]
fn it_is_refused_where_it_shows_only_as_it_runs() {
    let mut store = store();
    for (text, reason) in [
        ("SELECT * FROM pragma_user_version", "PRAGMA user_version"),
        ("SELECT datetime('now', 'localtime')", "time zones"),
        ("SELECT date('2026-11-23', 'UTC')", "time zones"),
    ] {
        let error = store.parts.reader.query(&[Statement::new(text)]).expect_err(text).to_string();
        assert!(error.contains(reason), "{text}: {error}");
        let why = store.sql_failure(&[text]);
        assert!(why.contains(reason), "{text}: {why}");
    }
}

/// It is compiled only when it comes to run, but asked about then as well.
#[test]
fn it_is_refused_in_what_a_trigger_or_a_view_does() {
    let mut store = store();
    store.sql(&[
        "CREATE TABLE u (a)",
        "CREATE VIEW peeks AS SELECT * FROM raft_meta",
        "CREATE TRIGGER reaches AFTER INSERT ON u BEGIN UPDATE raft_meta SET revision = 0; END",
        "CREATE TRIGGER loads AFTER DELETE ON u BEGIN SELECT load_extension('evil'); END",
    ]);
    for (text, reason) in [
        ("SELECT * FROM peeks", "belongs to RaftKV"),
        ("INSERT INTO u VALUES (1)", "belongs to RaftKV"),
        ("DELETE FROM u", "load_extension"),
    ] {
        let error = store.parts.reader.prepare(&[Statement::new(text).into()]).expect_err(text).to_string();
        assert!(error.contains(reason), "{text}: {error}");
        let why = store.sql_failure(&[text]);
        assert!(why.contains(reason), "{text}: {why}");
    }
}

#[test]
fn what_is_over_a_limit_is_refused_before_it_is_replicated() {
    let store = store();
    let prepare = |statement: Statement| store.parts.reader.prepare(&[statement.into()]).unwrap_err().to_string();
    let long = format!("SELECT 1 -- {}", "x".repeat(limits::SQL_BYTES));
    assert!(prepare(Statement::new(long)).contains("at most 1048576 are allowed"));
    let too_many = format!("SELECT ?{}", limits::PARAMETERS + 1);
    assert!(prepare(Statement::new(too_many)).contains("variable number must be between ?1 and ?32766"));
    let values = vec![Parameter { name: None, value: Value::Null.into() }; limits::PARAMETERS + 1];
    let error = prepare(Statement { sql: "SELECT 1".into(), parameters: values });
    assert!(error.contains("32767"), "{error}");
    for (text, reason) in [
        (format!("SELECT {}1{}", "abs(".repeat(2000), ")".repeat(2000)), "Recursion limit"),
        (format!("INSERT INTO nowhere VALUES (1{})", " + 1".repeat(2000)), "maximum depth 1000"),
        (
            format!("INSERT INTO nowhere SELECT 1{}", " UNION SELECT 1".repeat(2000)),
            "too many terms in compound SELECT",
        ),
        ("INSERT INTO t VALUES (sleep(1))".to_owned(), "no such function: sleep"),
    ] {
        let error = prepare(Statement::new(text.as_str()));
        assert!(error.contains(reason), "{text:.60}: {error}");
    }
}

/// What only shows while it runs ends at the same point on every node: counted in rows, bytes and steps, never in time.
#[test]
fn what_runs_over_a_limit_is_stopped_and_undone() {
    let mut store = store();
    let endless = "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r)";
    for (text, reason) in [
        (format!("{endless} SELECT n FROM r"), "more than 1048576 bytes"),
        (format!("{endless} SELECT count(*) FROM r"), "more than 100000000 steps"),
        ("SELECT zeroblob(16777217)".to_owned(), "string or blob too big"),
        ("SELECT randomblob(16777217)".to_owned(), "at most 16777216 bytes"),
        ("SELECT 1;".repeat(limits::STATEMENTS + 1), "more than 1024 SQL statements"),
    ] {
        let why = store.sql_failure(&["INSERT INTO t VALUES ('undone')", &text]);
        assert!(why.contains(reason), "{text:.60}: {why}");
    }
    assert_eq!(store.value("SELECT count(*) FROM t"), Value::Integer(0));
}

fn store() -> Store {
    let mut store = Store::new();
    store.run(common::put("a", "1"));
    store.run(Operation::sql([Statement::new("CREATE TABLE t (a)")]));
    store.run(sql(&["CREATE TABLE numbered (id INTEGER PRIMARY KEY AUTOINCREMENT)"]));
    store
}

/// All but where the state stands.
fn tables(store: &Store) -> Vec<String> {
    let dump = store.dump();
    let is_position = |line: &&str| line.contains("000000000000c1");
    dump.lines().filter(|line| !is_position(line)).map(String::from).collect()
}
