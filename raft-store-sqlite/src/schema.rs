//! The two files: their tables, how they are opened, and how their formats are told.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::clock;
use crate::error::Error;

/// What tells a file of ours from any other.
pub(crate) struct Format {
    /// In the file's header, where `file` and SQLite find it.
    application_id: i32,
    /// Whether clients' SQL runs on it, so that SQLite must ask us for the time.
    runs_sql: bool,
    /// How long to wait for another program that has the file locked.
    patience: Duration,
    /// Run in a new file, before anything is in it.
    layout: &'static str,
    /// Settings that must be in force: the name, what it is set to, and what SQLite then reads back. In this order.
    settings: &'static [(&'static str, &'static str, &'static str)],
    /// The oldest version that can be brought up to date.
    oldest: u32,
    /// What the oldest version consists of, and what each later one has added. The version of a file is in its header, as
    /// `user_version`: older files are brought up to date, those older than the oldest and newer ones are refused.
    versions: &'static [&'static str],
}

impl Format {
    /// The newest version.
    pub(crate) fn version(&self) -> u32 {
        self.oldest + u32::try_from(self.versions.len()).expect("versions are few") - 1
    }

    /// What a file of version `stored` lacks; all, if it is new.
    fn added_since(&self, stored: u32) -> &'static [&'static str] {
        if stored == 0 { self.versions } else { &self.versions[(stored - self.oldest) as usize + 1..] }
    }
}

/// `raft_log_<id>.db`: the only file whose durability is promised.
pub(crate) const LOG: Format = Format {
    application_id: 0x5241_464C,
    runs_sql: false,
    // Nobody else has business here.
    patience: Duration::from_millis(200),
    // So that a log that was long for once can be cut short again.
    layout: "PRAGMA auto_vacuum = INCREMENTAL",
    settings: &[
        ("locking_mode", "EXCLUSIVE", "exclusive"),
        ("journal_mode", "WAL", "wal"),
        ("synchronous", "FULL", "2"),
        // 16 MiB, so that less than one commit in a hundred waits for a checkpoint, however large they are.
        ("wal_autocheckpoint", "4096", "4096"),
        // More than that: a file that is not cut short and grown again costs a sync less.
        ("journal_size_limit", "33554432", "33554432"),
    ],
    oldest: 1,
    versions: &[LOG_1, LOG_2, LOG_3],
};

