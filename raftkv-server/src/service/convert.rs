//! What the state machine knows of, to and from the wire. What a client leaves out or mixes up is a [`Failure::Invalid`].

use raft_core::types::Index;
use raft_store_sqlite::{
    Action, Argument, Compare, Detail, Expect, Found, KeyRange, KeyValue, Lease, Lookup, Output, Parameter, Put,
    Relation, Statement, StatementResult, Step, StepResult, Target, Value,
};
use raftkv_proto::raftkv::v1 as wire;
use raftkv_proto::raftkv::v1::value::Kind;

use crate::store::{Consistency, Failure, Level};

pub(super) fn steps_from_wire(steps: Vec<wire::Step>) -> Result<Vec<Step>, Failure> {
    steps.into_iter().map(step_from_wire).collect()
}

fn step_from_wire(step: wire::Step) -> Result<Step, Failure> {
    let expect =
        step.expect.map(|wire::Expect { at_least, at_most }| Expect { at_least, at_most: at_most.unwrap_or(u64::MAX) });
    let action = match step.action.ok_or_else(|| missing("each step needs an action"))? {
        wire::step::Action::Put(wire::PutStep { key, value, lease, previous }) => {
            Action::Put(Put { key, value: argument_from_wire(value), lease, previous })
        }
        wire::step::Action::Delete(wire::DeleteStep { range, previous }) => {
            Action::Delete { range: range_from_wire(range)?, previous }
        }
        wire::step::Action::Get(lookup) => Action::Get(lookup_from_wire(lookup)?),
        wire::step::Action::Sql(statement) => Action::Sql(statement_from_wire(statement)),
        wire::step::Action::If(wire::IfStep { compare, then, otherwise }) => Action::If {
            compare: compare.into_iter().map(compare_from_wire).collect::<Result<_, _>>()?,
            then: steps_from_wire(then)?,
            otherwise: steps_from_wire(otherwise)?,
        },
    };
    Ok(Step { action, expect })
}

pub(super) fn range_from_wire(range: Option<wire::KeyRange>) -> Result<KeyRange, Failure> {
    let keys = range.and_then(|range| range.keys).ok_or_else(|| missing("a range needs a key, a prefix or a span"))?;
    Ok(match keys {
        wire::key_range::Keys::Key(key) => KeyRange::Key(key),
        wire::key_range::Keys::Prefix(prefix) => KeyRange::prefix(prefix),
        wire::key_range::Keys::Span(wire::Span { start, end }) => KeyRange::Span { start, end },
    })
}

pub(super) fn lookup_from_wire(lookup: wire::Lookup) -> Result<Lookup, Failure> {
    let detail = match wire::Detail::try_from(lookup.detail) {
        Ok(wire::Detail::Full) => Detail::Full,
        Ok(wire::Detail::Keys) => Detail::Keys,
        Ok(wire::Detail::Count) => Detail::Count,
        Err(_) => return Err(unknown("detail", lookup.detail)),
    };
    let wire::Lookup { range, revision, limit, .. } = lookup;
    Ok(Lookup { range: range_from_wire(range)?, revision, limit, detail })
}

fn compare_from_wire(compare: wire::Compare) -> Result<Compare, Failure> {
    let relation = match wire::Relation::try_from(compare.relation) {
        Ok(wire::Relation::Equal) => Relation::Equal,
        Ok(wire::Relation::NotEqual) => Relation::NotEqual,
        Ok(wire::Relation::Less) => Relation::Less,
        Ok(wire::Relation::Greater) => Relation::Greater,
        Err(_) => return Err(unknown("relation", compare.relation)),
    };
    let target = match compare.target.ok_or_else(|| missing("a comparison needs a target"))? {
        wire::compare::Target::Version(version) => Target::Version(version),
        wire::compare::Target::CreateRevision(revision) => Target::CreateRevision(revision),
        wire::compare::Target::ModRevision(revision) => Target::ModRevision(revision),
        wire::compare::Target::Value(value) => Target::Value(value),
        wire::compare::Target::Lease(lease) => Target::Lease(lease),
    };
    Ok(Compare { range: range_from_wire(compare.range)?, relation, target })
}

pub(super) fn statement_from_wire(statement: wire::Statement) -> Statement {
    let wire::Statement { sql, parameters } = statement;
    Statement { sql, parameters: parameters.into_iter().map(parameter_from_wire).collect() }
}

fn parameter_from_wire(parameter: wire::Parameter) -> Parameter {
    let wire::Parameter { name, value } = parameter;
    Parameter { name: (!name.is_empty()).then_some(name), value: argument_from_wire(value) }
}

fn argument_from_wire(value: Option<wire::Value>) -> Argument {
    Argument::Given(match value.and_then(|value| value.kind) {
        None => Value::Null,
        Some(Kind::Integer(integer)) => Value::Integer(integer),
        Some(Kind::Real(real)) => Value::Real(real),
        Some(Kind::Text(text)) => Value::Text(text),
        Some(Kind::Blob(blob)) => Value::Blob(blob),
        Some(Kind::Output(wire::Output { step, row, column })) => {
            return Argument::Output(Output { step, row, column });
        }
    })
}

