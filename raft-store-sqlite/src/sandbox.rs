//! The fence around clients' SQL: the same for a check before replication, for applying it, and for reading.
//!
//! What it lets through is for the [rules](crate::rules). Our own statements on the same connection are not asked about. No trigger or foreign key of a
//! user can hang on our tables (see [`own_schema_is_whole`]), so they run no code of anybody else.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{Action, AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, OptionalExtension, Statement, StatementStatus};

use crate::limits::{PARAMETERS, SQL_BYTES, SQL_STEPS, SQL_VALUE_BYTES};
use crate::moment::{self, Moment, Present};
use crate::rules::{self, Touched, Verdict};

/// The fence around clients' SQL on one connection.
pub(crate) struct Sandbox {
    guard: Arc<Guard>,
}

#[derive(Default)]
struct Guard {
    /// Whether a client's SQL is being compiled or run.
    on: AtomicBool,
    /// Why the last thing was refused.
    reason: Mutex<Option<String>>,
    /// Whether a row got the greatest rowid there is.
    rowids_used_up: AtomicBool,
    /// The tables that statements make, change or drop, or index, of those that were compiled.
    touched_tables: Mutex<BTreeSet<Touched>>,
    /// How many millions of steps have been taken behind the fence.
    million_steps: AtomicU64,
    /// Whether they are counted in order to stop a command.
    counts_steps: AtomicBool,
    /// Whether a client has changed the schema, or tried to, since the last transaction ended.
    changes_schema: AtomicBool,
}

/// How many steps go by between two counts. So many that SQLite never counts this far while it compiles a statement:
/// how often it does that differs between nodes.
const COUNTED_STEPS: u64 = 1_000_000;

impl Sandbox {
    /// Puts the fence around `connection`, open but let down.
    pub(crate) fn install(connection: &mut Connection) -> rusqlite::Result<Self> {
        harden(connection)?;
        // Only ever in memory, see `forget_earlier_statements`.
        connection.execute_batch("CREATE TEMP TABLE raft_reset (id INTEGER PRIMARY KEY)")?;
        moment::install(connection)?;
        let guard = Arc::new(Guard::default());
        let for_rules = guard.clone();
        connection.authorizer(Some(move |context: AuthContext<'_>| for_rules.judge(&context)))?;
        let for_rows = guard.clone();
        connection.update_hook(Some(move |_: Action, _: &str, _: &str, rowid: i64| for_rows.saw_rowid(rowid)))?;
        Ok(Self { guard })
    }

    /// Stops what takes more than [`SQL_STEPS`] behind the fence. Each statement must start to count from zero.
    pub(crate) fn bound_steps(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let guard = self.guard.clone();
        guard.counts_steps.store(true, Ordering::Relaxed);
        let interval = i32::try_from(COUNTED_STEPS).expect("a million is small");
        connection.progress_handler(interval, Some(move || guard.took_steps() > SQL_STEPS / COUNTED_STEPS))
    }

    /// Raises the fence, and sets what SQL sees as time and chance on this thread. The fence falls when the result is dropped.
    pub(crate) fn enter(&self, moment: Moment) -> Fence<'_> {
        self.guard.take_reason();
        self.guard.rowids_used_up.store(false, Ordering::Relaxed);
        self.guard.take_touched_tables();
        self.guard.million_steps.store(0, Ordering::Relaxed);
        self.guard.on.store(true, Ordering::Relaxed);
        Fence { guard: &self.guard, _present: moment.begin() }
    }

    /// Forgets compiled statements if the schema was changed since this was called last, see [`Fence::forget_outdated`]. For the end of a
    /// transaction that was not undone.
    pub(crate) fn end_transaction(&self, connection: &Connection) {
        if self.guard.changes_schema.swap(false, Ordering::Relaxed) {
            connection.flush_prepared_statement_cache();
        }
    }
}

/// The fence, up.
pub(crate) struct Fence<'a> {
    guard: &'a Guard,
    _present: Present,
}

