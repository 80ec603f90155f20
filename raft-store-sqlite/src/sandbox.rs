//! What clients' SQL may do: the same for a check before replication, for applying it, and for reading.
//!
//! SQLite asks an authorizer about each thing that a statement would do, when the statement is compiled: also inside
//! views and triggers. Our own statements on the same connection are not asked about. No trigger or foreign key of a
//! user can hang on our tables (see [`own_schema_is_whole`]), so they run no code of anybody else.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{Action, AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, OptionalExtension};

use crate::limits::{PARAMETERS, SQL_BYTES, SQL_STEPS, SQL_VALUE_BYTES};
use crate::moment::{self, Moment, Present};

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
    /// How many millions of steps have been taken behind the fence.
    million_steps: AtomicU64,
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
        let interval = i32::try_from(COUNTED_STEPS).expect("a million is small");
        connection.progress_handler(interval, Some(move || guard.took_steps() > SQL_STEPS / COUNTED_STEPS))
    }

    /// Raises the fence, and sets what SQL sees as time and chance on this thread. The fence falls when the result is dropped.
    pub(crate) fn enter(&self, moment: Moment) -> Fence<'_> {
        self.guard.take_reason();
        self.guard.rowids_used_up.store(false, Ordering::Relaxed);
        self.guard.million_steps.store(0, Ordering::Relaxed);
        self.guard.on.store(true, Ordering::Relaxed);
        Fence { guard: &self.guard, _present: moment.begin() }
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
        match verdict(context) {
            Verdict::Allow => Authorization::Allow,
            Verdict::Hide => Authorization::Ignore,
            Verdict::Refuse(reason) => {
                *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
                Authorization::Deny
            }
        }
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

enum Verdict {
    Allow,
    /// Reads as NULL.
    Hide,
    Refuse(String),
}

fn refuse(what: impl Into<String>) -> Verdict {
    Verdict::Refuse(what.into())
}

/// The rules. What is not named here, or not known to us, is refused.
fn verdict(context: &AuthContext<'_>) -> Verdict {
    let is_temporary = context.database_name == Some("temp");
    match context.action {
        // `CREATE TABLE temp.x` and its like are not told as such, but they insert into the schema of the temporary
        // database.
        AuthAction::Insert { .. } if is_temporary => refuse(TEMPORARY),
        AuthAction::Select | AuthAction::Recursive | AuthAction::Reindex { .. } => Verdict::Allow,
        AuthAction::Read { table_name, column_name } => read(table_name, column_name),
        AuthAction::Insert { table_name: table } | AuthAction::Delete { table_name: table } => {
            write(&context.action, table, "")
        }
        AuthAction::Update { table_name, column_name } => write(&context.action, table_name, column_name),
        AuthAction::CreateTable { table_name: name }
        | AuthAction::CreateView { view_name: name }
        | AuthAction::DropTable { table_name: name }
        | AuthAction::DropView { view_name: name }
        | AuthAction::AlterTable { table_name: name, .. } => own_name(name),
        AuthAction::CreateIndex { index_name: name, table_name: table }
        | AuthAction::DropIndex { index_name: name, table_name: table }
        | AuthAction::CreateTrigger { trigger_name: name, table_name: table }
        | AuthAction::DropTrigger { trigger_name: name, table_name: table } => match own_name(name) {
            Verdict::Allow => own_name(table),
            refused => refused,
        },
        AuthAction::Function { function_name } => function(function_name),
        AuthAction::Pragma { pragma_name, .. } => pragma(pragma_name),
        AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } => refuse(
            "BEGIN, COMMIT, ROLLBACK, SAVEPOINT and RELEASE are not allowed: \
             all statements of a command are one transaction already",
        ),
        AuthAction::Attach { .. } | AuthAction::Detach { .. } => {
            refuse("ATTACH, DETACH and VACUUM are not allowed: SQL reaches the replicated database alone")
        }
        AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempTrigger { .. }
        | AuthAction::CreateTempView { .. }
        | AuthAction::DropTempIndex { .. }
        | AuthAction::DropTempTable { .. }
        | AuthAction::DropTempTrigger { .. }
        | AuthAction::DropTempView { .. } => refuse(TEMPORARY),
        AuthAction::CreateVtable { module_name, .. } | AuthAction::DropVtable { module_name, .. } => {
            refuse(format!("virtual tables ({module_name}) are not supported yet"))
        }
        AuthAction::Analyze { .. } => refuse(
            "ANALYZE is not allowed: what it gathers would change the order of rows on one node and not on another",
        ),
        _ => refuse("this kind of statement is not allowed in replicated SQL"),
    }
}

/// Why kv can't be written.
pub(crate) const READ_ONLY_KV: &str = "kv can only be read by SQL: change it with put and delete";

const TEMPORARY: &str = "temporary tables, views, indexes and triggers are not allowed: they would not be replicated";

/// Whether a name is one of ours, or kept for us.
fn is_own(name: &str) -> bool {
    name.eq_ignore_ascii_case("kv") || name.get(..5).is_some_and(|prefix| prefix.eq_ignore_ascii_case("raft_"))
}

