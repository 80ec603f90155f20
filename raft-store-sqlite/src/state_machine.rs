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

#[cfg(test)]
mod order;
mod run;
mod session;
#[cfg(test)]
mod steps;
mod upkeep;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use raft_core::port::{Capture, Staging, StateMachine};
use raft_core::types::{ClusterId, Entry, EntryId, Payload, Snapshot};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::answer::{Answer, Outcome};
use crate::checksum::{Marker, Marks};
use crate::command::{Command, Operation};
use crate::error::Error;
use crate::position::{Position, expect_cluster, write_first};
use crate::rows::RowWatch;
use crate::sandbox::{self, Sandbox};
use crate::schema::{self, run};
use crate::snapshot::{Captures, SnapshotFolder};
use crate::state_file::StateFile;
use run::Ended;
use session::Standing;

pub(crate) use session::next_over_ms;

/// The state of a node, in `raft_node_<id>.db`.
///
/// After any error it refuses everything; the log still has what is needed to go on after a restart.
pub struct SqliteStateMachine {
    connection: Connection,
    sandbox: Sandbox,
    position: Position,
    schema: SchemaWatch,
    rows: RowWatch,
    file: Arc<StateFile>,
    cluster: ClusterId,
    snapshots: Arc<SnapshotFolder>,
    captures: Captures,
    marker: Marker,
    /// What certainly survives a power loss, if known.
    durable: Option<EntryId>,
    failed: bool,
}

/// A state file, open for writing.
struct Opened {
    connection: Connection,
    sandbox: Sandbox,
    position: Position,
    schema: SchemaWatch,
    rows: RowWatch,
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

impl Step {
    fn is_mark(&self) -> bool {
        self.command.as_ref().is_some_and(|command| command.operation == Operation::Mark)
    }
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
    pub(crate) fn open(
        file: Arc<StateFile>,
        cluster: ClusterId,
        snapshots: Arc<SnapshotFolder>,
    ) -> Result<Self, Error> {
        let Opened { connection, sandbox, position, schema, rows } = Opened::open(file.path(), cluster)?;
        let captures = Captures::new(snapshots.clone());
        let (marker, durable) = (Marker::new(), None);
        Ok(Self {
            connection,
            sandbox,
            position,
            schema,
            rows,
            file,
            cluster,
            snapshots,
            captures,
            marker,
            durable,
            failed: false,
        })
    }

    /// What a state file says was applied, without any check. Zero if there is none, or none that holds anything.
    pub(crate) fn peek_applied(path: &Path) -> Result<EntryId, Error> {
        if !path.exists() {
            return Ok(EntryId::ZERO);
        }
        let doing = "reading the state";
        let connection = schema::open_to_read(path)?;
        let holds_state = "SELECT count(*) FROM sqlite_schema WHERE name = 'raft_meta'";
        if connection.query_row(holds_state, [], |row| row.get::<_, u64>(0)).map_err(Error::sqlite(doing))? == 0 {
            return Ok(EntryId::ZERO);
        }
        Position::read(&connection).map(|position| position.applied).map_err(Error::sqlite(doing))
    }

    /// The last entry that was applied.
    pub(crate) fn position(&self) -> EntryId {
        self.position.applied
    }

    /// The states at marks that are applied from now on. To be asked for once, and taken from as long as it is kept: the state that waits to
    /// be taken costs space on the disk.
    pub fn marks(&self) -> Marks {
        self.marker.marks()
    }

