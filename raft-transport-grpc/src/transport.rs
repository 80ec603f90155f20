//! The transport port, and the server side of what peers call.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use raft_core::membership::Membership;
use raft_core::message::{Envelope, Message};
use raft_core::port::Transport;
use raft_core::types::{Identity, Incarnation, NodeId};
use raftkv_proto::raft::v1::{
    AppendEntriesReply, AppendEntriesRequest, IdentifyReply, IdentifyRequest, RequestVoteReply, RequestVoteRequest,
};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, warn};

use crate::convert::{self, Malformed};
use crate::dial;
use crate::handshake::{Handshake, Mismatch, Purpose};
use crate::inbound::{Ballot, Inbound, OpenStream};
use crate::link::{Link, PeerStatus};
use crate::local::Local;
use crate::options::Options;
use crate::throttle::Throttle;

/// The stream of replies that [`GrpcTransport::append_entries`] answers with.
pub type AppendEntriesStream = ReceiverStream<Result<AppendEntriesReply, Status>>;

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
    refusals: Throttle,
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
    /// `advertised_address` is the `host:port` at which peers reach this node. `deliver` takes messages for the core, on the
    /// runtime's threads, so it must not block; it returns `false` if it can't take one, which is then lost.
    pub fn new(
        identity: Identity,
        advertised_address: String,
        options: Options,
        runtime: Handle,
        deliver: impl Fn(Envelope) -> bool + Send + Sync + 'static,
    ) -> Self {
        let local = Local::new(identity, advertised_address, options, Box::new(deliver));
        let inner = Inner {
            local: Arc::new(local),
            runtime,
            links: Mutex::default(),
            inbound: Arc::default(),
            refusals: Throttle::default(),
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
        let from = inner.check(request.metadata(), Purpose::Raft)?.from.node;
        let request = request.into_inner();
        let (term, message) =
            convert::vote_request_from_wire(request).map_err(|malformed| inner.refuse_malformed(from, &malformed))?;
        let ballot = if request.pre_vote { Ballot::PreVote } else { Ballot::Vote };
        let mut call = inner.inbound.await_vote(from, ballot, term)?;
        if !inner.local.deliver(from, term, message) {
            return Err(Status::unavailable("this node can't take the request now"));
        }
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
}

impl Transport for GrpcTransport {
    fn send(&self, envelope: Envelope) {
        let inner = &self.inner;
        let Envelope { from, to, term, message } = envelope;
        assert!(from == inner.local.identity.node, "the core sends in its own name");
        let answered = match message {
            Message::RequestPreVote { last } => {
                let request = convert::vote_request_to_wire(term, last, true);
                return inner.with_link(to, |link| link.request_vote(request));
            }
            Message::RequestVote { last } => {
                let request = convert::vote_request_to_wire(term, last, false);
                return inner.with_link(to, |link| link.request_vote(request));
            }
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
        };
        if !answered {
            debug!(peer = %to, "a reply was dropped: no call waits for it");
        }
    }

    fn use_membership(&self, membership: &Membership) {
        let Inner { local, runtime, inbound, .. } = &*self.inner;
        local.book().record(membership);
        let mut links = self.inner.links();
        let wanted = |id: &NodeId| membership.members.get(id).filter(|_| *id != local.identity.node);
        links.by_peer.retain(|id, link| wanted(id).is_some_and(|member| member.incarnation == link.incarnation()));
        for id in membership.nodes().filter(|id| !links.closed && wanted(id).is_some()).collect::<Vec<_>>() {
            let incarnation = membership.members[&id].incarnation;
            let start = || Link::start(id, incarnation, Arc::clone(local), runtime);
            links.by_peer.entry(id).or_insert_with(start);
        }
        inbound.retain_streams(|id, incarnation| {
            let recorded = membership.members.get(&id).map_or(Incarnation(0), |member| member.incarnation);
            recorded == Incarnation(0) || recorded == incarnation
        });
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
        let handshake = Handshake::read(metadata).map_err(|mismatch| self.refuse(NodeId::NONE, mismatch))?;
        let from = handshake.from.node;
        let recorded = self.local.book().incarnation(from);
        match handshake.check(&self.local.identity, purpose, recorded) {
            Ok(()) => Ok(handshake),
            Err(mismatch) => Err(self.refuse(from, mismatch)),
        }
    }

    fn refuse(&self, from: NodeId, mismatch: Mismatch) -> Status {
        if self.refusals.admits(from, &mismatch.to_string()) {
            warn!(peer = %from, "refused a call: {mismatch}");
        }
        mismatch.into()
    }

    fn refuse_malformed(&self, from: NodeId, malformed: &Malformed) -> Status {
        if self.refusals.admits(from, &malformed.to_string()) {
            warn!(peer = %from, "refused a message that makes no sense: {malformed}");
        }
        Status::invalid_argument(malformed.to_string())
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
        let (term, message) =
            convert::append_entries_from_wire(request).map_err(|malformed| self.refuse_malformed(from, &malformed))?;
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
