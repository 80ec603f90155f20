//! Statements of any shape over a few tables.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;
use raft_store_sqlite::{Argument, Changed, Parameter, Statement, Value};

use crate::common::Store;

pub const SCHEMA: [&str; 9] = [
    "CREATE TABLE t (id INTEGER PRIMARY KEY, i INTEGER, x TEXT COLLATE NOCASE, r REAL, v, made AS (i || x))",
    "CREATE TABLE u (i UNIQUE, x TEXT, r NOT NULL DEFAULT 1.5, v REFERENCES t ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED, id INTEGER PRIMARY KEY AUTOINCREMENT)",
    "CREATE TABLE w (x TEXT, i INT, r NUMERIC, v CHECK (v IS NOT 7), id REFERENCES t ON DELETE SET NULL, PRIMARY KEY (x, i)) WITHOUT ROWID",
    "CREATE TABLE log (what, old, new)",
    "CREATE INDEX by_i ON t (i, x)",
    "CREATE UNIQUE INDEX some ON t (r) WHERE i > 1",
    "CREATE INDEX by_both ON t (i + r)",
    "CREATE TRIGGER noted AFTER UPDATE ON t BEGIN INSERT INTO log VALUES ('u', old.v, new.v); END",
    "CREATE TRIGGER bound BEFORE DELETE ON u WHEN old.i = 5 BEGIN SELECT RAISE(ROLLBACK, 'five stays'); END",
];

const TABLES: [&str; 3] = ["t", "u", "w"];
const COLUMNS: [&str; 5] = ["id", "i", "x", "r", "v"];

const LITERALS: [&str; 30] = [
    "NULL",
    "0",
    "1",
    "2",
    "3",
    "5",
    "7",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "0.5",
    "1.0",
    "-2.5",
    "1e300",
    "4611686018427387904.0",
    "0.1",
    "''",
    "'a'",
    "'A'",
    "'ab'",
    "'1'",
    "'1.0'",
    "' 2 '",
    "'1e2'",
    "'grün'",
    "x''",
    "x'31'",
    "x'ff00'",
    "TRUE",
    "'[1,{\"a\":2}]'",
];

fn given() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        (-3..8i64).prop_map(Value::Integer),
        select(vec![i64::MIN, i64::MAX, 1 << 53]).prop_map(Value::Integer),
        select(vec![0.0, -0.0, 1.0, 2.5, 1e300, f64::INFINITY, f64::MIN_POSITIVE]).prop_map(Value::Real),
        select(vec!["", "a", "B", "1", "2.50", "grün\0"]).prop_map(|text| Value::Text(text.into())),
        select(vec![&b""[..], b"a", b"\xff\x00"]).prop_map(|bytes| Value::Blob(bytes.into())),
    ]
}

/// What may stand where a value does; columns are those of one table.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![select(LITERALS.to_vec()), select(COLUMNS.to_vec())].prop_map(String::from);
    leaf.prop_recursive(3, 12, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        let binary = select(vec![
            "+", "-", "*", "/", "%", "||", "<", "<=", "=", "<>", "IS", "IS NOT", "AND", "OR", "&", "|", "<<", ">>",
            "LIKE", "GLOB",
        ]);
        let unary = select(vec!["-", "+", "~", "NOT "]);
        let one = select(vec![
            "abs(min(?, 9))",
            "typeof(?)",
            "length(?)",
            "quote(?)",
            "hex(?)",
            "upper(?)",
            "lower(?)",
            "trim(?)",
            "round(?, 1)",
            "unicode(?)",
            "coalesce(NULL, ?)",
            "CAST(? AS INTEGER)",
            "CAST(? AS TEXT)",
            "CAST(? AS REAL)",
            "CAST(? AS BLOB)",
            "CAST(? AS NUMERIC)",
            "json_array(1, quote(?))",
            "json_valid(?)",
            "date(?)",
            "strftime('%s', ?)",
            "printf('%.3f|%d|%s', ?, 1, 2)",
            "(? COLLATE NOCASE)",
            "(? IS NULL)",
            "(? IN (1, 'a', NULL))",
            "EXISTS (SELECT 1 FROM w WHERE w.i = ?)",
            "(SELECT max(x) FROM u WHERE u.i < ?)",
            "octet_length(?)",
        ]);
        let of_two = select(vec![
            "nullif(?, ??)",
            "max(?, ??)",
            "min(?, ??)",
            "instr(?, ??)",
            "ifnull(?, ??)",
            "substr(?, 1, ??)",
            "replace('banana', ?, ??)",
        ]);
        prop_oneof![
            4 => (two.clone(), binary).prop_map(|((a, b), with)| format!("({a} {with} {b})")),
            1 => (inner.clone(), unary).prop_map(|(a, with)| format!("({with}{a})")),
            3 => (inner.clone(), one).prop_map(|(a, function)| function.replace('?', &a)),
            2 => (two.clone(), of_two).prop_map(|((a, b), function)| function.replace("??", &b).replace('?', &a)),
            1 => (two, inner.clone()).prop_map(|((a, b), c)| format!("CASE WHEN {a} THEN {b} ELSE {c} END")),
            1 => (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} BETWEEN {b} AND {c})")),
        ]
    })
}

