//! Snapshots on their way to peers: each a task and a connection of its own, so that they hold up nothing else.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use raft_core::port::{Capture, SnapshotError};
use raft_core::types::{Incarnation, NodeId};
use raftkv_proto::raft::v1::install_snapshot_request::Part;
use raftkv_proto::raft::v1::{InstallSnapshotReply, InstallSnapshotRequest};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::convert::{Announced, Malformed, announced_to_wire, chunk_to_wire};
use crate::destination::{Destination, Reached};
use crate::error::Error;
use crate::local::Local;
use crate::pace::Pace;

/// How often a transfer says that the state is being read.
const READ_REPORT: Duration = Duration::from_millis(500);

/// How much is read and sent at once. Well below the limit on the wire, so that a chunk is no long wait.
const CHUNK_BYTES: usize = 256 << 10;
/// How many chunks may be under way before the first is acknowledged. They are all that a transfer holds in memory.
const WINDOW_CHUNKS: usize = 8;
/// What a chunk's message has besides its data, at the most.
const CHUNK_ENVELOPE_BYTES: usize = 64;

/// All transfers that are under way, one a peer.
#[derive(Debug)]
pub(crate) struct Outgoing {
    local: Arc<Local>,
    transfers: Mutex<Transfers>,
}

#[derive(Debug, Default)]
struct Transfers {
    closed: bool,
    last_ticket: u64,
    by_peer: BTreeMap<NodeId, Transfer>,
}

#[derive(Debug)]
struct Transfer {
    ticket: u64,
    incarnation: Incarnation,
    /// Aborts its one task when dropped.
    _task: JoinSet<()>,
}

/// Where a transfer's task reports to, as long as no newer one has taken its place.
struct Reports {
    outgoing: Weak<Outgoing>,
    peer: NodeId,
    ticket: u64,
}

/// One transfer, as its task has it.
struct Sender {
    destination: Destination,
    announced: Announced,
    source: Source,
    pace: Pace,
    reports: Reports,
    /// The most that has ever been acknowledged.
    acknowledged: u64,
    /// When the transfer last came forward.
    forward: Instant,
}

/// One attempt of a transfer: a stream that is open.
struct Attempt {
    requests: mpsc::Sender<InstallSnapshotRequest>,
    replies: Streaming<InstallSnapshotReply>,
    /// Up to where data was sent. None before the peer has said where to begin.
    sent: Option<u64>,
    /// Up to where the peer has it.
    received: u64,
}

/// The capture, which blocks where it is read.
struct Source(Option<Box<dyn Capture>>);

impl Outgoing {
    pub(crate) fn new(local: Arc<Local>) -> Self {
        Self { local, transfers: Mutex::default() }
    }

    /// Begins to carry a snapshot to a peer, in place of what is under way to it.
    pub(crate) fn start(
        self: &Arc<Self>,
        destination: Destination,
        announced: Announced,
        capture: Box<dyn Capture>,
        runtime: &Handle,
    ) {
        let mut transfers = self.transfers();
        if transfers.closed {
            return;
        }
        transfers.last_ticket += 1;
        let (peer, incarnation, ticket) = (destination.peer, destination.incarnation, transfers.last_ticket);
        let sender = Sender {
            pace: Pace::new(self.local.options.snapshot_bytes_per_second),
            reports: Reports { outgoing: Arc::downgrade(self), peer, ticket },
            source: Source(Some(capture)),
            acknowledged: 0,
            forward: Instant::now(),
            destination,
            announced,
        };
        let mut task = JoinSet::new();
        task.spawn_on(sender.run(), runtime);
        transfers.by_peer.insert(peer, Transfer { ticket, incarnation, _task: task });
    }

    /// Ends the transfers to nodes that are no longer who they were, and reports that they failed.
    pub(crate) fn retain(&self, keep: impl Fn(NodeId, Incarnation) -> bool) {
        self.transfers().by_peer.retain(|peer, transfer| {
            let keep = keep(*peer, transfer.incarnation);
            if !keep {
                self.local.recipient.snapshot_sent(*peer, false);
            }
            keep
        });
    }

    /// Ends everything without a report, and begins nothing any more.
    pub(crate) fn close(&self) {
        *self.transfers() = Transfers { closed: true, ..Transfers::default() };
    }

    fn transfers(&self) -> MutexGuard<'_, Transfers> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transfers {
    fn is_current(&self, peer: NodeId, ticket: u64) -> bool {
        self.by_peer.get(&peer).is_some_and(|transfer| transfer.ticket == ticket)
    }
}

impl Reports {
    fn progress(&self) {
        let Some(outgoing) = self.outgoing.upgrade() else { return };
        // Said under the lock: nothing is reported of a transfer once a newer one has begun.
        let transfers = outgoing.transfers();
        if transfers.is_current(self.peer, self.ticket) {
            outgoing.local.recipient.snapshot_progress(self.peer);
        }
    }

    fn ended(&self, arrived: bool) {
        let Some(outgoing) = self.outgoing.upgrade() else { return };
        let mut transfers = outgoing.transfers();
        if transfers.is_current(self.peer, self.ticket) {
            transfers.by_peer.remove(&self.peer);
            outgoing.local.recipient.snapshot_sent(self.peer, arrived);
        }
    }
}

impl Sender {
    /// The transfer's task: attempts until all has arrived or there is no hope, and reports which.
    async fn run(mut self) {
        let (peer, last) = (self.destination.peer, self.announced.install.snapshot.last);
        let size_bytes = self.announced.size_bytes;
        info!(%peer, %last, size_bytes, "sending a snapshot");
        let result = self.attempts().await;
        match &result {
            Ok(()) => info!(%peer, %last, "the snapshot has arrived"),
            Err(error) => warn!(%peer, %last, "the snapshot was not sent: {error}"),
        }
        self.reports.ended(result.is_ok());
    }

