//! What commands do: once each, all or nothing, and the same on every node.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use common::{
    Store, TIME_MS, as_steps, command, delete, entry, failure, in_session, membership, put, sql, statement_results,
    was_deleted, was_put,
};
use proptest::prelude::*;
use raft_core::port::{LogStore, StateMachine};
use raft_core::types::{EntryId, Index, NodeId, Payload, Term};
use raft_store_sqlite::{
    Answer, Command, Error, KeyValue, Operation, Outcome, Parameter, Parts, Statement, Value, limits, state_path,
};

fn int(integer: i64) -> Value {
    Value::Integer(integer)
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

#[test]
fn keys_have_the_revisions_of_etcd() {
    let mut store = Store::new();
    assert_eq!(store.parts.reader.revision().unwrap(), 1);
    let commands = [put("a", "1"), put("b", "1"), put("a", "2"), delete("b"), delete("b"), put("b", "3")].map(command);
    let answers = store.apply(&commands);
    let expected = [
        (2, was_put(false)),
        (3, was_put(false)),
        (4, was_put(true)),
        (5, was_deleted(1)),
        (5, was_deleted(0)),
        (6, was_put(false)),
    ];
    assert_eq!(answers, expected.map(|(revision, outcome)| Answer { revision, outcome }));
    let a = store.parts.reader.get(&"a".into()).unwrap().value.unwrap();
    assert_eq!((a.value, a.create_revision, a.mod_revision, a.version), ("2".into(), 2, 4, 2));
    let b = store.parts.reader.get(&"b".into()).unwrap().value.unwrap();
    assert_eq!((b.value, b.create_revision, b.mod_revision, b.version), ("3".into(), 6, 6, 1));
    let history = store.rows("SELECT revision, key, value, version FROM raft_changes ORDER BY change");
    assert_eq!(history.len(), 5);
    assert_eq!(history[3], [int(5), text("b"), Value::Null, int(0)], "a deleted key leaves a mark in history");
}

#[test]
fn keys_and_values_are_bytes() {
    let mut store = Store::new();
    let all: Vec<Bytes> =
        [&b"text"[..], "grün".as_bytes(), b"\xff\xfe", b"a\0b", b"\0", b"1", b"1.0", b"x'00'"].map(Bytes::from).into();
    for key in &all {
        store.run(Operation::put(key.clone(), key.clone()));
    }
    store.run(Operation::put("empty", Bytes::new()));
    for key in &all {
        assert_eq!(store.parts.reader.get(key).unwrap().value.unwrap().value, key);
    }
    assert_eq!(store.parts.reader.get(&"empty".into()).unwrap().value.unwrap().value, "");
    assert_eq!(store.value("SELECT count(*) FROM kv"), int(9));
    assert_eq!(
        store.value("SELECT value FROM kv WHERE key = 'grün'"),
        text("grün"),
        "SQL can compare keys that are text"
    );
    assert_eq!(store.value("SELECT value FROM kv WHERE key = x'fffe'"), Value::Blob(b"\xff\xfe"[..].into()));
}

#[test]
fn reading_a_key_by_sql_uses_its_index() {
    let store = Store::new();
    let plan = format!("{:?}", store.rows("EXPLAIN QUERY PLAN SELECT value FROM kv WHERE key = 'a'"));
    assert!(plan.contains("SEARCH raft_kv USING PRIMARY KEY"), "{plan}");
}

#[test]
fn only_commands_are_answered_and_every_entry_counts_as_applied() {
    let mut store = Store::new();
    let entries = [
        entry(1, Payload::Membership(membership().into())),
        entry(2, Payload::Noop),
        entry(3, Payload::Command(command(put("a", "1")).encode())),
        entry(4, Payload::Noop),
    ];
    let answers = store.state_machine().apply(&entries).unwrap();
    assert_eq!(answers.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, true, false]);
    let last = EntryId::new(Index(4), Term(1));
    assert_eq!(store.state_machine().applied().unwrap(), last);
    assert_eq!(store.parts.reader.applied().unwrap(), last);
    assert_eq!(store.parts.reader.get(&"a".into()).unwrap().applied, last);
}

#[test]
fn the_state_is_found_again_after_a_restart() {
    let mut store = Store::new();
    let command = command(put("a", "1"));
    let entries = [entry(1, Payload::Command(command.encode()))];
    store.parts.log.write(&[common::append(entries.to_vec())]).unwrap();
    store.state_machine().apply(&entries).unwrap();
    let Store { parts, folder, .. } = store;
    drop(parts);
    let parts = common::open(folder.path()).unwrap();
    assert_eq!(parts.state_machine.applied().unwrap(), EntryId::new(Index(1), Term(1)));
    assert_eq!(parts.reader.get(&"a".into()).unwrap().value.unwrap().value, "1");
}

/// A node that was killed leaves its latest changes beside the file.
#[test]
fn a_state_is_whole_after_a_crash() {
    let mut store = Store::new();
    store.apply(&[in_session(1, 0, put("a", "1")), command(sql(&["CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"]))]);
    let image = tempfile::tempdir().unwrap();
    let name = |folder: &Path, suffix: &str| format!("{}{suffix}", state_path(folder, NodeId(1)).display());
    for suffix in ["", "-wal"] {
        std::fs::copy(name(store.folder.path(), suffix), name(image.path(), suffix)).unwrap();
    }
    assert_eq!(raft_store_sqlite::dump(&state_path(image.path(), NodeId(1))).unwrap(), store.dump());
}

