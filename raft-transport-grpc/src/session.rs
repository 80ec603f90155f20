//! One connection to a peer, from the moment it is known to be the right one until it breaks.

use std::sync::Arc;

use raft_core::message::Message;
use raft_core::types::{NodeId, ReadToken, Term};
use raftkv_proto::raft::v1::raft_service_client::RaftServiceClient;
use raftkv_proto::raft::v1::{
    AppendEntriesReply, AppendEntriesRequest, ReadIndexRequest, RequestVoteReply, RequestVoteRequest, TimeoutNowRequest,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tracing::debug;

use crate::convert;
use crate::error::Error;
use crate::handshake::Handshake;
use crate::local::Local;

/// Who asks, asks little at a time, so few wait.
const QUEUED_ASKS: usize = 16;
/// More calls that are not for votes are not under way at a time: what comes then is dropped.
const MAX_CALLS: usize = 64;

/// A request that is a call of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    Vote(RequestVoteRequest),
    TimeoutNow(TimeoutNowRequest),
    ReadIndex(ReadIndexRequest),
}

/// Where requests to a connected peer go in. Bounded in messages and in bytes; what finds no room is dropped.
#[derive(Debug)]
pub(crate) struct Outlet {
    asks: mpsc::Sender<Ask>,
    appends: mpsc::Sender<Queued>,
    bytes: Arc<Semaphore>,
}

/// A request that waits for its turn, with its share of the queue's bytes.
#[derive(Debug)]
struct Queued {
    request: AppendEntriesRequest,
    _bytes: OwnedSemaphorePermit,
}

/// A connection whose stream of `AppendEntries` is open.
#[derive(Debug)]
pub(crate) struct Session {
    client: RaftServiceClient<Channel>,
    handshake: Handshake,
    local: Arc<Local>,
    replies: Streaming<AppendEntriesReply>,
    asks: mpsc::Receiver<Ask>,
    /// The vote that is asked for, if any.
    ballot: JoinSet<Result<(RequestVoteRequest, RequestVoteReply), Status>>,
    /// Other calls under way, with what their replies say.
    calls: JoinSet<Result<Option<(Term, Message)>, Error>>,
}

impl Outlet {
    /// Queues a call. Returns whether there was room.
    pub(crate) fn ask(&self, ask: Ask) -> bool {
        self.asks.try_send(ask).is_ok()
    }

    /// Queues a leader's request of `size_bytes`. Returns whether there was room.
    pub(crate) fn append_entries(&self, request: AppendEntriesRequest, size_bytes: usize) -> bool {
        let permits = u32::try_from(size_bytes).unwrap_or(u32::MAX);
        let Ok(bytes) = Arc::clone(&self.bytes).try_acquire_many_owned(permits) else {
            return false;
        };
        self.appends.try_send(Queued { request, _bytes: bytes }).is_ok()
    }
}

impl Session {
    /// Opens the stream over a connection to a peer that has been checked.
    pub(crate) async fn open(
        mut client: RaftServiceClient<Channel>,
        handshake: Handshake,
        local: Arc<Local>,
    ) -> Result<(Self, Outlet), Error> {
        let options = &local.options;
        let (append_sender, appends) = mpsc::channel(options.queue_messages);
        let (ask_sender, asks) = mpsc::channel(QUEUED_ASKS);
        let requests = ReceiverStream::new(appends).map(|queued: Queued| queued.request);
        let call = client.append_entries(handshake.stamp(requests));
        let replies = timeout(options.connect_timeout, call).await??.into_inner();
        let bytes = Arc::new(Semaphore::new(options.queue_bytes.min(Semaphore::MAX_PERMITS)));
        let outlet = Outlet { asks: ask_sender, appends: append_sender, bytes };
        let (ballot, calls) = (JoinSet::new(), JoinSet::new());
        Ok((Self { client, handshake, local, replies, asks, ballot, calls }, outlet))
    }

