//! Forgetting history.
//!
//! What was before a revision can't be read any more from the moment that this revision is noted as compacted; the rows go afterwards, a
//! piece with each command that removes something, since to remove millions at once would hold up all others.

use rusqlite::types::Value;
use rusqlite::{Connection, Row};

/// Removes at most `limit` changes of revisions up to `compacted`, and what they have superseded. Returns whether there are more.
///
/// Each change of a key, up to that revision, makes what the key was before unreadable, and is itself unreadable if it deleted the key.
pub(crate) fn sweep(connection: &Connection, compacted: u64, limit: usize) -> rusqlite::Result<bool> {
    let sql = "SELECT revision, part, key FROM raft_changes WHERE revision <= ?1 ORDER BY revision, part LIMIT ?2";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let mut select = connection.prepare_cached(sql)?;
    let changes = select.query_map((compacted, limit as u64 + 1), read)?;
    let mut changes: Vec<(u64, u64, Value)> = changes.collect::<rusqlite::Result<_>>()?;
    let more = changes.len() > limit;
    changes.truncate(limit);
    let Some((revision, part, _)) = changes.last() else { return Ok(false) };
    let superseded = "DELETE FROM raft_kv_history
                      WHERE key = ?1 AND (mod_revision < ?2 OR mod_revision = ?2 AND value IS NULL)";
    let mut superseded = connection.prepare_cached(superseded)?;
    for (revision, _, key) in &changes {
        superseded.execute((key, revision))?;
    }
    let swept = "DELETE FROM raft_changes WHERE (revision, part) <= (?1, ?2)";
    connection.prepare_cached(swept)?.execute((revision, part))?;
    Ok(more)
}

/// Whether there is something to sweep.
pub(crate) fn is_due(connection: &Connection, compacted: u64) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM raft_changes WHERE revision <= ?1 LIMIT 1";
    connection.prepare_cached(sql)?.exists([compacted])
}
