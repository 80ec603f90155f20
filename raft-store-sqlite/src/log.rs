//! The log: entries with checksums, the hard state, and who this node is. One transaction and one fsync for all that is
//! written at once.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use raft_core::effect::Persist;
use raft_core::port::{LogStore, Stored};
use raft_core::types::{ClusterId, Entry, EntryId, HardState, Identity, Incarnation, Index, NodeId, Payload, Term};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::codec;
use crate::error::Error;
use crate::folder::FolderLock;
use crate::schema::{self, run};

const NOOP: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// The log of a node, in `raft_log_<id>.db`.
///
/// After any error it refuses everything: a failed fsync says nothing about what is on the disk, and is never tried
/// again.
pub struct SqliteLog {
    connection: Connection,
    path: PathBuf,
    /// The last entry that is stored. Zero before the first.
    last: Index,
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
        make_durable(&path)?;
        let connection = schema::open(&path, &schema::LOG, |connection| {
            let identity = "INSERT INTO meta (one, node_id, cluster_id, incarnation) VALUES (1, ?1, ?2, ?3)";
            connection.execute(identity, (node.0, ClusterId(0).to_string(), incarnation.to_string()))?;
            store_hard_state(connection, HardState::default())
        })?;
        let last = connection.query_row("SELECT coalesce(max(idx), 0) FROM entries", [], |row| row.get(0));
        let last = Index(last.map_err(Error::sqlite("reading the log"))?);
        Ok(Self { connection, path, last, failed: false, _lock: lock })
    }

    /// Who the file says this node is.
    pub(crate) fn identity(&self) -> Result<Identity, Error> {
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?));
        let (node, cluster, incarnation) = self
            .connection
            .query_row("SELECT node_id, cluster_id, incarnation FROM meta", [], read)
            .map_err(Error::sqlite("reading the node's identity"))?;
        Ok(Identity {
            node: NodeId(node),
            cluster: ClusterId(self.hexadecimal(&cluster)?),
            incarnation: Incarnation(self.hexadecimal(&incarnation)?),
        })
    }

    fn hexadecimal(&self, text: &str) -> Result<u64, Error> {
        u64::from_str_radix(text, 16)
            .map_err(|_| Error::DamagedFile { path: self.path.clone(), what: format!("{text:?} is not an identity") })
    }

    /// Stores the cluster together with what a node of it starts from, in one durable step.
    pub(crate) fn begin(&mut self, cluster: ClusterId, first: &Stored) -> Result<(), Error> {
        self.guarded("beginning in a cluster", |log| {
            run(&log.connection, "BEGIN IMMEDIATE")?;
            log.connection.execute("UPDATE meta SET cluster_id = ?1", [cluster.to_string()])?;
            store_hard_state(&log.connection, first.hard_state)?;
            log.append(&first.entries)?;
            run(&log.connection, "COMMIT")
        })
    }

    /// The position of the last entry; zero before the first.
    pub(crate) fn last(&self) -> Index {
        self.last
    }

    /// The term of the entry at `index`, if the log holds it.
    pub(crate) fn term_at(&self, index: Index) -> Result<Option<Term>, Error> {
        self.connection
            .query_row("SELECT term FROM entries WHERE idx = ?1", [index.0], |row| row.get(0).map(Term))
            .optional()
            .map_err(Error::sqlite("reading the log"))
    }

    /// Does what touches the file, unless it failed before; if it fails now, this was the last time.
    fn guarded<T>(
        &mut self,
        doing: &'static str,
        action: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        if self.failed {
            return Err(Error::Poisoned { path: self.path.clone() });
        }
        // Stays so if the action panics as well.
        self.failed = true;
        let done = action(self).map_err(Error::sqlite(doing))?;
        self.failed = false;
        Ok(done)
    }

    fn carry_out(&mut self, write: &Persist) -> rusqlite::Result<()> {
        if let Some(hard_state) = write.hard_state {
            store_hard_state(&self.connection, hard_state)?;
        }
        if let Some(from) = write.truncate_from {
            assert!(from > Index::ZERO, "entries begin at 1");
            self.connection.prepare_cached("DELETE FROM entries WHERE idx >= ?1")?.execute([from.0])?;
            self.last = self.last.min(from.prev());
        }
        self.append(&write.entries)
    }

    fn append(&mut self, entries: &[Entry]) -> rusqlite::Result<()> {
        let sql = "INSERT INTO entries (idx, term, kind, payload, checksum) VALUES (?1, ?2, ?3, ?4, ?5)";
        let mut insert = self.connection.prepare_cached(sql)?;
        for Entry { id, payload } in entries {
            assert!(id.index == self.last.next(), "entries follow each other without a gap");
            let (kind, payload) = encode(payload);
            insert.execute((id.index.0, id.term.0, kind, payload.as_ref(), checksum(*id, kind, &payload)))?;
            self.last = id.index;
        }
        Ok(())
    }

    /// The entries from `from` on, as long as `wanted` says so. Each follows the one before it.
    fn entries(&mut self, from: Index, mut wanted: impl FnMut(&Entry) -> bool) -> Result<Vec<Entry>, Error> {
        let doing = "reading the log";
        let sql = "SELECT idx, term, kind, payload, checksum FROM entries WHERE idx >= ?1 ORDER BY idx";
        let mut select = self.connection.prepare_cached(sql).map_err(Error::sqlite(doing))?;
        let mut rows = select.query([from.0]).map_err(Error::sqlite(doing))?;
        let mut entries: Vec<Entry> = Vec::new();
        while let Some(row) = rows.next().map_err(Error::sqlite(doing))? {
            let entry = decode(&StoredEntry::read(row).map_err(Error::sqlite(doing))?)?;
            let expected = entries.last().map_or(from, |last| last.id.index.next());
            if entry.id.index != expected {
                return Err(Error::Damaged { index: expected, what: "it is missing".into() });
            }
            if !wanted(&entry) {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn hard_state(&self) -> Result<HardState, Error> {
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get::<_, Option<u64>>(1)?, row.get(2)?));
        let (term, vote, stored): (u64, _, u32) = self
            .connection
            .query_row("SELECT term, vote, checksum FROM hard_state", [], read)
            .map_err(Error::sqlite("reading the hard state"))?;
        let hard_state = HardState { term: Term(term), vote: vote.map(NodeId) };
        if stored != hard_state_checksum(hard_state) {
            return Err(Error::DamagedFile {
                path: self.path.clone(),
                what: "the checksum of the term and vote is wrong".into(),
            });
        }
        Ok(hard_state)
    }

    /// A damaged log must not be used any more, so a failed read counts as much as a failed write.
    fn remember_failure<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        self.failed |= result.is_err();
        result
    }
}