impl Fence<'_> {
    /// Why the statement that just failed was refused, if that is why it failed.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.guard.take_reason()
    }

    /// Which tables are made, changed, dropped or indexed by what was compiled since this was last asked.
    pub(crate) fn take_touched_tables(&self) -> BTreeSet<Touched> {
        self.guard.take_touched_tables()
    }

    /// Does what is ours, for which the fence is not meant.
    pub(crate) fn aside<T>(&self, ours: impl FnOnce() -> T) -> T {
        self.guard.on.store(false, Ordering::Relaxed);
        let done = ours();
        self.guard.on.store(true, Ordering::Relaxed);
        done
    }

    /// Forgets statements that were compiled before a change of the schema, or before one was undone.
    ///
    /// SQLite would find out as it runs them that it must compile them again, which takes a few steps. They count, so a statement
    /// could be stopped on a node that has it compiled, and not on one that has restarted since.
    pub(crate) fn forget_outdated(&self, connection: &Connection) {
        if self.guard.changes_schema.load(Ordering::Relaxed) {
            connection.flush_prepared_statement_cache();
        }
    }

    /// Checks that SQLite ran a statement as it was compiled, where its steps count.
    pub(crate) fn check_ran_as_compiled(&self, compiled: &Statement<'_>) {
        let counts = self.guard.counts_steps.load(Ordering::Relaxed);
        let was_outdated = compiled.get_status(StatementStatus::RePrepare) > 0;
        debug_assert!(!(counts && was_outdated), "statements from before a change of the schema are not run");
    }

    /// Whether the command must fail whatever SQLite says, and why.
    pub(crate) fn overstepped(&self) -> Option<String> {
        if self.guard.rowids_used_up.load(Ordering::Relaxed) {
            // With this one taken, an AUTOINCREMENT fails as if the disk were full.
            return Some(format!("the rowid {} is not allowed: SQLite would choose the next ones at random", i64::MAX));
        }
        if self.guard.million_steps.load(Ordering::Relaxed) > SQL_STEPS / COUNTED_STEPS {
            return Some(format!("the command takes more than {SQL_STEPS} steps: split it into smaller ones"));
        }
        None
    }
}

impl Drop for Fence<'_> {
    fn drop(&mut self) {
        self.guard.on.store(false, Ordering::Relaxed);
    }
}

impl Guard {
    fn judge(&self, context: &AuthContext<'_>) -> Authorization {
        if !self.on.load(Ordering::Relaxed) {
            return Authorization::Allow;
        }
        if rules::changes_schema(&context.action) {
            self.changes_schema.store(true, Ordering::Relaxed);
        }
        if let Some(touched) = Touched::of(&context.action) {
            self.touched_tables.lock().unwrap_or_else(PoisonError::into_inner).insert(touched);
        }
        let is_left_with_its_table = || match context.action {
            AuthAction::DropTempTrigger { trigger_name, table_name } => {
                rules::is_own(trigger_name) && self.is_touched(table_name)
            }
            _ => false,
        };
        match rules::verdict(context) {
            // A trigger of ours goes with its table.
            Verdict::Refuse(_) if is_left_with_its_table() => Authorization::Allow,
            Verdict::Allow => Authorization::Allow,
            Verdict::Hide => Authorization::Ignore,
            Verdict::Refuse(reason) => {
                *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
                Authorization::Deny
            }
        }
    }

    fn is_touched(&self, table: &str) -> bool {
        self.touched_tables.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|touched| touched.is(table))
    }

    fn take_touched_tables(&self) -> BTreeSet<Touched> {
        std::mem::take(&mut *self.touched_tables.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take_reason(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Counts a million steps more, if they are a client's, and says how many millions it has taken. Ours don't count.
    fn took_steps(&self) -> u64 {
        if self.on.load(Ordering::Relaxed) { self.million_steps.fetch_add(1, Ordering::Relaxed) + 1 } else { 0 }
    }

    fn saw_rowid(&self, rowid: i64) {
        if rowid == i64::MAX {
            self.rowids_used_up.store(true, Ordering::Relaxed);
        }
    }
}

/// Settings that make SQL safe and the same on all nodes.
pub(crate) fn harden(connection: &Connection) -> rusqlite::Result<()> {
    for (setting, value) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true),
        // Plans must not depend on the values of parameters.
        (DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true),
        // A misspelt "column" must not pass for a text.
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
    ] {
        connection.set_db_config(setting, value)?;
    }
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, SQL_VALUE_BYTES),
        // Room for what is put before a cached statement.
        (Limit::SQLITE_LIMIT_SQL_LENGTH, SQL_BYTES + 64),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, PARAMETERS),
        // SQLite calls itself for each wildcard, and the stack is not endless.
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, i32::try_from(value).expect("limits are small"))?;
    }
    Ok(())
}

