//! Sessions: which commands of a client were applied, and what they answered.
//!
//! # Why no command is applied twice
//!
//! Log time never falls. Let a command of a session be applied at log time `t`; all its copies name the same client, the same
//! `opened_ms` and the same sequence. The session began at some `b <= t`, where `opened_ms < b + SESSION_MS / 2` held, and from then on
//! there is a row of it that says `last_used_ms >= b`. A copy comes later:
//!
//! - While the session is not over, its row is there, and so is the answer, unless the row says that the client needs it no more: the
//!   copy is answered, or refused as forgotten.
//! - The session is over, whether its row is gone or not, once log time is at least
//!   `last_used_ms + SESSION_MS >= b + SESSION_MS > opened_ms + SESSION_MS / 2`. A session begins only where log time is less than
//!   `opened_ms + SESSION_MS / 2`, so this one never begins again: the copy is refused.
//!
//! No clock is part of this. Where those of the client and the leaders are wrong, commands are refused that need not be.

use rusqlite::{Connection, OptionalExtension};

use crate::answer::{Answer, Outcome};
use crate::codec;
use crate::command::SessionId;
use crate::error::Error;
use crate::limits::{EXPIRED, SESSION_MS, SESSIONS, UNANSWERED};
use crate::position::Position;

/// Where a command stands in its session.
pub(super) enum Standing {
    /// It was not applied yet.
    New,
    /// It was applied, and this was the answer.
    Answered(Answer),
    /// It must not be applied now, for this reason.
    Refused(Outcome),
}

/// What is kept of a session besides its answers.
struct Kept {
    /// The client needs no answer up to this one.
    answered: u64,
    /// Log time when a command of it was last applied.
    last_used_ms: u64,
}

impl Kept {
    fn is_over(&self, time_ms: u64) -> bool {
        self.last_used_ms + SESSION_MS <= time_ms
    }
}

pub(super) fn standing(connection: &Connection, session: &SessionId, position: &Position) -> Result<Standing, Error> {
    let kept = find(connection, session).map_err(Error::sqlite("reading a session"))?;
    let refused = match &kept {
        Some(kept) if kept.is_over(position.time_ms) => Some(Outcome::SessionExpired { time_ms: position.time_ms }),
        Some(_) => None,
        None => may_not_begin(session, position),
    };
    if let Some(outcome) = refused {
        return Ok(Standing::Refused(outcome));
    }
    let answered = kept.map_or(0, |kept| kept.answered).max(session.answered);
    if session.sequence <= answered {
        return Ok(Standing::Refused(Outcome::Forgotten));
    }
    match answer(connection, session).map_err(Error::sqlite("reading a kept answer"))? {
        Some(answer) => Ok(Standing::Answered(codec::decode_answer(&answer)?)),
        None if session.sequence - answered > UNANSWERED => Ok(Standing::Refused(Outcome::TooManyUnanswered)),
        None => Ok(Standing::New),
    }
}

/// Why a session that is not known can't begin now, if so.
fn may_not_begin(session: &SessionId, position: &Position) -> Option<Outcome> {
    let Position { time_ms, sessions, .. } = *position;
    let is_too_old = session.opened_ms.saturating_add(SESSION_MS / 2) <= time_ms;
    let is_too_new = session.opened_ms >= time_ms + SESSION_MS / 2;
    if is_too_old || is_too_new {
        return Some(Outcome::SessionExpired { time_ms });
    }
    (sessions >= SESSIONS).then_some(Outcome::TooManySessions)
}

fn find(connection: &Connection, session: &SessionId) -> rusqlite::Result<Option<Kept>> {
    let sql = "SELECT answered, last_used_ms FROM raft_sessions WHERE client = ?1 AND opened_ms = ?2";
    let read = |row: &rusqlite::Row<'_>| Ok(Kept { answered: row.get(0)?, last_used_ms: row.get(1)? });
    connection.prepare_cached(sql)?.query_row((session.client.as_ref(), session.opened_ms), read).optional()
}

