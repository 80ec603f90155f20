//! The log: entries with checksums, the snapshot they begin after, the hard state, and who this node is. One transaction
//! and one fsync for all that is written at once.
//!
//! To drop the beginning of the log is to record a snapshot. The rows up to it are dead from then on, and are deleted piece
//! by piece with the writes that follow, so that none of them takes long. Free pages are used again; where a log was long
//! for once, most of them are given back.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use raft_core::effect::Persist;
use raft_core::membership::Membership;
use raft_core::port::{LogStore, OlderEntries, Stored};
use raft_core::types::{
    ClusterId, Entry, EntryId, HardState, Identity, Incarnation, Index, NodeId, Payload, Snapshot, Term,
};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::codec;
use crate::error::Error;
use crate::folder::FolderLock;
use crate::schema::{self, run};

const NOOP: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// How many bytes of entries [`SqliteLog::load`] hands over, unless told otherwise.
const LOAD_BYTES: u64 = 64 << 20;

/// The log of a node, in `raft_log_<id>.db`.
///
/// After any error it refuses everything: a failed fsync says nothing about what is on the disk, and is never tried
/// again.
pub struct SqliteLog {
    connection: Connection,
    path: PathBuf,
    beginning: Beginning,
    /// The last entry, which may be the snapshot's. Zero before the first.
    last: Index,
    /// No row has a lower index: up to the snapshot's last, rows are dead.
    oldest_row: Index,
    /// Whether there is something left to delete or to give back.
    has_waste: bool,
    load_bytes: u64,
    failed: bool,
    _lock: Arc<FolderLock>,
}

