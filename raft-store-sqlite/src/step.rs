//! What a command does, step by step: keys, SQL, and programs of both. Data, and the checks of its limits.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::error::Error;
use crate::limits::{self, at_most};

/// One action of a program, and what must come of it.
///
/// A program's steps run in order, in one transaction: all of them, or none. Each sees what those before it did.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// How many must have been concerned, or the whole program is undone: the rows that SQL yields, or affects where it yields
    /// none; the keys that are put, deleted or found; 1 for a condition that holds.
    pub expect: Option<Expect>,
}

/// An inclusive range of counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Expect {
    /// The least.
    pub at_least: u64,
    /// The most.
    pub at_most: u64,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Sets a key.
    Put(Put),
    /// Deletes keys.
    Delete {
        /// Which.
        range: KeyRange,
        /// Whether to tell what they were.
        previous: bool,
    },
    /// Reads keys.
    Get(Lookup),
    /// Runs SQL.
    Sql(Statement),
    /// Runs one of two lists of steps.
    If {
        /// The first list runs if all of these hold.
        compare: Vec<Compare>,
        /// The first list.
        then: Vec<Step>,
        /// The second list.
        otherwise: Vec<Step>,
    },
}

/// Sets a key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Put {
    /// The key, from 1 to [`limits::KEY_BYTES`] bytes.
    pub key: Bytes,
    /// The value, up to [`limits::VALUE_BYTES`] bytes: a blob or a text as it is, a number in decimal. NULL fails.
    pub value: Argument,
    /// The lease with which the key goes; 0 for none.
    pub lease: u64,
    /// Whether to tell what it was.
    pub previous: bool,
}

/// Keys, by the order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// One key.
    Key(Bytes),
    /// All from `start`.
    Span {
        /// The first, if there is such a key. Empty for the first of all.
        start: Bytes,
        /// The end, which is not included. None for no end.
        end: Option<Bytes>,
    },
}

/// Which keys to read, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lookup {
    /// Which.
    pub range: KeyRange,
    /// As of this revision. 0 for now.
    pub revision: u64,
    /// The most entries to yield; the count is of all. 0 for no limit but those of an answer's size.
    pub limit: u64,
    /// What to yield of each.
    pub detail: Detail,
}

/// What to yield of each key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Detail {
    /// Key and value.
    #[default]
    Full,
    /// All but the value.
    Keys,
    /// Nothing: only count them.
    Count,
}

/// Something that must hold of keys. Of a range, it must hold of each key; of none, it holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Compare {
    /// Of which. A single key that is not there has zeros for all numbers, and no value: nothing holds of that.
    pub range: KeyRange,
    /// How what is found must stand to what is given.
    pub relation: Relation,
    /// What is given.
    pub target: Target,
}

/// How what is found stands to what is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    /// They are equal.
    Equal,
    /// They differ.
    NotEqual,
    /// What is found is less.
    Less,
    /// What is found is greater.
    Greater,
}

/// What a key is compared by, and with what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// How often it was written since it was created. 0: it is not there.
    Version(u64),
    /// The revision that created it.
    CreateRevision(u64),
    /// The revision that last changed it.
    ModRevision(u64),
    /// Its value, by the order of bytes.
    Value(Bytes),
    /// Its lease.
    Lease(u64),
}

/// An SQL text and what its parameters stand for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statement {
    /// One statement, or several between semicolons. Only a single one may have parameters.
    pub sql: String,
    /// For each parameter of the statement exactly one value.
    pub parameters: Vec<Parameter>,
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// With its prefix, as in `:name`. Without a name: the next one in order.
    pub name: Option<String>,
    /// What it stands for.
    pub value: Argument,
}

/// A value that is given, or that an earlier step yields.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// It is given.
    Given(Value),
    /// An earlier step of the same list yields it. The program fails where it doesn't.
    Output(Output),
}

/// One value of what an earlier step yields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Output {
    /// Which step of the same list, from 0. It runs SQL, of which the last statement counts, or reads keys.
    pub step: u32,
    /// Which row, or key, from 0.
    pub row: u32,
    /// Which column, from 0. Those of a key are `key`, `value`, `create_revision`, `mod_revision`, `version`, `lease`.
    pub column: u32,
}