#[test]
fn the_parts_may_be_used_on_different_threads() {
    fn is_send<T: Send>(_: &T) {}
    fn is_shared<T: Send + Sync + Clone>(_: &T) {}
    let Parts { log, state_machine, reader } = Store::new().parts;
    is_send(&log);
    is_send(&state_machine);
    is_shared(&reader);
}

#[test]
fn sql_answers_with_columns_rows_and_counts() {
    let mut store = Store::new();
    let results = store.sql(&[
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)",
        "INSERT INTO t (a, b) VALUES (1, 'x'), (2.5, NULL)",
        "INSERT INTO t (a) VALUES (x'00ff') RETURNING id, a",
        "UPDATE t SET b = 'y' WHERE id < 3",
        "SELECT a, b FROM t WHERE id <= 2 ORDER BY id",
        "DELETE FROM t WHERE id > 7",
    ]);
    assert_eq!(results.iter().map(|result| result.rows_affected).collect::<Vec<_>>(), [0, 2, 1, 2, 0, 0]);
    assert_eq!(results.iter().map(|result| result.last_insert_id).collect::<Vec<_>>(), [0, 2, 3, 3, 3, 3]);
    assert_eq!(results[2].columns, ["id", "a"]);
    assert_eq!(results[2].rows, [[int(3), Value::Blob(b"\0\xff"[..].into())]]);
    assert_eq!(results[4].rows, [[int(1), text("y")], [Value::Real(2.5), text("y")]]);
}

#[test]
fn a_text_may_hold_several_statements_that_build_on_each_other() {
    let mut store = Store::new();
    let results =
        store.sql(&["CREATE TABLE t (a); INSERT INTO t VALUES (';'); -- a comment; and more\n SELECT a FROM t;"]);
    assert_eq!(results.len(), 3);
    assert_eq!(results[2].rows, [[text(";")]]);
}

#[test]
fn columns_are_those_of_the_table_as_it_is_now() {
    let mut store = Store::new();
    store.sql(&["CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"]);
    assert_eq!(store.sql(&["SELECT * FROM t"])[0].columns, ["a"]);
    store.sql(&["ALTER TABLE t ADD COLUMN b DEFAULT 2"]);
    let result = store.sql(&["SELECT * FROM t"]).remove(0);
    assert_eq!((result.columns, result.rows), (vec!["a".into(), "b".into()], vec![vec![int(1), int(2)]]));
}

#[test]
fn a_failed_statement_undoes_its_command_and_no_other() {
    let mut store = Store::new();
    store.sql(&["CREATE TABLE t (a UNIQUE)"]);
    let commands = [
        command(sql(&["INSERT INTO t VALUES (1)"])),
        command(sql(&["INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (1)"])),
        command(sql(&["INSERT INTO t VALUES (3); INSERT INTO nowhere VALUES (1)"])),
        command(sql(&["CREATE TABLE u (a)", "SELECT missing()"])),
        command(sql(&["INSERT OR FAIL INTO t VALUES (4), (1), (5)"])),
        command(sql(&["INSERT INTO t VALUES (6)"])),
    ];
    let answers = store.apply(&commands);
    let failures: Vec<_> = answers[1..5].iter().map(|answer| failure(answer.outcome.clone())).collect();
    let expected = [
        "UNIQUE constraint failed: t.a",
        "no such table: nowhere",
        "no such function: missing",
        "UNIQUE constraint failed: t.a",
    ];
    assert_eq!(failures, expected);
    assert_eq!(store.rows("SELECT a FROM t ORDER BY a"), [[int(1)], [int(6)]]);
    assert_eq!(store.value("SELECT count(*) FROM sqlite_schema WHERE name = 'u'"), int(0));
}

/// The first trap of several commands in one transaction: SQLite undoes all of it for one of them.
#[test]
fn a_command_that_rolls_back_the_transaction_takes_no_other_with_it() {
    for trap in ["INSERT OR ROLLBACK INTO t VALUES (1)", "INSERT INTO trap VALUES (1)"] {
        let mut store = Store::new();
        store.sql(&[
            "CREATE TABLE t (a UNIQUE)",
            "CREATE TABLE trap (a)",
            "CREATE TRIGGER g AFTER INSERT ON trap BEGIN SELECT RAISE(ROLLBACK, 'sprung'); END",
        ]);
        let commands = [
            in_session(1, 0, put("before", "1")),
            in_session(2, 0, sql(&["INSERT INTO t VALUES (1)"])),
            in_session(3, 0, sql(&["INSERT INTO t VALUES (2)", trap, "INSERT INTO t VALUES (3)"])),
            in_session(4, 0, put("after", "1")),
        ];
        let answers = store.apply(&commands);
        let why = failure(answers[2].outcome.clone());
        assert!(why == "UNIQUE constraint failed: t.a" || why == "sprung", "{why}");
        assert_eq!(store.rows("SELECT a FROM t"), [[int(1)]]);
        assert_eq!(store.rows("SELECT key FROM kv ORDER BY key"), [[text("after")], [text("before")]]);
        assert_eq!(answers.iter().map(|answer| answer.revision).collect::<Vec<_>>(), [2, 3, 3, 4]);
        assert_eq!(store.apply(&commands), answers, "each answer is kept, also that of the trap");
    }
}

