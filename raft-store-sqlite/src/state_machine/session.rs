//! Sessions: which commands of a client were applied, and what they answered.

use rusqlite::{Connection, OptionalExtension};

use crate::answer::Answer;
use crate::codec;
use crate::command::SessionId;
use crate::error::Error;
use crate::limits::UNANSWERED;

/// Where a command stands in its session.
pub(super) enum Standing {
    /// It was not applied yet.
    New,
    /// It was applied, and this was the answer.
    Answered(Answer),
    /// Its client had said that it needs the answer no more, so it is not known whether it was applied.
    Forgotten,
    /// Its client has not confirmed answers for too long.
    TooFarAhead,
}

pub(super) fn standing(connection: &Connection, session: &SessionId) -> Result<Standing, Error> {
    let doing = "reading a session";
    let sql = "SELECT answered FROM raft_sessions WHERE client = ?1";
    let answered: Option<u64> = connection
        .prepare_cached(sql)
        .and_then(|mut select| select.query_row([session.client.as_ref()], |row| row.get(0)).optional())
        .map_err(Error::sqlite(doing))?;
    let answered = answered.unwrap_or(0).max(session.answered);
    if session.sequence <= answered {
        return Ok(Standing::Forgotten);
    }
    let sql = "SELECT answer FROM raft_answers WHERE client = ?1 AND sequence = ?2";
    let kept: Option<Vec<u8>> = connection
        .prepare_cached(sql)
        .and_then(|mut select| {
            select.query_row((session.client.as_ref(), session.sequence), |row| row.get(0)).optional()
        })
        .map_err(Error::sqlite(doing))?;
    match kept {
        Some(answer) => Ok(Standing::Answered(codec::decode_answer(&answer)?)),
        None if session.sequence - answered > UNANSWERED => Ok(Standing::TooFarAhead),
        None => Ok(Standing::New),
    }
}

/// Keeps the answer to a command that was just applied, and drops those that its client needs no more.
pub(super) fn keep(
    connection: &Connection,
    session: &SessionId,
    time_ms: u64,
    answer: &Answer,
) -> rusqlite::Result<()> {
    let client = session.client.as_ref();
    let upsert = "INSERT INTO raft_sessions (client, answered, last_used_ms) VALUES (?1, ?2, ?3)
                  ON CONFLICT (client) DO UPDATE
                  SET answered = max(answered, excluded.answered), last_used_ms = excluded.last_used_ms";
    connection.prepare_cached(upsert)?.execute((client, session.answered, time_ms))?;
    let drop = "DELETE FROM raft_answers WHERE client = ?1 AND sequence <= ?2";
    connection.prepare_cached(drop)?.execute((client, session.answered))?;
    let insert = "INSERT INTO raft_answers (client, sequence, answer) VALUES (?1, ?2, ?3)";
    connection.prepare_cached(insert)?.execute((client, session.sequence, codec::encode_answer(answer).as_ref()))?;
    Ok(())
}
