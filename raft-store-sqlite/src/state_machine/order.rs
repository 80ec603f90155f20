//! Whether the order in which SQLite finds rows shows anywhere: a replica whose SQLite turns it round, wherever a statement does not
//! say which it wants, must answer and end like any other.
//!
//! Equal nodes find rows in the same order all the same, since they have the same SQLite, tables and plans. That is what makes
//! `INSERT … SELECT … LIMIT` without an ORDER BY safe; nothing of ours is to depend on it.

use raft_core::port::{StateMachine, Stored};
use raft_core::types::{ClusterId, Entry, EntryId, Index, NodeId, Payload, Term};
use tempfile::TempDir;

use super::SqliteStateMachine;
use crate::answer::{Answer, Outcome};
use crate::command::{Command, Operation, SessionId};
use crate::data_dir::{DataDir, state_path};
use crate::limits::{self, EXPIRED};
use crate::step::{Action, Argument, Detail, KeyRange, Lookup, Put, Statement, Step};

const TIME_MS: u64 = 1_795_437_296_789;

pub(super) struct Replica {
    pub(super) state: SqliteStateMachine,
    applied: Index,
    folder: TempDir,
}

impl Replica {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut directory = DataDir::open(folder.path(), NodeId(1)).unwrap();
        directory.begin(ClusterId(7), &Stored::default()).unwrap();
        Self { state: directory.into_parts().unwrap().state_machine, applied: Index(0), folder }
    }

    fn turned_round() -> Self {
        let replica = Self::new();
        replica.state.connection.execute_batch("PRAGMA reverse_unordered_selects = ON").unwrap();
        replica
    }

    /// Applies all in one batch, after `time_ms`.
    pub(super) fn apply(&mut self, time_ms: u64, operations: &[Operation]) -> Vec<Answer> {
        let entry = |(n, operation): (u64, &Operation)| {
            let session =
                SessionId { client: n.to_be_bytes().to_vec().into(), opened_ms: time_ms, sequence: 1, answered: 0 };
            let session = Some(session).filter(|_| n % 2 == 0);
            let command = Command { time_ms, seed: [n as u8; 16], session, operation: operation.clone() };
            Entry { id: EntryId::new(Index(n), Term(1)), payload: Payload::Command(command.encode()) }
        };
        let entries: Vec<_> = (self.applied.0 + 1..).zip(operations).map(entry).collect();
        self.applied = Index(self.applied.0 + operations.len() as u64);
        self.state.apply(&entries).unwrap().into_iter().flatten().collect()
    }

    pub(super) fn dump(&self) -> String {
        crate::dump(&state_path(self.folder.path(), NodeId(1))).unwrap()
    }
}

pub(super) fn sql(texts: &[&str]) -> Operation {
    Operation::sql(texts.iter().map(|text| Statement::new(*text)))
}

fn all_keys(limit: u64) -> Lookup {
    let range = KeyRange::Span { start: "".into(), end: None };
    Lookup { range, revision: 0, limit, detail: Detail::default() }
}

#[test]
fn keys_leases_sessions_and_history_do_not_depend_on_the_order_of_rows() {
    let put = |key: String, lease| -> Step {
        let value = Argument::Given(crate::step::Value::Blob(key.clone().into()));
        Action::Put(Put { key: key.into(), value, lease, previous: true }).into()
    };
    // More than what is removed in one go, so that it matters which comes first.
    let many: Vec<_> = (0..2 * EXPIRED).map(|n| Operation::put(format!("k{n}"), n.to_string())).collect();
    let leased: Vec<_> = (0..50)
        .flat_map(|lease| {
            let key = move |n: u64| put(format!("leased {} {n}", 100 - lease), lease + 1);
            [Operation::GrantLease { lease: lease + 1, ttl_ms: 1000 }, Operation::Run((0..30).map(key).collect())]
        })
        .collect();
    let ranges = [
        Operation::Run(vec![
            Action::Get(all_keys(7)).into(),
            Action::Get(Lookup { revision: 900, ..all_keys(7) }).into(),
        ]),
        Operation::Run(vec![
            Action::Delete { range: KeyRange::prefix("k1"), previous: true }.into(),
            Action::Get(all_keys(3)).into(),
        ]),
        Operation::Run(vec![
            put("\u{1}".into(), 0),
            Action::Sql(Statement::new("SELECT * FROM kv ORDER BY key LIMIT 9")).into(),
        ]),
        Operation::Compact { revision: 700 },
    ];
    let mut replicas = [Replica::new(), Replica::turned_round()];
    for (time_ms, operations) in [
        (TIME_MS, &many[..]),
        (TIME_MS + 1, &leased),
        (TIME_MS + 2, &ranges),
        (TIME_MS + 5000, &[Operation::Expire, Operation::Expire]),
        (
            TIME_MS + 2 * limits::SESSION_MS,
            &[Operation::Expire, Operation::Compact { revision: 2000 }, Operation::Expire],
        ),
    ] {
        let [answers, turned] = replicas.each_mut().map(|replica| replica.apply(time_ms, operations));
        let done = answers.iter().filter(|answer| !matches!(answer.outcome, Outcome::Failed { .. }));
        assert_eq!(done.count(), operations.len(), "all are carried out");
        assert!(answers == turned, "the answers differ at {time_ms}");
        assert!(replicas[0].dump() == replicas[1].dump(), "the states differ at {time_ms}");
    }
}

