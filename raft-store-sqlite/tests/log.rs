//! The log keeps what it was told to, in one step or not at all.

mod common;

use std::path::Path;

use common::{CLUSTER, append, begin, blob, entry, membership, open};
use proptest::prelude::*;
use raft_core::effect::Persist;
use raft_core::port::{LogStore, OlderEntries, Stored};
use raft_core::types::{Entry, EntryId, HardState, Index, NodeId, Payload, Snapshot, Term};
use raft_store_sqlite::{DataDir, Error, SqliteLog, log_path, state_path};
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
        entry(1, Payload::Membership(membership().into())),
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
        Persist { truncate_from: Some(Index(2)), entries: vec![blob(2, 3, "other")].into(), ..Persist::default() };
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
            entries: vec![blob(2, 2, &large), blob(3, 2, "other")].into(),
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

fn compact(last: Entry) -> Persist {
    let snapshot = Snapshot { last: last.id, membership: membership().into() };
    Persist { compact: Some(snapshot), ..Persist::default() }
}

/// Opens the log of a folder after making the state claim that it has applied `through`: it is of no interest here.
fn open_log(folder: &Path, through: EntryId) -> SqliteLog {
    let state = Connection::open(state_path(folder, NodeId(1))).unwrap();
    let sql = "UPDATE raft_meta SET applied_index = ?1, applied_term = ?2";
    state.execute(sql, [through.index.0, through.term.0]).unwrap();
    drop(state);
    open(folder).unwrap().log
}

#[test]
fn a_compacted_log_begins_after_its_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = new_log(folder.path());
    log.write(&[append(three())]).unwrap();
    let write = compact(blob(2, 1, ""));
    log.write(std::slice::from_ref(&write)).unwrap();
    let mut twin = Stored { entries: three(), ..Stored::default() };
    twin.carry_out(&write);
    assert_eq!(log.load().unwrap(), twin);
    assert_eq!(log.read(Index(2), u64::MAX).unwrap(), [], "what is dropped is not read any more");
    assert_eq!(log.read(Index(3), u64::MAX).unwrap(), three()[2..]);
    drop(log);
    let mut log = open_log(folder.path(), EntryId::new(Index(2), Term(1)));
    assert_eq!(log.load().unwrap(), twin);
    log.write(&[append(vec![blob(4, 2, "four")])]).unwrap();
    assert_eq!(log.load().unwrap().entries.len(), 2);
}

#[test]
fn an_installed_snapshot_may_be_beyond_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = new_log(folder.path());
    log.write(&[append(three())]).unwrap();
    let last = EntryId::new(Index(10), Term(4));
    let snapshot = Snapshot { last, membership: membership().into() };
    let entries = vec![blob(11, 4, "next")].into();
    let write = Persist { install: Some(snapshot.clone()), entries, ..Persist::default() };
    log.write(&[write]).unwrap();
    let expected = Stored { snapshot, entries: vec![blob(11, 4, "next")], ..Stored::default() };
    assert_eq!(log.load().unwrap(), expected);
    drop(log);
    assert_eq!(open_log(folder.path(), last).load().unwrap(), expected);
}

/// What a log tells when it may hand over nothing.
fn told_without(log: &mut SqliteLog) -> OlderEntries {
    log.load_at_most(0);
    let stored = log.load().unwrap();
    assert_eq!(stored.entries, []);
    stored.older
}

/// What [`OlderEntries`] should say of these entries.
fn older_of(entries: &[Entry]) -> OlderEntries {
    let mut older = OlderEntries::default();
    for entry in entries {
        older.last = entry.id.index;
        if older.terms.last().is_none_or(|last| last.term < entry.id.term) {
            older.terms.push(entry.id);
        }
        if let Payload::Membership(membership) = &entry.payload {
            older.memberships.push((entry.id.index, membership.clone()));
        }
    }
    older
}