/// The same without columns.
fn constant() -> impl Strategy<Value = String> {
    select(LITERALS.to_vec()).prop_map(String::from)
}

fn table() -> impl Strategy<Value = &'static str> {
    select(TABLES.to_vec())
}

fn column() -> impl Strategy<Value = &'static str> {
    select(COLUMNS.to_vec())
}

fn query() -> impl Strategy<Value = String> {
    let order = prop_oneof![
        Just(String::new()),
        expression().prop_map(|by| format!(" ORDER BY {by}")),
        (expression(), 0..4u8).prop_map(|(by, limit)| format!(" ORDER BY {by} DESC NULLS LAST LIMIT {limit} OFFSET 1")),
    ];
    prop_oneof![
        3 => (expression(), expression(), table(), expression(), order)
            .prop_map(|(a, b, table, filter, order)| format!("SELECT {a}, {b} FROM {table} WHERE {filter}{order}")),
        1 => (column(), table(), column(), select(vec!["JOIN", "LEFT JOIN", "FULL JOIN"]))
            .prop_map(|(a, table, b, join)| format!("SELECT * FROM t AS l {join} {table} AS r ON l.{a} = r.{b}")),
        2 => (expression(), expression(), table(), 0..2u8).prop_map(|(by, of, table, more)| format!(
            "SELECT {by}, count(*), count({of}), min({of}), max({of}), total({of}), group_concat({of}) FROM {table} GROUP BY {by} HAVING count(*) > {more}"
        )),
        1 => (column(), column(), table()).prop_map(|(by, of, table)| format!(
            "SELECT {of}, row_number() OVER (PARTITION BY {by} ORDER BY {of}), lag({of}) OVER (ORDER BY {by}, {of}), avg({of}) OVER (ORDER BY {by} ROWS 1 PRECEDING) FROM {table}"
        )),
        1 => (column(), table(), column(), table(), select(vec!["UNION", "UNION ALL", "INTERSECT", "EXCEPT"]))
            .prop_map(|(a, from, b, other, with)| format!("SELECT {a} FROM {from} {with} SELECT {b} FROM {other}")),
    ]
}

fn change() -> impl Strategy<Value = String> {
    let or = || select(vec!["", "", "", " OR IGNORE", " OR REPLACE", " OR FAIL", " OR ABORT", " OR ROLLBACK"]);
    let returning =
        || prop_oneof![2 => Just(String::new()), 1 => expression().prop_map(|what| format!(" RETURNING *, {what}"))];
    let row = (constant(), constant(), constant(), constant()).prop_map(|(a, b, c, d)| format!("({a}, {b}, {c}, {d})"));
    let rows = prop::collection::vec(row, 1..4).prop_map(|rows| rows.join(", "));
    let upsert = prop_oneof![
        3 => Just(String::new()),
        1 => Just(" ON CONFLICT DO NOTHING".to_owned()),
        1 => expression().prop_map(|value| format!(" ON CONFLICT DO UPDATE SET v = {value}, r = coalesce(excluded.r, 1)")),
    ];
    prop_oneof![
        4 => (or(), table(), rows, upsert, returning())
            .prop_map(|(or, table, rows, upsert, back)| format!("INSERT{or} INTO {table} (i, x, r, v) VALUES {rows}{upsert}{back}")),
        1 => (or(), table(), table(), expression(), expression()).prop_map(|(or, table, from, value, filter)| format!(
            "INSERT{or} INTO {table} (i, x, r) SELECT i, {value}, coalesce(r, 1) FROM {from} WHERE {filter} LIMIT 3"
        )),
        4 => (or(), table(), column(), expression(), expression(), returning())
            .prop_map(|(or, table, column, value, filter, back)| format!("UPDATE{or} {table} SET {column} = {value} WHERE {filter}{back}")),
        1 => (table(), column(), column())
            .prop_map(|(table, a, b)| format!("UPDATE {table} SET v = o.{a} FROM t AS o WHERE o.{b} = {table}.i")),
        2 => (table(), expression(), returning()).prop_map(|(table, filter, back)| format!("DELETE FROM {table} WHERE {filter}{back}")),
    ]
}

