use super::read_text;
use crate::failure::Failure;
use crate::output::{Output, escape, lines, object, table};
use crate::statements;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use raftkv_cli::reply::{ExecuteReply, Row, StatementResult};
use raftkv_cli::{Client, Error, Statement, Value};
use serde_json::{Value as Json, json};
use std::ffi::OsString;
use std::io::{self, BufWriter, ErrorKind, Write};

/// Run SQL: one statement, or several between semicolons, all or none
///
/// Parameters of a single statement (`?`) take the values that follow it. A value is written as in SQL: 42, 1.5, NULL, 'text',
/// x'00ff'; anything else is text as it stands (so quote what looks like a number and is not: "'007'").
///
///     raftkv-cli sql "INSERT INTO users (id, name) VALUES (?, ?)" 1 Ada
///     raftkv-cli sql "SELECT name FROM users WHERE id = :id" -p id=1
///     raftkv-cli sql -f schema.sql
///
/// A script is one command as well: if a statement fails, nothing is changed. With --each, each of its statements is a command of its own, and
/// the line of one that fails is told. Of what a script yields, rows are printed; if there are none, how many rows were affected.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Sql {
    /// The statement, or statements
    #[arg(required_unless_present = "file", default_value = "", hide_default_value = true)]
    statement: String,

    /// Values for the parameters `?`, in order
    #[arg(allow_negative_numbers = true)]
    values: Vec<String>,

    /// A value for the parameter `:NAME`
    #[arg(short, long = "param", value_name = "NAME=VALUE", value_parser = named)]
    parameters: Vec<(String, Value)>,

    /// Run the statements of a file; `-` is stdin
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["statement", "values", "parameters"])]
    file: Option<OsString>,

    /// With --file: each statement is a command of its own, until one fails
    #[arg(long, requires = "file")]
    each: bool,

    /// Print the rows of a statement that only reads as they are found: for results of any size, a line a row, or with -o json an object a line
    #[arg(long, conflicts_with = "file")]
    stream: bool,
}

impl Sql {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        if let Some(file) = self.file {
            return run_script(client, output, file, self.each).await;
        }
        let statement = Statement::new(self.statement);
        let statement = self.values.iter().fold(statement, |statement, value| statement.bind(literal(value)));
        let statement =
            self.parameters.into_iter().fold(statement, |statement, (name, value)| statement.bind_name(name, value));
        if self.stream {
            return print_as_found(client, output, statement).await;
        }
        let reply = client.sql([statement]).await?;
        print(output, &reply, &reply.results.iter().collect::<Vec<_>>())
    }
}

/// Prints these of a reply's results.
fn print(output: Output, reply: &ExecuteReply, results: &[&StatementResult]) -> Result<(), Failure> {
    let all = |format: fn(&StatementResult) -> String| {
        let results: Vec<String> = results.iter().map(|result| format(result)).collect();
        results.join("\n\n")
    };
    let header = reply.header.unwrap_or_default();
    Ok(output.print(
        || all(as_table),
        || all(as_lines),
        || {
            let results: Vec<Json> = results.iter().map(|result| as_json(result)).collect();
            json!({ "results": results, "revision": header.revision, "node_id": header.node_id })
        },
    )?)
}

async fn print_as_found(client: &Client, output: Output, statement: Statement) -> Result<(), Failure> {
    let mut rows = client.query(statement).await?;
    let columns = rows.columns().to_vec();
    let mut out = BufWriter::new(io::stdout());
    let mut print = |line: String| match writeln!(out, "{line}") {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    };
    let header = || columns.iter().map(|name| escape(name)).collect::<Vec<_>>().join("\t");
    let mut goes_on = output.is_json() || print(header())?;
    while goes_on && let Some(row) = rows.next().await? {
        goes_on = print(match output.is_json() {
            true => row_object(&columns, row).to_string(),
            false => row.iter().map(cell).collect::<Vec<_>>().join("\t"),
        })?;
    }
    match out.flush() {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        flushed => Ok(flushed?),
    }
}

async fn run_script(client: &Client, output: Output, file: OsString, each: bool) -> Result<(), Failure> {
    let name = if file == "-" { "stdin".to_owned() } else { file.display().to_string() };
    let script = read_text(file).await?;
    let parts = statements::split(&script);
    if parts.is_empty() {
        return Err(Failure::Usage(format!("{name} holds no SQL statement")));
    }
    let mut told = Told::default();
    if each {
        for (done, part) in parts.iter().enumerate() {
            let hint = match done {
                0 => "nothing was applied".to_owned(),
                done => format!("the {done} statements before it are applied, and nothing after it"),
            };
            let run = client.sql([part.sql]).await;
            told.tell(output, &run.map_err(|error| in_script(error, format!("{name}:{}", part.line), hint))?)?;
        }
    } else {
        let hint = "no statement of the script is applied; --each runs them one by one, and tells the line";
        let run = client.sql(parts.iter().map(|part| part.sql)).await;
        told.tell(output, &run.map_err(|error| in_script(error, name, hint.to_owned()))?)?;
    }
    told.end(output)
}

fn in_script(error: Error, place: String, hint: String) -> Failure {
    Failure::InScript { place, error, hint }
}

/// What a script has yielded so far.
#[derive(Default)]
struct Told {
    affected: u64,
    has_rows: bool,
}

impl Told {
    /// Prints rows as they come. Programs are told of all statements.
    fn tell(&mut self, output: Output, reply: &ExecuteReply) -> Result<(), Failure> {
        self.affected += reply.results.iter().map(|result| result.rows_affected).sum::<u64>();
        let is_told = |result: &&StatementResult| output.is_json() || !result.columns.is_empty();
        let results: Vec<_> = reply.results.iter().filter(is_told).collect();
        self.has_rows |= !results.is_empty();
        if results.is_empty() { Ok(()) } else { print(output, reply, &results) }
    }

