//! Commands as a person types them: `set k=v`, `get k`, `del k`, or SQL.

use bytes::Bytes;

/// What a text asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandText {
    /// `set k=v`: everything after the first `=` is the value, to the byte.
    Set {
        /// The key, without the space around it.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// `get k`.
    Get {
        /// The key.
        key: Bytes,
    },
    /// `del k`.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// SQL, as it stands.
    Sql(String),
}

/// Why a text is not a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandTextError {
    /// Nothing but space.
    #[error("the command is empty; try `set x=1`, `get x`, `del x`, or SQL")]
    Empty,
    /// A verb without what it needs.
    #[error("`{verb}` is used as `{usage}`")]
    Usage {
        /// The verb.
        verb: &'static str,
        /// How it is used.
        usage: &'static str,
    },
    /// The first word is no verb and begins no SQL statement.
    #[error(
        "unknown command `{0}`; a command is `set KEY=VALUE`, `get KEY`, `del KEY`, or SQL (such as SELECT, INSERT, CREATE)"
    )]
    Unknown(String),
}

const SQL_VERBS: [&str; 23] = [
    "ALTER",
    "ANALYZE",
    "ATTACH",
    "BEGIN",
    "COMMIT",
    "CREATE",
    "DELETE",
    "DETACH",
    "DROP",
    "END",
    "EXPLAIN",
    "INSERT",
    "PRAGMA",
    "REINDEX",
    "RELEASE",
    "REPLACE",
    "ROLLBACK",
    "SAVEPOINT",
    "SELECT",
    "UPDATE",
    "VACUUM",
    "VALUES",
    "WITH",
];

/// Understands a text. What begins with a word of SQL is SQL, allowed or not: SQLite says what is wrong with it.
pub fn parse(text: &str) -> Result<CommandText, CommandTextError> {
    let trimmed = text.trim_start();
    let (word, rest) = first_word(trimmed);
    match word.to_ascii_lowercase().as_str() {
        "" => Err(CommandTextError::Empty),
        "set" => set(rest),
        "get" => Ok(CommandText::Get { key: key(rest, "get", "get KEY")? }),
        "del" => Ok(CommandText::Delete { key: key(rest, "del", "del KEY")? }),
        _ if is_sql(trimmed) => Ok(CommandText::Sql(text.to_owned())),
        _ => Err(CommandTextError::Unknown(word.chars().take(40).collect())),
    }
}

/// The text up to the first space, and the text after that space.
fn first_word(text: &str) -> (&str, &str) {
    text.split_once(char::is_whitespace).unwrap_or((text, ""))
}

fn set(rest: &str) -> Result<CommandText, CommandTextError> {
    let usage = CommandTextError::Usage { verb: "set", usage: "set KEY=VALUE" };
    let (key, value) = rest.split_once('=').ok_or(usage.clone())?;
    let key = key.trim();
    if key.is_empty() {
        return Err(usage);
    }
    Ok(CommandText::Set { key: bytes(key), value: bytes(value) })
}

fn key(rest: &str, verb: &'static str, usage: &'static str) -> Result<Bytes, CommandTextError> {
    let key = rest.trim();
    if key.is_empty() {
        return Err(CommandTextError::Usage { verb, usage });
    }
    Ok(bytes(key))
}

fn is_sql(text: &str) -> bool {
    if text.starts_with("--") || text.starts_with("/*") || text.starts_with('(') {
        return true;
    }
    let verb: String = text.chars().take_while(char::is_ascii_alphabetic).collect();
    SQL_VERBS.iter().any(|known| known.eq_ignore_ascii_case(&verb))
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &'static str, value: &'static str) -> Result<CommandText, CommandTextError> {
        Ok(CommandText::Set { key: key.into(), value: value.into() })
    }

    #[test]
    fn set_takes_everything_after_the_first_equals_sign() {
        assert_eq!(parse("set x=1"), set("x", "1"));
        assert_eq!(parse("  SET  x =a=b \n"), set("x", "a=b \n"));
        assert_eq!(parse("set x="), set("x", ""));
        assert_eq!(parse("set a key=1"), set("a key", "1"));
        assert_eq!(parse("set schlüssel=wert"), set("schlüssel", "wert"));
    }

    #[test]
    fn get_and_del_take_a_key() {
        assert_eq!(parse("get x "), Ok(CommandText::Get { key: "x".into() }));
        assert_eq!(parse("Del x"), Ok(CommandText::Delete { key: "x".into() }));
    }

    #[test]
    fn what_begins_like_sql_is_sql_as_it_stands() {
        for text in [
            "SELECT 1",
            "select(1)",
            " insert into t values (1)",
            "DELETE FROM t",
            "with a as (select 1) select * from a;",
            "-- a comment\nselect 1",
            "/* so */ select 1",
            "PRAGMA journal_mode",
            "select",
        ] {
            assert_eq!(parse(text), Ok(CommandText::Sql(text.to_owned())));
        }
    }

    #[test]
    fn the_rest_is_refused_with_what_would_do() {
        for (text, expected) in [
            ("", "empty"),
            (" \n", "empty"),
            ("set", "set KEY=VALUE"),
            ("set x", "set KEY=VALUE"),
            ("set =1", "set KEY=VALUE"),
            ("get", "get KEY"),
            ("del  ", "del KEY"),
            ("frobnicate x", "unknown command `frobnicate`"),
            ("selectx 1", "unknown command `selectx`"),
            ("settle x=1", "unknown command `settle`"),
            ("=", "unknown command `=`"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
