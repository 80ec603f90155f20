//! The thread that applies committed entries.

use std::collections::VecDeque;

use crossbeam_channel::{Receiver, Sender};
use raft_core::port::StateMachine;
use raft_core::types::{Entry, EntryId};

use super::handle::Proposed;
use super::promise::Promise;
use super::running::{Completion, Ended, Stop};

/// Who waits for an entry here; nobody, where another node proposed it.
type Waiter<R> = Option<Promise<Proposed<R>>>;

/// An entry to apply, and who waits for it.
pub(super) struct Committed<R> {
    pub(super) entry: Entry,
    pub(super) waiter: Waiter<R>,
}

/// Applies what the core says is committed, many entries in one transaction, and answers those who wait as soon as that is done.
pub(super) struct Applier<S: StateMachine> {
    pub(super) state_machine: S,
    pub(super) work: Receiver<Vec<Committed<S::Response>>>,
    pub(super) completions: Sender<Completion>,
    pub(super) stop: Stop,
    pub(super) max_entries: usize,
    pub(super) max_bytes: u64,
    pub(super) queue: VecDeque<Committed<S::Response>>,
}

impl<S: StateMachine> Applier<S> {
    /// Applies until the driver is gone. Whoever still waits then learns it by the drop of the queue.
    pub(super) fn run(mut self) -> Result<(), Ended> {
        while self.gather() {
            let (entries, waiters) = self.next_batch();
            let responses = self.state_machine.apply(&entries).map_err(|error| Ended::StateMachine(Box::new(error)))?;
            assert_eq!(responses.len(), entries.len(), "a state machine returns one response for each entry");
            for ((entry, waiter), response) in entries.iter().zip(waiters).zip(responses) {
                answer(entry.id, waiter, response);
            }
            if let Some(last) = entries.last() {
                // The driver may have ended meanwhile; then nobody needs to know.
                let _ = self.completions.send(Completion::Applied(last.id.index));
            }
        }
        Ok(())
    }

    /// Waits for work; false when there shall be no more.
    fn gather(&mut self) -> bool {
        if self.queue.is_empty() {
            match self.work.recv() {
                Ok(work) => self.queue.extend(work),
                Err(_) => return false,
            }
        }
        self.queue.extend(self.work.try_iter().flatten());
        !self.stop.is_set()
    }

    /// The entries of the next transaction: at least one, and no more than the limits allow.
    fn next_batch(&mut self) -> (Vec<Entry>, Vec<Waiter<S::Response>>) {
        let (mut entries, mut waiters, mut bytes) = (Vec::new(), Vec::new(), 0);
        while entries.len() < self.max_entries && bytes < self.max_bytes {
            let Some(Committed { entry, waiter }) = self.queue.pop_front() else { break };
            bytes += entry.size_bytes();
            entries.push(entry);
            waiters.push(waiter);
        }
        (entries, waiters)
    }
}

fn answer<R>(id: EntryId, waiter: Waiter<R>, response: Option<R>) {
    if let Some(promise) = waiter {
        let response = response.expect("a state machine responds to each command");
        promise.answer(Ok(Proposed { id, response }));
    }
}
