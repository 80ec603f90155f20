use crate::failure::Failure;
use crate::output::{Output, escape, object, text_or_base64};
use raftkv_cli::reply::step_result::Result as StepResult;
use raftkv_cli::{Client, Compare, Program, Relation};
use serde_json::json;
use std::ffi::OsString;

/// Set a key to a new value if it has the old one: compare and swap
///
/// Where it has another value, or is not there, nothing is changed, its value is told on stderr, and the exit code is 4.
#[derive(clap::Args)]
pub(crate) struct Cas {
    /// The key
    key: OsString,

    /// The value that it must have
    #[arg(allow_negative_numbers = true)]
    old: OsString,

    /// The value to set it to
    #[arg(allow_negative_numbers = true)]
    new: OsString,
}

impl Cas {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let [key, old, new] = [self.key, self.old, self.new].map(OsString::into_encoded_bytes);
        let has_old = Compare::value(key.clone(), Relation::Equal, old);
        let swap = Program::new().put(key.clone(), new);
        swap_if(client, output, key, has_old, swap).await
    }
}

/// Runs a program that changes `key` if a comparison holds.
pub(crate) async fn swap_if(
    client: &Client,
    output: Output,
    key: Vec<u8>,
    compare: Compare,
    swap: Program,
) -> Result<(), Failure> {
    let reply = client.run(Program::new().when([compare], swap, Program::new().get(key.clone()))).await?;
    let header = reply.header.unwrap_or_default();
    let Some(StepResult::If(either)) = reply.results.into_iter().next().and_then(|step| step.result) else {
        return Err(Failure::Condition("the cluster gave no answer to the condition".to_owned()));
    };
    let shown = escape(&String::from_utf8_lossy(&key));
    if !either.held {
        let found = either.results.into_iter().next().and_then(|step| step.result);
        let value = match found {
            Some(StepResult::Get(found)) => found.entries.into_iter().next(),
            _ => None,
        };
        return Err(Failure::Condition(match value {
            Some(entry) => format!(
                "nothing was changed: {shown} is {:?}, of revision {}",
                String::from_utf8_lossy(&entry.value),
                entry.mod_revision
            ),
            None => format!("nothing was changed: there is no key {shown}"),
        }));
    }
    let revision = header.revision;
    Ok(output.print(
        || format!("swapped {shown} (revision {revision})"),
        || "swapped".to_owned(),
        || {
            let revision = ("revision".to_owned(), json!(revision));
            object([text_or_base64("key", &key), ("swapped".to_owned(), json!(true)), revision])
        },
    )?)
}
