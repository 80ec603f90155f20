//! A node's threads, and how they end.

use std::any::Any;
use std::error::Error;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use crossbeam_channel::Sender;
use raft_core::effect::Violation;
use raft_core::input::LoadFailed;
use raft_core::types::{Entry, Index, NodeId, WriteId};

use super::applier::Captured;

/// What the log writer and the applier tell the driver.
pub(super) enum Completion {
    /// All writes up to this one are durable.
    Persisted(WriteId),
    /// What a load asked for, or that it is not there any more.
    Loaded { from: Index, entries: Result<Vec<Entry>, LoadFailed> },
    /// All entries up to this one are applied.
    Applied(Index),
    /// The state up to this entry is durable.
    SnapshotTaken(Index),
    /// A copy of the state for a node, or why there is none.
    Captured { to: NodeId, capture: Captured },
    /// The thread has ended, and so must the node.
    Failed(Ended),
}

/// Why a node ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// It was asked to.
    #[error("it was asked to stop")]
    Shutdown,
    /// The log could not be written. What is on the disk is not known: look at the disk before starting the node again.
    #[error("the log could not be written: {0}")]
    Disk(#[source] Box<dyn Error + Send + Sync>),
    /// The log could not be read back. Look at the disk before starting the node again.
    #[error("the log could not be read: {0}")]
    DiskRead(#[source] Box<dyn Error + Send + Sync>),
    /// The state machine could not apply a committed entry, or take or install a snapshot.
    #[error("the state machine failed: {0}")]
    StateMachine(#[source] Box<dyn Error + Send + Sync>),
    /// A peer broke a rule that safety rests on. Keep all files; they are the evidence.
    #[error("{0}; keep all files")]
    Violation(#[source] Violation),
    /// A bug: in this crate, or in the log store, state machine or transport that was given to it.
    #[error("a bug: {thread} panicked: {message}")]
    Panic {
        /// The name of the thread.
        thread: String,
        /// What it said.
        message: String,
    },
}

impl Ended {
    fn of_panic(thread: String, panic: &(dyn Any + Send)) -> Self {
        let message = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "(no message)".to_owned());
        Self::Panic { thread, message }
    }
}

/// The threads of a node. Dropping it lets them run on; [`Handle::shutdown`](super::Handle::shutdown) stops them.
#[derive(Debug)]
pub struct Running {
    pub(super) driver: JoinHandle<Ended>,
    pub(super) workers: Vec<JoinHandle<()>>,
}

impl Running {
    /// Waits until the node has ended and none of its threads is left, so that its files are closed, and says why it did. Blocks: in
    /// async code, call it in `spawn_blocking`.
    pub fn wait(self) -> Ended {
        let ended = join(self.driver);
        self.workers.into_iter().for_each(join);
        ended
    }

    /// Whether the node has ended: [`wait`](Self::wait) would then return soon.
    pub fn has_ended(&self) -> bool {
        self.driver.is_finished()
    }
}

/// The threads catch their own panics, so this one fails only where catching has.
fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Spawns the thread whose result is the node's. All that `run` owns is dropped before the thread ends.
pub(super) fn spawn_driver(id: NodeId, run: impl FnOnce() -> Ended + Send + 'static) -> io::Result<JoinHandle<Ended>> {
    let name = format!("{id}-driver");
    let thread = name.clone();
    Builder::new().name(name).spawn(move || {
        let ended = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Ended::of_panic(thread, &*panic));
        match &ended {
            Ended::Shutdown => tracing::info!("{id} has stopped"),
            failure => tracing::error!("{id} has stopped: {failure}"),
        }
        ended
    })
}

/// Spawns a thread that works for the driver and tells it when it fails, by error or by panic.
pub(super) fn spawn_worker(
    name: String,
    completions: Sender<Completion>,
    run: impl FnOnce() -> Result<(), Ended> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let thread = name.clone();
    Builder::new().name(name).spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(Ended::of_panic(thread, &*panic)));
        if let Err(ended) = result {
            // The driver may have ended for a reason of its own.
            let _ = completions.send(Completion::Failed(ended));
        }
    })
}

/// Tells the workers to drop what has queued up instead of finishing it.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Sets a [`Stop`] when dropped, and so also when its owner panics.
#[derive(Debug)]
pub(super) struct StopOnDrop(pub(super) Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Release);
    }
}
