use crate::failure::Failure;
use crate::output::{Output, escape, object, text_or_base64};
use raftkv_cli::{Client, MAX_REQUEST_BYTES};
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
}

impl Put {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let key = self.key.into_encoded_bytes();
        let value = if self.value == "-" { read_stdin().await? } else { self.value.into_encoded_bytes() };
        let reply = client.put(key.clone(), value).await?;
        let header = reply.header.unwrap_or_default();
        let done = if reply.replaced { "replaced" } else { "created" };
        Ok(output.print(
            || format!("{done} {} (revision {})", escape(&String::from_utf8_lossy(&key)), header.revision),
            || done.to_owned(),
            || {
                object([
                    text_or_base64("key", &key),
                    ("replaced".to_owned(), json!(reply.replaced)),
                    ("revision".to_owned(), json!(header.revision)),
                    ("node_id".to_owned(), json!(header.node_id)),
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