#[test]
fn terms_and_memberships_roll_back_with_their_entries() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = new_log(folder.path());
    let mut entries = vec![blob(1, 1, "one"), blob(2, 3, "two"), entry(3, Payload::Membership(membership().into()))];
    entries[2].id.term = Term(3);
    entries.push(blob(4, 7, "four"));
    log.write(&[append(entries.clone())]).unwrap();
    assert_eq!(told_without(&mut log), older_of(&entries));
    log.write(&[Persist { truncate_from: Some(Index(3)), ..append(vec![blob(3, 4, "other")]) }]).unwrap();
    entries.truncate(2);
    entries.push(blob(3, 4, "other"));
    assert_eq!(told_without(&mut log), older_of(&entries));
}

fn pages(folder: &Path) -> u64 {
    let connection = Connection::open(log_path(folder, NodeId(1))).unwrap();
    connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_log_that_is_compacted_regularly_does_not_grow() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = new_log(folder.path());
    let payload = "x".repeat(1000);
    let mut index = 0;
    let mut round = |log: &mut SqliteLog| {
        for _ in 0..10 {
            let entries = (1..=200).map(|n| blob(index + n, 1, &payload)).collect();
            index += 200;
            log.write(&[append(entries)]).unwrap();
        }
        log.write(&[compact(blob(index, 1, ""))]).unwrap();
        EntryId::new(Index(index), Term(1))
    };
    for _ in 0..3 {
        round(&mut log);
    }
    let last = round(&mut log);
    drop(log);
    let early = pages(folder.path());
    let mut log = open_log(folder.path(), last);
    for _ in 0..10 {
        round(&mut log);
    }
    drop(log);
    assert!(pages(folder.path()) <= early + early / 4, "{} pages, {early} before", pages(folder.path()));
}

#[test]
fn a_log_that_was_long_for_once_gives_its_space_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = new_log(folder.path());
    let payload = "x".repeat(100_000);
    for first in (0..1000).step_by(50) {
        log.write(&[append((1..=50).map(|n| blob(first + n, 1, &payload)).collect())]).unwrap();
    }
    log.write(&[compact(blob(1000, 1, ""))]).unwrap();
    let mut slowest = std::time::Duration::ZERO;
    for index in 1001..1601 {
        let start = std::time::Instant::now();
        log.write(&[append(vec![blob(index, 1, "small")])]).unwrap();
        slowest = slowest.max(start.elapsed());
    }
    drop(log);
    let size = pages(folder.path()) * 4096;
    assert!(size < 40 << 20, "{size} bytes for a log that has had 100 MB and has 600 small entries");
    assert!(slowest < std::time::Duration::from_secs(2), "a write took {slowest:?}");
}

/// Writes an entry to a row of its own: what is truncated, if nothing, ends the row before.
fn alone(entry: Entry) -> Persist {
    Persist { truncate_from: Some(entry.id.index), ..append(vec![entry]) }
}

/// The most memory that this process has had, in KiB, where the system says so.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse().ok())
}

#[test]
#[ignore = "takes a while, and means something with --release alone"]
fn a_log_of_a_million_entries_opens_in_seconds_and_in_little_memory() {
    for rows_of_one in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut log = new_log(folder.path());
        let payload = "x".repeat(256);
        for first in (0..1_000_000).step_by(10_000) {
            let entries = (1..=10_000).map(|n| blob(first + n, 1 + first / 50_000, &payload));
            let writes = if rows_of_one { entries.map(alone).collect() } else { vec![append(entries.collect())] };
            log.write(&writes).unwrap();
        }
        for budget in [1 << 20, 64 << 20] {
            drop(log);
            let start = std::time::Instant::now();
            log = open(folder.path()).unwrap().log;
            log.load_at_most(budget);
            let stored = log.load().unwrap();
            let (took, handed_over, memory) = (start.elapsed(), stored.entries.len(), peak_memory());
            println!("rows of one: {rows_of_one}: {took:?}, {handed_over} entries handed over, at most {memory:?} KiB");
            assert!(took < std::time::Duration::from_secs(10), "{took:?}");
            assert!(memory.is_none_or(|kib| kib < 256 << 10), "{memory:?} KiB for a log of 288 MB");
        }
    }
}

