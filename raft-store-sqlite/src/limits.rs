//! How much a command may hold.
//!
//! These limits are part of what an entry means: when it is applied, all but [`COMMAND_BYTES`] are checked again, so
//! nodes with different limits would part ways. A change needs a new version of the command format.

use crate::error::Error;

/// The longest key, in bytes. The shortest is one byte.
pub const KEY_BYTES: usize = 64 << 10;
/// The longest value, in bytes.
pub const VALUE_BYTES: usize = 1 << 20;
/// The longest SQL text of a statement, in bytes.
pub const SQL_BYTES: usize = 1 << 20;
/// The most steps of a program, those within conditions included.
pub const STEPS: usize = 1024;
/// How deep conditions may stand in each other.
pub const DEPTH: usize = 8;
/// The most SQL statements that a command may run.
pub const STATEMENTS: usize = 1024;
/// The most parameters of a statement.
pub const PARAMETERS: usize = 32_766;
/// The largest command, encoded, in bytes.
pub const COMMAND_BYTES: usize = 4 << 20;
/// The longest client id, in bytes. The shortest is one byte.
pub const CLIENT_BYTES: usize = 64;
/// How far a client's sequence may run ahead of the answers it has confirmed: the most answers that are kept for it.
pub const UNANSWERED: u64 = 4096;
/// The most keys that a command may delete.
pub const DELETED: usize = 100_000;
/// The most rows that one [`Operation::Expire`](crate::Operation::Expire) or [`Operation::Compact`](crate::Operation::Compact) removes of
/// each kind; the next goes on.
pub const EXPIRED: usize = 1000;
/// The most bytes of rows that a command may change and have each told: their keys, and what they were and are.
pub const CHANGE_BYTES: usize = 4 << 20;
/// The longest time that a lease may be granted for, in milliseconds: a hundred years.
pub const LEASE_MS: u64 = 100 * 365 * 24 * 60 * 60 * 1000;
/// How long a session lasts that is not used, in milliseconds of log time.
pub const SESSION_MS: u64 = 60 * 60 * 1000;
/// The most sessions that are kept.
pub const SESSIONS: u64 = 1_000_000;
/// The most bytes that a command's results may count: 8 for each row, each value and each name of a column, and the length of
/// texts, blobs and names; 48 for each key that is told, and the length of key and value.
pub const ANSWER_BYTES: usize = 1 << 20;
/// The longest message of a command that failed, in bytes. The rest is cut off.
pub const MESSAGE_BYTES: usize = 4096;
/// The most steps of SQLite's virtual machine that a command may take, a few seconds' worth. Counted, not timed, so
/// that a command that runs away is stopped alike on every node.
pub const SQL_STEPS: u64 = 100_000_000;
/// The longest text, blob or row that SQL may make, in bytes.
pub const SQL_VALUE_BYTES: usize = 16 << 20;

/// Checks a number: those that SQLite stores have a sign.
pub(crate) fn storable(what: &str, number: u64) -> Result<(), Error> {
    match i64::try_from(number) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::Invalid(format!("{what} has a number up to {}, not {number}", i64::MAX))),
    }
}

/// Checks a size against its limit.
pub(crate) fn at_most<N: TryInto<u64>>(what: &'static str, limit: N, actual: N) -> Result<(), Error> {
    let [limit, actual] = [limit, actual].map(|number| number.try_into().unwrap_or(u64::MAX));
    if actual <= limit { Ok(()) } else { Err(Error::TooLarge { what, limit, actual }) }
}
