//! Commands to messages, and back.

use crate::codec::value::{argument_from, argument_message};
use crate::codec::{bad, wire};
use crate::command::{Command, Operation, SessionId};
use crate::error::Error;
use crate::step::{
    Action, Compare, Detail, Expect, KeyRange, Lookup, Parameter, Put, Relation, Statement, Step, Target,
};
use bytes::Bytes;

const WHAT: &str = "a command";

pub(super) fn command_message(command: &Command) -> wire::Command {
    let operation = match &command.operation {
        Operation::Run(steps) => wire::Operation::Run(wire::Program { steps: step_messages(steps) }),
        Operation::GrantLease { lease, ttl_ms } => {
            wire::Operation::GrantLease(wire::GrantLease { lease: *lease, ttl_ms: *ttl_ms })
        }
        Operation::KeepLease { lease } => wire::Operation::KeepLease(*lease),
        Operation::RevokeLease { lease } => wire::Operation::RevokeLease(*lease),
        Operation::Compact { revision } => wire::Operation::Compact(*revision),
        Operation::Expire => wire::Operation::Expire(true),
        Operation::Mark => wire::Operation::Mark(true),
    };
    let session = command.session.as_ref().map(|session| wire::Session {
        client: session.client.clone(),
        opened_ms: session.opened_ms,
        sequence: session.sequence,
        answered: session.answered,
    });
    let seed = Bytes::copy_from_slice(&command.seed);
    wire::Command { time_ms: command.time_ms, seed, session, operation: Some(operation) }
}

pub(super) fn command_from(message: wire::Command) -> Result<Command, Error> {
    let seed = <[u8; 16]>::try_from(message.seed.as_ref()).map_err(|_| bad(WHAT, "its seed does not have 16 bytes"))?;
    let operation = match message.operation.ok_or_else(|| bad(WHAT, "its operation is unknown"))? {
        wire::Operation::Run(program) => Operation::Run(steps_from(program.steps)?),
        wire::Operation::GrantLease(grant) => Operation::GrantLease { lease: grant.lease, ttl_ms: grant.ttl_ms },
        wire::Operation::KeepLease(lease) => Operation::KeepLease { lease },
        wire::Operation::RevokeLease(lease) => Operation::RevokeLease { lease },
        wire::Operation::Compact(revision) => Operation::Compact { revision },
        wire::Operation::Expire(_) => Operation::Expire,
        wire::Operation::Mark(_) => Operation::Mark,
    };
    let session = message.session.map(|session| SessionId {
        client: session.client,
        opened_ms: session.opened_ms,
        sequence: session.sequence,
        answered: session.answered,
    });
    Ok(Command { time_ms: message.time_ms, seed, session, operation })
}

fn step_messages(steps: &[Step]) -> Vec<wire::Step> {
    let expect = |expect: Expect| wire::Expect { at_least: expect.at_least, at_most: expect.at_most };
    let step = |step: &Step| wire::Step { action: Some(action_message(&step.action)), expect: step.expect.map(expect) };
    steps.iter().map(step).collect()
}

fn steps_from(messages: Vec<wire::Step>) -> Result<Vec<Step>, Error> {
    let expect = |expect: wire::Expect| Expect { at_least: expect.at_least, at_most: expect.at_most };
    let step = |step: wire::Step| {
        let action = step.action.ok_or_else(|| bad(WHAT, "what one of its steps does is unknown"))?;
        Ok(Step { action: action_from(action)?, expect: step.expect.map(expect) })
    };
    messages.into_iter().map(step).collect()
}

fn action_message(action: &Action) -> wire::Action {
    match action {
        Action::Put(put) => wire::Action::Put(wire::Put {
            key: put.key.clone(),
            value: Some(argument_message(&put.value)),
            lease: put.lease,
            previous: put.previous,
        }),
        Action::Delete { range, previous } => {
            wire::Action::Delete(wire::Delete { range: Some(range_message(range)), previous: *previous })
        }
        Action::Get(lookup) => wire::Action::Get(lookup_message(lookup)),
        Action::Sql(statement) => wire::Action::Sql(statement_message(statement)),
        Action::If { compare, then, otherwise } => wire::Action::If(wire::If {
            compare: compare.iter().map(compare_message).collect(),
            then: step_messages(then),
            otherwise: step_messages(otherwise),
        }),
    }
}

fn action_from(message: wire::Action) -> Result<Action, Error> {
    Ok(match message {
        wire::Action::Put(put) => Action::Put(Put {
            key: put.key,
            value: argument_from(put.value)?,
            lease: put.lease,
            previous: put.previous,
        }),
        wire::Action::Delete(delete) => Action::Delete { range: range_from(delete.range)?, previous: delete.previous },
        wire::Action::Get(lookup) => Action::Get(lookup_from(lookup)?),
        wire::Action::Sql(statement) => Action::Sql(statement_from(statement)?),
        wire::Action::If(condition) => Action::If {
            compare: condition.compare.into_iter().map(compare_from).collect::<Result<_, _>>()?,
            then: steps_from(condition.then)?,
            otherwise: steps_from(condition.otherwise)?,
        },
    })
}