/// The second trap: SQLite checks some foreign keys only when the transaction ends.
#[test]
fn a_deferred_foreign_key_fails_its_command_and_no_other() {
    let schema = [
        "CREATE TABLE p (id INTEGER PRIMARY KEY)",
        "CREATE TABLE c (p REFERENCES p (id) DEFERRABLE INITIALLY DEFERRED)",
    ];
    let commands = [
        in_session(1, 0, put("before", "1")),
        in_session(2, 0, sql(&["INSERT INTO c VALUES (7)"])),
        // Would mend it, if both were checked together.
        in_session(3, 0, sql(&["INSERT INTO p VALUES (7)"])),
        in_session(4, 0, sql(&["INSERT INTO c VALUES (8)", "INSERT INTO p VALUES (8)"])),
    ];
    // The keys may have been there before, or come with the same batch.
    for with_schema in [false, true] {
        let mut store = Store::new();
        let answers = if with_schema {
            let all: Vec<_> = [command(sql(&schema))].into_iter().chain(commands.clone()).collect();
            store.apply(&all).split_off(1)
        } else {
            store.sql(&schema);
            store.apply(&commands)
        };
        assert_eq!(failure(answers[1].outcome.clone()), "FOREIGN KEY constraint failed");
        for answered in [&answers[0], &answers[2], &answers[3]] {
            assert!(!matches!(answered.outcome, Outcome::Failed { .. }), "{answered:?}");
        }
        assert_eq!(store.rows("SELECT p FROM c"), [[int(8)]]);
        assert_eq!(store.value("SELECT count(*) FROM kv"), int(1));
        assert_eq!(store.apply(&commands), answers);
    }
}

#[test]
fn a_command_that_makes_and_breaks_a_deferred_key_fails_alone() {
    let mut store = Store::new();
    let breaks = sql(&[
        "CREATE TABLE p (id INTEGER PRIMARY KEY)",
        "CREATE TABLE c (p REFERENCES p (id) DEFERRABLE /* late */ INITIALLY Deferred)",
        "INSERT INTO c VALUES (7)",
    ]);
    let answers = store.apply(&[command(put("a", "1")), command(breaks), command(put("b", "1"))]);
    assert_eq!(failure(answers[1].outcome.clone()), "FOREIGN KEY constraint failed");
    assert_eq!(store.value("SELECT count(*) FROM kv"), int(2));
    assert_eq!(store.value("SELECT count(*) FROM sqlite_schema WHERE name IN ('p', 'c')"), int(0));
}

#[test]
fn immediate_foreign_keys_are_checked() {
    let mut store = Store::new();
    store.sql(&["CREATE TABLE p (id INTEGER PRIMARY KEY)", "CREATE TABLE c (p REFERENCES p (id))"]);
    assert_eq!(store.sql_failure(&["INSERT INTO c VALUES (7)"]), "FOREIGN KEY constraint failed");
}

#[test]
fn no_table_may_hang_on_ours() {
    let mut store = Store::new();
    for statements in [
        &["CREATE TABLE t (k REFERENCES raft_kv (key) ON DELETE CASCADE)"][..],
        &["CREATE TABLE t (k REFERENCES KV (key))"],
        &["CREATE TABLE t (a)", "ALTER TABLE t ADD COLUMN k REFERENCES raft_sessions (client)"],
        &["CREATE TABLE t (a)", "ALTER TABLE t RENAME TO raft_t"],
        &["CREATE TABLE t (a)", "ALTER TABLE t RENAME TO RAFT_T"],
    ] {
        let why = store.sql_failure(statements);
        assert!(why.contains("belong to RaftKV"), "{statements:?}: {why}");
    }
    assert_eq!(store.value("SELECT count(*) FROM sqlite_schema WHERE name LIKE '%t'"), int(0));
}

#[test]
fn a_retry_gets_the_first_answer_and_changes_nothing() {
    let mut store = Store::new();
    store.sql(&["CREATE TABLE t (a DEFAULT (random()))"]);
    let commands = [
        in_session(1, 0, put("a", "1")),
        in_session(2, 0, delete("a")),
        in_session(3, 0, sql(&["INSERT INTO t DEFAULT VALUES RETURNING a, 1.5, 'x', x'00', NULL"])),
        in_session(4, 0, sql(&["INSERT INTO nowhere VALUES (1)"])),
    ];
    let first = store.apply(&commands);
    let retries = commands.clone().map(|command| Command { seed: [99; 16], time_ms: TIME_MS + 5000, ..command });
    assert_eq!(store.apply(&retries), first);
    assert_eq!(store.value("SELECT count(*) FROM t"), int(1));
    // In one batch with the first, too.
    let twice = [in_session(5, 0, put("b", "1")), in_session(5, 0, put("b", "1"))];
    let answers = store.apply(&twice);
    assert_eq!(answers[0], answers[1]);
    assert_eq!(store.parts.reader.get(&"b".into()).unwrap().value.unwrap().version, 1);
}

