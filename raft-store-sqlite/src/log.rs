//! The log: entries with checksums, the snapshot they begin after, the hard state, and who this node is. One transaction
//! and one fsync for all that is written at once.
//!
//! Entries are packed: those that are written together share a row. Each row has the checksum of the one before it, and where
//! the log begins and ends is recorded apart, so that what is damaged, lost or older than it should be is found when the log
//! is loaded, which reads all of it once.
//!
//! To drop the beginning of the log is to record a snapshot. The rows up to it are dead from then on, and are deleted piece
//! by piece with the writes that follow, so that none of them takes long. Free pages are used again; where a log was long
//! for once, most of them are given back.

mod batch;
mod batches;
mod load;
mod records;
mod upgrade;
mod write_ahead;

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_core::effect::Persist;
use raft_core::port::{LogStore, OlderEntries, Stored};
use raft_core::types::{ClusterId, Entry, EntryId, HardState, Identity, Incarnation, Index, NodeId, Snapshot, Term};
use rusqlite::{Connection, ErrorCode};

pub(crate) use self::records::Beginning;

use self::batches::End;
use self::load::Loader;
use self::records::{Bounds, Unreadable};
use crate::error::Error;
use crate::folder::FolderLock;
use crate::schema::{self, run};

/// How many bytes of entries [`SqliteLog::load`] hands over, unless told otherwise.
const LOAD_BYTES: u64 = 64 << 20;

/// The log of a node, in `raft_log_<id>.db`.
///
/// After any error it refuses everything: a failed fsync says nothing about what is on the disk, and is never tried
/// again.
pub struct SqliteLog {
    connection: Connection,
    path: PathBuf,
    identity: Identity,
    beginning: Beginning,
    /// The last entry that is stored.
    end: End,
    /// Whether there is something left to delete or to give back.
    has_waste: bool,
    load_bytes: u64,
    failed: bool,
    _lock: Arc<FolderLock>,
}

impl SqliteLog {
    /// Opens the log of `node`, and makes it if it is not there.
    pub(crate) fn open(
        path: PathBuf,
        node: NodeId,
        incarnation: Incarnation,
        lock: Arc<FolderLock>,
    ) -> Result<Self, Error> {
        write_ahead::refuse_damage(&path)?;
        let identity = Identity { node, cluster: ClusterId(0), incarnation };
        let mut connection = schema::open(&path, &schema::LOG, |connection| {
            records::store_identity(connection, identity)?;
            records::store_bounds(connection, Bounds::default())?;
            records::store_hard_state(connection, HardState::default())
        })
        .map_err(|error| explained(error, &path))?;
        let (identity, beginning, end) =
            open_records(&mut connection).map_err(|unreadable| refusal(unreadable, &path))?;
        Ok(Self {
            connection,
            path,
            identity,
            beginning,
            end,
            has_waste: true,
            load_bytes: LOAD_BYTES,
            failed: false,
            _lock: lock,
        })
    }

    /// Sets how many bytes of entries [`load`](LogStore::load) hands over: the last ones. It tells of those before them what
    /// a node must know, so that a long log need not fit in memory. 64 MiB at first.
    pub fn load_at_most(&mut self, bytes: u64) {
        self.load_bytes = bytes;
    }

    /// Who the file says this node is.
    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// Stores the cluster together with what a node of it starts from, in one durable step.
    pub(crate) fn begin(&mut self, cluster: ClusterId, first: &Stored) -> Result<(), Error> {
        assert!(first.older == OlderEntries::default(), "a node begins with all that it has in memory");
        self.guarded(|log| {
            log.identity.cluster = cluster;
            log.run("BEGIN IMMEDIATE")?;
            records::store_identity(&log.connection, log.identity).map_err(Error::sqlite(WRITING))?;
            records::store_hard_state(&log.connection, first.hard_state).map_err(Error::sqlite(WRITING))?;
            if first.snapshot != Snapshot::default() {
                log.begin_after(&first.snapshot, true)?;
            }
            log.append(first.entries.iter())?;
            log.commit()
        })
    }

    /// The position of the last entry, which may be the snapshot's; zero before the first.
    pub(crate) fn last(&self) -> Index {
        self.end.last.max(self.beginning.snapshot.last.index)
    }

    /// What the log begins after.
    pub(crate) fn beginning(&self) -> &Beginning {
        &self.beginning
    }

    /// Records that the state has been replaced by the snapshot that the log begins after.
    pub(crate) fn note_installed(&mut self) -> Result<(), Error> {
        let snapshot = self.beginning.snapshot.clone();
        self.guarded(|log| log.begin_after(&snapshot, false))
    }

