//! How long a durable append takes, beside the least that is possible: a preallocated file, written and synced.
//!
//! `cargo bench -p raft-store-sqlite --bench log`. Both take turns in one run, for disks are not as fast at one time as at another.
//! The log's figures include its checkpoints, the file's are those of a segment that is used again and again.

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use raft_core::effect::Persist;
use raft_core::port::{LogStore, Stored};
use raft_core::types::{ClusterId, Entry, EntryId, Index, NodeId, Payload, Term};
use raft_store_sqlite::{DataDir, SqliteLog};

const PAYLOAD_BYTES: usize = 256;
const FILE_BYTES: u64 = 64 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    // A mere trial, unless it is meant.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let (mut file, mut log) = (PlainFile::new(folder.path())?, Log::new(folder.path())?);
    println!("{:>5} {:>5} {:>9} {:>9} {:>9} {:>10}", "rows", "", "p50 µs", "p99 µs", "mean µs", "rows/s");
    for (rows, rounds) in [(1, 4000), (16, 4000), (256, 2000)] {
        let rounds = if is_bench { rounds } else { 20 };
        let (mut by_file, mut by_log) = (Latencies::new(rows)?, Latencies::new(rows)?);
        for round in 0..rounds + rounds / 4 {
            let write = log.next_write(rows);
            let (file, log) = (timed(|| file.append(&write.entries))?, timed(|| log.append(&write))?);
            // The first rounds make the files as large as they then stay.
            if round >= rounds / 4 {
                by_file.record(file)?;
                by_log.record(log)?;
            }
        }
        by_file.print("file");
        by_log.print("log");
        by_log.print_ratio(&by_file);
    }
    Ok(())
}

fn timed(action: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    action()?;
    Ok(start.elapsed())
}

/// A file that has its size from the beginning, so that a sync has nothing but data to write.
struct PlainFile {
    file: File,
    position: u64,
}

impl PlainFile {
    fn new(folder: &Path) -> Result<Self, Box<dyn Error>> {
        let file = File::create(folder.join("plain"))?;
        let zeros = vec![0; 1 << 20];
        for position in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, position)?;
        }
        file.sync_all()?;
        Ok(Self { file, position: 0 })
    }

    /// Each entry with its index, term, length and checksum.
    fn append(&mut self, entries: &[Entry]) -> Result<(), Box<dyn Error>> {
        let mut bytes = Vec::new();
        for Entry { id, payload } in entries {
            let Payload::Command(payload) = payload else { continue };
            bytes.extend(id.index.0.to_le_bytes());
            bytes.extend(id.term.0.to_le_bytes());
            bytes.extend(payload.len().to_le_bytes());
            bytes.extend(crc32c::crc32c(payload).to_le_bytes());
            bytes.extend_from_slice(payload);
        }
        let length = bytes.len() as u64;
        if self.position + length > FILE_BYTES {
            self.position = 0;
        }
        self.file.write_all_at(&bytes, self.position)?;
        self.position += length;
        Ok(self.file.sync_data()?)
    }
}

struct Log {
    log: SqliteLog,
    last: Index,
}

impl Log {
    fn new(folder: &Path) -> Result<Self, Box<dyn Error>> {
        let mut folder = DataDir::open(folder.join("node"), NodeId(1))?;
        folder.begin(ClusterId(1), &Stored::default())?;
        Ok(Self { log: folder.into_parts()?.log, last: Index(0) })
    }

    fn next_write(&mut self, rows: u64) -> Persist {
        let first = self.last.next().0;
        self.last = Index(self.last.0 + rows);
        let entry = |index| {
            let payload = Bytes::from(vec![index as u8; PAYLOAD_BYTES]);
            Entry { id: EntryId::new(Index(index), Term(1)), payload: Payload::Command(payload) }
        };
        Persist { entries: (first..first + rows).map(entry).collect(), ..Persist::default() }
    }

    fn append(&mut self, write: &Persist) -> Result<(), Box<dyn Error>> {
        Ok(self.log.write(std::slice::from_ref(write))?)
    }
}

struct Latencies {
    rows: u64,
    nanoseconds: Histogram<u64>,
}

impl Latencies {
    fn new(rows: u64) -> Result<Self, Box<dyn Error>> {
        Ok(Self { rows, nanoseconds: Histogram::new(3)? })
    }

    fn record(&mut self, latency: Duration) -> Result<(), Box<dyn Error>> {
        Ok(self.nanoseconds.record(u64::try_from(latency.as_nanos())?)?)
    }

    fn figures(&self) -> [f64; 3] {
        let quantile = |q| self.nanoseconds.value_at_quantile(q) as f64;
        [quantile(0.5), quantile(0.99), self.nanoseconds.mean()].map(|nanoseconds| nanoseconds / 1000.0)
    }

    fn print(&self, name: &str) {
        let [median, p99, mean] = self.figures();
        let rows_per_second = self.rows as f64 * 1e6 / mean;
        println!("{:>5} {name:>5} {median:>9.0} {p99:>9.0} {mean:>9.0} {rows_per_second:>10.0}", self.rows);
    }

    fn print_ratio(&self, other: &Self) {
        let (ours, theirs) = (self.figures(), other.figures());
        let [median, p99, mean] = [0, 1, 2].map(|figure| ours[figure] / theirs[figure]);
        println!("{:>5} {:>5} {median:>8.2}x {p99:>8.2}x {mean:>8.2}x", "", "");
    }
}
