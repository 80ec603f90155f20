//! Running clients' SQL: compiling, binding, stepping and gathering, within limits.
//!
//! A text may hold several statements. Each is compiled after the one before it ran, since that may have made the table
//! it is about. So what follows a statement is found by SQLite as it goes, and a text is never cut by us.

use std::collections::BTreeSet;

use bytes::Bytes;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Batch, CachedStatement, Connection, Row, StatementStatus, ToSql, ffi};

use crate::answer::{KeyValue, StatementResult};
use crate::limits;
use crate::rows::RowWatch;
use crate::rules::Touched;
use crate::rules::{NO_OTHER_DATABASE, NO_TIME_ZONE, READ_ONLY_KV};
use crate::sandbox::Fence;
use crate::step::{Argument, Parameter, Statement, Value};

/// Why a client's SQL did not do what it should.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The statement is wrong, or broke a rule of the tables: the same on every node.
    Statement(String),
    /// The statement is not allowed: the same on every node.
    Refused(String),
    /// SQLite could not do its work.
    Sqlite(rusqlite::Error),
}

/// How much a command's results may hold.
pub(crate) struct Budget {
    /// How many rows.
    pub(crate) rows: usize,
    /// How many bytes, as [`limits::ANSWER_BYTES`] counts them.
    pub(crate) bytes: usize,
    /// How many statements.
    pub(crate) statements: usize,
    /// What was given at first, for the message.
    allowed: (usize, usize, usize),
}

impl Budget {
    pub(crate) fn new(rows: usize, bytes: usize) -> Self {
        let statements = limits::STATEMENTS;
        Self { rows, bytes, statements, allowed: (rows, bytes, statements) }
    }

    fn spend_row(&mut self, row: &[Value]) -> Result<(), Failure> {
        let rows = self.rows.checked_sub(1);
        self.rows = rows.ok_or_else(|| {
            statement(format!("there are more than {} rows: ask for fewer, with LIMIT", self.allowed.0))
        })?;
        self.spend_bytes(8 + row.iter().map(size_bytes).sum::<usize>())
    }

    /// For a key that is told.
    pub(crate) fn spend_entry(&mut self, entry: &KeyValue) -> Result<(), Failure> {
        self.spend_bytes(48 + entry.key.len() + entry.value.len())
    }

    fn spend_bytes(&mut self, bytes: usize) -> Result<(), Failure> {
        let rest = self.bytes.checked_sub(bytes);
        self.bytes = rest.ok_or_else(|| {
            statement(format!("the results hold more than {} bytes: ask for fewer or shorter ones", self.allowed.1))
        })?;
        Ok(())
    }

    fn spend_statement(&mut self) -> Result<(), Failure> {
        let rest = self.statements.checked_sub(1);
        self.statements =
            rest.ok_or_else(|| statement(format!("there are more than {} SQL statements", self.allowed.2)))?;
        Ok(())
    }
}

fn size_bytes(value: &Value) -> usize {
    8 + match value {
        Value::Text(text) => text.len(),
        Value::Blob(blob) => blob.len(),
        Value::Null | Value::Integer(_) | Value::Real(_) => 0,
    }
}

/// What a compiled statement must be in order to be run.
pub(crate) type Rule = fn(&rusqlite::Statement<'_>) -> Result<(), Failure>;

/// Runs all statements of a text behind the fence. The first failure ends it; undoing what came before is the caller's.
pub(crate) fn run(
    connection: &Connection,
    fence: &Fence<'_>,
    statement: &Statement,
    rule: Rule,
    budget: &mut Budget,
    rows: Option<&mut RowWatch>,
) -> Result<Vec<StatementResult>, Failure> {
    fence.forget_outdated(connection);
    let mut runner = Runner { connection, fence, rule, budget, rows };
    let results = match cached(connection, &statement.sql) {
        Some(mut compiled) => {
            let result = runner.run_one(&mut compiled, statement);
            fence.check_ran_as_compiled(&compiled);
            result.map(|result| vec![result])
        }
        None => runner.run_all(statement),
    };
    results.map_err(|failure| explain(failure, fence))
}

/// The statement from the cache, if it is one that may be cached and can be compiled.
fn cached<'a>(connection: &'a Connection, sql: &str) -> Option<CachedStatement<'a>> {
    const LONGEST: usize = 4096;
    let single = sql.trim_end_matches(|end: char| end == ';' || end.is_ascii_whitespace());
    // What changes tables must be compiled each time, for that is when it is told from the rest.
    const CACHED: [&str; 7] = ["SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH", "VALUES"];
    if single.len() > LONGEST || single.contains(';') || !CACHED.contains(&&*first_word(single)) {
        return None;
    }
    // No statement of our own begins like this, so a client's can't take one from the cache that was compiled without
    // the fence.
    connection.prepare_cached(&format!("/* sql */ {single}")).ok()
}

