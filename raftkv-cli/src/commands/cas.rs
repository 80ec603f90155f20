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
        let revision = change_if(client, &key, has_old, swap).await?.revision;
        let shown = || format!("swapped {} (revision {revision})", escape(&String::from_utf8_lossy(&key)));
        let json = || {
            let revision = ("revision".to_owned(), json!(revision));
            object([text_or_base64("key", &key), ("swapped".to_owned(), json!(true)), revision])
        };
        Ok(output.print(shown, || "swapped".to_owned(), json)?)
    }
}

/// A key that was changed since a condition held.
pub(crate) struct Changed {
    pub(crate) replaced: bool,
    pub(crate) revision: u64,
    pub(crate) node_id: u64,
}

/// Runs a program that sets `key` if a comparison holds.
pub(crate) async fn change_if(
    client: &Client,
    key: &[u8],
    compare: Compare,
    change: Program,
) -> Result<Changed, Failure> {
    let reply = client.run(Program::new().when([compare], change, Program::new().get(key.to_vec()))).await?;
    let header = reply.header.unwrap_or_default();
    let Some(StepResult::If(either)) = reply.results.into_iter().next().and_then(|step| step.result) else {
        return Err(Failure::Condition("the cluster gave no answer to the condition".to_owned()));
    };
    let result = either.results.into_iter().next().and_then(|step| step.result);
    if either.held {
        let replaced = matches!(result, Some(StepResult::Put(put)) if put.replaced);
        return Ok(Changed { replaced, revision: header.revision, node_id: header.node_id });
    }
    let shown = escape(&String::from_utf8_lossy(key));
    let entry = match result {
        Some(StepResult::Get(found)) => found.entries.into_iter().next(),
        _ => None,
    };
    Err(Failure::Condition(match entry {
        Some(entry) => {
            let value = String::from_utf8_lossy(&entry.value);
            format!("nothing was changed: {shown} is {value:?}, of revision {}", entry.mod_revision)
        }
        None => format!("nothing was changed: there is no key {shown}"),
    }))
}
