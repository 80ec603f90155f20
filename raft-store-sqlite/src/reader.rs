//! Reading the state while it is written.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::types::EntryId;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::{Batch, Connection, ErrorCode};

use crate::answer::{Found, KeyValue, StatementResult, StepResult};
use crate::backup::PendingBackup;
use crate::change::Change;
use crate::error::Error;
use crate::execution::{self, Budget, Failure as SqlFailure, first_word};
use crate::kv::lease::{self, Lease};
use crate::kv::{changes, compaction};
use crate::moment::{Moment, now_ms, random_seed};
use crate::position::Position;
use crate::program::{Failure, Run};
use crate::rules::NO_OTHER_DATABASE;
use crate::sandbox::Fence;
use crate::schema::run;
use crate::snapshot::{backup_path, pin};
use crate::state_file::{ReadConnection, StateFile};
use crate::state_machine::next_over_ms;
use crate::step::{Action, Lookup, Statement, Step, Value, check_program};

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
    /// The number of commands so far that changed something, plus one.
    pub revision: u64,
    /// The last entry that was applied.
    pub applied: EntryId,
    /// What was read.
    pub value: T,
}

/// A piece of what SQL yields as it is found.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// What state it is read from: the first of all.
    State {
        /// The number of commands so far that changed something, plus one.
        revision: u64,
        /// The last entry that was applied.
        applied: EntryId,
    },
    /// A statement begins, and these are the names of its columns; none if it yields no rows.
    Columns(Vec<String>),
    /// A row of that statement.
    Row(Vec<Value>),
}