    /// The term of the entry at `index`, if the log holds it or begins after it.
    pub(crate) fn term_at(&mut self, index: Index) -> Result<Option<Term>, Error> {
        let EntryId { index: before, term } = self.beginning.snapshot.last;
        if index == before {
            return Ok(Some(term));
        }
        Ok(self.read(index, 0)?.first().map(|entry| entry.id.term))
    }

    /// Does what touches the file, unless it failed before; if it fails now, this was the last time. A damaged log must not be
    /// used any more, so a failed read counts as much as a failed write.
    fn guarded<T>(&mut self, action: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.failed {
            return Err(Error::Poisoned { path: self.path.clone() });
        }
        // Stays so if the action panics as well.
        self.failed = true;
        let done = action(self).map_err(|error| explained(error, &self.path))?;
        self.failed = false;
        Ok(done)
    }

    fn write_all(&mut self, writes: &[Persist]) -> Result<(), Error> {
        self.run("BEGIN IMMEDIATE")?;
        // Writes that only append share their rows.
        for writes in writes.chunk_by(|_, next| only_appends(next)) {
            let [first, ..] = writes else { continue };
            self.carry_out(first)?;
            if let Some(hard_state) = writes.iter().rev().find_map(|write| write.hard_state) {
                records::store_hard_state(&self.connection, hard_state).map_err(Error::sqlite(WRITING))?;
            }
            self.append(writes.iter().flat_map(|write| &write.entries))?;
        }
        if self.has_waste {
            let appended = writes.iter().flat_map(|write| &write.entries).map(Entry::size_bytes);
            self.clear_away(appended.sum())?;
        }
        self.commit()
    }

    /// Carries out a write but for its hard state and entries.
    fn carry_out(&mut self, write: &Persist) -> Result<(), Error> {
        if let Some(from) = write.truncate_from {
            assert!(from > self.beginning.snapshot.last.index, "what a snapshot includes is never truncated");
            if from <= self.end.last {
                self.end = batches::truncate(&self.connection, from)?;
            }
        }
        if let Some(snapshot) = &write.compact {
            self.begin_after(snapshot, false)?;
        }
        if let Some(snapshot) = &write.install {
            self.begin_after(snapshot, true)?;
        }
        Ok(())
    }

    fn begin_after(&mut self, snapshot: &Snapshot, must_install: bool) -> Result<(), Error> {
        assert!(snapshot.last.index >= self.beginning.snapshot.last.index, "a log begins ever later");
        self.beginning = Beginning { snapshot: snapshot.clone(), must_install };
        self.has_waste = true;
        records::store_beginning(&self.connection, &self.beginning).map_err(Error::sqlite(WRITING))
    }

    fn append<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) -> Result<(), Error> {
        let mut last = self.last();
        let checked = entries.inspect(|entry| {
            assert!(entry.id.index == last.next(), "entries follow each other without a gap");
            last = entry.id.index;
        });
        self.end = batches::append(&self.connection, self.end, checked)?;
        Ok(())
    }

    fn commit(&self) -> Result<(), Error> {
        let bounds = Bounds { after: self.beginning.snapshot.last.index, end: self.end };
        records::store_bounds(&self.connection, bounds).map_err(Error::sqlite(WRITING))?;
        self.run("COMMIT")
    }

    fn run(&self, sql: &'static str) -> Result<(), Error> {
        run(&self.connection, sql).map_err(Error::sqlite(WRITING))
    }

    /// Deletes some dead rows, or else gives some free pages back. `appended` is what this transaction has added: more than
    /// that must go, or the file would grow for ever.
    fn clear_away(&mut self, appended: u64) -> Result<(), Error> {
        let dead_until = self.beginning.snapshot.last.index;
        let bytes = PIECE_BYTES.max(2 * appended);
        let cleared = batches::delete_dead(&self.connection, dead_until, bytes)
            .and_then(|deleted| Ok(deleted || self.give_pages_back()?));
        self.has_waste = cleared.map_err(Error::sqlite("clearing the log's beginning away"))?;
        Ok(())
    }

    /// Gives some pages back to the file system if far more are free than in use. Says whether there is more to do.
    fn give_pages_back(&self) -> rusqlite::Result<bool> {
        let count = |pragma| self.connection.prepare_cached(pragma)?.query_row([], |row| row.get::<_, u64>(0));
        let (free, all) = (count("PRAGMA freelist_count")?, count("PRAGMA page_count")?);
        if free <= (all / 2).max(KEPT_PAGES) {
            return Ok(false);
        }
        // A row for each page.
        let mut vacuum = self.connection.prepare_cached("PRAGMA incremental_vacuum(64)")?;
        let mut pages = vacuum.raw_query();
        while pages.next()?.is_some() {}
        Ok(true)
    }

    /// Reads everything once, keeps the last entries that have together at most so many bytes, and what there is to know of those
    /// before.
    fn load_all(&self, max_bytes: u64) -> Result<Stored, Error> {
        let hard_state = records::hard_state(&self.connection).map_err(|unreadable| refusal(unreadable, &self.path))?;
        let before = self.beginning.snapshot.last;
        let mut loader = Loader::new(before, max_bytes);
        if self.last() > before.index {
            batches::read(&self.connection, before.index.next(), |entry| loader.take(entry).map(|()| true))?;
        }
        let (older, entries) = loader.finish(self.last())?;
        Ok(Stored { hard_state, snapshot: self.beginning.snapshot.clone(), older, entries })
    }

    fn read_some(&self, from: Index, max_bytes: u64) -> Result<Vec<Entry>, Error> {
        if from <= self.beginning.snapshot.last.index || from > self.last() {
            return Ok(Vec::new());
        }
        let (mut entries, mut bytes) = (Vec::new(), 0u64);
        batches::read(&self.connection, from, |entry| {
            bytes = bytes.saturating_add(entry.size_bytes());
            let fits = entries.is_empty() || bytes <= max_bytes;
            if fits {
                entries.push(entry);
            }
            Ok(fits && bytes < max_bytes)
        })?;
        Ok(entries)
    }
}