    fn end(self, output: Output) -> Result<(), Failure> {
        if self.has_rows {
            return Ok(());
        }
        let text = || affected(self.affected);
        Ok(output.print(text, text, || json!({ "rows_affected": self.affected }))?)
    }
}

/// Reads `name=value` or `:name=value`.
fn named(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    let name = if name.starts_with([':', '@', '$', '?']) { name.to_owned() } else { format!(":{name}") };
    if name.len() == 1 {
        return Err("the name is missing: write it as NAME=VALUE".to_owned());
    }
    Ok((name, literal(value)))
}

/// Reads a value as SQL would; what is no literal is text.
fn literal(text: &str) -> Value {
    let number_like = text.trim_start_matches(['-', '+']).starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if text == "NULL" {
        return Value::Null;
    }
    if let Some(digits) = quoted(text.trim_start_matches(['x', 'X'])).filter(|_| text.starts_with(['x', 'X'])) {
        return hex(digits).map_or_else(|| Value::from(text), Value::from);
    }
    if let Some(quoted) = quoted(text) {
        return Value::from(quoted.replace("''", "'"));
    }
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(integer), _) => Value::Integer(integer),
        (_, Ok(real)) if number_like && real.is_finite() => Value::Real(real),
        _ => Value::from(text),
    }
}

/// What stands between single quotes, if all of it does.
fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('\'')?.strip_suffix('\'')
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = digits.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect();
    digits
        .filter(|digits| digits.len() % 2 == 0)
        .map(|digits| digits.chunks(2).map(|two| two[0] << 4 | two[1]).collect())
}

pub(super) fn as_table(result: &StatementResult) -> String {
    if result.columns.is_empty() {
        return affected(result.rows_affected);
    }
    let header = result.columns.iter().map(|name| escape(name)).collect();
    let count = result.rows.len();
    let footer = format!("{count} {}", if count == 1 { "row" } else { "rows" });
    format!("{}\n{footer}", table(header, rows(result)))
}

pub(super) fn as_lines(result: &StatementResult) -> String {
    if result.columns.is_empty() {
        return affected(result.rows_affected);
    }
    let header: Vec<String> = result.columns.iter().map(|name| escape(name)).collect();
    lines(&header, &rows(result))
}

fn affected(count: u64) -> String {
    format!("{count} {} affected", if count == 1 { "row" } else { "rows" })
}

fn rows(result: &StatementResult) -> Vec<Vec<String>> {
    let row = |row: &Row| row.values.iter().map(|value| cell(&value.clone().into())).collect();
    result.rows.iter().map(row).collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(integer) => integer.to_string(),
        Value::Real(real) => format!("{real:?}"),
        Value::Text(text) => escape(text),
        // A result holds no reference to another.
        Value::Output(_) => String::new(),
        Value::Blob(bytes) => format!("x'{}'", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

pub(super) fn as_json(result: &StatementResult) -> Json {
    let row = |row: &Row| Json::Array(row.values.iter().map(|value| json_value(value.clone().into())).collect());
    object([
        ("columns".to_owned(), json!(result.columns)),
        ("rows".to_owned(), Json::Array(result.rows.iter().map(row).collect())),
        ("rows_affected".to_owned(), json!(result.rows_affected)),
        ("last_insert_id".to_owned(), json!(result.last_insert_id)),
    ])
}

/// The rows, each as an object of its columns.
pub(super) fn as_objects(result: &StatementResult) -> Json {
    let object = |row: &Row| row_object(&result.columns, row.values.iter().cloned().map(Value::from).collect());
    Json::Array(result.rows.iter().map(object).collect())
}

fn row_object(columns: &[String], row: Vec<Value>) -> Json {
    Json::Object(columns.iter().cloned().zip(row.into_iter().map(json_value)).collect())
}

fn json_value(value: Value) -> Json {
    match value {
        Value::Null | Value::Output(_) => Json::Null,
        Value::Integer(integer) => json!(integer),
        // JSON has no infinity; as text it is at least not lost.
        Value::Real(real) if !real.is_finite() => json!(real.to_string()),
        Value::Real(real) => json!(real),
        Value::Text(text) => json!(text),
        Value::Blob(bytes) => json!({ "value_b64": BASE64.encode(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_typed_as_in_sql() {
        let cases = [
            ("42", Value::Integer(42)),
            ("-7", Value::Integer(-7)),
            ("1.5", Value::Real(1.5)),
            ("-.5e3", Value::Real(-500.0)),
            ("9223372036854775808", Value::Real(9_223_372_036_854_775_808.0)),
            ("NULL", Value::Null),
            ("'42'", Value::from("42")),
            ("'it''s'", Value::from("it's")),
            ("x'00fF'", Value::from(vec![0, 255])),
            ("x'0'", Value::from("x'0'")),
            ("x'zz'", Value::from("x'zz'")),
            ("x''", Value::from(Vec::new())),
            ("", Value::from("")),
            ("'", Value::from("'")),
            ("null", Value::from("null")),
            ("inf", Value::from("inf")),
            ("nan", Value::from("nan")),
            ("1e999", Value::from("1e999")),
            ("Ada", Value::from("Ada")),
        ];
        for (text, value) in cases {
            assert_eq!(literal(text), value, "{text}");
        }
    }

    #[test]
    fn parameters_have_a_name() {
        assert_eq!(named("id=1"), Ok((":id".to_owned(), Value::Integer(1))));
        assert_eq!(named("@id=a=b"), Ok(("@id".to_owned(), Value::from("a=b"))));
        assert!(named("id").is_err());
        assert!(named("=1").is_err());
    }
}
