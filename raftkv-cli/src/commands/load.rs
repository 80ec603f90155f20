use super::dump::KEY;
use super::read_text;
use crate::failure::Failure;
use crate::output::{Output, progress_bar};
use crate::statements::{self, Part};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use raftkv_cli::{Client, Error, Program};
use serde_json::{Value as Json, json};
use std::ffi::OsString;

/// Load a dump, or any SQL script
///
/// In commands of many statements, each of which is applied whole or not at all. BEGIN and COMMIT, and the PRAGMAs that sqlite3 puts into its dumps, are passed
/// over. Where a statement fails, its line is told; what stands before it is applied, and nothing after it.
#[derive(clap::Args)]
pub(crate) struct Load {
    /// The file; `-` is stdin
    file: OsString,
}

/// How much goes into one command, at the most.
const STATEMENTS: usize = 500;
const BYTES: usize = 256 << 10;

/// Something to do, and where it stands.
struct Item<'a> {
    line: usize,
    bytes: usize,
    act: Act<'a>,
}

enum Act<'a> {
    Sql(&'a str),
    Put(Bytes, Bytes),
}

impl Load {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let name = if self.file == "-" { "stdin".to_owned() } else { self.file.display().to_string() };
        let text = read_text(self.file).await?;
        let items = items(&text).map_err(|(line, why)| Failure::Usage(format!("{name}:{line}: {why}")))?;
        if items.is_empty() {
            return Err(Failure::Usage(format!("{name} holds no SQL statement and no key")));
        }
        let bar = progress_bar(output, items.iter().map(|item| item.bytes as u64).sum());
        let mut done = 0;
        for batch in batches(&items) {
            apply(client, &name, batch, done).await?;
            done += batch.len();
            bar.inc(batch.iter().map(|item| item.bytes as u64).sum());
        }
        bar.finish_and_clear();
        let keys = items.iter().filter(|item| matches!(item.act, Act::Put(..))).count();
        let text = || format!("{} statements and {keys} keys", done - keys);
        Ok(output.print(text, text, || json!({ "statements": done - keys, "keys": keys }))?)
    }
}

/// Applies a batch, after `done` others. One that is refused is applied one by one, up to what it is refused for; it may also have been too
/// much for one command.
async fn apply(client: &Client, name: &str, batch: &[Item<'_>], done: usize) -> Result<(), Failure> {
    match client.run(program(batch)).await {
        Ok(_) => return Ok(()),
        Err(Error::Failed(_) | Error::Invalid(_) | Error::TooLarge(_)) => (),
        // Whether it was applied may not be known, so it is not run again.
        Err(error) => return Err(stopped(name, batch[0].line, done, error)),
    }
    for (before, item) in batch.iter().enumerate() {
        let ran = client.run(program(std::slice::from_ref(item))).await;
        ran.map_err(|error| stopped(name, item.line, done + before, error))?;
    }
    Ok(())
}

fn stopped(name: &str, line: usize, done: usize, error: Error) -> Failure {
    let hint = format!("the {done} statements and keys before it are applied");
    Failure::InScript { place: format!("{name}:{line}"), error, hint }
}

fn program(batch: &[Item<'_>]) -> Program {
    batch.iter().fold(Program::new(), |program, item| match &item.act {
        Act::Sql(sql) => program.sql(*sql),
        Act::Put(key, value) => program.put(key.clone(), value.clone()),
    })
}

fn batches<'a>(items: &'a [Item<'a>]) -> impl Iterator<Item = &'a [Item<'a>]> {
    let mut left = items;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |item: &&Item<'_>| {
            bytes += item.bytes;
            bytes <= BYTES
        };
        let count = left.iter().take(STATEMENTS).take_while(fits).count().max(1).min(left.len());
        let (batch, rest) = left.split_at(count);
        left = rest;
        (!batch.is_empty()).then_some(batch)
    })
}

