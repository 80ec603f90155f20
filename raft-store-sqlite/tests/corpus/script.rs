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
