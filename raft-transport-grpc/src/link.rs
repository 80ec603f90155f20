//! The way to one peer: a task that keeps a connection to it, whatever happens to the others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prost::Message as _;
use raft_core::types::{Incarnation, NodeId};
use raftkv_proto::raft::v1::AppendEntriesRequest;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::backoff::Backoff;
use crate::destination::{Destination, Reached};
use crate::error::Error;
use crate::session::{Ask, Outlet, Session};
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
    task: JoinSet<()>,
}

/// What the link's task and those who send through it share.
#[derive(Debug)]
struct Shared {
    destination: Destination,
    state: Mutex<State>,
    dropped: AtomicU64,
    oversized: Throttle,
    /// The peer was heard from: a pause may end.
    heard: Notify,
    /// Whether the peer is no member any more: what waits is sent, and then the link ends.
    retired: watch::Sender<bool>,
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
    /// Starts to connect.
    pub(crate) fn start(destination: Destination, runtime: &Handle) -> Self {
        let state = State { outlet: None, address: String::new(), since: Instant::now(), problem: String::new() };
        let shared = Arc::new(Shared {
            destination,
            state: Mutex::new(state),
            dropped: AtomicU64::new(0),
            oversized: Throttle::default(),
            heard: Notify::new(),
            retired: watch::Sender::new(false),
        });
        let mut task = JoinSet::new();
        task.spawn_on(run(Arc::clone(&shared)), runtime);
        Self { shared, task }
    }

    /// The incarnation that the peer must have; zero if any.
    pub(crate) fn incarnation(&self) -> Incarnation {
        self.shared.destination.incarnation
    }

    /// Makes a call, or drops it.
    pub(crate) fn ask(&self, ask: Ask) {
        self.shared.send(|outlet| outlet.ask(ask));
    }

    /// Sends a leader's request, or drops it.
    pub(crate) fn append_entries(&self, request: AppendEntriesRequest) {
        let (size_bytes, limit) = (request.encoded_len(), self.shared.destination.local.options.max_message_bytes);
        if size_bytes > limit {
            return self.shared.drop_oversized(size_bytes, limit);
        }
        self.shared.send(|outlet| outlet.append_entries(request, size_bytes));
    }

    /// The peer was heard from: now is a good time to connect, or to move to the address it announced.
    pub(crate) fn heard(&self) {
        self.shared.heard.notify_one();
    }

    /// Ends the link once what waits was sent, so that a node which is removed can learn of it. Nothing waits for a peer that is not connected.
    pub(crate) fn retire(mut self) {
        self.shared.retired.send_replace(true);
        if self.shared.state().outlet.take().is_some() {
            self.task.detach_all();
        }
    }

    /// How the link is.
    pub(crate) fn status(&self) -> PeerStatus {
        let state = self.shared.state();
        PeerStatus {
            id: self.shared.destination.peer,
            address: state.address.clone(),
            connected: state.outlet.is_some(),
            since: state.since,
            problem: state.problem.clone(),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
        }
    }
}

/// The link's task: connects, carries messages until the connection breaks, pauses, and so on until it is aborted or retired.
async fn run(link: Arc<Shared>) {
    let options = &link.destination.local.options;
    let mut backoff = Backoff::new(options.backoff_min, options.backoff_max);
    let mut journal = Journal { peer: link.destination.peer, said: Said::Nothing, complaints: Throttle::default() };
    loop {
        match link.open().await {
            Ok((session, outlet, address)) => {
                journal.connected(&address);
                let started = Instant::now();
                link.now_connected(outlet, &address);
                let error = link.carry(session).await;
                if *link.retired.borrow() {
                    return;
                }
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
        if self.oversized.admits(self.destination.peer, &complaint) {
            error!(peer = %self.destination.peer, "{complaint}");
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

    /// Connects, and opens the stream.
    async fn open(&self) -> Result<(Session, Outlet, String), (Error, String)> {
        let Reached { client, handshake, address } = self.destination.reach().await?;
        match Session::open(client, handshake, Arc::clone(&self.destination.local)).await {
            Ok((session, outlet)) => Ok((session, outlet, address)),
            Err(error) => Err((error, address)),
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
            () = self.drained() => Error::Closed,
        }
    }

    /// Resolves when the link is retired and what waited has had its time. The stream ends by itself once all of it was sent.
    async fn drained(&self) {
        // It fails only where the link is gone, and this with it.
        let _ = self.retired.subscribe().wait_for(|retired| *retired).await.map(|_| ());
        sleep(self.destination.local.options.connect_timeout).await;
    }

    fn announced(&self) -> Option<String> {
        self.destination.local.book().announced(self.destination.peer).map(str::to_owned)
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
