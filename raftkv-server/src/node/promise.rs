//! The answer that a client waits for, or why there is none.

use raft_core::effect::Refusal;
use raft_core::types::NodeId;
use tokio::sync::oneshot;

use super::budget::Permit;

/// Why a request has no answer. Each says whether a command can have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// This node does not lead. The command was not proposed; ask the leader.
    #[error("this node is not the leader{}", leader.map(|id| format!("; {id} is")).unwrap_or_default())]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Too much waits already. Nothing was done; try again a little later.
    #[error("this node has too many requests waiting; try again later")]
    Overloaded,
    /// Another entry took the command's place: it certainly was not and will not be applied.
    #[error("the command was lost in a change of leader and will not be applied; propose it again")]
    Lost,
    /// The node stopped before the outcome was known, or got a snapshot in place of the entry, or is no member any more, or does not lead the membership
    /// change any more: the request may or may not take effect.
    #[error("the outcome is not known: the request may or may not take effect")]
    Unknown,
    /// The node has stopped. Nothing was done.
    #[error("this node has stopped; nothing was done")]
    Stopped,
    /// This node is handing leadership over. Nothing was done; try again in a moment, there or here.
    #[error("leadership is being handed over; nothing was done, try again in a moment")]
    Transferring,
    /// Leadership was to be handed over, and the successor did not take it in time: this node still leads, as before.
    #[error("the successor did not take over in time; this node leads on")]
    TransferTimedOut,
    /// Leadership can't go to this node, which is not another voter of the cluster. Nothing was done.
    #[error("{0} can't take over leadership: it is not another voter of this cluster")]
    NoSuccessor(NodeId),
    /// The core would not take it, for another reason: a membership change that makes no sense, or not now. Nothing was done.
    #[error("refused, and nothing was done: {0}")]
    Refused(Refusal),
}

impl RequestError {
    pub(super) fn of_refusal(reason: Refusal, leader: Option<NodeId>) -> Self {
        match reason {
            Refusal::NotLeader | Refusal::LeadershipLost => Self::NotLeader { leader },
            Refusal::Overloaded => Self::Overloaded,
            Refusal::Transferring => Self::Transferring,
            Refusal::TransferTimedOut => Self::TransferTimedOut,
            Refusal::NoSuccessor(id) => Self::NoSuccessor(id),
            other => Self::Refused(other),
        }
    }
}

/// What a client waits for.
pub(super) type Outcome<T> = oneshot::Receiver<Result<T, RequestError>>;

/// A request's one answer. Dropping it is an answer too, so whatever ends the node, nobody is left waiting or told a falsehood.
#[derive(Debug)]
pub(super) struct Promise<T> {
    /// There until it is answered.
    reply: Option<oneshot::Sender<Result<T, RequestError>>>,
    /// What is true if nothing more becomes of the request.
    if_dropped: RequestError,
    /// The request's share of what may wait, there until it is answered.
    permit: Option<Permit>,
}

impl<T> Promise<T> {
    /// A promise and where its answer arrives. So far, nothing has been done.
    pub(super) fn new(permit: Permit) -> (Self, Outcome<T>) {
        let (reply, outcome) = oneshot::channel();
        (Self { reply: Some(reply), if_dropped: RequestError::Stopped, permit: Some(permit) }, outcome)
    }

    /// From here on the request may take effect without this node's knowing.
    pub(super) fn comes_in_doubt(&mut self) {
        self.if_dropped = RequestError::Unknown;
    }

    /// Whether nobody waits any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Answers.
    pub(super) fn answer(mut self, answer: Result<T, RequestError>) {
        self.send(answer);
    }

    fn send(&mut self, answer: Result<T, RequestError>) {
        if let Some(reply) = self.reply.take() {
            // First, so that a client who has its answer finds its place free.
            self.permit = None;
            // It fails where the client is gone, and then there is nobody to tell.
            let _ = reply.send(answer);
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.send(Err(self.if_dropped));
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::*;

    #[test]
    fn a_dropped_promise_says_what_is_true() {
        let budget = Budget::new(2, 10);
        let (untouched, mut first) = Promise::<()>::new(budget.take(1).unwrap());
        let (mut proposed, mut second) = Promise::<()>::new(budget.take(1).unwrap());
        proposed.comes_in_doubt();
        drop((untouched, proposed));
        assert_eq!(first.try_recv().unwrap(), Err(RequestError::Stopped));
        assert_eq!(second.try_recv().unwrap(), Err(RequestError::Unknown));
        assert!(budget.is_unused());
    }

    #[test]
    fn a_promise_knows_that_its_client_is_gone() {
        let budget = Budget::new(1, 10);
        let (promise, outcome) = Promise::<()>::new(budget.take(1).unwrap());
        assert!(!promise.is_abandoned());
        drop(outcome);
        assert!(promise.is_abandoned());
        promise.answer(Ok(()));
        assert!(budget.is_unused());
    }
}
