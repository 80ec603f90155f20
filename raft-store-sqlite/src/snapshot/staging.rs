//! Copies of other nodes' states, put together piece by piece, and looked at closely before they are trusted.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_core::port::{SnapshotError, Staging};
use raft_core::types::{ClusterId, EntryId};
use rusqlite::{Connection, OptionalExtension};

use crate::error::Error;
use crate::folder::remove_file;
use crate::position::{Position, expect_cluster};
use crate::sandbox;
use crate::schema;
use crate::snapshot::SnapshotFolder;

/// How many bytes may come before they are made durable.
const SETTLED_BYTES: u64 = 8 << 20;

/// Puts captures together. What it knows of the one under way is forgotten over a restart.
pub(crate) struct SnapshotStaging {
    folder: Arc<SnapshotFolder>,
    cluster: ClusterId,
    receiving: Mutex<Option<Receiving>>,
}

/// A capture under way.
struct Receiving {
    capture: u64,
    last: EntryId,
    size_bytes: u64,
    /// How much is here, from the start on.
    received: u64,
    /// How much of that is durable for certain.
    settled: u64,
    file: File,
    /// Verified, durable, and under its name.
    is_finished: bool,
}

impl SnapshotStaging {
    pub(crate) fn new(folder: Arc<SnapshotFolder>, cluster: ClusterId) -> Self {
        Self { folder, cluster, receiving: Mutex::new(None) }
    }

    fn receiving(&self) -> MutexGuard<'_, Option<Receiving>> {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self, capture: u64, last: EntryId, size_bytes: u64) -> Result<Receiving, Error> {
        let path = self.folder.receiving();
        // Another file, so that nobody who still writes to the one before can reach it.
        let created = remove_file(&path).and_then(|()| File::create_new(&path));
        let file = created.map_err(Error::io("beginning to receive a snapshot in", &path))?;
        Ok(Receiving { capture, last, size_bytes, received: 0, settled: 0, file, is_finished: false })
    }

    /// Verifies what was received, and gives it its name.
    fn keep(&self, receiving: &Receiving) -> Result<(), Error> {
        let Receiving { last, size_bytes, received, .. } = *receiving;
        if received != size_bytes {
            return Err(Error::OutOfOrder(format!("only {received} of its {size_bytes} bytes are here")));
        }
        self.folder.keep_received(self.cluster, last)
    }
}

impl Staging for SnapshotStaging {
    fn begin(&self, capture: u64, last: EntryId, size_bytes: u64) -> Result<u64, SnapshotError> {
        let mut receiving = self.receiving();
        if let Some(known) = &*receiving
            && (known.capture, known.last, known.size_bytes) == (capture, last, size_bytes)
        {
            return Ok(known.received);
        }
        *receiving = None;
        *receiving = Some(self.create(capture, last, size_bytes)?);
        Ok(0)
    }

    fn write(&self, capture: u64, offset: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        let mut receiving = self.receiving();
        let receiving = of_capture(&mut receiving, capture)?;
        receiving.add(offset, bytes).map_err(Into::into)
    }

    fn finish(&self, capture: u64) -> Result<(), SnapshotError> {
        let mut receiving = self.receiving();
        let current = of_capture(&mut receiving, capture)?;
        if current.is_finished {
            return Ok(());
        }
        if let Err(error) = self.keep(current) {
            // Received again, it may be better.
            *receiving = None;
            return Err(error.into());
        }
        current.is_finished = true;
        Ok(())
    }
}

fn of_capture(receiving: &mut Option<Receiving>, capture: u64) -> Result<&mut Receiving, Error> {
    let current = receiving.as_mut().filter(|receiving| receiving.capture == capture);
    current.ok_or_else(|| Error::OutOfOrder("its snapshot is not being received any more".into()))
}

impl Receiving {
    fn add(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        if offset != self.received {
            return Err(Error::OutOfOrder(format!(
                "it begins at {offset}, and the one before ended at {}",
                self.received
            )));
        }
        let length = bytes.len() as u64;
        if length > self.size_bytes - self.received {
            return Err(Error::OutOfOrder(format!("it goes beyond the snapshot's {} bytes", self.size_bytes)));
        }
        self.file.write_all_at(bytes, offset).map_err(|source| Error::Io {
            doing: "storing a piece of the snapshot at",
            path: self.last.to_string().into(),
            source,
        })?;
        self.received += length;
        self.settle()
    }

    /// Makes durable what has come, from time to time: all of it at the end would hold up the log's syncs for as long as that takes.
    fn settle(&mut self) -> Result<(), Error> {
        if self.received - self.settled < SETTLED_BYTES {
            return Ok(());
        }
        self.settled = self.received;
        let settled = self.file.sync_data();
        settled.map_err(|source| Error::Io {
            doing: "storing the snapshot at",
            path: self.last.to_string().into(),
            source,
        })
    }
}

/// Checks that a file from a peer is a whole state of `cluster` that has applied just `last`. Nothing in the file is run.
pub(super) fn verify(path: &Path, cluster: ClusterId, last: EntryId) -> Result<(), Error> {
    let invalid = |what: String| Error::InvalidSnapshot { last, what };
    let unreadable = |error: rusqlite::Error| invalid(error.to_string());
    let connection = schema::open_sealed(path).map_err(|error| invalid(error.to_string()))?;
    sandbox::harden(&connection).map_err(unreadable)?;
    if let Some(what) = first_fault(&connection).map_err(unreadable)? {
        return Err(invalid(what));
    }
    expect_cluster(&connection, path, cluster)?;
    let applied = Position::read(&connection).map_err(unreadable)?.applied;
    if applied != last {
        return Err(invalid(format!("it has applied {applied}")));
    }
    Ok(())
}

/// What is wrong with a state file from elsewhere, if anything.
fn first_fault(connection: &Connection) -> rusqlite::Result<Option<String>> {
    connection.execute_batch("PRAGMA cell_size_check = ON")?;
    // In a file that can't be written, SQLite does not run CHECK constraints: they are code from elsewhere, and with chance in
    // them they may fail where they have passed.
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if check != "ok" {
        return Ok(Some(check));
    }
    let encoding: String = connection.query_row("PRAGMA encoding", [], |row| row.get(0))?;
    if encoding != "UTF-8" {
        return Ok(Some(format!("its texts are {encoding}")));
    }
    let own = sandbox::own_schema(&schema::new_state_in_memory()?)?;
    if !sandbox::own_schema_is_whole(connection, &own)? {
        return Ok(Some("its tables are not those of a state".into()));
    }
    let virtual_table = "SELECT name FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL%' LIMIT 1";
    let name = connection.query_row(virtual_table, [], |row| row.get::<_, String>(0)).optional()?;
    Ok(name.map(|name| format!("it has a virtual table, {name}")))
}