/// What statements are run with.
struct Runner<'a> {
    connection: &'a Connection,
    fence: &'a Fence<'a>,
    rule: Rule,
    budget: &'a mut Budget,
    /// Who watches the rows that they change, if anybody does.
    rows: Option<&'a mut RowWatch>,
}

impl Runner<'_> {
    fn run_all(&mut self, text: &Statement) -> Result<Vec<StatementResult>, Failure> {
        let mut results = Vec::new();
        for_each_statement(self.connection, text, |compiled| {
            results.push(self.run_one(compiled, text)?);
            Ok(())
        })?;
        Ok(results)
    }

    fn run_one(
        &mut self,
        compiled: &mut rusqlite::Statement<'_>,
        text: &Statement,
    ) -> Result<StatementResult, Failure> {
        (self.rule)(compiled)?;
        self.budget.spend_statement()?;
        let touched = self.fence.take_touched_tables();
        self.watch(&touched, text).map_err(Failure::Sqlite)?;
        bind(compiled, &text.parameters)?;
        // The statement may come from the cache, with the steps of earlier runs.
        compiled.reset_status(StatementStatus::VmStep);
        let changes_before = self.connection.total_changes();
        let (columns, rows) = gather(compiled, self.budget)?;
        let changed = self.connection.total_changes() != changes_before;
        let result = StatementResult {
            columns,
            rows,
            // SQLite's own number stays that of an earlier statement if this one is not of the kind that changes rows.
            rows_affected: if changed { self.connection.changes() } else { 0 },
            last_insert_id: self.connection.last_insert_rowid(),
        };
        // What SQLite compiles in the course of a change of a table is not another.
        self.fence.take_touched_tables();
        if !touched.is_empty()
            && let Some(rows) = &mut self.rows
        {
            self.fence.aside(|| rows.put_up_again(self.connection, &touched)).map_err(Failure::Sqlite)?;
        }
        Ok(result)
    }

    fn watch(&mut self, touched: &BTreeSet<Touched>, text: &Statement) -> rusqlite::Result<()> {
        let Some(rows) = &mut self.rows else { return Ok(()) };
        rows.begin_statement(&text.sql);
        if !touched.is_empty() {
            self.fence.aside(|| rows.take_down(self.connection, touched))?;
        }
        Ok(())
    }
}

/// Steps to the end.
fn gather(
    compiled: &mut rusqlite::Statement<'_>,
    budget: &mut Budget,
) -> Result<(Vec<String>, Vec<Vec<Value>>), Failure> {
    let (mut columns, mut rows) = (Vec::new(), Vec::new());
    walk(compiled, budget, &mut |piece| {
        match piece {
            Piece::Columns(names) => columns = names,
            Piece::Row(row) => rows.push(row),
        }
        Ok(())
    })?;
    Ok((columns, rows))
}

/// A piece of what a statement yields: the names of its columns first, then its rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    Columns(Vec<String>),
    Row(Vec<Value>),
}

/// What takes the pieces. An error ends the statement.
pub(crate) type EachPiece<'a> = dyn FnMut(Piece) -> Result<(), Failure> + 'a;