fn definition() -> impl Strategy<Value = String> {
    let name = 0..3u8;
    prop_oneof![
        (name.clone(), table(), column(), column()).prop_map(|(n, table, a, b)| format!("CREATE INDEX IF NOT EXISTS x{n} ON {table} ({a}, {b} DESC)")),
        name.clone().prop_map(|n| format!("DROP INDEX IF EXISTS x{n}")),
        (name.clone(), table(), expression()).prop_map(|(n, table, value)| format!(
            "CREATE TRIGGER IF NOT EXISTS g{n} AFTER INSERT ON {table} BEGIN INSERT INTO log SELECT 'i', {value}, new.v FROM {table} WHERE i = new.i; END"
        )),
        name.clone().prop_map(|n| format!("DROP TRIGGER IF EXISTS g{n}")),
        (name.clone(), table(), expression()).prop_map(|(n, table, value)| format!("CREATE TABLE IF NOT EXISTS c{n} AS SELECT {value} AS v, x FROM {table}")),
        name.clone().prop_map(|n| format!("ALTER TABLE c{n} ADD COLUMN more DEFAULT 5")),
        (name.clone(), name.clone()).prop_map(|(n, to)| format!("ALTER TABLE c{n} RENAME TO c{to}")),
        (name.clone(), expression()).prop_map(|(n, value)| format!("UPDATE c{n} SET v = (SELECT {value} FROM t LIMIT 1) RETURNING *")),
        name.prop_map(|n| format!("DROP TABLE IF EXISTS c{n}")),
    ]
}

/// A command: one statement with parameters, or up to three without.
pub fn command() -> impl Strategy<Value = Statement> {
    let statement = prop_oneof![3 => query(), 6 => change(), 1 => definition()];
    let bound = (table(), given(), given(), given()).prop_map(|(table, a, b, c)| {
        Statement::with(format!("INSERT INTO {table} (i, x, v) VALUES (?, ?, ?) RETURNING *"), [a, b, c])
    });
    let filtered = (table(), column(), expression(), given()).prop_map(|(table, column, value, given)| {
        Statement::with(format!("UPDATE {table} SET {column} = {value} WHERE {column} IS NOT ?1 OR i > ?1"), [given])
    });
    prop_oneof![
        6 => prop::collection::vec(statement, 1..3).prop_map(|statements| Statement::new(statements.join("; "))),
        2 => bound,
        1 => filtered,
    ]
}

/// A command that may change rows, and no more.
pub fn change_alone() -> impl Strategy<Value = Statement> {
    prop::collection::vec(change(), 1..4).prop_map(|statements| Statement::new(statements.join("; ")))
}

/// All rows, by their table and what tells them apart there.
pub fn rows(store: &Store) -> BTreeMap<(&'static str, String), Vec<Value>> {
    let keys = [("t", "rowid"), ("u", "rowid"), ("w", "quote(x) || ' ' || quote(i)"), ("log", "rowid")];
    let of_table = |(table, key): (&'static str, &str)| {
        let rows = store.rows(&format!("SELECT {key}, * FROM {table}"));
        rows.into_iter().map(move |mut row| ((table, format!("{:?}", row.remove(0))), row))
    };
    keys.into_iter().flat_map(of_table).collect()
}

/// A row that differs: its table, and what it was and is.
type Difference = (String, Option<String>, Option<String>);

/// What is in one and not so in the other, sorted.
pub fn differences(
    before: &BTreeMap<(&'static str, String), Vec<Value>>,
    after: &BTreeMap<(&'static str, String), Vec<Value>>,
) -> Vec<Difference> {
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let difference = |key: &(&'static str, String)| {
        let [was, is] = [before, after].map(|rows| rows.get(key).map(|row| format!("{row:?}")));
        (was != is).then(|| (key.0.to_owned(), was, is))
    };
    let mut differences: Vec<_> = keys.into_iter().filter_map(difference).collect();
    differences.sort();
    differences
}

/// What is told of the changes since a revision, sorted.
pub fn told(store: &Store, after: u64) -> Vec<Difference> {
    let mut told = Vec::new();
    for change in store.parts.reader.changes(after, usize::MAX).unwrap().value {
        let Changed::Rows(changes) = change.what else { panic!("{change:?}") };
        for row in changes.rows {
            let [was, is] = [row.before, row.after].map(|row| row.map(|row| format!("{row:?}")));
            told.push((changes.table.clone(), was, is));
        }
    }
    told.sort();
    told
}

/// What is given for a statement's parameters.
pub fn values(statement: &Statement) -> Vec<Value> {
    let value = |parameter: &Parameter| match &parameter.value {
        Argument::Given(value) => value.clone(),
        Argument::Output(_) => Value::Null,
    };
    statement.parameters.iter().map(value).collect()
}
