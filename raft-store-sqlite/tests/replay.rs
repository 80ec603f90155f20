//! The same entries lead to the same state and the same answers, however they are grouped.

mod common;

use common::{Store, command, delete, put, sql};
use proptest::prelude::*;
use raft_core::port::{LogStore, StateMachine};
use raft_core::types::Payload;
use raft_store_sqlite::{
    Action, Answer, Argument, Command, Compare, KeyRange, Lookup, Operation, Put, SessionId, Statement, Step, Value,
    limits,
};

const SCHEMA: [&str; 6] = [
    "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a UNIQUE, at DEFAULT CURRENT_TIMESTAMP, r DEFAULT (random()))",
    "CREATE TABLE p (id INTEGER PRIMARY KEY)",
    "CREATE TABLE c (p REFERENCES p (id) ON DELETE CASCADE)",
    "CREATE TABLE l (t, what)",
    "CREATE TRIGGER log_t AFTER INSERT ON t BEGIN INSERT INTO l VALUES (datetime('now'), hex(randomblob(4))); END",
    "CREATE TRIGGER trap BEFORE INSERT ON l WHEN new.what = 'spring' BEGIN SELECT RAISE(ROLLBACK, 'sprung'); END",
];

/// Statements that work, fail, or do what the schema makes of them.
fn statement() -> impl Strategy<Value = String> {
    let small = 0..6i64;
    prop_oneof![
        4 => small.clone().prop_map(|n| format!("INSERT INTO t (a) VALUES ({n})")),
        1 => small.clone().prop_map(|n| format!("INSERT OR REPLACE INTO t (a) VALUES ({n})")),
        1 => small.clone().prop_map(|n| format!("INSERT OR ROLLBACK INTO t (a) VALUES ({n})")),
        1 => small.clone().prop_map(|n| format!("INSERT OR FAIL INTO t (a) VALUES ({n} + 10), ({n})")),
        2 => small.clone().prop_map(|n| format!("DELETE FROM t WHERE a = {n} RETURNING *")),
        2 => small.clone().prop_map(|n| format!("INSERT OR IGNORE INTO p VALUES ({n})")),
        2 => small.clone().prop_map(|n| format!("INSERT INTO c VALUES ({n})")),
        1 => small.clone().prop_map(|n| format!("DELETE FROM p WHERE id = {n}")),
        1 => small.clone().prop_map(|n| format!("CREATE TABLE IF NOT EXISTS d{n} (p REFERENCES p DEFERRABLE INITIALLY DEFERRED)")),
        1 => small.clone().prop_map(|n| format!("INSERT INTO d{n} VALUES ({n})")),
        1 => small.clone().prop_map(|n| format!("DROP TABLE d{n}")),
        1 => small.clone().prop_map(|n| format!("CREATE TABLE u{n} (a); INSERT INTO u{n} VALUES (random())")),
        1 => small.clone().prop_map(|n| format!("SELECT *, changes() FROM t LIMIT {n}")),
        // What a connection remembers of the schema must not differ from what it reads anew.
        1 => small.clone().prop_map(|n| format!("CREATE INDEX IF NOT EXISTS i{n} ON t (a, at)")),
        1 => small.clone().prop_map(|n| format!("DROP INDEX IF EXISTS i{n}")),
        2 => small.clone().prop_map(|n| format!(
            "CREATE TABLE IF NOT EXISTS k{n} (p REFERENCES p ON DELETE CASCADE);
             CREATE TRIGGER IF NOT EXISTS g{n} AFTER DELETE ON k{n} BEGIN INSERT INTO l VALUES ('k{n}', old.p); END;
             CREATE TRIGGER IF NOT EXISTS h{n} AFTER DELETE ON p BEGIN INSERT INTO l VALUES ('p{n}', old.id); END"
        )),
        2 => (small.clone(), small.clone()).prop_map(|(n, p)| format!("INSERT INTO k{n} VALUES ({p})")),
        1 => (small.clone(), small.clone()).prop_map(|(n, to)| format!("ALTER TABLE k{n} RENAME TO k{to}")),
        1 => small.clone().prop_map(|n| format!("ALTER TABLE k{n} ADD COLUMN more DEFAULT 1")),
        1 => small.clone().prop_map(|n| format!("DROP TABLE k{n}")),
        1 => small.clone().prop_map(|n| format!("INSERT OR IGNORE INTO t (a) SELECT a + {n} FROM t LIMIT 2")),
        1 => Just("SELECT * FROM l".to_string()),
        1 => Just("INSERT INTO l VALUES (1, 'spring')".to_string()),
        1 => Just("SELECT unixepoch(), random(), last_insert_rowid()".to_string()),
        1 => Just("SELECT * FROM kv ORDER BY mod_revision".to_string()),
        1 => Just("COMMIT".to_string()),
        1 => Just("this is no SQL".to_string()),
    ]
}

