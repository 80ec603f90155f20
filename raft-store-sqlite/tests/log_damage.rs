//! Damage to the log is found, named and never served.

mod common;

use std::path::Path;

use common::{append, begin, blob, entry, membership, open};
use raft_core::effect::Persist;
use raft_core::port::LogStore;
use raft_core::types::{Entry, HardState, Index, NodeId, Payload, Snapshot, Term};
use raft_store_sqlite::{Error, SqliteLog, log_path};
use rusqlite::Connection;

/// A log of four entries in three rows, and a term and vote.
fn written(folder: &Path) -> SqliteLog {
    begin(folder);
    let mut log = open(folder).unwrap().log;
    let hard_state = Some(HardState { term: Term(2), vote: None });
    log.write(&[Persist { hard_state, ..append(vec![blob(1, 1, "one")]) }]).unwrap();
    log.write(&[append(vec![entry(2, Payload::Membership(membership().into()))])]).unwrap();
    log.write(&[append(vec![blob(3, 2, "three"), blob(4, 2, "four")])]).unwrap();
    log
}

/// Changes the closed log behind its back.
fn change(folder: &Path, sql: &str) {
    let changed = Connection::open(log_path(folder, NodeId(1))).unwrap().execute(sql, []).unwrap();
    assert!(changed > 0, "{sql}");
}

/// What becomes of a log that was changed so: opening or loading it must fail.
fn refusal(sql: &str) -> Error {
    let folder = tempfile::tempdir().unwrap();
    drop(written(folder.path()));
    change(folder.path(), sql);
    let mut log = match open(folder.path()) {
        Ok(parts) => parts.log,
        Err(error) => return error,
    };
    let error = log.load().map(|stored| panic!("{sql}: {stored:?}")).unwrap_err();
    assert!(matches!(log.write(&[]), Err(Error::Poisoned { .. })), "a damaged log is not written to any more");
    error
}

#[test]
fn damage_to_an_entry_is_found_and_its_index_named() {
    for (sql, damaged) in [
        ("UPDATE batches SET entries = zeroblob(length(entries)) WHERE first = 1", 1),
        ("UPDATE batches SET checksum = checksum + 1 WHERE first = 2", 2),
        ("UPDATE batches SET before = before + 1 WHERE first = 2", 2),
        ("UPDATE batches SET entries = x'' WHERE first = 1", 1),
        ("DELETE FROM batches WHERE first = 1", 1),
        ("DELETE FROM batches WHERE first = 2", 2),
        ("UPDATE batches SET first = 7 WHERE first = 3", 7),
    ] {
        let error = refusal(sql);
        assert!(matches!(&error, Error::Damaged { index: Index(index), .. } if *index == damaged), "{sql}: {error}");
        assert!(error.to_string().contains("raftkv-cli member replace"), "it says what to do: {error}");
    }
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    drop(written(folder.path()));
    let path = log_path(folder.path(), NodeId(1));
    let connection = || Connection::open(&path).unwrap();
    let read = "SELECT entries FROM batches WHERE first = 3";
    let whole: Vec<u8> = connection().query_row(read, [], |row| row.get(0)).unwrap();
    for (position, bit) in (0..whole.len()).flat_map(|position| (0..8).map(move |bit| (position, bit))) {
        let mut damaged = whole.clone();
        damaged[position] ^= 1 << bit;
        connection().execute("UPDATE batches SET entries = ?1 WHERE first = 3", [damaged]).unwrap();
        let error = open(folder.path()).err().expect("the last entries are looked at when the log is opened");
        assert!(matches!(error, Error::Damaged { index: Index(3), .. }), "byte {position}, bit {bit}: {error}");
    }
}

#[test]
fn a_lost_end_is_found() {
    let error = refusal("DELETE FROM batches WHERE first = 3");
    assert!(matches!(error, Error::DamagedFile { .. }), "{error}");
}

/// Whole in itself, and of the same length: as where a disk has never carried out a write.
#[test]
fn a_row_as_it_was_before_it_was_replaced_is_found() {
    let folder = tempfile::tempdir().unwrap();
    begin(folder.path());
    let path = log_path(folder.path(), NodeId(1));
    let mut log = open(folder.path()).unwrap().log;
    log.write(&[append(vec![blob(1, 1, "one")])]).unwrap();
    log.write(&[append(vec![blob(2, 1, "old")])]).unwrap();
    drop(log);
    let read = "SELECT before, checksum, entries FROM batches WHERE first = 2";
    let as_it_was = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let old: (u32, u32, Vec<u8>) = Connection::open(&path).unwrap().query_row(read, [], as_it_was).unwrap();
    let mut log = open(folder.path()).unwrap().log;
    log.write(&[Persist { truncate_from: Some(Index(2)), ..append(vec![blob(2, 2, "new")]) }]).unwrap();
    log.write(&[append(vec![blob(3, 2, "more")])]).unwrap();
    drop(log);
    let back = "UPDATE batches SET before = ?1, checksum = ?2, entries = ?3 WHERE first = 2";
    Connection::open(&path).unwrap().execute(back, old).unwrap();
    let error = open(folder.path()).unwrap().log.load().unwrap_err();
    assert!(matches!(error, Error::Damaged { index: Index(3), .. }), "{error}");
}

