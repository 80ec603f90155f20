//! Where the statements of an SQL script begin and end.

/// A statement of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    /// The line that it begins on, from 1.
    pub(crate) line: usize,
    /// Its text, from its first word on.
    pub(crate) sql: &'a str,
}

/// The statements of a script. A semicolon ends one where it is no part of a text, a name, a comment or the body of a trigger; the last one
/// may lack it.
pub(crate) fn split(script: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut state = State::Start;
    let mut begin = None;
    for Token { kind, start, end } in tokens(script) {
        if kind == Kind::Space {
            continue;
        }
        state = state.after(kind, &script[start..end]);
        if state == State::Start {
            parts.extend(begin.take().map(|begin| part(script, begin, end)));
        } else {
            begin.get_or_insert(start);
        }
    }
    parts.extend(begin.map(|begin| part(script, begin, script.trim_end().len())));
    parts
}

/// Where the first line stands that begins with `mark`, a comment, and is no part of a statement.
pub(crate) fn find_comment(script: &str, mark: &str) -> Option<usize> {
    let mut state = State::Start;
    tokens(script).find_map(|Token { kind, start, end }| {
        let text = &script[start..end];
        if kind != Kind::Space {
            state = state.after(kind, text);
        }
        let begins_line = start == 0 || script[..start].ends_with('\n');
        (state == State::Start && begins_line && text.starts_with(mark)).then_some(start)
    })
}

fn part(script: &str, begin: usize, end: usize) -> Part<'_> {
    let line = 1 + script[..begin].matches('\n').count();
    Part { line, sql: &script[begin..end] }
}

/// Where in a statement we are. SQLite itself tells like this (`sqlite3_complete`) where one may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before its first word.
    Start,
    /// In a statement that the next semicolon ends.
    Plain,
    /// After EXPLAIN, which a CREATE may follow.
    Explain,
    /// After CREATE, or CREATE TEMP.
    Create,
    /// In a CREATE TRIGGER, whose steps have semicolons of their own.
    Trigger,
    /// After one of these semicolons.
    Step,
    /// After an END that followed one: a semicolon ends the trigger.
    End,
}

impl State {
    fn after(self, kind: Kind, text: &str) -> Self {
        let is = |word: &str| kind == Kind::Word && text.eq_ignore_ascii_case(word);
        match self {
            Self::Trigger | Self::Step | Self::End if kind == Kind::Semicolon => {
                if self == Self::End {
                    Self::Start
                } else {
                    Self::Step
                }
            }
            _ if kind == Kind::Semicolon => Self::Start,
            Self::Start if is("EXPLAIN") => Self::Explain,
            Self::Start | Self::Explain if is("CREATE") => Self::Create,
            // EXPLAIN QUERY PLAN.
            Self::Explain if is("QUERY") || is("PLAN") => Self::Explain,
            Self::Create if is("TEMP") || is("TEMPORARY") => Self::Create,
            Self::Create if is("TRIGGER") => Self::Trigger,
            Self::Step if is("END") => Self::End,
            Self::Trigger | Self::Step | Self::End => Self::Trigger,
            Self::Start | Self::Plain | Self::Explain | Self::Create => Self::Plain,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// White space or a comment.
    Space,
    Semicolon,
    Word,
    /// A text, a quoted name, a number's first digit, an operator.
    Other,
}

struct Token {
    kind: Kind,
    start: usize,
    end: usize,
}

fn tokens(script: &str) -> impl Iterator<Item = Token> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = &script[start..];
        let first = rest.chars().next()?;
        let (kind, length) = match first {
            ';' => (Kind::Semicolon, 1),
            _ if first.is_ascii_whitespace() => (Kind::Space, 1),
            '-' if rest.starts_with("--") => (Kind::Space, up_to(rest, "\n", 2)),
            '/' if rest.starts_with("/*") => (Kind::Space, up_to(rest, "*/", 2)),
            // A doubled quote ends a text and begins another, which comes to the same.
            '\'' | '"' | '`' => (Kind::Other, up_to(rest, &rest[..1], 1)),
            '[' => (Kind::Other, up_to(rest, "]", 1)),
            _ if is_of_word(first) => (Kind::Word, rest.find(|letter| !is_of_word(letter)).unwrap_or(rest.len())),
            _ => (Kind::Other, first.len_utf8()),
        };
        let token = Token { kind, start, end: start + length };
        start = token.end;
        Some(token)
    })
}

fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_' || letter == '$' || !letter.is_ascii()
}

/// The length up to and with `end`, which is looked for after `skipped` bytes; all, if it does not come.
fn up_to(text: &str, end: &str, skipped: usize) -> usize {
    text[skipped..].find(end).map_or(text.len(), |place| skipped + place + end.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(script: &str) -> Vec<&str> {
        split(script).into_iter().map(|part| part.sql).collect()
    }

    #[test]
    fn a_semicolon_ends_a_statement_and_the_last_one_may_lack_it() {
        assert_eq!(texts("SELECT 1;\n\nSELECT 2 ; SELECT 3"), ["SELECT 1;", "SELECT 2 ;", "SELECT 3"]);
        assert_eq!(texts("SELECT 1 \n "), ["SELECT 1"]);
        assert_eq!(texts(";;SELECT 1;;; -- no more\n;"), ["SELECT 1;"]);
        for nothing in ["", " \n", ";", "-- SELECT 1;", "/* SELECT 1; */;", "/* open"] {
            assert_eq!(texts(nothing), [""; 0], "{nothing:?}");
        }
    }

    #[test]
    fn a_semicolon_in_a_text_a_name_or_a_comment_ends_nothing() {
        for whole in [
            "SELECT 'a;b', 'it''s;', x'00';",
            "SELECT \"a;\"\"b\", `c;`, [d;]] FROM t;",
            "SELECT 1 -- one; two\n + 2;",
            "SELECT 1 /* ; 'a */ + 2;",
            "SELECT 'grün;' AS größe;",
            "SELECT 'open; SELECT 2;",
        ] {
            assert_eq!(texts(whole), [whole]);
        }
    }

    #[test]
    fn a_trigger_ends_with_its_end() {
        let trigger =
            "CREATE TRIGGER g AFTER INSERT ON t BEGIN\n  SELECT CASE new.a WHEN 1 THEN 2 END;\n  DELETE FROM u;\nEND;";
        let temporary = "create temp trigger g AFTER INSERT ON t BEGIN SELECT 'END;'; SELECT 2; END /* now */ ;";
        assert_eq!(
            texts(&format!("{trigger} SELECT 1; {temporary} SELECT 2")),
            [trigger, "SELECT 1;", temporary, "SELECT 2"]
        );
        let explained = "EXPLAIN QUERY PLAN CREATE TRIGGER g DELETE ON t BEGIN SELECT 1; END;";
        assert_eq!(texts(explained), [explained]);
        assert_eq!(texts("CREATE TABLE trigger_happy (a); SELECT 1"), ["CREATE TABLE trigger_happy (a);", "SELECT 1"]);
    }

    #[test]
    fn a_comment_is_found_where_it_is_no_part_of_a_statement() {
        assert_eq!(find_comment("--m 1\n", "--m "), Some(0));
        assert_eq!(find_comment("SELECT 1;\n--m 1", "--m "), Some(10));
        assert_eq!(find_comment("SELECT 'a\n--m 1';\n--m 2", "--m "), Some(18));
        for none in ["SELECT 1; --m 1", "SELECT 1\n--m 1\n;", "/*\n--m 1\n*/", "-- m 1"] {
            assert_eq!(find_comment(none, "--m "), None, "{none}");
        }
    }

    #[test]
    fn the_line_is_that_of_the_first_word() {
        let script = "-- made by hand\n\nCREATE TABLE t (\n  a\n);\n/* two\n   lines */ INSERT INTO t VALUES ('x\ny'); SELECT 1;\nSELECT 2";
        assert_eq!(split(script).iter().map(|part| part.line).collect::<Vec<_>>(), [3, 7, 8, 9]);
    }
}