/// Keys and SQL in one command, undone together where a statement fails or springs a trap.
fn program(key: impl Strategy<Value = &'static str>) -> impl Strategy<Value = Operation> {
    (key, 0..3u64, statement(), 1..9u64).prop_map(|(key, lease, statement, revision)| {
        let value = Argument::Given(Value::Text("program".into()));
        let lookup = Lookup { revision, ..Lookup::range(KeyRange::prefix("")) };
        let look = Action::Get(lookup).into();
        let put = Action::Put(Put { key: key.into(), value, lease, previous: true }).into();
        let sql = Step::from(Statement::new(statement)).expect(0, 3);
        let either = Action::If { compare: vec![Compare::is_absent("a")], then: vec![look], otherwise: vec![] };
        Operation::Run(vec![put, sql, either.into()])
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let key = prop_oneof![Just("a"), Just("b"), Just("c")];
    prop_oneof![
        2 => (key.clone(), 0..3u8).prop_map(|(key, n)| put(key, &n.to_string())),
        1 => key.clone().prop_map(delete),
        1 => Just(Operation::Expire),
        1 => Just(Operation::Mark),
        1 => (0..3u64, 1..9_000u64).prop_map(|(lease, ttl_ms)| Operation::GrantLease { lease, ttl_ms }),
        1 => (1..4u64).prop_map(|lease| Operation::KeepLease { lease }),
        1 => (1..4u64).prop_map(|lease| Operation::RevokeLease { lease }),
        1 => (1..9u64).prop_map(|revision| Operation::Compact { revision }),
        3 => program(key),
        5 => prop::collection::vec(statement(), 1..4)
            .prop_map(|texts| sql(&texts.iter().map(String::as_str).collect::<Vec<_>>())),
    ]
}

/// Sessions in which commands are repeated, reordered and forgotten, and that end.
fn session() -> impl Strategy<Value = Option<SessionId>> {
    let client = prop_oneof![Just("one"), Just("two")];
    let opened = prop::sample::select(vec![0, 2 * limits::SESSION_MS]);
    prop::option::of((client, opened, 1..20u64, 0..6u64).prop_map(|(client, opened, sequence, behind)| SessionId {
        client: client.into(),
        opened_ms: common::TIME_MS + opened,
        sequence,
        answered: sequence.saturating_sub(behind + 1),
    }))
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let time = prop_oneof![20 => 0..10_000u64, 1 => Just(2 * limits::SESSION_MS)];
    let one = (operation(), session(), any::<[u8; 16]>(), time).prop_map(|(operation, session, seed, time)| Command {
        time_ms: common::TIME_MS + time,
        seed,
        session,
        operation,
    });
    prop::collection::vec(one, 1..25)
}

/// Applies the commands in groups of these sizes, taken round and round.
fn apply_in_groups(store: &mut Store, commands: &[Command], sizes: &[usize]) -> Vec<Answer> {
    let mut answers = Vec::new();
    let mut rest = commands;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (group, after) = rest.split_at((*size).min(rest.len()));
        answers.extend(store.apply(group));
        rest = after;
    }
    answers
}

/// Applies the commands in groups, with a restart after each.
fn apply_with_restarts(mut store: Store, commands: &[Command], sizes: &[usize]) -> (Store, Vec<Answer>) {
    let mut answers = Vec::new();
    let mut rest = commands;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (group, after) = rest.split_at((*size).min(rest.len()));
        let entries: Vec<_> = group.iter().map(|command| store.entry(Payload::Command(command.encode()))).collect();
        store.parts.log.write(&[common::append(entries.clone())]).unwrap();
        answers.extend(store.state_machine().apply(&entries).unwrap().into_iter().flatten());
        let Store { parts, folder, next } = store;
        drop(parts);
        store = Store { parts: common::open(folder.path()).unwrap(), folder, next };
        rest = after;
    }
    (store, answers)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equal_entries_give_equal_states_and_answers(
        commands in commands(),
        sizes in prop::collection::vec(1..8usize, 1..6),
    ) {
        let mut one_by_one = Store::new();
        let mut together = Store::new();
        let mut in_groups = Store::new();
        for store in [&mut one_by_one, &mut together, &mut in_groups] {
            store.apply(&[command(sql(&SCHEMA))]);
        }
        let answers = apply_in_groups(&mut one_by_one, &commands, &[1]);
        prop_assert_eq!(&answers, &apply_in_groups(&mut together, &commands, &[commands.len()]));
        prop_assert_eq!(&answers, &apply_in_groups(&mut in_groups, &commands, &sizes));
        prop_assert_eq!(one_by_one.dump(), together.dump());
        prop_assert_eq!(one_by_one.dump(), in_groups.dump());
        prop_assert_eq!(one_by_one.checksum(), together.checksum());
    }

    #[test]
    fn a_restart_changes_nothing(commands in commands(), sizes in prop::collection::vec(1..5usize, 1..6)) {
        let commands: Vec<_> = [command(sql(&SCHEMA))].into_iter().chain(commands).collect();
        let mut steady = Store::new();
        let answers = apply_in_groups(&mut steady, &commands, &sizes);
        let (restarted, after_restarts) = apply_with_restarts(Store::new(), &commands, &sizes);
        prop_assert_eq!(answers, after_restarts);
        prop_assert_eq!(steady.dump(), restarted.dump());
        prop_assert_eq!(steady.checksum(), restarted.checksum());
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Command::decode(&bytes);
        let mut versioned = vec![1];
        versioned.extend(bytes);
        let _ = Command::decode(&versioned);
    }
}

#[test]
fn a_dump_tells_states_apart() {
    let mut store = Store::new();
    let empty = store.dump();
    store.sql(&["CREATE TABLE t (a)"]);
    let made = store.dump();
    assert_ne!(empty, made);
    store.sql(&["INSERT INTO t VALUES (1)"]);
    let integer = store.dump();
    let entry = store.entry(Payload::Noop);
    store.state_machine().apply(&[entry]).unwrap();
    assert_ne!(integer, store.dump(), "the position counts");
    let mut other = Store::new();
    other.sql(&["CREATE TABLE t (a)"]);
    other.sql(&["INSERT INTO t VALUES ('1')"]);
    assert_ne!(integer, other.dump(), "so does the type of a value");
}
