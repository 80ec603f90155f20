//! Calls of peers that wait for the core's answer. The core's replies are messages of their own; this finds the call
//! that each of them answers.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_core::types::{Identity, Incarnation, NodeId, ReadToken, Term};
use raftkv_proto::raft::v1::{AppendEntriesReply, ReadIndexReply, RequestVoteReply};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// The replies to a peer's `AppendEntries`, as its stream carries them.
pub(crate) type Replies = ReceiverStream<Result<AppendEntriesReply, Status>>;

/// More questions about reads of one peer do not wait.
const MAX_READS: usize = 256;

/// The two kinds of election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ballot {
    /// Would you vote for me?
    PreVote,
    /// Vote for me.
    Vote,
}

/// All calls that wait. One vote of a kind and one stream a peer: a newer one takes the place of an older one.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    closed: bool,
    last_ticket: u64,
    votes: BTreeMap<(NodeId, Ballot), PendingVote>,
    reads: BTreeMap<(NodeId, ReadToken), PendingRead>,
    streams: BTreeMap<NodeId, PendingStream>,
    snapshot: Option<PendingSnapshot>,
}

#[derive(Debug)]
struct PendingVote {
    ticket: u64,
    incarnation: Incarnation,
    /// The term of the request.
    term: Term,
    reply: oneshot::Sender<RequestVoteReply>,
}

#[derive(Debug)]
struct PendingRead {
    incarnation: Incarnation,
    reply: oneshot::Sender<ReadIndexReply>,
}

/// The snapshot that is being received, if that is not over.
#[derive(Debug)]
struct PendingSnapshot {
    from: Identity,
    /// Dropped to end it.
    _reader: oneshot::Sender<Infallible>,
}

#[derive(Debug)]
struct PendingStream {
    ticket: u64,
    incarnation: Incarnation,
    replies: mpsc::Sender<Result<AppendEntriesReply, Status>>,
    /// Dropped with the stream, which tells its reader to stop.
    _reader: oneshot::Sender<Infallible>,
}

/// A peer's request for a vote that waits for its reply. Dropping it gives the place up.
#[derive(Debug)]
pub(crate) struct VoteCall {
    inbound: Arc<Inbound>,
    place: (NodeId, Ballot),
    ticket: u64,
    reply: oneshot::Receiver<RequestVoteReply>,
}

/// A peer's stream, seen from the side that reads its requests.
#[derive(Debug)]
pub(crate) struct OpenStream {
    /// Names the stream in [`Inbound::end_stream`].
    pub(crate) ticket: u64,
    /// What is sent back to the peer.
    pub(crate) replies: Replies,
    /// Resolves when the stream is over and nothing more may be read from it.
    pub(crate) over: oneshot::Receiver<Infallible>,
}

impl Inbound {
    /// Takes the place for the reply to a request for a vote. Fails if a request of a newer term waits, or after the end.
    pub(crate) fn await_vote(
        self: &Arc<Self>,
        from: &Identity,
        ballot: Ballot,
        term: Term,
    ) -> Result<VoteCall, Status> {
        let mut calls = self.calls();
        let ticket = calls.next_ticket()?;
        let place = (from.node, ballot);
        if calls.votes.get(&place).is_some_and(|pending| pending.term > term) {
            return Err(superseded());
        }
        let (sender, reply) = oneshot::channel();
        calls.votes.insert(place, PendingVote { ticket, incarnation: from.incarnation, term, reply: sender });
        Ok(VoteCall { inbound: Arc::clone(self), place, ticket, reply })
    }

    /// Answers the vote that waits. Returns whether there was one: it may have been given up, or be of a later term.
    pub(crate) fn answer_vote(&self, to: NodeId, reply: RequestVoteReply) -> bool {
        // A voter whose term is above the candidate's says so in its reply.
        self.answer((to, Ballot::Vote), reply, |asked| Term(reply.term) >= asked)
    }

    /// Answers the pre-vote that waits, if it is the one of the reply's `pre_vote_term`. Returns whether it was.
    pub(crate) fn answer_pre_vote(&self, to: NodeId, reply: RequestVoteReply) -> bool {
        self.answer((to, Ballot::PreVote), reply, |asked| Term(reply.pre_vote_term) == asked)
    }

    fn answer(&self, place: (NodeId, Ballot), reply: RequestVoteReply, fits: impl Fn(Term) -> bool) -> bool {
        match self.calls().votes.entry(place) {
            Entry::Occupied(pending) if fits(pending.get().term) => pending.remove().reply.send(reply).is_ok(),
            _ => false,
        }
    }

