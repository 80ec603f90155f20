//! Keys and values, with etcd's revisions: the state has one revision, which each command that changes something moves on by one.
//!
//! Each change is a row of `raft_changes`, in order, until it is superseded and forgotten; one without a value says that the key was
//! deleted. `raft_kv` says which change made each key what it is, and `raft_kv_deleted` which one deleted it.

pub(crate) mod bytes;
pub(crate) mod changes;
pub(crate) mod compaction;
pub(crate) mod lease;
pub(crate) mod lookup;

use bytes::StoredBytes;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::answer::KeyValue;
use crate::position::Position;
use crate::step::KeyRange;

/// The changes of one command.
pub(crate) struct Changes {
    /// The revision that they have.
    revision: u64,
    /// The number of the last change before them.
    before: u64,
    /// How many there are so far.
    count: u64,
}

/// What a key is at present.
struct Head {
    /// The change that made it so.
    change: u64,
    create_revision: u64,
    version: u64,
}

impl Changes {
    /// None so far, of a command on a state that stands there.
    pub(crate) fn since(position: &Position) -> Self {
        Self { revision: position.revision + 1, before: position.changes, count: 0 }
    }

    /// How many there are so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Moves the state on: by one revision, if anything was changed.
    pub(crate) fn finish(&self, position: &mut Position) {
        if self.count > 0 {
            position.revision = self.revision;
            position.changes = self.before + self.count;
        }
    }

    /// Sets a key. Returns whether it was there.
    pub(crate) fn put(
        &mut self,
        connection: &Connection,
        key: &[u8],
        value: &[u8],
        lease: u64,
    ) -> rusqlite::Result<bool> {
        let (key, value) = (StoredBytes::of(key), StoredBytes::of(value));
        let change = self.next();
        let insert = "INSERT INTO raft_changes (change, revision, key, value, create_revision, version, lease, prior)
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let mut insert = connection.prepare_cached(insert)?;
        if let Some(head) = head(connection, &key)? {
            let (version, prior) = (head.version + 1, head.change);
            insert.execute((change, self.revision, &key, value, head.create_revision, version, lease, prior))?;
            let update = "UPDATE raft_kv SET change = ?2, mod_revision = ?3, version = ?4, lease = ?5 WHERE key = ?1";
            connection.prepare_cached(update)?.execute((&key, change, self.revision, version, lease))?;
            return Ok(true);
        }
        let undelete = "DELETE FROM raft_kv_deleted WHERE key = ?1 RETURNING change";
        let prior: Option<u64> = connection.prepare_cached(undelete)?.query_row([&key], |row| row.get(0)).optional()?;
        insert.execute((change, self.revision, &key, value, self.revision, 1, lease, prior))?;
        let create = "INSERT INTO raft_kv (key, change, create_revision, mod_revision, version, lease)
                      VALUES (?1, ?2, ?3, ?3, 1, ?4)";
        connection.prepare_cached(create)?.execute((&key, change, self.revision, lease))?;
        Ok(false)
    }

    /// Deletes a key. Returns whether it was there.
    pub(crate) fn delete(&mut self, connection: &Connection, key: &[u8]) -> rusqlite::Result<bool> {
        let key = StoredBytes::of(key);
        let Some(head) = head(connection, &key)? else { return Ok(false) };
        let change = self.next();
        // As in etcd, what says that a key is gone has no value, and zeros.
        let gone = "INSERT INTO raft_changes (change, revision, key, prior) VALUES (?1, ?2, ?3, ?4)";
        connection.prepare_cached(gone)?.execute((change, self.revision, &key, head.change))?;
        connection.prepare_cached("DELETE FROM raft_kv WHERE key = ?1")?.execute([&key])?;
        let deleted = "INSERT INTO raft_kv_deleted (key, change, mod_revision) VALUES (?1, ?2, ?3)";
        connection.prepare_cached(deleted)?.execute((&key, change, self.revision))?;
        Ok(true)
    }

    /// Notes what was done to the rows of a table.
    pub(crate) fn note_rows(&mut self, connection: &Connection, rows: &[u8]) -> rusqlite::Result<()> {
        let note = "INSERT INTO raft_changes (change, revision, rows) VALUES (?1, ?2, ?3)";
        connection.prepare_cached(note)?.execute((self.next(), self.revision, rows)).map(|_| ())
    }

    /// The number of one more change.
    fn next(&mut self) -> u64 {
        self.count += 1;
        self.before + self.count
    }
}

fn head(connection: &Connection, key: &StoredBytes<'_>) -> rusqlite::Result<Option<Head>> {
    let sql = "SELECT change, create_revision, version FROM raft_kv WHERE key = ?1";
    let read = |row: &Row<'_>| Ok(Head { change: row.get(0)?, create_revision: row.get(1)?, version: row.get(2)? });
    connection.prepare_cached(sql)?.query_row([key], read).optional()
}

/// A key as it is now, if it is there.
pub(crate) fn find(connection: &Connection, key: &[u8]) -> rusqlite::Result<Option<KeyValue>> {
    let sql = "SELECT key, value, create_revision, mod_revision, version, lease FROM kv WHERE key = ?1";
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