/// What the log begins after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// The state up to there; nothing, if the log is whole.
    pub(crate) snapshot: Snapshot,
    /// Whether the state may still be an older one, which the snapshot has to replace.
    pub(crate) must_install: bool,
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
        let rows = "SELECT (SELECT coalesce(min(idx), 0) FROM entries), (SELECT coalesce(max(idx), 0) FROM entries)";
        let rows = connection.query_row(rows, [], |row| Ok((Index(row.get(0)?), Index(row.get(1)?))));
        let (oldest_row, last_row) = rows.map_err(Error::sqlite("reading the log"))?;
        let beginning = read_beginning(&connection, &path)?;
        let last = last_row.max(beginning.snapshot.last.index);
        Ok(Self {
            connection,
            path,
            beginning,
            last,
            oldest_row,
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
        assert!(first.snapshot == Snapshot::default(), "a node begins with a whole log");
        assert!(first.older == OlderEntries::default(), "a node begins with all that it has in memory");
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

    /// What the log begins after.
    pub(crate) fn beginning(&self) -> &Beginning {
        &self.beginning
    }

    /// Records that the state has been replaced by the snapshot that the log begins after.
    pub(crate) fn note_installed(&mut self) -> Result<(), Error> {
        let snapshot = self.beginning.snapshot.clone();
        self.guarded("recording that a snapshot is installed", |log| log.begin_after(&snapshot, false))
    }

    /// The term of the entry at `index`, if the log holds it or begins after it.
    pub(crate) fn term_at(&self, index: Index) -> Result<Option<Term>, Error> {
        let EntryId { index: before, term } = self.beginning.snapshot.last;
        if index == before {
            return Ok(Some(term));
        }
        if !(before.next()..=self.last).contains(&index) {
            return Ok(None);
        }
        self.entry(index).map(|entry| Some(entry.id.term))
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

    fn write_all(&mut self, writes: &[Persist]) -> rusqlite::Result<()> {
        run(&self.connection, "BEGIN IMMEDIATE")?;
        for write in writes {
            self.carry_out(write)?;
        }
        if self.has_waste {
            let appended = writes.iter().flat_map(|write| &write.entries).map(|entry| ROW_BYTES + entry.size_bytes());
            self.clear_away(appended.sum())?;
        }
        run(&self.connection, "COMMIT")
    }

    fn carry_out(&mut self, write: &Persist) -> rusqlite::Result<()> {
        if let Some(hard_state) = write.hard_state {
            store_hard_state(&self.connection, hard_state)?;
        }
        if let Some(from) = write.truncate_from {
            assert!(from > self.beginning.snapshot.last.index, "what a snapshot includes is never truncated");
            self.connection.prepare_cached("DELETE FROM entries WHERE idx >= ?1")?.execute([from.0])?;
            self.last = self.last.min(from.prev());
        }
        if let Some(snapshot) = &write.compact {
            self.begin_after(snapshot, false)?;
        }
        if let Some(snapshot) = &write.install {
            self.begin_after(snapshot, true)?;
        }
        self.append(&write.entries)
    }

    fn begin_after(&mut self, snapshot: &Snapshot, must_install: bool) -> rusqlite::Result<()> {
        assert!(snapshot.last.index >= self.beginning.snapshot.last.index, "a log begins ever later");
        self.beginning = Beginning { snapshot: snapshot.clone(), must_install };
        store_beginning(&self.connection, &self.beginning)?;
        self.last = self.last.max(snapshot.last.index);
        self.has_waste = true;
        Ok(())
    }

    /// Deletes some dead rows, or else gives some free pages back. `appended` is what this transaction has added: more than
    /// that must go, or the file would grow for ever.
    fn clear_away(&mut self, appended: u64) -> rusqlite::Result<()> {
        let dead_until = self.beginning.snapshot.last.index;
        if self.oldest_row <= dead_until {
            let until = self.piece_of_rows(dead_until, PIECE_BYTES.max(2 * appended))?;
            self.connection.prepare_cached("DELETE FROM entries WHERE idx <= ?1")?.execute([until.0])?;
            self.oldest_row = until.next();
            return Ok(());
        }
        self.has_waste = self.give_pages_back()?;
        Ok(())
    }

    /// The last of the oldest rows that have together about so many bytes: at least one, and none after `end`.
    fn piece_of_rows(&self, end: Index, bytes: u64) -> rusqlite::Result<Index> {
        let sql = "SELECT idx, length(payload) FROM entries WHERE idx <= ?1 ORDER BY idx";
        let mut select = self.connection.prepare_cached(sql)?;
        let mut rows = select.query([end.0])?;
        let mut seen = 0;
        while let Some(row) = rows.next()? {
            seen += ROW_BYTES + row.get::<_, u64>(1)?;
            if seen >= bytes {
                return Ok(Index(row.get(0)?));
            }
        }
        Ok(end)
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

    /// What [`load`](LogStore::load) gives: the last entries that have together at most so many bytes, and what there is to
    /// know of those before.
    fn stored(&self, max_bytes: u64) -> Result<Stored, Error> {
        let Snapshot { last: before, .. } = self.beginning.snapshot;
        let entries = self.last_entries(max_bytes)?;
        let last_older = entries.first().map_or(self.last, |first| first.id.index.prev());
        let older = if last_older > before.index { self.older(last_older)? } else { OlderEntries::default() };
        Ok(Stored { hard_state: self.hard_state()?, snapshot: self.beginning.snapshot.clone(), older, entries })
    }

    fn last_entries(&self, max_bytes: u64) -> Result<Vec<Entry>, Error> {
        let sql = "SELECT idx, term, kind, payload, checksum FROM entries WHERE idx > ?1 ORDER BY idx DESC";
        let mut expected = self.last;
        let mut bytes = 0u64;
        let mut entries = self.select(sql, self.beginning.snapshot.last.index, |entry| {
            check_place(entry, expected)?;
            expected = expected.prev();
            bytes = bytes.saturating_add(entry.size_bytes());
            Ok(bytes <= max_bytes)
        })?;
        if bytes <= max_bytes && expected > self.beginning.snapshot.last.index {
            return Err(missing(expected));
        }
        entries.reverse();
        Ok(entries)
    }

    /// What a node must know of the entries up to `last`.
    fn older(&self, last: Index) -> Result<OlderEntries, Error> {
        let first = self.entry(self.beginning.snapshot.last.index.next())?.id;
        let mut terms = vec![first];
        self.find_terms(first, self.entry(last)?.id, &mut terms)?;
        Ok(OlderEntries { last, terms, memberships: self.memberships(last)? })
    }

    /// Finds the entries after `low`, up to `high`, with which a term begins. Terms never fall, so where two are equal, all
    /// between them are; elsewhere, halves are looked at.
    fn find_terms(&self, low: EntryId, high: EntryId, terms: &mut Vec<EntryId>) -> Result<(), Error> {
        if low.term > high.term {
            return Err(Error::Damaged {
                index: high.index,
                what: "its term is lower than that of an earlier one".into(),
            });
        }
        if low.term == high.term {
            return Ok(());
        }
        if low.index.next() == high.index {
            terms.push(high);
            return Ok(());
        }
        let middle = self.entry(Index(low.index.0.midpoint(high.index.0)))?.id;
        self.find_terms(low, middle, terms)?;
        self.find_terms(middle, high, terms)
    }

    fn memberships(&self, last: Index) -> Result<Vec<(Index, Arc<Membership>)>, Error> {
        // By an index of its own, which must not be missed.
        let sql = "SELECT idx, term, kind, payload, checksum FROM entries INDEXED BY memberships
                   WHERE kind = 2 AND idx > ?1 ORDER BY idx";
        let entries = self.select(sql, self.beginning.snapshot.last.index, |entry| Ok(entry.id.index <= last))?;
        let membership = |entry: Entry| match entry.payload {
            Payload::Membership(membership) => Ok((entry.id.index, membership)),
            _ => Err(Error::Damaged { index: entry.id.index, what: "it is listed as a membership".into() }),
        };
        entries.into_iter().map(membership).collect()
    }

    /// The entry at `index`, which there must be.
    fn entry(&self, index: Index) -> Result<Entry, Error> {
        let sql = "SELECT idx, term, kind, payload, checksum FROM entries WHERE idx = ?1";
        self.select(sql, index, |_| Ok(true))?.pop().ok_or_else(|| missing(index))
    }

    /// The entries from `from` on, as long as `wanted` says so. Each follows the one before it.
    fn entries(&self, from: Index, mut wanted: impl FnMut(&Entry) -> bool) -> Result<Vec<Entry>, Error> {
        let sql = "SELECT idx, term, kind, payload, checksum FROM entries WHERE idx >= ?1 ORDER BY idx";
        let mut expected = from;
        self.select(sql, from, |entry| {
            check_place(entry, expected)?;
            expected = expected.next();
            Ok(wanted(entry))
        })
    }

    /// The entries that `sql` selects by an index, checked, as long as `wanted` says so.
    fn select(
        &self,
        sql: &str,
        index: Index,
        mut wanted: impl FnMut(&Entry) -> Result<bool, Error>,
    ) -> Result<Vec<Entry>, Error> {
        let doing = "reading the log";
        let mut select = self.connection.prepare_cached(sql).map_err(Error::sqlite(doing))?;
        let mut rows = select.query([index.0]).map_err(Error::sqlite(doing))?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next().map_err(Error::sqlite(doing))? {
            let entry = decode(&StoredEntry::read(row).map_err(Error::sqlite(doing))?)?;
            if !wanted(&entry)? {
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
        let stored = self.stored(self.load_bytes);
        self.remember_failure(stored)
    }

    fn write(&mut self, writes: &[Persist]) -> Result<(), Error> {
        self.guarded("writing the log", |log| log.write_all(writes))
    }

    fn read(&mut self, from: Index, max_bytes: u64) -> Result<Vec<Entry>, Error> {
        self.guarded("reading the log", |_| Ok(()))?;
        if from <= self.beginning.snapshot.last.index || from > self.last {
            return Ok(Vec::new());
        }
        let mut bytes = 0u64;
        let mut is_first = true;
        let entries = self.entries(from, |entry| {
            bytes = bytes.saturating_add(entry.size_bytes());
            std::mem::take(&mut is_first) || bytes <= max_bytes
        });
        self.remember_failure(entries)
    }
}

/// What a row takes besides its payload, roughly, in space and in time.
const ROW_BYTES: u64 = 256;
/// How much is deleted at a time, at least: some milliseconds' worth.
const PIECE_BYTES: u64 = 2 << 20;
/// How many free pages are never given back: they will be needed again soon.
const KEPT_PAGES: u64 = 4096;

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

fn read_beginning(connection: &Connection, path: &Path) -> Result<Beginning, Error> {
    let doing = "reading what the log begins after";
    let read = |row: &Row<'_>| {
        let last = EntryId::new(Index(row.get(0)?), Term(row.get(1)?));
        Ok((last, row.get::<_, Vec<u8>>(2)?, row.get(3)?, row.get::<_, u32>(4)?))
    };
    let sql = "SELECT idx, term, membership, must_install, checksum FROM snapshot";
    let row = connection.query_row(sql, [], read).optional().map_err(Error::sqlite(doing))?;
    let Some((last, membership, must_install, sum)) = row else { return Ok(Beginning::default()) };
    if sum != checksum(last, u8::from(must_install), &membership) {
        let what = format!("the checksum of the snapshot it begins after, {last}, is wrong");
        return Err(Error::DamagedFile { path: path.to_owned(), what });
    }
    let membership = codec::decode_membership(&membership)?.into();
    Ok(Beginning { snapshot: Snapshot { last, membership }, must_install })
}

fn store_beginning(connection: &Connection, beginning: &Beginning) -> rusqlite::Result<()> {
    let Beginning { snapshot: Snapshot { last, membership }, must_install } = beginning;
    let membership = codec::encode_membership(membership);
    let sum = checksum(*last, u8::from(*must_install), &membership);
    let sql = "INSERT OR REPLACE INTO snapshot (one, idx, term, membership, must_install, checksum)
               VALUES (1, ?1, ?2, ?3, ?4, ?5)";
    let row = (last.index.0, last.term.0, membership.as_ref(), must_install, sum);
    connection.prepare_cached(sql)?.execute(row).map(|_| ())
}

fn check_place(entry: &Entry, expected: Index) -> Result<(), Error> {
    if entry.id.index == expected { Ok(()) } else { Err(missing(expected)) }
}

fn missing(index: Index) -> Error {
    Error::Damaged { index, what: "it is missing".into() }
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
                .map_err(|error| Error::Undecodable { what: "an entry", why: format!("in entry {id}, {error}") })?
                .into(),
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
