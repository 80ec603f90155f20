use crate::failure::Failure;
use crate::output::{Output, escape, object, text_or_base64};
use raftkv_cli::{Client, KeyRange};
use serde_json::json;
use std::ffi::OsString;

/// Delete a key, or keys
///
/// Where there was none to delete, the exit code is 3.
#[derive(clap::Args)]
pub(crate) struct Delete {
    /// The key, or with --prefix what the keys begin with
    key: OsString,

    /// All keys that begin so
    #[arg(long)]
    prefix: bool,
}

impl Delete {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let key = self.key.clone().into_encoded_bytes();
        let range = if self.prefix { KeyRange::prefix(key.clone()) } else { KeyRange::from(key.clone()) };
        let reply = client.delete(range).await?;
        if reply.deleted == 0 {
            let begins = if self.prefix { " that begins with" } else { "" };
            return Err(Failure::NotFound(format!("there is no key{begins} {:?}", self.key)));
        }
        let (header, deleted) = (reply.header.unwrap_or_default(), reply.deleted);
        let what = if self.prefix { format!("{deleted} keys") } else { escape(&String::from_utf8_lossy(&key)) };
        Ok(output.print(
            || format!("deleted {what} (revision {})", header.revision),
            || if self.prefix { format!("deleted {deleted}") } else { "deleted".to_owned() },
            || {
                object([
                    text_or_base64(if self.prefix { "prefix" } else { "key" }, &key),
                    ("deleted".to_owned(), json!(deleted)),
                    ("revision".to_owned(), json!(header.revision)),
                    ("node_id".to_owned(), json!(header.node_id)),
                ])
            },
        )?)
    }
}
