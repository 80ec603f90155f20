//! States on their way from node to node: copied while entries are applied, verified, and installed whole or not at all.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::{CLUSTER, Store, append, begin, blob, command, membership, open, put, sql};
use raft_core::effect::Persist;
use raft_core::port::{Capture, LogStore, Staging, StateMachine, Stored};
use raft_core::types::{ClusterId, Entry, EntryId, Index, NodeId, Payload, Snapshot, Term};
use raft_store_sqlite::{DataDir, Error, Parts, Statement, Value, dump, log_path, state_path};
use rusqlite::Connection;
use tempfile::TempDir;

const PIECE: usize = 10_000;

/// A node with something of everything in its state.
fn source() -> Store {
    let mut store = Store::new();
    store.sql(&[
        "CREATE TABLE t (a, at DEFAULT CURRENT_TIMESTAMP)",
        "CREATE TABLE w (a PRIMARY KEY) WITHOUT ROWID",
        "CREATE TABLE c (a CHECK (random() % 2))",
        "CREATE INDEX i ON t (a)",
        "CREATE VIEW v AS SELECT a FROM t",
        "CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO w VALUES (new.rowid); END",
        "INSERT INTO t (rowid, a) VALUES (7, randomblob(5000)), (3, 1.5), (100, NULL)",
        "DELETE FROM t WHERE rowid = 3",
        "INSERT OR IGNORE INTO c WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 50) SELECT n FROM r",
    ]);
    store.run(put("colour", "blue"));
    assert_ne!(
        store.value("SELECT count(*) FROM c"),
        Value::Integer(0),
        "rows that might fail their CHECK another time"
    );
    store
}

fn last(store: &Store) -> EntryId {
    store.parts.reader.applied().unwrap()
}

fn snapshot(last: EntryId) -> Snapshot {
    Snapshot { last, membership: membership().into() }
}

fn all_of(capture: &mut dyn Capture) -> Vec<u8> {
    let mut all = Vec::new();
    while (all.len() as u64) < capture.size_bytes() {
        let piece = capture.read(all.len() as u64, PIECE).unwrap();
        assert!(!piece.is_empty() && piece.len() <= PIECE);
        all.extend_from_slice(&piece);
    }
    all
}

fn captured(store: &mut Store) -> Vec<u8> {
    all_of(&mut *store.parts.state_machine.capture().unwrap())
}

/// Receives a whole file as the state at `last`.
fn receive(staging: &Arc<dyn Staging>, last: EntryId, bytes: &[u8]) -> Result<(), String> {
    let capture = crc32c::crc32c(bytes).into();
    let text = |error: raft_core::port::SnapshotError| error.to_string();
    assert_eq!(staging.begin(capture, last, bytes.len() as u64).map_err(text)?, 0);
    for (number, piece) in bytes.chunks(PIECE).enumerate() {
        staging.write(capture, (number * PIECE) as u64, piece).map_err(text)?;
    }
    staging.finish(capture).map_err(text)
}

fn files(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder.join("snapshots")).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

fn dump_of(folder: &Path) -> String {
    dump(&state_path(folder, NodeId(1))).unwrap()
}

fn install_write(last: EntryId) -> Persist {
    let hard_state = raft_core::types::HardState { term: last.term, vote: None };
    Persist { hard_state: Some(hard_state), install: Some(snapshot(last)), ..Persist::default() }
}

#[test]
fn an_installed_copy_is_the_state_it_was_taken_from() {
    let mut source = source();
    let (last, bytes) = (last(&source), captured(&mut source));
    let mut target = Store::new();
    target.run(put("colour", "red"));
    let reader = target.parts.reader.clone();
    assert_eq!(reader.get(&"colour".into()).unwrap().value.unwrap().value, "red");
    receive(&target.parts.state_machine.staging(), last, &bytes).unwrap();
    target.parts.log.write(&[install_write(last)]).unwrap();
    target.parts.state_machine.install(&snapshot(last)).unwrap();
    assert_eq!(target.dump(), source.dump());
    assert_eq!(target.parts.state_machine.applied().unwrap(), last);
    // A reader from before sees the new state, and both nodes go on alike.
    assert_eq!(reader.get(&"colour".into()).unwrap().value.unwrap().value, "blue");
    target.next = last.index.next();
    for store in [&mut source, &mut target] {
        store.sql(&["INSERT INTO t (a) VALUES (random())"]);
        store.run(put("shape", "round"));
    }
    assert_eq!(target.dump(), source.dump());
    assert_eq!(reader.get(&"shape".into()).unwrap().value.unwrap().value, "round");
    assert!(files(target.folder.path()).is_empty(), "nothing is left behind");
}