    /// Goes on after each break where the last attempt came to, as long as the transfer comes forward at all.
    async fn attempts(&mut self) -> Result<(), Error> {
        let options = &self.destination.local.options;
        let (patience, mut backoff) =
            (options.snapshot_patience, Backoff::new(options.backoff_min, options.backoff_max));
        loop {
            let Err(error) = self.attempt().await else { return Ok(()) };
            if !error.is_passing() || self.forward.elapsed() >= patience {
                return Err(error);
            }
            debug!(peer = %self.destination.peer, "a snapshot's transfer broke and goes on: {error}");
            sleep(backoff.pause()).await;
        }
    }

    async fn attempt(&mut self) -> Result<(), Error> {
        let Reached { mut client, handshake, .. } = self.destination.reach().await.map_err(|(error, _)| error)?;
        let (requests, parts) = mpsc::channel(WINDOW_CHUNKS + 1);
        let header = Part::Header(announced_to_wire(&self.announced));
        // There is room for it, and for the window after it.
        let _ = requests.try_send(InstallSnapshotRequest { part: Some(header) });
        let call = client.install_snapshot(handshake.stamp(ReceiverStream::new(parts)));
        let replies = timeout(self.destination.local.options.connect_timeout, call).await??.into_inner();
        self.carry(Attempt { requests, replies, sent: None, received: 0 }).await
    }

    /// Sends chunks as far as the window allows and takes acknowledgements, until the peer has everything.
    async fn carry(&mut self, mut attempt: Attempt) -> Result<(), Error> {
        let chunk_bytes = self.chunk_bytes();
        let window = (WINDOW_CHUNKS * chunk_bytes) as u64;
        loop {
            let next = attempt.next(window - chunk_bytes as u64).filter(|sent| *sent < self.announced.size_bytes);
            let deadline = self.forward + self.destination.local.options.snapshot_patience;
            tokio::select! {
                biased;
                reply = attempt.replies.message() => {
                    if self.take_reply(&mut attempt, reply)? {
                        return Ok(());
                    }
                }
                () = sleep_until(deadline) => return Err(Error::TimedOut),
                Some(offset) = self.pace.turn(next) => {
                    attempt.sent = Some(self.send_chunk(&attempt, offset, chunk_bytes).await?);
                }
            }
        }
    }

    fn chunk_bytes(&self) -> usize {
        let limit = self.destination.local.options.max_message_bytes.saturating_sub(CHUNK_ENVELOPE_BYTES).max(1);
        self.pace.at_once(CHUNK_BYTES.min(limit))
    }

    /// Takes an acknowledgement. Returns whether it was the last.
    fn take_reply(
        &mut self,
        attempt: &mut Attempt,
        reply: Result<Option<InstallSnapshotReply>, Status>,
    ) -> Result<bool, Error> {
        let InstallSnapshotReply { received, complete } = reply?.ok_or(Error::Closed)?;
        let most = attempt.sent.unwrap_or(self.announced.size_bytes);
        if received > most {
            return Err(Malformed::NeverSent { received, sent: most }.into());
        }
        attempt.received = received;
        // That the peer has again what it had before the break is no step forward.
        if attempt.sent.is_some() || received > self.acknowledged {
            self.acknowledged = self.acknowledged.max(received);
            self.forward = Instant::now();
            self.reports.progress();
        }
        attempt.sent.get_or_insert(received);
        Ok(complete)
    }

    /// Reads and sends the chunk at `offset`. Returns where the next one begins.
    async fn send_chunk(&mut self, attempt: &Attempt, offset: u64, max_bytes: usize) -> Result<u64, Error> {
        let data = self.read(offset, max_bytes).await?;
        self.pace.went(data.len());
        let next = offset + data.len() as u64;
        let part = Some(Part::Chunk(chunk_to_wire(offset, data)));
        // A stream that is over says why in its reply.
        let _ = attempt.requests.send(InstallSnapshotRequest { part }).await;
        Ok(next)
    }
}

impl Sender {
    /// Reads from the capture. The first read has the state copied, which may take longer than anybody waits for a transfer that stands still: so it is
    /// told that this one does not.
    async fn read(&mut self, offset: u64, max_bytes: usize) -> Result<bytes::Bytes, Error> {
        let reports = &self.reports;
        let mut read = pin!(self.source.read(offset, max_bytes));
        let data = loop {
            tokio::select! {
                data = &mut read => break data?,
                () = sleep(READ_REPORT) => reports.progress(),
            }
        };
        Ok(data)
    }
}

impl Attempt {
    /// Where the next chunk begins, if no more than `window` bytes are under way.
    fn next(&self, window: u64) -> Option<u64> {
        self.sent.filter(|sent| sent - self.received <= window)
    }
}

impl Source {
    async fn read(&mut self, offset: u64, max_bytes: usize) -> Result<bytes::Bytes, Error> {
        let lost = || Error::Capture("an earlier read has failed".to_owned());
        let mut capture = self.0.take().ok_or_else(lost)?;
        let read = spawn_blocking(move || (capture.read(offset, max_bytes), capture)).await;
        let (data, capture) = read.map_err(|failed| Error::Capture(failed.to_string()))?;
        self.0 = Some(capture);
        let data = data.map_err(|error: SnapshotError| Error::Capture(error.to_string()))?;
        if data.is_empty() || data.len() > max_bytes {
            return Err(Error::Capture(format!("{} bytes were read at {offset}, not 1 to {max_bytes}", data.len())));
        }
        Ok(data)
    }
}
