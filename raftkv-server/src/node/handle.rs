//! How a program talks to the node it runs.

use bytes::Bytes;
use crossbeam_channel::Sender;
use raft_core::membership::{Membership, MembershipChange};
use raft_core::status::Status;
use raft_core::types::{EntryId, Index, NodeId};
use tokio::sync::watch;

use super::budget::Budget;
use super::promise::{Outcome, Promise, RequestError};

/// What the driver is asked for.
pub(super) enum Request<R> {
    Propose { command: Bytes, promise: Promise<Proposed<R>> },
    Read { confirmation: Confirmation, promise: Promise<Index> },
    ChangeMembership { change: MembershipChange, promise: Promise<Changed> },
    LeaveJoint { promise: Promise<Changed> },
    TransferLeadership { to: NodeId, promise: Promise<()> },
    StepDown { promise: Promise<()> },
    Campaign,
    Shutdown,
}

/// How a read is confirmed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Confirmation {
    Quorum,
    Lease,
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

/// A membership change that is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The entry that completed it.
    pub id: EntryId,
    /// The membership that it led to.
    pub membership: Membership,
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
    /// Read the state afterwards. Returns the index that made it so. Followers and learners ask their leader for it.
    pub async fn read_index(&self) -> Result<Index, RequestError> {
        self.request(|promise| Request::Read { confirmation: Confirmation::Quorum, promise }).await
    }

    /// As [`read_index`](Self::read_index), and on a leader without asking its followers where
    /// [`Config::lease`](raft_core::config::Config::lease) allows it: faster, and right only as long as clocks run as that says.
    pub async fn lease_read(&self) -> Result<Index, RequestError> {
        self.request(|promise| Request::Read { confirmation: Confirmation::Lease, promise }).await
    }

    /// Changes the membership, on the leader, and returns once the change is committed: if it went through a joint configuration, that too was left, unless
    /// the change is to stay joint. One change at a time.
    ///
    /// [`RequestError::Unknown`] where this node lost leadership meanwhile: look at the membership of the next leader.
    pub async fn change_membership(&self, change: MembershipChange) -> Result<Changed, RequestError> {
        self.request(|promise| Request::ChangeMembership { change, promise }).await
    }

    /// Leaves a joint configuration that was entered to stay, and returns once that is committed. Errors as
    /// [`change_membership`](Self::change_membership).
    pub async fn leave_joint(&self) -> Result<Changed, RequestError> {
        self.request(|promise| Request::LeaveJoint { promise }).await
    }

    /// Hands leadership to `to`, a voter, and returns once this node does not lead any more; within an election timeout in any case. Meanwhile it
    /// refuses commands, by [`RequestError::Transferring`].
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<(), RequestError> {
        self.request(|promise| Request::TransferLeadership { to, promise }).await
    }

    /// Stops leading, at once and without a successor.
    pub async fn step_down(&self) -> Result<(), RequestError> {
        self.request(|promise| Request::StepDown { promise }).await
    }

    /// Asks the other nodes now whether they would elect this one, as if its election timeout had passed, and returns at once; the status tells what comes of
    /// it. Does nothing on a leader, or on a node that may not stand.
    pub fn campaign(&self) {
        self.ask(Request::Campaign);
    }

    /// The node as it was within the last tick, or in its last moment if it has stopped.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Follows the node's status: changes of role, term, leader and membership at once, indexes within a tick. Closes when the node has stopped.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Asks the node to stop, and returns at once. It takes no more requests; a leader tries to hand over to the voter that is furthest, for an
    /// election timeout at the most; then it waits for the outcome of the requests under way, at most
    /// [`Options::shutdown_grace`](super::Options::shutdown_grace) in all, and ends. [`Running::wait`](super::Running::wait) waits for that.
    pub fn shutdown(&self) {
        self.ask(Request::Shutdown);
    }

    async fn request<T>(&self, request: impl FnOnce(Promise<T>) -> Request<R>) -> Result<T, RequestError> {
        let (promise, outcome) = self.admit(0)?;
        self.ask(request(promise));
        answer(outcome).await
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
