//! The thread that owns the state machine.

use std::collections::VecDeque;

use crossbeam_channel::{Receiver, Sender};
use raft_core::port::{Capture, SnapshotError, StateMachine};
use raft_core::types::{Entry, EntryId, NodeId, Snapshot};

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

/// What is to be done with the state machine.
pub(super) enum Task<R> {
    Apply(Committed<R>),
    TakeSnapshot,
    Capture { to: NodeId },
    Install(Snapshot),
}

/// A copy of the state for a node, or why there is none.
pub(super) type Captured = Result<Box<dyn Capture>, SnapshotError>;

/// Does what the core says, in its order: applies what is committed, many entries in one transaction, and answers those who wait as soon as that is
/// done; takes, copies and installs snapshots in between.
pub(super) struct Applier<S: StateMachine> {
    pub(super) state_machine: S,
    pub(super) work: Receiver<Vec<Task<S::Response>>>,
    pub(super) completions: Sender<Completion>,
    pub(super) stop: Stop,
    pub(super) max_entries: usize,
    pub(super) max_bytes: u64,
    pub(super) queue: VecDeque<Task<S::Response>>,
}

/// The entries of one transaction, and who waits for each.
struct Batch<R> {
    entries: Vec<Entry>,
    waiters: Vec<Waiter<R>>,
    bytes: u64,
}

impl<S: StateMachine> Applier<S> {
    /// Works until the driver is gone. Whoever still waits then learns it by the drop of the queue.
    pub(super) fn run(mut self) -> Result<(), Ended> {
        while self.gather() {
            let Some(task) = self.queue.pop_front() else { continue };
            let completion = match task {
                Task::Apply(first) => self.apply(first),
                Task::TakeSnapshot => {
                    self.state_machine.take_snapshot().map(|last| Completion::SnapshotTaken(last.index))
                }
                Task::Capture { to } => Ok(Completion::Captured { to, capture: self.capture() }),
                Task::Install(snapshot) => self.install(&snapshot),
            };
            let completion = completion.map_err(|error| Ended::StateMachine(Box::new(error)))?;
            // The driver may have ended meanwhile; then nobody needs to know.
            let _ = self.completions.send(completion);
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

    fn apply(&mut self, first: Committed<S::Response>) -> Result<Completion, S::Error> {
        let Batch { entries, waiters, .. } = self.batch(first);
        let responses = self.state_machine.apply(&entries)?;
        assert_eq!(responses.len(), entries.len(), "a state machine returns one response for each entry");
        let mut last = EntryId::ZERO;
        for ((entry, waiter), response) in entries.iter().zip(waiters).zip(responses) {
            answer(entry.id, waiter, response);
            last = entry.id;
        }
        Ok(Completion::Applied(last.index))
    }

    /// The entries of the next transaction: `first`, and those right behind it as far as the limits allow.
    fn batch(&mut self, first: Committed<S::Response>) -> Batch<S::Response> {
        let mut batch = Batch { entries: Vec::new(), waiters: Vec::new(), bytes: 0 };
        batch.add(first);
        while batch.entries.len() < self.max_entries && batch.bytes < self.max_bytes {
            match self.queue.pop_front() {
                Some(Task::Apply(committed)) => batch.add(committed),
                Some(other) => {
                    self.queue.push_front(other);
                    break;
                }
                None => break,
            }
        }
        batch
    }

    /// A copy that fails is no harm to this node. If its store is broken, the next transaction will show it.
    fn capture(&mut self) -> Captured {
        self.state_machine.capture().map_err(Into::into)
    }

    fn install(&mut self, snapshot: &Snapshot) -> Result<Completion, S::Error> {
        self.state_machine.install(snapshot)?;
        Ok(Completion::Applied(snapshot.last.index))
    }
}

impl<R> Batch<R> {
    fn add(&mut self, Committed { entry, waiter }: Committed<R>) {
        self.bytes += entry.size_bytes();
        self.entries.push(entry);
        self.waiters.push(waiter);
    }
}

fn answer<R>(id: EntryId, waiter: Waiter<R>, response: Option<R>) {
    if let Some(promise) = waiter {
        let response = response.expect("a state machine responds to each command");
        promise.answer(Ok(Proposed { id, response }));
    }
}