const LOG_1: &str = "
    CREATE TABLE meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        node_id INTEGER NOT NULL,
        cluster_id TEXT NOT NULL,
        incarnation TEXT NOT NULL
    ) STRICT;
    CREATE TABLE hard_state (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        term INTEGER NOT NULL,
        vote INTEGER,
        checksum INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE entries (
        idx INTEGER PRIMARY KEY,
        term INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        payload BLOB NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;
";

/// What the log begins after, and where its memberships are: kind 2.
const LOG_2: &str = "
    CREATE TABLE snapshot (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        idx INTEGER NOT NULL,
        term INTEGER NOT NULL,
        membership BLOB NOT NULL,
        must_install INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX memberships ON entries (idx) WHERE kind = 2;
";

/// Entries that were written together share a row. What was in `entries` is moved to `batches` when a file is brought up to date,
/// and in a new one there was nothing.
const LOG_3: &str = "
    CREATE TABLE batches (
        first INTEGER PRIMARY KEY,
        before INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        entries BLOB NOT NULL
    ) STRICT;
    CREATE TABLE bounds (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        after INTEGER NOT NULL,
        last INTEGER NOT NULL,
        last_checksum INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;
    ALTER TABLE meta ADD COLUMN checksum INTEGER;
";

/// `raft_node_<id>.db`: what the log led to. Holds nothing that differs between nodes.
///
/// A key or value is a TEXT if it is UTF-8 without a NUL, and a BLOB otherwise, so that SQL and `sqlite3` can compare
/// and show it; each byte string has exactly one of the two forms. Within each form the order is that of the bytes, and
/// all TEXT comes before all BLOB.
pub(crate) const STATE: Format = Format {
    application_id: 0x5241_4653,
    runs_sql: true,
    // Anyone may look, though to hold a lock for writing stops the node in the end.
    patience: Duration::from_secs(10),
    layout: "",
    settings: &[
        ("journal_mode", "WAL", "wal"),
        ("synchronous", "NORMAL", "1"),
        // After a capture, it may be long.
        ("journal_size_limit", "67108864", "67108864"),
        // 64 MiB of pages in memory, and as much in the write-ahead log before it is moved into the file: a page that changes often is then
        // written once for many changes.
        ("cache_size", "-65536", "-65536"),
        ("wal_autocheckpoint", "16384", "16384"),
        ("foreign_keys", "ON", "1"),
        ("encoding", "'UTF-8'", "UTF-8"),
    ],
    // What came before was never released, and nodes that bring it up to date at different times would number their changes differently.
    oldest: 3,
    versions: &[STATE_3],
};

/// Kept to the last blank: SQLite stores this text, and it must be the same in all state files.
///
/// All that keys have been since history began is in `raft_changes`, each change after the one before, and so is what was done to the rows
/// of tables: to write is to append. `raft_kv` says which change made each key what it is, `raft_kv_deleted` which one deleted it, and
/// `prior` leads from there to what the key was before. A number of a change is never given twice, though changes are forgotten: what leads
/// to one that is gone leads nowhere.
const STATE_3: &str = "
        CREATE TABLE raft_meta (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            cluster_id TEXT NOT NULL,
            applied_index INTEGER NOT NULL,
            applied_term INTEGER NOT NULL,
            revision INTEGER NOT NULL,
            time_ms INTEGER NOT NULL,
            changes INTEGER NOT NULL DEFAULT 0,
            sessions INTEGER NOT NULL DEFAULT 0,
            compacted INTEGER NOT NULL DEFAULT 0,
            swept INTEGER NOT NULL DEFAULT 0,
            command_term INTEGER NOT NULL DEFAULT 0
        ) STRICT;
        CREATE TABLE raft_kv (
            key ANY NOT NULL PRIMARY KEY,
            change INTEGER NOT NULL,
            create_revision INTEGER NOT NULL,
            mod_revision INTEGER NOT NULL,
            version INTEGER NOT NULL,
            lease INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX raft_kv_by_lease ON raft_kv (lease) WHERE lease <> 0;
        CREATE TABLE raft_kv_deleted (
            key ANY NOT NULL PRIMARY KEY,
            change INTEGER NOT NULL,
            mod_revision INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE raft_changes (
            change INTEGER PRIMARY KEY,
            revision INTEGER NOT NULL,
            key ANY,
            value ANY,
            create_revision INTEGER NOT NULL DEFAULT 0,
            version INTEGER NOT NULL DEFAULT 0,
            lease INTEGER NOT NULL DEFAULT 0,
            prior INTEGER,
            rows BLOB
        ) STRICT;
        CREATE VIEW kv (key, value, create_revision, mod_revision, version, lease) AS
            SELECT raft_kv.key, raft_changes.value, raft_kv.create_revision, raft_kv.mod_revision, raft_kv.version, raft_kv.lease
            FROM raft_kv CROSS JOIN raft_changes ON raft_changes.change = raft_kv.change;
        CREATE TABLE raft_leases (
            lease INTEGER PRIMARY KEY,
            ttl_ms INTEGER NOT NULL,
            deadline_ms INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX raft_leases_by_deadline ON raft_leases (deadline_ms);
        CREATE TABLE raft_sessions (
            client BLOB NOT NULL,
            opened_ms INTEGER NOT NULL,
            answered INTEGER NOT NULL,
            last_used_ms INTEGER NOT NULL,
            PRIMARY KEY (client, opened_ms)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX raft_sessions_by_use ON raft_sessions (last_used_ms);
        CREATE TABLE raft_answers (
            client BLOB NOT NULL,
            opened_ms INTEGER NOT NULL,
            sequence INTEGER NOT NULL,
            answer BLOB NOT NULL,
            PRIMARY KEY (client, opened_ms, sequence)
        ) STRICT, WITHOUT ROWID;
    ";

/// The oldest SQLite without the bug that corrupts a write-ahead log (3.51.3), and not the one that was withdrawn
/// (3.52.0).
const SQLITE_AT_LEAST: i32 = 3_052_001;

/// Opens a file of this format for writing, and makes it if it is not there. `first` fills the tables of a new one, in
/// the transaction that makes them.
pub(crate) fn open(
    path: &Path,
    format: &Format,
    first: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> Result<Connection, Error> {
    assert!(
        rusqlite::version_number() >= SQLITE_AT_LEAST,
        "SQLite is bundled, and without its bug in the write-ahead log"
    );
    let doing = "opening the database";
    let mut connection = connect(path, OpenFlags::default(), format).map_err(Error::sqlite(doing))?;
    connection.set_prepared_statement_cache_capacity(256);
    connection.busy_timeout(format.patience).map_err(Error::sqlite(doing))?;
    // Before anything is read: from the first read on, an exclusive connection keeps its index of the log in memory.
    if let Some((pragma, value, _)) = format.settings.iter().find(|(pragma, ..)| *pragma == "locking_mode") {
        set(&connection, pragma, value)?;
    }
    let stored = check_format(&connection, path, format)?;
    if stored == 0 {
        connection.execute_batch(format.layout).map_err(Error::sqlite("setting up the database"))?;
    }
    for (pragma, value, wanted) in format.settings {
        set(&connection, pragma, value)?;
        verify(&connection, path, pragma, wanted)?;
    }
    report_failed_checkpoints(&mut connection).map_err(Error::sqlite("setting up the database"))?;
    if stored < format.version() {
        bring_up_to_date(&mut connection, format, stored, first).map_err(Error::sqlite("making the tables"))?;
    }
    Ok(connection)
}

/// Opens a state file for reading alone.
pub(crate) fn open_to_read(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = connect(path, flags, &STATE).map_err(Error::sqlite("opening the state for reading"))?;
    check_format(&connection, path, &STATE)?;
    Ok(connection)
}

/// Opens a state file that nobody else has open, that will not change, and that is not trusted: for reading alone, without
/// so much as a look at a write-ahead log.
pub(crate) fn open_sealed(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection =
        Connection::open_with_flags(sealed_uri(path), flags).map_err(Error::sqlite("opening the snapshot"))?;
    if check_format(&connection, path, &STATE)? == 0 {
        return Err(Error::NotOurs { path: path.to_owned() });
    }
    Ok(connection)
}

fn sealed_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => uri.push(char::from(byte)),
            _ => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    uri.push_str("?immutable=1");
    uri
}

/// An empty state, to compare others with.
pub(crate) fn new_state_in_memory() -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    make_state(&connection)?;
    Ok(connection)
}

/// Makes a state of a file that has none of our tables.
pub(crate) fn make_state(connection: &Connection) -> rusqlite::Result<()> {
    STATE.versions.iter().try_for_each(|added| connection.execute_batch(added))?;
    stamp(connection, &STATE)
}

/// Says in the header of a file which format it has.
fn stamp(connection: &Connection, format: &Format) -> rusqlite::Result<()> {
    connection.pragma_update(None, "application_id", format.application_id)?;
    connection.pragma_update(None, "user_version", format.version())
}

/// What an SQLite file from elsewhere holds.
pub(crate) enum Content {
    /// A state of ours, of the newest version.
    State,
    /// A log of ours.
    Log,
    /// Tables of somebody else.
    Other,
}

/// What a file from elsewhere holds; an error if it is a state of a version that this one does not know.
pub(crate) fn content(connection: &Connection, path: &Path) -> Result<Content, Error> {
    match application_id(connection).map_err(Error::sqlite("reading the file's header"))? {
        id if id == STATE.application_id => check_format(connection, path, &STATE).map(|_| Content::State),
        id if id == LOG.application_id => Ok(Content::Log),
        _ => Ok(Content::Other),
    }
}

fn application_id(connection: &Connection) -> rusqlite::Result<i32> {
    connection.query_row("PRAGMA application_id", [], |row| row.get(0))
}

fn connect(path: &Path, flags: OpenFlags, format: &Format) -> rusqlite::Result<Connection> {
    if format.runs_sql {
        return Connection::open_with_flags_and_vfs(path, flags, clock::vfs()?);
    }
    Connection::open_with_flags(path, flags)
}

/// The version of the file, zero if it is new; an error if it is not of this format.
fn check_format(connection: &Connection, path: &Path, format: &Format) -> Result<u32, Error> {
    let path = path.to_owned();
    let header =
        "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version),
                         (SELECT count(*) FROM sqlite_schema)";
    let read = connection.query_row(header, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let (application_id, version, objects): (i32, u32, u64) = match read {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
            return Err(Error::NotOurs { path });
        }
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
            return Err(Error::InUse { path, holder: String::new() });
        }
        read => read.map_err(Error::sqlite("reading the file's header"))?,
    };
    if application_id == 0 && version == 0 && objects == 0 {
        return Ok(0);
    }
    if application_id != format.application_id {
        return Err(Error::NotOurs { path });
    }
    let known = format.version();
    if version > known {
        return Err(Error::NewerFormat { path, stored: version, known });
    }
    if version < format.oldest {
        return Err(Error::OlderFormat { path, stored: version, oldest: format.oldest });
    }
    Ok(version)
}

fn set(connection: &Connection, pragma: &str, value: &str) -> Result<(), Error> {
    connection.execute_batch(&format!("PRAGMA {pragma} = {value}")).map_err(Error::sqlite("setting up the database"))
}

/// A setting that SQLite could not take is not an error to it, so each is read back.
fn verify(connection: &Connection, path: &Path, pragma: &'static str, wanted: &'static str) -> Result<(), Error> {
    let got = connection
        .query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, Value>(0))
        .map_err(Error::sqlite("reading a setting back"))?;
    let got = match got {
        Value::Integer(integer) => integer.to_string(),
        Value::Text(text) => text,
        other => format!("{other:?}"),
    };
    if got == wanted {
        return Ok(());
    }
    Err(Error::Setting { path: path.to_owned(), pragma, wanted, got })
}

/// Has a commit fail when the checkpoint fails that comes with it. SQLite's own does the same at the same size, but says nothing when it
/// fails, and tries again: after a failed fsync that is to trust in what is not on the disk.
fn report_failed_checkpoints(connection: &mut Connection) -> rusqlite::Result<()> {
    let limit: i32 = connection.query_row("PRAGMA wal_autocheckpoint", [], |row| row.get(0))?;
    let checkpoint = move |wal: &mut Wal, pages| {
        if pages < limit {
            return Ok(());
        }
        match wal.checkpoint() {
            // Others read, or do the same: the next commit tries again.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(()),
            done => done,
        }
    };
    connection.wal_hook(Some(checkpoint))
}

/// Has the connection leave the files as they are when it is closed: the checkpoint that SQLite does then would try again what has failed, and
/// after a failed fsync copy pages into the file that the write-ahead log on the disk does not have.
pub(crate) fn leave_as_is(connection: &Connection) {
    let set = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    set.expect("SQLite knows this setting, which needs no disk");
}

fn bring_up_to_date(
    connection: &mut Connection,
    format: &Format,
    stored: u32,
    first: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for added in format.added_since(stored) {
        transaction.execute_batch(added)?;
    }
    stamp(&transaction, format)?;
    if stored == 0 {
        first(&transaction)?;
    }
    transaction.commit()
}

/// A name as it stands in SQL, whatever it holds.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Runs a statement of our own that yields nothing.
pub(crate) fn run(connection: &Connection, sql: &'static str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::own_schema;

    #[test]
    fn a_state_that_is_too_old_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let version_2 =
            Format { oldest: 1, versions: &["CREATE TABLE raft_meta (a)", "CREATE TABLE raft_kv (a)"], ..STATE };
        drop(open(&path, &version_2, |_| Ok(())).unwrap());
        let before = std::fs::read(&path).unwrap();
        let refused = open(&path, &STATE, |_| panic!("it is not new")).unwrap_err();
        assert!(matches!(refused, Error::OlderFormat { stored: 2, oldest: 3, .. }), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_new_state_is_the_same_in_a_file_and_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let state = open(&folder.path().join("state.db"), &STATE, |_| Ok(())).unwrap();
        let version: u32 = state.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, STATE.version());
        // To the last blank.
        assert_eq!(own_schema(&state).unwrap(), own_schema(&new_state_in_memory().unwrap()).unwrap());
    }
}
