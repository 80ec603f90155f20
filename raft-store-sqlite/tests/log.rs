//! The log keeps what it was told to, in one step or not at all, and notices damage.

mod common;

use std::path::Path;

use common::{CLUSTER, append, begin, blob, entry, membership, open};
use proptest::prelude::*;
use raft_core::effect::Persist;
use raft_core::port::{LogStore, Stored};
use raft_core::types::{Entry, HardState, Index, NodeId, Payload, Term};
use raft_store_sqlite::{DataDir, Error, SqliteLog, log_path};
use rusqlite::Connection;

fn new_log(folder: &Path) -> SqliteLog {
    begin(folder);
    open(folder).unwrap().log
}

fn reopen(log: SqliteLog, folder: &Path) -> SqliteLog {
    drop(log);
    open(folder).unwrap().log
}

fn three() -> Vec<Entry> {
    vec![blob(1, 1, "one"), blob(2, 1, "two"), blob(3, 2, "three")]
}

#[test]
fn what_is_written_is_read_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = new_log(folder.path());
    let entries = vec![
        entry(1, Payload::Membership(membership())),
        entry(2, Payload::Noop),
        blob(3, 2, "set x=1"),
        blob(4, 2, ""),
    ];
    let hard_state = HardState { term: Term(2), vote: Some(NodeId(3)) };
    log.write(&[append(entries.clone()), Persist { hard_state: Some(hard_state), ..Persist::default() }]).unwrap();
    let mut log = reopen(log, folder.path());
    assert_eq!(log.load().unwrap(), Stored { hard_state, entries, ..Stored::default() });
}

#[test]
fn a_new_log_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(new_log(folder.path()).load().unwrap(), Stored::default());
}

#[test]
fn a_cluster_and_what_it_starts_from_are_stored_together() {
    let folder = tempfile::tempdir().unwrap();
    let first = Stored::first(membership());
    DataDir::open(folder.path(), NodeId(1)).unwrap().begin(CLUSTER, &first).unwrap();
    let again = DataDir::open(folder.path(), NodeId(1)).unwrap();
    assert_eq!(again.identity().cluster, CLUSTER);
    assert_eq!(again.into_parts().unwrap().log.load().unwrap(), first);
}

#[test]
fn truncation_drops_the_end_and_new_entries_take_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = new_log(folder.path());
    let replacement =
        Persist { truncate_from: Some(Index(2)), entries: vec![blob(2, 3, "other")], ..Persist::default() };
    log.write(&[append(three()), replacement]).unwrap();
    let expected = vec![blob(1, 1, "one"), blob(2, 3, "other")];
    assert_eq!(log.load().unwrap().entries, expected);
    log.write(&[append(vec![blob(3, 3, "next")])]).unwrap();
    assert_eq!(reopen(log, folder.path()).load().unwrap().entries.len(), 3);
}

#[test]
fn truncation_beyond_the_end_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = new_log(folder.path());
    log.write(&[append(three()), Persist { truncate_from: Some(Index(9)), ..Persist::default() }]).unwrap();
    log.write(&[append(vec![blob(4, 2, "four")])]).unwrap();
    assert_eq!(log.load().unwrap().entries.len(), 4);
}

#[test]
fn reading_gives_as_much_as_fits_and_at_least_one_entry() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = new_log(folder.path());
    log.write(&[append(three())]).unwrap();
    let two = three()[..2].iter().map(Entry::size_bytes).sum();
    assert_eq!(log.read(Index(1), 0).unwrap(), three()[..1]);
    assert_eq!(log.read(Index(1), two).unwrap(), three()[..2]);
    assert_eq!(log.read(Index(1), two - 1).unwrap(), three()[..1]);
    assert_eq!(log.read(Index(2), u64::MAX).unwrap(), three()[1..]);
    assert_eq!(log.read(Index(4), u64::MAX).unwrap(), []);
}

#[test]
fn a_gap_is_a_broken_invariant_and_writes_nothing_of_its_batch() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = new_log(folder.path());
    log.write(&[append(vec![blob(1, 1, "one")])]).unwrap();
    let hard_state = Some(HardState { term: Term(9), vote: None });
    let batch = [Persist { hard_state, ..append(vec![blob(2, 1, "two")]) }, append(vec![blob(4, 1, "four")])];
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| log.write(&batch))).unwrap_err();
    assert!(matches!(log.write(&[]), Err(Error::Poisoned { .. })), "after a failure the log is not used any more");
    assert!(matches!(log.load(), Err(Error::Poisoned { .. })));
    assert!(matches!(log.read(Index(1), 1), Err(Error::Poisoned { .. })));
    let stored = reopen(log, folder.path()).load().unwrap();
    assert_eq!(stored, Stored { entries: vec![blob(1, 1, "one")], ..Stored::default() });
}

/// Changes the closed log behind its back, and says what loading it gives.
fn load_after(sql: &str) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let mut log = new_log(folder.path());
    let hard_state = Some(HardState { term: Term(2), vote: None });
    log.write(&[Persist { hard_state, ..append(three()) }]).unwrap();
    drop(log);
    let path = log_path(folder.path(), NodeId(1));
    assert!(Connection::open(path).unwrap().execute(sql, []).unwrap() > 0, "{sql}");
    let mut log = open(folder.path()).unwrap().log;
    let error = log.load().unwrap_err();
    assert!(matches!(log.write(&[]), Err(Error::Poisoned { .. })), "a damaged log is not written to any more");
    error
}