impl LogStore for SqliteLog {
    type Error = Error;

    fn load(&mut self) -> Result<Stored, Error> {
        self.guarded("reading the log", |_| Ok(()))?;
        let stored = self.hard_state().and_then(|hard_state| {
            let entries = self.entries(Index(1), |_| true)?;
            Ok(Stored { hard_state, entries })
        });
        self.remember_failure(stored)
    }

    fn write(&mut self, writes: &[Persist]) -> Result<(), Error> {
        self.guarded("writing the log", |log| {
            run(&log.connection, "BEGIN IMMEDIATE")?;
            for write in writes {
                log.carry_out(write)?;
            }
            run(&log.connection, "COMMIT")
        })
    }

    fn read(&mut self, from: Index, max_bytes: u64) -> Result<Vec<Entry>, Error> {
        self.guarded("reading the log", |_| Ok(()))?;
        if from > self.last {
            return Ok(Vec::new());
        }
        let mut bytes = 0u64;
        let mut is_first = true;
        let entries = self.entries(from.max(Index(1)), |entry| {
            bytes = bytes.saturating_add(entry.size_bytes());
            std::mem::take(&mut is_first) || bytes <= max_bytes
        });
        self.remember_failure(entries)
    }
}

/// Makes durable what a killed process has written but not synced. SQLite would take it for committed, and so would the
/// node for durable: it would confirm what a power loss could still undo.
fn make_durable(path: &Path) -> Result<(), Error> {
    let mut write_ahead = path.as_os_str().to_owned();
    write_ahead.push("-wal");
    for file in [path, Path::new(&write_ahead)] {
        match File::open(file).and_then(|file| file.sync_all()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            synced => synced.map_err(|source| Error::Unwritable { path: file.to_owned(), source })?,
        }
    }
    Ok(())
}

fn store_hard_state(connection: &Connection, hard_state: HardState) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO hard_state (one, term, vote, checksum) VALUES (1, ?1, ?2, ?3)";
    let HardState { term, vote } = hard_state;
    connection
        .prepare_cached(sql)?
        .execute((term.0, vote.map(|node| node.0), hard_state_checksum(hard_state)))
        .map(|_| ())
}

/// An entry's row.
struct StoredEntry {
    id: EntryId,
    kind: u8,
    payload: Bytes,
    checksum: u32,
}

impl StoredEntry {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: EntryId::new(Index(row.get(0)?), Term(row.get(1)?)),
            kind: row.get(2)?,
            payload: Bytes::from(row.get::<_, Vec<u8>>(3)?),
            checksum: row.get(4)?,
        })
    }
}

/// The kind and bytes under which a payload is stored.
fn encode(payload: &Payload) -> (u8, Bytes) {
    match payload {
        Payload::Noop => (NOOP, Bytes::new()),
        Payload::Command(command) => (COMMAND, command.clone()),
        Payload::Membership(membership) => (MEMBERSHIP, codec::encode_membership(membership)),
    }
}

fn decode(stored: &StoredEntry) -> Result<Entry, Error> {
    let StoredEntry { id, kind, payload, checksum: sum } = stored;
    let damaged = |what: String| Error::Damaged { index: id.index, what };
    if *sum != checksum(*id, *kind, payload) {
        return Err(damaged("its checksum is wrong".into()));
    }
    let payload = match *kind {
        NOOP => Payload::Noop,
        COMMAND => Payload::Command(payload.clone()),
        MEMBERSHIP => Payload::Membership(
            codec::decode_membership(payload)
                .map_err(|error| Error::Undecodable { what: "an entry", why: format!("in entry {id}, {error}") })?,
        ),
        // Never skipped: what a newer version stored may matter for safety.
        unknown => {
            return Err(Error::Undecodable {
                what: "an entry",
                why: format!("entry {id} is of the unknown kind {unknown}"),
            });
        }
    };
    Ok(Entry { id: *id, payload })
}

fn checksum(id: EntryId, kind: u8, payload: &[u8]) -> u32 {
    let sum = crc32c::crc32c(&id.index.0.to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &id.term.0.to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &[kind]);
    crc32c::crc32c_append(sum, payload)
}

fn hard_state_checksum(HardState { term, vote }: HardState) -> u32 {
    let sum = crc32c::crc32c(&term.0.to_le_bytes());
    // Nobody has the id zero, so it stands for no vote.
    crc32c::crc32c_append(sum, &vote.map_or(0, |node| node.0).to_le_bytes())
}