/// A value of one of SQLite's types.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// NULL.
    #[default]
    Null,
    /// An integer.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// A text.
    Text(String),
    /// Bytes. Also what a result gives for a text that is not UTF-8.
    Blob(Bytes),
}

impl From<Action> for Step {
    fn from(action: Action) -> Self {
        Self { action, expect: None }
    }
}

impl From<Statement> for Step {
    fn from(statement: Statement) -> Self {
        Action::Sql(statement).into()
    }
}

impl Step {
    /// The same step, undoing all where its count is not within `at_least..=at_most`.
    #[must_use]
    pub fn expect(self, at_least: u64, at_most: u64) -> Self {
        Self { expect: Some(Expect { at_least, at_most }), ..self }
    }
}

impl Action {
    /// Sets a key to a value.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        let value = Argument::Given(Value::Blob(value.into()));
        Self::Put(Put { key: key.into(), value, ..Put::default() })
    }

    /// Deletes a key.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete { range: KeyRange::Key(key.into()), previous: false }
    }

    /// Whether it changes nothing, as far as can be told without looking at SQL.
    pub fn is_read(&self) -> bool {
        match self {
            Self::Get(_) => true,
            Self::Put(_) | Self::Delete { .. } | Self::Sql(_) => false,
            Self::If { then, otherwise, .. } => then.iter().chain(otherwise).all(|step| step.action.is_read()),
        }
    }
}

impl KeyRange {
    /// All keys that begin so. All keys, if `prefix` is empty.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        // What comes after all of them: the last byte that can grow does.
        let grows = start.iter().rposition(|&byte| byte < u8::MAX);
        let end = grows.map(|last| {
            let mut end = start[..=last].to_vec();
            end[last] += 1;
            end.into()
        });
        Self::Span { start, end }
    }

    /// Whether a key is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(only) => only == key,
            Self::Span { start, end } => key >= start && end.as_ref().is_none_or(|end| key < end),
        }
    }
}

impl Lookup {
    /// One key, now.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self::range(KeyRange::Key(key.into()))
    }

    /// The keys of a range, now.
    pub fn range(range: KeyRange) -> Self {
        Self { range, revision: 0, limit: 0, detail: Detail::Full }
    }
}

impl Compare {
    /// The key is not there.
    pub fn is_absent(key: impl Into<Bytes>) -> Self {
        Self { range: KeyRange::Key(key.into()), relation: Relation::Equal, target: Target::Version(0) }
    }

    /// The key was last changed at `revision`.
    pub fn is_unchanged_since(key: impl Into<Bytes>, revision: u64) -> Self {
        Self { range: KeyRange::Key(key.into()), relation: Relation::Equal, target: Target::ModRevision(revision) }
    }
}

impl Statement {
    /// A statement without parameters.
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), parameters: Vec::new() }
    }

    /// A statement and the values of its `?`, in order.
    pub fn with(sql: impl Into<String>, values: impl IntoIterator<Item = Value>) -> Self {
        let parameter = |value| Parameter { name: None, value: Argument::Given(value) };
        Self { sql: sql.into(), parameters: values.into_iter().map(parameter).collect() }
    }
}

impl From<Value> for Argument {
    fn from(value: Value) -> Self {
        Self::Given(value)
    }
}

impl Default for Argument {
    fn default() -> Self {
        Self::Given(Value::Null)
    }
}

/// Checks all steps of a program.
pub(crate) fn check_program(steps: &[Step]) -> Result<(), Error> {
    if steps.is_empty() {
        return Err(Error::Invalid("there is nothing to do: a program has at least one step".into()));
    }
    let mut count = 0;
    check_steps(steps, 1, &mut count)?;
    check_changes(steps).map(|_| ())
}

