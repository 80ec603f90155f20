//! SQLite's own rules hold: what scripts of SQL come to through the log is what they come to in plain SQLite.
//!
//! The scripts in `corpus` are in sqllogictest's format. Nobody has to write down what is right, for each record is run by both sides, and rows,
//! names of columns, numbers of rows changed, ids and messages must be the same. Where they are meant to differ, a record says so
//! (`onlyif raftkv`), and that they do is checked as well: `docs/sql.md` lists these.

mod common;
#[path = "corpus/plain.rs"]
mod plain;
#[path = "corpus/random.rs"]
mod random;
#[path = "corpus/script.rs"]
mod script;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Store, command, sql, statement_results};
use plain::{Plain, Ran};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use raft_store_sqlite::{Error, Kind, Operation, Outcome, Statement, Value};
use script::{Expected, Record};

/// The state machine and plain SQLite, which have run the same.
struct Twins {
    store: Store,
    plain: Plain,
}

/// How commands come to the state machine.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// One by one, as a server takes them: sorted first, and what only reads is answered by the reader.
    Served,
    /// As a follower gets them: all as entries, in batches of sizes that follow from this seed.
    Batched(u64),
}

impl Twins {
    fn new() -> Self {
        Self { store: Store::new(), plain: Plain::new() }
    }

    /// What a server makes of one command.
    fn serve(&mut self, text: &str) -> Ran {
        let statements = [Statement::new(text)];
        let reader = &self.store.parts.reader;
        match reader.prepare(&statements.clone().map(Into::into)).map_err(told)? {
            Kind::Read => reader.query(&statements).map(|seen| seen.value).map_err(told),
            Kind::Write => ran(self.store.run(sql(&[text]))),
        }
    }

    /// What the state machine makes of these, applied at once.
    fn apply(&mut self, texts: &[&str]) -> Vec<Ran> {
        let commands: Vec<_> = texts.iter().map(|text| command(sql(&[text]))).collect();
        self.store.apply(&commands).into_iter().map(|answer| ran(answer.outcome)).collect()
    }

    /// Both hold the same tables, with the same rows.
    fn assert_equal(&mut self) {
        let schema = r"SELECT type, name, tbl_name, sql FROM sqlite_schema
                       WHERE name NOT LIKE 'raft\_%' ESCAPE '\' AND tbl_name NOT LIKE 'raft\_%' ESCAPE '\' AND name <> 'kv'
                       ORDER BY type, name";
        let tables = self.plain.run(schema);
        assert_eq!(self.apply(&[schema])[0], tables, "the schema");
        let names =
            "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name <> 'sqlite_schema'";
        for row in self.plain.run(names).unwrap().remove(0).rows {
            let Value::Text(name) = &row[0] else { panic!("{row:?}") };
            let rows = format!("SELECT * FROM \"{}\"", name.replace('"', "\"\""));
            assert_eq!(self.apply(&[&rows])[0], self.plain.run(&rows), "{name}");
        }
    }
}

fn ran(outcome: Outcome) -> Ran {
    match outcome {
        Outcome::Failed { message } => Err(message),
        ran => Ok(statement_results(ran)),
    }
}

/// What a client is told.
fn told(error: Error) -> String {
    match error {
        Error::Statement(message) | Error::Refused(message) => message,
        other => panic!("{other}"),
    }
}

/// Runs a script, and returns how many records it has, and what is wrong with which.
fn run_script(path: &Path, way: Way) -> (usize, Vec<String>) {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let records = script::parse(&fs::read_to_string(path).unwrap()).unwrap_or_else(|wrong| panic!("{name}:{wrong}"));
    let mut twins = Twins::new();
    let mut wrong = Vec::new();
    let mut rest = &records[..];
    let mut sizes = Sizes(match way {
        Way::Served => 0,
        Way::Batched(seed) => seed,
    });
    while !rest.is_empty() {
        let size = if matches!(way, Way::Served) { 1 } else { sizes.next() };
        let (batch, after) = rest.split_at(size.min(rest.len()));
        let answers = match way {
            Way::Served => vec![twins.serve(&batch[0].sql)],
            Way::Batched(_) => twins.apply(&batch.iter().map(|record| &*record.sql).collect::<Vec<_>>()),
        };
        for (record, answer) in batch.iter().zip(answers) {
            let place = format!("{name}:{} ({way:?})\n{}", record.line, record.sql);
            wrong.extend(check(record, &answer, &twins.plain).err().map(|why| format!("{place}\n{why}\n")));
        }
        rest = after;
    }
    if wrong.is_empty() {
        twins.assert_equal();
    }
    (records.len(), wrong)
}