#[test]
fn commands_of_a_session_may_come_in_any_order() {
    let mut store = Store::new();
    let [third, first] = [in_session(3, 0, put("a", "3")), in_session(1, 0, put("a", "1"))];
    store.apply(&[third, first]);
    assert_eq!(store.parts.reader.get(&"a".into()).unwrap().value.unwrap().value, "1");
}

#[test]
fn a_forgotten_answer_is_refused_and_never_guessed() {
    let mut store = Store::new();
    store.apply(&[in_session(1, 0, put("a", "1")), in_session(2, 0, put("a", "2")), in_session(3, 2, put("a", "3"))]);
    let answers = store.apply(&[
        in_session(1, 0, put("a", "1")),
        in_session(2, 1, put("a", "2")),
        in_session(3, 2, put("a", "9")),
    ]);
    assert_eq!(answers[0].outcome, Outcome::Forgotten);
    assert_eq!(answers[1].outcome, Outcome::Forgotten);
    assert_eq!(answers[2], Answer { revision: 4, outcome: was_put(true) });
    assert_eq!(store.parts.reader.get(&"a".into()).unwrap().value.unwrap().value, "3");
    assert_eq!(store.dump().matches("x'636c69656e74', 1795437296789, 3, ").count(), 1, "the other answers are gone");
}

#[test]
fn what_a_client_has_confirmed_it_can_not_take_back() {
    let mut store = Store::new();
    let answers = store.apply(&[
        in_session(3, 2, put("a", "3")),
        in_session(4, 0, put("a", "4")),
        in_session(1, 0, put("a", "1")),
    ]);
    assert_eq!(answers[1].outcome, was_put(true));
    assert_eq!(answers[2].outcome, Outcome::Forgotten);
}

