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
        // Triggers of ours are what calls these. Nobody else's are named so.
        AuthAction::Function { function_name } if is_own(function_name) => match context.accessor {
            Some(trigger) if is_own(trigger) => Verdict::Allow,
            _ => refuse(format!("{function_name}() is not allowed: it belongs to RaftKV")),
        },
        AuthAction::Function { function_name } => function(function_name),
        AuthAction::Pragma { pragma_name, .. } => pragma(pragma_name),
        AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } => refuse(
            "BEGIN, COMMIT, ROLLBACK, SAVEPOINT and RELEASE are not allowed: \
             all statements of a command are one transaction already",
        ),
        AuthAction::Attach { .. } | AuthAction::Detach { .. } => refuse(NO_OTHER_DATABASE),
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

/// Whether this changes what tables there are, and what hangs on them.
pub(crate) fn changes_schema(action: &AuthAction<'_>) -> bool {
    matches!(
        action,
        AuthAction::CreateTable { .. }
            | AuthAction::CreateView { .. }
            | AuthAction::CreateIndex { .. }
            | AuthAction::CreateTrigger { .. }
            | AuthAction::DropTable { .. }
            | AuthAction::DropView { .. }
            | AuthAction::DropIndex { .. }
            | AuthAction::DropTrigger { .. }
            | AuthAction::AlterTable { .. }
    )
}

/// Why there is but one database.
pub(crate) const NO_OTHER_DATABASE: &str =
    "ATTACH, DETACH and VACUUM are not allowed: SQL reaches the replicated database alone";

/// Why local time can't be had.
pub(crate) const NO_TIME_ZONE: &str =
    "the modifiers 'localtime' and 'utc' are not allowed: nodes may be in different time zones";

/// Why kv can't be written.
pub(crate) const READ_ONLY_KV: &str = "kv can only be read by SQL: change it with put and delete";

const TEMPORARY: &str = "temporary tables, views, indexes and triggers are not allowed: they would not be replicated";

/// Whether a name is one of ours, or kept for us.
pub(crate) fn is_own(name: &str) -> bool {
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
    if is("fts3tokenize") {
        return refuse(format!("virtual tables ({table}) are not supported yet"));
    }
    if is_own(table) && !["kv", "raft_kv", "raft_changes"].into_iter().any(is) {
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

/// Which tables are made, changed, dropped or indexed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Touched {
    /// This one, and no other.
    Table(String),
    /// This one; and others may be told otherwise than before, such as those that refer to a column that was renamed.
    All(String),
}

impl Touched {
    pub(crate) fn of(action: &AuthAction<'_>) -> Option<Self> {
        match *action {
            AuthAction::CreateTable { table_name: table }
            | AuthAction::DropTable { table_name: table }
            | AuthAction::CreateIndex { table_name: table, .. }
            | AuthAction::DropIndex { table_name: table, .. } => Some(Self::Table(table.to_owned())),
            AuthAction::AlterTable { table_name: table, .. } => Some(Self::All(table.to_owned())),
            _ => None,
        }
    }

    pub(crate) fn is(&self, name: &str) -> bool {
        let (Self::Table(table) | Self::All(table)) = self;
        table.eq_ignore_ascii_case(name)
    }
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
        "fts3_tokenizer" | "fts5" | "fts5_get_locale" | "fts5_insttoken" | "fts5_locale" | "fts5_source_id"
        | "bm25" | "highlight" | "match" | "matchinfo" | "offsets" | "optimize" | "rtreecheck" | "rtreedepth"
        | "rtreenode" | "snippet" => refuse(format!("{name}() is not allowed: virtual tables are not supported yet")),
        _ => Verdict::Allow,
    }
}

/// The pragmas that only tell what tables there are.
const DESCRIBING: [&str; 6] =
    ["table_info", "table_xinfo", "index_list", "index_info", "index_xinfo", "foreign_key_list"];