fn range_message(range: &KeyRange) -> wire::KeyRange {
    let (start, end) = match range {
        KeyRange::Key(key) => (key, wire::KeyEnd::Single(true)),
        KeyRange::Span { start, end: Some(end) } => (start, wire::KeyEnd::Before(end.clone())),
        KeyRange::Span { start, end: None } => (start, wire::KeyEnd::Open(true)),
    };
    wire::KeyRange { start: start.clone(), end: Some(end) }
}

fn range_from(message: Option<wire::KeyRange>) -> Result<KeyRange, Error> {
    let wire::KeyRange { start, end } = message.ok_or_else(|| bad(WHAT, "it does not say which keys"))?;
    Ok(match end.ok_or_else(|| bad(WHAT, "how a range of keys ends is unknown"))? {
        wire::KeyEnd::Single(_) => KeyRange::Key(start),
        wire::KeyEnd::Before(end) => KeyRange::Span { start, end: Some(end) },
        wire::KeyEnd::Open(_) => KeyRange::Span { start, end: None },
    })
}

fn lookup_message(lookup: &Lookup) -> wire::Lookup {
    let detail = match lookup.detail {
        Detail::Full => wire::Detail::Full,
        Detail::Keys => wire::Detail::Keys,
        Detail::Count => wire::Detail::Count,
    };
    let range = Some(range_message(&lookup.range));
    wire::Lookup { range, revision: lookup.revision, limit: lookup.limit, detail: detail.into() }
}

fn lookup_from(message: wire::Lookup) -> Result<Lookup, Error> {
    let detail = match message.detail() {
        wire::Detail::Full => Detail::Full,
        wire::Detail::Keys => Detail::Keys,
        wire::Detail::Count => Detail::Count,
        wire::Detail::Unknown => return Err(bad(WHAT, "what to read of keys is unknown")),
    };
    Ok(Lookup { range: range_from(message.range)?, revision: message.revision, limit: message.limit, detail })
}

fn compare_message(compare: &Compare) -> wire::Compare {
    let relation = match compare.relation {
        Relation::Equal => wire::Relation::Equal,
        Relation::NotEqual => wire::Relation::NotEqual,
        Relation::Less => wire::Relation::Less,
        Relation::Greater => wire::Relation::Greater,
    };
    let target = match &compare.target {
        Target::Version(version) => wire::Target::Version(*version),
        Target::CreateRevision(revision) => wire::Target::CreateRevision(*revision),
        Target::ModRevision(revision) => wire::Target::ModRevision(*revision),
        Target::Value(value) => wire::Target::Value(value.clone()),
        Target::Lease(lease) => wire::Target::Lease(*lease),
    };
    wire::Compare { range: Some(range_message(&compare.range)), relation: relation.into(), target: Some(target) }
}

fn compare_from(message: wire::Compare) -> Result<Compare, Error> {
    let relation = match message.relation() {
        wire::Relation::Equal => Relation::Equal,
        wire::Relation::NotEqual => Relation::NotEqual,
        wire::Relation::Less => Relation::Less,
        wire::Relation::Greater => Relation::Greater,
        wire::Relation::Unknown => return Err(bad(WHAT, "how it compares is unknown")),
    };
    let target = match message.target.ok_or_else(|| bad(WHAT, "what it compares is unknown"))? {
        wire::Target::Version(version) => Target::Version(version),
        wire::Target::CreateRevision(revision) => Target::CreateRevision(revision),
        wire::Target::ModRevision(revision) => Target::ModRevision(revision),
        wire::Target::Value(value) => Target::Value(value),
        wire::Target::Lease(lease) => Target::Lease(lease),
    };
    Ok(Compare { range: range_from(message.range)?, relation, target })
}

fn statement_message(statement: &Statement) -> wire::Statement {
    let parameter = |p: &Parameter| wire::Parameter { name: p.name.clone(), value: Some(argument_message(&p.value)) };
    wire::Statement { sql: statement.sql.clone(), parameters: statement.parameters.iter().map(parameter).collect() }
}

fn statement_from(message: wire::Statement) -> Result<Statement, Error> {
    let parameter = |p: wire::Parameter| Ok(Parameter { name: p.name, value: argument_from(p.value)? });
    let parameters = message.parameters.into_iter().map(parameter).collect::<Result<_, Error>>()?;
    Ok(Statement { sql: message.sql, parameters })
}