fn answer(connection: &Connection, session: &SessionId) -> rusqlite::Result<Option<Vec<u8>>> {
    let sql = "SELECT answer FROM raft_answers WHERE client = ?1 AND opened_ms = ?2 AND sequence = ?3";
    let key = (session.client.as_ref(), session.opened_ms, session.sequence);
    connection.prepare_cached(sql)?.query_row(key, |row| row.get(0)).optional()
}

/// Keeps the answer to a command that was just applied, and drops those that its client needs no more.
pub(super) fn keep(
    connection: &Connection,
    session: &SessionId,
    position: &mut Position,
    answer: &Answer,
) -> rusqlite::Result<()> {
    let SessionId { client, opened_ms, sequence, answered } = session;
    let client = client.as_ref();
    let update = "UPDATE raft_sessions SET answered = max(answered, ?3), last_used_ms = ?4
                  WHERE client = ?1 AND opened_ms = ?2";
    let row = (client, opened_ms, answered, position.time_ms);
    if connection.prepare_cached(update)?.execute(row)? == 0 {
        let begin = "INSERT INTO raft_sessions (client, opened_ms, answered, last_used_ms) VALUES (?1, ?2, ?3, ?4)";
        connection.prepare_cached(begin)?.execute(row)?;
        position.sessions += 1;
    }
    let drop = "DELETE FROM raft_answers WHERE client = ?1 AND opened_ms = ?2 AND sequence <= ?3";
    connection.prepare_cached(drop)?.execute((client, opened_ms, answered))?;
    let insert = "INSERT INTO raft_answers (client, opened_ms, sequence, answer) VALUES (?1, ?2, ?3, ?4)";
    let row = (client, opened_ms, sequence, codec::encode_answer(answer));
    connection.prepare_cached(insert)?.execute((row.0, row.1, row.2, row.3.as_ref()))?;
    Ok(())
}

/// Removes sessions that are over, with their answers: [`EXPIRED`] rows at the most. Returns whether there is more to remove.
///
/// One that is removed in part is over still, so nobody misses its answers.
pub(super) fn expire(connection: &Connection, position: &mut Position) -> rusqlite::Result<bool> {
    let mut room = EXPIRED;
    while let Some((client, opened_ms)) = first_over(connection, position.time_ms)? {
        if room == 0 {
            return Ok(true);
        }
        room -= remove_answers(connection, &client, opened_ms, room)?;
        if room > 0 {
            let remove = "DELETE FROM raft_sessions WHERE client = ?1 AND opened_ms = ?2";
            connection.prepare_cached(remove)?.execute((&client, opened_ms))?;
            position.sessions -= 1;
            room -= 1;
        }
    }
    Ok(false)
}

/// A session that is over.
fn first_over(connection: &Connection, time_ms: u64) -> rusqlite::Result<Option<(Vec<u8>, u64)>> {
    let Some(last_used_ms) = time_ms.checked_sub(SESSION_MS) else { return Ok(None) };
    let sql = "SELECT client, opened_ms FROM raft_sessions WHERE last_used_ms <= ?1 ORDER BY last_used_ms, client, opened_ms LIMIT 1";
    connection.prepare_cached(sql)?.query_row([last_used_ms], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

/// Removes the first of a session's answers, and returns how many.
fn remove_answers(connection: &Connection, client: &[u8], opened_ms: u64, most: usize) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM raft_answers WHERE client = ?1 AND opened_ms = ?2 AND sequence IN (
                   SELECT sequence FROM raft_answers WHERE client = ?1 AND opened_ms = ?2 ORDER BY sequence LIMIT ?3)";
    connection.prepare_cached(sql)?.execute((client, opened_ms, most))
}

/// Log time when the next session is over, if there is one.
pub(crate) fn next_over_ms(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT min(last_used_ms) FROM raft_sessions";
    let last_used_ms: Option<u64> = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    Ok(last_used_ms.map(|last_used_ms| last_used_ms + SESSION_MS))
}
