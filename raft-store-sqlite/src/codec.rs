//! How commands, answers and memberships are stored: a byte that says the version, then a protobuf message.
//!
//! A reader refuses versions that it doesn't know. Fields may be added within a version only if an older reader may
//! safely ignore them; whatever changes what an entry does needs a new version.

use bytes::{BufMut, Bytes, BytesMut};
use prost::{Message, Oneof};
use raft_core::membership::Membership;
use raft_core::types::{Incarnation, Member, NodeId};

use crate::command::{Answer, Command, Operation, Outcome, Parameter, SessionId, Statement, StatementResult, Value};
use crate::error::Error;

/// The newest version of each format. The first byte, so that it can never be taken for what follows.
const COMMAND: u8 = 1;
const ANSWER: u8 = 1;
/// 2 since there are priorities, and members that are promoted by themselves.
const MEMBERSHIP: u8 = 2;

/// A membership as it stands in the log.
pub(crate) fn encode_membership(membership: &Membership) -> Bytes {
    let ids = |set: &std::collections::BTreeSet<NodeId>| set.iter().map(|id| id.0).collect();
    let members = membership.members.iter().map(|(id, member)| wire::Member {
        id: id.0,
        address: member.address.clone(),
        incarnation: member.incarnation.0,
        priority: member.priority,
    });
    let message = wire::Membership {
        members: members.collect(),
        voters: ids(&membership.voters),
        outgoing: ids(&membership.outgoing),
        learners: ids(&membership.learners),
        promotable: ids(&membership.promotable),
        stays_joint: membership.stays_joint,
    };
    pack(MEMBERSHIP, &message)
}

/// Reads what [`encode_membership`] wrote.
pub(crate) fn decode_membership(bytes: &[u8]) -> Result<Membership, Error> {
    let message: wire::Membership = unpack("a membership", MEMBERSHIP, bytes)?;
    let ids = |list: Vec<u64>| list.into_iter().map(NodeId).collect();
    let member = |m: wire::Member| {
        let incarnation = Incarnation(m.incarnation);
        (NodeId(m.id), Member { address: m.address, incarnation, priority: m.priority })
    };
    Ok(Membership {
        voters: ids(message.voters),
        outgoing: ids(message.outgoing),
        learners: ids(message.learners),
        promotable: ids(message.promotable),
        stays_joint: message.stays_joint,
        members: message.members.into_iter().map(member).collect(),
    })
}

/// A command as it stands in the log.
pub(crate) fn encode_command(command: &Command) -> Bytes {
    pack(COMMAND, &command_message(command))
}

/// The length of what [`encode_command`] gives.
pub(crate) fn command_bytes(command: &Command) -> usize {
    1 + command_message(command).encoded_len()
}

/// Reads what [`encode_command`] wrote.
pub(crate) fn decode_command(bytes: &[u8]) -> Result<Command, Error> {
    const WHAT: &str = "a command";
    let message: wire::Command = unpack(WHAT, COMMAND, bytes)?;
    let seed = <[u8; 16]>::try_from(message.seed.as_ref()).map_err(|_| bad(WHAT, "its seed does not have 16 bytes"))?;
    let operation = match message.operation.ok_or_else(|| bad(WHAT, "its operation is unknown"))? {
        wire::Operation::Put(put) => Operation::Put { key: put.key, value: put.value },
        wire::Operation::Delete(delete) => Operation::Delete { key: delete.key },
        wire::Operation::Sql(sql) => {
            Operation::Sql { statements: sql.statements.into_iter().map(statement_from).collect::<Result<_, _>>()? }
        }
    };
    let session = message.session.map(|s| SessionId { client: s.client, sequence: s.sequence, answered: s.answered });
    Ok(Command { time_ms: message.time_ms, seed, session, operation })
}

/// An answer as it is kept with its session.
pub(crate) fn encode_answer(answer: &Answer) -> Bytes {
    let outcome = match &answer.outcome {
        Outcome::Put { replaced } => wire::Outcome::Put(*replaced),
        Outcome::Deleted { count } => wire::Outcome::Deleted(*count),
        Outcome::Sql(results) => {
            wire::Outcome::Sql(wire::Results { results: results.iter().map(result_message).collect() })
        }
        Outcome::Failed { message } => wire::Outcome::Failed(message.clone()),
        Outcome::Forgotten => wire::Outcome::Forgotten(true),
        Outcome::TooManyUnanswered => wire::Outcome::TooManyUnanswered(true),
    };
    pack(ANSWER, &wire::Answer { revision: answer.revision, outcome: Some(outcome) })
}

/// Reads what [`encode_answer`] wrote.
pub(crate) fn decode_answer(bytes: &[u8]) -> Result<Answer, Error> {
    const WHAT: &str = "a stored answer";
    let message: wire::Answer = unpack(WHAT, ANSWER, bytes)?;
    let outcome = match message.outcome.ok_or_else(|| bad(WHAT, "its outcome is unknown"))? {
        wire::Outcome::Put(replaced) => Outcome::Put { replaced },
        wire::Outcome::Deleted(count) => Outcome::Deleted { count },
        wire::Outcome::Sql(sql) => Outcome::Sql(sql.results.into_iter().map(result_from).collect::<Result<_, _>>()?),
        wire::Outcome::Failed(message) => Outcome::Failed { message },
        wire::Outcome::Forgotten(_) => Outcome::Forgotten,
        wire::Outcome::TooManyUnanswered(_) => Outcome::TooManyUnanswered,
    };
    Ok(Answer { revision: message.revision, outcome })
}

