use super::sql::as_objects;
use super::tables::OWN;
use crate::failure::Failure;
use crate::output::Output;
use raftkv_cli::reply::{Row, StatementResult};
use raftkv_cli::{Client, Statement, Value};
use serde_json::json;

/// Print the SQL that makes the tables, views, indexes and triggers
///
/// What is printed can be run again, as with `raftkv-cli sql -f`. A table that does not exist is exit code 3.
#[derive(clap::Args)]
pub(crate) struct Schema {
    /// Only this table or view, and what hangs on it
    table: Option<String>,
}

impl Schema {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let sql = format!(
            "SELECT type, name, tbl_name AS \"table\", sql FROM sqlite_schema
             WHERE sql IS NOT NULL AND {OWN} AND (?1 IS NULL OR tbl_name = ?1 COLLATE NOCASE) ORDER BY rowid"
        );
        let reply = client.sql([Statement::new(sql).bind(self.table.clone())]).await?;
        let header = reply.header.unwrap_or_default();
        let found = reply.results.into_iter().next().unwrap_or_default();
        if let Some(table) = self.table
            && found.rows.is_empty()
        {
            return Err(Failure::NotFound(format!("there is no table or view {table:?}")));
        }
        let schema = || json!({ "schema": as_objects(&found), "revision": header.revision, "node_id": header.node_id });
        Ok(output.print(|| as_script(&found), || as_script(&found), schema)?)
    }
}

fn as_script(found: &StatementResult) -> String {
    let sql = |row: &Row| match row.values.last().cloned().map(Value::from) {
        Some(Value::Text(sql)) => statement(&sql),
        _ => String::new(),
    };
    found.rows.iter().map(sql).collect::<Vec<_>>().join("\n")
}

/// What SQLite has stored of a definition, as a statement of a script.
pub(super) fn statement(sql: &str) -> String {
    let sql = sql.trim_end();
    // A comment at its end must not swallow the semicolon.
    let end = if sql.lines().last().is_some_and(|line| line.contains("--")) { "\n;" } else { ";" };
    format!("{sql}{end}")
}
