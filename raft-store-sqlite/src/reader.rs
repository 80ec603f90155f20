//! Reading the state while it is written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::types::EntryId;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::{Batch, Connection, ErrorCode};

use crate::answer::{KeyValue, StatementResult};
use crate::error::Error;
use crate::execution::{self, Budget, Failure, first_word};
use crate::moment::{Moment, now_ms, random_seed};
use crate::position::Position;
use crate::sandbox::Fence;
use crate::schema::run;
use crate::state_file::{ReadConnection, StateFile};
use crate::state_machine::{find, next_over_ms};
use crate::step::{Statement, check_key, check_statements};

/// Reads a node's state, on connections of its own: it never holds up the writer, nor does the writer hold it up. Each
/// call sees one state, the latest that was applied when it began.
#[derive(Clone)]
pub struct Reader {
    file: Arc<StateFile>,
    limits: ReadLimits,
}

/// How much one read may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// The most rows of all statements together.
    pub rows: usize,
    /// The most bytes of all rows together, counted as [`ANSWER_BYTES`](crate::limits::ANSWER_BYTES) are.
    pub bytes: usize,
    /// How long it may run.
    pub time: Duration,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self { rows: 100_000, bytes: 4 << 20, time: Duration::from_secs(10) }
    }
}

/// Something that was read, and the state it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen<T> {
    /// The number of changes to keys so far, plus one.
    pub revision: u64,
    /// The last entry that was applied.
    pub applied: EntryId,
    /// What was read.
    pub value: T,
}

/// What SQL needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It only reads: [`Reader::query`] answers it.
    Read,
    /// It may write: it must be replicated.
    Write,
}

impl Reader {
    pub(crate) fn open(file: Arc<StateFile>) -> Result<Self, Error> {
        let first = file.take()?;
        file.give_back(first);
        Ok(Self { file, limits: ReadLimits::default() })
    }

    /// The same reader with other limits.
    #[must_use]
    pub fn with_limits(&self, limits: ReadLimits) -> Self {
        Self { file: self.file.clone(), limits }
    }

    /// The key with its value, if it is there.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::Invalid`] for what can't be a key; others if the file can't be read.
    pub fn get(&self, key: &Bytes) -> Result<Seen<Option<KeyValue>>, Error> {
        check_key(key)?;
        self.look(|reading, _| find(&reading.connection, key).map_err(Failure::Sqlite))
    }

    /// The state's revision: the number of changes to keys so far, plus one.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn revision(&self) -> Result<u64, Error> {
        self.look(|_, _| Ok(())).map(|seen| seen.revision)
    }

    /// The last entry that was applied.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn applied(&self) -> Result<EntryId, Error> {
        self.look(|_, _| Ok(())).map(|seen| seen.applied)
    }

    /// Log time when the next session is over, and so something for [`Operation::Expire`](crate::Operation::Expire) to remove;
    /// none if there is nothing that can expire.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn next_expiry_ms(&self) -> Result<Option<u64>, Error> {
        let seen = self.look(|reading, _| next_over_ms(&reading.connection).map_err(Failure::Sqlite))?;
        Ok(seen.value)
    }

    /// Runs SQL that only reads. All statements see the same state, and the same time: this node's clock, but never less than what
    /// the commands saw that led to this state.
    ///
    /// # Errors
    /// [`Error::Refused`] if it would write or do what is not allowed, [`Error::Statement`] if it fails or yields too
    /// much, [`Error::ReadTimeout`] if it takes too long.
    pub fn query(&self, statements: &[Statement]) -> Result<Seen<Vec<StatementResult>>, Error> {
        check_statements(statements)?;
        let (now, seed) = (now_ms(), random_seed()?);
        self.look(|reading, position| {
            let fence = reading.sandbox.enter(Moment::new(position.time_ms.max(now), seed));
            let mut budget = Budget::new(self.limits.rows, self.limits.bytes);
            let mut results = Vec::with_capacity(statements.len());
            for statement in statements {
                results.extend(execution::run(&reading.connection, &fence, statement, must_read, &mut budget)?);
            }
            Ok(results)
        })
    }

    /// Says whether SQL must be replicated, and refuses what may not be. What depends on tables that this node does not
    /// know (an earlier statement may make them, or the leader have applied more) is left to be decided when it is
    /// applied.
    ///
    /// # Errors
    /// [`Error::Refused`] for what is not allowed, [`Error::Statement`] for what is no SQL or has other parameters than
    /// values, [`Error::TooLarge`] for what is over a limit. Certainly nothing happened.
    pub fn prepare(&self, statements: &[Statement]) -> Result<Kind, Error> {
        check_statements(statements)?;
        let taken = self.file.take()?;
        let sorted = sort(&taken, statements);
        self.file.give_back(taken);
        sorted
    }

    /// Reads something in one snapshot, within the time limit.
    fn look<T>(&self, read: impl FnOnce(&ReadConnection, &Position) -> Result<T, Failure>) -> Result<Seen<T>, Error> {
        let connection = self.file.take()?;
        let limit = self.limits.time;
        connection.deadline.set(Some(Instant::now() + limit));
        let seen = in_snapshot(&connection, read);
        connection.deadline.set(None);
        let seen = seen.map_err(|failure| match failure {
            Failure::Statement(message) => Error::Statement(message),
            Failure::Refused(reason) => Error::Refused(reason),
            Failure::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
                Error::ReadTimeout(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))
            }
            Failure::Sqlite(source) => Error::Sqlite { doing: "reading the state", source },
        });
        self.file.give_back(connection);
        seen
    }
}

