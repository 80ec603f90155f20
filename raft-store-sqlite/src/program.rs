//! Running programs: steps over keys and SQL, in one transaction that is the caller's to begin and to end.

use std::borrow::Cow;

use bytes::Bytes;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::answer::{KeyValue, StatementResult, StepResult};
use crate::error::Error;
use crate::execution::{self, Budget, Failure as SqlFailure, Rule, statement};
use crate::kv::bytes::StoredBytes;
use crate::kv::lookup::lookup;
use crate::kv::{self, Changes, lease};
use crate::limits;
use crate::position::Readable;
use crate::rows::RowWatch;
use crate::sandbox::Fence;
use crate::step::{
    Action, Argument, Compare, Detail, Expect, KeyRange, Lookup, Output, Parameter, Put, Relation, Statement, Step,
    Target, Value,
};

/// Why a program did not end well. What it did is the caller's to undo.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A step failed, or SQLite did.
    Step(SqlFailure),
    /// A step did not count what the program expects.
    Unexpected(String),
    /// A key was to be put under a lease that is not there.
    NoSuchLease(u64),
    /// What was asked for is not known at this revision.
    Revision(Error),
}

impl From<SqlFailure> for Failure {
    fn from(failure: SqlFailure) -> Self {
        Self::Step(failure)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Step(SqlFailure::Sqlite(error))
    }
}

/// What a program runs on.
pub(crate) struct Run<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) fence: &'a Fence<'a>,
    /// What SQL must be.
    pub(crate) rule: Rule,
    /// How much the results may hold.
    pub(crate) budget: Budget,
    /// Which revisions can be read.
    pub(crate) readable: Readable,
    /// Log time.
    pub(crate) time_ms: u64,
    /// What is changed. None if nothing may be.
    pub(crate) changes: Option<&'a mut Changes>,
    /// Who watches the rows that are changed.
    pub(crate) rows: Option<&'a mut RowWatch>,
}

