//! Leases: keys that go when nobody keeps them. All by log time, and so alike on every node.
//!
//! A lease is over once log time has come to its deadline, whether or not it has been removed: from then on it can't be kept, and no key
//! put under it. Its keys go when it is revoked, or when a command removes what has expired.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row};

use super::Changes;
use super::bytes::OwnedBytes;

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Its number.
    pub lease: u64,
    /// How long it was granted for, in milliseconds.
    pub ttl_ms: u64,
    /// How long it still lasts, in milliseconds of log time.
    pub remaining_ms: u64,
    /// The keys under it, if they were asked for.
    pub keys: Vec<Bytes>,
}

/// Makes a lease. Without a number given, it gets `own`, or the next one that is free: from the index of its entry, no two get the same.
/// None if the given number is in use.
pub(crate) fn grant(
    connection: &Connection,
    given: Option<u64>,
    own: u64,
    ttl_ms: u64,
    time_ms: u64,
) -> rusqlite::Result<Option<u64>> {
    let insert = "INSERT INTO raft_leases (lease, ttl_ms, deadline_ms) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
    let mut insert = connection.prepare_cached(insert)?;
    let mut make = |lease: u64| insert.execute((lease, ttl_ms, time_ms + ttl_ms)).map(|made| made > 0);
    if let Some(lease) = given {
        return Ok(make(lease)?.then_some(lease));
    }
    let mut lease = own;
    while !make(lease)? {
        lease += 1;
    }
    Ok(Some(lease))
}

/// Lets a lease last anew. Returns for how long; none if it is over.
pub(crate) fn keep(connection: &Connection, lease: u64, time_ms: u64) -> rusqlite::Result<Option<u64>> {
    let keep =
        "UPDATE raft_leases SET deadline_ms = ?2 + ttl_ms WHERE lease = ?1 AND deadline_ms > ?2 RETURNING ttl_ms";
    connection.prepare_cached(keep)?.query_row((lease, time_ms), |row| row.get(0)).optional()
}

/// Whether a lease is there, and not over.
pub(crate) fn lasts(connection: &Connection, lease: u64, time_ms: u64) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM raft_leases WHERE lease = ?1 AND deadline_ms > ?2")?
        .exists((lease, time_ms))
}

/// Ends a lease, and deletes its keys. Returns whether it was there.
pub(crate) fn revoke(connection: &Connection, changes: &mut Changes, lease: u64) -> rusqlite::Result<bool> {
    let known = connection.prepare_cached("SELECT 1 FROM raft_leases WHERE lease = ?1")?.exists([lease])?;
    if known {
        delete_keys(connection, changes, lease, usize::MAX)?;
        forget(connection, lease)?;
    }
    Ok(known)
}

/// Removes leases that are over, with at most `limit` keys. Returns whether there is more to remove.
pub(crate) fn expire(
    connection: &Connection,
    changes: &mut Changes,
    time_ms: u64,
    limit: usize,
) -> rusqlite::Result<bool> {
    let over = "SELECT lease FROM raft_leases WHERE deadline_ms <= ?1 ORDER BY deadline_ms, lease LIMIT 1";
    let mut left = limit;
    while let Some(lease) = connection.prepare_cached(over)?.query_row([time_ms], |row| row.get(0)).optional()? {
        // A lease without keys counts as well, so that this ends.
        left = left.saturating_sub(1 + delete_keys(connection, changes, lease, left)?);
        if left == 0 {
            return Ok(true);
        }
        forget(connection, lease)?;
    }
    Ok(false)
}

/// Gives every lease that lasted at `before_ms` its full time from `time_ms` on, where that is longer: after a change of leaders, so that
/// clients have had the chance to keep theirs alive.
pub(crate) fn extend_all(connection: &Connection, before_ms: u64, time_ms: u64) -> rusqlite::Result<()> {
    let extend =
        "UPDATE raft_leases SET deadline_ms = ?2 + ttl_ms WHERE deadline_ms > ?1 AND deadline_ms < ?2 + ttl_ms";
    connection.prepare_cached(extend)?.execute((before_ms, time_ms)).map(|_| ())
}

/// Log time when the next lease is over.
pub(crate) fn next_deadline_ms(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    connection.prepare_cached("SELECT min(deadline_ms) FROM raft_leases")?.query_row([], |row| row.get(0))
}

/// The leases that are not over, or only the one; with their keys, if `keys`.
pub(crate) fn list(
    connection: &Connection,
    only: Option<u64>,
    keys: bool,
    time_ms: u64,
) -> rusqlite::Result<Vec<Lease>> {
    let sql = "SELECT lease, ttl_ms, deadline_ms FROM raft_leases
               WHERE deadline_ms > ?1 AND (?2 IS NULL OR lease = ?2) ORDER BY lease";
    let read = |row: &Row<'_>| {
        let (lease, ttl_ms, deadline_ms): (u64, u64, u64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let keys = if keys { keys_of(connection, lease, usize::MAX)? } else { Vec::new() };
        Ok(Lease { lease, ttl_ms, remaining_ms: deadline_ms - time_ms, keys })
    };
    connection.prepare_cached(sql)?.query_map((time_ms, only), read)?.collect()
}

fn delete_keys(connection: &Connection, changes: &mut Changes, lease: u64, limit: usize) -> rusqlite::Result<usize> {
    let keys = keys_of(connection, lease, limit)?;
    keys.iter().try_for_each(|key| changes.delete(connection, key).map(|_| ()))?;
    Ok(keys.len())
}

fn keys_of(connection: &Connection, lease: u64, limit: usize) -> rusqlite::Result<Vec<Bytes>> {
    let sql = "SELECT key FROM raft_kv WHERE lease = ?1 AND lease <> 0 ORDER BY key LIMIT ?2";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let read = |row: &Row<'_>| row.get::<_, OwnedBytes>(0).map(|key| key.0);
    connection.prepare_cached(sql)?.query_map((lease, limit), read)?.collect()
}

fn forget(connection: &Connection, lease: u64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM raft_leases WHERE lease = ?1")?.execute([lease]).map(|_| ())
}
