//! What is told of what commands have changed.

mod common;

use common::{Store, as_steps, delete, put, sql};
use raft_core::port::{LogStore, StateMachine};
use raft_core::types::Payload;
use raft_store_sqlite::{
    Action, Change, Changed, Error, KeyRange, Operation, RowChange, RowChanges, Statement, Step, Value, limits,
};

fn changes(store: &Store, after: u64) -> Vec<Change> {
    store.parts.reader.changes(after, usize::MAX).unwrap().value
}

/// The rows that the last command has changed, as `before -> after`.
fn rows(store: &mut Store, statements: &[&str]) -> Vec<String> {
    let before = store.parts.reader.revision().unwrap();
    store.sql(statements);
    let tables = changes(store, before).into_iter().map(|change| match change.what {
        Changed::Rows(rows) => rows,
        other => panic!("{other:?}"),
    });
    tables
        .flat_map(|table| table.rows.iter().map(|row| format!("{} {}", table.table, shown(row))).collect::<Vec<_>>())
        .collect()
}

fn shown(row: &RowChange) -> String {
    let values = |row: &Option<Vec<Value>>| {
        row.as_ref().map_or("-".to_owned(), |values| values.iter().map(text).collect::<Vec<_>>().join(","))
    };
    format!("{} -> {}", values(&row.before), values(&row.after))
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(integer) => integer.to_string(),
        Value::Real(real) => format!("{real:?}"),
        Value::Text(text) => text.clone(),
        Value::Blob(blob) => format!("x{blob:?}"),
    }
}

#[test]
fn keys_are_told_with_what_they_were() {
    let mut store = Store::new();
    store.run(put("a", "1"));
    store.run(put("a", "2"));
    store.run(delete("a"));
    store.run(delete("a"));
    store.run(put("a", "3"));
    let told = changes(&store, 1).into_iter().map(|change| {
        let Changed::Key { key, before, after } = change.what else { panic!() };
        assert_eq!(key, "a");
        let value = |entry: Option<raft_store_sqlite::KeyValue>| entry.map(|entry| (entry.value, entry.version));
        (change.revision, change.part, value(before), value(after))
    });
    let value = |value: &'static str, version| Some((value.into(), version));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            (2, 0, None, value("1", 1)),
            (3, 0, value("1", 1), value("2", 2)),
            (4, 0, value("2", 2), None),
            (5, 0, None, value("3", 1)),
        ]
    );
}

#[test]
fn a_row_is_told_once_for_all_that_a_command_did_to_it() {
    let mut store = Store::new();
    store.sql(&["CREATE TABLE t (id INTEGER PRIMARY KEY, a, b AS (a || '!'))"]);
    let told = rows(&mut store, &["INSERT INTO t (a) VALUES ('x'), ('y')", "UPDATE t SET a = 'z' WHERE id = 2"]);
    assert_eq!(told, ["t - -> 1,x,x!", "t - -> 2,z,z!"]);
    assert_eq!(
        rows(&mut store, &["UPDATE t SET a = 'w' WHERE id = 1", "UPDATE t SET id = 9 WHERE id = 2"]),
        ["t 1,x,x! -> 1,w,w!", "t 2,z,z! -> -", "t - -> 9,z,z!",]
    );
    let before = store.parts.reader.revision().unwrap();
    // What comes to nothing is not told, and moves nothing.
    assert!(
        rows(&mut store, &["UPDATE t SET a = a", "INSERT INTO t VALUES (50, 1)", "DELETE FROM t WHERE id = 50"])
            .is_empty()
    );
    assert!(rows(&mut store, &["DELETE FROM t WHERE id = 77", "SELECT * FROM t"]).is_empty());
    assert_eq!(store.parts.reader.revision().unwrap(), before);
    assert_eq!(rows(&mut store, &["DELETE FROM t"]), ["t 1,w,w! -> -", "t 9,z,z! -> -"]);
}

