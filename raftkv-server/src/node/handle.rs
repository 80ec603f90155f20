//! How a program talks to the node it runs.

use bytes::Bytes;
use crossbeam_channel::Sender;
use raft_core::status::Status;
use raft_core::types::{EntryId, Index};
use tokio::sync::watch;

use super::budget::Budget;
use super::promise::{Outcome, Promise, RequestError};

/// What the driver is asked for.
pub(super) enum Request<R> {
    Propose { command: Bytes, promise: Promise<Proposed<R>> },
    Read { promise: Promise<Index> },
    Shutdown,
}

/// A running node, to talk to. Clones speak to the same node; dropping them all does not stop it.
pub struct Handle<R> {
    pub(super) requests: Sender<Request<R>>,
    pub(super) budget: Budget,
    pub(super) status: watch::Receiver<Status>,
}

/// A command that was committed and applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed<R> {
    /// Where it stands in the log.
    pub id: EntryId,
    /// What the state machine answered.
    pub response: R,
}

impl<R: Send + 'static> Handle<R> {
    /// Replicates a command and returns what the state machine answered, once it is committed and applied here.
    ///
    /// It waits as long as that takes: where the cluster has no majority, for good. Wrap it in a deadline, and call the outcome *unknown* when that
    /// passes: the command may still be applied. A command whose future was dropped before the node came to it is not proposed.
    pub async fn propose(&self, command: Bytes) -> Result<Proposed<R>, RequestError> {
        let (promise, outcome) = self.admit(command.len() as u64)?;
        self.ask(Request::Propose { command, promise });
        answer(outcome).await
    }

    /// Makes a linearizable read possible: returns once this node's state machine has applied all that was acknowledged anywhere before the call.
    /// Read the state afterwards. Returns the index that made it so.
    pub async fn read_index(&self) -> Result<Index, RequestError> {
        let (promise, outcome) = self.admit(0)?;
        self.ask(Request::Read { promise });
        answer(outcome).await
    }

    /// The node as it was within the last tick, or in its last moment if it has stopped.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Follows the node's status: changes of role, term, leader and membership at once, indexes within a tick. Closes when the node has stopped.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Asks the node to stop, and returns at once. It takes no more requests, waits for the outcome of those under way, at most
    /// [`Options::shutdown_grace`](super::Options::shutdown_grace), and ends; [`Running::wait`](super::Running::wait) waits for that.
    pub fn shutdown(&self) {
        self.ask(Request::Shutdown);
    }

    fn admit<T>(&self, bytes: u64) -> Result<(Promise<T>, Outcome<T>), RequestError> {
        self.budget.take(bytes).map(Promise::new).ok_or(RequestError::Overloaded)
    }

    fn ask(&self, request: Request<R>) {
        // Where the node has stopped, the request comes back and is dropped, and so answers its client.
        let _ = self.requests.send(request);
    }
}

/// Waits for a promise's answer, which comes in any case.
async fn answer<T>(outcome: Outcome<T>) -> Result<T, RequestError> {
    outcome.await.unwrap_or(Err(RequestError::Unknown))
}

impl<R> Clone for Handle<R> {
    fn clone(&self) -> Self {
        Self { requests: self.requests.clone(), budget: self.budget.clone(), status: self.status.clone() }
    }
}

impl<R> std::fmt::Debug for Handle<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handle({})", self.status.borrow().id)
    }
}
