//! The tables that are watched, and the triggers on them.

use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};

use super::noted::{Image, Key, encode_row};
use crate::codec;
use crate::schema::quoted;
use crate::step::Value;

/// The most values that a trigger passes on in one call.
const VALUES: usize = 900;

/// The longest text of a table's triggers.
const TEXT_BYTES: usize = 256 << 10;

/// A table of a user's.
pub(super) struct Table {
    pub(super) name: String,
    /// All that a row shows, generated columns included.
    pub(super) columns: Vec<String>,
    /// What tells a row from others: a name for its rowid, or the columns of its primary key.
    key: Vec<String>,
    /// What no two rows have in common, besides the key. None if that can't be said in terms of columns.
    unique: Option<Vec<UniqueIndex>>,
    /// Whether it says of itself that rows replace others.
    pub(super) may_replace: bool,
}

/// The columns of a unique index, with their collations.
type UniqueIndex = Vec<(String, String)>;

/// The names of all tables of users.
pub(super) fn names(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = r"SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'
                  AND name NOT LIKE 'raft\_%' ESCAPE '\' ORDER BY name";
    connection.prepare_cached(sql)?.query_map([], |row| row.get(0))?.collect()
}

/// A table of a user's; none if there is no such, or its rows can't be told apart or are too wide to be passed on.
pub(super) fn find(connection: &Connection, name: &str) -> rusqlite::Result<Option<Table>> {
    let sql = r"SELECT name, sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE
                  AND name NOT LIKE 'sqlite\_%' ESCAPE '\' AND name NOT LIKE 'raft\_%' ESCAPE '\'";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let found: Option<(String, String)> = connection.prepare_cached(sql)?.query_row([name], read).optional()?;
    let Some((name, sql)) = found else { return Ok(None) };
    let table = Table::read(connection, name, sql)?;
    Ok(table.filter(|table| table.triggers().len() <= TEXT_BYTES))
}

/// Takes all triggers away.
pub(super) fn drop_all(connection: &Connection) -> rusqlite::Result<()> {
    let sql = r"SELECT name FROM temp.sqlite_schema WHERE type = 'trigger' AND name LIKE 'raft\_%' ESCAPE '\'";
    let names: Vec<String> =
        connection.prepare_cached(sql)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    names.iter().try_for_each(|name| connection.execute_batch(&format!("DROP TRIGGER temp.{}", quoted(name))))
}

impl Table {
    /// Reads what there is to know of a table; none if its rows can't be told apart or are too wide to be passed on.
    fn read(connection: &Connection, name: String, sql: String) -> rusqlite::Result<Option<Self>> {
        let all = "SELECT name, pk FROM pragma_table_xinfo(?1) ORDER BY cid";
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let all: Vec<(String, u32)> = connection.prepare(all)?.query_map([&name], read)?.collect::<Result<_, _>>()?;
        let columns: Vec<String> = all.iter().map(|(name, ..)| name.clone()).collect();
        let mut primary: Vec<(u32, String)> =
            all.iter().filter(|(_, place)| *place > 0).map(|(name, place)| (*place, name.clone())).collect();
        primary.sort_unstable();
        let has = |name: &&&str| columns.iter().any(|column| column.eq_ignore_ascii_case(name));
        let rowid = ["rowid", "_rowid_", "oid"].iter().find(|name| !has(name)).map(|name| (*name).to_owned());
        let Some(rowid) = rowid else { return Ok(None) };
        // A table WITHOUT ROWID has none to select.
        let has_rowid = connection.prepare(&format!("SELECT {rowid} FROM main.{}", quoted(&name))).is_ok();
        let key = if has_rowid { vec![rowid] } else { primary.into_iter().map(|(_, name)| name).collect() };
        if columns.len() + key.len() > VALUES {
            return Ok(None);
        }
        let unique = unique(connection, &name)?;
        let may_replace = sql.to_ascii_lowercase().contains("replace");
        Ok(Some(Self { name, columns, key, unique, may_replace }))
    }