#[test]
fn what_replaces_a_row_tells_of_it() {
    let mut store = Store::new();
    store.sql(&[
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a UNIQUE, b TEXT COLLATE NOCASE UNIQUE, n)",
        "CREATE TABLE w (x, y, n, PRIMARY KEY (x, y)) WITHOUT ROWID",
        "CREATE TABLE always (k UNIQUE ON CONFLICT REPLACE, n)",
        "CREATE TABLE odd (a, b)",
        "CREATE UNIQUE INDEX by_expression ON odd (a + b)",
        "INSERT INTO t VALUES (1, 'a', 'b', 0), (2, 'c', 'd', 0), (3, NULL, 'e', 0)",
        "INSERT INTO w VALUES (1, 1, 0)",
        "INSERT INTO always VALUES (1, 0)",
        "INSERT INTO odd VALUES (1, 2), (5, 5)",
    ]);
    assert_eq!(
        rows(&mut store, &["REPLACE INTO t VALUES (1, 'c', 'E', 1)"]),
        ["t 1,a,b,0 -> 1,c,E,1", "t 2,c,d,0 -> -", "t 3,NULL,e,0 -> -",]
    );
    assert_eq!(
        rows(&mut store, &["INSERT INTO t VALUES (4, 'd', 'f', 2)", "UPDATE OR REPLACE t SET a = 'd' WHERE id = 1"]),
        ["t 1,c,E,1 -> 1,d,E,1"]
    );
    assert_eq!(rows(&mut store, &["INSERT OR REPLACE INTO w VALUES (1, 1, 1)"]), ["w 1,1,0 -> 1,1,1"]);
    assert_eq!(rows(&mut store, &["INSERT INTO always VALUES (1, 7)"]), ["always 1,0 -> -", "always - -> 1,7"]);
    assert_eq!(rows(&mut store, &["REPLACE INTO odd VALUES (2, 1)"]), ["odd 1,2 -> -", "odd - -> 2,1"]);
    assert!(rows(&mut store, &["INSERT OR IGNORE INTO t VALUES (1, 'd', 'replace', 5)"]).is_empty());
}

#[test]
fn triggers_and_foreign_keys_of_users_are_told_as_well() {
    let mut store = Store::new();
    store.sql(&[
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a)",
        "CREATE TABLE child (id INTEGER PRIMARY KEY, t REFERENCES t ON DELETE CASCADE)",
        "CREATE TABLE audit (what)",
        "CREATE TRIGGER g AFTER INSERT ON t BEGIN
             INSERT INTO audit VALUES (new.a);
             UPDATE t SET a = new.a || '?' WHERE id = new.id;
         END",
    ]);
    assert_eq!(rows(&mut store, &["INSERT INTO t VALUES (1, 'x')"]), ["audit - -> x", "t - -> 1,x?"]);
    assert_eq!(rows(&mut store, &["INSERT INTO child VALUES (5, 1)"]), ["child - -> 5,1"]);
    assert_eq!(rows(&mut store, &["DELETE FROM t"]), ["child 5,1 -> -", "t 1,x? -> -"]);
}

#[test]
fn tables_may_change_in_the_middle_of_a_command() {
    let mut store = Store::new();
    let told = rows(&mut store, &[
        "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 2); ALTER TABLE t DROP COLUMN b; INSERT INTO t VALUES (3);
         ALTER TABLE t RENAME TO u; INSERT INTO u VALUES (4); ALTER TABLE u ADD COLUMN c DEFAULT 9; UPDATE u SET a = 5 WHERE a = 4;
         CREATE UNIQUE INDEX i ON u (a); REPLACE INTO u VALUES (5, 1)",
    ]);
    assert_eq!(told, ["t - -> 1,2", "t - -> 3", "u - -> 4", "u 4,9 -> 5,9", "u 5,9 -> -", "u - -> 5,1"]);
    let failed = store
        .sql_failure(&["ALTER TABLE u ADD COLUMN d; CREATE TABLE v (a); INSERT INTO v VALUES (1); SELECT abs('x', 1)"]);
    assert!(failed.contains("abs"), "{failed}");
    assert_eq!(rows(&mut store, &["INSERT INTO u VALUES (6, 6)"]), ["u - -> 6,6"]);
    // What undoes the transaction of several commands leaves the triggers in place, too.
    let broken = sql(&["CREATE TABLE v (a UNIQUE)", "INSERT OR ROLLBACK INTO u VALUES (6, 7)"]);
    store.apply(&[common::command(sql(&["CREATE TABLE z (a)"])), common::command(broken)]);
    assert_eq!(rows(&mut store, &["INSERT INTO z VALUES (1)"]), ["z - -> 1"]);
}

#[test]
fn rows_and_keys_of_a_command_share_its_revision() {
    let mut store = Store::new();
    store.sql(&["CREATE TABLE t (a)"]);
    let before = store.parts.reader.revision().unwrap();
    let mut steps = as_steps(&[Statement::new("INSERT INTO t VALUES (1)")]);
    steps.push(Step::from(Action::put("k", "v")));
    store.run(Operation::Run(steps));
    let told: Vec<_> = changes(&store, before).into_iter().map(|change| (change.revision, change.part)).collect();
    assert_eq!(told, [(before + 1, 0), (before + 1, 1)]);
    // A failed command has changed nothing.
    store.sql_failure(&["INSERT INTO t VALUES (2)", "SELECT abs(-9223372036854775808)"]);
    assert!(changes(&store, before + 1).is_empty());
}

