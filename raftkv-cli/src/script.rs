//! Programs as people write them: a line a step.

use raftkv_cli::{Compare, KeyRange, Program, Relation};
use std::fmt;

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    line: usize,
    what: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// Which part of the program the lines belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Plain,
    If,
    Then,
    Else,
}

/// What was read so far.
struct Script {
    part: Part,
    compare: Vec<Compare>,
    plain: Program,
    then: Program,
    otherwise: Program,
    /// Whether the part has a step, of which a count may be expected.
    has_step: bool,
}

/// Reads a program.
pub(crate) fn parse(text: &str) -> Result<Program, Wrong> {
    let mut script = Script {
        part: Part::Plain,
        compare: Vec::new(),
        plain: Program::new(),
        then: Program::new(),
        otherwise: Program::new(),
        has_step: false,
    };
    let mut is_empty = true;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        is_empty = false;
        script.add(line).map_err(|what| Wrong { line: index + 1, what })?;
    }
    if is_empty {
        return Err(Wrong {
            line: 1,
            what: "there is nothing to do: write a step a line, like `put KEY VALUE`".to_owned(),
        });
    }
    Ok(script.end())
}

impl Script {
    fn add(&mut self, line: &str) -> Result<(), String> {
        let next = match line {
            "if" => Part::If,
            "then" => Part::Then,
            "else" => Part::Else,
            line if self.part == Part::If => {
                self.compare.push(compare(line)?);
                return Ok(());
            }
            line => return self.step(line),
        };
        let follows =
            matches!((self.part, next), (Part::Plain, Part::If) | (Part::If, Part::Then) | (Part::Then, Part::Else));
        if !follows || (next == Part::If && self.has_step) {
            return Err(format!("`{line}` can't stand here: a program is `if`, `then`, `else`, or steps alone"));
        }
        self.part = next;
        self.has_step = false;
        Ok(())
    }

    fn step(&mut self, line: &str) -> Result<(), String> {
        let program = match self.part {
            Part::Then => &mut self.then,
            Part::Else => &mut self.otherwise,
            Part::Plain | Part::If => &mut self.plain,
        };
        let steps = std::mem::take(program);
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        if word == "expect" {
            if !self.has_step {
                return Err("`expect` is about the step before it, and there is none".to_owned());
            }
            let (least, most) = count(rest.trim())?;
            *program = steps.expect(least, most);
            return Ok(());
        }
        *program = add_step(steps, word, rest.trim())?;
        self.has_step = true;
        Ok(())
    }

    fn end(self) -> Program {
        match self.part {
            Part::Plain => self.plain,
            _ => Program::new().when(self.compare, self.then, self.otherwise),
        }
    }
}

fn add_step(steps: Program, word: &str, rest: &str) -> Result<Program, String> {
    if word == "sql" {
        return if rest.is_empty() { Err("write it as: sql STATEMENT".to_owned()) } else { Ok(steps.sql(rest)) };
    }
    let words = words(rest)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match (word, &*words) {
        ("put", [key, value]) => Ok(steps.put(bytes(key), *value)),
        ("put", [key, value, lease]) => {
            let lease = lease.parse().map_err(|_| format!("{lease:?} is no number of a lease"))?;
            Ok(steps.put_under(lease, bytes(key), *value))
        }
        ("put", _) => Err("write it as: put KEY VALUE, or put KEY VALUE LEASE".to_owned()),
        ("get", [key]) => Ok(steps.get(range(key))),
        ("get", _) => Err("write it as: get KEY, or get PREFIX*".to_owned()),
        ("del", [key]) => Ok(steps.delete(range(key))),
        ("del", _) => Err("write it as: del KEY, or del PREFIX*".to_owned()),
        _ => Err(format!("`{word}` is no step: those are put, get, del, sql and expect")),
    }
}