fn check_steps(steps: &[Step], depth: usize, count: &mut usize) -> Result<(), Error> {
    at_most("the depth of conditions in each other", limits::DEPTH, depth)?;
    *count += steps.len();
    at_most("the number of steps", limits::STEPS, *count)?;
    for (place, step) in steps.iter().enumerate() {
        if let Some(Expect { at_least, at_most }) = step.expect
            && at_least > at_most
        {
            return Err(Error::Invalid(format!("step {place} can't count at least {at_least} and at most {at_most}")));
        }
        match &step.action {
            Action::Put(put) => put.check(place)?,
            Action::Delete { range, .. } => range.check()?,
            Action::Get(lookup) => lookup.range.check()?,
            Action::Sql(statement) => statement.check(place)?,
            Action::If { compare, then, otherwise } => {
                at_most("the number of comparisons", limits::STEPS, compare.len())?;
                compare.iter().try_for_each(|compare| compare.range.check())?;
                check_steps(then, depth + 1, count)?;
                check_steps(otherwise, depth + 1, count)?;
            }
        }
    }
    Ok(())
}

/// What one run of a list may put and delete.
#[derive(Default)]
struct Changes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Vec<&'a KeyRange>,
}

/// No run may change a key twice, since each change of a key has a revision of its own (as in etcd). The two lists of a condition
/// never run both.
fn check_changes(steps: &[Step]) -> Result<Changes<'_>, Error> {
    let mut all = Changes::default();
    for step in steps {
        match &step.action {
            Action::Put(put) => all.join(Changes { puts: [&*put.key].into(), deletes: Vec::new() })?,
            Action::Delete { range, .. } => {
                all.join(Changes { puts: [].into(), deletes: vec![range] })?;
            }
            Action::If { then, otherwise, .. } => {
                let (mut then, otherwise) = (check_changes(then)?, check_changes(otherwise)?);
                then.puts.extend(otherwise.puts);
                then.deletes.extend(otherwise.deletes);
                all.join(then)?;
            }
            Action::Get(_) | Action::Sql(_) => (),
        }
    }
    Ok(all)
}

impl<'a> Changes<'a> {
    /// Adds what happens as well. Ranges that are deleted twice do no harm: the second finds nothing.
    fn join(&mut self, other: Self) -> Result<(), Error> {
        let meets = |puts: &BTreeSet<&[u8]>, deletes: &[&KeyRange]| {
            deletes.iter().find_map(|range| range.find_in(puts).map(<[u8]>::to_vec))
        };
        let twice = self.puts.intersection(&other.puts).next().map(|key| key.to_vec());
        let twice = twice.or_else(|| meets(&self.puts, &other.deletes)).or_else(|| meets(&other.puts, &self.deletes));
        if let Some(key) = twice {
            return Err(Error::Invalid(format!(
                "a program changes a key at most once, but `{}` twice",
                key.escape_ascii()
            )));
        }
        self.puts.extend(other.puts);
        self.deletes.extend(other.deletes);
        Ok(())
    }
}

impl Put {
    fn check(&self, place: usize) -> Result<(), Error> {
        check_key(&self.key)?;
        limits::storable("a lease", self.lease)?;
        let bytes = match &self.value {
            Argument::Given(Value::Blob(blob)) => blob.len(),
            Argument::Given(Value::Text(text)) => text.len(),
            Argument::Given(Value::Null) => return Err(Error::Invalid("a key's value can't be NULL".into())),
            Argument::Given(Value::Integer(_) | Value::Real(_)) => 0,
            Argument::Output(output) => return output.check(place),
        };
        at_most("the value (bytes)", limits::VALUE_BYTES, bytes)
    }
}

impl KeyRange {
    fn check(&self) -> Result<(), Error> {
        match self {
            Self::Key(key) => check_key(key),
            Self::Span { start, end } => {
                at_most("the key (bytes)", limits::KEY_BYTES, start.len())?;
                at_most("the key (bytes)", limits::KEY_BYTES, end.as_ref().map_or(0, Bytes::len))
            }
        }
    }

    fn find_in<'a>(&'a self, keys: &BTreeSet<&'a [u8]>) -> Option<&'a [u8]> {
        match self {
            Self::Key(key) => keys.get(&**key).copied(),
            Self::Span { start, .. } => keys.range(&**start..).next().copied().filter(|key| self.contains(key)),
        }
    }
}