    /// Applies the entries. A mark ends its transaction, so that the state can be seen just as it is there.
    fn apply_up_to_marks(&mut self, steps: &[Step]) -> Result<Vec<Option<Answer>>, Error> {
        let mut answers = Vec::with_capacity(steps.len());
        for steps in steps.split_inclusive(Step::is_mark) {
            answers.extend(self.apply_all(steps)?);
            if steps.last().is_some_and(Step::is_mark) {
                self.marker.show(&self.file, self.position.applied);
            }
        }
        Ok(answers)
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
            self.move_on(command.time_ms)?;
            let answer = Answer { revision: self.position.revision, outcome: Outcome::failed(message) };
            if let Some(session) = &command.session {
                session::keep(&self.connection, session, &mut self.position, &answer)?;
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
        self.move_on(command.time_ms).map_err(Error::sqlite(APPLYING))?;
        if let Err(error) = command.check_parts() {
            return Ok(Ran::Answered(self.answer(Outcome::failed(error.to_string()))));
        }
        if let Some(session) = &command.session {
            match session::standing(&self.connection, session, &self.position)? {
                Standing::New => {}
                Standing::Answered(answer) => return Ok(Ran::Answered(answer)),
                Standing::Refused(outcome) => return Ok(Ran::Answered(self.answer(outcome))),
            }
        }
        let outcome = match &command.operation {
            Operation::Run(steps) => match self.run(steps, command.seed)? {
                Ended::With(outcome) => outcome,
                Ended::LostTransaction(why) => return Ok(Ran::LostTransaction(why)),
                Ended::MadeDeferredKeys(_) if with_others => return Ok(Ran::NeedsOwnTransaction),
                Ended::MadeDeferredKeys(outcome) => outcome,
            },
            other => self.keep_up(other).map_err(Error::sqlite(APPLYING))?,
        };
        let answer = self.answer(outcome);
        if let Some(session) = &command.session {
            session::keep(&self.connection, session, &mut self.position, &answer).map_err(Error::sqlite(APPLYING))?;
        }
        Ok(Ran::Answered(answer))
    }

    fn keep_up(&mut self, operation: &Operation) -> rusqlite::Result<Outcome> {
        match *operation {
            Operation::Run(_) => unreachable!("programs are run"),
            Operation::GrantLease { lease, ttl_ms } => self.grant_lease(lease, ttl_ms),
            Operation::KeepLease { lease } => self.keep_lease(lease),
            Operation::RevokeLease { lease } => self.revoke_lease(lease),
            Operation::Compact { revision } => self.compact(revision),
            Operation::Expire => self.expire(),
            Operation::Mark => Ok(Outcome::Marked),
        }
    }

    fn answer(&self, outcome: Outcome) -> Answer {
        Answer { revision: self.position.revision, outcome }
    }

    fn commit(&mut self) -> rusqlite::Result<()> {
        self.position.write(&self.connection)?;
        run(&self.connection, "COMMIT")?;
        self.rows.end_transaction();
        self.sandbox.end_transaction(&self.connection);
        Ok(())
    }

    /// Undoes the transaction, if SQLite has not done so itself.
    fn undo(&mut self, before: Position) -> Result<(), Error> {
        if !self.connection.is_autocommit() {
            run(&self.connection, "ROLLBACK").map_err(Error::sqlite(APPLYING))?;
        }
        self.position = before;
        self.schema.seen = None;
        self.rows.undo(&self.connection).map_err(Error::sqlite(APPLYING))
    }

    /// Makes all that was committed durable: a commit does so for those before it, if SQLite is told to wait for the disk and
    /// has something to write. An UPDATE to what is there already would write nothing; the header is always written.
    fn sync(&self) -> rusqlite::Result<()> {
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        self.connection.pragma_update(None, "user_version", schema::STATE.version())?;
        self.connection.pragma_update(None, "synchronous", "NORMAL")
    }

    /// Puts the staged file in the place of the state, and goes on with it.
    fn replace_state(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let staged = self.snapshots.received(snapshot.last);
        if !staged.exists() {
            let (path, applied) = (self.file.path().to_owned(), self.position.applied);
            return Err(Error::SnapshotMissing { path, staged, applied, snapshot: snapshot.last });
        }
        // The old file's write-ahead log must not be moved into anything any more.
        let leave = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        leave.map_err(Error::sqlite("closing the old state"))?;
        let opened = self.file.replace(&staged, |path| Opened::open(path, self.cluster))?;
        let Opened { connection, sandbox, position, schema, rows } = opened;
        (self.connection, self.sandbox, self.position) = (connection, sandbox, position);
        (self.schema, self.rows) = (schema, rows);
        if self.position.applied != snapshot.last {
            let what = format!("it has applied {}, not {}", self.position.applied, snapshot.last);
            return Err(Error::InvalidSnapshot { last: snapshot.last, what });
        }
        self.durable = Some(snapshot.last);
        self.snapshots.forget_received(snapshot.last.index)
    }

    /// Does what touches the file, unless it failed before; if it fails or panics now, this was the last time.
    fn guarded<T>(&mut self, action: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.failed {
            return Err(Error::Poisoned { path: self.file.path().to_owned() });
        }
        self.failed = true;
        let done = action(self)?;
        self.failed = false;
        Ok(done)
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

    /// Applies the entries. In rare cases (see the module's text), and where there is a mark among them, in several transactions, each whole, with
    /// the position of its last entry.
    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Option<Answer>>, Error> {
        let Some(first) = entries.first() else { return Ok(Vec::new()) };
        assert!(first.id.index == self.position.applied.index.next(), "entries are applied in order, each once");
        self.guarded(|state| {
            let steps = entries.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
            state.apply_up_to_marks(&steps)
        })
    }

    fn take_snapshot(&mut self) -> Result<EntryId, Error> {
        let applied = self.position.applied;
        if self.durable != Some(applied) {
            self.guarded(|state| state.sync().map_err(Error::sqlite("making the state durable")))?;
            self.durable = Some(applied);
            self.snapshots.forget_received(applied.index)?;
        }
        Ok(applied)
    }

    /// The copy shows the state as it is now, and is made when it is first read. Until then, and while it is made, no page of
    /// the state's write-ahead log is used again.
    fn capture(&mut self) -> Result<Box<dyn Capture>, Error> {
        self.guarded(|state| state.captures.begin(state.file.path(), state.position.applied))
    }

    fn staging(&self) -> Arc<dyn Staging> {
        self.snapshots.staging(self.cluster)
    }

    /// Reads that are under way end on the old state.
    ///
    /// # Panics
    /// If the snapshot is not ahead of the state.
    fn install(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        assert!(snapshot.last.index > self.position.applied.index, "a state is replaced by a later one");
        self.guarded(|state| state.replace_state(snapshot))
    }
}

impl Opened {
    fn open(path: &Path, cluster: ClusterId) -> Result<Self, Error> {
        let mut connection = schema::open(path, &schema::STATE, |connection| write_first(connection, cluster))?;
        expect_cluster(&connection, path, cluster)?;
        let doing = "opening the state";
        let position = Position::read(&connection).map_err(Error::sqlite(doing))?;
        let sandbox = Sandbox::install(&mut connection).map_err(Error::sqlite(doing))?;
        sandbox.bound_steps(&mut connection).map_err(Error::sqlite(doing))?;
        let own = sandbox::own_schema(&connection).map_err(Error::sqlite(doing))?;
        let schema = SchemaWatch { own, seen: None };
        let mut rows = RowWatch::install(&connection).map_err(Error::sqlite(doing))?;
        rows.put_up(&connection).map_err(Error::sqlite(doing))?;
        Ok(Self { connection, sandbox, position, schema, rows })
    }
}

impl SqliteStateMachine {
    /// As far as those who still read let it: nothing is lost where they don't, so a stop does not wait for them.
    fn move_into_file(&self) -> rusqlite::Result<()> {
        self.connection.busy_timeout(Duration::ZERO)?;
        self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
    }
}

impl Drop for SqliteStateMachine {
    /// Moves everything into the one file, so that a copy of it after a clean stop is whole. SQLite does so for the
    /// last connection, but not if that is a reader's.
    fn drop(&mut self) {
        // A state that is shown could not be moved.
        self.marker.close();
        if self.failed || self.move_into_file().is_err() {
            schema::leave_as_is(&self.connection);
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