fn items(text: &str) -> Result<Vec<Item<'_>>, (usize, String)> {
    // The keys are comments, and stand after all statements.
    let (script, keys) = text.split_at(statements::find_comment(text, KEY).unwrap_or(text.len()));
    let statements = statements::split(script).into_iter().filter(|part| !is_passed_over(part.sql));
    let mut items: Vec<Item<'_>> =
        statements.map(|Part { line, sql }| Item { line, bytes: sql.len(), act: Act::Sql(sql) }).collect();
    let first = script.lines().count() + 1;
    for (place, line) in keys.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let json = line.strip_prefix(KEY).and_then(|json| serde_json::from_str::<Json>(json).ok());
        let put = json.and_then(|json| Some(Act::Put(field(&json, "key")?, field(&json, "value")?)));
        let act = put.ok_or_else(|| {
            (first + place, format!("this is no key: a line of one is `{KEY}{{\"key\":\"…\",\"value\":\"…\"}}`"))
        })?;
        items.push(Item { line: first + place, bytes: line.len(), act });
    }
    Ok(items)
}

/// Text, or bytes in base64.
fn field(json: &Json, name: &str) -> Option<Bytes> {
    match json.get(name) {
        Some(text) => text.as_str().map(|text| text.to_owned().into()),
        None => BASE64.decode(json.get(format!("{name}_b64"))?.as_str()?).ok().map(Bytes::from),
    }
}

/// Whether a statement is about the transaction or the connection that sqlite3 would load it on.
fn is_passed_over(sql: &str) -> bool {
    let words = sql.trim_end_matches(';').split(|c: char| c.is_whitespace() || c == '=' || c == '(');
    let words: Vec<String> = words.filter(|word| !word.is_empty()).take(4).map(str::to_ascii_uppercase).collect();
    matches!(
        words.iter().map(String::as_str).collect::<Vec<_>>()[..],
        ["BEGIN" | "COMMIT" | "END"]
            | ["BEGIN" | "COMMIT" | "END", "TRANSACTION"]
            | ["PRAGMA", "FOREIGN_KEYS" | "JOURNAL_MODE" | "SYNCHRONOUS" | "ENCODING", ..]
            | ["DELETE", "FROM", "SQLITE_SEQUENCE" | "\"SQLITE_SEQUENCE\""]
            | ["INSERT", "INTO", "SQLITE_SEQUENCE" | "\"SQLITE_SEQUENCE\"", ..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_the_transaction_is_passed_over() {
        for sql in [
            "BEGIN TRANSACTION;",
            "COMMIT;",
            "PRAGMA foreign_keys=OFF;",
            "DELETE FROM sqlite_sequence;",
            "INSERT INTO sqlite_sequence VALUES('t',3);",
        ] {
            assert!(is_passed_over(sql), "{sql}");
        }
        for sql in [
            "INSERT INTO begin VALUES (1);",
            "CREATE TABLE t (a);",
            "BEGIN IMMEDIATE;",
            "DELETE FROM t;",
            "PRAGMA user_version = 3;",
        ] {
            assert!(!is_passed_over(sql), "{sql}");
        }
    }

    #[test]
    fn keys_stand_after_the_statements_with_their_lines() {
        let text = format!(
            "CREATE TABLE t (a);\nINSERT INTO t VALUES ('\n');\n{KEY}{{\"key\":\"a\",\"value_b64\":\"AP8=\"}}\n{KEY}oops\n"
        );
        let Err((line, why)) = items(&text) else { panic!("the last line is no key") };
        assert_eq!(line, 5, "{why}");
        let items = items(text.strip_suffix(&format!("{KEY}oops\n")).unwrap()).unwrap_or_default();
        assert_eq!(items.iter().map(|item| item.line).collect::<Vec<_>>(), [1, 2, 4]);
        assert!(matches!(&items[2].act, Act::Put(key, value) if key == "a" && value[..] == [0, 255]));
    }
}
