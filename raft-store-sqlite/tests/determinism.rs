//! What SQL sees is the command's, and what comes of it the same on every node, at every time and after every restart.

mod common;

use common::{Store, TIME_MS, command, sql, statement_results};
use raft_store_sqlite::{Answer, Command, Operation, Statement, Value};

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

/// Stores that have applied the same, one entry at a time or all at once, and on one of them after a past of its own.
fn apply_everywhere(commands: &[Command]) -> (Store, Vec<Answer>) {
    let mut stores = [Store::new(), Store::new()];
    let answers: Vec<_> = commands.iter().flat_map(|command| stores[0].apply(std::slice::from_ref(command))).collect();
    assert_eq!(answers, stores[1].apply(commands));
    assert_eq!(stores[0].dump(), stores[1].dump());
    let [store, _] = stores;
    (store, answers)
}

#[test]
fn time_is_the_commands_wherever_sqlite_allows_it() {
    let schema = [
        "CREATE TABLE t (
             a, at DEFAULT CURRENT_TIMESTAMP, day AS (date(at)) STORED, hour AS (strftime('%H', at)),
             CHECK (date(at) < '2030-01-01')
         )",
        "CREATE INDEX by_day ON t (date(at))",
        "CREATE TABLE log (what DEFAULT (unixepoch('subsec')), julian)",
        "CREATE TRIGGER noted AFTER INSERT ON t BEGIN INSERT INTO log (julian) VALUES (julianday('now')); END",
        "CREATE VIEW recent AS SELECT a FROM t WHERE at >= datetime('now', '-1 hour')",
    ];
    let later =
        |hours: u64, statements: &[&str]| Command { time_ms: TIME_MS + hours * 3_600_000, ..command(sql(statements)) };
    let (store, answers) = apply_everywhere(&[
        later(0, &schema),
        later(0, &["INSERT INTO t (a) VALUES (1)"]),
        later(
            2,
            &["INSERT INTO t (a) VALUES (2) RETURNING at", "SELECT a FROM recent", "SELECT current_time, time('now')"],
        ),
    ]);
    let results = statement_results(answers[2].outcome.clone());
    assert_eq!(results[0].rows, [[text("2026-11-23 14:34:56")]]);
    assert_eq!(results[1].rows, [[Value::Integer(2)]], "the view looks back from the command's time");
    assert_eq!(results[2].rows, [[text("14:34:56"), text("14:34:56")]]);
    let rows = store.rows("SELECT at, day, hour FROM t WHERE date(at) = '2026-11-23' ORDER BY a");
    let row = |hour: &str| [text(&format!("2026-11-23 {hour}:34:56")), text("2026-11-23"), text(hour)];
    assert_eq!(rows, [row("12"), row("14")]);
    let times = store.rows("SELECT what, datetime(julian) FROM log ORDER BY what");
    assert_eq!(times[0], [Value::Real(1_795_437_296.789), text("2026-11-23 12:34:56")]);
}

#[test]
fn one_command_is_one_moment() {
    let (_, answers) = apply_everywhere(&[command(sql(&[
        "SELECT unixepoch('subsec')",
        "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 300000) SELECT count(*) FROM r",
        "SELECT unixepoch('subsec')",
    ]))]);
    let results = statement_results(answers[0].outcome.clone());
    assert_eq!(results[0].rows, results[2].rows);
}

#[test]
fn rowids_follow_from_the_rows_and_numbers_that_are_never_used_again_from_the_commands() {
    let (store, answers) = apply_everywhere(&[
        command(sql(&["CREATE TABLE t (a)", "CREATE TABLE n (id INTEGER PRIMARY KEY AUTOINCREMENT, a UNIQUE)"])),
        command(sql(&["INSERT INTO t VALUES (1), (2), (3)", "INSERT INTO n (a) VALUES (1), (2), (3)"])),
        command(sql(&["DELETE FROM t WHERE a > 1", "DELETE FROM n WHERE a > 1"])),
        command(sql(&["INSERT INTO n (a) VALUES (7), (1)"])),
        command(sql(&["INSERT INTO t VALUES (4)", "INSERT INTO n (a) VALUES (4) RETURNING id"])),
    ]);
    assert!(matches!(answers[3].outcome, raft_store_sqlite::Outcome::Failed { .. }), "it takes no number with it");
    assert_eq!(
        store.rows("SELECT rowid, a FROM t ORDER BY a")[1],
        [Value::Integer(2), Value::Integer(4)],
        "2 is free again"
    );
    assert_eq!(statement_results(answers[4].outcome.clone())[1].rows, [[Value::Integer(4)]], "2 and 3 are not");
}