    /// The triggers on it.
    pub(super) fn triggers(&self) -> String {
        let table = quoted(&self.name);
        let call = |function: &str, row: &str| {
            let values = self.key.iter().chain(&self.columns).map(|name| format!("{row}.{}", quoted(name)));
            let values: Vec<String> = values.collect();
            format!("SELECT {function}({}, {}, {});", literal(&self.name), self.key.len(), values.join(", "))
        };
        let (gone, came) = (call("raft_gone", "OLD"), call("raft_came", "NEW"));
        let in_the_way = |others: &str| {
            let found = call("raft_in_the_way", "raft_row");
            let found = found.trim_end_matches(';');
            format!("{found} FROM main.{table} AS raft_row WHERE ({}){others};", self.meets())
        };
        let not_itself: Vec<String> =
            self.key.iter().map(|name| format!("raft_row.{0} IS OLD.{0}", quoted(name))).collect();
        let not_itself = format!(" AND NOT ({})", not_itself.join(" AND "));
        let bodies = [
            (format!("AFTER INSERT ON main.{table}"), came.clone()),
            (format!("AFTER DELETE ON main.{table}"), gone.clone()),
            (format!("AFTER UPDATE ON main.{table}"), format!("{gone} {came}")),
            (format!("BEFORE INSERT ON main.{table} WHEN raft_may_replace()"), in_the_way("")),
            (format!("BEFORE UPDATE ON main.{table} WHEN raft_may_replace()"), in_the_way(&not_itself)),
        ];
        let trigger = |(name, (when, body)): (String, (String, String))| {
            format!("CREATE TEMP TRIGGER {name} {when} BEGIN {body} END;\n")
        };
        self.trigger_names().into_iter().zip(bodies).map(trigger).collect()
    }

    /// Takes its triggers away.
    pub(super) fn drop_triggers(&self, connection: &Connection) -> rusqlite::Result<()> {
        let drop = |name: &String| connection.execute_batch(&format!("DROP TRIGGER IF EXISTS temp.{name}"));
        self.trigger_names().iter().try_for_each(drop)
    }

    /// The names of its triggers, quoted.
    fn trigger_names(&self) -> [String; 5] {
        ["came", "gone", "changed", "insert", "update"].map(|name| quoted(&format!("raft_{name}_{}", self.name)))
    }

    /// Which rows can stand in the way of the new one.
    fn meets(&self) -> String {
        let Some(unique) = &self.unique else { return "TRUE".to_owned() };
        let same = |columns: &[(String, String)]| {
            let same = |(name, collation): &(String, String)| {
                format!("raft_row.{0} = NEW.{0} COLLATE {1}", quoted(name), quoted(collation))
            };
            format!("({})", columns.iter().map(same).collect::<Vec<_>>().join(" AND "))
        };
        let key: Vec<_> = self.key.iter().map(|name| format!("raft_row.{0} = NEW.{0}", quoted(name))).collect();
        let key = format!("({})", key.join(" AND "));
        std::iter::once(key).chain(unique.iter().map(|columns| same(columns))).collect::<Vec<_>>().join(" OR ")
    }

    /// What the row with this key is now, if it is there.
    pub(super) fn find(&self, connection: &Connection, key: &Key) -> rusqlite::Result<Option<Image>> {
        let columns: Vec<String> = self.columns.iter().map(|name| quoted(name)).collect();
        let is: Vec<String> = self.key.iter().map(|name| format!("{} IS ?", quoted(name))).collect();
        let sql = format!("SELECT {} FROM main.{} WHERE {}", columns.join(", "), quoted(&self.name), is.join(" AND "));
        let values: Vec<Value> = codec::decode_row(key).unwrap_or_default();
        let read = |row: &Row<'_>| {
            (0..columns.len())
                .map(|column| row.get_ref(column))
                .collect::<Result<Vec<_>, _>>()
                .map(|values| encode_row(values.into_iter()))
        };
        connection.prepare(&sql)?.query_row(params_from_iter(values), read).optional()
    }
}

/// The unique indexes of a table, as [`Table::unique`] has them.
fn unique(connection: &Connection, table: &str) -> rusqlite::Result<Option<Vec<UniqueIndex>>> {
    let sql = r#"SELECT name FROM pragma_index_list(?1) WHERE "unique" ORDER BY name"#;
    let names: Vec<String> =
        connection.prepare(sql)?.query_map([table], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut indexes = Vec::new();
    for name in names {
        let sql = r#"SELECT name, coll FROM pragma_index_xinfo(?1) WHERE "key" ORDER BY seqno"#;
        let read = |row: &Row<'_>| Ok((row.get::<_, Option<String>>(0)?, row.get(1)?));
        let columns: Vec<(Option<String>, String)> =
            connection.prepare(sql)?.query_map([name], read)?.collect::<Result<_, _>>()?;
        // An expression has no name.
        let Some(columns) = columns.into_iter().map(|(name, collation)| Some((name?, collation))).collect() else {
            return Ok(None);
        };
        indexes.push(columns);
    }
    Ok(Some(indexes))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