pub(super) fn consistency_from_wire(consistency: Option<wire::Consistency>) -> Result<Consistency, Failure> {
    let Some(wire::Consistency { level, max_age_ms, applied_index }) = consistency else {
        return Ok(Consistency::default());
    };
    let level = match wire::Level::try_from(level) {
        Ok(wire::Level::Linearizable) => Level::Linearizable,
        Ok(wire::Level::Lease) => Level::Lease,
        Ok(wire::Level::Stale) => Level::Stale { max_age_ms: (max_age_ms > 0).then_some(max_age_ms) },
        Err(_) => return Err(unknown("level", level)),
    };
    Ok(Consistency { level, applied_index: Index(applied_index) })
}

pub(super) fn step_results_to_wire(results: Vec<StepResult>) -> Vec<wire::StepResult> {
    results.into_iter().map(|result| wire::StepResult { result: Some(step_result_to_wire(result)) }).collect()
}

fn step_result_to_wire(result: StepResult) -> wire::step_result::Result {
    use wire::step_result::Result;
    match result {
        StepResult::Put { replaced, previous } => {
            Result::Put(wire::PutResult { replaced, previous: previous.map(entry_to_wire) })
        }
        StepResult::Deleted { count, previous } => {
            Result::Delete(wire::DeleteResult { deleted: count, previous: entries_to_wire(previous) })
        }
        StepResult::Got(found) => Result::Get(found_to_wire(found)),
        StepResult::Sql(results) => Result::Sql(wire::SqlResult { results: results_to_wire(results) }),
        StepResult::If { held, results } => Result::If(wire::IfResult { held, results: step_results_to_wire(results) }),
    }
}

pub(super) fn found_to_wire(found: Found) -> wire::Found {
    let Found { entries, count, more } = found;
    wire::Found { entries: entries_to_wire(entries), count, more }
}

pub(super) fn entries_to_wire(entries: Vec<KeyValue>) -> Vec<wire::KeyValue> {
    entries.into_iter().map(entry_to_wire).collect()
}

pub(super) fn entry_to_wire(entry: KeyValue) -> wire::KeyValue {
    let KeyValue { key, value, create_revision, mod_revision, version, lease } = entry;
    wire::KeyValue { key, value, create_revision, mod_revision, version, lease }
}

pub(super) fn results_to_wire(results: Vec<StatementResult>) -> Vec<wire::StatementResult> {
    let result = |result| {
        let StatementResult { columns, rows, rows_affected, last_insert_id } = result;
        wire::StatementResult { columns, rows: rows_to_wire(rows), rows_affected, last_insert_id }
    };
    results.into_iter().map(result).collect()
}

pub(super) fn rows_to_wire(rows: Vec<Vec<Value>>) -> Vec<wire::Row> {
    let row = |values: Vec<Value>| wire::Row { values: values.into_iter().map(value_to_wire).collect() };
    rows.into_iter().map(row).collect()
}

fn value_to_wire(value: Value) -> wire::Value {
    let kind = match value {
        Value::Null => None,
        Value::Integer(integer) => Some(Kind::Integer(integer)),
        Value::Real(real) => Some(Kind::Real(real)),
        Value::Text(text) => Some(Kind::Text(text)),
        Value::Blob(blob) => Some(Kind::Blob(blob)),
    };
    wire::Value { kind }
}

pub(super) fn leases_to_wire(leases: Vec<Lease>) -> Vec<wire::LeaseStatus> {
    let lease = |Lease { lease, ttl_ms, remaining_ms, keys }| wire::LeaseStatus { lease, ttl_ms, remaining_ms, keys };
    leases.into_iter().map(lease).collect()
}

fn missing(what: &str) -> Failure {
    Failure::Invalid(what.to_owned())
}

fn unknown(what: &str, number: i32) -> Failure {
    Failure::Invalid(format!("this node does not know {what} {number}: it may be older than its client"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn values_keep_their_types_both_ways() {
        for value in [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Real(0.5),
            Value::Text("a".to_owned()),
            Value::Blob("b".into()),
        ] {
            let wire = wire::Parameter { name: ":x".to_owned(), value: Some(value_to_wire(value.clone())) };
            let name = Some(":x".to_owned());
            assert_eq!(parameter_from_wire(wire), Parameter { name, value: Argument::Given(value) });
        }
        let null = Parameter { name: None, value: Argument::Given(Value::Null) };
        assert_eq!(parameter_from_wire(wire::Parameter::default()), null);
    }

    #[test]
    fn what_is_left_out_or_not_known_is_refused() {
        let of = |action| vec![wire::Step { action, expect: None }];
        let lookup = |detail| wire::Lookup { range: key(), detail, ..wire::Lookup::default() };
        let compare = |relation, range| wire::Compare { range, relation, target: None };
        for (steps, why) in [
            (of(None), "needs an action"),
            (of(Some(wire::step::Action::Delete(wire::DeleteStep::default()))), "needs a key"),
            (of(Some(wire::step::Action::Get(lookup(9)))), "detail 9"),
            (of(Some(condition(compare(9, key())))), "relation 9"),
            (of(Some(condition(compare(0, key())))), "needs a target"),
        ] {
            let error = steps_from_wire(steps).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        consistency_from_wire(Some(wire::Consistency { level: 9, ..wire::Consistency::default() })).unwrap_err();
    }

    fn key() -> Option<wire::KeyRange> {
        Some(wire::KeyRange { keys: Some(wire::key_range::Keys::Key(Bytes::from_static(b"k"))) })
    }

    fn condition(compare: wire::Compare) -> wire::step::Action {
        wire::step::Action::If(wire::IfStep { compare: vec![compare], ..wire::IfStep::default() })
    }
}
