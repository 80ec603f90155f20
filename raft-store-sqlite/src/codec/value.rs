//! Values to messages, and back.

use crate::codec::{bad, wire};
use crate::error::Error;
use crate::step::{Argument, Output, Value};

pub(super) fn argument_message(argument: &Argument) -> wire::Argument {
    let source = match argument {
        Argument::Given(value) => wire::Source::Given(value_message(value.clone())),
        Argument::Output(Output { step, row, column }) => {
            wire::Source::Output(wire::Output { step: *step, row: *row, column: *column })
        }
    };
    wire::Argument { source: Some(source) }
}

pub(super) fn argument_from(message: Option<wire::Argument>) -> Result<Argument, Error> {
    let source = message.and_then(|argument| argument.source);
    Ok(match source.ok_or_else(|| bad("a command", "where a value comes from is unknown"))? {
        wire::Source::Given(value) => Argument::Given(value_from(Some(value))?),
        wire::Source::Output(wire::Output { step, row, column }) => Argument::Output(Output { step, row, column }),
    })
}

pub(crate) fn value_message(value: Value) -> wire::Value {
    let kind = match value {
        Value::Null => wire::Kind::Null(true),
        Value::Integer(integer) => wire::Kind::Integer(integer),
        Value::Real(real) => wire::Kind::Real(real),
        Value::Text(text) => wire::Kind::Text(text),
        Value::Blob(blob) => wire::Kind::Blob(blob),
    };
    wire::Value { kind: Some(kind) }
}

/// NULL is stored as such: what stores nothing is of a kind that this version does not know.
pub(super) fn value_from(message: Option<wire::Value>) -> Result<Value, Error> {
    let kind = message.and_then(|value| value.kind).ok_or_else(|| bad("a value", "its type is unknown"))?;
    Ok(match kind {
        wire::Kind::Null(_) => Value::Null,
        wire::Kind::Integer(integer) => Value::Integer(integer),
        wire::Kind::Real(real) => Value::Real(real),
        wire::Kind::Text(text) => Value::Text(text),
        wire::Kind::Blob(blob) => Value::Blob(blob),
    })
}