/// One thing that a core may order, made fitting by [`write_of`].
#[derive(Clone, Debug)]
enum Order {
    Append(Vec<Option<String>>, u64),
    Truncate(usize),
    HardState(u64, Option<u64>),
    Compact(usize),
    Install(u64, u64),
    Reopen,
}

fn orders() -> impl Strategy<Value = Vec<Order>> {
    let payload = prop::option::weighted(0.9, "[a-z]{0,40}");
    let order = prop_oneof![
        6 => (prop::collection::vec(payload, 1..6), 0..2u64).prop_map(|(payloads, terms)| Order::Append(payloads, terms)),
        2 => (0..20usize).prop_map(Order::Truncate),
        2 => (0..9u64, prop::option::of(1..4u64)).prop_map(|(terms, vote)| Order::HardState(terms, vote)),
        2 => (0..20usize).prop_map(Order::Compact),
        1 => (1..20u64, 0..2u64).prop_map(|(ahead, terms)| Order::Install(ahead, terms)),
        2 => Just(Order::Reopen),
    ];
    prop::collection::vec(order, 1..25)
}

/// A write of the kind that was ordered, and that fits what is stored; `None` where there is none.
fn write_of(order: &Order, twin: &Stored) -> Option<Persist> {
    let mut write = Persist::default();
    let last = twin.last();
    match order {
        Order::Append(payloads, terms) => {
            let term = Term(last.term.0.max(1) + terms);
            let entry = |(n, text): (u64, &Option<String>)| {
                let membership = || Payload::Membership(membership().into());
                let payload = text.clone().map_or_else(membership, |text| Payload::Command(text.into()));
                Entry { id: EntryId::new(last.index.plus(n), term), payload }
            };
            write.entries = (1..).zip(payloads).map(entry).collect();
        }
        Order::Truncate(nth) => write.truncate_from = Some(twin.entries.get(*nth)?.id.index),
        Order::HardState(terms, vote) => {
            let term = Term(twin.hard_state.term.0 + terms);
            write.hard_state = Some(HardState { term, vote: vote.map(NodeId) });
        }
        Order::Compact(nth) => return Some(compact(twin.entries.get(*nth)?.clone())),
        Order::Install(ahead, terms) => {
            let last = EntryId::new(twin.snapshot.last.index.plus(*ahead), Term(last.term.0 + terms));
            // Entries after it of a lower term would not be those of its log.
            write.truncate_from = twin.entries.iter().map(|entry| entry.id.index).find(|index| *index > last.index);
            write.install = Some(Snapshot { last, membership: membership().into() });
        }
        Order::Reopen => return None,
    }
    Some(write)
}

/// What a log gives that may hand over so many bytes, of what is stored.
fn with_budget(twin: &Stored, max_bytes: u64) -> Stored {
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        bytes += entry.size_bytes();
        bytes <= max_bytes
    };
    let fitting = twin.entries.iter().rev().take_while(fits).count();
    let (older, entries) = twin.entries.split_at(twin.entries.len() - fitting);
    Stored { older: older_of(older), entries: entries.to_vec(), ..twin.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_agrees_with_one_in_memory(orders in orders(), budget in 0..600u64) {
        let folder = tempfile::tempdir().unwrap();
        let mut log = new_log(folder.path());
        let mut twin = Stored::default();
        for order in orders {
            match write_of(&order, &twin) {
                Some(write) => {
                    twin.carry_out(&write);
                    log.write(&[write]).unwrap();
                }
                None => {
                    drop(log);
                    log = open_log(folder.path(), twin.snapshot.last);
                }
            }
            log.load_at_most(u64::MAX);
            prop_assert_eq!(&log.load().unwrap(), &twin);
            log.load_at_most(budget);
            prop_assert_eq!(&log.load().unwrap(), &with_budget(&twin, budget));
            let from = twin.snapshot.last.index.next();
            let read = log.read(from, budget).unwrap();
            prop_assert_eq!(&read[..], &twin.entries[..read.len()]);
            prop_assert!(!read.is_empty() || twin.entries.is_empty());
        }
    }
}
