//! Time and chance as SQL sees them: both come from the command, so they are the same on every node.
//!
//! SQLite's own functions of time and chance are replaced on each connection, also where a DEFAULT, a trigger or a view
//! calls them. The new ones of time put the command's time in place of `now` and let SQLite's own do the rest, on a
//! connection of their own. What depends on a node's time zone is an error. One thing is lost: SQLite can't know that a
//! replaced function is pure when it is given a fixed time, so functions of time can't be used in an index, a CHECK or
//! a generated column.

use std::cell::OnceCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Error, Result, params_from_iter};

use crate::limits::SQL_VALUE_BYTES;

/// The time and chance of one command.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moment {
    /// Milliseconds since 1970.
    time_ms: u64,
    chance: Chance,
}

impl Moment {
    pub(crate) fn new(time_ms: u64, seed: [u8; 16]) -> Self {
        Self { time_ms, chance: Chance::new(seed) }
    }
}

/// The wall clock, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A fresh seed.
pub(crate) fn random_seed() -> Result<[u8; 16], crate::error::Error> {
    let mut seed = [0; 16];
    getrandom::fill(&mut seed).map_err(crate::error::Error::Random)?;
    Ok(seed)
}

/// What the functions of a connection see.
#[derive(Clone, Default)]
pub(crate) struct SharedMoment(Arc<Mutex<Moment>>);

impl SharedMoment {
    pub(crate) fn set(&self, moment: Moment) {
        *self.lock() = moment;
    }

    fn lock(&self) -> MutexGuard<'_, Moment> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces the functions of time and chance on `connection`.
pub(crate) fn install(connection: &Connection, moment: &SharedMoment) -> Result<()> {
    // Innocuous: they may be called from the schema. Not deterministic: each call of random() gives another number.
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    let chance = moment.clone();
    connection.create_scalar_function("random", 0, flags, move |_| Ok(chance.lock().chance.next().cast_signed()))?;
    let chance = moment.clone();
    connection.create_scalar_function("randomblob", 1, flags, move |call| random_blob(&chance, call))?;
    let calendar = Arc::new(Mutex::new(Calendar { moment: moment.clone(), sqlite: OnceCell::new() }));
    for function in FUNCTIONS_OF_TIME {
        let calendar = calendar.clone();
        connection.create_scalar_function(function.name, function.arguments, flags, move |call| {
            let arguments = (0..call.len()).map(|n| owned(call.get_raw(n))).collect();
            calendar.lock().unwrap_or_else(PoisonError::into_inner).call(function, arguments)
        })?;
    }
    Ok(())
}

fn random_blob(moment: &SharedMoment, call: &Context<'_>) -> Result<Vec<u8>> {
    let wanted = call.get::<Option<i64>>(0).unwrap_or_default().unwrap_or_default().max(1);
    let bytes = usize::try_from(wanted).unwrap_or(usize::MAX);
    if bytes > SQL_VALUE_BYTES {
        return Err(failure(format!("randomblob({wanted}) is too big: at most {SQL_VALUE_BYTES} bytes are allowed")));
    }
    let mut moment = moment.lock();
    let mut blob: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| moment.chance.next().to_le_bytes()).collect();
    blob.truncate(bytes);
    Ok(blob)
}

/// A function of time.
struct FunctionOfTime {
    name: &'static str,
    /// How many arguments it takes; -1 for any number.
    arguments: i32,
    /// What SQLite runs for it.
    runs: &'static str,
    /// Which of its arguments is the first to say a time; all after it but the last `times` modify that.
    time: usize,
    /// How many arguments say a time.
    times: usize,
}

const FUNCTIONS_OF_TIME: &[FunctionOfTime] = &[
    FunctionOfTime { name: "date", arguments: -1, runs: "date", time: 0, times: 1 },
    FunctionOfTime { name: "time", arguments: -1, runs: "time", time: 0, times: 1 },
    FunctionOfTime { name: "datetime", arguments: -1, runs: "datetime", time: 0, times: 1 },
    FunctionOfTime { name: "julianday", arguments: -1, runs: "julianday", time: 0, times: 1 },
    FunctionOfTime { name: "unixepoch", arguments: -1, runs: "unixepoch", time: 0, times: 1 },
    FunctionOfTime { name: "strftime", arguments: -1, runs: "strftime", time: 1, times: 1 },
    FunctionOfTime { name: "timediff", arguments: 2, runs: "timediff", time: 0, times: 2 },
    FunctionOfTime { name: "current_date", arguments: 0, runs: "date", time: 0, times: 1 },
    FunctionOfTime { name: "current_time", arguments: 0, runs: "time", time: 0, times: 1 },
    FunctionOfTime { name: "current_timestamp", arguments: 0, runs: "datetime", time: 0, times: 1 },
];