impl Statement {
    /// Checks what can be said of it without SQLite, as step `place` of its list.
    pub(crate) fn check(&self, place: usize) -> Result<(), Error> {
        at_most("the SQL statement (bytes)", limits::SQL_BYTES, self.sql.len())?;
        at_most("the number of parameters", limits::PARAMETERS, self.parameters.len())?;
        if self.sql.contains('\0') {
            return Err(Error::Invalid("an SQL statement can't hold a NUL character: pass it as a parameter".into()));
        }
        self.parameters.iter().try_for_each(|parameter| match &parameter.value {
            Argument::Given(_) => Ok(()),
            Argument::Output(output) => output.check(place),
        })
    }
}

impl Output {
    fn check(&self, place: usize) -> Result<(), Error> {
        if (self.step as usize) < place {
            return Ok(());
        }
        let step = self.step;
        Err(Error::Invalid(format!("step {place} can't take a value from step {step}: only from those before it")))
    }
}

/// Checks a key's length.
pub(crate) fn check_key(key: &[u8]) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::Invalid("a key has at least one byte".into()));
    }
    at_most("the key (bytes)", limits::KEY_BYTES, key.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str) -> Step {
        Action::put(key, "v").into()
    }

    fn delete(range: KeyRange) -> Step {
        Action::Delete { range, previous: false }.into()
    }

    fn either(then: Vec<Step>, otherwise: Vec<Step>) -> Step {
        Action::If { compare: vec![Compare::is_absent("k")], then, otherwise }.into()
    }

    #[test]
    fn a_prefix_ends_where_the_next_one_begins() {
        let span = |start: &'static [u8], end: Option<&'static [u8]>| KeyRange::Span {
            start: Bytes::from_static(start),
            end: end.map(Bytes::from_static),
        };
        assert_eq!(KeyRange::prefix("ab"), span(b"ab", Some(b"ac")));
        assert_eq!(KeyRange::prefix(&b"a\xff\xff"[..]), span(b"a\xff\xff", Some(b"b")));
        assert_eq!(KeyRange::prefix(&b"\xff"[..]), span(b"\xff", None));
        assert_eq!(KeyRange::prefix(""), span(b"", None));
    }

    #[test]
    fn a_run_changes_each_key_once() {
        let all = || KeyRange::prefix("");
        for fine in [
            vec![put("a"), put("b")],
            vec![delete(all()), delete(all())],
            vec![either(vec![put("a")], vec![put("a")]), put("b")],
            vec![put("b"), delete(KeyRange::prefix("a"))],
        ] {
            check_program(&fine).unwrap();
        }
        for twice in [
            vec![put("a"), put("a")],
            vec![put("a"), delete(all())],
            vec![delete(KeyRange::Key("a".into())), put("a")],
            vec![either(vec![], vec![put("a")]), put("a")],
            vec![put("a"), either(vec![either(vec![put("a")], vec![])], vec![])],
            vec![either(vec![put("a"), put("a")], vec![])],
        ] {
            let error = check_program(&twice).unwrap_err().to_string();
            assert!(error.contains("`a` twice"), "{error}");
        }
    }

    #[test]
    fn a_value_comes_from_an_earlier_step_of_the_same_list() {
        let from = |step| -> Step {
            let value = Argument::Output(Output { step, row: 0, column: 0 });
            Action::Put(Put { key: "k".into(), value, ..Put::default() }).into()
        };
        let select = || Step::from(Statement::new("SELECT 1"));
        check_program(&[select(), from(0)]).unwrap();
        check_program(&[select(), from(1)]).unwrap_err();
        check_program(&[select(), either(vec![from(0)], vec![])]).unwrap_err();
    }

    #[test]
    fn what_is_too_deep_or_too_much_is_refused() {
        let nested = |depth| (1..depth).fold(vec![put("a")], |steps, _| vec![either(steps, vec![])]);
        check_program(&nested(limits::DEPTH)).unwrap();
        check_program(&nested(limits::DEPTH + 1)).unwrap_err();
        check_program(&[]).unwrap_err();
        check_program(&vec![Statement::new("SELECT 1").into(); limits::STEPS]).unwrap();
        check_program(&vec![Statement::new("SELECT 1").into(); limits::STEPS + 1]).unwrap_err();
        check_program(&[put("a").expect(2, 1)]).unwrap_err();
    }
}
