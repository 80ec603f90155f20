//! The contents of a state file as text: equal texts, equal states.

use std::fmt::Write;
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use crate::error::Error;
use crate::schema;

/// Everything that a state file holds, in a canonical form: the definition of each table, view, index and trigger, and
/// the rows of each table with their rowids. The states of two nodes that have applied the same entries give the same
/// text. May be called while the node runs.
///
/// # Errors
/// If it is not a state file or can't be read.
pub fn dump(path: &Path) -> Result<String, Error> {
    let connection = schema::open_to_read(path)?;
    write_all(&connection).map_err(Error::sqlite("dumping the state"))
}

fn write_all(connection: &Connection) -> rusqlite::Result<String> {
    let mut text = String::new();
    // One snapshot.
    connection.execute_batch("BEGIN")?;
    let mut objects =
        connection.prepare("SELECT type, name, coalesce(sql, '') FROM sqlite_schema ORDER BY name, type")?;
    let objects = objects.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    for object in objects {
        let (kind, name, sql): (String, String, String) = object?;
        let _ = writeln!(text, "{kind} {name}: {sql}");
        if kind == "table" {
            write_rows(connection, &name, &mut text)?;
        }
    }
    Ok(text)
}

fn write_rows(connection: &Connection, table: &str, text: &mut String) -> rusqlite::Result<()> {
    let table = schema::quoted(table);
    let with_rowid = connection.prepare(&format!("SELECT rowid, * FROM {table}"));
    // A table WITHOUT ROWID has none to show.
    let mut select = with_rowid.or_else(|_| connection.prepare(&format!("SELECT * FROM {table}")))?;
    let columns = select.column_count();
    let rows = select.query_map([], |row| line(row, columns))?;
    let mut lines = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    lines.sort_unstable();
    for line in lines {
        let _ = writeln!(text, "  {line}");
    }
    Ok(())
}

fn line(row: &Row<'_>, columns: usize) -> rusqlite::Result<String> {
    let mut line = String::new();
    for column in 0..columns {
        let separator = if column == 0 { "" } else { ", " };
        let _ = match row.get_ref(column)? {
            ValueRef::Null => write!(line, "{separator}NULL"),
            ValueRef::Integer(integer) => write!(line, "{separator}{integer}"),
            // As bits, so that no two numbers look alike.
            ValueRef::Real(real) => write!(line, "{separator}{real:?} ({:016x})", real.to_bits()),
            ValueRef::Text(bytes) => write!(line, "{separator}'{}'", bytes.escape_ascii()),
            ValueRef::Blob(bytes) => write!(line, "{separator}x'{}'", hexadecimal(bytes)),
        };
    }
    Ok(line)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