const SCHEMA: &[&str] = &[
    "CREATE TABLE t (id INTEGER PRIMARY KEY, a UNIQUE, b)",
    "CREATE TABLE c (t REFERENCES t ON DELETE CASCADE ON UPDATE CASCADE)",
    "CREATE TABLE u (x)",
    "INSERT INTO t (a, b) VALUES (1, 'one'), (2, 'two'), (3, 'three'), (4, 'four')",
    "INSERT INTO c VALUES (1), (1), (2), (3)",
];

#[test]
fn sql_that_says_which_order_it_wants_does_not_depend_on_that_of_rows() {
    let operations = [
        sql(SCHEMA),
        sql(&["INSERT INTO u SELECT b FROM t ORDER BY id DESC LIMIT 2"]),
        sql(&["INSERT INTO u SELECT group_concat(b ORDER BY a) FROM t", "INSERT INTO u SELECT max(b) FROM t"]),
        sql(&["UPDATE t SET b = b || (SELECT count(*) FROM c WHERE t = id)"]),
        sql(&["UPDATE t SET b = upper(b) WHERE a > 1", "DELETE FROM t WHERE id = 1", "SELECT * FROM c ORDER BY rowid"]),
        sql(&[
            "SELECT count(*), sum(a), min(b), max(b), total(a) FROM t",
            "SELECT a, count(*) FROM t GROUP BY a ORDER BY a",
        ]),
        sql(&["WITH RECURSIVE r (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM r WHERE n < 9) SELECT sum(n) FROM r"]),
        sql(&["SELECT b, row_number() OVER (ORDER BY a) FROM t ORDER BY a"]),
        sql(&["INSERT INTO t (a, b) SELECT a + 10, b FROM t WHERE true ORDER BY a ON CONFLICT DO NOTHING"]),
    ];
    let mut replicas = [Replica::new(), Replica::turned_round()];
    let [answers, turned] = replicas.each_mut().map(|replica| replica.apply(TIME_MS, &operations));
    assert!(answers.iter().all(|answer| matches!(answer.outcome, Outcome::Ran(_))), "{answers:?}");
    assert_eq!(answers, turned);
    assert_eq!(replicas[0].dump(), replicas[1].dump());
}

/// What leaves the order open gets the same on equal nodes, and would not on others: it is this that the contract of a cluster is for.
#[test]
fn sql_that_leaves_the_order_open_is_alike_on_equal_nodes_only() {
    for open in [
        "INSERT INTO u SELECT b FROM t LIMIT 1",
        "INSERT INTO u SELECT b FROM t",
        "INSERT INTO u SELECT group_concat(b) FROM t",
        "SELECT b FROM t",
    ] {
        let mut replicas = [Replica::new(), Replica::new(), Replica::turned_round()];
        let [one, equal, turned] = replicas.each_mut().map(|it| it.apply(TIME_MS, &[sql(SCHEMA), sql(&[open])]));
        assert_eq!(one, equal, "{open}");
        assert_eq!(replicas[0].dump(), replicas[1].dump(), "{open}");
        assert!(
            one != turned || replicas[0].dump() != replicas[2].dump(),
            "{open}: the order shows, or this tests nothing"
        );
    }
}
