//! Time and chance as SQL sees them: both come from the command, so they are the same on every node.
//!
//! A moment holds for a thread, since SQLite works on the thread that calls it. SQLite's own functions of time see it through
//! their [clock](crate::clock). `random` and `randomblob` are replaced on each connection, also where a DEFAULT, a trigger or a
//! view calls them.

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::{Connection, Error, Result};

use crate::limits::SQL_VALUE_BYTES;

/// The time and chance of one command.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    /// Milliseconds since 1970.
    time_ms: u64,
    chance: Chance,
}

thread_local! {
    /// What SQL sees on this thread. Nothing while none of a client's runs.
    static PRESENT: Cell<Option<Moment>> = const { Cell::new(None) };
}

/// While it lives, SQL on this thread sees a moment.
pub(crate) struct Present {
    before: Option<Moment>,
    stays_on_its_thread: PhantomData<*const ()>,
}

impl Moment {
    pub(crate) fn new(time_ms: u64, seed: [u8; 16]) -> Self {
        Self { time_ms, chance: Chance::new(seed) }
    }

    /// Makes this what SQL sees on this thread, until the result is dropped.
    pub(crate) fn begin(self) -> Present {
        Present { before: PRESENT.replace(Some(self)), stays_on_its_thread: PhantomData }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        PRESENT.set(self.before);
    }
}

/// The time that SQL sees on this thread, in milliseconds since 1970, if it sees any but that of the system.
pub(crate) fn present_ms() -> Option<u64> {
    PRESENT.get().map(|moment| moment.time_ms)
}