#[test]
fn sessions_of_different_clients_do_not_meet() {
    let mut store = Store::new();
    let mut other = in_session(1, 0, put("b", "1"));
    other.session.as_mut().unwrap().client = "other".into();
    let answers = store.apply(&[in_session(1, 0, put("a", "1")), other]);
    assert_eq!(answers.iter().map(|answer| answer.revision).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn a_client_that_confirms_no_answers_is_refused_before_it_fills_the_store() {
    let mut store = Store::new();
    let limit = limits::UNANSWERED;
    let answers = store.apply(&[
        in_session(limit, 0, put("a", "1")),
        in_session(limit + 1, 0, put("a", "2")),
        in_session(limit + 1, 1, put("a", "3")),
    ]);
    assert_eq!(answers[0].outcome, was_put(false));
    assert_eq!(answers[1].outcome, Outcome::TooManyUnanswered);
    assert_eq!(answers[2].outcome, was_put(true));
}

#[test]
fn parameters_are_bound_by_position_and_by_name() {
    let mut store = Store::new();
    store.sql(&["CREATE TABLE t (a, b, c, d, e)"]);
    let values = [int(i64::MIN), Value::Real(0.1), text("it's; \0"), Value::Blob(b"\xff"[..].into()), Value::Null];
    let insert = Statement::with("INSERT INTO t VALUES (?, ?, ?, ?, ?)", values.clone());
    let named = |name: &str, value: Value| Parameter { name: Some(name.into()), value: value.into() };
    let select = Statement {
        sql: "SELECT * FROM t WHERE a = :a AND b = $b AND c = @c".into(),
        parameters: vec![
            named("@c", values[2].clone()),
            named("$b", values[1].clone()),
            named(":a", values[0].clone()),
        ],
    };
    let outcome = store.run(Operation::sql([insert, select]));
    let results = statement_results(outcome);
    assert_eq!(results[1].rows, [values]);
}

#[test]
fn parameters_that_do_not_fit_fail_with_a_reason() {
    let mut store = Store::new();
    let named = |name: &str| Parameter { name: Some(name.into()), value: Value::Null.into() };
    let positional = || Parameter { name: None, value: Value::Null.into() };
    for (sql, parameters, reason) in [
        ("SELECT ?", vec![], "there is no value for parameter 1 of 1"),
        ("SELECT ?, :x", vec![positional()], "there is no value for parameter 2 (:x) of 2"),
        ("SELECT ?", vec![positional(), positional()], "2 values are given for 1 parameters"),
        ("SELECT 1", vec![positional()], "1 values are given for 0 parameters"),
        ("SELECT :x", vec![named("x")], "no parameter \"x\""),
        ("SELECT :x", vec![named(":x"), named(":x")], "parameter 1 is given twice"),
        ("SELECT ?; SELECT 2", vec![positional()], "one SQL statement only"),
    ] {
        let statements = vec![Statement { sql: sql.into(), parameters }];
        let prepared = store.parts.reader.prepare(&as_steps(&statements)).unwrap_err().to_string();
        assert!(prepared.contains(reason), "{sql}: {prepared}");
        let applied = failure(store.run(Operation::sql(statements)));
        assert!(applied.contains(reason), "{sql}: {applied}");
    }
}

#[test]
fn what_is_not_allowed_fails_when_it_is_applied_too() {
    let mut store = Store::new();
    let before = store.dump();
    for text in [
        "ATTACH ':memory:' AS x",
        "PRAGMA journal_mode = DELETE",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT command",
        "RELEASE command",
        "VACUUM",
        "CREATE TEMP TABLE x (a)",
        "DELETE FROM raft_meta",
        "UPDATE kv SET value = 'x'",
        "SELECT load_extension('x')",
        "EXPLAIN SELECT 1",
        "",
        "-- nothing",
        ";;",
        "SELECT 1\0; DROP TABLE x",
    ] {
        assert_ne!(store.sql_failure(&[text]), "", "{text}");
    }
    let position =
        |dump: &str| dump.lines().filter(|line| !line.contains("000000000000c1")).collect::<Vec<_>>().join("\n");
    assert_eq!(position(&store.dump()), position(&before));
}

/// The cache of compiled statements holds ours as well, which no fence was around.
#[test]
fn a_statement_of_ours_is_refused_when_a_client_sends_it() {
    let mut store = Store::new();
    store.apply(&[in_session(1, 0, put("a", "1")), in_session(2, 1, sql(&["SELECT 1"]))]);
    for ours in [
        "BEGIN IMMEDIATE",
        "COMMIT",
        "ROLLBACK TO command",
        "RELEASE command",
        "DELETE FROM temp.raft_reset WHERE 0",
        "PRAGMA schema_version",
    ] {
        assert_ne!(store.sql_failure(&[ours]), "");
    }
}

#[test]
fn ten_thousand_statements_in_a_text_are_too_many_and_no_more() {
    let mut store = Store::new();
    let why = store.sql_failure(&[&"SELECT 1;".repeat(100_000)]);
    assert!(why.contains("more than 1024 SQL statements"), "{why}");
}

#[test]
fn what_a_command_yields_is_bounded() {
    let mut store = Store::new();
    let why = store.sql_failure(&["WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r"]);
    assert!(why.contains(&format!("more than {} bytes", limits::ANSWER_BYTES)), "{why}");
    let why = store.sql_failure(&["SELECT zeroblob(100000000)"]);
    assert_eq!(why, "string or blob too big");
}

#[test]
fn the_names_of_columns_count_as_well() {
    let mut store = Store::new();
    let long = "c".repeat(900_000);
    store.sql(&[&format!("CREATE TABLE t ({long})")]);
    let insert = in_session(1, 0, sql(&["INSERT INTO t VALUES (1) RETURNING *"; 40]));
    let why = failure(store.apply(&[insert]).remove(0).outcome);
    assert!(why.contains(&format!("more than {} bytes", limits::ANSWER_BYTES)), "{why}");
    assert!(store.rows("SELECT 1 FROM t").is_empty());
}

#[test]
fn the_message_of_a_failed_command_is_bounded() {
    let mut store = Store::new();
    store.sql(&["CREATE TABLE t (a)"]);
    for (value, action) in [(1, "ABORT"), (2, "ROLLBACK")] {
        let raise = format!("SELECT RAISE({action}, 'x' || printf('%.*c', 16000000, 'ä'))");
        store.sql(&[&format!("CREATE TRIGGER r{value} BEFORE INSERT ON t WHEN new.a = {value} BEGIN {raise}; END")]);
    }
    for (sequence, statement) in [(1, "INSERT INTO t VALUES (1)"), (2, "INSERT INTO t VALUES (2)")] {
        let answers = store.apply(&[in_session(sequence, 0, sql(&[statement]))]);
        let why = failure(answers[0].outcome.clone());
        assert!(why.len() <= limits::MESSAGE_BYTES, "{}", why.len());
        let retry = store.apply(&[in_session(sequence, 0, sql(&[statement]))]);
        assert_eq!(retry, answers);
    }
}

#[test]
fn a_command_that_runs_away_is_stopped_and_undone() {
    let mut store = Store::new();
    store.sql(&["CREATE TABLE t (a)"]);
    let endless =
        "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) INSERT INTO t SELECT n FROM r WHERE n < 5";
    let why = store.sql_failure(&["INSERT INTO t VALUES (0)", endless]);
    assert!(why.contains("more than 100000000 steps"), "{why}");
    assert_eq!(store.value("SELECT count(*) FROM t"), int(0));
    store.sql(&["INSERT INTO t VALUES (1)"]);
}

#[test]
fn a_command_over_a_limit_fails_when_it_is_applied_too() {
    let mut store = Store::new();
    let long = "k".repeat(limits::KEY_BYTES + 1);
    assert_eq!(
        failure(store.run(put(&long, ""))),
        "the key (bytes) is too large: 65537, and at most 65536 are allowed"
    );
    let value = "v".repeat(limits::VALUE_BYTES + 1);
    assert_eq!(
        failure(store.run(put("k", &value))),
        "the value (bytes) is too large: 1048577, and at most 1048576 are allowed"
    );
    assert_eq!(failure(store.run(put("", ""))), "a key has at least one byte");
    assert_eq!(store.run(put(&long[1..], &value[1..])), was_put(false));
}

#[test]
fn the_rowid_after_which_sqlite_draws_lots_is_refused() {
    let max = i64::MAX;
    for (table, insert) in [
        ("CREATE TABLE t (id INTEGER PRIMARY KEY)", format!("INSERT INTO t VALUES ({max})")),
        ("CREATE TABLE t (a)", format!("INSERT INTO t (rowid, a) VALUES ({max}, 1)")),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY)", format!("INSERT INTO t VALUES ({max}), (NULL)")),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT)", format!("INSERT INTO t VALUES ({max}), (NULL)")),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY)", format!("INSERT INTO t VALUES (1); UPDATE t SET id = {max}")),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY)", format!("INSERT INTO t VALUES ({max} - 1), (NULL)")),
    ] {
        let mut store = Store::new();
        store.sql(&[table]);
        let why = store.sql_failure(&[&insert]);
        assert!(why.contains("rowid"), "{insert}: {why}");
        store.sql(&["INSERT INTO t DEFAULT VALUES"]);
    }
}

