//! Who the client is, and which of its writes are settled: what makes a retry apply once.

use crate::error::Error;
use bytes::Bytes;
use raftkv_proto::MAX_UNANSWERED;
use raftkv_proto::raftkv::v1::Session as SessionFields;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a session may lie idle before the next write begins another one: far less than what ends it in the cluster.
const IDLE: Duration = Duration::from_secs(5 * 60);

/// The session of a client: one after another, each begun when it is needed.
#[derive(Default)]
pub(crate) struct Session {
    current: Mutex<Option<Identity>>,
    /// Told whenever a write is settled.
    settled: Notify,
}

/// Who the client is during one session, and the numbers of its writes.
struct Identity {
    /// Random, so nobody else has it.
    client_id: Bytes,
    opened_ms: u64,
    sequences: Sequences,
    last_used: Instant,
}

impl Session {
    /// Numbers a new write; it is under way until the ticket is dropped. Waits while too many are.
    pub(crate) async fn begin(&self) -> Result<Ticket<'_>, Error> {
        loop {
            // From here on a notice is kept, so none is missed between the look and the wait.
            let settled = self.settled.notified();
            if let Some(fields) = self.with(begin)? {
                return Ok(Ticket { session: self, fields });
            }
            settled.await;
        }
    }

    /// Lets the next write begin another session than that of `ticket`, which the cluster takes no more. The new one is opened at
    /// `log_time_ms`, the cluster's time, which this client's clock may not agree with.
    pub(crate) fn begin_anew(&self, ticket: &Ticket<'_>, log_time_ms: u64) -> Result<(), Error> {
        self.with(|current| {
            if current.as_ref().is_some_and(|identity| identity.client_id == ticket.fields.client_id) {
                *current = Some(Identity::new(log_time_ms)?);
            }
            Ok(())
        })?;
        // Nobody waits any more for what the old session has under way.
        self.settled.notify_waiters();
        Ok(())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Option<Identity>) -> T) -> T {
        act(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The place of a new write, unless too many are under way.
fn begin(current: &mut Option<Identity>) -> Result<Option<SessionFields>, Error> {
    current.take_if(|identity| identity.is_idle());
    let identity = match current {
        Some(identity) => identity,
        None => current.insert(Identity::new(now_ms())?),
    };
    Ok(identity.begin())
}

impl Identity {
    fn new(opened_ms: u64) -> Result<Self, Error> {
        let mut client_id = [0; 16];
        getrandom::fill(&mut client_id).map_err(|error| Error::Config(format!("no random numbers: {error}")))?;
        let client_id = Bytes::copy_from_slice(&client_id);
        Ok(Self { client_id, opened_ms, sequences: Sequences::default(), last_used: Instant::now() })
    }

    /// Whether nothing is under way, and has not been for long.
    fn is_idle(&self) -> bool {
        self.sequences.answered == self.sequences.last && self.last_used.elapsed() >= IDLE
    }

    fn begin(&mut self) -> Option<SessionFields> {
        let (sequence, answered) = self.sequences.begin()?;
        self.last_used = Instant::now();
        Some(SessionFields { client_id: self.client_id.clone(), opened_ms: self.opened_ms, sequence, answered })
    }
}

/// The wall clock, in milliseconds since 1970.
fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

/// A write under way. All attempts at it carry the same `fields`.
pub(crate) struct Ticket<'a> {
    session: &'a Session,
    pub(crate) fields: SessionFields,
}

impl Drop for Ticket<'_> {
    // Also when the outcome stayed unknown or the caller lost interest: nobody will ask for this answer again.
    fn drop(&mut self) {
        self.session.with(|current| match current {
            Some(identity) if identity.client_id == self.fields.client_id => {
                identity.sequences.settle(self.fields.sequence);
            }
            // Its session has been given up.
            _ => {}
        });
        self.session.settled.notify_waiters();
    }
}

/// The sequences given out, and which of them will never be sent again.
#[derive(Debug, Default)]
struct Sequences {
    /// The sequence given out last; 0 before the first.
    last: u64,
    /// Everything up to here is settled; never above `last`.
    answered: u64,
    /// What is settled beyond a write that is still under way.
    settled: BTreeSet<u64>,
}

impl Sequences {
    /// The next sequence and what is answered, unless that is too far behind.
    fn begin(&mut self) -> Option<(u64, u64)> {
        if self.last - self.answered >= MAX_UNANSWERED {
            return None;
        }
        self.last += 1;
        Some((self.last, self.answered))
    }

