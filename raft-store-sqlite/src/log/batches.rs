//! The table of batches: appended to, cut at the end, forgotten from the beginning, and read in order.

use bytes::{Bytes, BytesMut};
use raft_core::types::{Entry, Index};
use rusqlite::{Connection, OptionalExtension, Row};

use super::batch::{Batch, pack};
use crate::error::Error;

/// How large a batch gets, but for an entry that is larger by itself: to read one entry is to read its batch.
const BATCH_BYTES: usize = 256 << 10;
/// What a row takes besides its entries, roughly, in space and in time.
const ROW_BYTES: u64 = 256;

const READING: &str = "reading the log";
const WRITING: &str = "writing the log";

/// The end of the log, where the next entry goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    /// The last entry that is stored. Zero if none is.
    pub(super) last: Index,
    /// The checksum of its batch.
    pub(super) checksum: u32,
}

/// Finds the end.
pub(super) fn end(connection: &Connection) -> Result<End, Error> {
    let Some(batch) = last_batch(connection)? else { return Ok(End::default()) };
    let entries = batch.unpack()?;
    Ok(End { last: entries[entries.len() - 1].id.index, checksum: batch.checksum })
}

/// Appends entries, packed. They follow each other; what they follow is the caller's business.
pub(super) fn append<'a>(
    connection: &Connection,
    mut end: End,
    entries: impl IntoIterator<Item = &'a Entry>,
) -> Result<End, Error> {
    let mut entries = entries.into_iter().peekable();
    while let Some(first) = entries.peek().map(|entry| entry.id.index) {
        // What is not touched costs nothing.
        let mut packed = BytesMut::with_capacity(BATCH_BYTES / 4);
        while let Some(entry) = entries.next_if(|_| packed.len() < BATCH_BYTES) {
            pack(entry, &mut packed);
            end.last = entry.id.index;
        }
        let batch = Batch::new(first, end.checksum, packed.freeze());
        insert(connection, &batch).map_err(Error::sqlite(WRITING))?;
        end.checksum = batch.checksum;
    }
    Ok(end)
}

/// Drops the entries from `from` on, and says where the log then ends.
pub(super) fn truncate(connection: &Connection, from: Index) -> Result<End, Error> {
    let sql = "DELETE FROM batches WHERE first >= ?1";
    connection.prepare_cached(sql).and_then(|mut delete| delete.execute([from.0])).map_err(Error::sqlite(WRITING))?;
    let Some(batch) = last_batch(connection)? else { return Ok(End::default()) };
    let mut entries = batch.unpack()?;
    let last = entries[entries.len() - 1].id.index;
    if last < from {
        return Ok(End { last, checksum: batch.checksum });
    }
    // It goes through the middle of a batch: what is before it is written anew.
    entries.retain(|entry| entry.id.index < from);
    let sql = "DELETE FROM batches WHERE first = ?1";
    let delete = connection.prepare_cached(sql).and_then(|mut delete| delete.execute([batch.first.0]));
    delete.map_err(Error::sqlite(WRITING))?;
    append(connection, End { last: batch.first.prev(), checksum: batch.before }, &entries)
}

/// Deletes the oldest batches that hold nothing after `dead_until`, about so many bytes of them. Says whether there were any.
pub(super) fn delete_dead(connection: &Connection, dead_until: Index, bytes: u64) -> rusqlite::Result<bool> {
    // The last that begins there or before is needed from there on.
    let sql = "SELECT first, length(entries) FROM batches
               WHERE first < (SELECT max(first) FROM batches WHERE first <= ?1) ORDER BY first";
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query([dead_until.next().0])?;
    let (mut until, mut seen) = (None, 0);
    while let Some(row) = rows.next()?.filter(|_| seen < bytes) {
        until = Some(row.get::<_, u64>(0)?);
        seen += ROW_BYTES + row.get::<_, u64>(1)?;
    }
    drop(rows);
    let Some(until) = until else { return Ok(false) };
    connection.prepare_cached("DELETE FROM batches WHERE first <= ?1")?.execute([until])?;
    Ok(true)
}

/// Reads the entries from `from` on, which there must be, in order and checked, as long as `wanted` says so.
pub(super) fn read(
    connection: &Connection,
    from: Index,
    mut wanted: impl FnMut(Entry) -> Result<bool, Error>,
) -> Result<(), Error> {
    let sql = "SELECT first, before, checksum, entries FROM batches
               WHERE first >= (SELECT max(first) FROM batches WHERE first <= ?1) ORDER BY first";
    let mut select = connection.prepare_cached(sql).map_err(Error::sqlite(READING))?;
    let mut rows = select.query([from.0]).map_err(Error::sqlite(READING))?;
    let (mut expected, mut checksum) = (from, None);
    while let Some(row) = rows.next().map_err(Error::sqlite(READING))? {
        let batch = batch(row).map_err(Error::sqlite(READING))?;
        if batch.first > expected {
            return Err(missing(expected));
        }
        if checksum.is_some_and(|checksum| checksum != batch.before) {
            return Err(Error::Damaged { index: batch.first, what: "it was written after another one".into() });
        }
        checksum = Some(batch.checksum);
        for entry in batch.unpack()?.into_iter().filter(|entry| entry.id.index >= from) {
            if entry.id.index != expected {
                return Err(Error::Damaged { index: entry.id.index, what: "it is there twice".into() });
            }
            expected = expected.next();
            if !wanted(entry)? {
                return Ok(());
            }
        }
    }
    // Nothing at all, or only what lies before.
    if expected == from { Err(missing(from)) } else { Ok(()) }
}

pub(super) fn missing(index: Index) -> Error {
    Error::Damaged { index, what: "it is missing".into() }
}

fn insert(connection: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    let sql = "INSERT INTO batches (first, before, checksum, entries) VALUES (?1, ?2, ?3, ?4)";
    let row = (batch.first.0, batch.before, batch.checksum, batch.entries.as_ref());
    connection.prepare_cached(sql)?.execute(row).map(|_| ())
}

fn last_batch(connection: &Connection) -> Result<Option<Batch>, Error> {
    let sql = "SELECT first, before, checksum, entries FROM batches ORDER BY first DESC LIMIT 1";
    let select = connection.prepare_cached(sql);
    select.and_then(|mut select| select.query_row([], batch).optional()).map_err(Error::sqlite(READING))
}

fn batch(row: &Row<'_>) -> rusqlite::Result<Batch> {
    Ok(Batch {
        first: Index(row.get(0)?),
        before: row.get(1)?,
        checksum: row.get(2)?,
        entries: Bytes::from(row.get::<_, Vec<u8>>(3)?),
    })
}
