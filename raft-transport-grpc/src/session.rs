//! One connection to a peer, from the moment it is known to be the right one until it breaks.

use std::sync::Arc;

use raft_core::types::NodeId;
use raftkv_proto::raft::v1::raft_service_client::RaftServiceClient;
use raftkv_proto::raft::v1::{AppendEntriesReply, AppendEntriesRequest, RequestVoteReply, RequestVoteRequest};
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

/// Candidates ask one question at a time, so few wait.
const QUEUED_BALLOTS: usize = 8;

/// Where requests to a connected peer go in. Bounded in messages and in bytes; what finds no room is dropped.
#[derive(Debug)]
pub(crate) struct Outlet {
    ballots: mpsc::Sender<RequestVoteRequest>,
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
    ballots: mpsc::Receiver<RequestVoteRequest>,
    /// The call under way, if any.
    ballot: JoinSet<Result<(RequestVoteRequest, RequestVoteReply), Status>>,
}

impl Outlet {
    /// Queues a candidate's request. Returns whether there was room.
    pub(crate) fn request_vote(&self, request: RequestVoteRequest) -> bool {
        self.ballots.try_send(request).is_ok()
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
        let (ballot_sender, ballots) = mpsc::channel(QUEUED_BALLOTS);
        let requests = ReceiverStream::new(appends).map(|queued: Queued| queued.request);
        let call = client.append_entries(handshake.stamp(requests));
        let replies = timeout(options.connect_timeout, call).await??.into_inner();
        let bytes = Arc::new(Semaphore::new(options.queue_bytes.min(Semaphore::MAX_PERMITS)));
        let outlet = Outlet { ballots: ballot_sender, appends: append_sender, bytes };
        Ok((Self { client, handshake, local, replies, ballots, ballot: JoinSet::new() }, outlet))
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
                Some(request) = self.ballots.recv() => {
                    self.ask_for_vote(request);
                    Ok(())
                }
            };
            if let Err(error) = step {
                return error;
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
