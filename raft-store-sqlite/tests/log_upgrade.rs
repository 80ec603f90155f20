//! Logs of older formats are brought up to date, or refused whole.

mod common;

use std::path::Path;

use common::{append, begin, blob, entry, membership, open};
use raft_core::port::{LogStore, Stored};
use raft_core::types::{Entry, EntryId, HardState, Index, NodeId, Payload, Snapshot, Term};
use raft_store_sqlite::{DataDir, Error, log_path, state_path};
use rusqlite::Connection;

/// The tables of format 1, as they were released, and what format 2 added.
const FORMAT_1: &str = "
    CREATE TABLE meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        node_id INTEGER NOT NULL,
        cluster_id TEXT NOT NULL,
        incarnation TEXT NOT NULL
    ) STRICT;
    CREATE TABLE hard_state (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        term INTEGER NOT NULL,
        vote INTEGER,
        checksum INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE entries (
        idx INTEGER PRIMARY KEY,
        term INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        payload BLOB NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;
";
const FORMAT_2: &str = "
    CREATE TABLE snapshot (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        idx INTEGER NOT NULL,
        term INTEGER NOT NULL,
        membership BLOB NOT NULL,
        must_install INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX memberships ON entries (idx) WHERE kind = 2;
";

const HARD_STATE: HardState = HardState { term: Term(5), vote: Some(NodeId(3)) };

fn entries() -> Vec<Entry> {
    let mut entries: Vec<_> = (1..=40).map(|index| blob(index, 1 + index / 10, "of an older format")).collect();
    entries[2] = entry(3, Payload::Membership(membership().into()));
    entries[3] = entry(4, Payload::Noop);
    entries
}

/// The bytes of a membership as they are stored, taken from a log of today.
fn stored_membership() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    begin(folder.path());
    let mut log = open(folder.path()).unwrap().log;
    log.write(&[append(vec![entry(1, Payload::Membership(membership().into()))])]).unwrap();
    drop(log);
    let connection = Connection::open(log_path(folder.path(), NodeId(1))).unwrap();
    let packed: Vec<u8> = connection.query_row("SELECT entries FROM batches", [], |row| row.get(0)).unwrap();
    packed[13..].to_vec()
}

fn checksum(id: EntryId, kind: u8, bytes: &[u8]) -> u32 {
    crc32c::crc32c(&[id.index.0.to_le_bytes().as_slice(), &id.term.0.to_le_bytes(), &[kind], bytes].concat())
}

/// Writes a log of format 1 or 2.
fn write_old(folder: &Path, version: u32, snapshot: Option<EntryId>) {
    let connection = Connection::open(log_path(folder, NodeId(1))).unwrap();
    connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL").unwrap();
    connection.execute_batch(FORMAT_1).unwrap();
    if version == 2 {
        connection.execute_batch(FORMAT_2).unwrap();
    }
    connection.pragma_update(None, "application_id", 0x5241_464C).unwrap();
    connection.pragma_update(None, "user_version", version).unwrap();
    connection.execute("INSERT INTO meta VALUES (1, 1, 'c1', '1234')", []).unwrap();
    let sum = crc32c::crc32c(&[5u64.to_le_bytes(), 3u64.to_le_bytes()].concat());
    connection.execute("INSERT INTO hard_state VALUES (1, 5, 3, ?1)", [sum]).unwrap();
    let membership = stored_membership();
    for Entry { id, payload } in entries() {
        let (kind, bytes) = match &payload {
            Payload::Noop => (0, [].as_slice()),
            Payload::Command(command) => (1, command.as_ref()),
            Payload::Membership(_) => (2, membership.as_slice()),
        };
        let row = (id.index.0, id.term.0, kind, bytes, checksum(id, kind, bytes));
        connection.execute("INSERT INTO entries VALUES (?1, ?2, ?3, ?4, ?5)", row).unwrap();
    }
    if let Some(last) = snapshot {
        let row = (last.index.0, last.term.0, &membership, checksum(last, 0, &membership));
        connection.execute("INSERT INTO snapshot VALUES (1, ?1, ?2, ?3, 0, ?4)", row).unwrap();
    }
}

/// A state that has applied as much: it is of no interest here.
fn write_state(folder: &Path, applied: EntryId) {
    let other = tempfile::tempdir().unwrap();
    begin(other.path());
    drop(open(other.path()).unwrap());
    let state = Connection::open(state_path(other.path(), NodeId(1))).unwrap();
    let sql = "UPDATE raft_meta SET applied_index = ?1, applied_term = ?2";
    state.execute(sql, [applied.index.0, applied.term.0]).unwrap();
    drop(state);
    std::fs::copy(state_path(other.path(), NodeId(1)), state_path(folder, NodeId(1))).unwrap();
}

#[test]
fn an_older_log_is_brought_up_to_date_and_goes_on() {
    for version in 1..=2 {
        let folder = tempfile::tempdir().unwrap();
        write_old(folder.path(), version, None);
        let opened = DataDir::open(folder.path(), NodeId(1)).unwrap();
        assert_eq!(opened.identity().incarnation.0, 0x1234);
        let mut log = opened.into_parts().unwrap().log;
        let mut expected = Stored { hard_state: HARD_STATE, entries: entries(), ..Stored::default() };
        assert_eq!(log.load().unwrap(), expected);
        let more = blob(41, 5, "new");
        log.write(&[append(vec![more.clone()])]).unwrap();
        drop(log);
        expected.entries.push(more);
        assert_eq!(open(folder.path()).unwrap().log.load().unwrap(), expected);
        let connection = Connection::open(log_path(folder.path(), NodeId(1))).unwrap();
        assert!(!connection.table_exists(None, "entries").unwrap(), "nothing is kept twice");
    }
}

#[test]
fn an_older_log_that_begins_after_a_snapshot_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let last = entries()[24].id;
    write_old(folder.path(), 2, Some(last));
    write_state(folder.path(), last);
    let stored = open(folder.path()).unwrap().log.load().unwrap();
    let snapshot = Snapshot { last, membership: membership().into() };
    let expected = Stored { hard_state: HARD_STATE, snapshot, entries: entries()[25..].to_vec(), ..Stored::default() };
    assert_eq!(stored, expected);
}

#[test]
fn a_damaged_older_log_is_refused_and_left_as_it_is() {
    for (sql, damaged) in [
        ("UPDATE entries SET payload = x'00' WHERE idx = 7", 7),
        ("UPDATE entries SET term = 9 WHERE idx = 40", 40),
        ("DELETE FROM entries WHERE idx = 7", 7),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write_old(folder.path(), 2, None);
        Connection::open(log_path(folder.path(), NodeId(1))).unwrap().execute(sql, []).unwrap();
        for _ in 0..2 {
            let error = DataDir::open(folder.path(), NodeId(1)).err().expect(sql);
            assert!(matches!(error, Error::Damaged { index: Index(index), .. } if index == damaged), "{sql}: {error}");
        }
    }
}