fn own_name(name: &str) -> Verdict {
    if is_own(name) {
        return refuse(format!(
            "{name} can't be made, changed or dropped by SQL: kv and all names that begin with raft_ belong to RaftKV"
        ));
    }
    Verdict::Allow
}

fn read(table: &str, column: &str) -> Verdict {
    let is = |name: &str| table.eq_ignore_ascii_case(name);
    // Where a table lies in the file says nothing about its contents, and may differ between nodes.
    if (is("sqlite_master") || is("sqlite_schema")) && column.eq_ignore_ascii_case("rootpage") {
        return Verdict::Hide;
    }
    if is("dbstat") || is("sqlite_dbpage") {
        return refuse(format!("{table} can't be read: it shows how this node's file is laid out"));
    }
    if is_own(table) && !["kv", "raft_kv", "raft_kv_history"].into_iter().any(is) {
        return refuse(format!("{table} can't be read by SQL: it belongs to RaftKV; kv has the keys and values"));
    }
    Verdict::Allow
}

fn write(action: &AuthAction<'_>, table: &str, column: &str) -> Verdict {
    if table.eq_ignore_ascii_case("kv") {
        return refuse(READ_ONLY_KV);
    }
    if is_own(table) {
        return refuse(format!("{table} can't be changed by SQL: it belongs to RaftKV"));
    }
    if table.to_ascii_lowercase().starts_with("sqlite_stat") {
        return refuse(format!(
            "{table} can't be changed: it would change the order of rows on one node and not on another"
        ));
    }
    // SQLite itself renames and deletes rows here when a table is renamed or dropped.
    let is_number = matches!(action, AuthAction::Insert { .. }) || column.eq_ignore_ascii_case("seq");
    if table.eq_ignore_ascii_case("sqlite_sequence") && is_number {
        return refuse("sqlite_sequence can't be set: insert a row with the id to go on from instead");
    }
    Verdict::Allow
}

fn function(name: &str) -> Verdict {
    match name.to_ascii_lowercase().as_str() {
        "load_extension" => refuse("load_extension is not allowed"),
        "total_changes"
        | "sqlite_version"
        | "sqlite_source_id"
        | "sqlite_compileoption_get"
        | "sqlite_compileoption_used"
        | "sqlite_offset"
        | "sqlite_log" => refuse(format!("{name}() is not allowed: it would differ between nodes")),
        _ => Verdict::Allow,
    }
}

