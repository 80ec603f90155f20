//! What the tests share: folders, entries and commands.
#![allow(dead_code, unreachable_pub, reason = "each test uses its share")]

use std::path::Path;

use bytes::Bytes;
use raft_core::effect::Persist;
use raft_core::membership::Membership;
use raft_core::port::{StateMachine, Stored};
use raft_core::types::{ClusterId, Entry, EntryId, Incarnation, Index, Member, NodeId, Payload, Term};
use raft_store_sqlite::{
    Answer, Checksum, Command, DataDir, Error, Operation, Outcome, Parts, SessionId, SqliteStateMachine, Statement,
    StatementResult, Step, StepResult, Value, state_path,
};
use tempfile::TempDir;

pub const CLUSTER: ClusterId = ClusterId(0xc1);
pub const TIME_MS: u64 = 1_795_437_296_789;

/// A node's folder that was begun, and its parts.
pub struct Store {
    pub parts: Parts,
    pub next: Index,
    pub folder: TempDir,
}

impl Store {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        begin(folder.path());
        Self { parts: open(folder.path()).unwrap(), next: Index(1), folder }
    }

    /// Applies commands in one call, as the next entries.
    pub fn apply(&mut self, commands: &[Command]) -> Vec<Answer> {
        let entries: Vec<_> = commands.iter().map(|command| self.entry(Payload::Command(command.encode()))).collect();
        let answers = self.parts.state_machine.apply(&entries).unwrap();
        answers.into_iter().map(|answer| answer.expect("a command is answered")).collect()
    }

    pub fn entry(&mut self, payload: Payload) -> Entry {
        let index = self.next;
        self.next = index.next();
        entry(index.0, payload)
    }

    /// Applies one command without a session.
    pub fn run(&mut self, operation: Operation) -> Outcome {
        let command = command(operation);
        self.apply(&[command]).remove(0).outcome
    }

    /// Applies one command of SQL, which must succeed.
    pub fn sql(&mut self, statements: &[&str]) -> Vec<StatementResult> {
        statement_results(self.run(sql(statements)))
    }

    /// Applies one command of SQL, which must fail, and says how.
    pub fn sql_failure(&mut self, statements: &[&str]) -> String {
        failure(self.run(sql(statements)))
    }

    /// The rows of a read.
    pub fn rows(&self, sql: &str) -> Vec<Vec<Value>> {
        self.parts.reader.query(&[Statement::new(sql)]).unwrap().value.remove(0).rows
    }

    /// The one value of a read.
    pub fn value(&self, sql: &str) -> Value {
        self.rows(sql).remove(0).remove(0)
    }

    pub fn dump(&self) -> String {
        raft_store_sqlite::dump(&state_path(self.folder.path(), NodeId(1))).unwrap()
    }

    pub fn checksum(&self) -> Checksum {
        raft_store_sqlite::checksum(&state_path(self.folder.path(), NodeId(1))).unwrap()
    }

    pub fn state_machine(&mut self) -> &mut SqliteStateMachine {
        &mut self.parts.state_machine
    }
}

pub fn open(folder: &Path) -> Result<Parts, Error> {
    DataDir::open(folder, NodeId(1))?.into_parts()
}

pub fn begin(folder: &Path) {
    DataDir::open(folder, NodeId(1)).unwrap().begin(CLUSTER, &Stored::default()).unwrap();
}

pub fn entry(index: u64, payload: Payload) -> Entry {
    Entry { id: EntryId::new(Index(index), Term(1)), payload }
}

pub fn blob(index: u64, term: u64, bytes: &str) -> Entry {
    Entry {
        id: EntryId::new(Index(index), Term(term)),
        payload: Payload::Command(Bytes::copy_from_slice(bytes.as_bytes())),
    }
}

pub fn append(entries: Vec<Entry>) -> Persist {
    Persist { entries: entries.into(), ..Persist::default() }
}

pub fn membership() -> Membership {
    let member = |id: u64| {
        let incarnation = Incarnation(u64::MAX - id);
        (NodeId(id), Member { address: format!("localhost:{id}"), incarnation, priority: id as u32 })
    };
    let mut membership = Membership::of_voters([member(1), member(2), member(3)].into());
    membership.learners.insert(NodeId(4));
    membership.promotable.insert(NodeId(4));
    membership.stays_joint = true;
    membership.members.insert(NodeId(4), Member::default());
    membership.outgoing.insert(NodeId(3));
    membership
}

pub fn command(operation: Operation) -> Command {
    Command { time_ms: TIME_MS, seed: [7; 16], session: None, operation }
}

pub fn in_session(sequence: u64, answered: u64, operation: Operation) -> Command {
    let session = Some(SessionId { client: "client".into(), opened_ms: TIME_MS, sequence, answered });
    Command { session, ..command(operation) }
}

pub fn put(key: &str, value: &str) -> Operation {
    Operation::put(Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
}

pub fn delete(key: &str) -> Operation {
    Operation::delete(Bytes::copy_from_slice(key.as_bytes()))
}

pub fn sql(statements: &[&str]) -> Operation {
    Operation::sql(statements.iter().map(|text| Statement::new(*text)))
}

pub fn failure(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failed { message } => message,
        other => panic!("{other:?} should have failed"),
    }
}

/// What comes of setting a key.
pub fn was_put(replaced: bool) -> Outcome {
    Outcome::Ran(vec![StepResult::Put { replaced, previous: None }])
}

/// What comes of deleting a key.
pub fn was_deleted(count: u64) -> Outcome {
    Outcome::Ran(vec![StepResult::Deleted { count, previous: Vec::new() }])
}

/// What came of each SQL statement of a command.
pub fn statement_results(outcome: Outcome) -> Vec<StatementResult> {
    let Outcome::Ran(results) = outcome else { panic!("{outcome:?}") };
    let of_step = |result| match result {
        StepResult::Sql(results) => results,
        other => panic!("{other:?}"),
    };
    results.into_iter().flat_map(of_step).collect()
}

/// A program of these statements.
pub fn as_steps(statements: &[Statement]) -> Vec<Step> {
    statements.iter().cloned().map(Step::from).collect()
}
