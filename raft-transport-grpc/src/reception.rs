//! Snapshots that come in. One is received at a time; whoever begins last has its turn.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raft_core::message::Message;
use raft_core::port::{SnapshotError, Staging};
use raft_core::types::NodeId;
use raftkv_proto::raft::v1::install_snapshot_request::Part;
use raftkv_proto::raft::v1::{InstallSnapshotReply, InstallSnapshotRequest};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::interval;
use tonic::{Status, Streaming};
use tracing::{info, warn};

use crate::convert::{Announced, Malformed, announced_from_wire, chunk_from_wire};
use crate::local::Local;

/// How often a node that verifies a snapshot says that it still does.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

/// The place where snapshots are put together.
pub(crate) struct Reception {
    local: Arc<Local>,
    staging: Arc<dyn Staging>,
    /// Held by the one whose turn it is, and by each of its blocking calls until that is over.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The last one that was verified: where its leader missed the answer, it need not be sent again.
    finished: Mutex<Option<Finished>>,
}

#[derive(Clone, Copy)]
struct Finished {
    capture: u64,
    delivered: bool,
}

/// The right to use the staging.
struct Turn {
    staging: Arc<dyn Staging>,
    hold: Arc<OwnedMutexGuard<()>>,
}

/// One stream of requests, and the replies to it.
pub(crate) struct Incoming {
    pub(crate) from: NodeId,
    pub(crate) requests: Streaming<InstallSnapshotRequest>,
    pub(crate) replies: mpsc::Sender<Result<InstallSnapshotReply, Status>>,
}

impl Reception {
    pub(crate) fn new(local: Arc<Local>, staging: Arc<dyn Staging>) -> Self {
        Self { local, staging, turn: Arc::default(), finished: Mutex::default() }
    }

    /// Receives a snapshot to its end and hands it to the core. May be dropped at any point.
    pub(crate) async fn receive(&self, incoming: &mut Incoming) -> Result<(), Status> {
        let from = incoming.from;
        let announced = incoming.header().await?.map_err(|malformed| self.local.refuse_malformed(from, &malformed))?;
        let Announced { capture, size_bytes, .. } = announced;
        let turn = Turn { staging: Arc::clone(&self.staging), hold: Arc::new(self.turn.clone().lock_owned().await) };
        if self.finished(capture).is_none() {
            self.fill(&turn, incoming, &announced).await?;
            self.finish(&turn, incoming, &announced).await?;
            info!(peer = %from, last = %announced.install.snapshot.last, size_bytes, "received a snapshot");
        }
        self.hand_over(from, announced)?;
        incoming.reply(size_bytes, true).await;
        Ok(())
    }

    /// Begins, or goes on, and takes chunks until all are here.
    async fn fill(&self, turn: &Turn, incoming: &mut Incoming, announced: &Announced) -> Result<(), Status> {
        let Announced { capture, size_bytes, .. } = *announced;
        let last = announced.install.snapshot.last;
        *self.lock_finished() = None;
        let mut received = turn.run(move |staging| staging.begin(capture, last, size_bytes)).await?;
        incoming.reply(received, false).await;
        while received < size_bytes {
            let chunk = incoming.chunk().await?;
            let chunk = chunk.and_then(|chunk| chunk_from_wire(chunk, received, size_bytes));
            let data = chunk.map_err(|malformed| self.local.refuse_malformed(incoming.from, &malformed))?;
            let (offset, len) = (received, data.len() as u64);
            turn.run(move |staging| staging.write(capture, offset, &data)).await?;
            received += len;
            incoming.reply(received, false).await;
        }
        Ok(())
    }

    /// Verifies what was received, with signs of life: it may take long.
    async fn finish(&self, turn: &Turn, incoming: &mut Incoming, announced: &Announced) -> Result<(), Status> {
        let Announced { capture, size_bytes, .. } = *announced;
        let mut verified = std::pin::pin!(turn.run(move |staging| staging.finish(capture)));
        let mut signs = interval(SIGN_OF_LIFE);
        loop {
            tokio::select! {
                biased;
                result = &mut verified => {
                    result?;
                    *self.lock_finished() = Some(Finished { capture, delivered: false });
                    return Ok(());
                }
                _ = signs.tick() => incoming.reply(size_bytes, false).await,
            }
        }
    }

    /// Delivers the message that the data belongs to, once.
    fn hand_over(&self, from: NodeId, announced: Announced) -> Result<(), Status> {
        let Announced { capture, term, install, .. } = announced;
        if self.finished(capture).is_some_and(|finished| finished.delivered) {
            return Ok(());
        }
        if !self.local.deliver(from, term, Message::InstallSnapshot(install)) {
            return Err(Status::unavailable("this node can't take the snapshot now"));
        }
        *self.lock_finished() = Some(Finished { capture, delivered: true });
        Ok(())
    }

    fn finished(&self, capture: u64) -> Option<Finished> {
        self.lock_finished().filter(|finished| finished.capture == capture)
    }

    fn lock_finished(&self) -> MutexGuard<'_, Option<Finished>> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Does something with the staging, which blocks. The turn lasts until it is done, also where nobody waits for it any more.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Staging) -> Result<T, SnapshotError> + Send + 'static,
    ) -> Result<T, Status> {
        let (staging, hold) = (Arc::clone(&self.staging), Arc::clone(&self.hold));
        let done = spawn_blocking(move || {
            let result = work(&*staging);
            drop(hold);
            result
        });
        let result = done.await.unwrap_or_else(|failed| Err(failed.into()));
        result.map_err(|error| {
            warn!("a snapshot can't be received: {error}");
            Status::internal(format!("the snapshot can't be received: {error}"))
        })
    }
}

impl Incoming {
    async fn reply(&self, received: u64, complete: bool) {
        // Whoever does not listen any more is noticed when it sends.
        let _ = self.replies.send(Ok(InstallSnapshotReply { received, complete })).await;
    }

    async fn header(&mut self) -> Result<Result<Announced, Malformed>, Status> {
        Ok(match self.part().await? {
            Some(Part::Header(header)) => announced_from_wire(header),
            _ => Err(Malformed::PartOutOfTurn),
        })
    }

    async fn chunk(&mut self) -> Result<Result<raftkv_proto::raft::v1::SnapshotChunk, Malformed>, Status> {
        Ok(match self.part().await? {
            Some(Part::Chunk(chunk)) => Ok(chunk),
            _ => Err(Malformed::PartOutOfTurn),
        })
    }

    async fn part(&mut self) -> Result<Option<Part>, Status> {
        let ended = || Status::cancelled("the stream ended before the snapshot did");
        Ok(self.requests.message().await?.ok_or_else(ended)?.part)
    }
}