    fn settle(&mut self, sequence: u64) {
        self.settled.insert(sequence);
        while self.settled.remove(&(self.answered + 1)) {
            self.answered += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answered_follows_writes_that_settle_in_order() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.begin(), Some((1, 0)));
        sequences.settle(1);
        assert_eq!(sequences.begin(), Some((2, 1)));
        sequences.settle(2);
        assert_eq!(sequences.begin(), Some((3, 2)));
    }

    #[test]
    fn answered_waits_for_the_oldest_write_under_way() {
        let mut sequences = Sequences::default();
        for _ in 0..5 {
            sequences.begin();
        }
        sequences.settle(5);
        sequences.settle(2);
        sequences.settle(3);
        assert_eq!(sequences.answered, 0, "1 is under way");
        sequences.settle(1);
        assert_eq!(sequences.answered, 3, "4 is under way");
        sequences.settle(4);
        assert_eq!(sequences.answered, 5);
        assert!(sequences.settled.is_empty(), "nothing is remembered once all is settled");
    }

    #[test]
    fn no_sequence_runs_too_far_ahead() {
        let mut sequences = Sequences::default();
        while sequences.begin().is_some() {}
        assert_eq!(sequences.last, MAX_UNANSWERED);
        sequences.settle(2);
        assert_eq!(sequences.begin(), None, "1 is under way");
        sequences.settle(1);
        assert_eq!(sequences.begin(), Some((MAX_UNANSWERED + 1, 2)));
    }

    #[tokio::test]
    async fn a_write_too_many_waits_until_the_oldest_is_settled() {
        let session = Session::default();
        let mut tickets = Vec::new();
        for _ in 0..MAX_UNANSWERED {
            tickets.push(session.begin().await.unwrap());
        }
        let settle_the_oldest = async {
            tokio::task::yield_now().await;
            drop(tickets.remove(0));
        };
        let (next, ()) = tokio::join!(session.begin(), settle_the_oldest);
        assert_eq!(next.unwrap().fields.sequence, MAX_UNANSWERED + 1);
    }

    #[tokio::test]
    async fn a_ticket_settles_when_it_is_dropped() {
        let session = Session::default();
        let first = session.begin().await.unwrap();
        let second = session.begin().await.unwrap();
        drop(second);
        assert_eq!(session.begin().await.unwrap().fields.answered, 0);
        drop(first);
        let fields = session.begin().await.unwrap().fields.clone();
        assert_eq!((fields.sequence, fields.answered), (4, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_has_been_idle_for_long_is_followed_by_another() {
        let session = Session::default();
        let mut ids = Vec::new();
        for pause in [Duration::ZERO, IDLE - Duration::from_secs(1), IDLE] {
            tokio::time::advance(pause).await;
            let fields = session.begin().await.unwrap().fields.clone();
            ids.push((fields.client_id, fields.sequence));
        }
        assert_eq!((&ids[0].0, ids[1].1), (&ids[1].0, 2));
        assert_ne!(ids[0].0, ids[2].0);
        assert_eq!((ids[0].0.len(), ids[2].1), (16, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_lasts_while_a_write_is_under_way() {
        let session = Session::default();
        let first = session.begin().await.unwrap();
        tokio::time::advance(2 * IDLE).await;
        assert_eq!(session.begin().await.unwrap().fields.client_id, first.fields.client_id);
    }

    #[tokio::test]
    async fn a_session_that_is_refused_is_given_up_once() {
        let session = Session::default();
        let (one, other) = (session.begin().await.unwrap(), session.begin().await.unwrap());
        session.begin_anew(&one, 7).unwrap();
        let next = session.begin().await.unwrap();
        session.begin_anew(&other, 8).unwrap();
        drop((one, other));
        let last = session.begin().await.unwrap();
        assert_eq!((next.fields.opened_ms, next.fields.sequence), (7, 1));
        assert_eq!((&last.fields.client_id, last.fields.answered), (&next.fields.client_id, 0));
    }

    #[tokio::test]
    async fn two_clients_have_two_ids() {
        let (one, other) = (Session::default(), Session::default());
        assert_ne!(one.begin().await.unwrap().fields.client_id, other.begin().await.unwrap().fields.client_id);
    }
}
