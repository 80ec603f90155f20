//! Keys, leases and history agree with a naive twin, whatever programs come in whatever order.

mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::{Store, TIME_MS, command};
use proptest::prelude::*;
use raft_store_sqlite::{
    Action, Argument, Command, Compare, Detail, Expect, Found, KeyRange, KeyValue, Lookup, Operation, Outcome, Output,
    Put, Relation, Step, StepResult, Target, Value,
};

/// What the store is to be, in the simplest way: what each key was from each revision on.
#[derive(Clone)]
struct Twin {
    revision: u64,
    compacted: u64,
    time_ms: u64,
    keys: BTreeMap<Bytes, BTreeMap<u64, Option<KeyValue>>>,
    /// For how long each was granted, and its deadline.
    leases: BTreeMap<u64, (u64, u64)>,
}

/// What ends a program early. Of failures, only the kind is compared.
enum Stopped {
    Failed,
    Unexpected,
    NoSuchLease(u64),
}

impl Twin {
    fn new() -> Self {
        Self { revision: 1, compacted: 0, time_ms: TIME_MS, keys: BTreeMap::new(), leases: BTreeMap::new() }
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        self.time_ms = self.time_ms.max(command.time_ms);
        match &command.operation {
            Operation::Run(steps) => self.run(steps),
            Operation::GrantLease { lease, ttl_ms } => {
                if self.leases.contains_key(lease) {
                    return failed();
                }
                self.leases.insert(*lease, (*ttl_ms, self.time_ms + ttl_ms));
                Outcome::LeaseGranted { lease: *lease }
            }
            Operation::KeepLease { lease } => {
                if !self.lasts(*lease) {
                    return Outcome::NoSuchLease { lease: *lease };
                }
                let ttl_ms = self.leases[lease].0;
                self.leases.insert(*lease, (ttl_ms, self.time_ms + ttl_ms));
                Outcome::LeaseKept { ttl_ms }
            }
            Operation::RevokeLease { lease } => {
                if !self.leases.contains_key(lease) {
                    return Outcome::NoSuchLease { lease: *lease };
                }
                Outcome::LeaseRevoked { deleted: self.end_leases(&[*lease]) }
            }
            Operation::Compact { revision } if *revision > self.revision => failed(),
            Operation::Compact { revision } => {
                self.compacted = self.compacted.max(*revision);
                Outcome::Compacted
            }
            Operation::Expire => {
                let over: Vec<_> = self.leases.keys().copied().filter(|&lease| !self.lasts(lease)).collect();
                self.end_leases(&over);
                Outcome::Expired { more: false }
            }
            Operation::Mark => Outcome::Marked,
        }
    }

    /// Ends leases in one revision. Returns how many keys went with them.
    fn end_leases(&mut self, ended: &[u64]) -> u64 {
        let all = self.at(0, &KeyRange::prefix(""));
        let keys: Vec<_> = all.into_iter().filter(|entry| ended.contains(&entry.lease)).collect();
        keys.iter().for_each(|entry| self.set(&entry.key, None));
        self.revision += u64::from(!keys.is_empty());
        self.leases.retain(|lease, _| !ended.contains(lease));
        keys.len() as u64
    }

    fn lasts(&self, lease: u64) -> bool {
        self.leases.get(&lease).is_some_and(|(_, deadline_ms)| *deadline_ms > self.time_ms)
    }

    /// What changes has the next revision.
    fn set(&mut self, key: &Bytes, entry: Option<KeyValue>) {
        self.keys.entry(key.clone()).or_default().insert(self.revision + 1, entry);
    }

    fn now(&self, key: &Bytes) -> Option<KeyValue> {
        self.at(0, &KeyRange::Key(key.clone())).pop()
    }

    /// The keys of a range as of a revision, 0 for what the steps so far have made.
    fn at(&self, revision: u64, range: &KeyRange) -> Vec<KeyValue> {
        let until = if revision == 0 { u64::MAX } else { revision };
        let in_range = self.keys.iter().filter(|(key, _)| range.contains(key));
        in_range.filter_map(|(_, changes)| changes.range(..=until).next_back()?.1.clone()).collect()
    }

    fn run(&mut self, steps: &[Step]) -> Outcome {
        let mut trial = self.clone();
        match trial.steps(steps) {
            Ok(results) => {
                let next = trial.revision + 1;
                trial.revision += u64::from(trial.keys.values().any(|changes| changes.contains_key(&next)));
                *self = trial;
                Outcome::Ran(results)
            }
            Err(Stopped::Failed) => failed(),
            Err(Stopped::Unexpected) => Outcome::Unexpected { message: String::new() },
            Err(Stopped::NoSuchLease(lease)) => Outcome::NoSuchLease { lease },
        }
    }

    fn steps(&mut self, steps: &[Step]) -> Result<Vec<StepResult>, Stopped> {
        let mut results = Vec::new();
        for step in steps {
            let (result, count) = self.step(&step.action, &results)?;
            if step.expect.is_some_and(|expect| !(expect.at_least..=expect.at_most).contains(&count)) {
                return Err(Stopped::Unexpected);
            }
            results.push(result);
        }
        Ok(results)
    }

