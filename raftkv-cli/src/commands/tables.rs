use super::sql::{as_lines, as_objects, as_table};
use crate::failure::Failure;
use crate::output::Output;
use raftkv_cli::Client;
use serde_json::json;

/// List tables and views
///
/// Those of RaftKV itself are left out, and so is `kv`, the view of keys and values.
#[derive(clap::Args)]
pub(crate) struct Tables {}

/// Which rows of SQLite's list of what there is are the user's own.
pub(super) const OWN: &str =
    r"name NOT LIKE 'sqlite\_%' ESCAPE '\' AND tbl_name NOT LIKE 'raft\_%' ESCAPE '\' AND tbl_name <> 'kv'";

impl Tables {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let sql =
            format!("SELECT name, type FROM sqlite_schema WHERE type IN ('table', 'view') AND {OWN} ORDER BY name");
        let reply = client.sql([sql]).await?;
        let header = reply.header.unwrap_or_default();
        let found = reply.results.into_iter().next().unwrap_or_default();
        let tables = || json!({ "tables": as_objects(&found), "revision": header.revision, "node_id": header.node_id });
        Ok(output.print(|| as_table(&found), || as_lines(&found), tables)?)
    }
}