fn compare(line: &str) -> Result<Compare, String> {
    let words = words(line)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match &*words {
        ["absent", key] => Ok(Compare::is_absent(bytes(key))),
        ["exists", key] => Ok(Compare::exists(bytes(key))),
        [field, key, relation, given] => {
            let relation = match *relation {
                "=" => Relation::Equal,
                "!=" => Relation::NotEqual,
                "<" => Relation::Less,
                ">" => Relation::Greater,
                other => return Err(format!("`{other}` compares nothing: write =, !=, < or >")),
            };
            let number =
                || given.parse::<u64>().map_err(|_| format!("{given:?} is not a number that a {field} can have"));
            match *field {
                "value" => Ok(Compare::value(range(key), relation, bytes(given))),
                "version" => Ok(Compare::version(range(key), relation, number()?)),
                "create" => Ok(Compare::create_revision(range(key), relation, number()?)),
                "mod" => Ok(Compare::mod_revision(range(key), relation, number()?)),
                "lease" => Ok(Compare::lease(range(key), relation, number()?)),
                other => Err(format!("`{other}` is nothing of a key: that is value, version, create, mod or lease")),
            }
        }
        _ => Err("write a condition as: absent KEY, exists KEY, or value KEY = VALUE".to_owned()),
    }
}

fn words(text: &str) -> Result<Vec<String>, String> {
    shlex::split(text).ok_or_else(|| "a quote is not closed".to_owned())
}

/// A key, or with a `*` at the end all that begin so. A key that ends so is named by a span or from a program.
fn range(text: &str) -> KeyRange {
    match text.strip_suffix('*') {
        Some(prefix) => KeyRange::prefix(bytes(prefix)),
        None => KeyRange::from(bytes(text)),
    }
}

fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

/// `1`, `1..5`, `1..` or `..5`.
fn count(text: &str) -> Result<(u64, u64), String> {
    let number = |text: &str, empty| match text {
        "" => Ok(empty),
        text => text.parse().map_err(|_| format!("{text:?} is not a count: write expect 1, expect 1..5 or expect 1..")),
    };
    match text.split_once("..") {
        Some((least, most)) => Ok((number(least, 0)?, number(most, u64::MAX)?)),
        None if text.is_empty() => Err("write it as: expect 1, expect 1..5 or expect 1..".to_owned()),
        None => number(text, 0).map(|count| (count, count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_a_line_a_step() {
        let text = "
            # takes the lock
            if
              absent lock
              value 'a colour' != blue
              mod jobs/* > 7
            then
              put lock \"it's me\" 9
              sql UPDATE t SET a = 'x'
              expect 1..
              del old*
            else
              get lock
        ";
        let conditions = [
            Compare::is_absent("lock"),
            Compare::value("a colour", Relation::NotEqual, "blue"),
            Compare::mod_revision(KeyRange::prefix("jobs/"), Relation::Greater, 7),
        ];
        let then = Program::new().put_under(9, "lock", "it's me").sql("UPDATE t SET a = 'x'").expect(1, u64::MAX);
        let then = then.delete(KeyRange::prefix("old"));
        assert_eq!(parse(text), Ok(Program::new().when(conditions, then, Program::new().get("lock"))));
    }

    #[test]
    fn steps_may_stand_alone() {
        let program = Program::new().put("a", "1").expect(1, 1).get(KeyRange::all());
        assert_eq!(parse("put a 1\nexpect 1\nget *"), Ok(program));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line, what) in [
            ("", 1, "nothing to do"),
            ("put a", 1, "put KEY VALUE"),
            ("\nput 'a 1", 2, "quote"),
            ("expect 1", 1, "there is none"),
            ("put a 1\nexpect x", 2, "not a count"),
            ("put a 1\nif", 2, "can't stand here"),
            ("then", 1, "can't stand here"),
            ("if\nvalue a ~ 1", 2, "compares nothing"),
            ("if\nversion a = x", 2, "not a number"),
            ("if\nsize a = 1", 2, "nothing of a key"),
            ("if\nput a 1", 2, "write a condition"),
            ("frobnicate", 1, "no step"),
            ("sql", 1, "sql STATEMENT"),
        ] {
            let wrong = parse(text).unwrap_err();
            assert_eq!(wrong.line, line, "{text:?}");
            assert!(wrong.to_string().contains(what), "{text:?}: {wrong}");
        }
    }
}
