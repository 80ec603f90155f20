//! The store on disks whose power is cut: at every sync, and at any point between. Each image is opened as a node's start does, and must hold
//! what was confirmed, and lead to the state of a twin that never crashed.
//!
//! `RAFT_SEEDS=1000 cargo test --release -p raft-store-sqlite --test crash` runs more seeds than an ordinary run. A failure prints its seed.
#![allow(unsafe_code, reason = "SQLite's virtual file systems are tables of C functions")]

mod common;
mod crash_vfs;
#[path = "../../raft-core/tests/common/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Store, append, begin, command, open, put, sql};
use crash_vfs::{Disk, Fault, Image, Tally, mount, unmount};
use raft_core::effect::Persist;
use raft_core::port::{LogStore, StateMachine, Stored};
use raft_core::types::{Entry, EntryId, HardState, Index, NodeId, Payload, Snapshot, Term};
use raft_store_sqlite::{Error, Parts, SqliteLog, dump, state_path};
use random::Random;
use tempfile::TempDir;

const SEEDS: u64 = 6;

/// What the world may rely on, whatever happens.
struct Promises {
    /// What was confirmed, and what it becomes if the write under way succeeds.
    logs: Vec<Stored>,
    /// What is committed.
    commit: u64,
    /// What the state was said to hold durably.
    state: u64,
}

