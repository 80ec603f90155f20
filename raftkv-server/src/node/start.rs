//! Starting a node.

use std::collections::VecDeque;
use std::error::Error;
use std::io;

use crossbeam_channel::unbounded;
use raft_core::node::{BootError, Node};
use raft_core::port::{LogStore, StateMachine, Transport};
use raft_core::types::{EntryId, Snapshot};
use tokio::sync::watch;

use super::applier::Applier;
use super::budget::Budget;
use super::driver::{Driver, Ports};
use super::handle::Handle;
use super::log_writer::LogWriter;
use super::mailbox::Inbox;
use super::options::Options;
use super::running::{Running, Stop, spawn_driver, spawn_worker};

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting that must be above zero is not.
    #[error("{0} must be above zero")]
    Zero(&'static str),
    /// The log could not be read.
    #[error("the log could not be read: {0}")]
    Log(#[source] Box<dyn Error + Send + Sync>),
    /// The state machine did not say how far it is, or could not install the snapshot that its log rests on.
    #[error("the state machine could not be started: {0}")]
    StateMachine(#[source] Box<dyn Error + Send + Sync>),
    /// What was stored does not fit together, or a setting of the core is out of its range.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The operating system gave no thread.
    #[error("a thread could not be started: {0}")]
    Thread(#[from] io::Error),
}

/// Starts a node from what its log and its state machine hold. `inbox` is the other end of the [`mailbox`](super::mailbox()) that
/// the transport delivers to.
///
/// A log that holds no membership starts a node that waits: it never stands for election. See [`raft_core::port::Stored::first`] for how a new cluster begins.
pub fn start<L, S, T>(
    options: Options,
    inbox: Inbox,
    mut log: L,
    mut state_machine: S,
    transport: T,
) -> Result<(Handle<S::Response>, Running), StartError>
where
    L: LogStore + Send + 'static,
    S: StateMachine + Send + 'static,
    T: Transport + Send + 'static,
{
    if let Some(name) = options.zero() {
        return Err(StartError::Zero(name));
    }
    let stored = log.load().map_err(|error| StartError::Log(Box::new(error)))?;
    let applied =
        catch_up(&mut state_machine, &stored.snapshot).map_err(|error| StartError::StateMachine(Box::new(error)))?;
    let core = Node::new(options.core.clone(), stored, applied)?;

    let id = options.core.id;
    let stop = Stop::default();
    let (requests, requested) = unbounded();
    let (completions, completed) = unbounded();
    let (log_work, to_log) = unbounded();
    let (work, to_apply) = unbounded();
    let (status, watched) = watch::channel(core.status());
    let budget = Budget::new(options.max_waiting_requests, options.max_waiting_bytes);
    let handle = Handle { requests, budget, status: watched };

    let writer = LogWriter { log, work: to_log, completions: completions.clone(), stop: stop.clone() };
    let applier = Applier {
        state_machine,
        work: to_apply,
        completions: completions.clone(),
        stop: stop.clone(),
        max_entries: options.max_batch_commands,
        max_bytes: options.max_batch_bytes,
        queue: VecDeque::new(),
    };
    let open = (handle.clone(), completions.clone());
    let ports =
        Ports { inbox, requests: requested, completions: completed, log: log_work, work, transport, status, open };
    let driver = Driver::new(core, applied.index, options, ports, stop);

    let workers = vec![
        spawn_worker(format!("{id}-log"), completions.clone(), move || writer.run())?,
        spawn_worker(format!("{id}-apply"), completions, move || applier.run())?,
    ];
    let driver = spawn_driver(id, move || driver.run())?;
    Ok((handle, Running { driver, workers }))
}

/// Installs the snapshot that the log rests on, if it was received and the node stopped before that was done. Returns how far the state is.
fn catch_up<S: StateMachine>(state_machine: &mut S, snapshot: &Snapshot) -> Result<EntryId, S::Error> {
    let applied = state_machine.applied()?;
    if applied.index >= snapshot.last.index {
        return Ok(applied);
    }
    tracing::info!(
        "the state, at {applied}, gets the snapshot up to {} that was received before the start",
        snapshot.last
    );
    state_machine.install(snapshot)?;
    state_machine.applied()
}
