//! How commands, answers and memberships are stored: a byte that says the version, then a protobuf message.
//!
//! A reader refuses versions that it doesn't know. Fields may be added within a version only if an older reader may
//! safely ignore them; whatever changes what an entry does needs a new version.

mod answer;
mod command;
pub(crate) mod value;
pub(crate) mod wire;

use std::ops::RangeInclusive;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use raft_core::membership::Membership;
use raft_core::types::{Incarnation, Member, NodeId};

use crate::answer::Answer;
use crate::change::{RowChange, RowChanges};
use crate::command::Command;
use crate::error::Error;
use crate::step::Value;

/// The versions of each format that are known. The first byte, so that it can never be taken for what follows.
///
/// The first of commands and answers was of before the first release.
const COMMAND: RangeInclusive<u8> = 2..=2;
const ANSWER: RangeInclusive<u8> = 2..=2;
/// 2 since there are priorities, and members that are promoted by themselves.
const MEMBERSHIP: RangeInclusive<u8> = 1..=2;

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
    pack(COMMAND, &command::command_message(command))
}

/// The length of what [`encode_command`] gives.
pub(crate) fn command_bytes(command: &Command) -> usize {
    1 + command::command_message(command).encoded_len()
}

/// Reads what [`encode_command`] wrote.
pub(crate) fn decode_command(bytes: &[u8]) -> Result<Command, Error> {
    command::command_from(unpack("a command", COMMAND, bytes)?)
}

/// An answer as it is kept with its session.
pub(crate) fn encode_answer(answer: &Answer) -> Bytes {
    pack(ANSWER, &answer::answer_message(answer))
}

/// Reads what [`encode_answer`] wrote.
pub(crate) fn decode_answer(bytes: &[u8]) -> Result<Answer, Error> {
    answer::answer_from(unpack("a stored answer", ANSWER, bytes)?)
}

/// Reads the values of a row.
pub(crate) fn decode_row(bytes: &[u8]) -> Result<Vec<Value>, Error> {
    let row = wire::Row::decode(bytes).map_err(|error| bad("a row", &error.to_string()))?;
    row.values.into_iter().map(|value| value::value_from(Some(value))).collect()
}

/// Reads what a command did to the rows of a table.
pub(crate) fn decode_row_changes(bytes: &[u8]) -> Result<RowChanges, Error> {
    const WHAT: &str = "a change of rows";
    let message = wire::RowChanges::decode(bytes).map_err(|error| bad(WHAT, &error.to_string()))?;
    let image = |image: Option<Bytes>| image.map(|image| decode_row(&image)).transpose();
    let row = |row: wire::RowChange| Ok(RowChange { before: image(row.before)?, after: image(row.after)? });
    let wire::RowChanges { table, columns, rows, too_many } = message;
    Ok(RowChanges { table, columns, rows: rows.into_iter().map(row).collect::<Result<_, Error>>()?, too_many })
}

fn pack(versions: RangeInclusive<u8>, message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    bytes.put_u8(*versions.end());
    message.encode(&mut bytes).expect("a BytesMut grows as needed");
    bytes.freeze()
}

fn unpack<M: Message + Default>(what: &'static str, known: RangeInclusive<u8>, bytes: &[u8]) -> Result<M, Error> {
    let (version, rest) = bytes.split_first().ok_or_else(|| bad(what, "it is empty"))?;
    if !known.contains(version) {
        return Err(bad(
            what,
            &format!("it has format {version}, and this version knows {} to {}", known.start(), known.end()),
        ));
    }
    M::decode(rest).map_err(|error| bad(what, &error.to_string()))
}