    /// Takes the place for the answer about a read. Fails if too many of the same peer wait, or after the end. A question that is repeated takes
    /// the place of the earlier one.
    pub(crate) fn await_read(
        &self,
        from: &Identity,
        token: ReadToken,
    ) -> Result<oneshot::Receiver<ReadIndexReply>, Status> {
        let mut calls = self.calls();
        calls.next_ticket()?;
        calls.reads.retain(|_, pending| !pending.reply.is_closed());
        if calls.reads.keys().filter(|(node, _)| *node == from.node).count() >= MAX_READS {
            return Err(Status::resource_exhausted("too many questions about reads wait already"));
        }
        let (reply, receiver) = oneshot::channel();
        calls.reads.insert((from.node, token), PendingRead { incarnation: from.incarnation, reply });
        Ok(receiver)
    }

    /// Answers the question about a read. Returns whether it waited.
    pub(crate) fn answer_read(&self, to: NodeId, reply: ReadIndexReply) -> bool {
        let pending = self.calls().reads.remove(&(to, ReadToken(reply.token)));
        pending.is_some_and(|pending| pending.reply.send(reply).is_ok())
    }

    /// Makes this the snapshot that is received. What this returns resolves when it must end: when another begins, or its sender is not who it was.
    pub(crate) fn open_snapshot(&self, from: Identity) -> Result<oneshot::Receiver<Infallible>, Status> {
        let mut calls = self.calls();
        calls.next_ticket()?;
        let (reader, over) = oneshot::channel();
        calls.snapshot = Some(PendingSnapshot { from, _reader: reader });
        Ok(over)
    }

    /// Makes a new stream the one that replies to this peer go to, of which at most `capacity` wait. The older one ends.
    pub(crate) fn open_stream(&self, from: &Identity, capacity: usize) -> Result<OpenStream, Status> {
        let mut calls = self.calls();
        let ticket = calls.next_ticket()?;
        let (replies, receiver) = mpsc::channel(capacity);
        let (reader, over) = oneshot::channel();
        let stream = PendingStream { ticket, incarnation: from.incarnation, replies, _reader: reader };
        if let Some(older) = calls.streams.insert(from.node, stream) {
            older.end(Some(superseded()));
        }
        Ok(OpenStream { ticket, replies: ReceiverStream::new(receiver), over })
    }

    /// Sends a reply to a peer's `AppendEntries`. Returns whether there was a stream with room.
    pub(crate) fn answer_append(&self, to: NodeId, reply: AppendEntriesReply) -> bool {
        self.calls().streams.get(&to).is_some_and(|stream| stream.replies.try_send(Ok(reply)).is_ok())
    }

    /// Ends the stream of this ticket, unless a newer one has ended it.
    pub(crate) fn end_stream(&self, from: NodeId, ticket: u64, status: Option<Status>) {
        if let Entry::Occupied(stream) = self.calls().streams.entry(from)
            && stream.get().ticket == ticket
        {
            stream.remove().end(status);
        }
    }

    /// Ends all calls of nodes that are no longer who they were.
    pub(crate) fn retain(&self, keep: impl Fn(NodeId, Incarnation) -> bool) {
        let mut calls = self.calls();
        calls.votes.retain(|(id, _), vote| keep(*id, vote.incarnation));
        calls.reads.retain(|(id, _), read| keep(*id, read.incarnation));
        calls.streams.retain(|id, stream| keep(*id, stream.incarnation));
        calls.snapshot.take_if(|snapshot| !keep(snapshot.from.node, snapshot.from.incarnation));
    }

    /// Ends everything, and refuses what comes later.
    pub(crate) fn close(&self) {
        *self.calls() = Calls { closed: true, ..Calls::default() };
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    fn next_ticket(&mut self) -> Result<u64, Status> {
        if self.closed {
            return Err(Status::unavailable("this node is stopping"));
        }
        self.last_ticket += 1;
        Ok(self.last_ticket)
    }
}

impl PendingStream {
    fn end(self, status: Option<Status>) {
        if let Some(status) = status {
            // Without room for it the stream ends all the same, with no reason given.
            let _ = self.replies.try_send(Err(status));
        }
    }
}

impl VoteCall {
    /// Waits for the reply. Fails if a newer request takes the place.
    pub(crate) async fn reply(&mut self) -> Result<RequestVoteReply, Status> {
        (&mut self.reply).await.map_err(|_| superseded())
    }
}

impl Drop for VoteCall {
    fn drop(&mut self) {
        if let Entry::Occupied(pending) = self.inbound.calls().votes.entry(self.place)
            && pending.get().ticket == self.ticket
        {
            pending.remove();
        }
    }
}

pub(crate) fn superseded() -> Status {
    Status::aborted("superseded by a newer call of the same node")
}

#[cfg(test)]
mod tests {
    use raft_core::types::ClusterId;
    use tokio_stream::StreamExt;
    use tonic::Code;

    use super::*;

    const PEER: NodeId = NodeId(2);

    fn vote(term: u64) -> RequestVoteReply {
        RequestVoteReply { term, granted: true, pre_vote_term: 0 }
    }

    fn pre_vote(term: u64, pre_vote_term: u64) -> RequestVoteReply {
        RequestVoteReply { term, granted: true, pre_vote_term }
    }

    fn append(term: u64) -> AppendEntriesReply {
        AppendEntriesReply { term, round: 0, result: None }
    }

