//! Keys and values, with etcd's revisions: the state has one revision, which each command that changes something moves on by one.
//!
//! A key's value stands in `raft_kv`; what it was before stands in `raft_kv_history`, with a row without a value for each time
//! that it was deleted, until that is forgotten. `raft_changes` names the keys that each revision changed, in order.

pub(crate) mod bytes;
pub(crate) mod changes;
pub(crate) mod compaction;
pub(crate) mod lease;
pub(crate) mod lookup;

use bytes::StoredBytes;
use rusqlite::{Connection, OptionalExtension};

use crate::answer::KeyValue;
use crate::step::KeyRange;

/// The changes of one command.
pub(crate) struct Changes {
    /// The revision that they have.
    revision: u64,
    /// How many there are so far.
    count: u64,
}

impl Changes {
    /// None so far, of a command on a state of this revision.
    pub(crate) fn since(revision: u64) -> Self {
        Self { revision: revision + 1, count: 0 }
    }

    /// How many there are so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The revision of the state after the command.
    pub(crate) fn revision(&self) -> u64 {
        if self.count > 0 { self.revision } else { self.revision - 1 }
    }

    /// Sets a key. Returns whether it was there.
    pub(crate) fn put(
        &mut self,
        connection: &Connection,
        key: &[u8],
        value: &[u8],
        lease: u64,
    ) -> rusqlite::Result<bool> {
        let key = StoredBytes::of(key);
        let replaced = self.keep(connection, &key)?;
        let upsert = "INSERT INTO raft_kv (key, value, create_revision, mod_revision, version, lease)
                      VALUES (?1, ?2, ?3, ?3, 1, ?4)
                      ON CONFLICT (key) DO UPDATE
                      SET value = excluded.value, mod_revision = excluded.mod_revision, version = version + 1,
                          lease = excluded.lease";
        connection.prepare_cached(upsert)?.execute((&key, StoredBytes::of(value), self.revision, lease))?;
        self.note(connection, &key)?;
        Ok(replaced)
    }

    /// Deletes a key. Returns whether it was there.
    pub(crate) fn delete(&mut self, connection: &Connection, key: &[u8]) -> rusqlite::Result<bool> {
        let key = StoredBytes::of(key);
        if !self.keep(connection, &key)? {
            return Ok(false);
        }
        connection.prepare_cached("DELETE FROM raft_kv WHERE key = ?1")?.execute([&key])?;
        // As in etcd, what says that a key is gone has no value, and zeros.
        let gone = "INSERT INTO raft_kv_history (key, mod_revision, value, create_revision, version, lease)
                    VALUES (?1, ?2, NULL, 0, 0, 0)";
        connection.prepare_cached(gone)?.execute((&key, self.revision))?;
        self.note(connection, &key)?;
        Ok(true)
    }

    /// Notes what was done to the rows of a table.
    pub(crate) fn note_rows(&mut self, connection: &Connection, rows: &[u8]) -> rusqlite::Result<()> {
        let note = "INSERT INTO raft_changes (revision, part, rows) VALUES (?1, ?2, ?3)";
        connection.prepare_cached(note)?.execute((self.revision, self.count, rows))?;
        self.count += 1;
        Ok(())
    }

    /// Keeps a key as it is in history, if it is there.
    fn keep(&self, connection: &Connection, key: &StoredBytes<'_>) -> rusqlite::Result<bool> {
        let keep = "INSERT INTO raft_kv_history (key, mod_revision, value, create_revision, version, lease)
                    SELECT key, mod_revision, value, create_revision, version, lease FROM raft_kv WHERE key = ?1";
        Ok(connection.prepare_cached(keep)?.execute([key])? > 0)
    }

    fn note(&mut self, connection: &Connection, key: &StoredBytes<'_>) -> rusqlite::Result<()> {
        let note = "INSERT INTO raft_changes (revision, part, key) VALUES (?1, ?2, ?3)";
        connection.prepare_cached(note)?.execute((self.revision, self.count, key))?;
        self.count += 1;
        Ok(())
    }
}

/// A key as it is now, if it is there.
pub(crate) fn find(connection: &Connection, key: &[u8]) -> rusqlite::Result<Option<KeyValue>> {
    let sql = "SELECT key, value, create_revision, mod_revision, version, lease FROM raft_kv WHERE key = ?1";
    connection.prepare_cached(sql)?.query_row([StoredBytes::of(key)], lookup::entry).optional()
}

/// The keys of a range as they are now, at most `limit`.
pub(crate) fn keys(connection: &Connection, range: &KeyRange, limit: usize) -> rusqlite::Result<Vec<::bytes::Bytes>> {
    let mut keys = Vec::new();
    for (sql, bounds) in lookup::runs("SELECT key FROM raft_kv", range) {
        let sql = format!("{sql} LIMIT {}", limit - keys.len());
        let mut select = connection.prepare_cached(&sql)?;
        let found =
            select.query_map(rusqlite::params_from_iter(bounds), |row| Ok(row.get::<_, bytes::OwnedBytes>(0)?.0))?;
        keys.extend(found.collect::<rusqlite::Result<Vec<_>>>()?);
    }
    Ok(keys)
}