impl Run<'_> {
    /// Runs the steps in order. The first that fails ends it.
    pub(crate) fn steps(&mut self, steps: &[Step]) -> Result<Vec<StepResult>, Failure> {
        let mut results = Vec::with_capacity(steps.len());
        for (place, step) in steps.iter().enumerate() {
            let result = self.action(&step.action, &results)?;
            if let Some(expect) = step.expect {
                check_count(place, expect, &result)?;
            }
            results.push(result);
        }
        Ok(results)
    }

    fn action(&mut self, action: &Action, earlier: &[StepResult]) -> Result<StepResult, Failure> {
        match action {
            Action::Put(put) => self.put(put, earlier),
            Action::Delete { range, previous } => self.delete(range, *previous),
            Action::Get(lookup) => self.get(lookup),
            Action::Sql(statement) => self.sql(statement, earlier),
            Action::If { compare, then, otherwise } => {
                let held = self.all_hold(compare)?;
                let results = self.steps(if held { then } else { otherwise })?;
                Ok(StepResult::If { held, results })
            }
        }
    }

    fn put(&mut self, put: &Put, earlier: &[StepResult]) -> Result<StepResult, Failure> {
        let value = stored(resolve(&put.value, earlier)?.as_ref())?;
        let Self { connection, fence, time_ms, budget, changes, .. } = self;
        let changes = changes.as_deref_mut().ok_or_else(only_reads)?;
        fence.aside(|| {
            if put.lease != 0 && !lease::lasts(connection, put.lease, *time_ms)? {
                return Err(Failure::NoSuchLease(put.lease));
            }
            let previous = if put.previous { kv::find(connection, &put.key)? } else { None };
            previous.iter().try_for_each(|entry| budget.spend_entry(entry))?;
            let replaced = changes.put(connection, &put.key, &value, put.lease)?;
            Ok(StepResult::Put { replaced, previous })
        })
    }

    fn delete(&mut self, range: &KeyRange, previous: bool) -> Result<StepResult, Failure> {
        let Self { connection, fence, budget, changes, .. } = self;
        let changes = changes.as_deref_mut().ok_or_else(only_reads)?;
        fence.aside(|| {
            let previous = match previous {
                true => lookup(connection, &Lookup::range(range.clone()), budget)?.entries,
                false => Vec::new(),
            };
            let count = delete_range(connection, changes, range)?;
            Ok(StepResult::Deleted { count, previous })
        })
    }

    fn get(&mut self, wanted: &Lookup) -> Result<StepResult, Failure> {
        self.readable.check(wanted.revision).map_err(Failure::Revision)?;
        let Self { connection, fence, budget, .. } = self;
        Ok(StepResult::Got(fence.aside(|| lookup(connection, wanted, budget))?))
    }

    fn sql(&mut self, statement: &Statement, earlier: &[StepResult]) -> Result<StepResult, Failure> {
        let statement = with_values(statement, earlier)?;
        let Self { connection, fence, rule, budget, rows, .. } = self;
        let ran = execution::run(connection, fence, &statement, *rule, budget, rows.as_deref_mut());
        if let Some(why) = self.fence.overstepped() {
            return Err(SqlFailure::Refused(why).into());
        }
        Ok(StepResult::Sql(ran?))
    }

    fn all_hold(&mut self, compare: &[Compare]) -> Result<bool, Failure> {
        for compare in compare {
            let Self { connection, fence, .. } = self;
            if !fence.aside(|| holds(connection, compare))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Deletes the keys of a range. Returns how many there were.
fn delete_range(connection: &Connection, changes: &mut Changes, range: &KeyRange) -> Result<u64, Failure> {
    if let KeyRange::Key(key) = range {
        return Ok(changes.delete(connection, key)?.into());
    }
    let keys = kv::keys(connection, range, limits::DELETED + 1)?;
    if keys.len() > limits::DELETED {
        return Err(
            statement(format!("there are more than {} keys to delete: delete fewer at once", limits::DELETED)).into()
        );
    }
    keys.iter().try_for_each(|key| changes.delete(connection, key).map(|_| ()))?;
    Ok(keys.len() as u64)
}

/// Whether a comparison holds, of each key that it is about.
fn holds(connection: &Connection, compare: &Compare) -> Result<bool, Failure> {
    match &compare.range {
        KeyRange::Key(key) => {
            let entry = kv::find(connection, key)?;
            let is_absent = entry.is_none();
            // As in etcd, nothing holds of the value of a key that is not there, not even that it differs.
            Ok(holds_of(compare, &entry.unwrap_or_default())
                && !(is_absent && matches!(compare.target, Target::Value(_))))
        }
        range => {
            let detail = if matches!(compare.target, Target::Value(_)) { Detail::Full } else { Detail::Keys };
            // What is compared is not told, and so not of the results' budget; but it must fit into memory.
            let mut budget = Budget::new(usize::MAX, limits::ANSWER_BYTES);
            let wanted = Lookup { detail, ..Lookup::range(range.clone()) };
            let found = lookup(connection, &wanted, &mut budget)?;
            Ok(found.entries.iter().all(|entry| holds_of(compare, entry)))
        }
    }
}

fn holds_of(compare: &Compare, entry: &KeyValue) -> bool {
    let order = match &compare.target {
        Target::Version(version) => entry.version.cmp(version),
        Target::CreateRevision(revision) => entry.create_revision.cmp(revision),
        Target::ModRevision(revision) => entry.mod_revision.cmp(revision),
        Target::Value(value) => entry.value.cmp(value),
        Target::Lease(lease) => entry.lease.cmp(lease),
    };
    match compare.relation {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Less => order.is_lt(),
        Relation::Greater => order.is_gt(),
    }
}

/// The statement with what earlier steps yield for its parameters.
fn with_values<'a>(statement: &'a Statement, earlier: &[StepResult]) -> Result<Cow<'a, Statement>, Failure> {
    if statement.parameters.iter().all(|parameter| matches!(parameter.value, Argument::Given(_))) {
        return Ok(Cow::Borrowed(statement));
    }
    let value = |parameter: &Parameter| {
        let value = Argument::Given(resolve(&parameter.value, earlier)?.into_owned());
        Ok(Parameter { name: parameter.name.clone(), value })
    };
    let parameters = statement.parameters.iter().map(value).collect::<Result<_, Failure>>()?;
    Ok(Cow::Owned(Statement { sql: statement.sql.clone(), parameters }))
}

