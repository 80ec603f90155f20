//! What each revision has changed, read back.

use rusqlite::{Connection, OptionalExtension, Row};

use super::bytes::{OwnedBytes, StoredBytes};
use super::lookup::entry;
use crate::answer::KeyValue;
use crate::change::{Change, Changed};
use crate::codec;
use crate::error::Error;
use crate::program::Failure;

/// A row of `raft_changes`.
struct Noted {
    revision: u64,
    part: u64,
    key: Option<OwnedBytes>,
    rows: Option<Vec<u8>>,
}

/// The changes of the revisions after `after`, in order: whole revisions, at least one if there is one, and then as many as fit in
/// `max_bytes`, about.
pub(crate) fn read(connection: &Connection, after: u64, max_bytes: usize) -> Result<Vec<Change>, Failure> {
    let sql = "SELECT revision, part, key, rows FROM raft_changes WHERE revision > ?1 ORDER BY revision, part";
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query([after])?;
    let mut changes: Vec<Change> = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let noted = Noted { revision: row.get(0)?, part: row.get(1)?, key: row.get(2)?, rows: row.get(3)? };
        let begins = changes.last().is_some_and(|last| last.revision < noted.revision);
        if begins && bytes >= max_bytes {
            break;
        }
        let (change, size) = change(connection, noted)?;
        bytes += size;
        changes.push(change);
    }
    Ok(changes)
}

/// The change, and about how large it is.
fn change(connection: &Connection, noted: Noted) -> Result<(Change, usize), Failure> {
    let Noted { revision, part, key, rows } = noted;
    let of_entry = |entry: &Option<KeyValue>| entry.as_ref().map_or(0, |entry| entry.key.len() + entry.value.len());
    let (what, size) = match (key, rows) {
        (Some(OwnedBytes(key)), _) => {
            let after = at(connection, &key, revision)?;
            let before = before(connection, &key, revision)?;
            let size = key.len() + of_entry(&after) + of_entry(&before);
            (Changed::Key { key, before, after }, size)
        }
        (None, Some(rows)) => (Changed::Rows(codec::decode_row_changes(&rows).map_err(Failure::Revision)?), rows.len()),
        (None, None) => {
            let what = format!("change {part} of revision {revision} has neither a key nor rows");
            return Err(Failure::Revision(Error::Undecodable { what: "a stored change", why: what }));
        }
    };
    Ok((Change { revision, part, what }, size + 64))
}

/// A key as a revision left it that has changed it.
fn at(connection: &Connection, key: &[u8], revision: u64) -> rusqlite::Result<Option<KeyValue>> {
    let sql = "SELECT key, value, create_revision, mod_revision, version, lease FROM raft_kv
               WHERE key = ?1 AND mod_revision = ?2
               UNION ALL
               SELECT key, value, create_revision, mod_revision, version, lease FROM raft_kv_history
               WHERE key = ?1 AND mod_revision = ?2 AND value IS NOT NULL";
    connection.prepare_cached(sql)?.query_row((StoredBytes::of(key), revision), entry).optional()
}

/// A key as it was before a revision that has changed it.
fn before(connection: &Connection, key: &[u8], revision: u64) -> rusqlite::Result<Option<KeyValue>> {
    let sql = "SELECT key, value, create_revision, mod_revision, version, lease FROM raft_kv_history
               WHERE key = ?1 AND mod_revision < ?2 ORDER BY mod_revision DESC LIMIT 1";
    let known = |row: &Row<'_>| {
        // Without a value, it was deleted then.
        if row.get_ref(1)?.data_type() == rusqlite::types::Type::Null { Ok(None) } else { entry(row).map(Some) }
    };
    connection.prepare_cached(sql)?.query_row((StoredBytes::of(key), revision), known).optional().map(Option::flatten)
}
