//! States that came of the same entries have the same checksum, and a state that anything else was done to has another.

mod common;

use std::sync::atomic::AtomicU64;
use std::sync::mpsc;
use std::time::Duration;

use common::{Store, append, command, delete, put, sql};
use raft_core::port::{LogStore, StateMachine};
use raft_core::types::{EntryId, Index, NodeId, Payload, Term};
use raft_store_sqlite::{Checksum, Command, DataDir, Error, Marks, Operation, Outcome, checksum, state_path};
use rusqlite::Connection;

/// Something of everything that a state may hold.
const SQL: [&str; 15] = [
    "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a, r DEFAULT (random()), v AS (abs(a)))",
    "CREATE TABLE plain (a, b)",
    "CREATE TABLE w (a TEXT COLLATE NOCASE, b, c AS (b || 'x') STORED, PRIMARY KEY (a COLLATE BINARY, b DESC)) WITHOUT ROWID",
    "CREATE TABLE shadowed (rowid, _rowid_ TEXT, oid)",
    "CREATE TABLE \"odd \"\" name\" (\"odd \"\" column\" CHECK (random() % 2 IN (0, 1, -1)))",
    "CREATE TABLE \"by chance\" (a CHECK (random() % 2))",
    "CREATE TABLE unreadable (a)",
    "INSERT INTO unreadable VALUES (-9223372036854775807 - 1); ALTER TABLE unreadable ADD COLUMN v AS (abs(a))",
    "CREATE INDEX i ON t (a)",
    "CREATE INDEX j ON plain (b)",
    "CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO plain VALUES (new.a, 1.0); END",
    "INSERT INTO t (a) VALUES (1), (2), (-9), (NULL), ('text'), (x'00ff'), (1.5)",
    "INSERT INTO w VALUES ('a', 1), ('A', 2), ('b', 1.5), ('b', x'00')",
    "INSERT INTO shadowed VALUES (2, 'b', 1), (1, 'a', 2), (2, 'b', 1); INSERT INTO \"odd \"\" name\" VALUES (1)",
    "INSERT OR IGNORE INTO \"by chance\" WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 50) SELECT n FROM r",
];

fn history() -> Vec<Command> {
    let mut commands: Vec<_> = SQL.iter().map(|text| command(sql(&[text]))).collect();
    commands.push(command(put("colour", "blue")));
    commands.push(command(put("colour", "red")));
    commands.push(command(delete("colour")));
    commands.push(common::in_session(1, 0, put("shape", "round")));
    commands.push(command(Operation::GrantLease { lease: 7, ttl_ms: 1000 }));
    commands.push(command(sql(&["DELETE FROM t WHERE a = 2", "UPDATE plain SET b = b + 1"])));
    commands
}

fn restarted(store: Store) -> Store {
    let Store { parts, folder, next } = store;
    drop(parts);
    Store { parts: common::open(folder.path()).unwrap(), folder, next }
}

/// A state to which all of it was applied, and nothing else.
fn made() -> Store {
    let mut store = Store::new();
    for answer in store.apply(&history()) {
        assert!(!matches!(answer.outcome, Outcome::Failed { .. }), "{answer:?}");
    }
    store
}

#[test]
fn equal_entries_give_equal_checksums_however_they_are_applied() {
    let expected = made().checksum();
    assert_eq!(expected.fault, None);
    assert_eq!(expected.at, EntryId::new(Index(history().len() as u64), Term(1)));

    // One by one, and again after restarts and snapshots.
    let mut store = Store::new();
    for command in history() {
        let entry = store.entry(Payload::Command(command.encode()));
        store.parts.log.write(&[append(vec![entry.clone()])]).unwrap();
        store.state_machine().apply(&[entry]).unwrap();
        store.state_machine().take_snapshot().unwrap();
        store = restarted(store);
    }
    assert_eq!(store.checksum(), expected);

    // Pages that lie elsewhere do not count, nor do rows that came in another order.
    store.parts.state_machine.take_snapshot().unwrap();
    let state = Connection::open(state_path(store.folder.path(), NodeId(1))).unwrap();
    state.execute_batch("VACUUM").unwrap();
    state
        .execute_batch("DELETE FROM shadowed; INSERT INTO shadowed VALUES (2, 'b', 1), (2, 'b', 1), (1, 'a', 2)")
        .unwrap();
    assert_eq!(store.checksum(), expected);
}