/// Makes `changes()` and `last_insert_rowid()` zero, as if nothing had run on this connection: what ran differs between
/// nodes.
pub(crate) fn forget_earlier_statements(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare_cached("INSERT OR REPLACE INTO temp.raft_reset (id) VALUES (0)")?.execute([])?;
    connection.prepare_cached("DELETE FROM temp.raft_reset WHERE 0")?.execute([])?;
    Ok(())
}

/// Everything in the schema that is ours or hangs on what is ours.
pub(crate) fn own_schema(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = r"SELECT type || ' ' || name || ' ' || tbl_name || ' ' || coalesce(sql, '') FROM sqlite_schema
                WHERE name LIKE 'raft\_%' ESCAPE '\' OR tbl_name LIKE 'raft\_%' ESCAPE '\'
                   OR name LIKE 'kv' OR tbl_name LIKE 'kv'
                ORDER BY name, type";
    connection.prepare_cached(sql)?.query_map([], |row| row.get(0))?.collect()
}

/// Whether the schema leaves our tables alone: they are as they were, and no foreign key refers to them.
pub(crate) fn own_schema_is_whole(connection: &Connection, expected: &[String]) -> rusqlite::Result<bool> {
    let foreign = r#"SELECT 1 FROM sqlite_schema AS s JOIN pragma_foreign_key_list(s.name) AS f
                     WHERE s.type = 'table' AND (f."table" LIKE 'raft\_%' ESCAPE '\' OR f."table" LIKE 'kv') LIMIT 1"#;
    let is_referred_to = connection.prepare_cached(foreign)?.query_row([], |_| Ok(())).optional()?.is_some();
    Ok(!is_referred_to && own_schema(connection)? == expected)
}

/// Whether a foreign key may be checked only when a transaction ends. Says yes too often rather than too rarely.
pub(crate) fn has_deferred_keys(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND sql LIKE '%deferred%' LIMIT 1";
    Ok(connection.prepare_cached(sql)?.query_row([], |_| Ok(())).optional()?.is_some())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A connection behind the fence, with tables of ours and one of a client's.
    pub(crate) fn fenced() -> (Connection, Sandbox) {
        let mut connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE raft_meta (a); CREATE TABLE raft_kv (key); CREATE VIEW kv AS SELECT key FROM raft_kv;",
            )
            .unwrap();
        connection
            .execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a); INSERT INTO t (a) VALUES (1)")
            .unwrap();
        let sandbox = Sandbox::install(&mut connection).unwrap();
        (connection, sandbox)
    }

    #[test]
    fn our_own_statements_are_not_asked_about() {
        let (connection, sandbox) = fenced();
        drop(sandbox.enter(Moment::default()));
        connection.execute("DELETE FROM raft_meta", []).unwrap();
    }

    #[test]
    fn a_trigger_can_not_reach_what_its_author_can_not() {
        let (connection, sandbox) = fenced();
        let fence = sandbox.enter(Moment::default());
        connection.execute_batch("CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM raft_meta; END").unwrap();
        connection.execute("INSERT INTO t (a) VALUES (2)", []).unwrap_err();
        assert!(fence.refusal().unwrap().contains("raft_meta"));
    }

    #[test]
    fn the_settings_are_in_force() {
        let (connection, _sandbox) = fenced();
        for (setting, expected) in [
            (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
            (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
            (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, true),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true),
            (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
            (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
            (DbConfig::SQLITE_DBCONFIG_LEGACY_ALTER_TABLE, false),
        ] {
            assert_eq!(connection.db_config(setting), Ok(expected), "{setting:?}");
        }
        for pragma in ["reverse_unordered_selects", "recursive_triggers", "defer_foreign_keys", "case_sensitive_like"] {
            let value = connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0));
            // One of them can only be set.
            assert!(value == Ok(0) || value == Err(rusqlite::Error::QueryReturnedNoRows), "{pragma}: {value:?}");
        }
    }
}
