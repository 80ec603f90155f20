//! Brings a log of the formats 1 and 2 up to date: those had a row for each entry, and no record of where the log ends.

use bytes::Bytes;
use raft_core::types::{Entry, EntryId, Index, Term};
use rusqlite::{Connection, Row};

use super::batch::PackedEntry;
use super::batches::{self, End, missing};
use super::records::{self, Bounds, Unreadable};
use crate::error::Error;

/// How many bytes of entries are in memory at a time.
const CHUNK_BYTES: u64 = 16 << 20;

const DOING: &str = "bringing the log up to date";

/// Packs the entries of an older file, in one transaction. Does nothing to a file that has none of its old tables.
pub(super) fn pack(connection: &mut Connection) -> Result<(), Unreadable> {
    if !connection.table_exists(None, "entries").map_err(Error::sqlite(DOING))? {
        return Ok(());
    }
    let transaction = connection.transaction().map_err(Error::sqlite(DOING))?;
    let after = records::beginning(&transaction)?.snapshot.last.index;
    let end = copy(&transaction, after)?;
    transaction.execute_batch("DROP TABLE entries").map_err(Error::sqlite(DOING))?;
    records::store_bounds(&transaction, Bounds { after, end }).map_err(Error::sqlite(DOING))?;
    records::seal_identity(&transaction)?;
    Ok(transaction.commit().map_err(Error::sqlite(DOING))?)
}

fn copy(connection: &Connection, after: Index) -> Result<End, Error> {
    let mut end = End::default();
    let mut next = after.next();
    loop {
        let entries = entries(connection, next)?;
        let Some(last) = entries.last() else { return Ok(end) };
        next = last.id.index.next();
        end = batches::append(connection, end, &entries)?;
    }
}

/// The next entries, checked as they were then.
fn entries(connection: &Connection, from: Index) -> Result<Vec<Entry>, Error> {
    let sql = "SELECT idx, term, kind, payload, checksum FROM entries WHERE idx >= ?1 ORDER BY idx";
    let mut select = connection.prepare_cached(sql).map_err(Error::sqlite(DOING))?;
    let mut rows = select.query([from.0]).map_err(Error::sqlite(DOING))?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next().map_err(Error::sqlite(DOING))?.filter(|_| bytes < CHUNK_BYTES) {
        let entry = entry(row)?;
        let expected = Index(from.0 + entries.len() as u64);
        if entry.id.index != expected {
            return Err(missing(expected));
        }
        bytes += entry.size_bytes();
        entries.push(entry);
    }
    Ok(entries)
}

fn entry(row: &Row<'_>) -> Result<Entry, Error> {
    let read = |row: &Row<'_>| {
        let packed =
            PackedEntry { term: Term(row.get(1)?), kind: row.get(2)?, payload: Bytes::from(row.get::<_, Vec<u8>>(3)?) };
        Ok((Index(row.get(0)?), packed, row.get::<_, u32>(4)?))
    };
    let (index, packed, stored) = read(row).map_err(Error::sqlite(DOING))?;
    if stored != records::checksum_at(EntryId::new(index, packed.term), packed.kind, &packed.payload) {
        return Err(Error::Damaged { index, what: "its checksum is wrong".into() });
    }
    packed.decode(index)
}
