//! Plain SQLite, as any program uses it.

use std::path::PathBuf;

use bytes::Bytes;
use raft_store_sqlite::{StatementResult, Value};
use rusqlite::config::DbConfig;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection, Error};
use tempfile::TempDir;

/// What came of each statement of a command, or the message of the one that failed.
pub type Ran = Result<Vec<StatementResult>, String>;

/// A database in a file of its own.
pub struct Plain {
    folder: TempDir,
}

impl Plain {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// Runs the statements in a transaction, and undoes all if one fails.
    pub fn run(&self, text: &str) -> Ran {
        self.run_with(text, &[])
    }

    /// The same of a statement with parameters.
    pub fn run_with(&self, text: &str, parameters: &[Value]) -> Ran {
        let connection = self.open();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        // Where it fails, the end of the connection is that of the transaction.
        let results = run_all(&connection, text, parameters).map_err(message)?;
        connection.execute_batch("COMMIT").map_err(message)?;
        Ok(results)
    }

    /// What comes of the statements, which are undone, or end the transaction that should undo them: then on a copy.
    pub fn try_out(&self, text: &str) -> Ran {
        let copy = tempfile::tempdir().unwrap();
        if self.path().exists() {
            std::fs::copy(self.path(), copy.path().join(FILE)).unwrap();
        }
        run_all(&Self { folder: copy }.open(), text, &[]).map_err(message)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }

    /// A connection for a command: so `changes()` and `last_insert_rowid()` count from the command's start, as in the log.
    fn open(&self) -> Connection {
        let connection = Connection::open(self.path()).unwrap();
        connection.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF").unwrap();
        // The two settings by which clients' SQL differs from what SQLite does if nothing is said.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true).unwrap();
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false).unwrap();
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false).unwrap();
        connection
    }
}

const FILE: &str = "plain.db";

fn run_all(connection: &Connection, text: &str, parameters: &[Value]) -> Result<Vec<StatementResult>, Error> {
    let mut statements = Batch::new(connection, text);
    let mut results = Vec::new();
    while let Some(mut statement) = statements.next()? {
        for (index, parameter) in parameters.iter().enumerate() {
            statement.raw_bind_parameter(index + 1, parameter)?;
        }
        let mut rows = Vec::new();
        let mut found = statement.raw_query();
        while let Some(row) = found.next()? {
            let width = row.as_ref().column_count();
            rows.push((0..width).map(|column| row.get_ref(column).map(value)).collect::<Result<Vec<_>, _>>()?);
        }
        drop(found);
        let columns: Vec<String> = statement.column_names().map(String::from).collect();
        let sql = statement.expanded_sql().unwrap_or_default();
        results.push(StatementResult {
            columns,
            rows,
            rows_affected: if changes_rows(&sql) && !statement.readonly() { connection.changes() } else { 0 },
            last_insert_id: connection.last_insert_rowid(),
        });
    }
    Ok(results)
}

/// Whether a statement is of the kind for which SQLite counts rows.
fn changes_rows(sql: &str) -> bool {
    let sql = sql.trim_start_matches(|skipped: char| skipped == ';' || skipped.is_whitespace()).to_ascii_uppercase();
    ["INSERT", "REPLACE", "UPDATE", "DELETE", "WITH"].iter().any(|word| sql.starts_with(word))
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(real) => Value::Real(real),
        ValueRef::Text(text) => match str::from_utf8(text) {
            Ok(text) => Value::Text(text.to_owned()),
            // As the answer to a client has it, which must be UTF-8.
            Err(_) => Value::Blob(Bytes::copy_from_slice(text)),
        },
        ValueRef::Blob(blob) => Value::Blob(Bytes::copy_from_slice(blob)),
    }
}

fn message(error: Error) -> String {
    match error {
        Error::SqliteFailure(_, Some(message)) => message,
        Error::SqlInputError { msg, .. } => msg,
        error => error.to_string(),
    }
}