#[test]
fn chance_and_time_come_from_the_command_alone() {
    let statements = sql(&[
        "CREATE TABLE t (id INTEGER PRIMARY KEY, at DEFAULT CURRENT_TIMESTAMP, chance DEFAULT (random()), x DEFAULT (randomblob(5)))",
        "INSERT INTO t DEFAULT VALUES",
        "INSERT INTO t (chance) VALUES (random()), (random())",
        "SELECT *, changes(), last_insert_rowid() FROM t ORDER BY random()",
    ]);
    let mut stores = [Store::new(), Store::new()];
    // One has a past on its connection that the other has not.
    stores[1].sql(&[
        "CREATE TABLE other (a)",
        "INSERT INTO other VALUES (1), (2), (3)",
        "DROP TABLE other",
        "SELECT random()",
    ]);
    let answers = stores.each_mut().map(|store| store.run(statements.clone()));
    assert_eq!(answers[0], answers[1]);
    let other_seed = Command { seed: [8; 16], ..command(sql(&["SELECT random()"])) };
    let drawn = stores[0].apply(&[command(sql(&["SELECT random()"])), other_seed]);
    assert_ne!(drawn[0].outcome, drawn[1].outcome);
}

#[test]
fn what_ran_before_a_command_does_not_show_in_it() {
    let mut store = Store::new();
    store.sql(&["CREATE TABLE t (a)", "INSERT INTO t VALUES (1), (2)"]);
    let result = store.sql(&["SELECT changes(), last_insert_rowid()"]).remove(0);
    assert_eq!((result.rows, result.rows_affected, result.last_insert_id), (vec![vec![int(0), int(0)]], 0, 0));
}

#[test]
fn the_time_never_falls() {
    let mut store = Store::new();
    let at = |time_ms| Command { time_ms, ..command(sql(&["SELECT unixepoch('now', 'subsec')"])) };
    let answers = store.apply(&[at(5000), at(4000), at(6500)]);
    let times: Vec<_> = answers
        .into_iter()
        .map(|answer| statement_results(answer.outcome).remove(0).rows.remove(0).remove(0))
        .collect();
    assert_eq!(times, [Value::Real(5.0), Value::Real(5.0), Value::Real(6.5)]);
}

#[test]
fn a_clock_that_is_wildly_wrong_stops_nobody() {
    let mut store = Store::new();
    let command = Command { time_ms: u64::MAX, ..command(sql(&["SELECT CURRENT_TIMESTAMP"])) };
    let results = statement_results(store.apply(&[command]).remove(0).outcome);
    assert_eq!(results[0].rows, [[text("9999-12-31 23:59:59")]]);
}

#[test]
fn a_command_from_a_newer_version_stops_the_node() {
    let mut store = Store::new();
    let before = store.dump();
    let mut newer = command(put("a", "1")).encode().to_vec();
    newer[0] = 3;
    let entries =
        [entry(1, Payload::Command(command(put("b", "1")).encode())), entry(2, Payload::Command(newer.into()))];
    let error = store.state_machine().apply(&entries).unwrap_err();
    assert!(error.to_string().contains("2@1"), "{error}");
    assert!(error.to_string().contains("it has format 3"), "{error}");
    assert!(matches!(store.state_machine().apply(&entries[..1]), Err(Error::Poisoned { .. })));
    assert_eq!(store.dump(), before, "nothing of the batch is applied");
}

#[test]
fn a_command_of_an_unknown_operation_stops_the_node() {
    // The version is known, but the operation has another tag than any we know.
    let mut unknown = vec![2, 18, 16];
    unknown.extend([7; 16]);
    unknown.extend([15 << 3 | 2, 0]);
    let error = Command::decode(&unknown).unwrap_err();
    assert!(error.to_string().contains("operation is unknown"), "{error}");
    for bytes in [&b""[..], b"\0", b"\x01", b"\x02", b"\x02garbage", b"set x=1"] {
        Command::decode(bytes).unwrap_err();
    }
}

