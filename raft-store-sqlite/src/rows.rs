//! Which rows of users' tables a command changes, with what they were and what they are.
//!
//! Temporary triggers on each table, on the connection that applies commands alone, tell our functions of each row that comes or goes.
//! Nothing of them is in the state file. What a command did to a row is told as one change, whatever happened in between; what came to nothing
//! is not told.
//!
//! A row that a `REPLACE` puts out of the way fires no trigger. So where SQL may replace, a trigger before the insert or update names the rows
//! that stand in its way, and what became of them is looked up at the end.

mod noted;
mod triggers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::{Connection, ffi};

use crate::rules::Touched;
use noted::Noted;
use triggers::Table;

/// Watches the rows of users' tables on one connection.
pub(crate) struct RowWatch {
    noted: Arc<Mutex<Noted>>,
    tables: BTreeMap<String, Table>,
    /// Whether the command that runs has changed tables.
    is_altered: bool,
    /// Whether it or one before it in the same transaction has.
    was_altered: bool,
    /// What was noted before the tables changed in the middle of a command.
    earlier: Vec<Bytes>,
}

impl RowWatch {
    /// Makes the functions. Triggers are put up by [`put_up`](Self::put_up).
    pub(crate) fn install(connection: &Connection) -> rusqlite::Result<Self> {
        let noted = Arc::new(Mutex::new(Noted::default()));
        let function = |name: &str, act: fn(&mut Noted, &Context<'_>) -> rusqlite::Result<bool>| {
            let noted = noted.clone();
            // Innocuous: in a trigger on tables whose schema is not trusted.
            let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
            connection.create_scalar_function(name, -1, flags, move |context| act(&mut lock(&noted), context))
        };
        function("raft_gone", Noted::gone)?;
        function("raft_came", Noted::came)?;
        function("raft_in_the_way", Noted::in_the_way)?;
        function("raft_may_replace", |noted, _| Ok(noted.may_replace))?;
        Ok(Self { noted, tables: BTreeMap::new(), is_altered: false, was_altered: false, earlier: Vec::new() })
    }

    /// Puts triggers on all tables.
    pub(crate) fn put_up(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        triggers::drop_all(connection)?;
        self.tables.clear();
        self.find_others(connection)
    }

    /// Takes the triggers of these tables away, before the tables change: a table can't lose a column that a trigger names.
    pub(crate) fn take_down(&mut self, connection: &Connection, touched: &BTreeSet<Touched>) -> rusqlite::Result<()> {
        self.set_aside(connection)?;
        self.is_altered = true;
        self.was_altered = true;
        let (gone, kept) = std::mem::take(&mut self.tables)
            .into_iter()
            .partition(|(name, _)| touched.iter().any(|touched| touched.is(name)));
        self.tables = kept;
        gone.values().try_for_each(|table: &Table| table.drop_triggers(connection))
    }

    /// Puts the triggers of these tables up again, as the tables are now.
    pub(crate) fn put_up_again(
        &mut self,
        connection: &Connection,
        touched: &BTreeSet<Touched>,
    ) -> rusqlite::Result<()> {
        for touched in touched {
            // As after a restart: what is watched, and how, must not depend on how the tables came to be.
            let Touched::Table(name) = touched else { return self.put_up(connection) };
            match triggers::find(connection, name)? {
                // It may have been found already, next to another.
                Some(table) if self.tables.contains_key(&table.name) => (),
                Some(table) => self.watch(connection, table)?,
                None => self.find_others(connection)?,
            }
        }
        Ok(())
    }

    /// Puts triggers on all tables that have none.
    fn find_others(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        for name in triggers::names(connection)? {
            if !self.tables.contains_key(&name)
                && let Some(table) = triggers::find(connection, &name)?
            {
                self.watch(connection, table)?;
            }
        }
        Ok(())
    }

    fn watch(&mut self, connection: &Connection, table: Table) -> rusqlite::Result<()> {
        connection.execute_batch(&table.triggers())?;
        self.tables.insert(table.name.clone(), table);
        Ok(())
    }

    /// Says whether the next statement may replace rows.
    pub(crate) fn begin_statement(&self, sql: &str) {
        let says_so = sql.as_bytes().windows(REPLACE.len()).any(|word| word.eq_ignore_ascii_case(REPLACE));
        lock(&self.noted).may_replace = says_so || self.tables.values().any(|table| table.may_replace);
    }

    /// Forgets what a command did that was undone, and puts up the triggers again where that was more than changes of rows.
    pub(crate) fn forget(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        lock(&self.noted).clear();
        self.earlier.clear();
        if std::mem::take(&mut self.is_altered) { self.put_up(connection) } else { Ok(()) }
    }

    /// The transaction has come to its end.
    pub(crate) fn end_transaction(&mut self) {
        self.was_altered = false;
    }

    /// The transaction was undone, with all of its commands.
    pub(crate) fn undo(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.is_altered = std::mem::take(&mut self.was_altered);
        self.forget(connection)
    }

    /// What was noted since it was last forgotten or taken: a message for each table, as it is stored.
    pub(crate) fn take(&mut self, connection: &Connection) -> rusqlite::Result<Vec<Bytes>> {
        self.set_aside(connection)?;
        self.is_altered = false;
        Ok(std::mem::take(&mut self.earlier))
    }

    fn set_aside(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let noted = std::mem::take(&mut *lock(&self.noted));
        for (name, rows) in noted.tables {
            let Some(table) = self.tables.get(&name) else { continue };
            self.earlier.extend(rows.into_message(table, connection)?);
        }
        Ok(())
    }
}

const REPLACE: &[u8] = b"replace";

fn lock(noted: &Mutex<Noted>) -> MutexGuard<'_, Noted> {
    noted.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error in what the triggers pass on, which are ours.
fn misused() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        ffi::Error::new(ffi::SQLITE_MISUSE),
        Some("a trigger of ours passed on something else".into()),
    )
}