#[test]
fn whatever_is_done_to_one_state_alone_shows_in_its_checksum() {
    let expected = made().checksum().digest;
    for change in [
        "INSERT INTO plain VALUES (1, 1)",
        "DELETE FROM plain WHERE rowid = 1",
        "UPDATE plain SET rowid = 1000 WHERE rowid = 1",
        "UPDATE plain SET a = 1.0 WHERE a = 1",
        "UPDATE plain SET a = '1' WHERE a = 1",
        "UPDATE plain SET a = x'31' WHERE a = 1",
        "UPDATE plain SET a = 'tex', b = 't' || b WHERE a = 'text'",
        "UPDATE plain SET a = b, b = a",
        "UPDATE plain SET a = x'' WHERE a IS NULL",
        "UPDATE w SET b = 3 WHERE a = 'A' COLLATE BINARY",
        "UPDATE shadowed SET oid = 3 WHERE oid = 2",
        "INSERT INTO shadowed SELECT * FROM shadowed WHERE oid = 2",
        "UPDATE sqlite_sequence SET seq = seq + 1",
        "CREATE TABLE mine (a)",
        "CREATE TABLE \"by  chance\" (a)",
        "CREATE INDEX mine ON plain (a)",
        "CREATE VIEW mine AS SELECT 1",
        "CREATE TRIGGER mine AFTER INSERT ON plain BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE mine USING fts5 (a)",
        "DROP INDEX i",
        "DROP INDEX i; CREATE INDEX i ON t (a )",
        "DROP TRIGGER g",
        "ALTER TABLE plain ADD COLUMN c",
        "ANALYZE",
        "UPDATE raft_changes SET value = 'square'",
        "UPDATE raft_kv SET key = 'form'",
        "DELETE FROM raft_kv",
        "UPDATE raft_meta SET revision = revision + 1",
        "UPDATE raft_meta SET time_ms = time_ms + 1",
        "UPDATE raft_sessions SET last_used_ms = last_used_ms + 1",
        "DELETE FROM raft_answers",
        "UPDATE raft_leases SET deadline_ms = deadline_ms + 1",
    ] {
        let store = made();
        let state = Connection::open(state_path(store.folder.path(), NodeId(1))).unwrap();
        state.execute_batch(change).unwrap_or_else(|error| panic!("{change}: {error}"));
        drop(state);
        let found = store.checksum();
        assert_ne!(found.digest, expected, "{change}");
        assert_eq!(found.fault, None, "{change}");
    }
}

/// Rows moved from one table to another are not the same rows.
#[test]
fn rows_belong_to_their_tables() {
    let with = |text: &str| {
        let mut store = Store::new();
        store.sql(&["CREATE TABLE a (x)", "CREATE TABLE b (x)"]);
        store.sql(&[text]);
        store.checksum().digest
    };
    let digests = [with("INSERT INTO a VALUES (1)"), with("INSERT INTO b VALUES (1)"), with("SELECT 1")];
    assert!(digests[0] != digests[1] && digests[1] != digests[2] && digests[0] != digests[2], "{digests:?}");
}

#[test]
fn an_index_that_does_not_follow_from_the_rows_is_a_fault_and_shows() {
    let store = made();
    let expected = store.checksum();
    // Each of two indexes is given the entries of the other. All that can be read of schema and rows stays as it is.
    let state = Connection::open(state_path(store.folder.path(), NodeId(1))).unwrap();
    let swap = "UPDATE sqlite_schema SET rootpage = (SELECT sum(rootpage) FROM sqlite_schema WHERE name IN ('i', 'j')) - rootpage
                WHERE name IN ('i', 'j')";
    state.execute_batch("PRAGMA writable_schema = ON").unwrap();
    assert_eq!(state.execute(swap, []).unwrap(), 2);
    drop(state);

    let found = store.checksum();
    assert!(found.fault.as_deref().is_some_and(|fault| fault.contains("index")), "{found:?}");
    assert_ne!(found.digest, expected.digest);
}

#[test]
fn a_bit_that_rots_shows() {
    let mut store = made();
    store.run(put("rots", "0123456789abcdef"));
    let expected = store.checksum();
    let Store { parts, folder, .. } = store;
    drop(parts);
    let path = state_path(folder.path(), NodeId(1));
    let mut file = std::fs::read(&path).unwrap();
    let value = file.windows(16).position(|bytes| bytes == b"0123456789abcdef").expect("it is in the file");
    file[value + 3] ^= 1;
    std::fs::write(&path, file).unwrap();
    let found = checksum(&path).unwrap();
    assert_ne!(found.digest, expected.digest);
    assert_eq!(found.fault, None, "SQLite does not notice");
}