    fn step(&mut self, action: &Action, earlier: &[StepResult]) -> Result<(StepResult, u64), Stopped> {
        Ok(match action {
            Action::Put(put) => (self.put(put, earlier)?, 1),
            Action::Delete { range, previous } => {
                let gone = self.at(0, range);
                gone.iter().for_each(|entry| self.set(&entry.key, None));
                let count = gone.len() as u64;
                (StepResult::Deleted { count, previous: if *previous { gone } else { Vec::new() } }, count)
            }
            Action::Get(lookup) => {
                let found = self.find(lookup).ok_or(Stopped::Failed)?;
                let count = found.count;
                (StepResult::Got(found), count)
            }
            Action::If { compare, then, otherwise } => {
                let held = compare.iter().all(|compare| self.holds(compare));
                let results = self.steps(if held { then } else { otherwise })?;
                (StepResult::If { held, results }, u64::from(held))
            }
            Action::Sql(_) => unreachable!("the twin has no SQL"),
        })
    }

    fn put(&mut self, put: &Put, earlier: &[StepResult]) -> Result<StepResult, Stopped> {
        let value = match &put.value {
            Argument::Given(Value::Blob(value)) => value.clone(),
            Argument::Output(Output { step, row, column: 1 }) => match earlier.get(*step as usize) {
                Some(StepResult::Got(found)) => found.entries.get(*row as usize).ok_or(Stopped::Failed)?.value.clone(),
                _ => return Err(Stopped::Failed),
            },
            other => unreachable!("{other:?} is not generated"),
        };
        if put.lease != 0 && !self.lasts(put.lease) {
            return Err(Stopped::NoSuchLease(put.lease));
        }
        let (before, next) = (self.now(&put.key), self.revision + 1);
        let (create_revision, version) =
            before.as_ref().map_or((next, 1), |entry| (entry.create_revision, entry.version + 1));
        let (key, lease) = (put.key.clone(), put.lease);
        self.set(&put.key, Some(KeyValue { key, value, create_revision, mod_revision: next, version, lease }));
        Ok(StepResult::Put { replaced: before.is_some(), previous: before.filter(|_| put.previous) })
    }

    /// None for a revision that can't be read.
    fn find(&self, lookup: &Lookup) -> Option<Found> {
        if lookup.revision != 0 && !(self.compacted.max(1)..=self.revision).contains(&lookup.revision) {
            return None;
        }
        let mut entries = self.at(lookup.revision, &lookup.range);
        let count = entries.len() as u64;
        if lookup.limit > 0 {
            entries.truncate(lookup.limit as usize);
        }
        match lookup.detail {
            Detail::Full => (),
            Detail::Keys => entries.iter_mut().for_each(|entry| entry.value.clear()),
            Detail::Count => return Some(Found { count, ..Found::default() }),
        }
        let more = count > entries.len() as u64;
        Some(Found { entries, count, more })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let mut entries = self.at(0, &compare.range);
        if let (KeyRange::Key(_), true) = (&compare.range, entries.is_empty()) {
            if matches!(compare.target, Target::Value(_)) {
                return false;
            }
            entries.push(KeyValue::default());
        }
        entries.iter().all(|entry| {
            let order = match &compare.target {
                Target::Version(number) => entry.version.cmp(number),
                Target::CreateRevision(number) => entry.create_revision.cmp(number),
                Target::ModRevision(number) => entry.mod_revision.cmp(number),
                Target::Value(value) => entry.value.cmp(value),
                Target::Lease(number) => entry.lease.cmp(number),
            };
            match compare.relation {
                Relation::Equal => order.is_eq(),
                Relation::NotEqual => order.is_ne(),
                Relation::Less => order.is_lt(),
                Relation::Greater => order.is_gt(),
            }
        })
    }

    /// The leases that last: number, time granted, time left, keys.
    fn leases(&self) -> Vec<(u64, u64, u64, Vec<Bytes>)> {
        let all = self.at(0, &KeyRange::prefix(""));
        let keys = |lease| all.iter().filter(|entry| entry.lease == lease).map(|entry| entry.key.clone()).collect();
        let lasting = self.leases.iter().filter(|(lease, _)| self.lasts(**lease));
        lasting
            .map(|(&lease, &(ttl_ms, deadline_ms))| (lease, ttl_ms, deadline_ms - self.time_ms, keys(lease)))
            .collect()
    }
}

fn failed() -> Outcome {
    Outcome::Failed { message: String::new() }
}

/// Outcomes without what is for people.
fn mute(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failed { .. } => failed(),
        Outcome::Unexpected { .. } => Outcome::Unexpected { message: String::new() },
        other => other,
    }
}