/// Checks an answer against the record, and against plain SQLite, which runs it now.
fn check(record: &Record, answer: &Ran, plain: &Plain) -> Result<(), String> {
    let is_expected = match (&record.expected, answer) {
        (Expected::Success, answer) => answer.is_ok(),
        (Expected::Failure(part) | Expected::Refusal(part), Err(message)) => message.contains(&**part),
        (Expected::Failure(_) | Expected::Refusal(_), Ok(_)) => false,
    };
    let differs = matches!(record.expected, Expected::Refusal(_));
    let plainly = if differs { plain.try_out(&record.sql) } else { plain.run(&record.sql) };
    if is_expected && differs == (*answer != plainly) {
        return Ok(());
    }
    Err(format!("through the log: {answer:?}\nplain SQLite:    {plainly:?}"))
}

/// Numbers from 1 to 12 that a seed leads to.
struct Sizes(u64);

impl Sizes {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1 + (self.0 >> 33) as usize % 12
    }
}

/// The scripts of this folder, and those of the one that `RAFT_CORPUS` names, such as sqllogictest's own.
fn scripts() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let other = std::env::var_os("RAFT_CORPUS").map(PathBuf::from);
    let mut found = Vec::new();
    let mut folders: Vec<_> = other.into_iter().chain([own]).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "test") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn every_script_comes_to_the_same_as_in_plain_sqlite() {
    let ways = [Way::Served, Way::Batched(1), Way::Batched(2), Way::Batched(3)];
    let (mut records, mut wrong) = (0, Vec::new());
    for (path, way) in scripts().iter().flat_map(|path| ways.map(|way| (path, way))) {
        let (count, why) = run_script(path, way);
        records += count;
        wrong.extend(why);
    }
    assert!(wrong.is_empty(), "{} of {records} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(records > 1000, "only {records} were found");
}

/// How many runs of random statements: `RAFT_SEEDS`, if it is set.
fn cases() -> u32 {
    std::env::var("RAFT_SEEDS").map_or(48, |cases| cases.parse().expect("RAFT_SEEDS is a number"))
}

/// The one difference that a statement's text does not show.
fn is_refused_rowid(answer: &Ran) -> bool {
    answer.as_ref().is_err_and(|message| message.starts_with("the rowid 9223372036854775807 is not allowed"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_statements_come_to_the_same_as_in_plain_sqlite(
        commands in prop::collection::vec(random::command(), 1..40),
        seed in any::<u64>(),
    ) {
        let mut twins = Twins::new();
        let schema: Vec<_> = random::SCHEMA.iter().map(|sql| Statement::new(*sql)).collect();
        let (mut rest, mut sizes) = (&[schema, commands].concat()[..], Sizes(seed));
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(sizes.next().min(rest.len()));
            let operations: Vec<_> = batch.iter().map(|one| command(Operation::sql([one.clone()]))).collect();
            let answers = twins.store.apply(&operations);
            for (statement, answer) in batch.iter().zip(answers) {
                let answer = ran(answer.outcome);
                if is_refused_rowid(&answer) {
                    continue;
                }
                prop_assert_eq!(answer, twins.plain.run_with(&statement.sql, &random::values(statement)), "{:?}", statement);
            }
            rest = after;
        }
        twins.assert_equal();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    /// The other way to know it: by looking at all rows before and after.
    #[test]
    fn what_is_told_of_rows_is_what_has_changed(commands in prop::collection::vec(random::change_alone(), 1..40)) {
        let mut store = Store::new();
        store.sql(&random::SCHEMA);
        for statement in commands {
            let (before, rows) = (store.parts.reader.revision().unwrap(), random::rows(&store));
            store.run(Operation::sql([statement.clone()]));
            let expected = random::differences(&rows, &random::rows(&store));
            prop_assert_eq!(random::told(&store, before), expected.clone(), "{:?}", statement);
            let moved = store.parts.reader.revision().unwrap() - before;
            prop_assert_eq!(moved, u64::from(!expected.is_empty()), "{:?}", statement);
        }
    }
}

/// So that the tests above are about more than what fails.
#[test]
fn most_random_statements_succeed() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let plain = Plain::new();
    random::SCHEMA.iter().for_each(|sql| drop(plain.run(sql).unwrap()));
    let mut failed = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..2000 {
        let statement = random::command().new_tree(&mut runner).unwrap().current();
        if let Err(message) = plain.run_with(&statement.sql, &random::values(&statement)) {
            *failed.entry(message).or_default() += 1;
        }
    }
    assert!(failed.values().sum::<usize>() < 800, "{failed:#?}");
}
