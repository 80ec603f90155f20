//! The transport port, and the server side of what peers call.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use raft_core::membership::Membership;
use raft_core::message::{Envelope, Message};
use raft_core::port::{Capture, Staging, Transport};
use raft_core::types::{Identity, Incarnation, NodeId, ReadToken, Term};
use raftkv_proto::raft::v1::{
    AppendEntriesReply, AppendEntriesRequest, CompareChecksumsRequest, IdentifyReply, IdentifyRequest,
    InstallSnapshotReply, InstallSnapshotRequest, ReadIndexReply, ReadIndexRequest, RequestVoteReply,
    RequestVoteRequest, StateChecksum, TimeoutNowReply, TimeoutNowRequest,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, error};

use crate::convert::{self, Announced, Malformed};
use crate::destination::{Destination, Reached};
use crate::dial;
use crate::error::Error;
use crate::handshake::{Handshake, Purpose};
use crate::inbound::{Ballot, Inbound, OpenStream, superseded};
use crate::link::{Link, PeerStatus};
use crate::local::Local;
use crate::options::Options;
use crate::outgoing::Outgoing;
use crate::reception::{Incoming, Reception};
use crate::recipient::Recipient;
use crate::session::Ask;

/// More acknowledgements of a snapshot's chunks do not wait to be read.
const SNAPSHOT_REPLIES: usize = 16;

/// The stream of replies that [`GrpcTransport::append_entries`] answers with.
pub type AppendEntriesStream = ReceiverStream<Result<AppendEntriesReply, Status>>;

/// The stream of replies that [`GrpcTransport::install_snapshot`] answers with.
pub type InstallSnapshotStream = ReceiverStream<Result<InstallSnapshotReply, Status>>;

/// Carries the core's messages between this node and its peers. Cloning it is cheap; the last clone ends all connections.
#[derive(Clone, Debug)]
pub struct GrpcTransport {
    inner: Arc<Inner>,
}

struct Inner {
    local: Arc<Local>,
    runtime: Handle,
    links: Mutex<Links>,
    inbound: Arc<Inbound>,
    outgoing: Arc<Outgoing>,
    reception: Arc<Reception>,
}

#[derive(Debug, Default)]
struct Links {
    closed: bool,
    by_peer: BTreeMap<NodeId, Link>,
}

