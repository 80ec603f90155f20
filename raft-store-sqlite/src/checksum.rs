//! Checksums of states: nodes that have applied the same entries have the same.
//!
//! What counts is what can be read: the schema, and the rows of every table with their rowids, each field with its type. All tables count, the users'
//! and ours, for a state file holds nothing that differs between nodes. Where things lie in the file does not count. Nor does the order of rows: each is hashed
//! alone and the hashes are added up, so that nothing rests on the order in which SQLite finds them. Virtual columns follow from the others, and are
//! left out: to read one may fail.
//!
//! Indexes follow from the rows as well, but a read may believe one that does not, so SQLite is asked whether the file is sound, and the
//! answer counts: just yes or no, for its words name places in the file. So where a bug makes all nodes say no, none of them stands out.

mod marks;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use raft_core::types::EntryId;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, Row, Statement};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::position::Position;
use crate::schema::{self, quoted, run};

pub(crate) use marks::Marker;
pub use marks::{Marked, Marks};

/// What a state is told by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// The last entry that was applied to it.
    pub at: EntryId,
    /// The checksum itself.
    pub digest: StateDigest,
    /// What SQLite finds wrong with the file, if anything. The words differ between nodes; that there is a fault is part of the digest.
    pub fault: Option<String>,
}

/// The hash of a state. Shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateDigest(pub [u8; 32]);

impl Checksum {
    /// What two nodes must have in common for their checksums to be comparable: how they are computed, the format of the state, and the version of SQLite, for a
    /// later one may look closer for faults.
    pub fn kind() -> String {
        format!("{VERSION} {} {}", schema::STATE.version(), rusqlite::version())
    }
}

impl StateDigest {
    /// Its beginning, which tells one from another as well as people need.
    pub fn short(&self) -> String {
        self.0[..8].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }
}

impl fmt::Display for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateDigest({self})")
    }
}

/// The checksum of a state file. May be called while the node runs; then it is that of the state that was the latest when the call began. For a state of
/// many gigabytes this takes minutes.
///
/// # Errors
/// If it is not a state file or can't be read.
pub fn checksum(path: &Path) -> Result<Checksum, Error> {
    let connection = schema::open_to_read(path)?;
    let at = pin(&connection).map_err(Error::sqlite(DOING))?;
    compute(&connection, at, &AtomicU64::new(0)).map_err(Error::sqlite(DOING))
}

/// How checksums are computed. To be counted up with each change of that.
const VERSION: u32 = 1;

const DOING: &str = "computing the state's checksum";

/// Begins a transaction that shows the state as it is now, and says what it has applied.
fn pin(connection: &Connection) -> rusqlite::Result<EntryId> {
    run(connection, "BEGIN")?;
    Position::read(connection).map(|position| position.applied)
}

/// The checksum of what the open transaction shows. Adds to `bytes` what is hashed.
fn compute(connection: &Connection, at: EntryId, bytes: &AtomicU64) -> rusqlite::Result<Checksum> {
    let read = digest(connection, bytes).and_then(|hash| Ok((hash, first_fault(connection)?)));
    match read {
        Ok((hash, fault)) => Ok(Checksum { at, digest: finish(hash, fault.is_none()), fault }),
        // What can't be read at all differs from what can.
        Err(error) if is_damage(&error) => {
            Ok(Checksum { at, digest: finish(Sha256::new(), false), fault: Some(error.to_string()) })
        }
        Err(error) => Err(error),
    }
}

fn finish(mut hash: Sha256, is_sound: bool) -> StateDigest {
    hash.update([u8::from(is_sound)]);
    StateDigest(hash.finalize().into())
}

fn is_damage(error: &rusqlite::Error) -> bool {
    // Nothing that is too big for us to read can have come by the log.
    let is = |code| matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::TooBig);
    error.sqlite_error_code().is_some_and(is)
}

/// What SQLite finds wrong with the file, indexes included.
fn first_fault(connection: &Connection) -> rusqlite::Result<Option<String>> {
    // There may be chance in them, so that they fail where they have passed.
    connection.pragma_update(None, "ignore_check_constraints", true)?;
    let said: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    Ok((said != "ok").then_some(said))
}

fn digest(connection: &Connection, bytes: &AtomicU64) -> rusqlite::Result<Sha256> {
    let mut hash = Sha256::new();
    hash.update(VERSION.to_le_bytes());
    let mut schema = connection.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema")?;
    hash.update(rows(&mut schema, bytes)?);
    for table in tables(connection)? {
        hash.update((table.len() as u64).to_le_bytes());
        hash.update(&table);
        hash.update(rows(&mut select(connection, &table)?, bytes)?);
    }
    Ok(hash)
}

/// The tables that have rows of their own, in the order of their names. Virtual ones have none.
fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage <> 0 ORDER BY name";
    connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

/// Reads what a table stores.
fn select<'a>(connection: &'a Connection, table: &str) -> rusqlite::Result<Statement<'a>> {
    let stored = "SELECT name FROM pragma_table_xinfo(?1) WHERE hidden IN (0, 3) ORDER BY cid";
    let columns: Vec<String> =
        connection.prepare(stored)?.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let is_taken = |name: &str| columns.iter().any(|column| column.eq_ignore_ascii_case(name));
    let rowid = ["rowid", "_rowid_", "oid"].into_iter().find(|name| !is_taken(name));
    let fields = columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ");
    let table = quoted(table);
    let without = format!("SELECT {fields} FROM {table}");
    match rowid {
        // A table WITHOUT ROWID has none to show.
        Some(rowid) => connection
            .prepare(&format!("SELECT {rowid}, {fields} FROM {table}"))
            .or_else(|_| connection.prepare(&without)),
        None => connection.prepare(&without),
    }
}

/// The rows that a statement yields, in any order: how many there are, and the sum of their hashes.
fn rows(statement: &mut Statement<'_>, bytes: &AtomicU64) -> rusqlite::Result<[u8; 40]> {
    let columns = statement.column_count();
    let (mut count, mut sum) = (0_u64, [0_u64; 4]);
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let hash = hash_row(row, columns, bytes)?;
        let (words, _) = hash.as_chunks();
        for (total, word) in sum.iter_mut().zip(words) {
            *total = total.wrapping_add(u64::from_le_bytes(*word));
        }
        count += 1;
    }
    let mut told = [0; 40];
    for (bytes, word) in told.chunks_exact_mut(8).zip([count].iter().chain(&sum)) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    Ok(told)
}

/// The hash of a row: of each field its type, its length and its value.
fn hash_row(row: &Row<'_>, columns: usize, bytes: &AtomicU64) -> rusqlite::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut length = 0;
    for column in 0..columns {
        let number;
        let (kind, value): (u8, &[u8]) = match row.get_ref(column)? {
            ValueRef::Null => (0, &[]),
            ValueRef::Integer(integer) => {
                number = integer.to_le_bytes();
                (1, &number)
            }
            ValueRef::Real(real) => {
                number = real.to_bits().to_le_bytes();
                (2, &number)
            }
            ValueRef::Text(text) => (3, text),
            ValueRef::Blob(blob) => (4, blob),
        };
        hash.update([kind]);
        hash.update((value.len() as u64).to_le_bytes());
        hash.update(value);
        length += value.len() as u64;
    }
    bytes.fetch_add(length, Ordering::Relaxed);
    Ok(hash.finalize().into())
}