#[test]
fn a_read_under_way_ends_on_the_old_state() {
    let mut source = source();
    let (last, bytes) = (last(&source), captured(&mut source));
    let mut target = Store::new();
    target.sql(&["CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"]);
    let reader = target.parts.reader.clone();
    let slow = "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 2000000)
                SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM r), (SELECT count(*) FROM t)";
    let reading =
        std::thread::spawn(move || reader.query(&[Statement::new(slow), Statement::new("SELECT count(*) FROM t")]));
    std::thread::sleep(std::time::Duration::from_millis(50));
    receive(&target.parts.state_machine.staging(), last, &bytes).unwrap();
    target.parts.state_machine.install(&snapshot(last)).unwrap();
    let seen = reading.join().unwrap().unwrap();
    assert_eq!(seen.applied.index, Index(1), "it began before");
    assert_eq!([&seen.value[0].rows[0][0], &seen.value[0].rows[0][2]], [&Value::Integer(1); 2]);
    assert_eq!(seen.value[1].rows[0][0], Value::Integer(1));
    assert_eq!(target.value("SELECT count(*) FROM t"), Value::Integer(2));
}

#[test]
fn a_capture_shows_the_state_at_its_entry_whatever_is_applied_meanwhile() {
    let mut source = source();
    let (last, expected) = (last(&source), source.dump());
    let mut capture = source.parts.state_machine.capture().unwrap();
    // Enough for several checkpoints.
    for round in 0..40 {
        source.sql(&[&format!("INSERT INTO t (a) VALUES (randomblob(200000 + {round}))")]);
    }
    let bytes = all_of(&mut *capture);
    assert_eq!(capture.last(), last);
    source.run(put("colour", "green"));
    assert_eq!(all_of(&mut *capture), bytes, "any part can be read again");
    assert_eq!(capture.read(capture.size_bytes(), PIECE).unwrap(), "");
    assert_eq!(capture.read(capture.size_bytes() - 3, PIECE).unwrap(), bytes[bytes.len() - 3..]);
    let copy = tempfile::NamedTempFile::new().unwrap();
    fs::write(copy.path(), bytes).unwrap();
    assert_eq!(dump(copy.path()).unwrap(), expected);
}

#[test]
fn captures_of_one_state_share_a_copy_and_the_last_removes_it() {
    let mut source = source();
    let mut one = source.parts.state_machine.capture().unwrap();
    let mut other = source.parts.state_machine.capture().unwrap();
    assert_eq!(all_of(&mut *one), all_of(&mut *other));
    assert_eq!(files(source.folder.path()).len(), 1);
    drop(one);
    source.run(put("colour", "green"));
    let mut later = source.parts.state_machine.capture().unwrap();
    assert_ne!(all_of(&mut *later), all_of(&mut *other));
    assert_eq!(files(source.folder.path()).len(), 2);
    drop((later, other));
    assert!(files(source.folder.path()).is_empty());
}

#[test]
fn a_folder_is_in_use_while_a_capture_or_a_staging_is() {
    let mut source = source();
    let capture = source.parts.state_machine.capture().unwrap();
    let staging = source.parts.state_machine.staging();
    let Store { parts, folder, .. } = source;
    drop(parts);
    assert!(matches!(open(folder.path()), Err(Error::InUse { .. })));
    drop(capture);
    assert!(matches!(open(folder.path()), Err(Error::InUse { .. })));
    drop(staging);
    DataDir::open(folder.path(), NodeId(1)).unwrap();
}

#[test]
fn receiving_goes_on_where_it_was_broken_off() {
    let mut source = source();
    let (last, bytes) = (last(&source), captured(&mut source));
    let size = bytes.len() as u64;
    let target = Store::new();
    let staging = target.parts.state_machine.staging();
    assert_eq!(staging.begin(1, last, size).unwrap(), 0);
    staging.write(1, 0, &bytes[..100]).unwrap();
    for (capture, offset, piece) in [(1, 0, &bytes[..50]), (1, 200, &bytes[200..300]), (2, 100, &bytes[100..])] {
        assert!(staging.write(capture, offset, piece).is_err(), "{capture} at {offset}");
    }
    assert_eq!(staging.begin(1, last, size).unwrap(), 100, "a break changes nothing");
    staging.write(1, 100, &bytes[100..]).unwrap();
    assert!(staging.write(1, size, b"more").is_err());
    staging.finish(1).unwrap();
    staging.finish(1).unwrap();
    assert_eq!(staging.begin(1, last, size).unwrap(), size, "all of it is here");
    // Another takes the place of one that is not finished, and leaves one that is.
    assert_eq!(staging.begin(2, last, size).unwrap(), 0);
    staging.write(2, 0, &bytes[..100]).unwrap();
    assert_eq!(staging.begin(3, last, size).unwrap(), 0);
    assert!(staging.write(2, 100, &bytes[100..]).is_err());
    assert!(staging.finish(3).is_err(), "nothing of it is here");
    assert!(files(target.folder.path()).iter().any(|name| name.starts_with("received_")));
}