fn next(marks: &Marks) -> Option<Checksum> {
    marks.next()?.unwrap().checksum(&AtomicU64::new(0)).unwrap()
}

#[test]
fn a_mark_shows_the_state_just_as_it_is_there() {
    // What stands behind it in the same call, and what is applied before it is looked at, is not seen.
    let mut store = Store::new();
    let marks = store.state_machine().marks();
    let before = [command(sql(&["CREATE TABLE t (a)"])), command(Operation::Mark)];
    store.apply(
        &[before.to_vec(), vec![command(put("late", "1")), command(sql(&["INSERT INTO t VALUES (1)"]))]].concat(),
    );
    store.run(put("later", "1"));
    let seen = next(&marks).unwrap();
    assert_eq!(seen.at.index, Index(2));

    let mut expected = Store::new();
    expected.apply(&before);
    assert_eq!(seen, expected.checksum());
    assert_ne!(store.checksum(), seen);
}

#[test]
fn of_marks_that_nobody_has_taken_the_last_is_shown() {
    let mut store = Store::new();
    let marks = store.state_machine().marks();
    for value in ["1", "2", "3"] {
        store.apply(&[command(put("x", value)), command(Operation::Mark)]);
    }
    assert_eq!(next(&marks).unwrap(), store.checksum());
    store.run(Operation::Mark);
    assert_eq!(next(&marks).unwrap(), store.checksum());
}

/// Whoever waits or computes must not keep a node from stopping.
#[test]
fn nobody_waits_for_marks_of_a_state_machine_that_is_gone() {
    let mut store = Store::new();
    let marks = store.state_machine().marks();
    store.run(Operation::Mark);
    let marked = marks.next().unwrap().unwrap();
    let (sender, ended) = mpsc::channel();
    let waiting = std::thread::spawn(move || {
        sender.send(marks.next().is_none()).unwrap();
        marks
    });
    store.sql(&["CREATE TABLE t AS WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 20000) SELECT n FROM r"]);
    let Store { parts, folder, .. } = store;
    drop(parts);
    assert!(ended.recv_timeout(Duration::from_secs(20)).unwrap());
    assert!(waiting.join().unwrap().next().is_none());
    // The folder is in use until the last is gone.
    assert!(matches!(DataDir::open(folder.path(), NodeId(1)), Err(Error::InUse { .. })));
    assert_eq!(marked.checksum(&AtomicU64::new(0)).unwrap(), None);
    DataDir::open(folder.path(), NodeId(1)).unwrap();
}

#[test]
fn marks_that_nobody_watches_hold_nothing() {
    let mut store = Store::new();
    drop(store.state_machine().marks());
    for number in 0..3 {
        store.apply(&[command(put("x", &number.to_string())), command(Operation::Mark)]);
    }
    let state = Connection::open(state_path(store.folder.path(), NodeId(1))).unwrap();
    let busy: u32 = state.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 0, "nobody reads the write-ahead log");
}

/// A state that is looked at keeps the write-ahead log from being begun anew, and that fails nothing.
#[test]
fn writing_goes_on_while_a_state_is_looked_at() {
    let mut store = Store::new();
    let marks = store.state_machine().marks();
    store.sql(&["CREATE TABLE t (a)"]);
    store.run(Operation::Mark);
    let marked = marks.next().unwrap().unwrap();
    let expected = store.checksum();
    // More than fits in the write-ahead log before it is moved into the file.
    for _ in 0..12 {
        store.sql(&["INSERT INTO t VALUES (zeroblob(8000000))"]);
    }
    store.state_machine().take_snapshot().unwrap();
    assert_eq!(marked.checksum(&AtomicU64::new(0)).unwrap().unwrap(), expected);
    store.sql(&["DELETE FROM t"]);
}

#[test]
fn a_state_that_was_shown_is_whole_in_its_file_after_a_stop() {
    let mut store = Store::new();
    let _marks = store.state_machine().marks();
    store.apply(&[command(Operation::Mark), command(put("x", "1"))]);
    let Store { parts, folder, .. } = store;
    drop(parts);
    let mut wal = state_path(folder.path(), NodeId(1)).into_os_string();
    wal.push("-wal");
    assert_eq!(std::fs::metadata(wal).map_or(0, |file| file.len()), 0);
}
