//! Backups are plain SQLite files, and new clusters begin with them, or with any other.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Store, command, in_session, put, sql, was_put};
use raft_core::port::{StateMachine, Stored};
use raft_core::types::{ClusterId, Entry, EntryId, Incarnation, Index, Member, NodeId, Payload, Term};
use raft_store_sqlite::{Answer, DataDir, Error, Outcome, Parts, Restored, Value, state_path};
use rusqlite::Connection;
use tempfile::TempDir;

const NEW: ClusterId = ClusterId(77);

/// Writes a backup of the store into a file of its own, in small pieces.
fn back_up(store: &Store, folder: &TempDir) -> PathBuf {
    let pending = store.parts.reader.begin_backup().unwrap();
    let size = pending.size_bytes;
    let backup = pending.copy().unwrap();
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < size {
        bytes.extend_from_slice(&backup.read(bytes.len() as u64, 1000).unwrap());
    }
    assert!(backup.read(size, 1000).unwrap().is_empty());
    let path = folder.path().join("backup.db");
    fs::write(&path, bytes).unwrap();
    path
}

fn member() -> Member {
    Member { address: "localhost:1".into(), incarnation: Incarnation(5), ..Member::default() }
}

fn restore(folder: &Path, from: &Path) -> Result<(Restored, Parts), Error> {
    let restored = DataDir::open(folder, NodeId(4))?.restore(NEW, member(), from)?;
    // As after a crash: all that counts is on the disk.
    Ok((restored, DataDir::open(folder, NodeId(4))?.into_parts()?))
}

fn count(path: &Path, sql: &str) -> i64 {
    Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

fn apply(parts: &mut Parts, last: EntryId, commands: &[raft_store_sqlite::Command]) -> Vec<Answer> {
    let entry = |(place, command): (usize, &raft_store_sqlite::Command)| Entry {
        id: EntryId::new(Index(last.index.0 + 1 + place as u64), Term(last.term.0 + 1)),
        payload: Payload::Command(command.encode()),
    };
    let entries: Vec<Entry> = commands.iter().enumerate().map(entry).collect();
    parts.state_machine.apply(&entries).unwrap().into_iter().flatten().collect()
}

fn filled() -> Store {
    let mut store = Store::new();
    let commands = [
        command(sql(&["CREATE TABLE t (a INTEGER PRIMARY KEY, b)", "INSERT INTO t VALUES (1, x'00ff'), (2, 1.5)"])),
        command(put("a", "1")),
        command(put("a", "2")),
        in_session(1, 0, put("b", "1")),
    ];
    store.apply(&commands);
    store
}

#[test]
fn a_backup_is_one_plain_file_of_the_state_as_it_was_when_it_began() {
    let (mut store, folder) = (filled(), tempfile::tempdir().unwrap());
    let pending = store.parts.reader.begin_backup().unwrap();
    let (revision, applied) = (pending.revision, pending.applied);
    store.run(put("a", "3"));
    let backup = pending.copy().unwrap();
    let path = folder.path().join("b.db");
    fs::write(&path, backup.read(0, usize::MAX).unwrap()).unwrap();
    assert_eq!((revision, applied.index), (5, Index(4)));
    assert_eq!(fs::read(&path).unwrap()[18..20], [1, 1], "its journal is not a write-ahead log");
    assert_eq!(count(&path, "SELECT value = '2' FROM kv WHERE key = 'a'"), 1);
    assert_eq!(count(&path, "SELECT count(*) FROM t WHERE b IN (x'00ff', 1.5)"), 2);
    drop(backup);
    let left = store.folder.path().join("snapshots").read_dir().unwrap().count();
    assert_eq!(left, 0, "a backup that nobody reads any more is removed");
}

#[test]
fn a_new_cluster_begins_with_a_backup_and_goes_on_from_there() {
    let (store, folder) = (filled(), tempfile::tempdir().unwrap());
    let path = back_up(&store, &folder);
    let data = folder.path().join("data");
    let (restored, mut parts) = restore(&data, &path).unwrap();
    assert_eq!(restored, Restored { last: EntryId::new(Index(4), Term(1)), revision: 5 });
    assert_eq!(parts.state_machine.applied().unwrap(), restored.last);
    let a = parts.reader.get(&"a".into()).unwrap().value.unwrap();
    assert_eq!((a.value, a.create_revision, a.mod_revision, a.version), ("2".into(), 3, 4, 2));
    let history = parts.reader.changes(2, usize::MAX).unwrap().value;
    assert_eq!(history.iter().map(|change| change.revision).collect::<Vec<_>>(), [3, 4, 5], "history is kept");

    // What was applied once is not applied again.
    let answers = apply(&mut parts, restored.last, &[in_session(1, 0, put("b", "1")), command(put("c", "1"))]);
    assert_eq!(answers[0], Answer { revision: 5, outcome: was_put(false) });
    assert_eq!(answers[1], Answer { revision: 6, outcome: was_put(false) });
    drop(parts);
    // The backup was only read, and the node is the new cluster's.
    assert_eq!(count(&path, "SELECT count(*) FROM kv"), 2);
    let directory = DataDir::open(&data, NodeId(4)).unwrap();
    assert_eq!(directory.identity().cluster, NEW);
}

#[test]
fn a_new_cluster_begins_with_any_sqlite_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let app = Connection::open(&path).unwrap();
    app.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA page_size = 1024;
         CREATE TABLE people (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT); CREATE INDEX names ON people (name);
         CREATE VIEW v AS SELECT upper(name) AS n FROM people; CREATE TABLE log (what);
         CREATE TRIGGER g AFTER INSERT ON people BEGIN INSERT INTO log VALUES (new.name); END;
         INSERT INTO people (name) VALUES ('Ada'), ('Lin');",
    )
    .unwrap();
    // What stands in the write-ahead log belongs to it.
    let (restored, mut parts) = restore(&folder.path().join("data"), &path).unwrap();
    assert_eq!(restored, Restored { last: EntryId::new(Index(1), Term(1)), revision: 1 });
    let insert = sql(&["INSERT INTO people (name) VALUES ('Eve') RETURNING id", "SELECT n FROM v ORDER BY n"]);
    let answers = apply(&mut parts, restored.last, &[command(insert), command(put("k", "v"))]);
    let results = common::statement_results(answers[0].outcome.clone());
    assert_eq!(results[0].rows, [[Value::Integer(3)]]);
    assert_eq!(results[1].rows.len(), 3);
    assert_eq!(answers[1].outcome, was_put(false));
    let changes = parts.reader.changes(1, usize::MAX).unwrap().value;
    assert_eq!(changes.len(), 3, "two tables and a key: {changes:?}");
}