#[test]
fn a_command_is_decoded_to_what_it_was() {
    let statements = vec![
        Statement::with(
            "SELECT ?, ?, ?, ?, ?",
            [Value::Null, int(-1), Value::Real(-0.5), text(""), Value::Blob(Bytes::new())],
        ),
        Statement { sql: String::new(), parameters: vec![Parameter { name: Some(":a".into()), value: int(0).into() }] },
    ];
    for operation in [put("a", ""), delete("b"), Operation::sql(statements)] {
        let command = in_session(u64::MAX, 3, operation);
        assert_eq!(Command::decode(&command.encode()).unwrap(), command);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keys_agree_with_a_map(changes in prop::collection::vec((0..6u8, prop::option::of("[a-c]{0,2}")), 1..60)) {
        let mut store = Store::new();
        let mut twin: BTreeMap<String, KeyValue> = BTreeMap::new();
        let mut revision = 1;
        for (key, value) in changes {
            // Some keys are no text.
            let key = if key < 3 { Bytes::from(vec![b'a' + key]) } else { Bytes::from(vec![0xff, key]) };
            let name = format!("{key:?}");
            match value {
                Some(value) => {
                    revision += 1;
                    let before = twin.get(&name);
                    let (create_revision, version) =
                        before.map_or((revision, 1), |kv| (kv.create_revision, kv.version + 1));
                    let replaced = before.is_some();
                    let (copy, mod_revision) = (key.clone(), revision);
                    let kv = KeyValue { key: copy, value: value.into(), create_revision, mod_revision, version, lease: 0 };
                    let outcome = store.run(Operation::put(key, kv.value.clone()));
                    prop_assert_eq!(outcome, was_put(replaced));
                    twin.insert(name, kv);
                }
                None => {
                    let count = u64::from(twin.remove(&name).is_some());
                    revision += count;
                    prop_assert_eq!(store.run(Operation::delete(key)), was_deleted(count));
                }
            }
            prop_assert_eq!(store.parts.reader.revision().unwrap(), revision);
        }
        for kv in twin.values() {
            let seen = store.parts.reader.get(&kv.key).unwrap();
            prop_assert_eq!(seen.value.as_ref(), Some(kv));
        }
        prop_assert_eq!(store.value("SELECT count(*) FROM kv"), int(twin.len() as i64));
        prop_assert_eq!(store.value("SELECT count(*) + 1 FROM raft_changes"), int(revision as i64));
    }
}

/// Whatever clients send, a command is answered: what stopped one node would stop all of them, at every start.
#[test]
fn no_statement_stops_the_node() {
    let mut store = Store::new();
    store.sql(&[
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a)",
        "CREATE TABLE s (i INTEGER, x TEXT) STRICT",
        "CREATE TABLE loops (a)",
        "CREATE TRIGGER g AFTER INSERT ON loops BEGIN INSERT INTO loops2 VALUES (new.a); END",
        "CREATE TABLE loops2 (a)",
        "CREATE TRIGGER h AFTER INSERT ON loops2 BEGIN INSERT INTO loops VALUES (new.a + 1); END",
    ]);
    for text in large_statements().into_iter().chain(ODD_STATEMENTS.map(String::from)) {
        let entry = store.entry(Payload::Command(command(sql(&[&text])).encode()));
        let applied = store.state_machine().apply(&[entry]);
        assert!(applied.is_ok(), "{text:.60}: {applied:?}");
        // Nor may a read or a check, which may fail.
        let statements = [Statement::new(text)];
        let _ = store.parts.reader.prepare(&as_steps(&statements));
        let _ = store.parts.reader.query(&statements);
    }
    assert_eq!(store.run(put("a", "1")), was_put(false));
}

/// Statements that are long, wide or deep.
fn large_statements() -> Vec<String> {
    let nested =
        |open: &str, close: &str, depth: usize| format!("SELECT {}1{}", open.repeat(depth), close.repeat(depth));
    let repeated = |start: &str, more: &str, count: usize| format!("{start}{}", more.repeat(count));
    let columns = |count: usize| (0..count).map(|n| format!(", a{n}")).collect::<String>();
    let steps = |count: usize| (1..count).map(|n| format!(", c{n} AS (SELECT * FROM c{})", n - 1)).collect::<String>();
    let like = |length: usize| format!("SELECT '{}' LIKE '{}'", "a".repeat(2 * length), "%a".repeat(length));
    // As long as SQLite itself would allow.
    let mut statements = vec![like(25_000)];
    for size in [10, 200, 499, 900, 5_000] {
        statements.extend([
            nested("(", ")", size),
            nested("abs(", ")", size),
            nested("(SELECT ", ")", size),
            nested("CASE WHEN 1 THEN ", " END", size),
            repeated("SELECT 1", " + 1", size),
            repeated("SELECT 1", " UNION SELECT 1", size),
            repeated("SELECT count(*) FROM t WHERE 0", " AND a IN (SELECT a FROM t)", size),
            repeated("SELECT max(1", ", 1", size) + ")",
            repeated("SELECT * FROM t", ", t", size) + " LIMIT 1",
            format!("CREATE TABLE wide{size} (a{})", columns(size)),
            format!("WITH c0 AS (SELECT 1){} SELECT * FROM c{}", steps(size), size - 1),
            format!("SELECT json('{}1{}')", "[".repeat(size), "]".repeat(size)),
            like(size),
            like(size).replace("LIKE", "GLOB").replace('%', "*"),
        ]);
    }
    statements
}