impl LogStore for SqliteLog {
    type Error = Error;

    /// Reads all of the log once, and checks it: a node that has started has no damage in its log that it does not know of.
    fn load(&mut self) -> Result<Stored, Error> {
        self.guarded(|log| log.load_all(log.load_bytes))
    }

    fn write(&mut self, writes: &[Persist]) -> Result<(), Error> {
        self.guarded(|log| log.write_all(writes))
    }

    fn read(&mut self, from: Index, max_bytes: u64) -> Result<Vec<Entry>, Error> {
        self.guarded(|log| log.read_some(from, max_bytes))
    }
}

const WRITING: &str = "writing the log";

/// How much is deleted at a time, at least: some milliseconds' worth.
const PIECE_BYTES: u64 = 2 << 20;
/// How many free pages are never given back: they will be needed again soon.
const KEPT_PAGES: u64 = 4096;

/// Brings the file up to date, and reads what is in it besides entries.
impl Drop for SqliteLog {
    fn drop(&mut self) {
        if self.failed {
            schema::leave_as_is(&self.connection);
        }
    }
}

fn open_records(connection: &mut Connection) -> Result<(Identity, Beginning, End), Unreadable> {
    upgrade::pack(connection)?;
    begin_write_ahead_anew(connection)?;
    let (identity, beginning) = (records::identity(connection)?, records::beginning(connection)?);
    let bounds = records::bounds(connection)?;
    if bounds != (Bounds { after: beginning.snapshot.last.index, end: batches::end(connection)? }) {
        return Err(Unreadable::Damaged("it does not begin or end where it did"));
    }
    Ok((identity, beginning, bounds.end))
}

/// What a crash has left of a transaction must not stand behind those of this process: see [`write_ahead`].
fn begin_write_ahead_anew(connection: &Connection) -> Result<(), Error> {
    let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
    let busy = busy.map_err(Error::sqlite("emptying the write-ahead log"))?;
    assert!(!busy, "nobody else has the log open");
    Ok(())
}

fn refusal(unreadable: Unreadable, path: &Path) -> Error {
    match unreadable {
        Unreadable::Damaged(what) => Error::DamagedFile { path: path.to_owned(), what: what.into() },
        Unreadable::Other(error) => explained(error, path),
    }
}

/// What SQLite can't do with a file and statements that are both ours is the fault of the disk.
fn explained(error: Error, path: &Path) -> Error {
    match error {
        Error::Sqlite { source, .. } if source.sqlite_error_code() == Some(ErrorCode::ReadOnly) => {
            match OpenOptions::new().append(true).open(path) {
                Ok(_) => {
                    Error::DamagedFile { path: path.to_owned(), what: "it says that it is not to be written".into() }
                }
                Err(source) => Error::Unwritable { path: path.to_owned(), source },
            }
        }
        Error::Sqlite { doing, source } if is_damage(&source) => {
            Error::DamagedFile { path: path.to_owned(), what: format!("{doing} failed: {source}") }
        }
        other => other,
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    // Without a code, a statement does not fit the tables, or a value its type.
    error.sqlite_error_code().is_none_or(|code| {
        matches!(
            code,
            ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::ConstraintViolation
                | ErrorCode::TypeMismatch
                | ErrorCode::Unknown
        )
    })
}

fn only_appends(write: &Persist) -> bool {
    write.truncate_from.is_none() && write.compact.is_none() && write.install.is_none()
}