fn command_message(command: &Command) -> wire::Command {
    let operation = match &command.operation {
        Operation::Put { key, value } => wire::Operation::Put(wire::Put { key: key.clone(), value: value.clone() }),
        Operation::Delete { key } => wire::Operation::Delete(wire::Delete { key: key.clone() }),
        Operation::Sql { statements } => {
            wire::Operation::Sql(wire::Sql { statements: statements.iter().map(statement_message).collect() })
        }
    };
    let session = command.session.as_ref().map(|session| wire::Session {
        client: session.client.clone(),
        sequence: session.sequence,
        answered: session.answered,
    });
    let seed = Bytes::copy_from_slice(&command.seed);
    wire::Command { time_ms: command.time_ms, seed, session, operation: Some(operation) }
}

fn statement_message(statement: &Statement) -> wire::Statement {
    let parameter = |p: &Parameter| wire::Parameter { name: p.name.clone(), value: Some(value_message(&p.value)) };
    wire::Statement { sql: statement.sql.clone(), parameters: statement.parameters.iter().map(parameter).collect() }
}

fn statement_from(message: wire::Statement) -> Result<Statement, Error> {
    let parameter = |p: wire::Parameter| Ok(Parameter { name: p.name, value: value_from(p.value)? });
    let parameters = message.parameters.into_iter().map(parameter).collect::<Result<_, Error>>()?;
    Ok(Statement { sql: message.sql, parameters })
}

fn result_message(result: &StatementResult) -> wire::StatementResult {
    let row = |row: &Vec<Value>| wire::Row { values: row.iter().map(value_message).collect() };
    wire::StatementResult {
        columns: result.columns.clone(),
        rows: result.rows.iter().map(row).collect(),
        rows_affected: result.rows_affected,
        last_insert_id: result.last_insert_id,
    }
}

fn result_from(message: wire::StatementResult) -> Result<StatementResult, Error> {
    let row =
        |row: wire::Row| row.values.into_iter().map(|value| value_from(Some(value))).collect::<Result<_, Error>>();
    Ok(StatementResult {
        columns: message.columns,
        rows: message.rows.into_iter().map(row).collect::<Result<_, Error>>()?,
        rows_affected: message.rows_affected,
        last_insert_id: message.last_insert_id,
    })
}

fn value_message(value: &Value) -> wire::Value {
    let kind = match value {
        Value::Null => wire::Kind::Null(true),
        Value::Integer(integer) => wire::Kind::Integer(*integer),
        Value::Real(real) => wire::Kind::Real(*real),
        Value::Text(text) => wire::Kind::Text(text.clone()),
        Value::Blob(blob) => wire::Kind::Blob(blob.clone()),
    };
    wire::Value { kind: Some(kind) }
}

/// NULL is stored as such: what stores nothing is of a kind that this version does not know.
fn value_from(message: Option<wire::Value>) -> Result<Value, Error> {
    let kind = message.and_then(|value| value.kind).ok_or_else(|| bad("a value", "its type is unknown"))?;
    Ok(match kind {
        wire::Kind::Null(_) => Value::Null,
        wire::Kind::Integer(integer) => Value::Integer(integer),
        wire::Kind::Real(real) => Value::Real(real),
        wire::Kind::Text(text) => Value::Text(text),
        wire::Kind::Blob(blob) => Value::Blob(blob),
    })
}

fn pack(version: u8, message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    bytes.put_u8(version);
    message.encode(&mut bytes).expect("a BytesMut grows as needed");
    bytes.freeze()
}

fn unpack<M: Message + Default>(what: &'static str, newest: u8, bytes: &[u8]) -> Result<M, Error> {
    let (version, rest) = bytes.split_first().ok_or_else(|| bad(what, "it is empty"))?;
    if !(1..=newest).contains(version) {
        return Err(bad(what, &format!("it has format {version}, and this version knows formats up to {newest}")));
    }
    M::decode(rest).map_err(|error| bad(what, &error.to_string()))
}

fn bad(what: &'static str, why: &str) -> Error {
    Error::Undecodable { what, why: why.into() }
}

