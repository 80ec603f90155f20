//! What is replicated, and what comes of it. Data, and the checks of its limits.

use bytes::Bytes;

use crate::codec;
use crate::error::Error;
use crate::limits;
use crate::moment;

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
    /// The number of the command: 1, 2, 3, … A retry repeats it, and gets the first answer.
    pub sequence: u64,
    /// The client has all answers up to this one, and they may be forgotten. Less than `sequence`.
    pub answered: u64,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Set a key.
    Put {
        /// The key, from 1 to [`limits::KEY_BYTES`] bytes.
        key: Bytes,
        /// The value, up to [`limits::VALUE_BYTES`] bytes.
        value: Bytes,
    },
    /// Delete a key, if it is there.
    Delete {
        /// The key, from 1 to [`limits::KEY_BYTES`] bytes.
        key: Bytes,
    },
    /// Run SQL: all of it, or nothing.
    Sql {
        /// In this order. At least one.
        statements: Vec<Statement>,
    },
}

/// An SQL text and what its parameters stand for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statement {
    /// One statement, or several between semicolons. Only a single one may have parameters.
    pub sql: String,
    /// For each parameter of the statement exactly one value.
    pub parameters: Vec<Parameter>,
}

impl Statement {
    /// A statement without parameters.
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), parameters: Vec::new() }
    }

    /// A statement and the values of its `?`, in order.
    pub fn with(sql: impl Into<String>, values: impl IntoIterator<Item = Value>) -> Self {
        let parameters = values.into_iter().map(|value| Parameter { name: None, value }).collect();
        Self { sql: sql.into(), parameters }
    }
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// With its prefix, as in `:name`. Without a name: the next one in order.
    pub name: Option<String>,
    /// What it stands for.
    pub value: Value,
}

/// A value of one of SQLite's types.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// NULL.
    #[default]
    Null,
    /// An integer.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// A text.
    Text(String),
    /// Bytes. Also what a result gives for a text that is not UTF-8.
    Blob(Bytes),
}

/// What came of a command: the same on every node.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The state's revision after the command: the number of changes to keys so far, plus one.
    pub revision: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The key is set.
    Put {
        /// Whether it was there before.
        replaced: bool,
    },
    /// The key is gone.
    Deleted {
        /// How many keys were deleted: 0 or 1.
        count: u64,
    },
    /// All statements ran; one result for each.
    Sql(Vec<StatementResult>),
    /// The command failed, alike on every node, and changed nothing.
    Failed {
        /// Why, for the person who wrote it. At most [`limits::MESSAGE_BYTES`] bytes.
        message: String,
    },
    /// The command was applied before and its answer is forgotten, or its client had said that it needs it no more.
    /// Nothing was changed now.
    Forgotten,
    /// The client has [`limits::UNANSWERED`] commands whose answers it has not confirmed. Nothing was changed; it must
    /// confirm some.
    TooManyUnanswered,
}

impl Outcome {
    /// A command that failed, with what fits of the message: a trigger may make one of any length, and answers are kept.
    pub(crate) fn failed(mut message: String) -> Self {
        let end = (0..=limits::MESSAGE_BYTES).rev().find(|&end| message.is_char_boundary(end));
        message.truncate(end.unwrap_or_default());
        Self::Failed { message }
    }
}

/// What came of one SQL statement.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatementResult {
    /// The names of the columns; none if the statement yields no rows.
    pub columns: Vec<String>,
    /// The rows, each with a value for each column.
    pub rows: Vec<Vec<Value>>,
    /// How many rows it inserted, updated or deleted itself, not counting triggers.
    pub rows_affected: u64,
    /// The rowid of the last row that this command has inserted so far; zero if it has inserted none.
    pub last_insert_id: i64,
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
        match &self.operation {
            Operation::Put { key, value } => {
                check_key(key)?;
                at_most("the value (bytes)", limits::VALUE_BYTES, value.len())?;
            }
            Operation::Delete { key } => check_key(key)?,
            Operation::Sql { statements } => check_statements(statements)?,
        }
        Ok(())
    }
}

impl SessionId {
    fn check(&self) -> Result<(), Error> {
        if self.client.is_empty() {
            return Err(Error::Invalid("a session needs a client id".into()));
        }
        at_most("the client id (bytes)", limits::CLIENT_BYTES, self.client.len())?;
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

/// Checks a key's length.
pub(crate) fn check_key(key: &[u8]) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::Invalid("a key has at least one byte".into()));
    }
    at_most("the key (bytes)", limits::KEY_BYTES, key.len())
}

/// Checks what can be said of SQL without SQLite.
pub(crate) fn check_statements(statements: &[Statement]) -> Result<(), Error> {
    if statements.is_empty() {
        return Err(Error::Invalid("there is no SQL statement".into()));
    }
    at_most("the number of SQL statements", limits::STATEMENTS, statements.len())?;
    for statement in statements {
        at_most("the SQL statement (bytes)", limits::SQL_BYTES, statement.sql.len())?;
        at_most("the number of parameters", limits::PARAMETERS, statement.parameters.len())?;
        if statement.sql.contains('\0') {
            return Err(Error::Invalid("an SQL statement can't hold a NUL character: pass it as a parameter".into()));
        }
    }
    Ok(())
}

fn at_most(what: &'static str, limit: usize, actual: usize) -> Result<(), Error> {
    if actual <= limit {
        return Ok(());
    }
    Err(Error::TooLarge { what, limit: limit as u64, actual: actual as u64 })
}
