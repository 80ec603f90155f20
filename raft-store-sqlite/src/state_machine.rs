//! The state machine: what committed entries lead to, in a plain SQLite file.
//!
//! All entries that come together are applied in one transaction, with the position of the last, each command of SQL in
//! a savepoint of its own. Two things would let one command reach another in the same transaction, and so make the
//! outcome depend on how entries were grouped, which differs between nodes:
//!
//! - `INSERT OR ROLLBACK` and `RAISE(ROLLBACK)` undo the whole transaction, so earlier commands as well;
//! - a deferred foreign key is checked when the transaction ends, so it fails all commands, or passes because a later
//!   one mends it.
//!
//! Where either can be or has been, all is undone, and the entries are applied each in a transaction of its own.

mod kv;
mod session;
mod sql;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_core::port::StateMachine;
use raft_core::types::{ClusterId, Entry, EntryId, Index, Payload, Term};
use rusqlite::{Connection, Row};

use crate::command::{Answer, Command, Operation, Outcome};
use crate::error::Error;
use crate::folder::FolderLock;
use crate::sandbox::{self, Sandbox};
use crate::schema::{self, run};
use session::Standing;

pub use kv::KeyValue;
pub(crate) use kv::find;

/// The state of a node, in `raft_node_<id>.db`.
///
/// After any error it refuses everything; the log still has what is needed to go on after a restart.
pub struct SqliteStateMachine {
    connection: Connection,
    sandbox: Sandbox,
    path: PathBuf,
    position: Position,
    schema: SchemaWatch,
    failed: bool,
    _lock: Arc<FolderLock>,
}

/// What `raft_meta` says besides the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The last entry that was applied.
    pub(crate) applied: EntryId,
    /// The number of changes to keys so far, plus one.
    pub(crate) revision: u64,
    /// The time of the last command, in milliseconds since 1970. Never falls.
    time_ms: u64,
}

impl Position {
    /// Reads it.
    pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let sql = "SELECT applied_index, applied_term, revision, time_ms FROM raft_meta";
        connection.prepare_cached(sql)?.query_row([], |row| {
            Ok(Self {
                applied: EntryId::new(Index(row.get(0)?), Term(row.get(1)?)),
                revision: row.get(2)?,
                time_ms: row.get(3)?,
            })
        })
    }

    /// Moves the time on to that of a command, if it is later.
    fn advance_time(&mut self, time_ms: u64) {
        /// The end of the year 9999, where SQLite's calendar ends. A leader's clock may be wrong, but no command may
        /// stop the nodes.
        const LAST_MS: u64 = 253_402_300_799_999;
        self.time_ms = self.time_ms.max(time_ms.min(LAST_MS));
    }

    fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let sql = "UPDATE raft_meta SET applied_index = ?1, applied_term = ?2, revision = ?3, time_ms = ?4";
        let row = (self.applied.index.0, self.applied.term.0, self.revision, self.time_ms);
        connection.prepare_cached(sql)?.execute(row).map(|_| ())
    }
}

/// What must be known of the tables that clients have made.
struct SchemaWatch {
    /// What must stay as it is.
    own: Vec<String>,
    /// What was found, at which version of the schema. Nothing after an undone transaction, since SQLite uses versions
    /// again.
    seen: Option<Seen>,
}

#[derive(Clone, Copy)]
struct Seen {
    version: i64,
    has_deferred_keys: bool,
}

/// An entry to apply.
struct Step {
    id: EntryId,
    /// None for entries that only have a position.
    command: Option<Command>,
}

/// How a command went.
enum Ran {
    Answered(Answer),
    /// It has undone the whole transaction, others' work included, for this reason.
    LostTransaction(String),
    /// It can only be applied in a transaction of its own.
    NeedsOwnTransaction,
}

impl SqliteStateMachine {
    /// Opens the state of a node of `cluster`, and makes it if it is not there.
    pub(crate) fn open(path: PathBuf, cluster: ClusterId, lock: Arc<FolderLock>) -> Result<Self, Error> {
        let mut connection = schema::open(&path, &schema::STATE, |connection| {
            let first = "INSERT INTO raft_meta (one, cluster_id, applied_index, applied_term, revision, time_ms)
                         VALUES (1, ?1, 0, 0, 1, 0)";
            connection.execute(first, [cluster.to_string()]).map(|_| ())
        })?;
        expect_cluster(&connection, &path, cluster)?;
        let doing = "opening the state";
        let position = Position::read(&connection).map_err(Error::sqlite(doing))?;
        let sandbox = Sandbox::install(&mut connection).map_err(Error::sqlite(doing))?;
        sandbox.bound_steps(&mut connection).map_err(Error::sqlite(doing))?;
        let own = sandbox::own_schema(&connection).map_err(Error::sqlite(doing))?;
        let schema = SchemaWatch { own, seen: None };
        Ok(Self { connection, sandbox, path, position, schema, failed: false, _lock: lock })
    }

