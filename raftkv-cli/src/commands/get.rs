use crate::failure::Failure;
use crate::output::{Output, entry_json, escape, key_json, lines, object, print_line, table};
use raftkv_cli::reply::{AnswerHeader, Found, KeyValue};
use raftkv_cli::{Client, KeyRange, Lookup};
use serde_json::{Value as Json, json};
use std::ffi::OsString;

/// Print a key's value, or keys
///
/// Prints the value's bytes as they are, and a line end. A key that does not exist is exit code 3. With --prefix, prints keys and values,
/// those with control characters escaped.
#[derive(clap::Args)]
pub(crate) struct Get {
    /// The key, or with --prefix what the keys begin with
    #[arg(required_unless_present = "prefix", default_value = "", hide_default_value = true)]
    key: OsString,

    /// All keys that begin so; without a KEY, all keys
    #[arg(long)]
    prefix: bool,

    /// As of this revision
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    rev: u64,

    /// At most so many keys
    #[arg(long, value_name = "COUNT", requires = "prefix", default_value_t = 0, hide_default_value = true)]
    limit: u64,

    /// Without the values
    #[arg(long)]
    keys_only: bool,

    /// Only how many there are
    #[arg(long, conflicts_with = "keys_only")]
    count: bool,
}

impl Get {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let key = self.key.clone().into_encoded_bytes();
        if self.prefix || self.count {
            let range = if self.prefix { KeyRange::prefix(key) } else { KeyRange::from(key) };
            return self.get_all(client, output, range).await;
        }
        let reply = client.get_at(self.rev, key).await?;
        let Some(entry) = reply.entry else {
            return Err(Failure::NotFound(format!("there is no key {:?}", self.key)));
        };
        Ok(self.print_one(output, &reply.header.unwrap_or_default(), &entry)?)
    }

    async fn get_all(&self, client: &Client, output: Output, range: KeyRange) -> Result<(), Failure> {
        let lookup = Lookup::new(range).at(self.rev).limit(self.limit);
        let lookup = match (self.keys_only, self.count) {
            (true, _) => lookup.keys_only(),
            (_, true) => lookup.count_only(),
            _ => lookup,
        };
        let reply = client.find(lookup).await?;
        let (header, found) = (reply.header.unwrap_or_default(), reply.found.unwrap_or_default());
        if self.count {
            let json = || object([("count".to_owned(), json!(found.count)), revision(&header), node(&header)]);
            return Ok(output.print(|| found.count.to_string(), || found.count.to_string(), json)?);
        }
        Ok(self.print_all(output, &header, &found)?)
    }

    fn json(&self, entry: &KeyValue) -> Json {
        if self.keys_only { key_json(entry) } else { entry_json(entry) }
    }

    fn print_one(&self, output: Output, header: &AnswerHeader, entry: &KeyValue) -> std::io::Result<()> {
        if output.is_json() {
            let mut json = self.json(entry);
            if let Json::Object(fields) = &mut json {
                fields.extend([revision(header), node(header)]);
            }
            return print_line(json.to_string().as_bytes());
        }
        print_line(if self.keys_only { &entry.key } else { &entry.value })
    }

    fn print_all(&self, output: Output, header: &AnswerHeader, found: &Found) -> std::io::Result<()> {
        let columns = if self.keys_only { vec!["key".to_owned()] } else { vec!["key".to_owned(), "value".to_owned()] };
        let row = |entry: &KeyValue| {
            let cells = if self.keys_only { vec![&entry.key] } else { vec![&entry.key, &entry.value] };
            cells.into_iter().map(|bytes| escape(&String::from_utf8_lossy(bytes))).collect()
        };
        let rows: Vec<Vec<String>> = found.entries.iter().map(row).collect();
        let more = if found.more {
            format!(" of {}: ask for the rest with a higher --limit", found.count)
        } else {
            String::new()
        };
        let footer = format!("{} keys{more} (revision {})", rows.len(), header.revision);
        output.print(
            || format!("{}\n{footer}", table(columns.clone(), rows.clone())),
            || lines(&columns, &rows),
            || {
                let entries: Vec<Json> = found.entries.iter().map(|entry| self.json(entry)).collect();
                let entries = ("entries".to_owned(), Json::Array(entries));
                let (count, more) = (("count".to_owned(), json!(found.count)), ("more".to_owned(), json!(found.more)));
                object([entries, count, more, revision(header), node(header)])
            },
        )
    }
}

fn revision(header: &AnswerHeader) -> (String, Json) {
    ("revision".to_owned(), json!(header.revision))
}

fn node(header: &AnswerHeader) -> (String, Json) {
    ("node_id".to_owned(), json!(header.node_id))
}