/// What there is to do in the course of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// The state's revision.
    pub revision: u64,
    /// What was before this revision is forgotten. 0 if nothing is.
    pub compacted: u64,
    /// Log time when there is something for [`Operation::Expire`](crate::Operation::Expire) to remove, 0 if there is already; none if there
    /// is nothing that can expire.
    pub next_expiry_ms: Option<u64>,
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
    /// Those of [`find`](Self::find).
    pub fn get(&self, key: &Bytes) -> Result<Seen<Option<KeyValue>>, Error> {
        let Seen { revision, applied, value } = self.find(&Lookup::key(key.clone()))?;
        Ok(Seen { revision, applied, value: value.entries.into_iter().next() })
    }

    /// Keys, as they are or as they were.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::Invalid`] for what can't be a key or is no revision yet, [`Error::Compacted`] for a revision that is
    /// forgotten, [`Error::Statement`] if they are too many to be told at once; others if the file can't be read.
    pub fn find(&self, lookup: &Lookup) -> Result<Seen<Found>, Error> {
        let program = [Action::Get(lookup.clone()).into()];
        let Seen { revision, applied, value } = self.run(&program)?;
        let found = value.into_iter().find_map(|result| match result {
            StepResult::Got(found) => Some(found),
            _ => None,
        });
        Ok(Seen { revision, applied, value: found.unwrap_or_default() })
    }

    /// What the revisions after `after` have changed, in order: whole revisions, at least one if there is one, and then as many as fit in
    /// `max_bytes`, about. None of them is left out, and each is told once.
    ///
    /// # Errors
    /// [`Error::Compacted`] if some of them are forgotten; others if the file can't be read.
    pub fn changes(&self, after: u64, max_bytes: usize) -> Result<Seen<Vec<Change>>, Error> {
        self.look(|reading, position| {
            if after < position.compacted {
                let (revision, first) = (after.saturating_add(1), position.compacted.saturating_add(1));
                return Err(Failure::Revision(Error::Compacted { revision, first }));
            }
            changes::read(&reading.connection, position, after, max_bytes)
        })
    }

    /// Begins a backup of the state as it is now, to be made in a file beside it.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn begin_backup(&self) -> Result<PendingBackup, Error> {
        let reading = self.file.take()?;
        let (position, size_bytes) = pin(&reading.connection).map_err(Error::sqlite("beginning a backup"))?;
        let path = backup_path(self.file.path(), getrandom::u64().map_err(Error::Random)?);
        let Position { revision, applied, .. } = position;
        Ok(PendingBackup { reading, path, revision, applied, size_bytes })
    }

    /// The leases that are not over, or only the one; with their keys, if `keys`.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn leases(&self, only: Option<u64>, keys: bool) -> Result<Seen<Vec<Lease>>, Error> {
        self.look(|reading, position| Ok(lease::list(&reading.connection, only, keys, position.time_ms)?))
    }

    /// What there is to do in the course of time.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn upkeep(&self) -> Result<Upkeep, Error> {
        let upkeep = |reading: &ReadConnection, position: &Position| {
            let Position { revision, compacted, .. } = *position;
            Ok(Upkeep { revision, compacted, next_expiry_ms: next_expiry_ms(&reading.connection, position)? })
        };
        self.look(upkeep).map(|seen| seen.value)
    }

    /// The state's revision: the number of commands so far that changed something, plus one.
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

    /// Runs SQL that only reads. All statements see the same state, and the same time: this node's clock, but never less than what
    /// the commands saw that led to this state.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub fn query(&self, statements: &[Statement]) -> Result<Seen<Vec<StatementResult>>, Error> {
        let steps: Vec<Step> = statements.iter().cloned().map(Step::from).collect();
        let Seen { revision, applied, value } = self.run(&steps)?;
        let of_step = |result| match result {
            StepResult::Sql(results) => results,
            _ => Vec::new(),
        };
        Ok(Seen { revision, applied, value: value.into_iter().flat_map(of_step).collect() })
    }

    /// Runs a program that only reads. All steps see the same state, and the same time: this node's clock, but never less than what
    /// the commands saw that led to this state.
    ///
    /// # Errors
    /// [`Error::Refused`] if it would write or do what is not allowed, [`Error::Statement`] if it fails or yields too
    /// much, [`Error::Unexpected`] if a step counts other than expected, [`Error::Compacted`] or [`Error::Invalid`] for a revision that
    /// can't be read, [`Error::ReadTimeout`] if it takes too long.
    pub fn run(&self, steps: &[Step]) -> Result<Seen<Vec<StepResult>>, Error> {
        check_program(steps)?;
        let (now, seed) = (now_ms(), random_seed()?);
        self.look(|reading, position| {
            let fence = reading.sandbox.enter(Moment::new(position.time_ms.max(now), seed));
            let mut program = Run {
                connection: &reading.connection,
                fence: &fence,
                rule: must_read,
                budget: Budget::new(self.limits.rows, self.limits.bytes),
                readable: position.readable(),
                time_ms: position.time_ms,
                changes: None,
                rows: None,
            };
            program.steps(steps)
        })
    }

    /// Runs SQL that only reads, as [`query`](Self::query) does, and hands on what it yields as it is found, until `each` says that it has
    /// enough. This call blocks meanwhile, and keeps the state that it sees.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub fn stream(
        &self,
        statements: &[Statement],
        each: &mut dyn FnMut(Piece) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let steps: Vec<Step> = statements.iter().cloned().map(Step::from).collect();
        check_program(&steps)?;
        let (now, seed) = (now_ms(), random_seed()?);
        let stop = || SqlFailure::Statement("the reader has enough".into());
        let mut give = |piece| if each(piece).is_continue() { Ok(()) } else { Err(stop()) };
        self.look(|reading, position| {
            let fence = reading.sandbox.enter(Moment::new(position.time_ms.max(now), seed));
            let mut budget = Budget::new(self.limits.rows, self.limits.bytes);
            give(Piece::State { revision: position.revision, applied: position.applied })?;
            for statement in statements {
                let mut give = |piece| {
                    give(match piece {
                        execution::Piece::Columns(names) => Piece::Columns(names),
                        execution::Piece::Row(row) => Piece::Row(row),
                    })
                };
                execution::stream(&reading.connection, &fence, statement, must_read, &mut budget, &mut give)?;
            }
            Ok(())
        })
        .map(|_| ())
    }

    /// Says whether a program must be replicated, and refuses what may not be. What depends on tables that this node does not
    /// know (an earlier statement may make them, or the leader have applied more) is left to be decided when it is
    /// applied.
    ///
    /// # Errors
    /// [`Error::Refused`] for what is not allowed, [`Error::Statement`] for what is no SQL or has other parameters than
    /// values, [`Error::TooLarge`] for what is over a limit. Certainly nothing happened.
    pub fn prepare(&self, steps: &[Step]) -> Result<Kind, Error> {
        check_program(steps)?;
        let taken = self.file.take()?;
        let sorted = sort(&taken, steps);
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
            Failure::Step(SqlFailure::Statement(message)) => Error::Statement(message),
            Failure::Step(SqlFailure::Refused(reason)) => Error::Refused(reason),
            Failure::Step(SqlFailure::Sqlite(error))
                if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) =>
            {
                Error::ReadTimeout(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))
            }
            Failure::Step(SqlFailure::Sqlite(source)) => Error::Sqlite { doing: "reading the state", source },
            Failure::Unexpected(message) => Error::Unexpected(message),
            Failure::Revision(error) => error,
            Failure::NoSuchLease(lease) => Error::Statement(format!("there is no lease {lease}")),
        });
        self.file.give_back(connection);
        seen
    }
}

