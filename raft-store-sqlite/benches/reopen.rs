//! How long a node with much data takes to open its folder, after a clean stop and after a crash.
//!
//! `cargo bench -p raft-store-sqlite --bench reopen` writes 1 GiB of values of 64 KiB. Most of what is measured after a crash is making durable what
//! the system may still have in memory, and SQLite reading its write-ahead log.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Instant;

use raft_core::effect::Persist;
use raft_core::port::{LogStore, StateMachine, Stored};
use raft_core::types::{ClusterId, Entry, EntryId, Index, Member, NodeId, Payload, Term};
use raft_store_sqlite::{Command, DataDir, Operation, Parts, state_path};

const VALUE_BYTES: usize = 64 << 10;
const BATCH: u64 = 64;

fn main() -> Result<(), Box<dyn Error>> {
    // A mere trial, unless it is meant.
    let batches = if std::env::args().any(|argument| argument == "--bench") { 256 } else { 1 };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let [made, node, crashed] = ["made", "node", "crashed"].map(|name| folder.path().join(name));
    make_state(&made, batches)?;
    // With a log that begins after all of it.
    let from = state_path(&made, NodeId(1));
    let restored = DataDir::open(&node, NodeId(1))?.restore(ClusterId(1), Member::default(), &from)?;
    drop(open(&node)?);
    report("after a clean stop", &node)?;

    let mut parts = open(&node)?;
    let first = restored.last.index.0;
    for batch in 0..8 {
        let entries: Vec<Entry> = (first + batch * BATCH..first + (batch + 1) * BATCH).map(put).collect();
        parts.log.write(&[Persist { entries: entries.clone().into(), ..Persist::default() }])?;
        parts.state_machine.apply(&entries)?;
    }
    // As a crash leaves it: the write-ahead logs are not moved into the files.
    fs::create_dir(&crashed)?;
    for file in fs::read_dir(&node)? {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with("raft_") {
            fs::copy(file.path(), crashed.join(file.file_name()))?;
        }
    }
    drop(parts);
    report("after a crash", &crashed)
}

fn make_state(folder: &Path, batches: u64) -> Result<(), Box<dyn Error>> {
    DataDir::open(folder, NodeId(1))?.begin(ClusterId(2), &Stored::default())?;
    let mut parts = open(folder)?;
    for batch in 0..batches {
        let entries: Vec<Entry> = (batch * BATCH..(batch + 1) * BATCH).map(put).collect();
        parts.state_machine.apply(&entries)?;
    }
    Ok(())
}

fn open(folder: &Path) -> Result<Parts, raft_store_sqlite::Error> {
    DataDir::open(folder, NodeId(1))?.into_parts()
}

fn report(when: &str, folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut bytes = 0;
    for file in fs::read_dir(folder)? {
        bytes += file?.metadata()?.len();
    }
    let start = Instant::now();
    let parts = open(folder)?;
    let opened = start.elapsed();
    drop(parts);
    println!("{when:<20} {:>6.0} MiB in {:>7.1} ms", bytes as f64 / f64::from(1 << 20), opened.as_secs_f64() * 1e3);
    Ok(())
}

fn put(number: u64) -> Entry {
    let value = number.to_string().repeat(VALUE_BYTES / number.to_string().len());
    let command = Command {
        time_ms: 1_800_000_000_000,
        seed: [1; 16],
        session: None,
        operation: Operation::put(format!("key-{number}"), value),
    };
    Entry { id: EntryId::new(Index(number + 1), Term(1)), payload: Payload::Command(command.encode()) }
}
