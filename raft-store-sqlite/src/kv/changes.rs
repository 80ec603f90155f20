//! What each revision has changed, read back.

use rusqlite::types::Type;
use rusqlite::{Connection, Row};

use super::bytes::OwnedBytes;
use crate::answer::KeyValue;
use crate::change::{Change, Changed};
use crate::codec;
use crate::error::Error;
use crate::position::Position;
use crate::program::Failure;

/// The changes of the revisions after `after`, in order: whole revisions, at least one if there is one, and then as many as fit in
/// `max_bytes`, about. What was after `after` must not be forgotten.
pub(crate) fn read(
    connection: &Connection,
    position: &Position,
    after: u64,
    max_bytes: usize,
) -> Result<Vec<Change>, Failure> {
    let sql = "SELECT changed.revision, changed.key, changed.rows,
                      before.value, before.create_revision, before.revision, before.version, before.lease,
                      changed.value, changed.create_revision, changed.revision, changed.version, changed.lease
               FROM raft_changes AS changed LEFT JOIN raft_changes AS before ON before.change = changed.prior
               WHERE changed.change > ?1 ORDER BY changed.change";
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query([last_until(connection, position, after)?])?;
    let mut changes: Vec<Change> = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let revision = row.get(0)?;
        let same = changes.last().filter(|last| last.revision == revision);
        if same.is_none() && !changes.is_empty() && bytes >= max_bytes {
            break;
        }
        let part = same.map_or(0, |last| last.part + 1);
        let (what, size) = changed(row, revision, part)?;
        bytes += size + 64;
        changes.push(Change { revision, part, what });
    }
    Ok(changes)
}

/// The number of the last change of the revisions up to this one, which must not lie before what is forgotten. From the first that was not
/// swept on, all changes are there, and none has a lower revision than one before it.
fn last_until(connection: &Connection, position: &Position, revision: u64) -> rusqlite::Result<u64> {
    let mut select = connection.prepare_cached("SELECT revision FROM raft_changes WHERE change = ?1")?;
    let (mut low, mut high) = (position.swept, position.changes);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let found: u64 = select.query_row([middle], |row| row.get(0))?;
        if found <= revision {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Ok(low)
}

/// What was changed, and about how large it is.
fn changed(row: &Row<'_>, revision: u64, part: u64) -> Result<(Changed, usize), Failure> {
    let key: Option<OwnedBytes> = row.get(1)?;
    let rows: Option<Vec<u8>> = row.get(2)?;
    match (key, rows) {
        (Some(OwnedBytes(key)), None) => {
            let (before, after) = (version(row, &key, 3)?, version(row, &key, 8)?);
            let of_entry =
                |entry: &Option<KeyValue>| entry.as_ref().map_or(0, |entry| entry.key.len() + entry.value.len());
            let size = key.len() + of_entry(&before) + of_entry(&after);
            Ok((Changed::Key { key, before, after }, size))
        }
        (None, Some(rows)) => {
            let changed = codec::decode_row_changes(&rows).map_err(Failure::Revision)?;
            Ok((Changed::Rows(changed), rows.len()))
        }
        (key, _) => {
            let what = if key.is_some() { "both a key and rows" } else { "neither a key nor rows" };
            let why = format!("change {part} of revision {revision} has {what}");
            Err(Failure::Revision(Error::Undecodable { what: "a stored change", why }))
        }
    }
}

/// The value, create_revision, mod_revision, version and lease of a key in the columns from `first` on. None without a value: it was not
/// there then.
fn version(row: &Row<'_>, key: &::bytes::Bytes, first: usize) -> rusqlite::Result<Option<KeyValue>> {
    if row.get_ref(first)?.data_type() == Type::Null {
        return Ok(None);
    }
    Ok(Some(KeyValue {
        key: key.clone(),
        value: row.get::<_, OwnedBytes>(first)?.0,
        create_revision: row.get(first + 1)?,
        mod_revision: row.get(first + 2)?,
        version: row.get(first + 3)?,
        lease: row.get(first + 4)?,
    }))
}
