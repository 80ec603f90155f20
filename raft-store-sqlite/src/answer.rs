//! What comes of a command: the same on every node. Data alone.

use bytes::Bytes;

use crate::limits;
use crate::step::Value;

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The state's revision after the command: the number of commands so far that changed keys or rows, plus one.
    pub revision: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All steps ran; one result for each.
    Ran(Vec<StepResult>),
    /// The lease is there.
    LeaseGranted {
        /// Its number.
        lease: u64,
    },
    /// The lease lasts from now as long as it was granted for.
    LeaseKept {
        /// How long, in milliseconds.
        ttl_ms: u64,
    },
    /// The lease is gone.
    LeaseRevoked {
        /// How many keys went with it.
        deleted: u64,
    },
    /// History is forgotten.
    Compacted,
    /// What had expired is gone.
    Expired {
        /// Whether there is more: the next command of this kind goes on.
        more: bool,
    },
    /// The entry is there.
    Marked,
    /// The command failed, alike on every node, and changed nothing.
    Failed {
        /// Why, for the person who wrote it. At most [`limits::MESSAGE_BYTES`] bytes.
        message: String,
    },
    /// A step did not count what its program expects. Nothing was changed.
    Unexpected {
        /// Which step and what it counted. At most [`limits::MESSAGE_BYTES`] bytes.
        message: String,
    },
    /// There is no such lease: it may have expired. Nothing was changed.
    NoSuchLease {
        /// Its number.
        lease: u64,
    },
    /// The command was applied before and its answer is forgotten, or its client had said that it needs it no more.
    /// Nothing was changed now.
    Forgotten,
    /// The client has [`limits::UNANSWERED`] commands whose answers it has not confirmed. Nothing was changed; it must
    /// confirm some.
    TooManyUnanswered,
    /// The session is over, or its client's clock is wrong: what became of its commands without an answer is not known any more.
    /// Nothing was changed now.
    SessionExpired {
        /// Log time: a new session that says that it was opened then is not refused for that reason.
        time_ms: u64,
    },
    /// There are [`limits::SESSIONS`] sessions. Nothing was changed; it may be tried again later.
    TooManySessions,
}

impl Outcome {
    /// A command that failed, with what fits of the message: a trigger may make one of any length, and answers are kept.
    pub(crate) fn failed(mut message: String) -> Self {
        let end = (0..=limits::MESSAGE_BYTES).rev().find(|&end| message.is_char_boundary(end));
        message.truncate(end.unwrap_or_default());
        Self::Failed { message }
    }
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum StepResult {
    /// The key is set.
    Put {
        /// Whether it was there before.
        replaced: bool,
        /// What it was, if that was asked for.
        previous: Option<KeyValue>,
    },
    /// The keys are gone.
    Deleted {
        /// How many there were.
        count: u64,
        /// What they were, if that was asked for.
        previous: Vec<KeyValue>,
    },
    /// What was found.
    Got(Found),
    /// All statements of the text ran; one result for each.
    Sql(Vec<StatementResult>),
    /// One of the two lists ran.
    If {
        /// Whether the comparisons held, so that it was the first.
        held: bool,
        /// What came of its steps.
        results: Vec<StepResult>,
    },
}

/// Keys that were found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Found {
    /// In the order of their keys.
    pub entries: Vec<KeyValue>,
    /// How many there are, within the limit and beyond.
    pub count: u64,
    /// Whether there are more than `entries`. Go on after the last key.
    pub more: bool,
}

/// A key with its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Its value; empty where only keys were asked for.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The revision that last changed it.
    pub mod_revision: u64,
    /// How often it was written since it was created; 1 at first.
    pub version: u64,
    /// The lease with which it goes; 0 for none.
    pub lease: u64,
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