/// A node's life after life, and the twin.
struct World {
    random: Random,
    log: Stored,
    /// What the log is if a write that failed is there all the same: nobody was told that it is, or that it is not.
    unknown: Option<Stored>,
    commit: u64,
    state: u64,
    twin: Store,
    /// What the twin's state was after each entry.
    dumps: BTreeMap<u64, String>,
    root: TempDir,
    folders: u64,
    opened: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        crash_vfs::install();
        // In memory, where that is to be had.
        let in_memory = Path::new("/dev/shm");
        let root = if in_memory.is_dir() { tempfile::tempdir_in(in_memory) } else { tempfile::tempdir() };
        let mut world = Self {
            random: Random::new(seed),
            log: Stored::default(),
            unknown: None,
            commit: 0,
            state: 0,
            twin: Store::new(),
            dumps: BTreeMap::new(),
            root: root.unwrap(),
            folders: 0,
            opened: 0,
        };
        world.dumps.insert(0, world.twin.dump());
        world
    }

    fn folder(&mut self) -> PathBuf {
        self.folders += 1;
        self.root.path().join(self.folders.to_string())
    }

    fn promises(&self, writes: &[Persist]) -> Promises {
        let mut after = self.log.clone();
        writes.iter().for_each(|write| after.carry_out(write));
        Promises { logs: vec![self.log.clone(), after], commit: self.commit, state: self.state }
    }

    /// Opens what a power loss has left, checks it, and brings it as far as it ought to be. Says which log it has.
    fn check(&mut self, at: &str, folder: &Path, promised: &Promises) -> (Parts, Stored) {
        self.opened += 1;
        let Parts { mut log, mut state_machine, reader } =
            open(folder).unwrap_or_else(|error| panic!("{at}: it does not open: {error}"));
        let stored = log.load().unwrap_or_else(|error| panic!("{at}: {error}"));
        assert!(promised.logs.contains(&stored), "{at}: the log is not as confirmed: {stored:?}\n{:?}", promised.logs);
        let applied = state_machine.applied().unwrap().index.0;
        assert!(
            applied >= promised.state && applied <= promised.commit,
            "{at}: the state is at {applied}, not from {} to {}",
            promised.state,
            promised.commit
        );
        assert_eq!(dump_of(folder), self.dumps[&applied], "{at}: the state is not whole");
        let missing = committed(&mut log, applied, promised.commit).unwrap();
        state_machine.apply(&missing).unwrap();
        assert_eq!(dump_of(folder), self.dumps[&promised.commit], "{at}: it does not catch up");
        (Parts { log, state_machine, reader }, stored)
    }

    fn check_all(&mut self, images: Vec<Image>, promised: &Promises) {
        for image in images {
            let folder = self.folder();
            image.write_to(&folder);
            self.check(&image.at, &folder, promised);
            std::fs::remove_dir_all(folder).unwrap();
        }
    }

    fn writes(&mut self) -> Vec<Persist> {
        let last = self.log.last();
        let mut term = self.log.hard_state.term.max(Term(1));
        let mut write = Persist::default();
        let mut from = last.index.0 + 1;
        if from > self.commit + 1 && self.random.percent(20) {
            from = self.random.between(self.commit + 1..from);
            (term, write.truncate_from) = (Term(term.0 + 1), Some(Index(from)));
        }
        write.hard_state = Some(HardState { term, vote: Some(NodeId(1)) });
        let count = self.random.between(1..5);
        write.entries = (from..from + count).map(|index| self.entry(index, term)).collect::<Vec<_>>().into();
        let next = append(vec![self.entry(from + count, term)]);
        if self.random.percent(30) { vec![write, next] } else { vec![write] }
    }

    fn entry(&mut self, index: u64, term: Term) -> Entry {
        let bytes = self.random.pick(&[10, 600, 3000, 9000]);
        let operation = match self.random.below(3) {
            0 => put(&format!("k{}", self.random.below(5)), &"v".repeat(bytes)),
            1 => sql(&["CREATE TABLE IF NOT EXISTS c (n)", "INSERT INTO c VALUES (1)"]),
            _ => sql(&["CREATE TABLE IF NOT EXISTS c (n)", "UPDATE c SET n = n + 1"]),
        };
        Entry { id: EntryId::new(Index(index), term), payload: Payload::Command(command(operation).encode()) }
    }

    /// One thing that a node does.
    fn step(&mut self, disk: &Disk, parts: &mut Parts) -> Result<(), Error> {
        match self.random.below(5) {
            0 | 1 => {
                let writes = self.writes();
                self.write(disk, parts, &writes)
            }
            2 | 3 => self.apply(disk, parts),
            _ => {
                let taken = parts.state_machine.take_snapshot();
                let promised = self.promises(&[]);
                self.check_all(disk.take_images(), &promised);
                let taken = taken?;
                self.state = taken.index.0;
                if taken.index <= self.log.snapshot.last.index {
                    return Ok(());
                }
                let snapshot = Snapshot { last: taken, ..Snapshot::default() };
                self.write(disk, parts, &[Persist { compact: Some(snapshot), ..Persist::default() }])
            }
        }
    }

    fn write(&mut self, disk: &Disk, parts: &mut Parts, writes: &[Persist]) -> Result<(), Error> {
        let promised = self.promises(writes);
        let done = parts.log.write(writes);
        self.check_all(disk.take_images(), &promised);
        if let Err(error) = done {
            self.unknown = promised.logs.into_iter().next_back();
            return Err(error);
        }
        assert!(!disk.has_failed(), "a failure was not reported");
        writes.iter().for_each(|write| self.log.carry_out(write));
        let promised = self.promises(&[]);
        self.check_all(vec![disk.cut()], &promised);
        Ok(())
    }

    fn apply(&mut self, disk: &Disk, parts: &mut Parts) -> Result<(), Error> {
        let (from, last) = (self.commit + 1, self.log.last().index.0);
        if from > last {
            return Ok(());
        }
        self.commit = self.random.between(from..last + 1);
        let entries = committed(&mut parts.log, from - 1, self.commit)?;
        let mut expected = Vec::new();
        for entry in &entries {
            expected.extend(self.twin.parts.state_machine.apply(std::slice::from_ref(entry)).unwrap());
            self.dumps.insert(entry.id.index.0, self.twin.dump());
        }
        let answers = parts.state_machine.apply(&entries);
        let promised = self.promises(&[]);
        self.check_all(disk.take_images(), &promised);
        let answers = answers?;
        assert!(answers == expected, "equal entries have equal answers");
        assert!(!disk.has_failed(), "a failure was not reported");
        Ok(())
    }

    /// From a start to a power loss, a failure or a stop.
    fn live(&mut self, folder: &Path, fault: Option<(Fault, &str)>) -> (Tally, PathBuf) {
        let disk = Arc::new(Disk::new(folder, self.random.next()));
        mount(&disk);
        let promised = self.promises(&[]);
        let (mut parts, stored) = self.check("at a start", folder, &promised);
        assert_eq!(stored, self.log);
        self.check_all(disk.take_images(), &promised);
        if let Some((fault, prefix)) = fault {
            let after = self.random.between(0..if matches!(fault, Fault::Sync | Fault::Lie) { 6 } else { 40 });
            disk.plan(fault, prefix, after);
        }
        for _ in 0..30 {
            if let Err(error) = self.step(&disk, &mut parts) {
                assert!(disk.has_failed(), "nothing failed but {error}");
                assert!(parts.log.write(&[]).is_err() || parts.state_machine.take_snapshot().is_err(), "it goes on");
                break;
            }
        }
        let mut promised = self.promises(&[]);
        promised.logs.extend(self.unknown.take());
        let at_power_loss = disk.cut();
        drop(parts);
        assert!(!disk.was_tried_again(), "a failed write was tried again");
        let mut images = disk.take_images();
        images.extend([disk.restart(), disk.cut()]);
        unmount(&disk);
        self.check_all(images, &promised);
        let next = self.folder();
        at_power_loss.write_to(&next);
        let (parts, stored) = self.check("after the power loss", &next, &promised);
        self.log = stored;
        drop(parts);
        (disk.tally(), next)
    }

    fn run(&mut self, faults: &[(Fault, &'static str)]) -> Tally {
        let mut folder = self.folder();
        std::fs::create_dir_all(&folder).unwrap();
        begin(&folder);
        let mut all = Tally::default();
        for life in 0..faults.len() + 1 {
            let fault = life.checked_sub(1).map(|number| faults[number]);
            let (tally, next) = self.live(&folder, fault);
            all += tally;
            folder = next;
        }
        all
    }
}

/// The entries behind `applied` that are committed.
fn committed(log: &mut SqliteLog, applied: u64, commit: u64) -> Result<Vec<Entry>, Error> {
    let mut entries = log.read(Index(applied + 1), u64::MAX)?;
    entries.retain(|entry| entry.id.index.0 <= commit);
    Ok(entries)
}

fn dump_of(folder: &Path) -> String {
    dump(&state_path(folder, NodeId(1))).unwrap()
}

const FAULTS: [(Fault, &str); 6] = [
    (Fault::Sync, "raft_log_"),
    (Fault::Sync, "raft_node_"),
    (Fault::Write, "raft_log_"),
    (Fault::Write, "raft_node_"),
    (Fault::Full, "raft_log_"),
    (Fault::Full, "raft_node_"),
];

#[test]
fn every_image_of_a_power_loss_opens_with_all_that_was_confirmed() {
    let seeds = std::env::var("RAFT_SEEDS").map_or(SEEDS, |text| text.parse().expect("RAFT_SEEDS is a number"));
    let (mut all, mut opened) = (Tally::default(), 0);
    for seed in std::env::var("RAFT_SEED").map_or(0..seeds, |text| text.parse().map(|seed| seed..seed + 1).unwrap()) {
        let mut world = World::new(seed);
        let tally = panic::catch_unwind(panic::AssertUnwindSafe(|| world.run(&FAULTS))).unwrap_or_else(|failure| {
            eprintln!("to repeat it: RAFT_SEED={seed} cargo test -p raft-store-sqlite --test crash");
            panic::resume_unwind(failure)
        });
        all += tally;
        opened += world.opened;
    }
    println!("{seeds} seeds, {opened} images opened: {all:?}");
    for (fault, prefix) in FAULTS {
        let file = prefix.trim_start_matches("raft_");
        let times = all.failures.iter().filter(|((what, name), _)| *what == fault && name.starts_with(file));
        assert!(times.count() > 0, "{fault:?} of {prefix} never happened");
    }
    assert!(all.cuts_at_syncs > 0 && all.cuts_between > 0 && all.torn > 0, "the disks are too tame: {all:?}");
}

/// The test itself is tested: a disk that lies is found out.
#[test]
fn a_disk_that_lies_about_syncs_is_found_out() {
    let caught = panic::catch_unwind(|| World::new(1).run(&[(Fault::Lie, "raft_log_")]));
    let message = caught.expect_err("it loses what it has confirmed");
    let message = message.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(
        message.contains("not as confirmed") || message.contains("not reported") || message.contains("does not open"),
        "{message}"
    );
}
