//! The way to one peer: a task that keeps a connection to it, whatever happens to the others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prost::Message as _;
use raft_core::types::{ClusterId, Incarnation, NodeId};
use raftkv_proto::raft::v1::raft_service_client::RaftServiceClient;
use raftkv_proto::raft::v1::{AppendEntriesRequest, IdentifyReply, IdentifyRequest, RequestVoteRequest};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tracing::{error, info, warn};

use crate::backoff::Backoff;
use crate::dial;
use crate::error::Error;
use crate::handshake::{self, Handshake};
use crate::local::Local;
use crate::session::{Outlet, Session};
use crate::throttle::Throttle;

/// Whether a peer can be reached, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub id: NodeId,
    /// Where it is connected, or was looked for last; empty before the first attempt.
    pub address: String,
    /// Whether there is a connection to it.
    pub connected: bool,
    /// Since when this has been so.
    pub since: Instant,
    /// Why there is no connection; empty if there is one, or none was tried yet.
    pub problem: String,
    /// How many requests were dropped because it was not connected or its queue was full.
    pub dropped: u64,
}

/// The way to one peer. Dropping it ends the connection.
#[derive(Debug)]
pub(crate) struct Link {
    shared: Arc<Shared>,
    /// Aborts its one task when dropped.
    _task: JoinSet<()>,
}

/// What the link's task and those who send through it share.
#[derive(Debug)]
struct Shared {
    peer: NodeId,
    /// The peer's incarnation in the membership; zero if not known.
    incarnation: Incarnation,
    local: Arc<Local>,
    state: Mutex<State>,
    dropped: AtomicU64,
    oversized: Throttle,
    /// The peer was heard from: a pause may end.
    heard: Notify,
}

#[derive(Debug)]
struct State {
    /// There exactly while the peer is connected: nothing is kept for a peer that is not, as Raft sends anew.
    outlet: Option<Outlet>,
    address: String,
    since: Instant,
    problem: String,
}

/// Tells people what becomes of a link: each change once, and not each attempt.
#[derive(Debug)]
struct Journal {
    peer: NodeId,
    said: Said,
    complaints: Throttle,
}

/// What people believe of a link.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Connected,
    Down,
}

impl Link {
    /// Starts to connect to `peer`, whose incarnation in the membership is given, zero if not known.
    pub(crate) fn start(peer: NodeId, incarnation: Incarnation, local: Arc<Local>, runtime: &Handle) -> Self {
        let state = State { outlet: None, address: String::new(), since: Instant::now(), problem: String::new() };
        let shared = Arc::new(Shared {
            peer,
            incarnation,
            local,
            state: Mutex::new(state),
            dropped: AtomicU64::new(0),
            oversized: Throttle::default(),
            heard: Notify::new(),
        });
        let mut task = JoinSet::new();
        task.spawn_on(run(Arc::clone(&shared)), runtime);
        Self { shared, _task: task }
    }

    /// The incarnation that the peer must have; zero if any.
    pub(crate) fn incarnation(&self) -> Incarnation {
        self.shared.incarnation
    }

    /// Sends a candidate's request, or drops it.
    pub(crate) fn request_vote(&self, request: RequestVoteRequest) {
        self.shared.send(|outlet| outlet.request_vote(request));
    }

    /// Sends a leader's request, or drops it.
    pub(crate) fn append_entries(&self, request: AppendEntriesRequest) {
        let (size_bytes, limit) = (request.encoded_len(), self.shared.local.options.max_message_bytes);
        if size_bytes > limit {
            return self.shared.drop_oversized(size_bytes, limit);
        }
        self.shared.send(|outlet| outlet.append_entries(request, size_bytes));
    }

    /// The peer was heard from: now is a good time to connect, or to move to the address it announced.
    pub(crate) fn heard(&self) {
        self.shared.heard.notify_one();
    }

    /// How the link is.
    pub(crate) fn status(&self) -> PeerStatus {
        let state = self.shared.state();
        PeerStatus {
            id: self.shared.peer,
            address: state.address.clone(),
            connected: state.outlet.is_some(),
            since: state.since,
            problem: state.problem.clone(),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
        }
    }
}