/// Reads something in one snapshot.
fn in_snapshot<T>(
    reading: &ReadConnection,
    read: impl FnOnce(&ReadConnection, &Position) -> Result<T, Failure>,
) -> Result<Seen<T>, Failure> {
    run(&reading.connection, "BEGIN").map_err(Failure::Sqlite)?;
    let seen = Position::read(&reading.connection).map_err(Failure::Sqlite).and_then(|position| {
        let value = read(reading, &position)?;
        Ok(Seen { revision: position.revision, applied: position.applied, value })
    });
    // There is nothing to keep, and where it fails the connection is thrown away.
    let _ = run(&reading.connection, "ROLLBACK");
    seen
}

fn sort(reading: &ReadConnection, statements: &[Statement]) -> Result<Kind, Error> {
    let fence = reading.sandbox.enter(Moment::default());
    let mut sorted = Sorted::default();
    for statement in statements {
        sorted.add(&reading.connection, &fence, statement)?;
    }
    if sorted.writes && sorted.explains {
        return Err(Error::Refused("EXPLAIN is not allowed in a command that writes: send it alone".into()));
    }
    Ok(if sorted.writes { Kind::Write } else { Kind::Read })
}

/// What the statements of a command do, taken together.
#[derive(Default)]
struct Sorted {
    writes: bool,
    explains: bool,
}

impl Sorted {
    fn add(&mut self, connection: &Connection, fence: &Fence<'_>, text: &Statement) -> Result<(), Error> {
        let mut statements = Batch::new(connection, &text.sql);
        let mut count = 0;
        loop {
            match statements.next() {
                Ok(None) if count == 0 => return Err(Error::Statement("there is no SQL statement".into())),
                Ok(None) => return Ok(()),
                Ok(Some(compiled)) => {
                    count += 1;
                    self.add_compiled(&compiled, text, count)?;
                }
                Err(error) => return self.add_unknown(execution::explain(execution::failure(error), fence), text),
            }
        }
    }

    fn add_compiled(
        &mut self,
        compiled: &rusqlite::Statement<'_>,
        text: &Statement,
        count: usize,
    ) -> Result<(), Error> {
        if count > 1 && !text.parameters.is_empty() {
            return Err(Error::Statement("a text with parameters can hold one SQL statement only".into()));
        }
        if let Err(Failure::Statement(message)) = execution::places(compiled, &text.parameters) {
            return Err(Error::Statement(message));
        }
        // What only seems to read, like BEGIN or ATTACH, the fence has refused.
        let explains = compiled.is_explain() != 0;
        self.writes |= !compiled.readonly() && !explains;
        self.explains |= explains;
        Ok(())
    }

    /// What can't be compiled: refused for good, or only unknown to this node.
    fn add_unknown(&mut self, failure: Failure, text: &Statement) -> Result<(), Error> {
        match failure {
            Failure::Refused(reason) => return Err(Error::Refused(reason)),
            Failure::Sqlite(source) => return Err(Error::Sqlite { doing: "checking SQL", source }),
            Failure::Statement(message) if is_syntax_error(&message) => return Err(Error::Statement(message)),
            Failure::Statement(_) => {}
        }
        // A lone SELECT reads, whatever it reads from.
        let is_lone = !text.sql.trim_end_matches(|end: char| end == ';' || end.is_ascii_whitespace()).contains(';');
        let reads = is_lone && matches!(first_word(&text.sql).as_str(), "SELECT" | "VALUES" | "EXPLAIN" | "PRAGMA");
        self.writes |= !reads;
        Ok(())
    }
}

/// Whether a statement is wrong whatever tables there are.
fn is_syntax_error(message: &str) -> bool {
    message.ends_with(": syntax error") || message == "incomplete input" || message.starts_with("unrecognized token:")
}

fn must_read(compiled: &rusqlite::Statement<'_>) -> Result<(), Failure> {
    // To SQLite, an EXPLAIN does what it explains.
    if compiled.readonly() || compiled.is_explain() != 0 {
        return Ok(());
    }
    Err(Failure::Refused("a read can't change anything".into()))
}
