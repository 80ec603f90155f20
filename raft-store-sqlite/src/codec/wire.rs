//! The messages. Tags are never used for something else.

use bytes::Bytes;
use prost::{Enumeration, Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Member {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(string, tag = "2")]
    pub(crate) address: String,
    #[prost(fixed64, tag = "3")]
    pub(crate) incarnation: u64,
    #[prost(uint32, tag = "4")]
    pub(crate) priority: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Membership {
    #[prost(message, repeated, tag = "1")]
    pub(crate) members: Vec<Member>,
    #[prost(uint64, repeated, tag = "2")]
    pub(crate) voters: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    pub(crate) outgoing: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    pub(crate) learners: Vec<u64>,
    #[prost(uint64, repeated, tag = "5")]
    pub(crate) promotable: Vec<u64>,
    #[prost(bool, tag = "6")]
    pub(crate) stays_joint: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Command {
    #[prost(uint64, tag = "1")]
    pub(crate) time_ms: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) seed: Bytes,
    #[prost(message, optional, tag = "3")]
    pub(crate) session: Option<Session>,
    #[prost(oneof = "Operation", tags = "4, 5, 6, 7, 8, 9, 10")]
    pub(crate) operation: Option<Operation>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Session {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) client: Bytes,
    #[prost(uint64, tag = "2")]
    pub(crate) sequence: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) answered: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) opened_ms: u64,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Operation {
    #[prost(message, tag = "4")]
    Run(Program),
    #[prost(message, tag = "5")]
    GrantLease(GrantLease),
    #[prost(uint64, tag = "6")]
    KeepLease(u64),
    #[prost(uint64, tag = "7")]
    RevokeLease(u64),
    #[prost(uint64, tag = "8")]
    Compact(u64),
    #[prost(bool, tag = "9")]
    Expire(bool),
    #[prost(bool, tag = "10")]
    Mark(bool),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GrantLease {
    #[prost(uint64, tag = "1")]
    pub(crate) lease: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) ttl_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Program {
    #[prost(message, repeated, tag = "1")]
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Step {
    #[prost(oneof = "Action", tags = "1, 2, 3, 4, 5")]
    pub(crate) action: Option<Action>,
    #[prost(message, optional, tag = "6")]
    pub(crate) expect: Option<Expect>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Action {
    #[prost(message, tag = "1")]
    Put(Put),
    #[prost(message, tag = "2")]
    Delete(Delete),
    #[prost(message, tag = "3")]
    Get(Lookup),
    #[prost(message, tag = "4")]
    Sql(Statement),
    #[prost(message, tag = "5")]
    If(If),
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Expect {
    #[prost(uint64, tag = "1")]
    pub(crate) at_least: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) at_most: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
    #[prost(message, optional, tag = "2")]
    pub(crate) value: Option<Argument>,
    #[prost(uint64, tag = "3")]
    pub(crate) lease: u64,
    #[prost(bool, tag = "4")]
    pub(crate) previous: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Delete {
    #[prost(message, optional, tag = "1")]
    pub(crate) range: Option<KeyRange>,
    #[prost(bool, tag = "2")]
    pub(crate) previous: bool,
}

/// A key, or what begins at it.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct KeyRange {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) start: Bytes,
    #[prost(oneof = "KeyEnd", tags = "2, 3, 4")]
    pub(crate) end: Option<KeyEnd>,
}

#[derive(Clone, PartialEq, Eq, Oneof)]
pub(crate) enum KeyEnd {
    #[prost(bool, tag = "2")]
    Single(bool),
    #[prost(bytes = "bytes", tag = "3")]
    Before(Bytes),
    #[prost(bool, tag = "4")]
    Open(bool),
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Lookup {
    #[prost(message, optional, tag = "1")]
    pub(crate) range: Option<KeyRange>,
    #[prost(uint64, tag = "2")]
    pub(crate) revision: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) limit: u64,
    #[prost(enumeration = "Detail", tag = "4")]
    pub(crate) detail: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
pub(crate) enum Detail {
    Unknown = 0,
    Full = 1,
    Keys = 2,
    Count = 3,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct If {
    #[prost(message, repeated, tag = "1")]
    pub(crate) compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) then: Vec<Step>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) otherwise: Vec<Step>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Compare {
    #[prost(message, optional, tag = "1")]
    pub(crate) range: Option<KeyRange>,
    #[prost(enumeration = "Relation", tag = "2")]
    pub(crate) relation: i32,
    #[prost(oneof = "Target", tags = "3, 4, 5, 6, 7")]
    pub(crate) target: Option<Target>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
pub(crate) enum Relation {
    Unknown = 0,
    Equal = 1,
    NotEqual = 2,
    Less = 3,
    Greater = 4,
}

#[derive(Clone, PartialEq, Eq, Oneof)]
pub(crate) enum Target {
    #[prost(uint64, tag = "3")]
    Version(u64),
    #[prost(uint64, tag = "4")]
    CreateRevision(u64),
    #[prost(uint64, tag = "5")]
    ModRevision(u64),
    #[prost(bytes = "bytes", tag = "6")]
    Value(Bytes),
    #[prost(uint64, tag = "7")]
    Lease(u64),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Statement {
    #[prost(string, tag = "1")]
    pub(crate) sql: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) parameters: Vec<Parameter>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Parameter {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(message, optional, tag = "2")]
    pub(crate) value: Option<Argument>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Argument {
    #[prost(oneof = "Source", tags = "1, 2")]
    pub(crate) source: Option<Source>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Source {
    #[prost(message, tag = "1")]
    Given(Value),
    #[prost(message, tag = "2")]
    Output(Output),
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Output {
    #[prost(uint32, tag = "1")]
    pub(crate) step: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) row: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) column: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Value {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5")]
    pub(crate) kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Kind {
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
pub(crate) struct Answer {
    #[prost(uint64, tag = "1")]
    pub(crate) revision: u64,
    #[prost(oneof = "Outcome", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    pub(crate) outcome: Option<Outcome>,
}

/// The outcomes that are kept: of a command that a session has refused, nothing is.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Outcome {
    #[prost(message, tag = "2")]
    Ran(StepResults),
    #[prost(uint64, tag = "3")]
    LeaseGranted(u64),
    #[prost(uint64, tag = "4")]
    LeaseKept(u64),
    #[prost(uint64, tag = "5")]
    LeaseRevoked(u64),
    #[prost(bool, tag = "6")]
    Compacted(bool),
    #[prost(bool, tag = "7")]
    Expired(bool),
    #[prost(bool, tag = "8")]
    Marked(bool),
    #[prost(string, tag = "9")]
    Failed(String),
    #[prost(string, tag = "10")]
    Unexpected(String),
    #[prost(uint64, tag = "11")]
    NoSuchLease(u64),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StepResults {
    #[prost(message, repeated, tag = "1")]
    pub(crate) results: Vec<StepResult>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StepResult {
    #[prost(oneof = "Result", tags = "1, 2, 3, 4, 5")]
    pub(crate) result: Option<Result>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Result {
    #[prost(message, tag = "1")]
    Put(PutResult),
    #[prost(message, tag = "2")]
    Deleted(Deleted),
    #[prost(message, tag = "3")]
    Got(Found),
    #[prost(message, tag = "4")]
    Sql(SqlResults),
    #[prost(message, tag = "5")]
    If(IfResult),
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct PutResult {
    #[prost(bool, tag = "1")]
    pub(crate) replaced: bool,
    #[prost(message, optional, tag = "2")]
    pub(crate) previous: Option<KeyValue>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Deleted {
    #[prost(uint64, tag = "1")]
    pub(crate) count: u64,
    #[prost(message, repeated, tag = "2")]
    pub(crate) previous: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Found {
    #[prost(message, repeated, tag = "1")]
    pub(crate) entries: Vec<KeyValue>,
    #[prost(uint64, tag = "2")]
    pub(crate) count: u64,
    #[prost(bool, tag = "3")]
    pub(crate) more: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
    #[prost(uint64, tag = "3")]
    pub(crate) create_revision: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) mod_revision: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) version: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) lease: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct IfResult {
    #[prost(bool, tag = "1")]
    pub(crate) held: bool,
    #[prost(message, repeated, tag = "2")]
    pub(crate) results: Vec<StepResult>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SqlResults {
    #[prost(message, repeated, tag = "1")]
    pub(crate) results: Vec<StatementResult>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatementResult {
    #[prost(string, repeated, tag = "1")]
    pub(crate) columns: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) rows: Vec<Row>,
    #[prost(uint64, tag = "3")]
    pub(crate) rows_affected: u64,
    #[prost(sint64, tag = "4")]
    pub(crate) last_insert_id: i64,
}

/// What a command did to the rows of a table.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RowChanges {
    #[prost(string, tag = "1")]
    pub(crate) table: String,
    #[prost(string, repeated, tag = "2")]
    pub(crate) columns: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) rows: Vec<RowChange>,
    /// There were too many rows to tell each: then there are none.
    #[prost(bool, tag = "4")]
    pub(crate) too_many: bool,
}

/// A row before and after: each a [`Row`], encoded; none if it was not there.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct RowChange {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) before: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) after: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Row {
    #[prost(message, repeated, tag = "1")]
    pub(crate) values: Vec<Value>,
}