#[test]
fn what_was_received_in_vain_is_removed_once_the_state_is_past_it() {
    let mut source = source();
    let (last, bytes) = (last(&source), captured(&mut source));
    let mut target = Store::new();
    receive(&target.parts.state_machine.staging(), last, &bytes).unwrap();
    for _ in 1..last.index.0 {
        target.run(put("a", "1"));
    }
    target.parts.state_machine.take_snapshot().unwrap();
    assert_eq!(files(target.folder.path()).len(), 1, "it may still be needed");
    target.run(put("a", "1"));
    target.parts.state_machine.take_snapshot().unwrap();
    assert!(files(target.folder.path()).is_empty());
}

#[test]
fn what_is_not_the_promised_state_is_refused_and_can_be_received_again() {
    let mut source = source();
    let (last, bytes) = (last(&source), captured(&mut source));
    let target = Store::new();
    let staging = target.parts.state_machine.staging();
    let of_other_cluster = {
        let folder = tempfile::tempdir().unwrap();
        DataDir::open(folder.path(), NodeId(1)).unwrap().begin(ClusterId(9), &Stored::default()).unwrap();
        let mut other = open(folder.path()).unwrap();
        other.state_machine.apply(&[common::entry(1, Payload::Noop), common::entry(2, Payload::Noop)]).unwrap();
        all_of(&mut *other.state_machine.capture().unwrap())
    };
    // As a hostile or broken peer would send it.
    let changed = |sql: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &bytes).unwrap();
        let connection = Connection::open(file.path()).unwrap();
        connection.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA writable_schema = ON").unwrap();
        connection.execute_batch(sql).unwrap();
        drop(connection);
        fs::read(file.path()).unwrap()
    };
    let mut torn = bytes.clone();
    torn[5000..9000].fill(0x55);
    for (what, bytes, reason) in [
        ("nothing", vec![], "not a file of RaftKV"),
        ("noise", vec![7; 20_000], "not a file of RaftKV"),
        ("half of it", bytes[..8192].to_vec(), "malformed"),
        ("pages of noise", torn, ""),
        ("another cluster's", of_other_cluster, "belongs to cluster"),
        ("another entry's", changed("UPDATE raft_meta SET applied_index = 1"), "has applied 1@1"),
        ("another program's", changed("PRAGMA application_id = 1"), "not a file of RaftKV"),
        ("a newer version's", changed("PRAGMA user_version = 99"), "newer version"),
        ("a trap", changed("CREATE TRIGGER x AFTER UPDATE ON raft_meta BEGIN DELETE FROM t; END"), "tables"),
        ("a reference", changed("CREATE TABLE x (a REFERENCES raft_kv (key))"), "tables"),
        ("a lack", changed("DROP TABLE raft_answers"), "tables"),
        ("a virtual table", changed("CREATE VIRTUAL TABLE x USING fts5 (a)"), "virtual table"),
        ("no SQL", changed("UPDATE sqlite_schema SET sql = 'CREATE TABLE t (' WHERE name = 't'"), "malformed"),
    ] {
        let refused = receive(&staging, last, &bytes).expect_err(what);
        assert!(refused.contains(reason), "{what}: {refused}");
        assert!(!files(target.folder.path()).iter().any(|name| name.starts_with("received_")), "{what}");
    }
    receive(&staging, last, &bytes).unwrap();
}

#[test]
fn without_what_was_received_an_install_fails_and_the_state_is_not_used_any_more() {
    let mut target = Store::new();
    let last = EntryId::new(Index(9), Term(1));
    let error = target.parts.state_machine.install(&snapshot(last)).unwrap_err();
    assert!(matches!(&error, Error::SnapshotMissing { snapshot, .. } if *snapshot == last), "{error}");
    let error = target.parts.state_machine.take_snapshot().unwrap_err();
    assert!(matches!(error, Error::Poisoned { .. }), "{error}");
}