/// Computes with dates, as SQLite does.
struct Calendar {
    moment: SharedMoment,
    /// Holds nothing; made when it is first needed.
    sqlite: OnceCell<Connection>,
}

impl Calendar {
    fn call(&mut self, function: &FunctionOfTime, mut arguments: Vec<Value>) -> Result<Value> {
        if arguments.len() == function.time {
            arguments.push(Value::Text("now".into()));
        }
        let mut wants_fractions = false;
        for (position, argument) in arguments.iter_mut().enumerate().skip(function.time) {
            let says_time = position < function.time + function.times;
            match word(argument).as_deref() {
                Some("now") if says_time => *argument = self.now()?,
                Some("subsec" | "subsecond") if says_time => {
                    *argument = self.now()?;
                    wants_fractions = true;
                }
                Some(zone @ ("localtime" | "utc")) => {
                    return Err(failure(format!(
                        "the modifier '{zone}' is not allowed: nodes may be in different time zones"
                    )));
                }
                _ => {}
            }
        }
        if wants_fractions && function.times == 1 {
            arguments.push(Value::Text("subsec".into()));
        }
        let places = (1..=arguments.len()).map(|n| format!("?{n}")).collect::<Vec<_>>().join(", ");
        let sql = format!("SELECT {}({places})", function.runs);
        self.sqlite()?.prepare_cached(&sql)?.query_row(params_from_iter(arguments), |row| row.get(0))
    }

    /// The time of the command, in full.
    fn now(&self) -> Result<Value> {
        let time_ms = self.moment.lock().time_ms;
        #[expect(clippy::cast_precision_loss, reason = "exact for the next 285,000 years")]
        let seconds = time_ms as f64 / 1000.0;
        let sql = "SELECT strftime('%Y-%m-%d %H:%M:%f', ?1, 'unixepoch')";
        let now: Value = self.sqlite()?.prepare_cached(sql)?.query_row([seconds], |row| row.get(0))?;
        match now {
            Value::Text(_) => Ok(now),
            _ => Err(failure(format!("the command's time ({time_ms} ms) is outside the calendar"))),
        }
    }

    fn sqlite(&self) -> Result<&Connection> {
        if let Some(connection) = self.sqlite.get() {
            return Ok(connection);
        }
        let connection = Connection::open_in_memory()?;
        Ok(self.sqlite.get_or_init(|| connection))
    }
}

/// A text that is not UTF-8 may stay as its bytes: no function of time tells the difference.
fn owned(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Text(bytes) => {
            String::from_utf8(bytes.into()).map_or_else(|bytes| Value::Blob(bytes.into_bytes()), Value::Text)
        }
        ValueRef::Blob(bytes) => Value::Blob(bytes.into()),
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(real) => Value::Real(real),
    }
}

/// A text as SQLite's functions of time read it: up to the first NUL, in any case.
fn word(value: &Value) -> Option<String> {
    let bytes = match value {
        Value::Text(text) => text.as_bytes(),
        Value::Blob(blob) => blob,
        _ => return None,
    };
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    str::from_utf8(&bytes[..end]).ok().map(str::to_ascii_lowercase)
}

fn failure(message: String) -> Error {
    Error::UserFunctionError(message.into())
}

/// Random numbers that follow from a seed: xoroshiro128++ by Blackman and Vigna. Not for secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chance([u64; 2]);

impl Default for Chance {
    fn default() -> Self {
        Self::new([0; 16])
    }
}

impl Chance {
    fn new(seed: [u8; 16]) -> Self {
        let number = u128::from_le_bytes(seed);
        // From all zeros it would never get away.
        let number = if number == 0 { u128::MAX } else { number };
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        Self([number as u64, (number >> 64) as u64])
    }

    fn next(&mut self) -> u64 {
        let [first, second] = self.0;
        let result = first.wrapping_add(second).rotate_left(17).wrapping_add(first);
        let mixed = first ^ second;
        self.0 = [first.rotate_left(49) ^ mixed ^ (mixed << 21), mixed.rotate_left(28)];
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-23 12:34:56.789.
    const TIME_MS: u64 = 1_795_437_296_789;

    fn connection(time_ms: u64, seed: u8) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        let moment = SharedMoment::default();
        install(&connection, &moment).unwrap();
        moment.set(Moment::new(time_ms, [seed; 16]));
        connection
    }

