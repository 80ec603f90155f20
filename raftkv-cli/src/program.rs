//! Programs: keys and SQL in one atomic command.

use crate::keys::{KeyRange, Lookup};
use crate::statement::{Statement, Value};
use bytes::Bytes;
use raftkv_proto::raftkv::v1 as proto;
use raftkv_proto::raftkv::v1::compare::Target;
use raftkv_proto::raftkv::v1::step::Action;

/// Steps that run in order, all or none, each seeing what those before it did.
///
/// ```
/// use raftkv_cli::{Compare, Output, Program, Statement};
///
/// // Takes a lock if nobody has it.
/// let lock = Program::new().when([Compare::is_absent("lock")], Program::new().put("lock", "me"), Program::new().get("lock"));
///
/// // Makes an order, and a key that names it; undone unless the stock sufficed.
/// let order = Program::new()
///     .sql(Statement::new("UPDATE stock SET count = count - ? WHERE item = ? AND count >= ?").bind(2).bind("pear").bind(2))
///     .expect(1, 1)
///     .sql("INSERT INTO orders (item, count) VALUES ('pear', 2) RETURNING id")
///     .put("last-order", Output { step: 1, row: 0, column: 0 });
/// # let _ = (lock, order);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    steps: Vec<proto::Step>,
}

impl Program {
    /// No steps yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key. A number is stored in decimal.
    #[must_use]
    pub fn put(self, key: impl Into<Bytes>, value: impl Into<Value>) -> Self {
        self.put_under(0, key, value)
    }

    /// Sets a key that goes with a lease.
    #[must_use]
    pub fn put_under(self, lease: u64, key: impl Into<Bytes>, value: impl Into<Value>) -> Self {
        let value = Some(value.into().into());
        self.and(Action::Put(proto::PutStep { key: key.into(), value, lease, previous: false }))
    }

    /// Deletes keys. To know what they were, get them first.
    #[must_use]
    pub fn delete(self, range: impl Into<KeyRange>) -> Self {
        self.and(Action::Delete(proto::DeleteStep { range: Some(range.into().into()), previous: false }))
    }

    /// Reads keys.
    #[must_use]
    pub fn get(self, range: impl Into<KeyRange>) -> Self {
        self.find(Lookup::new(range))
    }

    /// Reads keys.
    #[must_use]
    pub fn find(self, lookup: Lookup) -> Self {
        self.and(Action::Get(lookup.into()))
    }

    /// Runs SQL.
    #[must_use]
    pub fn sql(self, statement: impl Into<Statement>) -> Self {
        self.and(Action::Sql(statement.into().into()))
    }

    /// Runs `then` if all comparisons hold, and `otherwise` if not.
    #[must_use]
    pub fn when(self, compare: impl IntoIterator<Item = Compare>, then: Self, otherwise: Self) -> Self {
        let compare = compare.into_iter().map(|compare| compare.0).collect();
        self.and(Action::If(proto::IfStep { compare, then: then.steps, otherwise: otherwise.steps }))
    }

    /// Undoes the whole program unless its last step so far counts from `at_least` to `at_most`: rows that SQL yields, or affects where it
    /// yields none; keys put, deleted or found; 1 for a condition that holds. Nothing on a program without steps.
    #[must_use]
    pub fn expect(mut self, at_least: u64, at_most: u64) -> Self {
        if let Some(last) = self.steps.last_mut() {
            last.expect = Some(proto::Expect { at_least, at_most: Some(at_most) });
        }
        self
    }

    pub(crate) fn into_steps(self) -> Vec<proto::Step> {
        self.steps
    }

    /// Whether it can't change anything, as far as that can be told here. `false` is always a safe answer.
    pub(crate) fn only_reads(&self) -> bool {
        only_read(&self.steps)
    }

    fn and(mut self, action: Action) -> Self {
        self.steps.push(proto::Step { action: Some(action), expect: None });
        self
    }
}

fn only_read(steps: &[proto::Step]) -> bool {
    steps.iter().all(|step| match &step.action {
        Some(Action::Get(_)) => true,
        Some(Action::Sql(statement)) => crate::statement::only_reads(&statement.sql),
        Some(Action::If(either)) => only_read(&either.then) && only_read(&either.otherwise),
        Some(Action::Put(_) | Action::Delete(_)) | None => false,
    })
}

/// Something that must hold of keys. Of a range, it must hold of each key. A single key that is not there has version 0 and
/// revisions 0, and nothing holds of its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Compare(proto::Compare);

/// How what is found stands to what is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

impl Compare {
    /// The key is not there.
    pub fn is_absent(key: impl Into<Bytes>) -> Self {
        Self::version(key.into(), Relation::Equal, 0)
    }

    /// The key is there.
    pub fn exists(key: impl Into<Bytes>) -> Self {
        Self::version(key.into(), Relation::Greater, 0)
    }

    /// By the value, in the order of bytes.
    pub fn value(range: impl Into<KeyRange>, relation: Relation, value: impl Into<Bytes>) -> Self {
        Self::new(range, relation, Target::Value(value.into()))
    }

    /// By how often the key was written since it was created.
    pub fn version(range: impl Into<KeyRange>, relation: Relation, version: u64) -> Self {
        Self::new(range, relation, Target::Version(version))
    }

    /// By the revision that created the key.
    pub fn create_revision(range: impl Into<KeyRange>, relation: Relation, revision: u64) -> Self {
        Self::new(range, relation, Target::CreateRevision(revision))
    }

    /// By the revision that last changed the key.
    pub fn mod_revision(range: impl Into<KeyRange>, relation: Relation, revision: u64) -> Self {
        Self::new(range, relation, Target::ModRevision(revision))
    }

    /// By the lease with which the key goes.
    pub fn lease(range: impl Into<KeyRange>, relation: Relation, lease: u64) -> Self {
        Self::new(range, relation, Target::Lease(lease))
    }

    fn new(range: impl Into<KeyRange>, relation: Relation, target: Target) -> Self {
        let relation = match relation {
            Relation::Equal => proto::Relation::Equal,
            Relation::NotEqual => proto::Relation::NotEqual,
            Relation::Less => proto::Relation::Less,
            Relation::Greater => proto::Relation::Greater,
        };
        let range = Some(range.into().into());
        Self(proto::Compare { range, relation: relation.into(), target: Some(target) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_surely_reads_is_a_read() {
        let reads = Program::new().get("a").sql("SELECT 1");
        assert!(reads.only_reads());
        assert!(Program::new().when([], reads.clone(), reads.clone()).only_reads());
        assert!(!Program::new().when([], reads.clone(), Program::new().delete("a")).only_reads());
        assert!(!reads.clone().put("a", "1").only_reads());
        assert!(!reads.sql("DELETE FROM t").only_reads());
    }
}