#[test]
fn damage_to_what_is_kept_besides_entries_is_found() {
    for sql in [
        "UPDATE hard_state SET term = 1",
        "UPDATE hard_state SET vote = 2",
        "DELETE FROM hard_state",
        "UPDATE meta SET cluster_id = 'c3'",
        "UPDATE meta SET cluster_id = 'g'",
        "UPDATE meta SET cluster_id = CAST(x'ff' AS TEXT)",
        "UPDATE meta SET incarnation = '7'",
        "UPDATE meta SET node_id = 2",
        "UPDATE meta SET checksum = NULL",
        "DELETE FROM meta",
        "UPDATE bounds SET after = 1",
        "UPDATE bounds SET last = 3",
        "DELETE FROM bounds",
    ] {
        let error = refusal(sql);
        assert!(matches!(error, Error::DamagedFile { .. }), "{sql}: {error}");
        assert!(error.to_string().contains("raftkv-cli member replace"), "it says what to do: {error}");
    }
}

#[test]
fn damage_to_the_snapshot_that_a_log_begins_after_is_found() {
    for sql in [
        "UPDATE snapshot SET idx = idx + 1",
        "UPDATE snapshot SET term = term + 1",
        "UPDATE snapshot SET must_install = 1",
        "UPDATE snapshot SET membership = x'02'",
        "DELETE FROM snapshot",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut log = written(folder.path());
        let snapshot = Snapshot { last: blob(2, 1, "").id, membership: membership().into() };
        log.write(&[Persist { compact: Some(snapshot), ..Persist::default() }]).unwrap();
        drop(log);
        change(folder.path(), sql);
        let error = open(folder.path()).err().expect(sql);
        assert!(matches!(&error, Error::DamagedFile { .. }), "{sql}: {error}");
    }
}

#[test]
fn an_entry_of_an_unknown_kind_is_never_skipped() {
    let folder = tempfile::tempdir().unwrap();
    drop(written(folder.path()));
    let connection = Connection::open(log_path(folder.path(), NodeId(1))).unwrap();
    let read = |sql| connection.query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap();
    let before = read("SELECT before FROM batches WHERE first = 1");
    let packed = [1u64.to_le_bytes().as_slice(), &[9], &3u32.to_le_bytes(), b"one"].concat();
    let sum = crc32c::crc32c(&[1u64.to_le_bytes().as_slice(), &before.to_le_bytes(), &packed].concat());
    let sql = "UPDATE batches SET entries = ?1, checksum = ?2 WHERE first = 1";
    connection.execute(sql, (packed, sum)).unwrap();
    connection.execute("UPDATE batches SET before = ?1 WHERE first = 2", [sum]).unwrap();
    drop(connection);
    let error = open(folder.path()).unwrap().log.load().unwrap_err();
    assert!(error.to_string().contains("1@1 is of the unknown kind 9"), "{error}");
}

#[test]
fn damage_among_the_entries_that_are_not_handed_over_is_found_at_the_start() {
    for damaged in 1..=2 {
        let folder = tempfile::tempdir().unwrap();
        drop(written(folder.path()));
        change(folder.path(), &format!("UPDATE batches SET entries = x'0011' WHERE first = {damaged}"));
        let mut log = open(folder.path()).unwrap().log;
        log.load_at_most(0);
        let error = log.load().unwrap_err();
        assert!(matches!(&error, Error::Damaged { index: Index(index), .. } if *index == damaged), "{error}");
    }
}

#[test]
fn damage_is_found_when_entries_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    drop(written(folder.path()));
    change(folder.path(), "UPDATE batches SET entries = x'0011' WHERE first = 2");
    let mut log = open(folder.path()).unwrap().log;
    assert_eq!(log.read(Index(1), 0).unwrap(), vec![blob(1, 1, "one")] as Vec<Entry>);
    assert!(matches!(log.read(Index(2), 0), Err(Error::Damaged { index: Index(2), .. })));
    assert!(matches!(log.read(Index(1), 0), Err(Error::Poisoned { .. })), "it is not used any more");
}