    fn text(connection: &Connection, sql: &str) -> String {
        connection.query_row(&format!("SELECT CAST({sql} AS TEXT)"), [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn all_that_tells_the_time_tells_the_commands() {
        let connection = connection(TIME_MS, 1);
        for (sql, expected) in [
            ("CURRENT_TIMESTAMP", "2026-11-23 12:34:56"),
            ("CURRENT_DATE", "2026-11-23"),
            ("CURRENT_TIME", "12:34:56"),
            ("datetime()", "2026-11-23 12:34:56"),
            ("datetime('now')", "2026-11-23 12:34:56"),
            ("datetime('NOW', '+1 day')", "2026-11-24 12:34:56"),
            ("datetime(CAST('now' AS BLOB))", "2026-11-23 12:34:56"),
            ("datetime('now' || char(0) || 'x')", "2026-11-23 12:34:56"),
            ("datetime('subsec')", "2026-11-23 12:34:56.789"),
            ("datetime('now', 'subsec')", "2026-11-23 12:34:56.789"),
            ("date('now', 'start of month')", "2026-11-01"),
            ("unixepoch()", "1795437296"),
            ("unixepoch('now', 'subsec')", "1795437296.789"),
            ("julianday('now') = julianday('2026-11-23 12:34:56.789')", "1"),
            ("strftime('%s')", "1795437296"),
            ("strftime('%Y now', 'now')", "2026 now"),
            ("timediff('now', '2026-11-22 12:34:56.789')", "+0000-00-01 00:00:00.000"),
            ("timediff('2026-11-24 12:34:56.789', 'now')", "+0000-00-01 00:00:00.000"),
        ] {
            assert_eq!(text(&connection, sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_given_time_is_computed_with_as_sqlite_does() {
        let (ours, sqlites) = (connection(TIME_MS, 1), Connection::open_in_memory().unwrap());
        for sql in [
            "coalesce(date('nonsense'), 'null')",
            "date('2024-02-28', '+1 day')",
            "datetime(0, 'unixepoch')",
            "datetime(1.5e9, 'auto')",
            "datetime(2460000.5)",
            "time('12:00', '-90 minutes')",
            "strftime('%H:%M utc', '2024-02-28 01:02:03')",
            "coalesce(date(NULL), 'null')",
            "julianday('2000-01-01')",
            "timediff('2024-01-01', '2023-01-01')",
            "coalesce(strftime(), 'null')",
        ] {
            assert_eq!(text(&ours, sql), text(&sqlites, sql), "{sql}");
        }
    }

    #[test]
    fn defaults_triggers_and_views_see_the_commands_time_and_chance() {
        let script = "CREATE TABLE t (a, at DEFAULT CURRENT_TIMESTAMP, chance DEFAULT (random()), x);
             CREATE TRIGGER g AFTER INSERT ON t BEGIN UPDATE t SET x = hex(randomblob(9)) || datetime('now'); END;
             CREATE VIEW v AS SELECT *, date('now') AS today, random() AS more FROM t;
             INSERT INTO t (a) VALUES (1), (2);";
        let rows = |connection: &Connection| -> Vec<String> {
            connection.execute_batch(script).unwrap();
            let mut select = connection.prepare("SELECT at || chance || x || today || more FROM v").unwrap();
            select.query_map([], |row| row.get(0)).unwrap().collect::<Result<_>>().unwrap()
        };
        let first = rows(&connection(TIME_MS, 7));
        assert_eq!(first, rows(&connection(TIME_MS, 7)));
        assert_ne!(first, rows(&connection(TIME_MS, 8)), "another seed gives other numbers");
        assert_ne!(first[0], first[1], "each call gives another number");
    }

    #[test]
    fn what_depends_on_the_time_zone_or_the_memory_of_a_node_fails() {
        let connection = connection(TIME_MS, 1);
        for sql in
            ["SELECT datetime('now', 'localtime')", "SELECT date('2020-01-01', 'UTC')", "SELECT randomblob(1000000000)"]
        {
            connection.query_row(sql, [], |_| Ok(())).expect_err(sql);
        }
    }

    #[test]
    fn a_time_outside_the_calendar_fails() {
        connection(u64::MAX, 1).query_row("SELECT date('now')", [], |_| Ok(())).unwrap_err();
    }

    #[test]
    fn functions_of_time_can_not_stand_in_an_index() {
        let connection = connection(TIME_MS, 1);
        connection.execute_batch("CREATE TABLE t (a); CREATE INDEX i ON t (date(a))").unwrap_err();
    }
}
