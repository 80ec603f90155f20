//! Sessions begin, end and are removed by log time, and no command of one is ever applied twice.

mod common;

use std::collections::BTreeMap;

use common::{Store, TIME_MS, command, put, was_put};
use proptest::prelude::*;
use raft_core::port::LogStore;
use raft_core::types::{NodeId, Payload};
use raft_store_sqlite::{Answer, Command, Error, Operation, Outcome, SessionId, Value, limits, state_path};
use rusqlite::Connection;

const SESSION_MS: i64 = limits::SESSION_MS as i64;
const HALF_MS: i64 = SESSION_MS / 2;

/// A command of client 0, opened and sent at times relative to [`TIME_MS`].
fn sent(opened: i64, at: i64, sequence: u64) -> Command {
    let key = format!("{opened}/{sequence}");
    let session = SessionId { client: "client".into(), opened_ms: time(opened), sequence, answered: 0 };
    Command { time_ms: time(at), session: Some(session), ..command(put(&key, "")) }
}

fn time(at: i64) -> u64 {
    TIME_MS.checked_add_signed(at).unwrap()
}

fn expired(at: i64) -> Outcome {
    Outcome::SessionExpired { time_ms: time(at) }
}

fn expire(at: i64) -> Command {
    Command { time_ms: time(at), ..command(Operation::Expire) }
}

fn outcomes(store: &mut Store, commands: &[Command]) -> Vec<Outcome> {
    store.apply(commands).into_iter().map(|answer| answer.outcome).collect()
}