/// The messages. Tags are never used for something else.
mod wire {
    use super::{Bytes, Message, Oneof};

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Member {
        #[prost(uint64, tag = "1")]
        pub(super) id: u64,
        #[prost(string, tag = "2")]
        pub(super) address: String,
        #[prost(fixed64, tag = "3")]
        pub(super) incarnation: u64,
        #[prost(uint32, tag = "4")]
        pub(super) priority: u32,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Membership {
        #[prost(message, repeated, tag = "1")]
        pub(super) members: Vec<Member>,
        #[prost(uint64, repeated, tag = "2")]
        pub(super) voters: Vec<u64>,
        #[prost(uint64, repeated, tag = "3")]
        pub(super) outgoing: Vec<u64>,
        #[prost(uint64, repeated, tag = "4")]
        pub(super) learners: Vec<u64>,
        #[prost(uint64, repeated, tag = "5")]
        pub(super) promotable: Vec<u64>,
        #[prost(bool, tag = "6")]
        pub(super) stays_joint: bool,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Command {
        #[prost(uint64, tag = "1")]
        pub(super) time_ms: u64,
        #[prost(bytes = "bytes", tag = "2")]
        pub(super) seed: Bytes,
        #[prost(message, optional, tag = "3")]
        pub(super) session: Option<Session>,
        #[prost(oneof = "Operation", tags = "4, 5, 6")]
        pub(super) operation: Option<Operation>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Session {
        #[prost(bytes = "bytes", tag = "1")]
        pub(super) client: Bytes,
        #[prost(uint64, tag = "2")]
        pub(super) sequence: u64,
        #[prost(uint64, tag = "3")]
        pub(super) answered: u64,
    }

    #[derive(Clone, PartialEq, Oneof)]
    pub(super) enum Operation {
        #[prost(message, tag = "4")]
        Put(Put),
        #[prost(message, tag = "5")]
        Delete(Delete),
        #[prost(message, tag = "6")]
        Sql(Sql),
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Put {
        #[prost(bytes = "bytes", tag = "1")]
        pub(super) key: Bytes,
        #[prost(bytes = "bytes", tag = "2")]
        pub(super) value: Bytes,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Delete {
        #[prost(bytes = "bytes", tag = "1")]
        pub(super) key: Bytes,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Sql {
        #[prost(message, repeated, tag = "1")]
        pub(super) statements: Vec<Statement>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Statement {
        #[prost(string, tag = "1")]
        pub(super) sql: String,
        #[prost(message, repeated, tag = "2")]
        pub(super) parameters: Vec<Parameter>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Parameter {
        #[prost(string, optional, tag = "1")]
        pub(super) name: Option<String>,
        #[prost(message, optional, tag = "2")]
        pub(super) value: Option<Value>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Value {
        #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5")]
        pub(super) kind: Option<Kind>,
    }

    #[derive(Clone, PartialEq, Oneof)]
    pub(super) enum Kind {
        #[prost(sint64, tag = "1")]
        Integer(i64),
        #[prost(double, tag = "2")]
        Real(f64),
        #[prost(string, tag = "3")]
        Text(String),
        #[prost(bytes = "bytes", tag = "4")]
        Blob(Bytes),
        #[prost(bool, tag = "5")]
        Null(bool),
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Answer {
        #[prost(uint64, tag = "1")]
        pub(super) revision: u64,
        #[prost(oneof = "Outcome", tags = "2, 3, 4, 5, 6, 7")]
        pub(super) outcome: Option<Outcome>,
    }

    #[derive(Clone, PartialEq, Oneof)]
    pub(super) enum Outcome {
        #[prost(bool, tag = "2")]
        Put(bool),
        #[prost(uint64, tag = "3")]
        Deleted(u64),
        #[prost(message, tag = "4")]
        Sql(Results),
        #[prost(string, tag = "5")]
        Failed(String),
        #[prost(bool, tag = "6")]
        Forgotten(bool),
        #[prost(bool, tag = "7")]
        TooManyUnanswered(bool),
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Results {
        #[prost(message, repeated, tag = "1")]
        pub(super) results: Vec<StatementResult>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct StatementResult {
        #[prost(string, repeated, tag = "1")]
        pub(super) columns: Vec<String>,
        #[prost(message, repeated, tag = "2")]
        pub(super) rows: Vec<Row>,
        #[prost(uint64, tag = "3")]
        pub(super) rows_affected: u64,
        #[prost(sint64, tag = "4")]
        pub(super) last_insert_id: i64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Row {
        #[prost(message, repeated, tag = "1")]
        pub(super) values: Vec<Value>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        let member = |id: u64| Member { address: format!("n{id}"), incarnation: Incarnation(id), priority: 7 };
        let mut membership = Membership::of_voters([(NodeId(1), member(1)), (NodeId(2), member(2))].into());
        membership.learners.insert(NodeId(3));
        membership.promotable.insert(NodeId(3));
        membership.members.insert(NodeId(3), Member::default());
        membership.stays_joint = true;
        membership
    }

    #[test]
    fn a_membership_is_read_as_it_was_stored() {
        assert_eq!(decode_membership(&encode_membership(&membership())).unwrap(), membership());
    }

    #[test]
    fn a_membership_of_the_first_format_is_read_and_newer_ones_are_refused() {
        let mut first = membership();
        first.promotable.clear();
        first.stays_joint = false;
        first.members.values_mut().for_each(|member| member.priority = 0);
        let mut bytes = encode_membership(&first).to_vec();
        bytes[0] = 1;
        assert_eq!(decode_membership(&bytes).unwrap(), first);
        for version in [0, 3] {
            bytes[0] = version;
            assert!(matches!(decode_membership(&bytes), Err(Error::Undecodable { .. })), "{version}");
        }
    }
}