#[test]
fn a_snapshot_taken_is_the_last_entry_applied() {
    let mut store = Store::new();
    assert_eq!(store.parts.state_machine.take_snapshot().unwrap(), EntryId::ZERO);
    store.run(put("a", "1"));
    let changed = fs::metadata(wal_of(store.folder.path())).unwrap().len();
    assert_eq!(store.parts.state_machine.take_snapshot().unwrap(), EntryId::new(Index(1), Term(1)));
    let taken = fs::metadata(wal_of(store.folder.path())).unwrap().len();
    assert_eq!(store.parts.state_machine.take_snapshot().unwrap(), EntryId::new(Index(1), Term(1)));
    let again = fs::metadata(wal_of(store.folder.path())).unwrap().len();
    assert!(taken > changed, "a commit with an fsync makes those before it durable");
    assert_eq!(again, taken, "and costs nothing where nothing has changed");
}

fn wal_of(folder: &Path) -> std::path::PathBuf {
    format!("{}-wal", state_path(folder, NodeId(1)).display()).into()
}

/// A copy of a folder, as a crash would leave it.
fn image(folder: &Path) -> TempDir {
    let image = tempfile::tempdir().unwrap();
    copy_folder(folder, image.path());
    image
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy_folder(&file.path(), &to);
        } else {
            fs::copy(file.path(), to).unwrap();
        }
    }
}

#[test]
fn a_crash_at_any_step_of_an_install_leaves_the_old_state_or_the_new() {
    let mut source = source();
    let (last, bytes) = (last(&source), captured(&mut source));
    let mut target = Store::new();
    target.parts.log.write(&[append(vec![blob(1, 1, "x")])]).unwrap();
    target.run(put("colour", "red"));
    let (old, new) = (target.dump(), source.dump());
    let folder = target.folder.path();

    let mut capture = target.parts.state_machine.capture().unwrap();
    all_of(&mut *capture);
    let mut images = Vec::new();
    let staging = target.parts.state_machine.staging();
    staging.begin(1, last, bytes.len() as u64).unwrap();
    staging.write(1, 0, &bytes[..100]).unwrap();
    images.push(("half received", image(folder), &old));
    staging.write(1, 100, &bytes[100..]).unwrap();
    images.push(("received", image(folder), &old));
    staging.finish(1).unwrap();
    images.push(("verified", image(folder), &old));
    target.parts.log.write(&[install_write(last)]).unwrap();
    images.push(("recorded", image(folder), &new));
    let cleared = image(folder);
    fs::remove_file(wal_of(cleared.path())).unwrap();
    images.push(("old write-ahead log removed", image(cleared.path()), &new));
    fs::remove_file(format!("{}-shm", state_path(cleared.path(), NodeId(1)).display())).unwrap();
    images.push(("old index removed", image(cleared.path()), &new));
    fs::write(state_path(cleared.path(), NodeId(1)), "not even a database any more, whatever the disk did").unwrap();
    images.push(("old state unreadable", image(cleared.path()), &new));
    let received = cleared.path().join("snapshots").join(format!("received_{}_{}.db", last.index, last.term));
    fs::rename(received, state_path(cleared.path(), NodeId(1))).unwrap();
    images.push(("renamed", cleared, &new));
    target.parts.state_machine.install(&snapshot(last)).unwrap();
    images.push(("installed", image(folder), &new));

    for (step, image, expected) in images {
        // Once more, since the first start may have left something to the second.
        for start in ["first", "second"] {
            let mut parts = open(image.path()).unwrap();
            assert_eq!(dump_of(image.path()), *expected, "{step}, {start} start");
            assert!(files(image.path()).is_empty(), "{step}: leftovers are removed, the capture's among them");
            let stored = parts.log.load().unwrap();
            let applied = parts.state_machine.applied().unwrap();
            assert!(applied.index >= stored.snapshot.last.index, "{step}: the log holds what the state lacks");
        }
    }
}

