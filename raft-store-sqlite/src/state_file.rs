//! The state file as its readers and its writer share it: who has it open, and how another takes its place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use rusqlite::Connection;

use crate::error::Error;
use crate::folder::{FolderLock, remove_file, sync_folder};
use crate::sandbox::Sandbox;
use crate::schema;

/// The state file of a node.
pub(crate) struct StateFile {
    path: PathBuf,
    /// How often the file was replaced. Held to read while it is opened, and to write while it is replaced, so that nobody
    /// opens one file together with the write-ahead log of another.
    generation: RwLock<u64>,
    /// Connections that nobody uses right now.
    idle: Mutex<Vec<ReadConnection>>,
    _lock: Arc<FolderLock>,
}

impl StateFile {
    /// How many connections are kept while nobody uses them.
    const KEPT: usize = 8;

    pub(crate) fn new(path: PathBuf, lock: Arc<FolderLock>) -> Self {
        Self { path, generation: RwLock::new(0), idle: Mutex::new(Vec::new()), _lock: lock }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A connection to read the state with, as it is now.
    pub(crate) fn take(&self) -> Result<ReadConnection, Error> {
        let generation = self.generation.read().unwrap_or_else(PoisonError::into_inner);
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| ReadConnection::open(&self.path, *generation), Ok)
    }

    /// Keeps a connection for the next who needs one.
    pub(crate) fn give_back(&self, connection: ReadConnection) {
        connection.sandbox.end_transaction(&connection.connection);
        let generation = self.generation.read().unwrap_or_else(PoisonError::into_inner);
        // One that is still in a transaction would show the past, and so would one to a file that was replaced.
        if !connection.connection.is_autocommit() || connection.generation != *generation {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < Self::KEPT {
            idle.push(connection);
        }
    }

    /// Replaces the file by another, and opens that with `open` before anybody else does. Reads that are under way go on to
    /// their end on the old one.
    pub(crate) fn replace<T>(&self, by: &Path, open: impl FnOnce(&Path) -> Result<T, Error>) -> Result<T, Error> {
        let mut generation = self.generation.write().unwrap_or_else(PoisonError::into_inner);
        *generation += 1;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        swap(&self.path, by).map_err(Error::io("replacing the state by a snapshot in", &self.path))?;
        open(&self.path)
    }
}

/// Puts the durable file `by` in the place of the database at `path`, durably.
///
/// The write-ahead log of the old file goes first, for the new one must never be seen with it. A crash in between leaves an
/// old file that may lack its end: so there must be a durable note that it is to be replaced, for the next start to find.
pub(crate) fn swap(path: &Path, by: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    for suffix in ["-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        remove_file(Path::new(&name))?;
    }
    sync_folder(folder)?;
    fs::rename(by, path)?;
    sync_folder(folder)?;
    by.parent().map_or(Ok(()), sync_folder)
}

/// A connection that only reads.
pub(crate) struct ReadConnection {
    pub(crate) connection: Connection,
    /// What clients' SQL may do on it.
    pub(crate) sandbox: Sandbox,
    /// When what it does now is stopped.
    pub(crate) deadline: Deadline,
    generation: u64,
}

impl ReadConnection {
    fn open(path: &Path, generation: u64) -> Result<Self, Error> {
        let mut connection = schema::open_to_read(path)?;
        let doing = "opening the state for reading";
        let sandbox = Sandbox::install(&mut connection).map_err(Error::sqlite(doing))?;
        let deadline = Deadline::default();
        let watched = deadline.clone();
        /// How many of SQLite's steps go by between looks at the clock: some tenths of a millisecond.
        const STEPS: i32 = 10_000;
        connection.progress_handler(STEPS, Some(move || watched.is_past())).map_err(Error::sqlite(doing))?;
        Ok(Self { connection, sandbox, deadline, generation })
    }
}

/// When a read must be over.
#[derive(Clone, Default)]
pub(crate) struct Deadline(Arc<Mutex<Option<Instant>>>);

impl Deadline {
    pub(crate) fn set(&self, deadline: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }

    fn is_past(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|deadline| Instant::now() > deadline)
    }
}
