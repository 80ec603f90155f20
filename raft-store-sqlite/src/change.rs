//! What a command has changed. Data alone.

use crate::answer::KeyValue;
use crate::step::Value;

/// A change, of a key or of the rows of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The revision that it is part of: all changes of a command have the same.
    pub revision: u64,
    /// Its place among those of its revision, from 0.
    pub part: u64,
    /// What was changed.
    pub what: Changed,
}

/// What was changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Changed {
    /// A key was set or deleted.
    Key {
        /// What it was. None if it was not there, or that is forgotten.
        before: Option<KeyValue>,
        /// What it is. None if it was deleted.
        after: Option<KeyValue>,
        /// The key.
        key: bytes::Bytes,
    },
    /// Rows of a table came, went or changed.
    Rows(RowChanges),
}

/// What a command did to the rows of a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowChanges {
    /// The table.
    pub table: String,
    /// Its columns as they were then, generated ones included.
    pub columns: Vec<String>,
    /// The rows, each once, in the order in which they were first touched.
    pub rows: Vec<RowChange>,
    /// There were more changes than [`limits::CHANGE_BYTES`](crate::limits::CHANGE_BYTES) hold, so they are not told: look at the table.
    pub too_many: bool,
}

/// A row before and after a command. None where it was not there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowChange {
    /// Its values before, one for each column.
    pub before: Option<Vec<Value>>,
    /// Its values after.
    pub after: Option<Vec<Value>>,
}
