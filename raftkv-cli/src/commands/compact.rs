use crate::failure::Failure;
use crate::output::Output;
use raftkv_cli::Client;
use serde_json::json;

/// Forget what keys were before a revision
///
/// That revision, and all after it, stay readable with `get --rev`.
#[derive(clap::Args)]
pub(crate) struct Compact {
    /// The revision
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    revision: u64,
}

impl Compact {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        client.compact(self.revision).await?;
        let revision = self.revision;
        let shown = || format!("compacted: what was from revision {revision} on can be read");
        Ok(output.print(shown, shown, || json!({ "compacted": revision }))?)
    }
}
