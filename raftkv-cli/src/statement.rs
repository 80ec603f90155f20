//! SQL statements and the values bound to them.

use bytes::Bytes;
use raftkv_proto::raftkv::v1 as proto;
use raftkv_proto::raftkv::v1::value::Kind;

/// One SQL statement and the values of its parameters.
///
/// ```
/// use raftkv_cli::Statement;
///
/// let positional = Statement::new("INSERT INTO users VALUES (?, ?)").bind(1).bind("Ada");
/// let named = Statement::new("SELECT * FROM users WHERE id = :id").bind_name(":id", 1);
/// # let _ = (positional, named);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    sql: String,
    parameters: Vec<(String, Value)>,
}

impl Statement {
    /// A statement without parameters.
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), parameters: Vec::new() }
    }

    /// Binds the next positional parameter (`?`).
    #[must_use]
    pub fn bind(self, value: impl Into<Value>) -> Self {
        self.bind_name("", value)
    }

    /// Binds a named parameter; the name has its prefix, as in `:id`.
    #[must_use]
    pub fn bind_name(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.parameters.push((name.into(), value.into()));
        self
    }

    /// Whether it can't change anything, as far as its first word tells. `false` is always a safe answer.
    pub(crate) fn only_reads(&self) -> bool {
        only_reads(&self.sql)
    }
}

/// The same of a statement's text.
pub(crate) fn only_reads(sql: &str) -> bool {
    let sql = sql.trim();
    let first = sql.split(|letter: char| !letter.is_ascii_alphabetic()).next().unwrap_or_default();
    let is_query = ["SELECT", "VALUES"].iter().any(|word| first.eq_ignore_ascii_case(word));
    is_query && !sql.trim_end_matches(';').contains(';')
}

impl From<&str> for Statement {
    fn from(sql: &str) -> Self {
        Self::new(sql)
    }
}

impl From<String> for Statement {
    fn from(sql: String) -> Self {
        Self::new(sql)
    }
}

impl From<Statement> for proto::Statement {
    fn from(Statement { sql, parameters }: Statement) -> Self {
        let parameter = |(name, value): (String, Value)| proto::Parameter { name, value: Some(value.into()) };
        Self { sql, parameters: parameters.into_iter().map(parameter).collect() }
    }
}

/// A value of one of SQLite's types.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// A whole number.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Bytes),
    /// In a program: what an earlier step yields.
    Output(Output),
}

/// One value of what an earlier step of a program yields. The program fails where it doesn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Which step of the same list, from 0. It runs SQL, of which the last statement counts, or reads keys.
    pub step: u32,
    /// Which row, or key, from 0.
    pub row: u32,
    /// Which column, from 0. Those of a key are key, value, create_revision, mod_revision, version, lease.
    pub column: u32,
}

impl From<Output> for Value {
    fn from(output: Output) -> Self {
        Self::Output(output)
    }
}

impl From<i64> for Value {
    fn from(integer: i64) -> Self {
        Self::Integer(integer)
    }
}

impl From<i32> for Value {
    fn from(integer: i32) -> Self {
        Self::Integer(integer.into())
    }
}

impl From<f64> for Value {
    fn from(real: f64) -> Self {
        Self::Real(real)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Blob(Bytes::copy_from_slice(bytes))
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Blob(bytes.into())
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Self::Blob(bytes)
    }
}

/// `None` is NULL.
impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl From<Value> for proto::Value {
    fn from(value: Value) -> Self {
        let kind = match value {
            Value::Null => None,
            Value::Integer(integer) => Some(Kind::Integer(integer)),
            Value::Real(real) => Some(Kind::Real(real)),
            Value::Text(text) => Some(Kind::Text(text)),
            Value::Blob(bytes) => Some(Kind::Blob(bytes)),
            Value::Output(Output { step, row, column }) => Some(Kind::Output(proto::Output { step, row, column })),
        };
        Self { kind }
    }
}

impl From<proto::Value> for Value {
    fn from(value: proto::Value) -> Self {
        match value.kind {
            None => Self::Null,
            Some(Kind::Integer(integer)) => Self::Integer(integer),
            Some(Kind::Real(real)) => Self::Real(real),
            Some(Kind::Text(text)) => Self::Text(text),
            Some(Kind::Blob(bytes)) => Self::Blob(bytes),
            Some(Kind::Output(proto::Output { step, row, column })) => Self::Output(Output { step, row, column }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lone_query_surely_reads() {
        for sql in ["select 1", "  SELECT * FROM t;", "Values (1)", "select(1)"] {
            assert!(Statement::new(sql).only_reads(), "{sql}");
        }
        for sql in ["", "insert into t values (1)", "select 1; delete from t", "WITH x AS (SELECT 1) DELETE FROM t"] {
            assert!(!Statement::new(sql).only_reads(), "{sql}");
        }
    }

    #[test]
    fn values_survive_the_wire() {
        let values = [
            Value::Null,
            Value::from(i64::MIN),
            Value::from(0.1),
            Value::from("grün"),
            Value::from(vec![0, 255]),
            Value::from(None::<i64>),
            Value::from(Output { step: 1, row: 2, column: 3 }),
        ];
        for value in values {
            assert_eq!(Value::from(proto::Value::from(value.clone())), value);
        }
    }
}