#[test]
fn a_node_goes_on_after_an_interrupted_install() {
    let mut source = source();
    let (last, bytes) = (last(&source), captured(&mut source));
    let folder = tempfile::tempdir().unwrap();
    begin(folder.path());
    let mut parts = open(folder.path()).unwrap();
    receive(&parts.state_machine.staging(), last, &bytes).unwrap();
    parts.log.write(&[install_write(last)]).unwrap();
    drop(parts);
    let Parts { mut log, mut state_machine, reader } = open(folder.path()).unwrap();
    let next = Entry {
        id: EntryId::new(last.index.next(), last.term),
        payload: Payload::Command(command(sql(&["INSERT INTO t (a) VALUES (random())"])).encode()),
    };
    log.write(&[append(vec![next.clone()])]).unwrap();
    state_machine.apply(&log.read(next.id.index, u64::MAX).unwrap()).unwrap();
    source.sql(&["INSERT INTO t (a) VALUES (random())"]);
    assert_eq!(dump_of(folder.path()), source.dump());
    assert_eq!(reader.applied().unwrap(), next.id);
}

#[test]
fn a_start_without_the_snapshot_that_its_log_names_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    begin(folder.path());
    let last = EntryId::new(Index(9), Term(2));
    open(folder.path()).unwrap().log.write(&[install_write(last)]).unwrap();
    let error = open(folder.path()).err().unwrap();
    assert!(matches!(error, Error::SnapshotMissing { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("9@2") && text.contains("snapshots/received_9_2.db is not there"), "{text}");
}

#[test]
fn a_state_behind_a_compacted_log_is_refused_saying_what_to_do() {
    let mut store = Store::new();
    store.parts.log.write(&[append(vec![blob(1, 1, "x"), blob(2, 1, "y")])]).unwrap();
    store.run(put("a", "1"));
    let old = image(store.folder.path());
    store.run(put("a", "2"));
    let taken = store.parts.state_machine.take_snapshot().unwrap();
    store.parts.log.write(&[Persist { compact: Some(snapshot(taken)), ..Persist::default() }]).unwrap();
    let Store { parts, folder, .. } = store;
    drop(parts);
    drop(open(folder.path()).unwrap());
    // An older state.
    drop(open(old.path()).unwrap());
    fs::copy(state_path(old.path(), NodeId(1)), state_path(folder.path(), NodeId(1))).unwrap();
    let error = open(folder.path()).err().unwrap();
    assert!(
        matches!(error, Error::StateBehind { applied: EntryId { index: Index(1), .. }, snapshot, .. } if snapshot == taken),
        "{error}"
    );
    assert!(error.to_string().contains("remove this node from the cluster and let it join again"), "{error}");
    // None at all.
    fs::remove_file(state_path(folder.path(), NodeId(1))).unwrap();
    let error = open(folder.path()).err().unwrap();
    assert!(matches!(error, Error::StateBehind { applied: EntryId::ZERO, .. }), "{error}");
    assert!(!state_path(folder.path(), NodeId(1)).exists(), "no empty state takes its place");
}

#[test]
fn a_state_that_contradicts_the_entry_its_log_begins_after_is_refused() {
    let mut store = Store::new();
    store.run(put("a", "1"));
    let other = EntryId::new(Index(1), Term(2));
    store.parts.log.write(&[Persist { compact: Some(snapshot(other)), ..Persist::default() }]).unwrap();
    let Store { parts, folder, .. } = store;
    drop(parts);
    assert!(matches!(open(folder.path()), Err(Error::StateAhead { .. })));
}

#[test]
fn a_node_that_joins_begins_with_an_empty_log_and_gets_its_state_from_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = DataDir::open(folder.path(), NodeId(1)).unwrap();
    opened.begin(CLUSTER, &Stored::default()).unwrap();
    drop(opened);
    // A crash right after: the next start finds that it has begun.
    let mut opened = DataDir::open(folder.path(), NodeId(1)).unwrap();
    assert_eq!(opened.identity().cluster, CLUSTER);
    assert!(matches!(opened.begin(CLUSTER, &Stored::default()), Err(Error::BegunAlready { .. })));
    let mut parts = opened.into_parts().unwrap();
    assert_eq!(parts.log.load().unwrap(), Stored::default());

    let mut source = source();
    let (last, bytes) = (last(&source), captured(&mut source));
    receive(&parts.state_machine.staging(), last, &bytes).unwrap();
    parts.log.write(&[install_write(last)]).unwrap();
    parts.state_machine.install(&snapshot(last)).unwrap();
    drop(parts);
    let mut parts = open(folder.path()).unwrap();
    assert_eq!(parts.log.load().unwrap().snapshot, snapshot(last));
    assert_eq!(dump_of(folder.path()), source.dump());
    assert!(log_path(folder.path(), NodeId(1)).exists());
}