fn count(store: &Store, sql: &str) -> i64 {
    let connection = Connection::open(state_path(store.folder.path(), NodeId(1))).unwrap();
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn a_session_begins_within_half_its_length_of_log_time() {
    for (opened, begins) in [(1 - HALF_MS, true), (HALF_MS - 1, true), (-HALF_MS, false), (HALF_MS, false)] {
        let mut store = Store::new();
        let expected = if begins { was_put(false) } else { expired(0) };
        assert_eq!(outcomes(&mut store, &[sent(opened, 0, 1)]), [expected], "opened at {opened}");
        assert_eq!(count(&store, "SELECT count(*) FROM raft_sessions"), i64::from(begins));
    }
}

#[test]
fn a_session_lasts_as_long_as_it_is_used_and_is_over_removed_or_not() {
    let mut store = Store::new();
    let later = SESSION_MS - 1;
    let used = [sent(0, 0, 1), sent(0, later, 2), sent(0, 2 * later, 3), sent(0, 3 * later, 1)];
    let put = was_put(false);
    assert_eq!(outcomes(&mut store, &used), [put.clone(), put.clone(), put.clone(), put]);
    let end = 2 * later + SESSION_MS;
    assert_eq!(outcomes(&mut store, &[sent(0, end, 1), sent(0, end, 4)]), [expired(end), expired(end)]);
    assert_eq!(count(&store, "SELECT count(*) FROM raft_sessions"), 1);
    assert_eq!(outcomes(&mut store, &[expire(end), sent(0, end, 1)]), [Outcome::Expired { more: false }, expired(end)]);
    assert_eq!(count(&store, "SELECT count(*) FROM raft_sessions"), 0);
}

#[test]
fn a_client_of_the_same_name_opened_at_another_time_is_another_one() {
    let mut store = Store::new();
    store.apply(&[sent(0, 0, 1)]);
    assert_eq!(outcomes(&mut store, &[sent(1, 0, 1)]), [was_put(false)]);
    assert_eq!(store.parts.reader.get(&"1/1".into()).unwrap().value.unwrap().version, 1);
}

#[test]
fn a_session_says_when_it_was_opened() {
    for opened_ms in [0, i64::MAX as u64 + 1, u64::MAX] {
        let session = SessionId { client: "client".into(), opened_ms, sequence: 1, answered: 0 };
        let command = Command { session: Some(session), ..command(put("a", "1")) };
        assert!(matches!(command.check(), Err(Error::Invalid(_))), "{opened_ms}");
        // From a leader that does not know.
        let [Answer { outcome: Outcome::Failed { message }, .. }] = &Store::new().apply(&[command])[..] else {
            panic!("{opened_ms} was taken")
        };
        assert!(message.contains(&opened_ms.to_string()), "{message}");
    }
}

#[test]
fn a_client_that_is_told_log_time_can_go_on_whatever_its_clock_says() {
    let mut store = Store::new();
    let far = Command { time_ms: u64::MAX, ..command(put("a", "1")) };
    let outcomes = outcomes(&mut store, &[far, sent(0, 0, 1)]);
    let Outcome::SessionExpired { time_ms } = outcomes[1] else { panic!("{outcomes:?}") };
    let session = SessionId { client: "client".into(), opened_ms: time_ms, sequence: 1, answered: 0 };
    let command = Command { session: Some(session), ..command(put("a", "2")) };
    assert_eq!(store.apply(&[command]).remove(0).outcome, was_put(true));
}

/// A store that believes to have so many sessions more than it has.
fn with_sessions(store: Store, more: u64) -> Store {
    let Store { mut parts, next, folder } = store;
    // A start compares the state with the log.
    let stored = parts.log.load().unwrap().last().index.0;
    let entries = (stored + 1..next.0).map(|index| common::entry(index, Payload::Noop)).collect();
    parts.log.write(&[common::append(entries)]).unwrap();
    drop(parts);
    let connection = Connection::open(state_path(folder.path(), NodeId(1))).unwrap();
    connection.execute("UPDATE raft_meta SET sessions = sessions + ?1", [more]).unwrap();
    drop(connection);
    Store { parts: common::open(folder.path()).unwrap(), next, folder }
}

#[test]
fn sessions_are_no_more_than_their_limit() {
    let mut store = Store::new();
    store.apply(&[sent(0, 0, 1)]);
    let mut store = with_sessions(store, limits::SESSIONS - 2);
    assert_eq!(
        outcomes(&mut store, &[sent(1, 0, 1), sent(2, 0, 1), sent(0, 0, 2)]),
        [was_put(false), Outcome::TooManySessions, was_put(false)]
    );
    // Room is made by what is over, and only when that is removed.
    let end = HALF_MS;
    let late = sent(end + 10, end + SESSION_MS, 1);
    assert_eq!(
        outcomes(&mut store, &[late.clone(), expire(end + SESSION_MS), late]),
        [
            Outcome::SessionExpired { time_ms: time(end + SESSION_MS) },
            Outcome::Expired { more: false },
            Outcome::SessionExpired { time_ms: time(end + SESSION_MS) },
        ]
    );
    let now = end + SESSION_MS;
    assert_eq!(
        outcomes(&mut store, &[sent(now, now, 1), sent(now + 1, now, 1), sent(now + 2, now, 1)]),
        [was_put(false), was_put(false), Outcome::TooManySessions]
    );
}

#[test]
fn sessions_and_their_answers_are_removed_piece_by_piece() {
    let mut store = Store::new();
    let piece = limits::EXPIRED as u64;
    let mut commands: Vec<_> = (1..=piece + 1).map(|sequence| sent(0, 0, sequence)).collect();
    commands.extend((1..=5).map(|client| sent(client, 0, 1)));
    commands.push(sent(6, 1, 1));
    store.apply(&commands);
    assert_eq!(store.parts.reader.upkeep().unwrap().next_expiry_ms, Some(time(SESSION_MS)));

    let mut remaining = Vec::new();
    let mut expire = |at| {
        let outcome = store.apply(&[expire(at)]).remove(0).outcome;
        let answers = count(&store, "SELECT count(*) FROM raft_answers");
        remaining.push((answers, count(&store, "SELECT count(*) FROM raft_sessions")));
        // By log time, more is known to be due at once.
        let is_due = store.parts.reader.upkeep().unwrap().next_expiry_ms == Some(0);
        assert_eq!(outcome, Outcome::Expired { more: is_due });
        outcome
    };
    assert_eq!(expire(SESSION_MS - 1), Outcome::Expired { more: false });
    assert_eq!(expire(SESSION_MS), Outcome::Expired { more: true });
    assert_eq!(expire(SESSION_MS), Outcome::Expired { more: false });
    assert_eq!(expire(SESSION_MS), Outcome::Expired { more: false });
    assert_eq!(expire(SESSION_MS + 1), Outcome::Expired { more: false });
    assert_eq!(remaining, [(piece as i64 + 7, 7), (7, 7), (1, 1), (1, 1), (0, 0)]);
    assert_eq!(store.parts.reader.upkeep().unwrap().next_expiry_ms, None);
}

/// What a client sends, and what becomes of it, by the book: nothing is ever forgotten here.
#[derive(Default)]
struct Twin {
    time_ms: i64,
    sessions: BTreeMap<(u8, u64), Book>,
}

struct Book {
    last_used_ms: i64,
    answered: u64,
    applied: BTreeMap<u64, Answer>,
}

/// What must come of a command.
#[derive(Debug)]
enum Due {
    Applied,
    Answer(Answer),
    Refusal(Outcome),
}

impl Twin {
    fn take(&mut self, client: u8, command: &Command) -> Due {
        self.time_ms = self.time_ms.max(command.time_ms as i64);
        let now = self.time_ms;
        let expired = Due::Refusal(Outcome::SessionExpired { time_ms: now as u64 });
        let SessionId { opened_ms, sequence, answered, .. } = *command.session.as_ref().unwrap();
        let confirmed = match self.sessions.get(&(client, opened_ms)) {
            None if (opened_ms as i64 - now).abs() < HALF_MS => answered,
            None => return expired,
            Some(book) if book.last_used_ms + SESSION_MS <= now => return expired,
            Some(book) => match book.applied.get(&sequence) {
                _ if sequence <= book.answered => return Due::Refusal(Outcome::Forgotten),
                Some(answer) => return Due::Answer(answer.clone()),
                None => book.answered.max(answered),
            },
        };
        if sequence - confirmed > limits::UNANSWERED {
            return Due::Refusal(Outcome::TooManyUnanswered);
        }
        Due::Applied
    }

    fn applied(&mut self, client: u8, session: &SessionId, answer: Answer) {
        let new = || Book { last_used_ms: 0, answered: 0, applied: BTreeMap::new() };
        let book = self.sessions.entry((client, session.opened_ms)).or_insert_with(new);
        book.last_used_ms = self.time_ms;
        book.answered = book.answered.max(session.answered);
        let before = book.applied.insert(session.sequence, answer);
        assert!(before.is_none(), "{session:?} was applied twice");
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Happening {
    /// A client sends a command.
    Sends { client: u8, opened: i64, sequence: u64, behind: u64 },
    /// Some command of before is sent once more.
    Retries(prop::sample::Index),
    /// The leader's clock moves, or another leader has another clock.
    Clock(i64),
    /// The leader has what is over removed.
    Expires,
    /// The node is started anew.
    Restarts,
}

/// Times around those at which something changes.
fn around() -> impl Strategy<Value = i64> {
    let far = prop::sample::select(vec![0, HALF_MS, SESSION_MS, 2 * SESSION_MS]);
    (far, -2..=2i64, any::<bool>()).prop_map(|(far, near, before)| if before { near - far } else { near + far })
}

fn happening() -> impl Strategy<Value = Happening> {
    let sequence = prop_oneof![9 => 1..8u64, 1 => 4095..4100u64];
    prop_oneof![
        8 => (0..3u8, prop_oneof![2 => Just(0), 1 => around()], sequence, 0..8u64)
            .prop_map(|(client, opened, sequence, behind)| Happening::Sends { client, opened, sequence, behind }),
        6 => any::<prop::sample::Index>().prop_map(Happening::Retries),
        3 => around().prop_map(Happening::Clock),
        2 => Just(Happening::Expires),
        1 => Just(Happening::Restarts),
    ]
}

/// Goes through what happens, beside the twin.
struct Run {
    store: Store,
    twin: Twin,
    clock_ms: i64,
    sent: Vec<(u8, SessionId)>,
}

impl Run {
    fn new() -> Self {
        Self { store: Store::new(), twin: Twin::default(), clock_ms: TIME_MS as i64, sent: Vec::new() }
    }

    fn let_happen(mut self, happening: Happening) -> Self {
        match happening {
            Happening::Sends { client, opened, sequence, behind } => {
                let opened_ms = (self.twin.time_ms.max(TIME_MS as i64) + opened) as u64;
                let answered = sequence.saturating_sub(1 + behind);
                let session = SessionId { client: vec![client].into(), opened_ms, sequence, answered };
                self.sent.push((client, session.clone()));
                self.send(client, session);
            }
            Happening::Retries(which) if !self.sent.is_empty() => {
                let (client, session) = which.get(&self.sent).clone();
                self.send(client, session);
            }
            Happening::Retries(_) => {}
            Happening::Clock(by) => self.clock_ms += by,
            Happening::Expires => self.expire(),
            Happening::Restarts => self.store = with_sessions(self.store, 0),
        }
        self
    }

    fn send(&mut self, client: u8, session: SessionId) {
        let key = format!("{client}/{}/{}", session.opened_ms, session.sequence);
        let time_ms = self.clock_ms as u64;
        let command = Command { time_ms, session: Some(session.clone()), ..command(put(&key, "")) };
        let due = self.twin.take(client, &command);
        let answer = self.store.apply(&[command]).remove(0);
        match due {
            Due::Applied => {
                assert_eq!(answer.outcome, was_put(false), "{session:?}");
                self.twin.applied(client, &session, answer);
            }
            Due::Answer(due) => assert_eq!(answer, due, "{session:?}"),
            Due::Refusal(due) => assert_eq!(answer.outcome, due, "{session:?}"),
        }
    }

    fn expire(&mut self) {
        self.twin.time_ms = self.twin.time_ms.max(self.clock_ms);
        let command = Command { time_ms: self.clock_ms as u64, ..command(Operation::Expire) };
        let outcome = self.store.apply(&[command]).remove(0).outcome;
        assert_eq!(outcome, Outcome::Expired { more: false });
        let lives = |book: &&Book| book.last_used_ms + SESSION_MS > self.twin.time_ms;
        let living: Vec<_> = self.twin.sessions.values().filter(lives).collect();
        assert_eq!(count(&self.store, "SELECT sessions FROM raft_meta"), living.len() as i64);
        assert_eq!(count(&self.store, "SELECT count(*) FROM raft_sessions"), living.len() as i64);
        let answers: usize = living.iter().map(|book| book.applied.range(book.answered + 1..).count()).sum();
        assert_eq!(count(&self.store, "SELECT count(*) FROM raft_answers"), answers as i64);
        let next = living.iter().map(|book| (book.last_used_ms + SESSION_MS) as u64).min();
        assert_eq!(self.store.parts.reader.upkeep().unwrap().next_expiry_ms, next);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever clients, clocks and leaders do.
    #[test]
    fn no_command_is_applied_twice_and_every_refusal_has_its_reason(
        happenings in prop::collection::vec(happening(), 1..60),
    ) {
        let Run { store, twin, .. } = happenings.into_iter().fold(Run::new(), Run::let_happen);
        let applied: usize = twin.sessions.values().map(|book| book.applied.len()).sum();
        prop_assert_eq!(store.value("SELECT count(*) FROM kv"), Value::Integer(applied as i64));
        prop_assert_eq!(store.value("SELECT count(*) FROM kv WHERE version > 1"), Value::Integer(0));
    }
}
