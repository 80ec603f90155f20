//! Commands of SQL: all statements, or none.

use super::{APPLYING, Seen, SqliteStateMachine, schema_version};
use crate::answer::{Outcome, StepResult};
use crate::error::Error;
use crate::execution::{self, Budget, Failure};
use crate::limits::ANSWER_BYTES;
use crate::moment::Moment;
use crate::sandbox;
use crate::schema::run;
use crate::step::{Action, Argument, KeyRange, Put, Step, Value};

/// How a command of SQL ended.
pub(super) enum Ended {
    /// All its statements ran, or it failed and is undone.
    With(Outcome),
    /// The same, and from now on there may be foreign keys that are checked late.
    MadeDeferredKeys(Outcome),
    /// It has undone the whole transaction, for this reason.
    LostTransaction(String),
}

impl SqliteStateMachine {
    /// A program that only sets or deletes a key can't fail, and needs no savepoint.
    pub(super) fn run_program(&mut self, steps: &[Step], seed: [u8; 16]) -> Result<Ended, Error> {
        let result = match steps {
            [
                Step {
                    action:
                        Action::Put(Put { key, value: Argument::Given(Value::Blob(value)), lease: 0, previous: false }),
                    expect: None,
                },
            ] => self.put(key, value).map_err(Error::sqlite(APPLYING))?,
            [Step { action: Action::Delete { range: KeyRange::Key(key), previous: false }, expect: None }] => {
                self.delete(key).map_err(Error::sqlite(APPLYING))?
            }
            steps => return self.run_steps(steps, seed),
        };
        Ok(Ended::With(Outcome::Ran(vec![result])))
    }

    pub(super) fn run_steps(&mut self, steps: &[Step], seed: [u8; 16]) -> Result<Ended, Error> {
        let before = self.seen_schema().map_err(Error::sqlite(APPLYING))?;
        run(&self.connection, "SAVEPOINT command").map_err(Error::sqlite(APPLYING))?;
        let run_all = self.run_sql(steps, seed).and_then(|results| {
            self.check_schema(before)?;
            Ok(results)
        });
        match run_all {
            _ if self.connection.is_autocommit() => Self::lost_transaction(run_all),
            Ok(results) => {
                run(&self.connection, "RELEASE command").map_err(Error::sqlite(APPLYING))?;
                let after = self.seen_schema().map_err(Error::sqlite(APPLYING))?;
                let outcome = Outcome::Ran(results);
                let made = after.has_deferred_keys && !before.has_deferred_keys;
                Ok(if made { Ended::MadeDeferredKeys(outcome) } else { Ended::With(outcome) })
            }
            Err(Failure::Statement(message) | Failure::Refused(message)) => {
                run(&self.connection, "ROLLBACK TO command").map_err(Error::sqlite(APPLYING))?;
                run(&self.connection, "RELEASE command").map_err(Error::sqlite(APPLYING))?;
                Ok(Ended::With(Outcome::failed(message)))
            }
            Err(Failure::Sqlite(source)) => Err(Error::Sqlite { doing: APPLYING, source }),
        }
    }

    fn lost_transaction(result: Result<Vec<StepResult>, Failure>) -> Result<Ended, Error> {
        match result {
            Err(Failure::Statement(why) | Failure::Refused(why)) => Ok(Ended::LostTransaction(why)),
            Err(Failure::Sqlite(source)) => Err(Error::Sqlite { doing: APPLYING, source }),
            Ok(_) => unreachable!("a statement that undoes the transaction fails"),
        }
    }

    fn run_sql(&self, steps: &[Step], seed: [u8; 16]) -> Result<Vec<StepResult>, Failure> {
        sandbox::forget_earlier_statements(&self.connection).map_err(Failure::Sqlite)?;
        let fence = self.sandbox.enter(Moment::new(self.position.time_ms, seed));
        let mut budget = Budget::new(usize::MAX, ANSWER_BYTES);
        let mut results = Vec::with_capacity(steps.len());
        for step in steps {
            let Action::Sql(statement) = &step.action else { return Err(execution::statement(super::NOT_YET)) };
            let ran = execution::run(&self.connection, &fence, statement, rule, &mut budget);
            if let Some(why) = fence.overstepped() {
                return Err(Failure::Refused(why));
            }
            results.push(StepResult::Sql(ran?));
        }
        Ok(results)
    }

    /// If the command has changed the schema, looks at what it has become.
    fn check_schema(&mut self, before: Seen) -> Result<(), Failure> {
        let version = schema_version(&self.connection).map_err(Failure::Sqlite)?;
        if version == before.version {
            return Ok(());
        }
        if !sandbox::own_schema_is_whole(&self.connection, &self.schema.own).map_err(Failure::Sqlite)? {
            return Err(execution::statement(
                "kv and all names that begin with raft_ belong to RaftKV: no table may refer to or be renamed to them",
            ));
        }
        let has_deferred_keys = sandbox::has_deferred_keys(&self.connection).map_err(Failure::Sqlite)?;
        self.schema.seen = Some(Seen { version, has_deferred_keys });
        Ok(())
    }
}

/// What a plan looks like depends on the version of SQLite, so it is never an answer that is kept.
fn rule(compiled: &rusqlite::Statement<'_>) -> Result<(), Failure> {
    if compiled.is_explain() != 0 {
        return Err(execution::statement("EXPLAIN is not allowed in a command that writes: send it alone"));
    }
    Ok(())
}