fn pragma(name: &str) -> Verdict {
    if DESCRIBING.iter().any(|known| name.eq_ignore_ascii_case(known)) {
        return Verdict::Allow;
    }
    refuse(format!("PRAGMA {name} is not allowed; these are: {}", DESCRIBING.join(", ")))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
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

    /// What is pure, or made so: chance, and what a connection remembers of earlier statements. A newer SQLite has more functions:
    /// each is to be thought about, and then to be named here or refused.
    #[test]
    fn each_function_that_sqlite_has_is_known_or_refused() {
        const KNOWN: &str = "-> ->> abs avg changes char coalesce concat concat_ws count cume_dist current_date \
            current_time current_timestamp date datetime dense_rank first_value format glob group_concat hex if ifnull iif \
            instr json json_array json_array_insert json_array_length json_error_position json_extract json_group_array \
            json_group_object json_insert json_object json_patch json_pretty json_quote json_remove json_replace json_set \
            json_type json_valid jsonb jsonb_array jsonb_array_insert jsonb_extract jsonb_group_array jsonb_group_object \
            jsonb_insert jsonb_object jsonb_patch jsonb_remove jsonb_replace jsonb_set julianday lag last_insert_rowid \
            last_value lead length like likelihood likely lower ltrim max min nth_value ntile nullif octet_length \
            percent_rank printf quote random randomblob rank replace round row_number rtrim sign soundex strftime \
            string_agg substr substring subtype sum time timediff total trim typeof unhex unicode unistr unistr_quote \
            unixepoch unlikely upper zeroblob";
        let (connection, _sandbox) = fenced();
        let all = names(&connection, "SELECT DISTINCT name FROM pragma_function_list ORDER BY name");
        let allowed: Vec<_> = all.into_iter().filter(|name| matches!(function(name), Verdict::Allow)).collect();
        assert_eq!(allowed, KNOWN.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn of_the_tables_that_sqlite_makes_up_only_those_that_show_the_database_can_be_read() {
        let (connection, _sandbox) = fenced();
        // JSON's are there from their first use on.
        names(&connection, "SELECT e.type FROM json_each('[1]') AS e, json_tree('[1]')");
        let mut modules = names(&connection, "SELECT name FROM pragma_module_list");
        modules.extend(names(&connection, "SELECT 'pragma_' || name FROM pragma_pragma_list"));
        assert!(modules.len() > 60, "{modules:?}");
        for name in modules {
            let is_shown = name.starts_with("json_")
                || name.strip_prefix("pragma_").is_some_and(|pragma| DESCRIBING.contains(&pragma));
            let tried = try_out(&format!("SELECT * FROM {name}"));
            // Some are none before they are created, which is refused.
            let is_none = |why: &String| why.contains("no such table") || why.contains("constructor");
            let is_refused = tried.as_ref().is_err_and(|why| is_none(why) || !why.starts_with("by SQLite"));
            assert!(if is_shown { tried.is_ok() } else { is_refused }, "{name}: {tried:?}");
        }
    }

    /// The pragmas that can be called as functions are listed by SQLite itself; the others it names only in its manual.
    #[test]
    fn pragmas_are_refused_but_those_that_describe_tables() {
        let (connection, _sandbox) = fenced();
        for name in names(&connection, "SELECT name FROM pragma_pragma_list") {
            let is_describing = DESCRIBING.contains(&name.as_str());
            for sql in [format!("PRAGMA {name}"), format!("PRAGMA {name} = 1"), format!("PRAGMA main.{name}(1)")] {
                let tried = try_out(&sql);
                assert_eq!(tried.is_ok(), is_describing, "{sql}: {tried:?}");
                assert!(is_describing || tried.unwrap_err().contains("PRAGMA"), "{sql}");
            }
        }
    }

    fn names(connection: &Connection, sql: &str) -> Vec<String> {
        let mut select = connection.prepare(sql).unwrap();
        select.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
    }
}
