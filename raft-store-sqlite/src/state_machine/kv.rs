//! Keys and values, with etcd's revisions: each change has the next revision of the whole store, and leaves the value
//! before it in history.

use bytes::Bytes;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, ToSql};

use super::SqliteStateMachine;
use crate::answer::{KeyValue, StepResult};

impl SqliteStateMachine {
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> rusqlite::Result<StepResult> {
        let revision = self.position.revision + 1;
        let upsert = "INSERT INTO raft_kv (key, create_revision, mod_revision, mod_part, version)
                      VALUES (?1, ?2, ?2, 0, 1)
                      ON CONFLICT (key) DO UPDATE
                      SET mod_revision = excluded.mod_revision, mod_part = excluded.mod_part, version = version + 1
                      RETURNING create_revision, version";
        let key = StoredBytes::of(key);
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let (create_revision, version): (u64, u64) =
            self.connection.prepare_cached(upsert)?.query_one((&key, revision), read)?;
        let history = "INSERT INTO raft_kv_history (revision, part, key, value, create_revision, version, lease)
                       VALUES (?1, 0, ?2, ?3, ?4, ?5, 0)";
        let row = (revision, &key, StoredBytes::of(value), create_revision, version);
        self.connection.prepare_cached(history)?.execute(row)?;
        self.position.revision = revision;
        Ok(StepResult::Put { replaced: version > 1, previous: None })
    }

    pub(super) fn delete(&mut self, key: &[u8]) -> rusqlite::Result<StepResult> {
        let key = StoredBytes::of(key);
        let count = self.connection.prepare_cached("DELETE FROM raft_kv WHERE key = ?1")?.execute([&key])?;
        if count > 0 {
            let revision = self.position.revision + 1;
            // As in etcd, what says that a key is gone has no value, and version zero.
            let history = "INSERT INTO raft_kv_history (revision, part, key, value, create_revision, version, lease)
                           VALUES (?1, 0, ?2, NULL, 0, 0, 0)";
            self.connection.prepare_cached(history)?.execute((revision, &key))?;
            self.position.revision = revision;
        }
        Ok(StepResult::Deleted { count: count as u64, previous: Vec::new() })
    }
}

/// A key and its value, if it is there.
pub(crate) fn find(connection: &Connection, key: &Bytes) -> rusqlite::Result<Option<KeyValue>> {
    let sql = "SELECT value, create_revision, mod_revision, version, lease FROM kv WHERE key = ?1";
    let read = |row: &rusqlite::Row<'_>| {
        Ok(KeyValue {
            key: key.clone(),
            value: row.get::<_, OwnedBytes>(0)?.0,
            create_revision: row.get(1)?,
            mod_revision: row.get(2)?,
            version: row.get(3)?,
            lease: row.get(4)?,
        })
    };
    connection.prepare_cached(sql)?.query_row([StoredBytes::of(key)], read).optional()
}

/// A key or value in the one form in which it is stored: a TEXT if it is UTF-8 without a NUL, otherwise a BLOB.
pub(crate) enum StoredBytes<'a> {
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

impl<'a> StoredBytes<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        if !bytes.contains(&0) && str::from_utf8(bytes).is_ok() { Self::Text(bytes) } else { Self::Blob(bytes) }
    }
}

impl ToSql for StoredBytes<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Text(bytes) => ValueRef::Text(bytes),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Bytes in either form.
struct OwnedBytes(Bytes);

impl FromSql for OwnedBytes {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(Self(Bytes::copy_from_slice(bytes))),
            _ => Err(FromSqlError::InvalidType),
        }
    }
}