fn pragma(name: &str) -> Verdict {
    const DESCRIBING: [&str; 6] =
        ["table_info", "table_xinfo", "index_list", "index_info", "index_xinfo", "foreign_key_list"];
    if DESCRIBING.iter().any(|known| name.eq_ignore_ascii_case(known)) {
        return Verdict::Allow;
    }
    refuse(format!("PRAGMA {name} is not allowed; these are: {}", DESCRIBING.join(", ")))
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
mod tests {
    use super::*;

    fn fenced() -> (Connection, Sandbox) {
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

    /// Compiles and runs one statement behind the fence: `Ok`, or why not.
    fn try_out(sql: &str) -> Result<(), String> {
        let (connection, sandbox) = fenced();
        let fence = sandbox.enter(Moment::default());
        let run = connection.prepare(sql).and_then(|mut statement| {
            let mut rows = statement.raw_query();
            while rows.next()?.is_some() {}
            Ok(())
        });
        run.map_err(|error| fence.refusal().unwrap_or_else(|| format!("by SQLite: {error}")))
    }

    #[test]
    fn hostile_statements_are_refused_with_a_reason() {
        for (sql, reason) in [
            ("ATTACH ':memory:' AS other", "ATTACH"),
            ("ATTACH DATABASE '/etc/passwd' AS other", "ATTACH"),
            ("DETACH main", "DETACH"),
            ("VACUUM", "VACUUM"),
            ("VACUUM INTO '/tmp/never'", "VACUUM"),
            ("BEGIN", "one transaction"),
            ("BEGIN EXCLUSIVE", "one transaction"),
            ("COMMIT", "one transaction"),
            ("END", "one transaction"),
            ("ROLLBACK", "one transaction"),
            ("SAVEPOINT s", "one transaction"),
            ("RELEASE s", "one transaction"),
            ("ROLLBACK TO s", "one transaction"),
            ("PRAGMA journal_mode = DELETE", "journal_mode"),
            ("PRAGMA synchronous = OFF", "synchronous"),
            ("PRAGMA foreign_keys = OFF", "foreign_keys"),
            ("PRAGMA defer_foreign_keys = ON", "defer_foreign_keys"),
            ("PRAGMA writable_schema = ON", "writable_schema"),
            ("PRAGMA user_version = 9", "user_version"),
            ("PRAGMA wal_checkpoint(TRUNCATE)", "wal_checkpoint"),
            ("SELECT * FROM pragma_database_list", "database_list"),
            ("SELECT load_extension('x')", "load_extension"),
            ("SELECT total_changes()", "total_changes"),
            ("SELECT sqlite_version()", "sqlite_version"),
            ("SELECT sqlite_source_id()", "sqlite_source_id"),
            ("CREATE TEMP TABLE x (a)", "temporary"),
            ("CREATE TABLE temp.x (a)", "temporary"),
            ("CREATE VIEW temp.x AS SELECT 1", "temporary"),
            ("CREATE TRIGGER temp.x AFTER INSERT ON t BEGIN SELECT 1; END", "temporary"),
            ("CREATE TABLE temp.x AS SELECT 1", "temporary"),
            ("CREATE TEMP VIEW x AS SELECT 1", "temporary"),
            ("CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END", "temporary"),
            ("CREATE VIRTUAL TABLE x USING fts5 (a)", "virtual"),
            ("ANALYZE", "ANALYZE"),
            ("SELECT * FROM raft_meta", "raft_meta"),
            ("SELECT * FROM RAFT_META", "raft_meta"),
            ("SELECT count(*) FROM raft_meta", "raft_meta"),
            ("DELETE FROM raft_meta", "raft_meta"),
            ("UPDATE raft_meta SET a = 1", "raft_meta"),
            ("INSERT INTO raft_kv VALUES (1)", "raft_kv"),
            ("INSERT INTO kv VALUES (1)", "put and delete"),
            ("DELETE FROM kv", "cannot modify kv"),
            ("DROP TABLE raft_kv", "raft_kv"),
            ("DROP VIEW kv", "kv"),
            ("ALTER TABLE raft_kv ADD COLUMN b", "raft_kv"),
            ("CREATE TABLE raft_mine (a)", "raft_mine"),
            ("CREATE TABLE Raft_Mine (a)", "Raft_Mine"),
            ("CREATE INDEX i ON raft_kv (key)", "raft_kv"),
            ("CREATE TRIGGER g AFTER INSERT ON raft_kv BEGIN SELECT 1; END", "raft_kv"),
            ("CREATE TRIGGER g INSTEAD OF INSERT ON kv BEGIN SELECT 1; END", "kv"),
            ("CREATE VIEW raft_view AS SELECT 1", "raft_view"),
            ("INSERT INTO temp.raft_reset VALUES (7)", "temporary"),
            ("DELETE FROM raft_reset", "raft_reset"),
            ("UPDATE temp.raft_reset SET id = 1", "raft_reset"),
            ("DROP TABLE raft_reset", "temporary"),
            ("CREATE INDEX temp.i ON raft_reset (id)", "temporary"),
            ("UPDATE sqlite_sequence SET seq = 9223372036854775807", "sqlite_sequence"),
            ("INSERT INTO sqlite_sequence VALUES ('t', 9)", "sqlite_sequence"),
            ("SELECT * FROM dbstat", "dbstat"),
            ("UPDATE sqlite_schema SET sql = ''", "by SQLite"),
            ("DELETE FROM sqlite_schema", "by SQLite"),
        ] {
            let refused = try_out(sql).expect_err(sql);
            assert!(refused.contains(reason), "{sql}: {refused}");
        }
    }

    #[test]
    fn ordinary_statements_are_allowed() {
        for sql in [
            "CREATE TABLE x (id INTEGER PRIMARY KEY AUTOINCREMENT, a NOT NULL DEFAULT CURRENT_TIMESTAMP)",
            "CREATE TABLE x (b REFERENCES t (id) ON DELETE CASCADE)",
            "CREATE TABLE kvx (a)",
            "CREATE TABLE x AS SELECT * FROM t",
            "CREATE UNIQUE INDEX x ON t (a)",
            "CREATE VIEW x AS SELECT * FROM kv",
            "CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM t; END",
            "ALTER TABLE t RENAME TO x",
            "ALTER TABLE t RENAME COLUMN a TO b",
            "ALTER TABLE t ADD COLUMN b DEFAULT 7",
            "ALTER TABLE t DROP COLUMN a",
            "DROP TABLE t",
            "REINDEX",
            "DELETE FROM sqlite_sequence",
            "INSERT INTO t (a) VALUES (random()) RETURNING id, changes(), last_insert_rowid()",
            "INSERT INTO t (id, a) VALUES (1, 2) ON CONFLICT DO UPDATE SET a = excluded.a",
            "REPLACE INTO t (id, a) VALUES (1, 2)",
            "UPDATE t SET a = a + 1",
            "DELETE FROM t",
            "SELECT * FROM kv",
            "SELECT name, rootpage FROM sqlite_schema",
            "SELECT date('now'), CURRENT_TIMESTAMP, json_extract('{}', '$.a')",
            "SELECT * FROM json_each('[1, 2]')",
            "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT * FROM r",
            "PRAGMA table_info(t)",
            "SELECT * FROM pragma_table_info('t')",
            "EXPLAIN QUERY PLAN SELECT * FROM t",
        ] {
            assert_eq!(try_out(sql), Ok(()), "{sql}");
        }
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
}