/// Statements at the edge of what SQLite can do, or beyond.
const ODD_STATEMENTS: [&str; 45] = [
    "INSERT INTO loops VALUES (1)",
    "INSERT INTO s VALUES ('no number', 1)",
    "INSERT INTO t (id) VALUES ('no id')",
    "SELECT abs(-9223372036854775808)",
    "SELECT sum(a) FROM (SELECT 9223372036854775807 AS a UNION ALL SELECT 1)",
    "SELECT printf('%*d', 2000000000, 1)",
    "SELECT printf('%.*f', 2000000000, 1.0)",
    "SELECT zeroblob(9223372036854775807)",
    "SELECT replace(hex(zeroblob(1000000)), '00', zeroblob(1000000))",
    "SELECT group_concat(x, x) FROM (SELECT hex(zeroblob(1000000)) AS x UNION ALL SELECT hex(zeroblob(3000000)))",
    "SELECT json_extract('{', '$')",
    "SELECT * FROM json_each(x'ff')",
    "SELECT jsonb(x'8cffffff')",
    "SELECT 1 LIKE 2 ESCAPE 'ab'",
    "SELECT RAISE(ABORT, 'x')",
    "SELECT nth_value(1, 0) OVER ()",
    "SELECT * FROM t WHERE a MATCH 'x'",
    "SELECT date('now', 'localtime')",
    "SELECT julianday(1e300), datetime('now', '+9e300 years'), strftime('%', 'now'), timediff(1, 2)",
    "SELECT randomblob(NULL), randomblob('x'), randomblob(-1), randomblob(1e300)",
    "REINDEX nowhere",
    "DROP TABLE sqlite_sequence",
    "DROP TABLE sqlite_schema",
    "CREATE TABLE sqlite_x (a)",
    "CREATE INDEX i ON t (random())",
    "CREATE INDEX i ON t (date(a))",
    "CREATE TABLE x (a AS (b), b AS (a))",
    "CREATE VIEW v AS SELECT * FROM v; SELECT * FROM v",
    "WITH RECURSIVE r AS (SELECT * FROM r) SELECT * FROM r",
    "ALTER TABLE t DROP COLUMN id",
    "ALTER TABLE s RENAME COLUMN i TO x",
    "CREATE TABLE p (a, b, PRIMARY KEY (a, b)); CREATE TABLE c (x REFERENCES p (a)); INSERT INTO c VALUES (1)",
    "INSERT INTO t SELECT NULL, a FROM t UNION ALL SELECT NULL, 1",
    "UPDATE t SET id = id + 1; UPDATE t SET id = -9223372036854775808",
    "SELECT * FROM pragma_table_info('t', 'main'), pragma_index_list('t')",
    "SELECT CAST(x'fffe00' AS TEXT) AS \"\u{1f600}\"",
    "SELECT * FROM t ORDER BY 9",
    "SELECT 1e999, -1e999, 1e999 - 1e999",
    "SELECT unistr('\\ud800'), char(0xd800), char(1114112)",
    "\u{feff}SELECT 1",
    "SELECT 1 /* open",
    "SELECT 1; /* open",
    "SELECT ?99999",
    "SELECT @, :, $",
    "INSERT INTO t (a) VALUES (1) RETURNING (SELECT count(*) FROM t), raise",
];

/// Makes things that set each other off in a long row.
#[test]
fn no_row_of_triggers_views_or_keys_stops_the_node() {
    const LENGTH: usize = 1100;
    let mut store = Store::new();
    store.sql(&["CREATE TABLE view0 (x)"]);
    let links = [
        "CREATE TABLE a# (x); CREATE TRIGGER g# AFTER INSERT ON a# BEGIN INSERT INTO a@ VALUES (new.x); END",
        "CREATE VIEW view@ AS SELECT * FROM view#",
        "CREATE TABLE key# (x PRIMARY KEY REFERENCES key@ (x) ON UPDATE CASCADE ON DELETE CASCADE)",
    ];
    for link in links {
        let texts: Vec<_> =
            (0..LENGTH).map(|n| link.replace('#', &n.to_string()).replace('@', &(n + 1).to_string())).collect();
        for texts in texts.chunks(500) {
            store.sql(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
    store.sql(&[&format!("CREATE TABLE key{LENGTH} (x PRIMARY KEY)")]);
    let deletion = format!("DELETE FROM key{LENGTH}");
    let update = format!("UPDATE key{LENGTH} SET x = 1");
    for set_off in ["INSERT INTO a0 VALUES (1)", &format!("SELECT * FROM view{LENGTH}"), &deletion, &update] {
        let why = store.sql_failure(&[set_off]);
        assert!(why.contains("nested too deep"), "{set_off}: {why}");
        let _ = store.parts.reader.prepare(&[Statement::new(set_off).into()]);
        let _ = store.parts.reader.query(&[Statement::new(set_off)]);
    }
}
