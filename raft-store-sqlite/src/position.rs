//! Where a state stands: what was applied to it, and whose it is.

use std::path::Path;

use raft_core::types::{ClusterId, EntryId, Index, Term};
use rusqlite::{Connection, Row};

use crate::error::Error;

/// What `raft_meta` says besides the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The last entry that was applied.
    pub(crate) applied: EntryId,
    /// The number of commands so far that changed something, plus one.
    pub(crate) revision: u64,
    /// The number of the last change of a key or of rows, counted from 1.
    pub(crate) changes: u64,
    /// The time of the last command, in milliseconds since 1970. Never falls.
    pub(crate) time_ms: u64,
    /// How many sessions are kept.
    pub(crate) sessions: u64,
    /// What was before this revision is forgotten. 0 if nothing is.
    pub(crate) compacted: u64,
    /// Up to which change what is forgotten has been removed.
    pub(crate) swept: u64,
    /// The term of the last command.
    pub(crate) command_term: Term,
}

impl Position {
    /// Reads it.
    pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let sql =
            "SELECT applied_index, applied_term, revision, changes, time_ms, sessions, compacted, swept, command_term
                   FROM raft_meta";
        connection.prepare_cached(sql)?.query_row([], |row| {
            Ok(Self {
                applied: EntryId::new(Index(row.get(0)?), Term(row.get(1)?)),
                revision: row.get(2)?,
                changes: row.get(3)?,
                time_ms: row.get(4)?,
                sessions: row.get(5)?,
                compacted: row.get(6)?,
                swept: row.get(7)?,
                command_term: Term(row.get(8)?),
            })
        })
    }

    /// Which revisions can be read.
    pub(crate) fn readable(&self) -> Readable {
        Readable { first: self.compacted.max(1), last: self.revision }
    }

    /// Moves the time on to that of a command, if it is later.
    pub(crate) fn advance_time(&mut self, time_ms: u64) {
        /// The end of the year 9999, where SQLite's calendar ends. A leader's clock may be wrong, but no command may
        /// stop the nodes.
        const LAST_MS: u64 = 253_402_300_799_999;
        self.time_ms = self.time_ms.max(time_ms.min(LAST_MS));
    }

    /// Writes it.
    pub(crate) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let sql =
            "UPDATE raft_meta SET applied_index = ?1, applied_term = ?2, revision = ?3, changes = ?4, time_ms = ?5,
                                        sessions = ?6, compacted = ?7, swept = ?8, command_term = ?9";
        let Self { applied, revision, changes, time_ms, sessions, compacted, swept, command_term } = *self;
        let (index, term) = (applied.index.0, applied.term.0);
        let row = (index, term, revision, changes, time_ms, sessions, compacted, swept, command_term.0);
        connection.prepare_cached(sql)?.execute(row).map(|_| ())
    }
}

/// Writes where a new state of `cluster` stands.
pub(crate) fn write_first(connection: &Connection, cluster: ClusterId) -> rusqlite::Result<()> {
    let first = "INSERT INTO raft_meta (one, cluster_id, applied_index, applied_term, revision, time_ms)
                 VALUES (1, ?1, 0, 0, 1, 0)";
    connection.execute(first, [cluster.to_string()]).map(|_| ())
}

/// Which revisions can be read: from the first to the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readable {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Readable {
    /// Whether what was at `revision` can be read; 0 stands for now.
    pub(crate) fn check(self, revision: u64) -> Result<(), Error> {
        let Self { first, last } = self;
        match revision {
            0 => Ok(()),
            _ if revision < first => Err(Error::Compacted { revision, first }),
            _ if revision > last => {
                Err(Error::Invalid(format!("revision {revision} is not reached yet: the state is at {last}")))
            }
            _ => Ok(()),
        }
    }
}

/// Checks that a state is of `cluster`.
pub(crate) fn expect_cluster(connection: &Connection, path: &Path, cluster: ClusterId) -> Result<(), Error> {
    let read = |row: &Row<'_>| row.get::<_, String>(0);
    let stored = connection
        .query_row("SELECT cluster_id FROM raft_meta", [], read)
        .map_err(Error::sqlite("reading the cluster's id"))?;
    let damaged = |_| Error::DamagedFile { path: path.to_owned(), what: format!("{stored:?} is not a cluster's id") };
    let stored = ClusterId(u64::from_str_radix(&stored, 16).map_err(damaged)?);
    if stored == cluster {
        return Ok(());
    }
    Err(Error::OtherCluster { path: path.to_owned(), stored, given: cluster })
}
