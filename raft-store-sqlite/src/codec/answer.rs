//! Answers to messages, and back.

use crate::answer::{Answer, Found, KeyValue, Outcome, StatementResult, StepResult};
use crate::codec::value::{value_from, value_message};
use crate::codec::{bad, wire};
use crate::error::Error;
use crate::step::Value;

const WHAT: &str = "a stored answer";

pub(super) fn answer_message(answer: &Answer) -> wire::Answer {
    let outcome = match &answer.outcome {
        Outcome::Ran(results) => wire::Outcome::Ran(wire::StepResults { results: step_messages(results) }),
        Outcome::LeaseGranted { lease } => wire::Outcome::LeaseGranted(*lease),
        Outcome::LeaseKept { ttl_ms } => wire::Outcome::LeaseKept(*ttl_ms),
        Outcome::LeaseRevoked { deleted } => wire::Outcome::LeaseRevoked(*deleted),
        Outcome::Compacted => wire::Outcome::Compacted(true),
        Outcome::Expired { more } => wire::Outcome::Expired(*more),
        Outcome::Marked => wire::Outcome::Marked(true),
        Outcome::Failed { message } => wire::Outcome::Failed(message.clone()),
        Outcome::Unexpected { message } => wire::Outcome::Unexpected(message.clone()),
        Outcome::NoSuchLease { lease } => wire::Outcome::NoSuchLease(*lease),
        Outcome::Forgotten | Outcome::TooManyUnanswered | Outcome::SessionExpired { .. } | Outcome::TooManySessions => {
            unreachable!("what a session refuses was not done, and its answer is not kept")
        }
    };
    wire::Answer { revision: answer.revision, outcome: Some(outcome) }
}

pub(super) fn answer_from(message: wire::Answer) -> Result<Answer, Error> {
    let outcome = match message.outcome.ok_or_else(|| bad(WHAT, "its outcome is unknown"))? {
        wire::Outcome::Ran(ran) => Outcome::Ran(steps_from(ran.results)?),
        wire::Outcome::LeaseGranted(lease) => Outcome::LeaseGranted { lease },
        wire::Outcome::LeaseKept(ttl_ms) => Outcome::LeaseKept { ttl_ms },
        wire::Outcome::LeaseRevoked(deleted) => Outcome::LeaseRevoked { deleted },
        wire::Outcome::Compacted(_) => Outcome::Compacted,
        wire::Outcome::Expired(more) => Outcome::Expired { more },
        wire::Outcome::Marked(_) => Outcome::Marked,
        wire::Outcome::Failed(message) => Outcome::Failed { message },
        wire::Outcome::Unexpected(message) => Outcome::Unexpected { message },
        wire::Outcome::NoSuchLease(lease) => Outcome::NoSuchLease { lease },
    };
    Ok(Answer { revision: message.revision, outcome })
}

fn step_messages(results: &[StepResult]) -> Vec<wire::StepResult> {
    let message = |result: &StepResult| match result {
        StepResult::Put { replaced, previous } => {
            wire::Result::Put(wire::PutResult { replaced: *replaced, previous: previous.as_ref().map(key_message) })
        }
        StepResult::Deleted { count, previous } => {
            let previous = previous.iter().map(key_message).collect();
            wire::Result::Deleted(wire::Deleted { count: *count, previous })
        }
        StepResult::Got(Found { entries, count, more }) => {
            let entries = entries.iter().map(key_message).collect();
            wire::Result::Got(wire::Found { entries, count: *count, more: *more })
        }
        StepResult::Sql(results) => {
            wire::Result::Sql(wire::SqlResults { results: results.iter().map(statement_message).collect() })
        }
        StepResult::If { held, results } => {
            wire::Result::If(wire::IfResult { held: *held, results: step_messages(results) })
        }
    };
    results.iter().map(|result| wire::StepResult { result: Some(message(result)) }).collect()
}

fn steps_from(messages: Vec<wire::StepResult>) -> Result<Vec<StepResult>, Error> {
    let keys = |messages: Vec<wire::KeyValue>| messages.into_iter().map(key_from).collect();
    let step = |message: wire::StepResult| {
        Ok(match message.result.ok_or_else(|| bad(WHAT, "what came of a step is unknown"))? {
            wire::Result::Put(put) => StepResult::Put { replaced: put.replaced, previous: put.previous.map(key_from) },
            wire::Result::Deleted(deleted) => {
                StepResult::Deleted { count: deleted.count, previous: keys(deleted.previous) }
            }
            wire::Result::Got(found) => {
                StepResult::Got(Found { entries: keys(found.entries), count: found.count, more: found.more })
            }
            wire::Result::Sql(sql) => {
                StepResult::Sql(sql.results.into_iter().map(statement_from).collect::<Result<_, _>>()?)
            }
            wire::Result::If(ran) => StepResult::If { held: ran.held, results: steps_from(ran.results)? },
        })
    };
    messages.into_iter().map(step).collect()
}

fn key_message(entry: &KeyValue) -> wire::KeyValue {
    let KeyValue { key, value, create_revision, mod_revision, version, lease } = entry.clone();
    wire::KeyValue { key, value, create_revision, mod_revision, version, lease }
}

fn key_from(message: wire::KeyValue) -> KeyValue {
    let wire::KeyValue { key, value, create_revision, mod_revision, version, lease } = message;
    KeyValue { key, value, create_revision, mod_revision, version, lease }
}

fn statement_message(result: &StatementResult) -> wire::StatementResult {
    let row = |row: &Vec<Value>| wire::Row { values: row.iter().cloned().map(value_message).collect() };
    wire::StatementResult {
        columns: result.columns.clone(),
        rows: result.rows.iter().map(row).collect(),
        rows_affected: result.rows_affected,
        last_insert_id: result.last_insert_id,
    }
}

fn statement_from(message: wire::StatementResult) -> Result<StatementResult, Error> {
    let row =
        |row: wire::Row| row.values.into_iter().map(|value| value_from(Some(value))).collect::<Result<_, Error>>();
    Ok(StatementResult {
        columns: message.columns,
        rows: message.rows.into_iter().map(row).collect::<Result<_, Error>>()?,
        rows_affected: message.rows_affected,
        last_insert_id: message.last_insert_id,
    })
}