fn resolve<'a>(argument: &'a Argument, earlier: &[StepResult]) -> Result<Cow<'a, Value>, Failure> {
    match argument {
        Argument::Given(value) => Ok(Cow::Borrowed(value)),
        Argument::Output(output) => {
            let value = output_of(*output, earlier);
            Ok(Cow::Owned(value.ok_or_else(|| {
                let Output { step, row, column } = output;
                statement(format!("step {step} yields no value in row {row}, column {column} (counted from 0)"))
            })?))
        }
    }
}

fn output_of(Output { step, row, column }: Output, earlier: &[StepResult]) -> Option<Value> {
    let (row, column) = (row as usize, column as usize);
    match earlier.get(step as usize)? {
        StepResult::Sql(results) => results.last()?.rows.get(row)?.get(column).cloned(),
        StepResult::Got(found) => {
            let KeyValue { key, value, create_revision, mod_revision, version, lease } = found.entries.get(row)?;
            // These are stored, so they fit.
            let number = |number: u64| Value::Integer(number as i64);
            match column {
                0 => Some(as_sql(key)),
                1 => Some(as_sql(value)),
                2 => Some(number(*create_revision)),
                3 => Some(number(*mod_revision)),
                4 => Some(number(*version)),
                5 => Some(number(*lease)),
                _ => None,
            }
        }
        StepResult::Put { .. } | StepResult::Deleted { .. } | StepResult::If { .. } => None,
    }
}

/// Bytes as SQL sees them in `kv`.
fn as_sql(bytes: &Bytes) -> Value {
    match StoredBytes::of(bytes) {
        StoredBytes::Text(text) => ValueRef::Text(text).into(),
        StoredBytes::Blob(_) => Value::Blob(bytes.clone()),
    }
}

/// What is stored as a key's value.
fn stored(value: &Value) -> Result<Bytes, Failure> {
    let bytes = match value {
        Value::Null => return Err(statement("a key's value can't be NULL").into()),
        Value::Integer(integer) => integer.to_string().into(),
        Value::Real(real) => Bytes::from(as_text(*real)),
        Value::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
        Value::Blob(blob) => blob.clone(),
    };
    if bytes.len() > limits::VALUE_BYTES {
        return Err(statement(format!("the value holds more than {} bytes", limits::VALUE_BYTES)).into());
    }
    Ok(bytes)
}

/// A number as text: the shortest that is read back as the same number, always with a point or an exponent.
fn as_text(real: f64) -> String {
    format!("{real:?}")
}

fn check_count(place: usize, Expect { at_least, at_most }: Expect, result: &StepResult) -> Result<(), Failure> {
    let count = count_of(result);
    if (at_least..=at_most).contains(&count) {
        return Ok(());
    }
    let expected = match (at_least, at_most) {
        (least, most) if least == most => format!("{least}"),
        (0, most) => format!("at most {most}"),
        (least, u64::MAX) => format!("at least {least}"),
        (least, most) => format!("{least} to {most}"),
    };
    Err(Failure::Unexpected(format!("step {place} counts {count}, and {expected} was expected: nothing was changed")))
}

/// How many a step has concerned.
fn count_of(result: &StepResult) -> u64 {
    match result {
        StepResult::Put { .. } => 1,
        StepResult::Deleted { count, .. } => *count,
        StepResult::Got(found) => found.count,
        StepResult::Sql(results) => results.last().map_or(0, rows_of),
        StepResult::If { held, .. } => u64::from(*held),
    }
}

fn rows_of(result: &StatementResult) -> u64 {
    if result.columns.is_empty() { result.rows_affected } else { result.rows.len() as u64 }
}

fn only_reads() -> Failure {
    SqlFailure::Refused("a read can't change anything".into()).into()
}