#[test]
fn damage_to_an_entry_is_found_and_its_index_named() {
    for sql in [
        "UPDATE entries SET payload = CAST('twO' AS BLOB) WHERE idx = 2",
        "UPDATE entries SET term = 3 WHERE idx = 2",
        "UPDATE entries SET kind = 0 WHERE idx = 2",
        "UPDATE entries SET checksum = checksum + 1 WHERE idx = 2",
        "DELETE FROM entries WHERE idx = 2",
        "DELETE FROM entries WHERE idx <= 2",
    ] {
        let error = load_after(sql);
        assert!(matches!(&error, Error::Damaged { index: Index(2), .. }), "{sql}: {error}");
    }
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = new_log(folder.path());
    log.write(&[append(three())]).unwrap();
    drop(log);
    for position in 0..5 {
        for bit in 0..8 {
            let mut payload = *b"three";
            payload[position] ^= 1 << bit;
            let connection = Connection::open(log_path(folder.path(), NodeId(1))).unwrap();
            connection.execute("UPDATE entries SET payload = ?1 WHERE idx = 3", [payload]).unwrap();
            drop(connection);
            let error = open(folder.path()).unwrap().log.load().unwrap_err();
            assert!(matches!(error, Error::Damaged { index: Index(3), .. }), "byte {position}, bit {bit}: {error}");
        }
    }
}

#[test]
fn damage_to_the_hard_state_is_found() {
    for sql in ["UPDATE hard_state SET term = 1", "UPDATE hard_state SET vote = 2"] {
        let error = load_after(sql);
        assert!(matches!(error, Error::DamagedFile { .. }), "{sql}: {error}");
    }
}

#[test]
fn an_entry_of_an_unknown_kind_is_never_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = new_log(folder.path());
    log.write(&[append(three())]).unwrap();
    drop(log);
    let sum = crc32c::crc32c(&[2u64.to_le_bytes().as_slice(), &1u64.to_le_bytes(), &[9], b"two"].concat());
    let connection = Connection::open(log_path(folder.path(), NodeId(1))).unwrap();
    connection.execute("UPDATE entries SET kind = 9, checksum = ?1 WHERE idx = 2", [sum]).unwrap();
    drop(connection);
    let error = open(folder.path()).unwrap().log.load().unwrap_err();
    assert!(error.to_string().contains("2@1 is of the unknown kind 9"), "{error}");
}

/// Copies the files of a running log, as a crash would leave them, with the write-ahead log cut at `bytes`.
fn crash_image(folder: &Path, bytes: u64) -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    for suffix in ["", "-wal"] {
        let name = |folder: &Path| format!("{}{suffix}", log_path(folder, NodeId(1)).display());
        std::fs::copy(name(folder), name(image.path())).unwrap();
        if suffix == "-wal" {
            let file = std::fs::OpenOptions::new().write(true).open(name(image.path())).unwrap();
            file.set_len(bytes).unwrap();
        }
    }
    image
}

#[test]
fn a_torn_write_leaves_whole_batches() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = new_log(folder.path());
    let wal = format!("{}-wal", log_path(folder.path(), NodeId(1)).display());
    let length = || std::fs::metadata(&wal).unwrap().len();
    let large = "x".repeat(10_000);
    let batches = [
        vec![append(vec![blob(1, 1, "one"), blob(2, 1, &large)]), append(vec![blob(3, 1, "three")])],
        vec![Persist {
            hard_state: Some(HardState { term: Term(2), vote: Some(NodeId(1)) }),
            truncate_from: Some(Index(2)),
            entries: vec![blob(2, 2, &large), blob(3, 2, "other")],
            ..Persist::default()
        }],
    ];
    let mut states = vec![(length(), log.load().unwrap())];
    for batch in &batches {
        log.write(batch).unwrap();
        states.push((length(), log.load().unwrap()));
    }
    let (first, last) = (states[0].0, states[2].0);
    for bytes in (first..=last).step_by(1500).chain([states[1].0, last]) {
        let image = crash_image(folder.path(), bytes);
        let (_, expected) = states.iter().rev().find(|(length, _)| *length <= bytes).unwrap();
        assert_eq!(&open(image.path()).unwrap().log.load().unwrap(), expected, "cut at {bytes} of {last}");
    }
}

/// One thing that a core may order, made fitting by `order`.
#[derive(Clone, Debug)]
enum Order {
    Append(Vec<String>),
    Truncate(u64),
    HardState(u64, Option<u64>),
    Reopen,
}

fn orders() -> impl Strategy<Value = Vec<Order>> {
    let order = prop_oneof![
        4 => prop::collection::vec("[a-z]{0,40}", 1..5).prop_map(Order::Append),
        2 => (1..20u64).prop_map(Order::Truncate),
        2 => (0..9u64, prop::option::of(1..4u64)).prop_map(|(term, vote)| Order::HardState(term, vote)),
        1 => Just(Order::Reopen),
    ];
    prop::collection::vec(order, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_agrees_with_a_vector(orders in orders()) {
        let folder = tempfile::tempdir().unwrap();
        let mut log = new_log(folder.path());
        let mut twin = Stored::default();
        for order in orders {
            let mut write = Persist::default();
            match order {
                Order::Append(payloads) => {
                    for payload in payloads {
                        write.entries.push(blob(twin.entries.len() as u64 + 1, 1, &payload));
                        twin.entries.push(write.entries[write.entries.len() - 1].clone());
                    }
                }
                Order::Truncate(from) => {
                    write.truncate_from = Some(Index(from));
                    twin.entries.truncate(from as usize - 1);
                }
                Order::HardState(term, vote) => {
                    twin.hard_state = HardState { term: Term(term), vote: vote.map(NodeId) };
                    write.hard_state = Some(twin.hard_state);
                }
                Order::Reopen => log = reopen(log, folder.path()),
            }
            log.write(&[write]).unwrap();
            prop_assert_eq!(&log.load().unwrap(), &twin);
        }
    }
}
