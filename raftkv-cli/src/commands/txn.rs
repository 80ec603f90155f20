use crate::failure::Failure;
use crate::output::{Output, entry_json, escape, object};
use crate::script;
use raftkv_cli::Client;
use raftkv_cli::reply::step_result::Result as Outcome;
use raftkv_cli::reply::{AnswerHeader, Found, SqlResult, StepResult};
use serde_json::{Value as Json, json};
use std::ffi::OsString;

/// Run a program of keys and SQL: all of its steps, or none
///
/// A line a step, and quotes as in a shell:
///
///     if                            # optional: then, else follow
///       absent lock                 # or: exists KEY
///       value colour = blue         # value, version, create, mod or lease, then a key, then = != < or >
///     then
///       put lock me                 # put KEY VALUE [LEASE]
///       sql UPDATE stock SET n = n - 1 WHERE item = 'pear' AND n > 0
///       expect 1                    # of the step before: how many rows or keys, or 1..5, or 1..
///       del old
///     else
///       get lock                    # or: get PREFIX* for all keys that begin so; del as well
///
/// Without `if`, all steps run. Where an expectation is not met, nothing is changed, and the exit code is 4.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Txn {
    /// The program. Without it, or as `-`, it is read from stdin
    #[arg(long, short, value_name = "FILE", default_value = "-", hide_default_value = true)]
    file: OsString,
}

impl Txn {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let text = super::read_text(self.file).await?;
        let program = script::parse(&text).map_err(|error| Failure::Usage(error.to_string()))?;
        let reply = client.run(program).await?;
        let (header, results) = (reply.header.unwrap_or_default(), reply.results);
        Ok(output.print(|| as_text(&results, true), || as_text(&results, false), || as_json(&header, &results))?)
    }
}

fn as_text(results: &[StepResult], table: bool) -> String {
    let mut parts = Vec::new();
    for result in results.iter().filter_map(|step| step.result.as_ref()) {
        match result {
            Outcome::If(either) => {
                parts.push(if either.held { "then" } else { "else" }.to_owned());
                parts.push(as_text(&either.results, table));
            }
            Outcome::Put(put) => parts.push(if put.replaced { "replaced" } else { "created" }.to_owned()),
            Outcome::Delete(deleted) => parts.push(format!("deleted {}", deleted.deleted)),
            Outcome::Get(found) => parts.push(found_text(found)),
            Outcome::Sql(sql) => parts.push(sql_text(sql, table)),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

fn found_text(found: &Found) -> String {
    let text = |bytes: &[u8]| escape(&String::from_utf8_lossy(bytes));
    let line = |entry: &raftkv_cli::reply::KeyValue| format!("{}\t{}", text(&entry.key), text(&entry.value));
    found.entries.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn sql_text(sql: &SqlResult, table: bool) -> String {
    let text = if table { super::sql::as_table } else { super::sql::as_lines };
    sql.results.iter().map(text).collect::<Vec<_>>().join("\n")
}

fn as_json(header: &AnswerHeader, results: &[StepResult]) -> Json {
    object([
        ("results".to_owned(), Json::Array(results.iter().filter_map(step_json).collect())),
        ("revision".to_owned(), json!(header.revision)),
        ("node_id".to_owned(), json!(header.node_id)),
    ])
}

fn step_json(step: &StepResult) -> Option<Json> {
    Some(match step.result.as_ref()? {
        Outcome::Put(put) => json!({ "put": { "replaced": put.replaced } }),
        Outcome::Delete(deleted) => json!({ "delete": { "deleted": deleted.deleted } }),
        Outcome::Get(found) => {
            let entries: Vec<Json> = found.entries.iter().map(entry_json).collect();
            json!({ "get": { "entries": entries, "count": found.count, "more": found.more } })
        }
        Outcome::Sql(sql) => json!({ "sql": sql.results.iter().map(super::sql::as_json).collect::<Vec<_>>() }),
        Outcome::If(either) => {
            let results: Vec<Json> = either.results.iter().filter_map(step_json).collect();
            json!({ "if": { "held": either.held, "results": results } })
        }
    })
}