/// Runs all statements of a text that only reads, and hands on what they yield as it is found.
pub(crate) fn stream(
    connection: &Connection,
    fence: &Fence<'_>,
    text: &Statement,
    rule: Rule,
    budget: &mut Budget,
    each: &mut EachPiece<'_>,
) -> Result<(), Failure> {
    let streamed = for_each_statement(connection, text, |compiled| {
        rule(compiled)?;
        budget.spend_statement()?;
        bind(compiled, &text.parameters)?;
        walk(compiled, budget, each)
    });
    streamed.map_err(|failure| explain(failure, fence))
}

/// Compiles the statements of a text one by one, each after `act` is done with the one before it.
fn for_each_statement(
    connection: &Connection,
    text: &Statement,
    mut act: impl FnMut(&mut rusqlite::Statement<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut statements = Batch::new(connection, &text.sql);
    let mut count = 0;
    while let Some(mut compiled) = statements.next().map_err(failure)? {
        count += 1;
        if count > 1 && !text.parameters.is_empty() {
            return Err(statement("a text with parameters can hold one SQL statement only"));
        }
        act(&mut compiled)?;
    }
    if count == 0 { Err(statement("there is no SQL statement")) } else { Ok(()) }
}

/// Steps to the end, and hands on what is found.
fn walk(compiled: &mut rusqlite::Statement<'_>, budget: &mut Budget, each: &mut EachPiece<'_>) -> Result<(), Failure> {
    let mut columns = 0;
    let mut rows = compiled.raw_query();
    while let Some(row) = rows.next().map_err(failure)? {
        // The first step may compile the statement again, so the columns are known only after it.
        if columns == 0 {
            let names = names(row.as_ref(), budget)?;
            columns = names.len();
            each(Piece::Columns(names))?;
        }
        let row = values(row, columns).map_err(failure)?;
        budget.spend_row(&row)?;
        each(Piece::Row(row))?;
    }
    drop(rows);
    if columns == 0 {
        each(Piece::Columns(names(compiled, budget)?))?;
    }
    Ok(())
}

/// The names of the columns. They count before they are copied: a name may be long, and a statement may name it often.
fn names(compiled: &rusqlite::Statement<'_>, budget: &mut Budget) -> Result<Vec<String>, Failure> {
    budget.spend_bytes(compiled.column_names().map(|name| 8 + name.len()).sum())?;
    Ok(compiled.column_names().map(String::from).collect())
}

fn values(row: &Row<'_>, columns: usize) -> rusqlite::Result<Vec<Value>> {
    (0..columns).map(|column| row.get_ref(column).map(Value::from)).collect()
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(integer) => Self::Integer(integer),
            ValueRef::Real(real) => Self::Real(real),
            ValueRef::Text(text) => match str::from_utf8(text) {
                Ok(text) => Self::Text(text.into()),
                Err(_) => Self::Blob(Bytes::copy_from_slice(text)),
            },
            ValueRef::Blob(blob) => Self::Blob(Bytes::copy_from_slice(blob)),
        }
    }
}

/// Gives each parameter its value. Left out is an error: SQLite would take NULL.
fn bind(compiled: &mut rusqlite::Statement<'_>, parameters: &[Parameter]) -> Result<(), Failure> {
    for (position, value) in places(compiled, parameters)? {
        let Argument::Given(value) = value else {
            return Err(statement("a value can come from an earlier step only in a program"));
        };
        compiled.raw_bind_parameter(position, value).map_err(failure)?;
    }
    Ok(())
}

