//! Programs in the log: all steps, or none.

use super::{APPLYING, Seen, SqliteStateMachine, schema_version};
use crate::answer::{Outcome, StepResult};
use crate::error::Error;
use crate::execution::{self, Budget, Failure as SqlFailure};
use crate::kv::Changes;
use crate::limits::ANSWER_BYTES;
use crate::moment::Moment;
use crate::program::{Failure, Run};
use crate::sandbox;
use crate::schema::run;
use crate::step::{Action, Argument, KeyRange, Put, Step, Value};

/// How a program ended.
pub(super) enum Ended {
    /// All its steps ran, or it failed and is undone.
    With(Outcome),
    /// The same, and from now on there may be foreign keys that are checked late.
    MadeDeferredKeys(Outcome),
    /// It has undone the whole transaction, for this reason.
    LostTransaction(String),
}

impl SqliteStateMachine {
    pub(super) fn run(&mut self, steps: &[Step], seed: [u8; 16]) -> Result<Ended, Error> {
        let mut changes = Changes::since(&self.position);
        let simple = self.run_simple(steps, &mut changes).map_err(Error::sqlite(APPLYING))?;
        let ended = match simple {
            Some(result) => Ended::With(Outcome::Ran(vec![result])),
            None => self.run_in_savepoint(steps, seed, &mut changes)?,
        };
        if matches!(&ended, Ended::With(Outcome::Ran(_)) | Ended::MadeDeferredKeys(Outcome::Ran(_))) {
            changes.finish(&mut self.position);
        }
        Ok(ended)
    }

    /// A program that only sets or deletes a key can't fail, and needs no savepoint. Most are such.
    fn run_simple(&self, steps: &[Step], changes: &mut Changes) -> rusqlite::Result<Option<StepResult>> {
        let [Step { action, expect: None }] = steps else { return Ok(None) };
        Ok(match action {
            Action::Put(Put { key, value: Argument::Given(Value::Blob(value)), lease: 0, previous: false }) => {
                let replaced = changes.put(&self.connection, key, value, 0)?;
                Some(StepResult::Put { replaced, previous: None })
            }
            Action::Delete { range: KeyRange::Key(key), previous: false } => {
                let count = changes.delete(&self.connection, key)?.into();
                Some(StepResult::Deleted { count, previous: Vec::new() })
            }
            _ => None,
        })
    }

    fn run_in_savepoint(&mut self, steps: &[Step], seed: [u8; 16], changes: &mut Changes) -> Result<Ended, Error> {
        let before = self.seen_schema().map_err(Error::sqlite(APPLYING))?;
        run(&self.connection, "SAVEPOINT command").map_err(Error::sqlite(APPLYING))?;
        let ran = self.run_steps(steps, seed, changes).and_then(|results| {
            self.check_schema(before)?;
            self.note_rows(changes)?;
            Ok(results)
        });
        let lost = self.connection.is_autocommit();
        let outcome = match ran {
            Ok(_) if lost => unreachable!("a statement that undoes the transaction fails"),
            Ok(results) => {
                run(&self.connection, "RELEASE command").map_err(Error::sqlite(APPLYING))?;
                let after = self.seen_schema().map_err(Error::sqlite(APPLYING))?;
                let outcome = Outcome::Ran(results);
                let made = after.has_deferred_keys && !before.has_deferred_keys;
                return Ok(if made { Ended::MadeDeferredKeys(outcome) } else { Ended::With(outcome) });
            }
            Err(Failure::Step(SqlFailure::Sqlite(source))) => return Err(Error::Sqlite { doing: APPLYING, source }),
            Err(Failure::Step(SqlFailure::Statement(why) | SqlFailure::Refused(why))) if lost => {
                return Ok(Ended::LostTransaction(why));
            }
            Err(failure) => failed(failure)?,
        };
        run(&self.connection, "ROLLBACK TO command").map_err(Error::sqlite(APPLYING))?;
        self.rows.forget(&self.connection).map_err(Error::sqlite(APPLYING))?;
        run(&self.connection, "RELEASE command").map_err(Error::sqlite(APPLYING))?;
        Ok(Ended::With(outcome))
    }

    /// Notes which rows the command has changed.
    fn note_rows(&mut self, changes: &mut Changes) -> Result<(), Failure> {
        let rows = self.rows.take(&self.connection)?;
        rows.iter().try_for_each(|rows| changes.note_rows(&self.connection, rows))?;
        Ok(())
    }

    fn run_steps(&mut self, steps: &[Step], seed: [u8; 16], changes: &mut Changes) -> Result<Vec<StepResult>, Failure> {
        sandbox::forget_earlier_statements(&self.connection)?;
        let fence = self.sandbox.enter(Moment::new(self.position.time_ms, seed));
        let mut program = Run {
            connection: &self.connection,
            fence: &fence,
            rule,
            budget: Budget::new(usize::MAX, ANSWER_BYTES),
            readable: self.position.readable(),
            time_ms: self.position.time_ms,
            changes: Some(changes),
            rows: Some(&mut self.rows),
        };
        program.steps(steps)
    }

    /// If the command has changed the schema, looks at what it has become.
    fn check_schema(&mut self, before: Seen) -> Result<(), Failure> {
        let version = schema_version(&self.connection)?;
        if version == before.version {
            return Ok(());
        }
        if !sandbox::own_schema_is_whole(&self.connection, &self.schema.own)? {
            let ours =
                "kv and all names that begin with raft_ belong to RaftKV: no table may refer to or be renamed to them";
            return Err(execution::statement(ours).into());
        }
        let has_deferred_keys = sandbox::has_deferred_keys(&self.connection)?;
        self.schema.seen = Some(Seen { version, has_deferred_keys });
        Ok(())
    }
}

/// What a failure is to whoever waits for the answer, unless it is one of this node alone.
fn failed(failure: Failure) -> Result<Outcome, Error> {
    Ok(match failure {
        Failure::Step(SqlFailure::Sqlite(source)) => return Err(Error::Sqlite { doing: APPLYING, source }),
        Failure::Step(SqlFailure::Statement(why) | SqlFailure::Refused(why)) => Outcome::failed(why),
        Failure::Unexpected(message) => Outcome::Unexpected { message },
        Failure::NoSuchLease(lease) => Outcome::NoSuchLease { lease },
        Failure::Revision(error) => Outcome::failed(error.to_string()),
    })
}

/// What a plan looks like depends on the version of SQLite, so it is never an answer that is kept.
fn rule(compiled: &rusqlite::Statement<'_>) -> Result<(), SqlFailure> {
    if compiled.is_explain() != 0 {
        return Err(execution::statement("EXPLAIN is not allowed in a command that writes: send it alone"));
    }
    Ok(())
}
