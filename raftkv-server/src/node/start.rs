//! Starting a node.

use std::collections::VecDeque;
use std::error::Error;
use std::io;

use crossbeam_channel::unbounded;
use raft_core::node::{BootError, Node};
use raft_core::port::{LogStore, StateMachine, Transport};
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
    /// The state machine did not say how far it is.
    #[error("the state machine could not be read: {0}")]
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
    state_machine: S,
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
    let applied = state_machine.applied().map_err(|error| StartError::StateMachine(Box::new(error)))?;
    let core = Node::new(options.core.clone(), stored, applied)?;

    let id = options.core.id;
    let stop = Stop::default();
    let (requests, requested) = unbounded();
    let (completions, completed) = unbounded();
    let (writes, to_write) = unbounded();
    let (work, to_apply) = unbounded();
    let (status, watched) = watch::channel(core.status());
    let budget = Budget::new(options.max_waiting_requests, options.max_waiting_bytes);
    let handle = Handle { requests, budget, status: watched };

    let writer = LogWriter { log, writes: to_write, completions: completions.clone(), stop: stop.clone() };
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
    let ports = Ports { inbox, requests: requested, completions: completed, writes, work, transport, status, open };
    let driver = Driver::new(core, applied.index, options, ports, stop);

    let workers = vec![
        spawn_worker(format!("{id}-log"), completions.clone(), move || writer.run())?,
        spawn_worker(format!("{id}-apply"), completions, move || applier.run())?,
    ];
    let driver = spawn_driver(id, move || driver.run())?;
    Ok((handle, Running { driver, workers }))
}
