//! How byte strings are stored.

use bytes::Bytes;
use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};

/// A key or value in the one form in which it is stored: a TEXT if it is UTF-8 without a NUL, otherwise a BLOB.
#[derive(Clone, Copy)]
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
pub(crate) struct OwnedBytes(pub(crate) Bytes);

impl FromSql for OwnedBytes {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(Self(Bytes::copy_from_slice(bytes))),
            _ => Err(FromSqlError::InvalidType),
        }
    }
}