/// Plans must not depend on what is bound, since a statement's plan is kept.
#[test]
fn a_plan_does_not_depend_on_parameters() {
    let mut store = Store::new();
    store.sql(&["CREATE TABLE t (a TEXT COLLATE NOCASE)", "CREATE INDEX i ON t (a)"]);
    let plan = |statement| format!("{:?}", store.parts.reader.query(&[statement]).unwrap().value[0].rows);
    let given = plan(Statement::new("EXPLAIN QUERY PLAN SELECT * FROM t WHERE a LIKE 'abc%'"));
    assert!(given.contains("SEARCH"), "{given}");
    let bound = plan(Statement::with("EXPLAIN QUERY PLAN SELECT * FROM t WHERE a LIKE ?", [text("abc%")]));
    assert!(bound.contains("SCAN"), "{bound}");
}

/// SQLite computes these itself, without the C library: a result of its version alone, which is in the contract.
#[test]
fn numbers_and_texts_are_made_of_each_other_by_sqlite() {
    let store = Store::new();
    for (sql, expected) in [
        ("0.1 + 0.2", "0.30000000000000004"),
        ("0.1 + 0.2 = 0.3", "0"),
        ("1e23", "1.0e+23"),
        ("9007199254740993.0", "9007199254740992.0"),
        ("CAST('2.2250738585072011e-308' AS REAL) > 0", "1"),
        ("printf('%.17g', 0.1)", "0.1"),
        ("printf('%.3f', 2.0005)", "2.001"),
        ("round(2.5) || round(-2.5) || round(1.005, 2)", "3.0-3.01.0"),
        ("CAST('12abc' AS INTEGER)", "12"),
        ("CAST(9223372036854775807 AS REAL)", "9.2233720368547758e+18"),
        ("9223372036854775807 + 1", "9.2233720368547758e+18"),
        ("1e308 * 10", "Inf"),
        ("1e308 * 10 - 1e308 * 10 IS NULL", "1"),
        ("-0.0", "0.0"),
        ("sum(x) FROM (SELECT 1e100 AS x UNION ALL SELECT 1.0 UNION ALL SELECT -1e100)", "1.0"),
        ("typeof('1' + 1) || typeof('1.0' + 1) || typeof(7 / 2)", "integerrealinteger"),
    ] {
        let (value, from) = sql.split_once(" FROM ").unwrap_or((sql, ""));
        let from = if from.is_empty() { String::new() } else { format!(" FROM {from}") };
        assert_eq!(store.value(&format!("SELECT CAST({value} AS TEXT){from}")), text(expected), "{sql}");
    }
}

/// So no node's language, or version of Unicode, is in it.
#[test]
fn only_the_letters_of_ascii_have_two_cases() {
    let store = Store::new();
    for (sql, expected) in [
        ("upper('aä')", "Aä"),
        ("lower('AÄ')", "aÄ"),
        ("'a' LIKE 'A'", "1"),
        ("'ä' LIKE 'Ä'", "0"),
        ("'ä' = 'Ä' COLLATE NOCASE", "0"),
        ("'a' = 'A' COLLATE NOCASE", "1"),
        ("'z' < 'ä'", "1"),
        ("length('ä') || length(CAST('ä' AS BLOB))", "12"),
    ] {
        assert_eq!(store.value(&format!("SELECT CAST({sql} AS TEXT)")), text(expected), "{sql}");
    }
}

#[test]
fn a_misspelt_column_is_no_text() {
    let mut store = Store::new();
    assert_eq!(
        store.sql_failure(&["SELECT \"mispelt\""]),
        "no such column: \"mispelt\" - should this be a string literal in single-quotes?"
    );
    let index = Operation::sql([Statement::new("CREATE TABLE t (a); CREATE INDEX i ON t (\"b\")")]);
    let why = common::failure(store.run(index));
    assert!(why.contains("\"b\""), "{why}");
}