#[test]
fn too_many_rows_are_told_as_such() {
    let mut store = Store::new();
    store.sql(&["CREATE TABLE t (a)", "CREATE TABLE small (a)"]);
    let before = store.parts.reader.revision().unwrap();
    let many = format!("INSERT INTO t VALUES (zeroblob({})), (zeroblob(9))", limits::CHANGE_BYTES);
    store.sql(&["INSERT INTO small VALUES (1)", &many]);
    let told: Vec<_> = changes(&store, before)
        .into_iter()
        .map(|change| match change.what {
            Changed::Rows(RowChanges { table, rows, too_many, .. }) => (table, rows.len(), too_many),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [("small".to_owned(), 1, false), ("t".to_owned(), 0, true)]);
}

#[test]
fn changes_come_in_whole_revisions_until_they_are_forgotten() {
    let mut store = Store::new();
    for key in ["a", "b", "c"] {
        store.run(Operation::Run(vec![Action::put(key, "1").into(), Action::put(format!("{key}2"), "1").into()]));
    }
    let told: Vec<_> = store.parts.reader.changes(2, 1).unwrap().value.iter().map(|change| change.revision).collect();
    assert_eq!(told, [3, 3]);
    store.run(Operation::Compact { revision: 3 });
    assert!(matches!(store.parts.reader.changes(2, 1), Err(Error::Compacted { revision: 3, first: 4 })));
    assert_eq!(changes(&store, 3).len(), 2);
    assert!(changes(&store, 99).is_empty());
    store.run(Operation::Run(vec![Action::Delete { range: KeyRange::prefix(""), previous: false }.into()]));
    assert_eq!(changes(&store, 4).len(), 6);
}

#[test]
fn nobody_but_us_calls_what_notes_the_rows() {
    let mut store = Store::new();
    store.sql(&["CREATE TABLE t (a)"]);
    let dropped = ["DROP TRIGGER temp.raft_came_t", "DROP TRIGGER raft_came_t"];
    for statement in dropped.into_iter().chain(["CREATE TEMP TRIGGER raft_x AFTER INSERT ON t BEGIN SELECT 1; END"]) {
        store.sql_failure(&[statement]);
    }
    for statement in
        ["SELECT raft_came('t', 1, 1, 1)", "SELECT raft_may_replace()", "DELETE FROM t WHERE raft_gone('t', 1, 1, 1)"]
    {
        let why = store.sql_failure(&[statement]);
        assert!(why.contains("belongs to RaftKV"), "{why}");
    }
    let trigger = "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT raft_came('t', 1, 1, 1); END";
    store.sql(&[trigger]);
    assert!(store.sql_failure(&["INSERT INTO t VALUES (1)"]).contains("belongs to RaftKV"));
}

/// A table that refers to a name which says `replace` is watched more closely, until the name is another: also on a node that has not restarted since.
#[test]
fn what_is_told_does_not_depend_on_how_the_tables_came_to_be() {
    let made = [
        "CREATE TABLE p (\"replace\" PRIMARY KEY)",
        "CREATE TABLE c (id INTEGER PRIMARY KEY, x UNIQUE, p REFERENCES p (\"replace\"))",
        "INSERT INTO c (id, x) VALUES (1, 'one'), (5, 'five')",
    ];
    let renamed = ["ALTER TABLE p RENAME COLUMN \"replace\" TO a"];
    let changed = [
        "INSERT OR IGNORE INTO c (x) VALUES ('one')",
        "UPDATE c SET x = upper(x) WHERE id = 5",
        "UPDATE c SET x = 'uno' WHERE id = 1",
    ];
    let dumps = [false, true].map(|restarts| {
        let mut store = Store::new();
        for statements in [&made[..], &renamed, &changed] {
            let entry = store.entry(Payload::Command(common::command(sql(statements)).encode()));
            store.parts.log.write(&[common::append(vec![entry.clone()])]).unwrap();
            store.state_machine().apply(&[entry]).unwrap();
            if restarts {
                let Store { parts, next, folder } = store;
                drop(parts);
                store = Store { parts: common::open(folder.path()).unwrap(), next, folder };
            }
        }
        store.dump()
    });
    assert_eq!(dumps[0], dumps[1]);
}