impl GrpcTransport {
    /// The transport of a node that has begun. It connects to nobody before
    /// [`use_membership`](Transport::use_membership).
    ///
    /// `advertised_address` is the `host:port` at which peers reach this node. `recipient` takes what the core must hear, and `staging` is where a
    /// snapshot from a peer is put together.
    pub fn new(
        identity: Identity,
        advertised_address: String,
        options: Options,
        runtime: Handle,
        recipient: impl Recipient,
        staging: Arc<dyn Staging>,
    ) -> Self {
        let local = Arc::new(Local::new(identity, advertised_address, options, Box::new(recipient)));
        let inner = Inner {
            runtime,
            links: Mutex::default(),
            inbound: Arc::default(),
            outgoing: Arc::new(Outgoing::new(Arc::clone(&local))),
            reception: Arc::new(Reception::new(Arc::clone(&local), staging)),
            local,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Says where a peer is, as a flag gives it. What the peer says itself goes before, and the membership after.
    pub fn set_address(&self, peer: NodeId, address: String) {
        self.inner.local.book().give(peer, address);
        self.inner.retry(peer);
    }

    /// How each peer can be reached, in order of id.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.inner.links().by_peer.values().map(Link::status).collect()
    }

    /// Ends all connections, and refuses new ones. To be called before a graceful stop of the server, which waits for
    /// open streams.
    pub fn close(&self) {
        *self.inner.links() = Links { closed: true, ..Links::default() };
        self.inner.outgoing.close();
        self.inner.inbound.close();
    }

    /// Answers a peer's `Identify`, and remembers the address that it states.
    pub async fn identify(&self, request: Request<IdentifyRequest>) -> Result<Response<IdentifyReply>, Status> {
        let handshake = self.inner.check(request.metadata(), Purpose::Identify)?;
        if let Some(caller) = request.into_inner().caller {
            self.inner.note_caller(&handshake, caller);
        }
        Ok(Response::new(self.inner.local.describe()))
    }

    /// Hands a candidate's request to the core, and waits for the core's reply.
    pub async fn request_vote(
        &self,
        request: Request<RequestVoteRequest>,
    ) -> Result<Response<RequestVoteReply>, Status> {
        let inner = &self.inner;
        let from = inner.check(request.metadata(), Purpose::Raft)?.from;
        let request = request.into_inner();
        let refuse = |malformed: Malformed| inner.local.refuse_malformed(from.node, &malformed);
        let (term, message) = convert::vote_request_from_wire(request).map_err(refuse)?;
        let ballot = if request.pre_vote { Ballot::PreVote } else { Ballot::Vote };
        let mut call = inner.inbound.await_vote(&from, ballot, term)?;
        inner.deliver(from.node, term, message)?;
        let reply = timeout(inner.local.options.vote_timeout, call.reply()).await;
        reply.map_err(|_| Status::deadline_exceeded("no vote in time"))?.map(Response::new)
    }

    /// Hands a leader's requests to the core as they come. The core's replies come back on the stream.
    pub async fn append_entries(
        &self,
        request: Request<Streaming<AppendEntriesRequest>>,
    ) -> Result<Response<AppendEntriesStream>, Status> {
        let from = self.inner.check(request.metadata(), Purpose::Raft)?.from;
        let stream = self.inner.inbound.open_stream(&from, self.inner.local.options.queue_messages)?;
        let OpenStream { ticket, replies, over } = stream;
        let (inner, requests) = (Arc::downgrade(&self.inner), request.into_inner());
        self.inner.runtime.spawn(async move {
            tokio::select! {
                biased;
                _ = over => (),
                status = read_requests(from.node, requests, &inner) => {
                    if let Some(inner) = inner.upgrade() {
                        inner.inbound.end_stream(from.node, ticket, status);
                    }
                }
            }
        });
        Ok(Response::new(replies))
    }

    /// Hands a leader's request to the core.
    pub async fn timeout_now(&self, request: Request<TimeoutNowRequest>) -> Result<Response<TimeoutNowReply>, Status> {
        let from = self.inner.check(request.metadata(), Purpose::Raft)?.from.node;
        self.inner.deliver(from, Term(request.into_inner().term), Message::TimeoutNow)?;
        Ok(Response::new(TimeoutNowReply {}))
    }

    /// Hands a follower's question to the core, and waits for the core's answer.
    pub async fn read_index(&self, request: Request<ReadIndexRequest>) -> Result<Response<ReadIndexReply>, Status> {
        let inner = &self.inner;
        let from = inner.check(request.metadata(), Purpose::Raft)?.from;
        let ReadIndexRequest { term, token } = request.into_inner();
        let token = ReadToken(token);
        let reply = inner.inbound.await_read(&from, token)?;
        inner.deliver(from.node, Term(term), Message::ReadIndex { token })?;
        let reply = timeout(inner.local.options.vote_timeout, reply).await;
        let reply = reply.map_err(|_| Status::deadline_exceeded("no answer about the read in time"))?;
        reply.map(Response::new).map_err(|_| superseded())
    }

    /// Who makes a call between nodes, if it fits this one.
    ///
    /// # Errors
    /// If it does not; the log says so as well.
    pub fn caller(&self, metadata: &MetadataMap) -> Result<Identity, Status> {
        self.inner.check(metadata, Purpose::Raft).map(|handshake| handshake.from)
    }

    /// Tells a peer a checksum, and returns what it has at the same entry; or asks for a comparison. One connection, one call, bounded in time.
    ///
    /// # Errors
    /// If the peer can't be reached, or is not who it should be.
    pub async fn compare_checksums(
        &self,
        peer: NodeId,
        checksum: Option<StateChecksum>,
    ) -> Result<Option<StateChecksum>, Error> {
        let Reached { mut client, handshake, .. } =
            self.inner.destination(peer).reach().await.map_err(|(error, _)| error)?;
        let request = CompareChecksumsRequest { checksum };
        let call = client.compare_checksums(handshake.stamp(request));
        Ok(timeout(self.inner.local.options.connect_timeout, call).await??.into_inner().checksum)
    }

    /// Puts the data of a leader's snapshot together, and then hands the message to the core, which replies on `AppendEntries`. A snapshot that
    /// begins later, of whomever, ends this one.
    pub async fn install_snapshot(
        &self,
        request: Request<Streaming<InstallSnapshotRequest>>,
    ) -> Result<Response<InstallSnapshotStream>, Status> {
        let from = self.inner.check(request.metadata(), Purpose::Raft)?.from;
        let over = self.inner.inbound.open_snapshot(from)?;
        let (replies, stream) = mpsc::channel(SNAPSHOT_REPLIES);
        let mut incoming = Incoming { from: from.node, requests: request.into_inner(), replies };
        let reception = Arc::clone(&self.inner.reception);
        self.inner.runtime.spawn(async move {
            let result = tokio::select! {
                biased;
                _ = over => Err(superseded()),
                result = reception.receive(&mut incoming) => result,
            };
            if let Err(status) = result {
                // Without room for it the stream ends all the same, with no reason given.
                let _ = incoming.replies.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Transport for GrpcTransport {
    fn send(&self, envelope: Envelope) {
        let inner = &self.inner;
        let Envelope { from, to, term, message } = envelope;
        assert!(from == inner.local.identity.node, "the core sends in its own name");
        let answered = match message {
            Message::RequestPreVote { last } => {
                let request = convert::pre_vote_request_to_wire(term, last);
                return inner.with_link(to, |link| link.ask(Ask::Vote(request)));
            }
            Message::RequestVote { last, transfer } => {
                let request = convert::vote_request_to_wire(term, last, transfer);
                return inner.with_link(to, |link| link.ask(Ask::Vote(request)));
            }
            Message::TimeoutNow => {
                let request = TimeoutNowRequest { term: term.0 };
                return inner.with_link(to, |link| link.ask(Ask::TimeoutNow(request)));
            }
            Message::ReadIndex { token } => {
                let request = convert::read_request_to_wire(term, token);
                return inner.with_link(to, |link| link.ask(Ask::ReadIndex(request)));
            }
            Message::InstallSnapshot(_) => panic!("a snapshot goes with its data, through send_snapshot"),
            Message::AppendEntries(append) => {
                let request = convert::append_entries_to_wire(term, append);
                return inner.with_link(to, |link| link.append_entries(request));
            }
            Message::RequestPreVoteReply { request_term, granted } => {
                inner.inbound.answer_pre_vote(to, convert::pre_vote_reply_to_wire(term, request_term, granted))
            }
            Message::RequestVoteReply { granted } => {
                inner.inbound.answer_vote(to, convert::vote_reply_to_wire(term, granted))
            }
            Message::AppendEntriesReply(reply) => {
                inner.inbound.answer_append(to, convert::append_reply_to_wire(term, reply))
            }
            Message::ReadIndexReply { token, index } => {
                inner.inbound.answer_read(to, convert::read_reply_to_wire(term, token, index))
            }
        };
        if !answered {
            debug!(peer = %to, "a reply was dropped: no call waits for it");
        }
    }

    fn send_snapshot(&self, envelope: Envelope, capture: Box<dyn Capture>) {
        let inner = &self.inner;
        let Envelope { from, to, term, message } = envelope;
        assert!(from == inner.local.identity.node, "the core sends in its own name");
        let Message::InstallSnapshot(install) = message else { panic!("{message:?} has no capture") };
        assert!(capture.last() == install.snapshot.last, "a capture goes with its own snapshot");
        let Ok(number) = getrandom::u64() else {
            error!(peer = %to, "no snapshot can be sent: the system gives no random numbers");
            return inner.local.recipient.snapshot_sent(to, false);
        };
        let announced = Announced { capture: number, size_bytes: capture.size_bytes(), term, install };
        inner.outgoing.start(inner.destination(to), announced, capture, &inner.runtime);
    }

    fn use_membership(&self, membership: &Membership) {
        let Inner { local, runtime, inbound, outgoing, .. } = &*self.inner;
        local.book().record(membership);
        let recorded = |id: NodeId| membership.members.get(&id).map(|member| member.incarnation);
        let mut links = self.inner.links();
        let removed: Vec<_> = links.by_peer.keys().copied().filter(|id| recorded(*id).is_none()).collect();
        removed.iter().filter_map(|id| links.by_peer.remove(id)).for_each(Link::retire);
        links.by_peer.retain(|id, link| recorded(*id) == Some(link.incarnation()));
        for id in membership.nodes().filter(|id| !links.closed && *id != local.identity.node).collect::<Vec<_>>() {
            links.by_peer.entry(id).or_insert_with(|| Link::start(self.inner.destination(id), runtime));
        }
        outgoing.retain(|id, incarnation| recorded(id) == Some(incarnation));
        // A node that is behind may not know its leader: strangers stay.
        inbound.retain(|id, incarnation| [None, Some(Incarnation(0)), Some(incarnation)].contains(&recorded(id)));
    }
}

impl Inner {
    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the link to a peer, if there is one.
    fn with_link(&self, peer: NodeId, act: impl FnOnce(&Link)) {
        match self.links().by_peer.get(&peer) {
            Some(link) => act(link),
            None => debug!(%peer, "a message was dropped: the membership does not name its addressee"),
        }
    }

    /// A peer may be reachable now: its link need not wait any longer.
    fn retry(&self, peer: NodeId) {
        if let Some(link) = self.links().by_peer.get(&peer) {
            link.heard();
        }
    }

    /// Checks who calls.
    fn check(&self, metadata: &MetadataMap, purpose: Purpose) -> Result<Handshake, Status> {
        let handshake = Handshake::read(metadata).map_err(|mismatch| self.local.refuse(NodeId::NONE, mismatch))?;
        let from = handshake.from.node;
        let recorded = self.local.book().incarnation(from);
        match handshake.check(&self.local.identity, purpose, recorded) {
            Ok(()) => Ok(handshake),
            Err(mismatch) => Err(self.local.refuse(from, mismatch)),
        }
    }

    /// The peer as the membership has it.
    fn destination(&self, peer: NodeId) -> Destination {
        Destination { peer, incarnation: self.local.book().incarnation(peer), local: Arc::clone(&self.local) }
    }

    /// Hands a request to the core, and tells the caller if that can't be.
    fn deliver(&self, from: NodeId, term: Term, message: Message) -> Result<(), Status> {
        match self.local.deliver(from, term, message) {
            true => Ok(()),
            false => Err(Status::unavailable("this node can't take the request now")),
        }
    }

    /// Remembers where a caller says it is, if it speaks for itself and is the disk on record.
    fn note_caller(&self, handshake: &Handshake, caller: IdentifyReply) {
        let Identity { node, incarnation, .. } = handshake.from;
        let recorded = self.local.book().incarnation(node);
        let on_record = recorded == Incarnation(0) || recorded == incarnation;
        let member = caller.self_.filter(|member| member.id == node.0 && member.incarnation == incarnation.0);
        let Some(member) = member.filter(|_| on_record && node != self.local.identity.node) else {
            return;
        };
        if dial::endpoint(&member.address).is_ok() {
            self.local.book().announce(node, member.address);
            self.retry(node);
        }
    }

    /// Hands one of a leader's requests to the core.
    fn take_append(&self, from: NodeId, request: AppendEntriesRequest) -> Result<(), Status> {
        let refuse = |malformed: Malformed| self.local.refuse_malformed(from, &malformed);
        let (term, message) = convert::append_entries_from_wire(request).map_err(refuse)?;
        if !self.local.deliver(from, term, message) {
            debug!(peer = %from, "a message was dropped: the node can't take it now");
        }
        Ok(())
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("local", &self.local).field("links", &self.links).finish_non_exhaustive()
    }
}

/// Reads a leader's requests until the stream ends. Returns the status to end it with, if it is not in good order.
async fn read_requests(
    from: NodeId,
    mut requests: Streaming<AppendEntriesRequest>,
    inner: &Weak<Inner>,
) -> Option<Status> {
    loop {
        let request = match requests.message().await {
            Ok(request) => request?,
            Err(status) => return Some(status),
        };
        if let Err(status) = inner.upgrade()?.take_append(from, request) {
            return Some(status);
        }
    }
}