    fn peer(incarnation: u64) -> Identity {
        Identity { cluster: ClusterId(1), node: PEER, incarnation: Incarnation(incarnation) }
    }

    #[tokio::test]
    async fn a_vote_waits_for_a_reply_of_its_term_or_a_later_one() {
        let inbound = Arc::new(Inbound::default());
        let mut call = inbound.await_vote(&peer(1), Ballot::Vote, Term(5)).unwrap();
        assert!(!inbound.answer_vote(PEER, vote(4)), "the reply to an earlier request");
        assert!(!inbound.answer_vote(NodeId(3), vote(5)), "another candidate's");
        assert!(!inbound.answer_pre_vote(PEER, pre_vote(5, 5)), "another kind");
        assert!(inbound.answer_vote(PEER, vote(7)));
        assert_eq!(call.reply().await.unwrap(), vote(7));
        assert!(!inbound.answer_vote(PEER, vote(7)), "it is answered once");
    }

    #[tokio::test]
    async fn a_pre_vote_waits_for_the_reply_that_names_its_term() {
        let inbound = Arc::new(Inbound::default());
        let mut call = inbound.await_vote(&peer(1), Ballot::PreVote, Term(5)).unwrap();
        assert!(!inbound.answer_pre_vote(PEER, pre_vote(9, 4)));
        assert!(inbound.answer_pre_vote(PEER, pre_vote(3, 5)), "the voter's own term may be lower");
        assert_eq!(call.reply().await.unwrap(), pre_vote(3, 5));
    }

    #[tokio::test]
    async fn a_newer_request_takes_the_place_of_an_older_one() {
        let inbound = Arc::new(Inbound::default());
        let mut older = inbound.await_vote(&peer(1), Ballot::Vote, Term(5)).unwrap();
        let mut newer = inbound.await_vote(&peer(1), Ballot::Vote, Term(6)).unwrap();
        assert_eq!(older.reply().await.unwrap_err().code(), Code::Aborted);
        drop(older);
        assert_eq!(inbound.await_vote(&peer(1), Ballot::Vote, Term(5)).unwrap_err().code(), Code::Aborted);
        assert!(inbound.answer_vote(PEER, vote(6)), "giving the older up does not give the newer up");
        assert_eq!(newer.reply().await.unwrap(), vote(6));
    }

    #[test]
    fn a_call_that_is_given_up_leaves_nothing_behind() {
        let inbound = Arc::new(Inbound::default());
        drop(inbound.await_vote(&peer(1), Ballot::Vote, Term(5)).unwrap());
        assert!(inbound.calls().votes.is_empty());
        assert!(!inbound.answer_vote(PEER, vote(5)));
    }

    #[tokio::test]
    async fn replies_go_to_the_newest_stream() {
        let inbound = Inbound::default();
        assert!(!inbound.answer_append(PEER, append(1)), "there is no stream");
        let mut older = inbound.open_stream(&peer(1), 2).unwrap();
        assert!(inbound.answer_append(PEER, append(1)));
        let mut newer = inbound.open_stream(&peer(1), 2).unwrap();
        assert!(inbound.answer_append(PEER, append(2)));
        assert_eq!(older.replies.next().await.unwrap().unwrap(), append(1));
        assert_eq!(older.replies.next().await.unwrap().unwrap_err().code(), Code::Aborted);
        assert!(older.replies.next().await.is_none());
        older.over.await.unwrap_err();
        inbound.end_stream(PEER, older.ticket, None);
        assert!(inbound.answer_append(PEER, append(3)), "the end of the older is not that of the newer");
        assert_eq!(newer.replies.next().await.unwrap().unwrap(), append(2));
    }

    #[tokio::test]
    async fn replies_beyond_the_capacity_are_dropped() {
        let inbound = Inbound::default();
        let mut stream = inbound.open_stream(&peer(1), 2).unwrap();
        let taken = (0..10).filter(|term| inbound.answer_append(PEER, append(*term))).count();
        assert_eq!(taken, 2);
        inbound.end_stream(PEER, stream.ticket, None);
        assert_eq!(stream.replies.next().await.unwrap().unwrap(), append(0));
    }

    #[tokio::test]
    async fn a_replaced_node_loses_its_stream_and_the_end_closes_all() {
        let inbound = Arc::new(Inbound::default());
        let mut replaced = inbound.open_stream(&peer(1), 2).unwrap();
        inbound.retain(|_, incarnation| incarnation == Incarnation(2));
        assert!(replaced.replies.next().await.is_none());
        let mut stream = inbound.open_stream(&peer(2), 2).unwrap();
        inbound.close();
        assert!(stream.replies.next().await.is_none());
        assert_eq!(inbound.open_stream(&peer(2), 2).unwrap_err().code(), Code::Unavailable);
        assert_eq!(inbound.await_vote(&peer(1), Ballot::Vote, Term(1)).unwrap_err().code(), Code::Unavailable);
    }
}