/// The next random number on this thread.
fn draw() -> Result<u64> {
    let mut moment = PRESENT.get().ok_or_else(|| failure("there is no chance outside of a command".into()))?;
    let number = moment.chance.next();
    PRESENT.set(Some(moment));
    Ok(number)
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

/// Replaces the functions of chance on `connection`.
pub(crate) fn install(connection: &Connection) -> Result<()> {
    // Innocuous: they may be called from the schema. Not deterministic: each call gives another number.
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function("random", 0, flags, |_| draw().map(u64::cast_signed))?;
    connection.create_scalar_function("randomblob", 1, flags, random_blob)
}

fn random_blob(call: &mut Context<'_>) -> Result<Vec<u8>> {
    let wanted = call.get::<Option<i64>>(0).unwrap_or_default().unwrap_or_default().max(1);
    let bytes = usize::try_from(wanted).unwrap_or(usize::MAX);
    if bytes > SQL_VALUE_BYTES {
        return Err(failure(format!("randomblob({wanted}) is too big: at most {SQL_VALUE_BYTES} bytes are allowed")));
    }
    let mut blob = Vec::with_capacity(bytes + 7);
    while blob.len() < bytes {
        blob.extend(draw()?.to_le_bytes());
    }
    blob.truncate(bytes);
    Ok(blob)
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
    use rusqlite::OpenFlags;

    use super::*;
    use crate::clock;

    /// 2026-11-23 12:34:56.789.
    const TIME_MS: u64 = 1_795_437_296_789;

    /// A connection, and what holds while the second is kept.
    fn connection(time_ms: u64, seed: u8) -> (Connection, Present) {
        let vfs = clock::vfs().unwrap();
        let connection = Connection::open_in_memory_with_flags_and_vfs(OpenFlags::default(), vfs).unwrap();
        install(&connection).unwrap();
        (connection, Moment::new(time_ms, [seed; 16]).begin())
    }

    fn text(connection: &Connection, sql: &str) -> String {
        connection.query_row(&format!("SELECT CAST({sql} AS TEXT)"), [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn all_that_tells_the_time_tells_the_commands() {
        let (connection, _present) = connection(TIME_MS, 1);
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
        let ((ours, _present), sqlites) = (connection(TIME_MS, 1), Connection::open_in_memory().unwrap());
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
        let rows = |seed| -> Vec<String> {
            let (connection, _present) = connection(TIME_MS, seed);
            connection.execute_batch(script).unwrap();
            let mut select = connection.prepare("SELECT at || chance || x || today || more FROM v").unwrap();
            select.query_map([], |row| row.get(0)).unwrap().collect::<Result<_>>().unwrap()
        };
        let first = rows(7);
        assert_eq!(first, rows(7));
        assert_ne!(first, rows(8), "another seed gives other numbers");
        assert_ne!(first[0], first[1], "each call gives another number");
    }

    #[test]
    fn what_depends_on_the_time_zone_or_the_memory_of_a_node_fails() {
        let (connection, _present) = connection(TIME_MS, 1);
        for sql in
            ["SELECT datetime('now', 'localtime')", "SELECT date('2020-01-01', 'UTC')", "SELECT randomblob(1000000000)"]
        {
            connection.query_row(sql, [], |_| Ok(())).expect_err(sql);
        }
    }

    #[test]
    fn a_given_time_may_be_computed_with_in_indexes_checks_and_generated_columns() {
        let (connection, _present) = connection(TIME_MS, 1);
        connection
            .execute_batch(
                "CREATE TABLE t (
                     at CHECK (date(at) >= '2000-01-01'),
                     day AS (date(at)),
                     month AS (strftime('%Y-%m', at)) STORED
                 );
                 CREATE UNIQUE INDEX one_a_day ON t (date(at));
                 CREATE INDEX late ON t (at) WHERE time(at) > '22:00';
                 INSERT INTO t VALUES ('2026-11-23 12:34:56');",
            )
            .unwrap();
        assert_eq!(text(&connection, "(SELECT day || ' ' || month FROM t)"), "2026-11-23 2026-11");
        for (sql, why) in [
            ("INSERT INTO t VALUES ('1999-01-01')", "CHECK constraint failed: date(at) >= '2000-01-01'"),
            ("INSERT INTO t VALUES ('2026-11-23')", "UNIQUE constraint failed: index 'one_a_day'"),
        ] {
            let refused = connection.execute_batch(sql).expect_err(sql).to_string();
            assert_eq!(refused, why, "{sql}");
        }
    }

    /// SQLite itself refuses what would change while nobody touches it.
    #[test]
    fn the_present_has_no_place_in_indexes_checks_and_generated_columns() {
        let (connection, _present) = connection(TIME_MS, 1);
        for (sql, place) in [
            ("CREATE TABLE a (at CHECK (date(at) > '2000')); INSERT INTO a VALUES ('now')", "use of date() in a CHECK"),
            (
                "CREATE TABLE b (at, day AS (date(at)) STORED); INSERT INTO b VALUES ('now')",
                "use of date() in a generated",
            ),
            (
                "CREATE TABLE c (at); CREATE INDEX i ON c (date(at)); INSERT INTO c VALUES ('now')",
                "use of date() in an index",
            ),
            ("CREATE TABLE d (a, at AS (CURRENT_TIME))", "functions prohibited in generated columns"),
            ("CREATE INDEX j ON c (at) WHERE at < CURRENT_TIME", "functions prohibited in partial index"),
            ("CREATE INDEX k ON c (random())", "functions prohibited in index expressions"),
            ("CREATE TABLE e (a, r AS (random()))", "functions prohibited in generated columns"),
        ] {
            let refused = connection.execute_batch(sql).expect_err(sql).to_string();
            assert!(refused.starts_with("non-deterministic ") && refused.contains(place), "{sql}: {refused}");
        }
    }

    #[test]
    fn a_moment_holds_for_its_thread_and_until_it_is_over() {
        let (connection, present) = connection(TIME_MS, 1);
        let time = |connection: &Connection| text(connection, "datetime('now')");
        assert_eq!(time(&connection), "2026-11-23 12:34:56");
        let later = Moment::new(TIME_MS + 1000, [1; 16]).begin();
        assert_eq!(time(&connection), "2026-11-23 12:34:57");
        drop(later);
        assert_eq!(time(&connection), "2026-11-23 12:34:56");
        let connection = std::thread::spawn(move || {
            assert_ne!(time(&connection), "2026-11-23 12:34:56", "no moment holds on this thread");
            connection
        });
        let connection = connection.join().unwrap();
        drop(present);
        let ours: i64 = connection.query_row("SELECT unixepoch()", [], |row| row.get(0)).unwrap();
        assert!(ours.abs_diff(i64::try_from(now_ms()).unwrap() / 1000) < 60, "then it is the system's: {ours}");
        connection.query_row("SELECT random()", [], |_| Ok(())).unwrap_err();
    }

    #[test]
    fn others_in_this_process_have_their_time_and_time_zone() {
        let (ours, present) = connection(TIME_MS, 1);
        let sqlites = Connection::open_in_memory().unwrap();
        let local = "SELECT datetime('2026-11-23', 'localtime')";
        let time = |connection: &Connection| connection.query_row(local, [], |row| row.get::<_, String>(0));
        time(&ours).unwrap_err();
        assert_ne!(text(&sqlites, "unixepoch()"), text(&ours, "unixepoch()"), "they have another VFS");
        drop(present);
        assert_eq!(time(&ours).unwrap(), time(&sqlites).unwrap());
    }
}
