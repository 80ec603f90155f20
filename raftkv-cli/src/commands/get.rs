use crate::failure::Failure;
use crate::output::{Output, object, print_line, text_or_base64};
use raftkv_cli::Client;
use serde_json::json;
use std::ffi::OsString;

/// Print a key's value
///
/// Prints the value's bytes as they are, and a line end. A key that does not exist is exit code 3.
#[derive(clap::Args)]
pub(crate) struct Get {
    /// The key
    key: OsString,
}

impl Get {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let reply = client.get(self.key.clone().into_encoded_bytes()).await?;
        let Some(entry) = reply.entry else {
            return Err(Failure::NotFound(format!("there is no key {:?}", self.key)));
        };
        if !output.is_json() {
            return Ok(print_line(&entry.value)?);
        }
        let header = reply.header.unwrap_or_default();
        let json = object([
            text_or_base64("key", &entry.key),
            text_or_base64("value", &entry.value),
            ("create_revision".to_owned(), json!(entry.create_revision)),
            ("mod_revision".to_owned(), json!(entry.mod_revision)),
            ("version".to_owned(), json!(entry.version)),
            ("revision".to_owned(), json!(header.revision)),
            ("node_id".to_owned(), json!(header.node_id)),
        ]);
        Ok(print_line(json.to_string().as_bytes())?)
    }
}