fn bad(what: &'static str, why: &str) -> Error {
    Error::Undecodable { what, why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{Found, KeyValue, Outcome, StatementResult, StepResult};
    use crate::command::{Operation, SessionId};
    use crate::step::{
        Action, Argument, Compare, Detail, KeyRange, Lookup, Output, Parameter, Put, Relation, Statement, Step, Target,
        Value,
    };

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

    fn all_actions() -> Vec<Step> {
        let open = KeyRange::Span { start: "a".into(), end: None };
        let output = Output { step: 1, row: 2, column: 3 };
        let parameter = |value| Parameter { name: Some(":x".into()), value };
        let values =
            [Value::Null, Value::Integer(-1), Value::Real(0.5), Value::Text("t".into()), Value::Blob("b".into())];
        let parameters = values.into_iter().map(Argument::Given).chain([Argument::Output(output)]).map(parameter);
        let targets = [
            (Relation::Equal, Target::Version(1)),
            (Relation::NotEqual, Target::CreateRevision(2)),
            (Relation::Less, Target::ModRevision(3)),
            (Relation::Greater, Target::Value("v".into())),
            (Relation::Equal, Target::Lease(4)),
        ];
        let compare = |(relation, target)| Compare { range: KeyRange::prefix("p"), relation, target };
        let lookup = |detail| Lookup { revision: 5, limit: 6, detail, ..Lookup::range(open.clone()) };
        vec![
            Action::Put(Put { key: "k".into(), value: Argument::Output(output), lease: 7, previous: true }).into(),
            Step::from(Action::Delete { range: KeyRange::Key("k".into()), previous: true }).expect(1, 2),
            Action::Get(lookup(Detail::Full)).into(),
            Action::Get(lookup(Detail::Keys)).into(),
            Action::Get(lookup(Detail::Count)).into(),
            Statement { sql: "SELECT 1".into(), parameters: parameters.collect() }.into(),
            Action::If {
                compare: targets.map(compare).into(),
                then: vec![Action::put("a", "b").into()],
                otherwise: vec![Action::delete("a").into()],
            }
            .into(),
        ]
    }

    #[test]
    fn a_command_is_read_as_it_was_stored() {
        let session = SessionId { client: "c".into(), opened_ms: 1, sequence: 3, answered: 2 };
        for operation in [
            Operation::Run(all_actions()),
            Operation::GrantLease { lease: 1, ttl_ms: 2 },
            Operation::KeepLease { lease: 3 },
            Operation::RevokeLease { lease: 4 },
            Operation::Compact { revision: 5 },
            Operation::Expire,
            Operation::Mark,
        ] {
            for session in [None, Some(session.clone())] {
                let command = Command { time_ms: 9, seed: [8; 16], session, operation: operation.clone() };
                let bytes = encode_command(&command);
                assert_eq!(bytes.len(), command_bytes(&command));
                assert_eq!(decode_command(&bytes).unwrap(), command);
            }
        }
    }

    #[test]
    fn an_answer_is_read_as_it_was_kept() {
        let entry =
            KeyValue { key: "k".into(), value: "v".into(), create_revision: 1, mod_revision: 2, version: 3, lease: 4 };
        let statement = StatementResult {
            columns: vec!["c".into()],
            rows: vec![vec![Value::Null], vec![Value::Integer(i64::MIN)]],
            rows_affected: 5,
            last_insert_id: -6,
        };
        let ran = vec![
            StepResult::Put { replaced: true, previous: Some(entry.clone()) },
            StepResult::Deleted { count: 7, previous: vec![entry.clone()] },
            StepResult::Got(Found { entries: vec![entry], count: 8, more: true }),
            StepResult::Sql(vec![statement]),
        ];
        for outcome in [
            Outcome::Ran(vec![StepResult::If { held: true, results: ran }]),
            Outcome::LeaseGranted { lease: 1 },
            Outcome::LeaseKept { ttl_ms: 2 },
            Outcome::LeaseRevoked { deleted: 3 },
            Outcome::Compacted,
            Outcome::Expired { more: true },
            Outcome::Marked,
            Outcome::Failed { message: "why".into() },
            Outcome::Unexpected { message: "why".into() },
            Outcome::NoSuchLease { lease: 4 },
        ] {
            let answer = Answer { revision: 9, outcome };
            assert_eq!(decode_answer(&encode_answer(&answer)).unwrap(), answer);
        }
    }
}
