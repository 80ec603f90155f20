//! Whether the steps of a statement are counted alike, whatever else a node has run and compiled before.

use rusqlite::StatementStatus;

use super::order::{Replica, sql};

const COUNT: &str = "SELECT count(*) FROM t";

/// SQLite would add the steps that it takes to find out that a statement is out of date. The fence checks that it does not.
#[test]
fn no_statement_that_was_compiled_earlier_is_found_out_of_date() {
    let count = &sql(&[COUNT]);
    let makes = &sql(&["CREATE TABLE u (a)"]);
    let fails = &sql(&["INSERT INTO t VALUES (1)"]);
    let makes_and_fails = &sql(&["CREATE INDEX i ON t (a)", COUNT, "INSERT INTO t VALUES (1)"]);
    let loses_all = &sql(&["ALTER TABLE t ADD COLUMN b", "INSERT OR ROLLBACK INTO t (a) VALUES (1)"]);
    for batches in [
        &[&[count][..], &[makes], &[count]][..],
        &[&[count], &[makes, count]],
        &[&[count], &[makes, fails, count], &[count]],
        &[&[count], &[&sql(&["CREATE TABLE u (a)", COUNT, "DROP TABLE u", COUNT])], &[count]],
        &[&[count], &[&sql(&["CREATE TABLE u (a); DROP TABLE u", COUNT])], &[count]],
        &[&[count], &[makes_and_fails], &[count]],
        &[&[count], &[count, makes_and_fails, count], &[count]],
        &[&[count], &[loses_all], &[count]],
        &[&[count, loses_all, count], &[count]],
    ] {
        let mut replica = Replica::new();
        replica.apply(1, &[sql(&["CREATE TABLE t (a UNIQUE)", "INSERT INTO t VALUES (1)"])]);
        for batch in batches {
            replica.apply(2, &batch.iter().map(|&operation| operation.clone()).collect::<Vec<_>>());
        }
    }
}

/// Compiling costs more than running.
#[test]
fn a_statement_is_compiled_once_where_nothing_changes_the_schema() {
    let mut replica = Replica::new();
    replica.apply(1, &[sql(&["CREATE TABLE t (a UNIQUE)"])]);
    for _ in 0..3 {
        replica.apply(2, &[sql(&[COUNT]), sql(&["this fails"]), sql(&[COUNT])]);
    }
    let compiled = replica.state.connection.prepare_cached(&format!("/* sql */ {COUNT}")).unwrap();
    assert_eq!(compiled.get_status(StatementStatus::Run), 6);
}

/// How a statement is compiled must not show in what it does: some kinds keep their text, to the blank.
#[test]
fn a_statement_says_the_same_whether_or_not_the_schema_was_changed_just_before() {
    let makes = [
        sql(&["CREATE TABLE t (a)  ; "]),
        sql(&["CREATE INDEX i ON t (a)  ;"]),
        sql(&["CREATE VIEW v AS SELECT a /* blank */  ; -- end"]),
        sql(&["CREATE TABLE u AS SELECT 1 AS b ;", "SELECT b + 1  FROM u ;"]),
    ];
    let (mut together, mut apart) = (Replica::new(), Replica::new());
    let answers = together.apply(1, &makes);
    let one_by_one: Vec<_> =
        makes.iter().flat_map(|operation| apart.apply(1, std::slice::from_ref(operation))).collect();
    assert_eq!(answers, one_by_one);
    assert_eq!(together.dump(), apart.dump());
}
