//! New clusters from old data: a backup, or any SQLite file.
//!
//! The file becomes the snapshot that the log of the first node begins after, and is installed as one from a peer is: it counts only once
//! the log says so, in the same durable step that makes the node a part of its new cluster.

use std::path::Path;
use std::time::Duration;

use raft_core::types::{ClusterId, EntryId, Index, Term};
use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::error::Error;
use crate::position::{Position, write_first};
use crate::schema::{self, Content};
use crate::snapshot::SnapshotFolder;

/// What a new cluster begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The entry that its log begins after.
    pub last: EntryId,
    /// The revision of its state.
    pub revision: u64,
}

/// Where the log begins after tables that came from no log.
const FIRST: EntryId = EntryId { index: Index(1), term: Term(1) };
/// How many pages are copied at a time.
const PAGES: i32 = 1024;

/// Makes the state of a new cluster from a file, ready to be installed. The file itself is only read.
pub(crate) fn stage(from: &Path, snapshots: &SnapshotFolder, cluster: ClusterId) -> Result<Restored, Error> {
    let staged = snapshots.new_receiving()?;
    let content = copy(from, &staged)?;
    let state = Connection::open(&staged).map_err(Error::sqlite(RESTORING))?;
    let position = match content {
        Content::State => adopt_state(&state, cluster),
        Content::Log => return Err(cannot(from, "it is the log of a node, whose state is in raft_node_<id>.db")),
        Content::Other => adopt_tables(&state, from, cluster)?,
    };
    let Position { applied, revision, .. } = position.map_err(Error::sqlite(RESTORING))?;
    state.execute_batch("PRAGMA journal_mode = DELETE").map_err(Error::sqlite(RESTORING))?;
    state.close().map_err(|(_, error)| Error::sqlite(RESTORING)(error))?;
    snapshots.keep_received(cluster, applied).map_err(|error| cannot(from, &error.to_string()))?;
    Ok(Restored { last: applied, revision })
}

const RESTORING: &str = "restoring the state";

fn cannot(from: &Path, why: &str) -> Error {
    Error::Invalid(format!("{} can't be restored: {why}", from.display()))
}

/// Copies the file as SQLite sees it, with what may stand in a write-ahead log beside it.
fn copy(from: &Path, to: &Path) -> Result<Content, Error> {
    let unreadable = |error: rusqlite::Error| cannot(from, &error.to_string());
    let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(unreadable)?;
    let content = schema::content(&source, from).map_err(|error| cannot(from, &error.to_string()))?;
    let check: String = source.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(unreadable)?;
    if check != "ok" {
        return Err(cannot(from, &format!("it is damaged: {check}")));
    }
    let mut copy = Connection::open(to).map_err(Error::sqlite(RESTORING))?;
    let copied =
        Backup::new(&source, &mut copy).and_then(|copying| copying.run_to_completion(PAGES, Duration::ZERO, None));
    copied.map_err(Error::sqlite(RESTORING))?;
    Ok(content)
}

/// Makes a state that of another cluster. Sessions stay: what was applied once is not applied again there.
fn adopt_state(state: &Connection, cluster: ClusterId) -> rusqlite::Result<Position> {
    state.execute("UPDATE raft_meta SET cluster_id = ?1", [cluster.to_string()])?;
    Position::read(state)
}

/// Puts our own tables beside those that are there.
fn adopt_tables(state: &Connection, from: &Path, cluster: ClusterId) -> Result<rusqlite::Result<Position>, Error> {
    let ours = r"SELECT name FROM sqlite_schema WHERE name LIKE 'raft\_%' ESCAPE '\' OR name LIKE 'kv' LIMIT 1";
    let taken =
        state.query_row(ours, [], |row| row.get::<_, String>(0)).optional().map_err(Error::sqlite(RESTORING))?;
    if let Some(name) = taken {
        return Err(cannot(from, &format!("{name} is a name of RaftKV's own: rename it first")));
    }
    let adopt = || {
        state.execute_batch("BEGIN")?;
        schema::make_state(state)?;
        write_first(state, cluster)?;
        let position = Position { applied: FIRST, ..Position::read(state)? };
        position.write(state)?;
        state.execute_batch("COMMIT")?;
        Ok(position)
    };
    Ok(adopt())
}