/// The link's task: connects, carries messages until the connection breaks, pauses, and so on until it is aborted.
async fn run(link: Arc<Shared>) {
    let options = &link.local.options;
    let mut backoff = Backoff::new(options.backoff_min, options.backoff_max);
    let mut journal = Journal { peer: link.peer, said: Said::Nothing, complaints: Throttle::default() };
    loop {
        match link.reach().await {
            Ok((session, outlet, address)) => {
                journal.connected(&address);
                let started = Instant::now();
                link.now_connected(outlet, &address);
                let error = link.carry(session).await;
                link.now_down(&address, &error);
                journal.lost(&address, &error);
                backoff.connected_for(started.elapsed());
            }
            Err((error, address)) => {
                link.now_down(&address, &error);
                journal.failed(&address, &error);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => (),
            () = link.heard.notified() => (),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something into the outlet, if the peer is connected, and counts what is dropped.
    fn send(&self, put: impl FnOnce(&Outlet) -> bool) {
        if !self.state().outlet.as_ref().is_some_and(put) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sending it would break the connection, again and again.
    fn drop_oversized(&self, size_bytes: usize, limit: usize) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        let complaint = format!("a message of {size_bytes} bytes is above the limit of {limit} and can't be sent");
        if self.oversized.admits(self.peer, &complaint) {
            error!(peer = %self.peer, "{complaint}");
        }
    }

    fn now_connected(&self, outlet: Outlet, address: &str) {
        let since = Instant::now();
        *self.state() = State { outlet: Some(outlet), address: address.to_owned(), since, problem: String::new() };
    }

    fn now_down(&self, address: &str, error: &Error) {
        let mut state = self.state();
        let since = if state.outlet.is_some() { Instant::now() } else { state.since };
        *state = State { outlet: None, address: address.to_owned(), since, problem: error.to_string() };
    }

    /// Connects at the first of the peer's addresses where it is. Of several failures, tells one that a person can mend.
    async fn reach(&self) -> Result<(Session, Outlet, String), (Error, String)> {
        let mut failure = (Error::NoAddress, String::new());
        let addresses = self.local.book().addresses(self.peer);
        for (position, address) in addresses.into_iter().enumerate() {
            match self.reach_at(&address).await {
                Ok((session, outlet)) => return Ok((session, outlet, address)),
                Err(error) if position == 0 || !failure.0.needs_operator() => failure = (error, address),
                Err(_) => (),
            }
        }
        Err(failure)
    }

    async fn reach_at(&self, address: &str) -> Result<(Session, Outlet), Error> {
        let mut client = dial::connect(address, &self.local.options).await?;
        let handshake = Handshake::new(self.local.identity, self.peer);
        self.check(&mut client, &handshake).await?;
        Session::open(client, handshake, Arc::clone(&self.local)).await
    }

    /// Makes sure that it is the peer, before anything is sent to it.
    async fn check(&self, client: &mut RaftServiceClient<Channel>, handshake: &Handshake) -> Result<(), Error> {
        let request = IdentifyRequest { caller: Some(self.local.describe()) };
        let answer = dial::ask(client, handshake, request, self.local.options.connect_timeout).await?;
        handshake::check_answer(&answer, &self.local.identity, self.peer, self.incarnation)?;
        if ClusterId(answer.cluster_id) == ClusterId(0) {
            return Err(Error::NotBegun);
        }
        self.note_address(answer);
        Ok(())
    }

    fn note_address(&self, answer: IdentifyReply) {
        if let Some(member) = answer.self_.filter(|member| dial::endpoint(&member.address).is_ok()) {
            self.local.book().announce(self.peer, member.address);
        }
    }

    /// Carries messages until the connection breaks or the peer announces another address.
    async fn carry(&self, mut session: Session) -> Error {
        let announced = self.announced();
        let moved = async {
            while self.announced() == announced {
                self.heard.notified().await;
            }
        };
        tokio::select! {
            error = session.run() => error,
            () = moved => Error::Moved,
        }
    }

    fn announced(&self) -> Option<String> {
        self.local.book().announced(self.peer).map(str::to_owned)
    }
}

impl Journal {
    fn connected(&mut self, address: &str) {
        if self.said != Said::Connected {
            info!(peer = %self.peer, address, "connected");
            self.said = Said::Connected;
        }
    }

    /// A connection broke. If the last one broke the same way just now, this is one trouble, not many.
    fn lost(&mut self, address: &str, error: &Error) {
        if self.is_news(error) {
            warn!(peer = %self.peer, address, "connection lost: {error}");
            self.said = Said::Down;
        }
    }

    /// An attempt to connect failed.
    fn failed(&mut self, address: &str, error: &Error) {
        if error.needs_operator() {
            if self.is_news(error) {
                warn!(peer = %self.peer, address, "can't work with this peer: {error}");
                self.said = Said::Down;
            }
        } else if self.said != Said::Down {
            info!(peer = %self.peer, address, "not reachable yet: {error}");
            self.said = Said::Down;
        }
    }

    fn is_news(&self, error: &Error) -> bool {
        self.complaints.admits(self.peer, &error.to_string())
    }
}
