use crate::failure::Failure;
use crate::output::{Output, escape, object, text_or_base64};
use raftkv_cli::Client;
use serde_json::json;
use std::ffi::OsString;

/// Delete a key
///
/// A key that does not exist is exit code 3.
#[derive(clap::Args)]
pub(crate) struct Delete {
    /// The key
    key: OsString,
}

impl Delete {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let key = self.key.clone().into_encoded_bytes();
        let reply = client.delete(key.clone()).await?;
        if reply.deleted == 0 {
            return Err(Failure::NotFound(format!("there is no key {:?}", self.key)));
        }
        let header = reply.header.unwrap_or_default();
        Ok(output.print(
            || format!("deleted {} (revision {})", escape(&String::from_utf8_lossy(&key)), header.revision),
            || "deleted".to_owned(),
            || {
                object([
                    text_or_base64("key", &key),
                    ("deleted".to_owned(), json!(reply.deleted)),
                    ("revision".to_owned(), json!(header.revision)),
                    ("node_id".to_owned(), json!(header.node_id)),
                ])
            },
        )?)
    }
}