    /// What a state file says was applied, without any check.
    pub(crate) fn peek_applied(path: &Path) -> Result<EntryId, Error> {
        let connection = schema::open_to_read(path)?;
        Position::read(&connection).map(|position| position.applied).map_err(Error::sqlite("reading the state"))
    }

    /// The last entry that was applied.
    pub(crate) fn position(&self) -> EntryId {
        self.position.applied
    }

    fn apply_all(&mut self, steps: &[Step]) -> Result<Vec<Option<Answer>>, Error> {
        let together = steps.len() > 1 && !self.seen_schema().map_err(Error::sqlite(APPLYING))?.has_deferred_keys;
        if together && let Some(answers) = self.apply_together(steps)? {
            return Ok(answers);
        }
        steps.iter().map(|step| self.apply_alone(step)).collect()
    }

    /// Applies the entries in one transaction, or says that it can't and leaves everything as it was.
    fn apply_together(&mut self, steps: &[Step]) -> Result<Option<Vec<Option<Answer>>>, Error> {
        let before = self.position;
        run(&self.connection, "BEGIN IMMEDIATE").map_err(Error::sqlite(APPLYING))?;
        let mut answers = Vec::with_capacity(steps.len());
        for step in steps {
            match self.apply_step(step, true)? {
                None => answers.push(None),
                Some(Ran::Answered(answer)) => answers.push(Some(answer)),
                Some(Ran::LostTransaction(_) | Ran::NeedsOwnTransaction) => {
                    self.undo(before)?;
                    return Ok(None);
                }
            }
        }
        // Deferred keys were ruled out, so nothing a client did can fail this.
        self.commit().map_err(Error::sqlite(APPLYING))?;
        Ok(Some(answers))
    }

    /// Applies one entry in a transaction of its own.
    fn apply_alone(&mut self, step: &Step) -> Result<Option<Answer>, Error> {
        let before = self.position;
        run(&self.connection, "BEGIN IMMEDIATE").map_err(Error::sqlite(APPLYING))?;
        let why = match self.apply_step(step, false)? {
            None => {
                self.commit().map_err(Error::sqlite(APPLYING))?;
                return Ok(None);
            }
            Some(Ran::Answered(answer)) => match self.commit() {
                Ok(()) => return Ok(Some(answer)),
                Err(error) if is_constraint(&error) => crate::execution::message(&error),
                Err(error) => return Err(Error::sqlite(APPLYING)(error)),
            },
            Some(Ran::LostTransaction(why)) => why,
            Some(Ran::NeedsOwnTransaction) => unreachable!("it has its own"),
        };
        self.undo(before)?;
        self.record_failure(step, why).map(Some)
    }

    /// Gives a command that took its transaction with it its answer, in another.
    fn record_failure(&mut self, step: &Step, message: String) -> Result<Answer, Error> {
        let command = step.command.as_ref().expect("only commands fail");
        let record = || {
            run(&self.connection, "BEGIN IMMEDIATE")?;
            self.position.applied = step.id;
            self.position.advance_time(command.time_ms);
            let answer = Answer { revision: self.position.revision, outcome: Outcome::failed(message) };
            if let Some(session) = &command.session {
                session::keep(&self.connection, session, self.position.time_ms, &answer)?;
            }
            self.commit()?;
            Ok(answer)
        };
        record().map_err(Error::sqlite(APPLYING))
    }

    fn apply_step(&mut self, step: &Step, with_others: bool) -> Result<Option<Ran>, Error> {
        self.position.applied = step.id;
        step.command.as_ref().map(|command| self.apply_command(command, with_others)).transpose()
    }