/// Keys of both forms of storage, whose order by bytes goes to and fro between them: a text, bytes that are none, a text after those.
fn key() -> impl Strategy<Value = Bytes> {
    let keys: [&'static [u8]; 9] =
        [b"a", b"a\0", b"a\0b", b"ab", b"a\xff", b"b", b"\0", "\u{10ffff}".as_bytes(), b"\xff"];
    prop::sample::select(keys.to_vec()).prop_map(Bytes::from_static)
}

fn range() -> impl Strategy<Value = KeyRange> {
    let end = prop::option::of(prop_oneof![key(), Just(Bytes::new())]);
    prop_oneof![
        3 => key().prop_map(KeyRange::Key),
        2 => (prop_oneof![key(), Just(Bytes::new())], end).prop_map(|(start, end)| KeyRange::Span { start, end }),
        1 => key().prop_map(KeyRange::prefix),
    ]
}

fn lookup() -> impl Strategy<Value = Lookup> {
    let detail = prop::sample::select(vec![Detail::Full, Detail::Full, Detail::Keys, Detail::Count]);
    let revision = prop_oneof![1 => Just(0), 2 => 1..30u64];
    (range(), revision, 0..5u64, detail).prop_map(|(range, revision, limit, detail)| Lookup {
        range,
        revision,
        limit,
        detail,
    })
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec![&b""[..], b"1", b"2", b"\xff"]).prop_map(Bytes::from_static)
}

fn compare() -> impl Strategy<Value = Compare> {
    let relation = prop::sample::select(vec![Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater]);
    let target = prop_oneof![
        (0..3u64).prop_map(Target::Version),
        (0..12u64).prop_map(Target::CreateRevision),
        (0..12u64).prop_map(Target::ModRevision),
        (0..3u64).prop_map(Target::Lease),
        value().prop_map(Target::Value),
    ];
    (range(), relation, target).prop_map(|(range, relation, target)| Compare { range, relation, target })
}

fn action() -> impl Strategy<Value = Action> {
    let output = (0..2u32, 0..2u32).prop_map(|(step, row)| Argument::Output(Output { step, row, column: 1 }));
    let value = prop_oneof![6 => value().prop_map(|value| Argument::Given(Value::Blob(value))), 1 => output];
    let lease = prop_oneof![3 => Just(0), 2 => 1..4u64];
    prop_oneof![
        4 => (key(), value, lease, any::<bool>())
            .prop_map(|(key, value, lease, previous)| Action::Put(Put { key, value, lease, previous })),
        2 => (range(), any::<bool>()).prop_map(|(range, previous)| Action::Delete { range, previous }),
        2 => lookup().prop_map(Action::Get),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let simple = || {
        let expect = prop::option::weighted(0.1, (0..3u64).prop_map(|least| Expect { at_least: least, at_most: 2 }));
        (action(), expect).prop_map(|(action, expect)| Step { action, expect })
    };
    let list = move || prop::collection::vec(simple(), 0..3);
    let either = (prop::collection::vec(compare(), 0..3), list(), list())
        .prop_map(|(compare, then, otherwise)| Action::If { compare, then, otherwise }.into());
    prop::collection::vec(prop_oneof![4 => simple(), 1 => either], 1..4)
}

fn operation() -> impl Strategy<Value = Operation> {
    let lease = 1..4u64;
    prop_oneof![
        12 => steps().prop_map(Operation::Run),
        3 => (lease.clone(), 1..40u64).prop_map(|(lease, ttl_ms)| Operation::GrantLease { lease, ttl_ms }),
        1 => lease.clone().prop_map(|lease| Operation::KeepLease { lease }),
        1 => lease.prop_map(|lease| Operation::RevokeLease { lease }),
        1 => (1..30u64).prop_map(|revision| Operation::Compact { revision }),
        1 => Just(Operation::Expire),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keys_leases_and_history_agree_with_a_twin(
        commands in prop::collection::vec((operation(), 0..8u64, lookup()), 1..50),
    ) {
        let (mut store, mut twin, mut time_ms) = (Store::new(), Twin::new(), TIME_MS);
        let reader = store.parts.reader.clone();
        for (operation, passes_ms, lookup) in commands {
            time_ms += passes_ms;
            let command = Command { time_ms, ..command(operation) };
            if command.check().is_err() {
                continue;
            }
            let answer = store.apply(std::slice::from_ref(&command)).remove(0);
            prop_assert_eq!(mute(answer.outcome), twin.apply(&command), "{:?}", command);
            prop_assert_eq!(answer.revision, twin.revision);
            prop_assert_eq!(reader.find(&lookup).ok().map(|seen| seen.value), twin.find(&lookup), "{:?}", lookup);
            let leases = reader.leases(None, true).unwrap().value;
            let mut leases: Vec<_> =
                leases.into_iter().map(|lease| (lease.lease, lease.ttl_ms, lease.remaining_ms, lease.keys)).collect();
            leases.iter_mut().for_each(|lease| lease.3.sort());
            prop_assert_eq!(leases, twin.leases());
        }
        for revision in twin.compacted.max(1)..=twin.revision {
            let lookup = Lookup { revision, ..Lookup::range(KeyRange::prefix("")) };
            prop_assert_eq!(reader.find(&lookup).ok().map(|seen| seen.value), twin.find(&lookup), "{:?}", lookup);
        }
    }
}
