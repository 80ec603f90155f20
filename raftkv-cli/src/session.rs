//! Who the client is, and which of its writes are settled: what makes a retry apply once.

use crate::error::Error;
use bytes::Bytes;
use raftkv_proto::MAX_UNANSWERED;
use raftkv_proto::raftkv::v1::Session as SessionFields;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;
use tokio::sync::Notify;

/// One client's identity, and the numbers of its writes.
pub(crate) struct Session {
    client_id: Bytes,
    opened_ms: u64,
    sequences: Mutex<Sequences>,
    /// Told whenever a write is settled.
    settled: Notify,
}

impl Session {
    /// A session of a client that nobody else is: its id is 16 random bytes.
    pub(crate) fn new() -> Result<Self, Error> {
        let mut client_id = [0; 16];
        getrandom::fill(&mut client_id).map_err(|error| Error::Config(format!("no random numbers: {error}")))?;
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            client_id: Bytes::copy_from_slice(&client_id),
            opened_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
            sequences: Mutex::default(),
            settled: Notify::new(),
        })
    }

    /// Numbers a new write; it is under way until the ticket is dropped. Waits while too many are.
    pub(crate) async fn begin(&self) -> Ticket<'_> {
        loop {
            // From here on a notice is kept, so none is missed between the look and the wait.
            let settled = self.settled.notified();
            if let Some((sequence, answered)) = self.with(Sequences::begin) {
                let Self { client_id, opened_ms, .. } = self;
                let fields = SessionFields { client_id: client_id.clone(), opened_ms: *opened_ms, sequence, answered };
                return Ticket { session: self, fields };
            }
            settled.await;
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Sequences) -> T) -> T {
        act(&mut self.sequences.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A write under way. All attempts at it carry the same `fields`.
pub(crate) struct Ticket<'a> {
    session: &'a Session,
    pub(crate) fields: SessionFields,
}

impl Drop for Ticket<'_> {
    // Also when the outcome stayed unknown or the caller lost interest: nobody will ask for this answer again.
    fn drop(&mut self) {
        self.session.with(|sequences| sequences.settle(self.fields.sequence));
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
        let session = Session::new().unwrap();
        let mut tickets = Vec::new();
        for _ in 0..MAX_UNANSWERED {
            tickets.push(session.begin().await);
        }
        let settle_the_oldest = async {
            tokio::task::yield_now().await;
            drop(tickets.remove(0));
        };
        let (next, ()) = tokio::join!(session.begin(), settle_the_oldest);
        assert_eq!(next.fields.sequence, MAX_UNANSWERED + 1);
    }

    #[tokio::test]
    async fn a_ticket_settles_when_it_is_dropped() {
        let session = Session::new().unwrap();
        let first = session.begin().await;
        let second = session.begin().await;
        drop(second);
        assert_eq!(session.begin().await.fields.answered, 0);
        drop(first);
        let fields = session.begin().await.fields.clone();
        assert_eq!((fields.sequence, fields.answered), (4, 3));
    }

    #[test]
    fn two_clients_have_two_ids() {
        let (one, other) = (Session::new().unwrap(), Session::new().unwrap());
        assert_eq!(one.client_id.len(), 16);
        assert_ne!(one.client_id, other.client_id);
    }
}
