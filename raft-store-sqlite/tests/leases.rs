//! Leases: they end by log time, outlast a change of leaders, and take their keys with them.

mod common;

use common::{Store, TIME_MS, command, sql};
use raft_core::port::StateMachine;
use raft_core::types::{EntryId, Payload, Term};
use raft_store_sqlite::{Action, Argument, Command, Operation, Outcome, Put, Value, limits};

const KEEP: Operation = Operation::KeepLease { lease: 5 };
const NONE: Outcome = Outcome::NoSuchLease { lease: 5 };

/// Applies a command of this term, so many milliseconds after the beginning.
fn run(store: &mut Store, term: u64, after_ms: u64, operation: Operation) -> Outcome {
    let command = Command { time_ms: TIME_MS + after_ms, ..command(operation) };
    let mut entry = store.entry(Payload::Command(command.encode()));
    entry.id = EntryId::new(entry.id.index, Term(term));
    let mut answers = store.state_machine().apply(&[entry]).unwrap();
    answers.remove(0).expect("a command is answered").outcome
}

fn with_lease(ttl_ms: u64) -> Store {
    let mut store = Store::new();
    let granted = run(&mut store, 1, 0, Operation::GrantLease { lease: 5, ttl_ms });
    assert_eq!(granted, Outcome::LeaseGranted { lease: 5 });
    store
}

fn put_under_lease(key: String) -> Operation {
    let value = Argument::Given(Value::Text("v".into()));
    Operation::Run(vec![Action::Put(Put { key: key.into(), value, lease: 5, previous: false }).into()])
}

fn keys(store: &Store) -> Value {
    store.value("SELECT count(*) FROM kv")
}

#[test]
fn a_lease_is_over_at_its_deadline_and_its_keys_go_when_it_is_removed() {
    let mut store = with_lease(100);
    run(&mut store, 1, 50, put_under_lease("k".into()));
    assert_eq!(run(&mut store, 1, 100, KEEP), NONE);
    assert_eq!(run(&mut store, 1, 100, put_under_lease("other".into())), NONE);
    assert_eq!(keys(&store), Value::Integer(1), "still there");
    assert_eq!(run(&mut store, 1, 100, Operation::Expire), Outcome::Expired { more: false });
    assert_eq!(keys(&store), Value::Integer(0));
}

#[test]
fn a_change_of_leaders_gives_a_lease_its_full_time() {
    let mut store = with_lease(100);
    assert_eq!(run(&mut store, 2, 500, Operation::Mark), Outcome::Marked);
    assert_eq!(run(&mut store, 2, 599, KEEP), Outcome::LeaseKept { ttl_ms: 100 });
    assert_eq!(run(&mut store, 2, 699, KEEP), NONE, "only the first command of a term does so");
}

#[test]
fn a_lease_that_was_over_stays_so_under_another_leader() {
    let mut store = with_lease(100);
    assert_eq!(run(&mut store, 1, 100, KEEP), NONE);
    assert_eq!(run(&mut store, 2, 101, KEEP), NONE);
}

#[test]
fn a_change_of_leaders_counts_though_its_first_command_undoes_its_transaction() {
    let mut store = with_lease(100);
    store.sql(&["CREATE TABLE t (a UNIQUE)", "INSERT INTO t VALUES (1)"]);
    let failed = run(&mut store, 2, 500, sql(&["INSERT OR ROLLBACK INTO t VALUES (1)"]));
    assert!(matches!(failed, Outcome::Failed { .. }), "{failed:?}");
    assert_eq!(run(&mut store, 2, 501, KEEP), Outcome::LeaseKept { ttl_ms: 100 });
}

#[test]
fn many_keys_go_in_pieces_each_with_one_revision() {
    let mut store = with_lease(100);
    let many = limits::EXPIRED + limits::EXPIRED / 2;
    let puts: Vec<_> = (0..many).map(|number| command(put_under_lease(number.to_string()))).collect();
    let before = store.apply(&puts).last().unwrap().revision;
    assert_eq!(run(&mut store, 1, 100, Operation::Expire), Outcome::Expired { more: true });
    assert_eq!(keys(&store), Value::Integer((many - limits::EXPIRED) as i64));
    assert_eq!(run(&mut store, 1, 100, Operation::Expire), Outcome::Expired { more: false });
    assert_eq!(keys(&store), Value::Integer(0));
    assert_eq!(store.parts.reader.revision().unwrap(), before + 2);
}

#[test]
fn the_number_of_a_lease_is_given_once() {
    let mut store = with_lease(100);
    let again = run(&mut store, 1, 1, Operation::GrantLease { lease: 5, ttl_ms: 1 });
    assert!(matches!(again, Outcome::Failed { .. }), "{again:?}");
    // Their entries have the indexes 3, 4 and 5, and 5 is in use.
    for lease in [3, 4, 6] {
        let granted = run(&mut store, 1, 1, Operation::GrantLease { lease: 0, ttl_ms: 1 });
        assert_eq!(granted, Outcome::LeaseGranted { lease });
    }
}
