//! What is replicated. Data, and the checks of its limits.

use bytes::Bytes;

use crate::codec;
use crate::error::Error;
use crate::limits::{self, at_most};
use crate::moment;
use crate::step::{Action, Statement, Step, check_program};

/// What a client asked for, as it stands in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// The leader's wall clock when it took the command, in milliseconds since 1970. What SQL sees as the time is this,
    /// but never less than at an earlier command.
    pub time_ms: u64,
    /// Where SQL's randomness comes from.
    pub seed: [u8; 16],
    /// Whose command it is; without it, a retry is applied again.
    pub session: Option<SessionId>,
    /// What to do.
    pub operation: Operation,
}

/// Makes a command apply once, however often it is proposed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionId {
    /// The client: any random id that no other client has. At most [`limits::CLIENT_BYTES`] bytes.
    pub client: Bytes,
    /// When the client made its id, by its own clock, in milliseconds since 1970. The same with each of its commands.
    ///
    /// A session ends when it is not used for [`limits::SESSION_MS`] of log time. The id of one that has ended is not kept, so this is
    /// what tells it from a new one: a session that is not known begins only if its client's clock and the log's differ by less than
    /// half of that. A wrong clock makes commands fail, never apply twice.
    pub opened_ms: u64,
    /// The number of the command: 1, 2, 3, … A retry repeats it, and gets the first answer.
    pub sequence: u64,
    /// The client has all answers up to this one, and they may be forgotten. Less than `sequence`.
    pub answered: u64,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Run a program: all of its steps, or none.
    Run(Vec<Step>),
    /// Make a lease. Keys that are put under it go when it is not kept alive.
    GrantLease {
        /// Its number, which no other lease may have; 0 to be given one.
        lease: u64,
        /// How long it lasts, from 1 to [`limits::LEASE_MS`] milliseconds of log time: the time that commands carry.
        ttl_ms: u64,
    },
    /// Let a lease last anew, from now on.
    KeepLease {
        /// Its number.
        lease: u64,
    },
    /// End a lease, and delete its keys.
    RevokeLease {
        /// Its number.
        lease: u64,
    },
    /// Forget what keys were before `revision`, and the changes up to it. Reads as of `revision` and later stay possible.
    Compact {
        /// From 1 to the state's revision.
        revision: u64,
    },
    /// Remove leases, with their keys, and sessions that have expired by log time. Proposed by the leader.
    Expire,
    /// Change nothing but log time: an entry at which the states of nodes can be compared. See [`SqliteStateMachine::marks`](crate::SqliteStateMachine::marks).
    Mark,
}

impl Operation {
    /// Sets a key.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Run(vec![Action::put(key, value).into()])
    }

    /// Deletes a key, if it is there.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Run(vec![Action::delete(key).into()])
    }

    /// Runs SQL: all of it, or nothing.
    pub fn sql(statements: impl IntoIterator<Item = Statement>) -> Self {
        Self::Run(statements.into_iter().map(Step::from).collect())
    }
}

impl Command {
    /// A command that begins now: with the time of the system's clock and fresh randomness.
    ///
    /// # Errors
    /// [`Error::Random`] if the system has no randomness to give.
    pub fn now(operation: Operation, session: Option<SessionId>) -> Result<Self, Error> {
        Ok(Self { time_ms: moment::now_ms(), seed: moment::random_seed()?, session, operation })
    }

    /// As it stands in the log: a byte that says the version, then the rest.
    pub fn encode(&self) -> Bytes {
        codec::encode_command(self)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// If it is damaged or from a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        codec::decode_command(bytes)
    }

    /// Checks everything that has a limit. Call it before proposing the command, so that its sender learns at once.
    ///
    /// # Errors
    /// [`Error::TooLarge`] with the limit and what was given, [`Error::Invalid`] for what is missing.
    pub fn check(&self) -> Result<(), Error> {
        self.check_parts()?;
        at_most("the command (bytes)", limits::COMMAND_BYTES, codec::command_bytes(self))
    }

    /// Checks everything but the size of the whole.
    pub(crate) fn check_parts(&self) -> Result<(), Error> {
        if let Some(session) = &self.session {
            session.check()?;
        }
        self.operation.check()
    }
}

impl Operation {
    fn check(&self) -> Result<(), Error> {
        match self {
            Self::Run(steps) => check_program(steps),
            Self::GrantLease { ttl_ms: 0, .. } => Err(Error::Invalid("a lease lasts at least 1 ms".into())),
            Self::GrantLease { lease, ttl_ms } => {
                limits::storable("a lease", *lease)?;
                at_most("the time that a lease lasts (ms)", limits::LEASE_MS, *ttl_ms)
            }
            Self::KeepLease { lease: 0 } | Self::RevokeLease { lease: 0 } => {
                Err(Error::Invalid("a lease has a number from 1".into()))
            }
            Self::KeepLease { lease } | Self::RevokeLease { lease } => limits::storable("a lease", *lease),
            Self::Compact { revision } => limits::storable("a revision", *revision),
            Self::Expire | Self::Mark => Ok(()),
        }
    }
}

impl SessionId {
    fn check(&self) -> Result<(), Error> {
        if self.client.is_empty() {
            return Err(Error::Invalid("a session needs a client id".into()));
        }
        at_most("the client id (bytes)", limits::CLIENT_BYTES, self.client.len())?;
        if self.opened_ms == 0 || i64::try_from(self.opened_ms).is_err() {
            return Err(Error::Invalid(format!(
                "a session says when it was opened, in milliseconds since 1970; {} is no such time",
                self.opened_ms
            )));
        }
        if self.sequence == 0 || i64::try_from(self.sequence).is_err() {
            return Err(Error::Invalid(format!("a sequence is from 1 to {}, not {}", i64::MAX, self.sequence)));
        }
        if self.answered >= self.sequence {
            return Err(Error::Invalid(format!(
                "command {} can't be sent any more: its client has said that it has the answers up to {}",
                self.sequence, self.answered
            )));
        }
        Ok(())
    }
}
