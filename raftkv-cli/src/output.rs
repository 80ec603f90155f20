//! How results look: data alone on stdout, everything else on stderr.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use raftkv_cli::reply::KeyValue;
use serde_json::{Map, Value as Json, json};
use std::io::{self, ErrorKind, IsTerminal, Write};

/// What `--output` may be.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table on a terminal, simple in a pipe.
    Auto,
    /// For people.
    Table,
    /// For scripts: bare values; rows as tab-separated lines.
    Simple,
    /// For programs.
    Json,
}

/// The chosen format.
#[derive(Clone, Copy)]
pub(crate) struct Output(Format);

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        match format {
            Format::Auto if io::stdout().is_terminal() => Self(Format::Table),
            Format::Auto => Self(Format::Simple),
            chosen => Self(chosen),
        }
    }

    pub(crate) fn is_json(self) -> bool {
        self.0 == Format::Json
    }

    /// Prints whichever of the three fits.
    pub(crate) fn print(
        self,
        table: impl FnOnce() -> String,
        simple: impl FnOnce() -> String,
        json: impl FnOnce() -> Json,
    ) -> io::Result<()> {
        let text = match self.0 {
            Format::Json => json().to_string(),
            Format::Simple => simple(),
            Format::Table | Format::Auto => table(),
        };
        print_line(text.as_bytes())
    }
}

/// Writes bytes and a line end to stdout. A reader that has gone away has seen enough: that is no failure.
pub(crate) fn print_line(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes a line to stderr; if nobody listens there, nothing can be done about it.
pub(crate) fn print_error(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A bar that shows a person how many bytes of `size` have come, or nothing where nobody looks.
pub(crate) fn progress_bar(output: Output, size: u64) -> ProgressBar {
    if output.is_json() {
        return ProgressBar::hidden();
    }
    let style = "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    ProgressBar::new(size).with_style(ProgressStyle::with_template(style).expect("the template is right"))
}

/// Shows a person how far something is, in place of what was shown before; or removes that.
pub(crate) fn print_progress(output: Output, line: Option<&str>) {
    if !output.is_json() && io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[2K{}", line.unwrap_or_default());
    }
}

/// A JSON object of `fields`.
pub(crate) fn object<const N: usize>(fields: [(String, Json); N]) -> Json {
    Json::Object(Map::from_iter(fields))
}

/// A JSON field: `name` where the bytes are text, else `name_b64`.
pub(crate) fn text_or_base64(name: &str, bytes: &[u8]) -> (String, Json) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (name.to_owned(), json!(text)),
        Err(_) => (format!("{name}_b64"), json!(BASE64.encode(bytes))),
    }
}

/// A key and its value as a JSON object.
pub(crate) fn entry_json(entry: &KeyValue) -> Json {
    let mut json = key_json(entry);
    if let Json::Object(fields) = &mut json {
        fields.extend([text_or_base64("value", &entry.value)]);
    }
    json
}

/// A key as a JSON object, without its value: an empty one would look like one that is stored.
pub(crate) fn key_json(entry: &KeyValue) -> Json {
    let mut json = object([
        text_or_base64("key", &entry.key),
        ("create_revision".to_owned(), json!(entry.create_revision)),
        ("mod_revision".to_owned(), json!(entry.mod_revision)),
        ("version".to_owned(), json!(entry.version)),
    ]);
    if entry.lease != 0 {
        json["lease"] = json!(entry.lease);
    }
    json
}

/// A table for people, as wide as the terminal at most.
pub(crate) fn table(header: Vec<String>, rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header).add_rows(rows);
    table.to_string()
}

/// Tab-separated lines, the header first.
pub(crate) fn lines(header: &[String], rows: &[Vec<String>]) -> String {
    let rows = rows.iter().map(|row| row.join("\t"));
    std::iter::once(header.join("\t")).chain(rows).collect::<Vec<_>>().join("\n")
}

/// Text that stays in its cell and leaves the terminal alone: control characters and backslashes are escaped.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() || letter == '\\' {
            escaped.extend(letter.escape_default());
        } else {
            escaped.push(letter);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_hold_no_control_characters() {
        assert_eq!(escape("a\tb\nc\\d grün \u{1b}[31m"), r"a\tb\nc\\d grün \u{1b}[31m");
    }

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        assert_eq!(text_or_base64("value", "grün".as_bytes()), ("value".to_owned(), json!("grün")));
        assert_eq!(text_or_base64("value", &[0xff, 0]), ("value_b64".to_owned(), json!("/wA=")));
    }
}
