use super::schema::statement;
use super::tables::OWN;
use crate::failure::Failure;
use crate::output::{Output, text_or_base64};
use crate::whole_file::WholeFile;
use bytes::Bytes;
use raftkv_cli::{Client, Error, Rows, Value};
use serde_json::{Map, Value as Json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;

/// Write tables and keys as SQL text
///
/// All of one state, as fresh as --consistency says. `raftkv-cli load` takes it back, and so does sqlite3, but for the keys: those stand at the end, a line
/// each, in comments. Keys under a lease are left out: nobody would keep them alive. Revisions, history and where AUTOINCREMENT went on from stay behind: those
/// are in a backup.
#[derive(clap::Args)]
pub(crate) struct Dump {
    /// Where to put it [default: stdout]
    file: Option<PathBuf>,
    /// Take the place of a file that is there
    #[arg(short, long, requires = "file")]
    force: bool,
}

/// What a line with a key begins with.
pub(super) const KEY: &str = "--raftkv put ";

/// How often the tables may change between a look at them and the dump.
const ATTEMPTS: usize = 5;
/// How much is written at a time.
const PIECE_BYTES: usize = 64 << 10;

impl Dump {
    pub(crate) async fn run(self, client: &Client, _: Output) -> Result<(), Failure> {
        let mut sink = match self.file {
            Some(file) => Sink::File(WholeFile::create(file, self.force)?),
            None => Sink::Stdout,
        };
        for _ in 0..ATTEMPTS {
            let catalog = Catalog::read(client).await?;
            let mut rows = client.query_all(catalog.queries()).await?;
            if catalog.is_still(&mut rows).await? {
                write(&catalog, &mut rows, &mut sink).await?;
                return sink.keep().await;
            }
        }
        Err(Error::Failed("the tables change all the time: dump them when they don't".to_owned()).into())
    }
}

/// Where the text goes.
enum Sink {
    Stdout,
    File(WholeFile),
}

impl Sink {
    fn write(&mut self, text: &mut String) -> Result<(), Failure> {
        match self {
            Self::Stdout => io::stdout().write_all(text.as_bytes())?,
            Self::File(file) => file.write(text.as_bytes())?,
        }
        text.clear();
        Ok(())
    }

    async fn keep(self) -> Result<(), Failure> {
        match self {
            Self::Stdout => Ok(io::stdout().flush()?),
            Self::File(file) => file.keep().await,
        }
    }
}

/// What there is in the schema.
#[derive(PartialEq)]
struct Object {
    kind: String,
    name: String,
    sql: String,
}

struct Table {
    name: String,
    /// Those that can be set.
    columns: Vec<String>,
}

struct Catalog {
    objects: Vec<Object>,
    /// Each after those that it refers to, where that can be.
    tables: Vec<Table>,
}

fn objects_query() -> String {
    format!("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND {OWN} ORDER BY rowid")
}

impl Catalog {
    async fn read(client: &Client) -> Result<Self, Failure> {
        let columns = format!(
            "SELECT t.name, c.name FROM sqlite_schema AS t JOIN pragma_table_xinfo(t.name) AS c
             WHERE t.type = 'table' AND c.hidden = 0 AND {} ORDER BY t.rowid, c.cid",
            OWN.replace("name", "t.name").replace("tbl_t.name", "t.tbl_name")
        );
        let references = format!(
            "SELECT t.name, f.\"table\" FROM sqlite_schema AS t JOIN pragma_foreign_key_list(t.name) AS f
             WHERE t.type = 'table' AND {}",
            OWN.replace("name", "t.name").replace("tbl_t.name", "t.tbl_name")
        );
        let mut rows = client.query_all([objects_query(), columns, references]).await?;
        let objects = objects(&mut rows).await?;
        let mut tables: Vec<Table> = Vec::new();
        for (name, column) in pairs(&mut rows).await? {
            match tables.last_mut().filter(|table| table.name == name) {
                Some(table) => table.columns.push(column),
                None => tables.push(Table { name, columns: vec![column] }),
            }
        }
        let references = pairs(&mut rows).await?;
        Ok(Self { objects, tables: in_order(tables, &references) })
    }

    /// The schema again, then each table, then the keys.
    fn queries(&self) -> Vec<String> {
        let table = |Table { name, columns }: &Table| format!("SELECT {} FROM {}", list(columns), quoted(name));
        let keys = "SELECT key, value FROM kv WHERE lease = 0 ORDER BY key".to_owned();
        [objects_query()].into_iter().chain(self.tables.iter().map(table)).chain([keys]).collect()
    }

    async fn is_still(&self, rows: &mut Rows) -> Result<bool, Failure> {
        Ok(objects(rows).await? == self.objects)
    }

    fn script(&self, is_wanted: impl Fn(&str) -> bool) -> String {
        let wanted = self.objects.iter().filter(|object| is_wanted(&object.kind));
        wanted.map(|object| statement(&object.sql) + "\n").collect()
    }
}

/// Tables after those that they refer to; in a circle, as they come.
fn in_order(mut left: Vec<Table>, references: &[(String, String)]) -> Vec<Table> {
    let mut ordered = Vec::new();
    while !left.is_empty() {
        let names: BTreeSet<String> = left.iter().map(|table| table.name.to_lowercase()).collect();
        let waits = |table: &Table| {
            references.iter().any(|(from, to)| {
                *from == table.name && !to.eq_ignore_ascii_case(from) && names.contains(&to.to_lowercase())
            })
        };
        let next = left.iter().position(|table| !waits(table)).unwrap_or(0);
        ordered.push(left.remove(next));
    }
    ordered
}

async fn objects(rows: &mut Rows) -> Result<Vec<Object>, Failure> {
    let mut objects = Vec::new();
    while let Some(row) = rows.next().await? {
        let [kind, name, sql] = texts(row);
        objects.push(Object { kind, name, sql });
    }
    Ok(objects)
}

/// The rows of the next statement, of two columns.
async fn pairs(rows: &mut Rows) -> Result<Vec<(String, String)>, Failure> {
    let mut pairs = Vec::new();
    if rows.next_statement().await? {
        while let Some(row) = rows.next().await? {
            let [one, other] = texts(row);
            pairs.push((one, other));
        }
    }
    Ok(pairs)
}

fn texts<const N: usize>(row: Vec<Value>) -> [String; N] {
    let mut values = row.into_iter().map(|value| if let Value::Text(text) = value { text } else { String::new() });
    std::array::from_fn(|_| values.next().unwrap_or_default())
}

async fn write(catalog: &Catalog, rows: &mut Rows, sink: &mut Sink) -> Result<(), Failure> {
    let mut text = format!(
        "-- RaftKV, revision {}. sqlite3 reads this as well, but for the keys at the end.\nPRAGMA foreign_keys = OFF;\nBEGIN;\n",
        rows.header().revision
    );
    text += &catalog.script(|kind| kind == "table");
    for Table { name, columns } in &catalog.tables {
        rows.next_statement().await?;
        let insert = format!("INSERT INTO {} ({}) VALUES (", quoted(name), list(columns));
        while let Some(row) = rows.next().await? {
            let values: Vec<String> = row.iter().map(literal).collect();
            let _ = writeln!(text, "{insert}{});", values.join(", "));
            if text.len() >= PIECE_BYTES {
                sink.write(&mut text)?;
            }
        }
    }
    // Afterwards, for triggers would act on what is loaded.
    text += &catalog.script(|kind| kind != "table");
    text += "COMMIT;\n";
    rows.next_statement().await?;
    while let Some(row) = rows.next().await? {
        let [key, value] =
            row.try_into().map_err(|_| Error::Failed("a key has other columns than it should".into()))?;
        let (key, value) = (bytes_of(key), bytes_of(value));
        let json = Map::from_iter([text_or_base64("key", &key), text_or_base64("value", &value)]);
        let _ = writeln!(text, "{KEY}{}", Json::Object(json));
        if text.len() >= PIECE_BYTES {
            sink.write(&mut text)?;
        }
    }
    sink.write(&mut text)
}

fn bytes_of(value: Value) -> Bytes {
    match value {
        Value::Text(text) => text.into(),
        Value::Blob(bytes) => bytes,
        Value::Null | Value::Integer(_) | Value::Real(_) | Value::Output(_) => Bytes::new(),
    }
}

fn list(columns: &[String]) -> String {
    columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A value as SQL, exactly.
fn literal(value: &Value) -> String {
    match value {
        // The last is none that a query yields.
        Value::Null | Value::Output(_) => "NULL".to_owned(),
        Value::Integer(i64::MIN) => "-9223372036854775807 - 1".to_owned(),
        Value::Integer(integer) => integer.to_string(),
        Value::Real(real) if real.is_infinite() => (if *real > 0.0 { "9e999" } else { "-9e999" }).to_owned(),
        Value::Real(real) => format!("{real:?}"),
        // SQLite ends a literal at a NUL.
        Value::Text(text) if text.contains('\0') => format!("CAST({} AS TEXT)", hexadecimal(text.as_bytes())),
        Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Blob(bytes) => hexadecimal(bytes),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = "x'".to_owned();
    bytes.iter().for_each(|byte| {
        let _ = write!(text, "{byte:02x}");
    });
    text + "'"
}
