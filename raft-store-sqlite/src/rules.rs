//! What clients' SQL may do.
//!
//! SQLite asks an authorizer about each thing that a statement would do, when the statement is compiled: also inside
//! views and triggers. The rules must be the same on all nodes: a change is one of the [contract](crate::contract).

use rusqlite::hooks::{AuthAction, AuthContext};

/// What becomes of a thing that a statement would do.
pub(crate) enum Verdict {
    /// It is done.
    Allow,
    /// Reads as NULL.
    Hide,
    /// The statement fails, and why.
    Refuse(String),
}

fn refuse(what: impl Into<String>) -> Verdict {
    Verdict::Refuse(what.into())
}

/// The rules. What is not named here, or not known to us, is refused.
pub(crate) fn verdict(context: &AuthContext<'_>) -> Verdict {
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

#[cfg(test)]
mod tests {
    use crate::moment::Moment;
    use crate::sandbox::tests::fenced;

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
}