fn next_expiry_ms(connection: &Connection, position: &Position) -> rusqlite::Result<Option<u64>> {
    if compaction::is_due(connection, position)? {
        return Ok(Some(0));
    }
    let ends = [next_over_ms(connection)?, lease::next_deadline_ms(connection)?];
    let next = ends.into_iter().flatten().min();
    // Where log time is ahead of all clocks, nobody else can tell.
    Ok(next.map(|next| if next <= position.time_ms { 0 } else { next }))
}

/// Reads something in one snapshot.
fn in_snapshot<T>(
    reading: &ReadConnection,
    read: impl FnOnce(&ReadConnection, &Position) -> Result<T, Failure>,
) -> Result<Seen<T>, Failure> {
    run(&reading.connection, "BEGIN")?;
    let seen = Position::read(&reading.connection).map_err(Failure::from).and_then(|position| {
        let value = read(reading, &position)?;
        Ok(Seen { revision: position.revision, applied: position.applied, value })
    });
    // There is nothing to keep, and where it fails the connection is thrown away.
    let _ = run(&reading.connection, "ROLLBACK");
    seen
}

fn sort(reading: &ReadConnection, steps: &[Step]) -> Result<Kind, Error> {
    let fence = reading.sandbox.enter(Moment::default());
    let mut sorted = Sorted::default();
    sorted.add_steps(&reading.connection, &fence, steps)?;
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
    fn add_steps(&mut self, connection: &Connection, fence: &Fence<'_>, steps: &[Step]) -> Result<(), Error> {
        for step in steps {
            match &step.action {
                Action::Put(_) | Action::Delete { .. } => self.writes = true,
                Action::Get(_) => (),
                Action::Sql(statement) => self.add(connection, fence, statement)?,
                Action::If { then, otherwise, .. } => {
                    self.add_steps(connection, fence, then)?;
                    self.add_steps(connection, fence, otherwise)?;
                }
            }
        }
        Ok(())
    }

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
        if let Err(SqlFailure::Statement(message)) = execution::places(compiled, &text.parameters) {
            return Err(Error::Statement(message));
        }
        // Only when it runs is the fence asked about the other database that it makes.
        if !compiled.readonly() && compiled.expanded_sql().is_some_and(|sql| first_word(&sql) == "VACUUM") {
            return Err(Error::Refused(NO_OTHER_DATABASE.into()));
        }
        // What only seems to read, like BEGIN or ATTACH, the fence has refused.
        let explains = compiled.is_explain() != 0;
        self.writes |= !compiled.readonly() && !explains;
        self.explains |= explains;
        Ok(())
    }

    /// What can't be compiled: refused for good, or only unknown to this node.
    fn add_unknown(&mut self, failure: SqlFailure, text: &Statement) -> Result<(), Error> {
        match failure {
            SqlFailure::Refused(reason) => return Err(Error::Refused(reason)),
            SqlFailure::Sqlite(source) => return Err(Error::Sqlite { doing: "checking SQL", source }),
            SqlFailure::Statement(message) if is_hopeless(&message) => return Err(Error::Statement(message)),
            SqlFailure::Statement(_) => {}
        }
        // A lone SELECT reads, whatever it reads from.
        let is_lone = !text.sql.trim_end_matches(|end: char| end == ';' || end.is_ascii_whitespace()).contains(';');
        let reads = is_lone && matches!(first_word(&text.sql).as_str(), "SELECT" | "VALUES" | "EXPLAIN" | "PRAGMA");
        self.writes |= !reads;
        Ok(())
    }
}

/// Whether a statement fails whatever tables there are.
fn is_hopeless(message: &str) -> bool {
    const BEGINNINGS: [&str; 8] = [
        "unrecognized token:",
        "incomplete input",
        "Recursion limit",
        "Expression tree is too large",
        "variable number must be between",
        "too many SQL variables",
        "too many terms in ",
        "no such function:",
    ];
    message.ends_with(": syntax error") || BEGINNINGS.iter().any(|beginning| message.starts_with(beginning))
}

fn must_read(compiled: &rusqlite::Statement<'_>) -> Result<(), SqlFailure> {
    // To SQLite, an EXPLAIN does what it explains.
    if compiled.readonly() || compiled.is_explain() != 0 {
        return Ok(());
    }
    Err(SqlFailure::Refused("a read can't change anything".into()))
}
