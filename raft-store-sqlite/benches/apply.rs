//! How fast entries are applied, beside plain rusqlite: the same statements, in one transaction a batch, in a file of its own.
//!
//! `cargo bench -p raft-store-sqlite --bench apply`. All take turns in one run. What plain rusqlite does for a key is one upsert
//! alone, without history; nothing decodes, answers or keeps apart its statements.

use std::error::Error;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::port::{StateMachine, Stored};
use raft_core::types::{ClusterId, Entry, EntryId, Index, NodeId, Payload, Term};
use raft_store_sqlite::{Command, DataDir, Operation, Parameter, Statement, Value};
use rusqlite::Connection;
use tempfile::TempDir;

const BATCH: u64 = 256;
/// So that most keys are there already, and have history.
const KEYS: u64 = 10_000;
const INSERT: &str = "INSERT INTO t (a, b) VALUES (?1, ?2)";

fn main() -> Result<(), Box<dyn Error>> {
    // A mere trial, unless it is meant.
    let batches = if std::env::args().any(|argument| argument == "--bench") { 1000 } else { 2 };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let (mut state, plain) = (State::new(&folder)?, plain(&folder)?);
    let mut times = [Duration::ZERO; 5];
    for batch in 0..batches {
        let numbers = batch * BATCH..(batch + 1) * BATCH;
        times[0] += state.apply(numbers.clone().map(put))?;
        times[1] += plain_puts(&plain, numbers.clone())?;
        times[2] += state.apply(numbers.clone().map(|number| Operation::sql([insert(number)])))?;
        times[3] += state.apply([Operation::sql(numbers.clone().map(insert))].into_iter())?;
        times[4] += plain_inserts(&plain, numbers)?;
    }
    let names = [
        "puts, with history",
        "  plain upserts",
        "SQL inserts, a command each",
        "SQL inserts, one command",
        "  plain inserts",
    ];
    for (name, time) in names.iter().zip(times) {
        println!("{name:<28} {:>9.0}/s", (batches * BATCH) as f64 / time.as_secs_f64());
    }
    Ok(())
}

fn key(number: u64) -> String {
    format!("key-{:08}", number.wrapping_mul(0x9e37_79b9) % KEYS)
}

fn value(number: u64) -> String {
    format!("{number:0100}")
}

fn put(number: u64) -> Operation {
    Operation::put(key(number), value(number))
}

fn insert(number: u64) -> Statement {
    let parameter = |value| Parameter { name: None, value };
    let parameters =
        vec![parameter(Value::Integer(number as i64).into()), parameter(Value::Text(value(number)).into())];
    Statement { sql: INSERT.into(), parameters }
}

/// A node's state.
struct State {
    parts: raft_store_sqlite::Parts,
    next: Index,
}

impl State {
    fn new(folder: &TempDir) -> Result<Self, Box<dyn Error>> {
        let path = folder.path().join("node");
        DataDir::open(&path, NodeId(1))?.begin(ClusterId(1), &Stored::default())?;
        let parts = DataDir::open(&path, NodeId(1))?.into_parts()?;
        let mut state = Self { parts, next: Index(1) };
        state.apply([Operation::sql([Statement::new("CREATE TABLE t (a, b)")])].into_iter())?;
        Ok(state)
    }

    fn apply(&mut self, operations: impl Iterator<Item = Operation>) -> Result<Duration, Box<dyn Error>> {
        let mut entries = Vec::new();
        for operation in operations {
            let command = Command { time_ms: 1_800_000_000_000, seed: [1; 16], session: None, operation };
            let id = EntryId::new(self.next, Term(1));
            entries.push(Entry { id, payload: Payload::Command(command.encode()) });
            self.next = self.next.next();
        }
        let start = Instant::now();
        self.parts.state_machine.apply(&entries)?;
        Ok(start.elapsed())
    }
}

fn plain(folder: &TempDir) -> Result<Connection, Box<dyn Error>> {
    let connection = Connection::open(folder.path().join("plain.db"))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; CREATE TABLE t (a, b);
         CREATE TABLE kv (key PRIMARY KEY, value) WITHOUT ROWID;",
    )?;
    Ok(connection)
}

fn plain_puts(connection: &Connection, numbers: std::ops::Range<u64>) -> Result<Duration, Box<dyn Error>> {
    let upsert = "INSERT INTO kv VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    let rows: Vec<_> = numbers.map(|number| (Bytes::from(key(number)), value(number))).collect();
    let start = Instant::now();
    let transaction = connection.unchecked_transaction()?;
    for (key, value) in &rows {
        transaction.prepare_cached(upsert)?.execute((str::from_utf8(key)?, value))?;
    }
    transaction.commit()?;
    Ok(start.elapsed())
}

fn plain_inserts(connection: &Connection, numbers: std::ops::Range<u64>) -> Result<Duration, Box<dyn Error>> {
    let rows: Vec<_> = numbers.map(|number| (number, value(number))).collect();
    let start = Instant::now();
    let transaction = connection.unchecked_transaction()?;
    for row in &rows {
        transaction.prepare_cached(INSERT)?.execute((row.0, &row.1))?;
    }
    transaction.commit()?;
    Ok(start.elapsed())
}