/// Which parameter gets which value; all of them do, and each once.
pub(crate) fn places<'a>(
    compiled: &rusqlite::Statement<'_>,
    parameters: &'a [Parameter],
) -> Result<Vec<(usize, &'a Argument)>, Failure> {
    let count = compiled.parameter_count();
    let mut values: Vec<Option<&Argument>> = vec![None; count];
    let mut next = 1;
    for Parameter { name, value } in parameters {
        let position = match name {
            None => next,
            Some(name) => position_of(compiled, name)?,
        };
        next = position + 1;
        let place = values
            .get_mut(position - 1)
            .ok_or_else(|| statement(format!("{} values are given for {count} parameters", parameters.len())))?;
        if place.replace(value).is_some() {
            return Err(statement(format!("parameter {position} is given twice")));
        }
    }
    let given = values.into_iter().enumerate().map(|(index, value)| {
        let position = index + 1;
        let name = || compiled.parameter_name(position).map(|name| format!(" ({name})")).unwrap_or_default();
        value
            .map(|value| (position, value))
            .ok_or_else(|| statement(format!("there is no value for parameter {position}{} of {count}", name())))
    });
    given.collect()
}

fn position_of(compiled: &rusqlite::Statement<'_>, name: &str) -> Result<usize, Failure> {
    let found = compiled.parameter_index(name).ok().flatten();
    found.ok_or_else(|| {
        statement(format!("the statement has no parameter {name:?}; names carry their prefix, as in \":name\""))
    })
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(integer) => ValueRef::Integer(*integer),
            Self::Real(real) => ValueRef::Real(*real),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(blob) => ValueRef::Blob(blob),
        }))
    }
}

pub(crate) fn statement(message: impl Into<String>) -> Failure {
    Failure::Statement(message.into())
}

/// Tells a wrong statement from a database that does not work.
pub(crate) fn failure(error: rusqlite::Error) -> Failure {
    let code = match &error {
        rusqlite::Error::SqliteFailure(error, _) | rusqlite::Error::SqlInputError { error, .. } => {
            error.extended_code & 0xff
        }
        _ => return Failure::Statement(error.to_string()),
    };
    match code {
        ffi::SQLITE_ERROR
        | ffi::SQLITE_CONSTRAINT
        | ffi::SQLITE_MISMATCH
        | ffi::SQLITE_TOOBIG
        | ffi::SQLITE_AUTH
        | ffi::SQLITE_RANGE
        | ffi::SQLITE_ABORT
        | ffi::SQLITE_LOCKED
        | ffi::SQLITE_MISUSE => Failure::Statement(message(&error)),
        // A full disk, a failed read, no memory, damage: of this node alone, so never the answer to a command.
        _ => Failure::Sqlite(error),
    }
}

/// What SQLite said, without what we put before the statement.
pub(crate) fn message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        error => error.to_string(),
    }
}

/// Puts the reason of a refusal in place of "not authorized".
pub(crate) fn explain(failure: Failure, fence: &Fence<'_>) -> Failure {
    match (failure, fence.refusal()) {
        (Failure::Statement(_), Some(reason)) => Failure::Refused(reason),
        (Failure::Statement(message), None) => match refusal(&message) {
            Some(reason) => Failure::Refused(reason.into()),
            None => Failure::Statement(message),
        },
        (failure, _) => failure,
    }
}

/// What SQLite itself finds before it asks whether it is allowed.
fn refusal(message: &str) -> Option<&'static str> {
    match message {
        "cannot modify kv because it is a view" => Some(READ_ONLY_KV),
        "cannot VACUUM from within a transaction" => Some(NO_OTHER_DATABASE),
        "local time unavailable" => Some(NO_TIME_ZONE),
        _ => None,
    }
}

/// The word that a statement begins with, in capitals; empty if it begins with none.
pub(crate) fn first_word(sql: &str) -> String {
    let mut rest = sql;
    loop {
        rest =
            rest.trim_start_matches(|start: char| start.is_ascii_whitespace() || start == ';' || start == '\u{feff}');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, after)| after);
        } else {
            break;
        }
    }
    rest.chars().take_while(char::is_ascii_alphabetic).map(|letter| letter.to_ascii_uppercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_is_found_behind_comments() {
        for (sql, word) in [
            ("select 1", "SELECT"),
            ("  -- a\n/* b */ ; Insert into t", "INSERT"),
            ("-- nothing", ""),
            ("/* open", ""),
            ("", ""),
            ("(select 1)", ""),
        ] {
            assert_eq!(first_word(sql), word, "{sql:?}");
        }
    }
}
