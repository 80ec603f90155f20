//! Backups: copies of the state for people, as plain SQLite files, made while entries are applied.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::Bytes;
use raft_core::types::EntryId;
use rusqlite::Connection;

use crate::error::Error;
use crate::folder::remove_file;
use crate::snapshot::copy_pages;
use crate::state_file::ReadConnection;

/// A backup that is begun: it shows the state as it was then. Until it is copied or dropped, the state's write-ahead log grows.
pub struct PendingBackup {
    pub(crate) reading: ReadConnection,
    pub(crate) path: PathBuf,
    /// The revision of the state.
    pub revision: u64,
    /// The last entry that it includes.
    pub applied: EntryId,
    /// How large the copy will be, in bytes.
    pub size_bytes: u64,
}

/// A copy of the state, in a file that goes when this is dropped.
#[derive(Debug)]
pub struct Backup {
    file: File,
    path: PathBuf,
    size_bytes: u64,
}

impl PendingBackup {
    /// Makes the copy. It needs no write-ahead log beside it, and any program that knows SQLite opens it.
    ///
    /// # Errors
    /// If the state can't be read, or the copy not written.
    pub fn copy(self) -> Result<Backup, Error> {
        let Self { reading, path, size_bytes, .. } = self;
        // From here on, it is removed whatever comes.
        let file = File::create_new(&path).map_err(Error::io("beginning a backup in", &path))?;
        let backup = Backup { file, path, size_bytes };
        let copied = copy_pages(&reading.connection, &backup.path).and_then(|()| {
            let copy = Connection::open(&backup.path)?;
            copy.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = DELETE")
        });
        copied.map_err(Error::sqlite("copying the state"))?;
        let length = backup.file.metadata().map_err(Error::io("reading the backup", &backup.path))?.len();
        if length != size_bytes {
            return Err(Error::Invalid(format!("the copy has {length} bytes, and the state {size_bytes}")));
        }
        Ok(backup)
    }
}

impl Backup {
    /// Reads from `offset` on: as many bytes as there are, but not more than `max_bytes`.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn read(&self, offset: u64, max_bytes: usize) -> Result<Bytes, Error> {
        let left = usize::try_from(self.size_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; max_bytes.min(left)];
        self.file.read_exact_at(&mut bytes, offset).map_err(Error::io("reading the backup", &self.path))?;
        Ok(bytes.into())
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        // The next start removes what is left.
        let _ = remove_file(&self.path);
    }
}
