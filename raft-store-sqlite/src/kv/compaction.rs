//! Forgetting history.
//!
//! What was before a revision can't be read any more from the moment that this revision is noted as compacted; the rows go afterwards, a
//! piece with each command that removes something, since to remove millions at once would hold up all others.

use rusqlite::types::Value;
use rusqlite::{Connection, Row};

use crate::position::Position;

/// A change that nobody can ask for any more.
struct Forgotten {
    change: u64,
    key: Value,
    /// Whether it set its key, and so may be what the key still is.
    sets: bool,
    prior: Option<u64>,
}

/// Goes through at most `limit` changes of forgotten revisions, in order, and removes what they make unreadable: what the key was before
/// each, and the change itself if it did not set a key. Returns whether there are more.
pub(crate) fn sweep(connection: &Connection, position: &mut Position, limit: usize) -> rusqlite::Result<bool> {
    for forgotten in forgotten(connection, position, limit)? {
        let remove = |change: u64| {
            connection.prepare_cached("DELETE FROM raft_changes WHERE change = ?1")?.execute([change]).map(|_| ())
        };
        forgotten.prior.map_or(Ok(()), remove)?;
        if !forgotten.sets {
            remove(forgotten.change)?;
            // Unless it was set anew.
            let deleted = "DELETE FROM raft_kv_deleted WHERE key = ?1 AND change = ?2";
            connection.prepare_cached(deleted)?.execute((&forgotten.key, forgotten.change))?;
        }
        position.swept = forgotten.change;
    }
    is_due(connection, position)
}

fn forgotten(connection: &Connection, position: &Position, limit: usize) -> rusqlite::Result<Vec<Forgotten>> {
    let sql = "SELECT change, key, value IS NOT NULL, prior, revision FROM raft_changes
               WHERE change > ?1 ORDER BY change LIMIT ?2";
    let read = |row: &Row<'_>| {
        let forgotten = Forgotten { change: row.get(0)?, key: row.get(1)?, sets: row.get(2)?, prior: row.get(3)? };
        Ok((forgotten, row.get::<_, u64>(4)?))
    };
    let mut select = connection.prepare_cached(sql)?;
    let rows = select.query_map((position.swept, limit as u64), read)?;
    let is_forgotten =
        |row: &rusqlite::Result<(_, u64)>| !matches!(row, Ok((_, revision)) if *revision > position.compacted);
    rows.take_while(is_forgotten).map(|row| row.map(|(forgotten, _)| forgotten)).collect()
}

/// Whether there is something to sweep.
pub(crate) fn is_due(connection: &Connection, position: &Position) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM raft_changes WHERE change = ?1 AND revision <= ?2";
    connection.prepare_cached(sql)?.exists((position.swept + 1, position.compacted))
}
