//! Reading scripts in sqllogictest's format: records between empty lines, of which the first line says what is expected.

/// A command, and what must come of it.
pub struct Record {
    /// Where it begins, from 1.
    pub line: usize,
    pub sql: String,
    pub expected: Expected,
}

pub enum Expected {
    /// `statement ok` and `query`: it succeeds. A query's types, order and results are not looked at, since plain SQLite has them.
    Success,
    /// `statement error PART`: it fails, and the message has this in it.
    Failure(String),
    /// The same after `onlyif raftkv`: plain SQLite does something else.
    Refusal(String),
}

/// Which databases the next record is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Both,
    RaftKv,
    Others,
}

/// # Errors
/// The line that can't be understood, and why.
pub fn parse(text: &str) -> Result<Vec<Record>, String> {
    let mut records = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    let mut meant = For::Both;
    while let Some((number, line)) = lines.next() {
        let wrong = |why| format!("{}: {why}", number + 1);
        let mut words = line.split_whitespace();
        let expected = match (words.next(), words.next()) {
            (None, _) => continue,
            (Some(word), _) if word.starts_with('#') || word == "hash-threshold" => continue,
            (Some("halt"), _) if meant != For::Others => break,
            (Some("halt"), _) => None,
            (Some(condition @ ("onlyif" | "skipif")), Some(name)) => {
                meant = match (condition, name) {
                    ("onlyif", "raftkv") => For::RaftKv,
                    ("onlyif", "sqlite") => For::Both,
                    ("onlyif", _) | ("skipif", "sqlite") => For::Others,
                    _ => For::Both,
                };
                continue;
            }
            (Some("query"), _) | (Some("statement"), Some("ok")) => Some(Expected::Success),
            (Some("statement"), Some("error")) => {
                let part = words.collect::<Vec<_>>().join(" ");
                Some(if meant == For::RaftKv { Expected::Refusal(part) } else { Expected::Failure(part) })
            }
            _ => return Err(wrong("no record begins like this")),
        };
        let mut sql = Vec::new();
        let mut in_results = false;
        while let Some((_, line)) = lines.next_if(|(_, line)| !line.is_empty()) {
            in_results |= line.trim_end() == "----";
            if !in_results {
                sql.push(line);
            }
        }
        let skipped = std::mem::replace(&mut meant, For::Both) == For::Others;
        let Some(expected) = expected.filter(|_| !skipped) else { continue };
        if sql.is_empty() {
            return Err(wrong("there is no SQL"));
        }
        records.push(Record { line: number + 1, sql: sql.join("\n"), expected });
    }
    Ok(records)
}

#[test]
fn scripts_of_others_are_read_as_they_are_meant_for_sqlite() {
    let text = "\
hash-threshold 8

# A remark.
statement ok
CREATE TABLE t (
  a)

onlyif mysql # aggregate syntax:
query I rowsort label-1
SELECT a DIV 2 FROM t
----
1

skipif mysql
query II rowsort
SELECT a, a FROM t
----
8 values hashing to 8a

skipif sqlite
statement ok
SELECT nothing

onlyif raftkv
statement error not allowed
BEGIN

statement error
SELECT absent

onlyif mysql
halt

query I nosort
SELECT 1

halt

statement ok
never read
";
    let records = parse(text).unwrap();
    let told = records.iter().map(|Record { line, sql, expected }| {
        let expected = match expected {
            Expected::Success => "ok".to_owned(),
            Expected::Failure(part) => format!("fails {part}"),
            Expected::Refusal(part) => format!("differs {part}"),
        };
        format!("{line} {sql:?} {expected}")
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            "4 \"CREATE TABLE t (\\n  a)\" ok",
            "15 \"SELECT a, a FROM t\" ok",
            "25 \"BEGIN\" differs not allowed",
            "28 \"SELECT absent\" fails ",
            "34 \"SELECT 1\" ok",
        ]
    );
    assert!(parse("sing a song").is_err_and(|wrong| wrong.starts_with("1: ")));
    assert!(parse("\nstatement ok\n\n").is_err_and(|wrong| wrong.starts_with("2: ")));
}
