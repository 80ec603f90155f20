use crate::failure::Failure;
use crate::output::Output;
use serde_json::json;

/// Print this command's version
#[derive(clap::Args)]
pub(crate) struct Version {}

impl Version {
    #[allow(clippy::unused_self)]
    pub(crate) fn run(&self, output: Output) -> Result<(), Failure> {
        let version = env!("CARGO_PKG_VERSION");
        let line = || format!("raftkv-cli {version}");
        Ok(output.print(line, line, || json!({ "version": version }))?)
    }
}