    fn apply_command(&mut self, command: &Command, with_others: bool) -> Result<Ran, Error> {
        self.position.advance_time(command.time_ms);
        if let Err(error) = command.check_parts() {
            return Ok(Ran::Answered(self.answer(Outcome::failed(error.to_string()))));
        }
        if let Some(session) = &command.session {
            match session::standing(&self.connection, session)? {
                Standing::New => {}
                Standing::Answered(answer) => return Ok(Ran::Answered(answer)),
                Standing::Forgotten => return Ok(Ran::Answered(self.answer(Outcome::Forgotten))),
                Standing::TooFarAhead => return Ok(Ran::Answered(self.answer(Outcome::TooManyUnanswered))),
            }
        }
        let outcome = match &command.operation {
            Operation::Put { key, value } => self.put(key, value).map_err(Error::sqlite(APPLYING))?,
            Operation::Delete { key } => self.delete(key).map_err(Error::sqlite(APPLYING))?,
            Operation::Sql { statements } => match self.run_sql(statements, command.seed)? {
                sql::Ended::With(outcome) => outcome,
                sql::Ended::LostTransaction(why) => return Ok(Ran::LostTransaction(why)),
                sql::Ended::MadeDeferredKeys(_) if with_others => return Ok(Ran::NeedsOwnTransaction),
                sql::Ended::MadeDeferredKeys(outcome) => outcome,
            },
        };
        let answer = self.answer(outcome);
        if let Some(session) = &command.session {
            session::keep(&self.connection, session, self.position.time_ms, &answer)
                .map_err(Error::sqlite(APPLYING))?;
        }
        Ok(Ran::Answered(answer))
    }

    fn answer(&self, outcome: Outcome) -> Answer {
        Answer { revision: self.position.revision, outcome }
    }

    fn commit(&self) -> rusqlite::Result<()> {
        self.position.write(&self.connection)?;
        run(&self.connection, "COMMIT")
    }

    /// Undoes the transaction, if SQLite has not done so itself.
    fn undo(&mut self, before: Position) -> Result<(), Error> {
        if !self.connection.is_autocommit() {
            run(&self.connection, "ROLLBACK").map_err(Error::sqlite(APPLYING))?;
        }
        self.position = before;
        self.schema.seen = None;
        Ok(())
    }

    /// What there is to know of the tables.
    fn seen_schema(&mut self) -> rusqlite::Result<Seen> {
        if let Some(seen) = self.schema.seen {
            return Ok(seen);
        }
        let seen = Seen {
            version: schema_version(&self.connection)?,
            has_deferred_keys: sandbox::has_deferred_keys(&self.connection)?,
        };
        self.schema.seen = Some(seen);
        Ok(seen)
    }
}

impl StateMachine for SqliteStateMachine {
    type Error = Error;
    type Response = Answer;

    fn applied(&self) -> Result<EntryId, Error> {
        Ok(self.position.applied)
    }

    /// Applies the entries. In rare cases (see the module's text) in several transactions, each whole, with the
    /// position of its last entry.
    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Option<Answer>>, Error> {
        if self.failed {
            return Err(Error::Poisoned { path: self.path.clone() });
        }
        let Some(first) = entries.first() else { return Ok(Vec::new()) };
        assert!(first.id.index == self.position.applied.index.next(), "entries are applied in order, each once");
        // Stays so if anything panics as well.
        self.failed = true;
        let steps = entries.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        let answers = self.apply_all(&steps)?;
        self.failed = false;
        Ok(answers)
    }
}

impl Drop for SqliteStateMachine {
    /// Moves everything into the one file, so that a copy of it after a clean stop is whole. SQLite does so for the
    /// last connection, but not if that is a reader's.
    fn drop(&mut self) {
        if !self.failed {
            // Nothing is lost where it fails.
            let _ = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
        }
    }
}

const APPLYING: &str = "applying entries";

fn decode(entry: &Entry) -> Result<Step, Error> {
    let id = entry.id;
    let command = match &entry.payload {
        Payload::Noop | Payload::Membership(_) => None,
        Payload::Command(bytes) => {
            Some(Command::decode(bytes).map_err(|source| Error::UnknownCommand { id, source: Box::new(source) })?)
        }
    };
    Ok(Step { id, command })
}

fn schema_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0))
}

fn is_constraint(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}

fn expect_cluster(connection: &Connection, path: &Path, cluster: ClusterId) -> Result<(), Error> {
    let read = |row: &Row<'_>| row.get::<_, String>(0);
    let stored = connection
        .query_row("SELECT cluster_id FROM raft_meta", [], read)
        .map_err(Error::sqlite("reading the cluster's id"))?;
    let damaged = |_| Error::DamagedFile { path: path.to_owned(), what: format!("{stored:?} is not a cluster's id") };
    let stored = ClusterId(u64::from_str_radix(&stored, 16).map_err(damaged)?);
    if stored == cluster {
        return Ok(());
    }
    Err(Error::OtherCluster { path: path.to_owned(), stored, given: cluster })
}
