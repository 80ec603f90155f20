use super::cas::{Changed, change_if};
use crate::failure::Failure;
use crate::output::{Output, escape, object, text_or_base64};
use raftkv_cli::{Client, Compare, MAX_REQUEST_BYTES, Program, Relation};
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, Read};
use tokio::task::spawn_blocking;

/// Set a key to a value
#[derive(clap::Args)]
pub(crate) struct Put {
    /// The key
    key: OsString,

    /// The value; `-` reads it from stdin, every byte of it
    #[arg(allow_negative_numbers = true)]
    value: OsString,

    /// The lease with which the key goes
    #[arg(long, value_name = "LEASE", default_value_t = 0, hide_default_value = true)]
    lease: u64,

    /// Only if there is no such key; otherwise exit code 4
    #[arg(long, conflicts_with = "if_revision")]
    if_absent: bool,

    /// Only if the key was last changed at this revision; otherwise exit code 4
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
}

impl Put {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let key = self.key.into_encoded_bytes();
        let value = if self.value == "-" { read_stdin().await? } else { self.value.into_encoded_bytes() };
        let condition = match self.if_revision {
            Some(revision) => Some(Compare::mod_revision(key.clone(), Relation::Equal, revision)),
            None => self.if_absent.then(|| Compare::is_absent(key.clone())),
        };
        let changed = match condition {
            Some(condition) => {
                let put = Program::new().put_under(self.lease, key.clone(), value);
                change_if(client, &key, condition, put).await?
            }
            None => {
                let reply = client.put_under(self.lease, key.clone(), value).await?;
                let header = reply.header.unwrap_or_default();
                Changed { replaced: reply.replaced, revision: header.revision, node_id: header.node_id }
            }
        };
        let done = if changed.replaced { "replaced" } else { "created" };
        Ok(output.print(
            || format!("{done} {} (revision {})", escape(&String::from_utf8_lossy(&key)), changed.revision),
            || done.to_owned(),
            || {
                object([
                    text_or_base64("key", &key),
                    ("replaced".to_owned(), json!(changed.replaced)),
                    ("revision".to_owned(), json!(changed.revision)),
                    ("node_id".to_owned(), json!(changed.node_id)),
                ])
            },
        )?)
    }
}

async fn read_stdin() -> Result<Vec<u8>, Failure> {
    // One byte more than may be sent, so that too much is told from just enough without reading all of it.
    let most = MAX_REQUEST_BYTES as u64 + 1;
    let read = move || {
        let mut bytes = Vec::new();
        io::stdin().lock().take(most).read_to_end(&mut bytes).map(|_| bytes)
    };
    Ok(spawn_blocking(read).await.map_err(io::Error::other).flatten()?)
}