#[test]
fn what_can_not_be_restored_leaves_a_folder_that_has_not_begun() {
    let (store, folder) = (filled(), tempfile::tempdir().unwrap());
    let good = fs::read(back_up(&store, &folder)).unwrap();
    let bad = folder.path().join("bad.db");
    let data = folder.path().join("data");
    let refused = |expected: &str| {
        let error = restore(&data, &bad).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        assert_eq!(DataDir::open(&data, NodeId(4)).unwrap().identity().cluster, ClusterId(0));
        assert!(!state_path(&data, NodeId(4)).exists());
    };
    refused("can't be restored");
    fs::write(
        &bad,
        b"hello, this is no database at all, not at all, but it is long enough for a header of one, is it not? yes",
    )
    .unwrap();
    refused("is not");
    let mut damaged = good.clone();
    let page = damaged.len() - 4096;
    damaged[page..page + 200].fill(0x55);
    fs::write(&bad, damaged).unwrap();
    refused("can't be restored");
    fs::write(&bad, &good[..good.len() - 4096]).unwrap();
    refused("can't be restored");
    let change = |sql: &str| {
        fs::write(&bad, &good).unwrap();
        Connection::open(&bad).unwrap().execute_batch(sql).unwrap();
    };
    change("CREATE TABLE raft_mine (a)");
    refused("tables are not those of a state");
    change("PRAGMA user_version = 99");
    refused("newer version");
    change("PRAGMA application_id = 1380009548");
    refused("it is the log of a node");
    change("DROP VIEW kv");
    refused("tables are not those of a state");
    fs::remove_file(&bad).unwrap();
    Connection::open(&bad).unwrap().execute_batch("CREATE TABLE KV (a)").unwrap();
    refused("KV is a name of RaftKV's own");
    fs::remove_file(&bad).unwrap();
    Connection::open(&bad).unwrap().execute_batch("PRAGMA encoding = 'UTF-16'; CREATE TABLE t (a)").unwrap();
    refused("UTF-16");

    // After all these, a good one.
    fs::write(&bad, &good).unwrap();
    let (_, parts) = restore(&data, &bad).unwrap();
    drop(parts);
    let again = DataDir::open(&data, NodeId(4)).unwrap().restore(ClusterId(78), member(), &bad).unwrap_err();
    assert!(matches!(again, Error::BegunAlready { cluster: NEW, .. }), "{again}");
    let begun = DataDir::open(&data, NodeId(4)).unwrap().begin(ClusterId(78), &Stored::default()).unwrap_err();
    assert!(matches!(begun, Error::OtherCluster { .. }), "{begun}");
}

#[test]
fn an_unanswered_command_of_before_is_known_to_the_new_cluster() {
    let (store, folder) = (filled(), tempfile::tempdir().unwrap());
    let path = back_up(&store, &folder);
    let (restored, mut parts) = restore(&folder.path().join("data"), &path).unwrap();
    let answers = apply(&mut parts, restored.last, &[in_session(1, 0, put("b", "other"))]);
    assert!(matches!(answers[0].outcome, Outcome::Ran(_)));
    assert_eq!(parts.reader.get(&"b".into()).unwrap().value.unwrap().value, "1");
}