    /// Carries messages until the connection breaks, and says why it did.
    pub(crate) async fn run(&mut self) -> Error {
        loop {
            let step = tokio::select! {
                // The end of the stream is seen first: a channel reconnects by itself, and whoever is there then is unchecked.
                biased;
                reply = self.replies.message() => self.take_append_reply(reply),
                Some(done) = self.ballot.join_next() => match done {
                    Ok(result) => self.take_ballot(result),
                    Err(_cancelled) => Ok(()),
                },
                Some(done) = self.calls.join_next() => match done {
                    Ok(result) => self.take_answer(result),
                    Err(_cancelled) => Ok(()),
                },
                Some(ask) = self.asks.recv() => {
                    self.ask(ask);
                    Ok(())
                }
            };
            if let Err(error) = step {
                return error;
            }
        }
    }

    fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Vote(request) => self.ask_for_vote(request),
            _ if self.calls.len() >= MAX_CALLS => debug!(peer = %self.peer(), "a call was dropped: too many wait"),
            Ask::TimeoutNow(request) => self.ask_to_stand(request),
            Ask::ReadIndex(request) => self.ask_about_read(request),
        }
    }

    /// Calls `TimeoutNow`.
    fn ask_to_stand(&mut self, request: TimeoutNowRequest) {
        let (mut client, limit) = (self.client.clone(), self.local.options.vote_timeout);
        let call = self.handshake.stamp(request);
        self.calls.spawn(async move {
            timeout(limit, client.timeout_now(call)).await??;
            Ok(None)
        });
    }

    /// Calls `ReadIndex`. Many may be under way: each token is a question of its own.
    fn ask_about_read(&mut self, request: ReadIndexRequest) {
        let (mut client, limit) = (self.client.clone(), self.local.options.vote_timeout);
        let call = self.handshake.stamp(request);
        self.calls.spawn(async move {
            let reply = timeout(limit, client.read_index(call)).await??.into_inner();
            Ok(Some(convert::read_reply_from_wire(ReadToken(request.token), reply)?))
        });
    }

    fn take_answer(&mut self, result: Result<Option<(Term, Message)>, Error>) -> Result<(), Error> {
        match result {
            Ok(None) => Ok(()),
            Ok(Some((term, message))) => {
                self.local.deliver(self.peer(), term, message);
                Ok(())
            }
            Err(error) if error.needs_operator() => Err(error),
            // Nothing unusual; a broken connection ends the stream as well.
            Err(error) => {
                debug!(peer = %self.peer(), "no answer: {error}");
                Ok(())
            }
        }
    }

    /// Calls `RequestVote`. An earlier call that is still unanswered is cancelled: the candidate has moved on.
    fn ask_for_vote(&mut self, request: RequestVoteRequest) {
        self.ballot.abort_all();
        let mut client = self.client.clone();
        let call = self.handshake.stamp(request);
        let limit = self.local.options.vote_timeout;
        self.ballot.spawn(async move {
            let reply = timeout(limit, client.request_vote(call)).await;
            let reply = reply.map_err(|_| Status::deadline_exceeded("no vote in time"))??;
            Ok((request, reply.into_inner()))
        });
    }

    fn take_ballot(&mut self, result: Result<(RequestVoteRequest, RequestVoteReply), Status>) -> Result<(), Error> {
        match result {
            Ok((request, reply)) => {
                let (term, message) = convert::vote_reply_from_wire(&request, reply)?;
                self.local.deliver(self.peer(), term, message);
                Ok(())
            }
            Err(status) if status.code() == Code::FailedPrecondition => Err(status.into()),
            // An unanswered vote is nothing unusual; a broken connection ends the stream as well.
            Err(status) => {
                debug!(peer = %self.peer(), code = ?status.code(), "no vote: {}", status.message());
                Ok(())
            }
        }
    }

    fn take_append_reply(&mut self, reply: Result<Option<AppendEntriesReply>, Status>) -> Result<(), Error> {
        let reply = reply?.ok_or(Error::Closed)?;
        let (term, message) = convert::append_reply_from_wire(reply)?;
        self.local.deliver(self.peer(), term, message);
        Ok(())
    }

    fn peer(&self) -> NodeId {
        self.handshake.to
    }
}
