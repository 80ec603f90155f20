//! The one loop: inputs, `step`, effects.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Select, Sender};
use raft_core::effect::{Effect, Persist};
use raft_core::input::Input;
use raft_core::node::Node;
use raft_core::port::Transport;
use raft_core::status::Status;
use raft_core::types::{Entry, EntryId, Index, RequestId};
use tokio::sync::watch;

use super::applier::Committed;
use super::clock::Clock;
use super::handle::{Handle, Proposed, Request};
use super::mailbox::Inbox;
use super::options::Options;
use super::promise::{Promise, RequestError};
use super::report::Reporter;
use super::running::{Completion, Ended, Stop, StopOnDrop};
use super::waiters::{Readers, Waiters};

/// How many messages are taken in one round, so that requests and ticks get their turn.
const MAX_MESSAGES_A_ROUND: usize = 256;

/// What the driver is connected to.
pub(super) struct Ports<R, T> {
    pub(super) inbox: Inbox,
    pub(super) requests: Receiver<Request<R>>,
    pub(super) completions: Receiver<Completion>,
    pub(super) writes: Sender<Vec<Persist>>,
    pub(super) work: Sender<Vec<Committed<R>>>,
    pub(super) transport: T,
    pub(super) status: watch::Sender<Status>,
    /// Keep the channels open where all others have dropped their ends: a closed one would always be ready.
    pub(super) open: (Handle<R>, Sender<Completion>),
}

/// Takes what has arrived, steps the core, and carries out its effects.
pub(super) struct Driver<R, T> {
    /// First, so that the workers drop their queues before the promises that wait here are dropped.
    _stop: StopOnDrop,
    core: Node,
    options: Options,
    ports: Ports<R, T>,
    clock: Clock,
    reporter: Reporter,
    /// The writes of this round, handed to the log writer at its end.
    writes: Vec<Persist>,
    last_request: RequestId,
    /// Proposals that are not in the log yet.
    proposing: BTreeMap<RequestId, Vec<Promise<Proposed<R>>>>,
    /// Proposals that are in the log, and wait for their entries to be applied.
    waiters: Waiters<Promise<Proposed<R>>>,
    readers: Readers<Promise<Index>>,
    applied: Index,
    /// Whether role, term, leader or membership have changed in this round.
    is_changed: bool,
    ticks_to_sweep: u32,
    /// There once the node has been asked to stop: when it will at the latest.
    stop_at: Option<Instant>,
}

/// The requests of a round.
struct Batch<R> {
    commands: Vec<Bytes>,
    proposers: Vec<Promise<Proposed<R>>>,
    readers: Vec<Promise<Index>>,
}

impl<R, T: Transport> Driver<R, T> {
    pub(super) fn new(core: Node, applied: Index, options: Options, ports: Ports<R, T>, stop: Stop) -> Self {
        let clock = Clock::new(options.tick, options.core.heartbeat_ticks, Instant::now());
        Self {
            core,
            ports,
            clock,
            reporter: Reporter::new(options.core.id),
            writes: Vec::new(),
            last_request: RequestId(0),
            proposing: BTreeMap::new(),
            waiters: Waiters::default(),
            readers: Readers::default(),
            applied,
            is_changed: false,
            ticks_to_sweep: options.core.election_timeout_ticks,
            stop_at: None,
            _stop: StopOnDrop(stop),
            options,
        }
    }

    /// Drives the core until the node ends. Whoever still waits then learns it when the driver is dropped.
    pub(super) fn run(mut self) -> Ended {
        loop {
            self.wait();
            if let Err(ended) = self.round() {
                self.publish_status();
                return ended;
            }
        }
    }

    /// Waits until something has arrived or a tick is due.
    fn wait(&self) {
        let mut select = Select::new();
        select.recv(&self.ports.completions);
        select.recv(&self.ports.inbox.messages);
        select.recv(&self.ports.requests);
        // Either way, the round looks at everything.
        let _ = select.ready_deadline(self.clock.next());
    }

    /// Takes what has arrived, within bounds, so that one write and one sync serve all of it. An error is the end of the node.
    fn round(&mut self) -> Result<(), Ended> {
        self.take_completions()?;
        self.take_messages()?;
        self.take_requests()?;
        self.take_ticks()?;
        self.hand_over_writes();
        if std::mem::take(&mut self.is_changed) {
            self.publish_status();
        }
        self.stop_if_done()
    }

    fn take_completions(&mut self) -> Result<(), Ended> {
        while let Ok(completion) = self.ports.completions.try_recv() {
            match completion {
                Completion::Persisted(write) => self.step(Input::Persisted(write))?,
                Completion::Applied(index) => {
                    self.applied = index;
                    self.step(Input::Applied(index))?;
                    self.answer_readers();
                }
                Completion::Failed(ended) => return Err(ended),
            }
        }
        Ok(())
    }

    fn take_messages(&mut self) -> Result<(), Ended> {
        for _ in 0..MAX_MESSAGES_A_ROUND {
            let Ok(letter) = self.ports.inbox.messages.try_recv() else { break };
            self.step(Input::Receive(letter.envelope))?;
        }
        Ok(())
    }

    fn take_requests(&mut self) -> Result<(), Ended> {
        let batch = self.next_batch();
        if self.stop_at.is_some() {
            // Dropped unused, they answer that the node has stopped.
            return Ok(());
        }
        self.propose(batch.commands, batch.proposers)?;
        self.read(batch.readers)
    }

    /// The requests that wait, up to the limits of a batch. Those whose clients are gone are dropped: nothing was done for them yet.
    fn next_batch(&mut self) -> Batch<R> {
        let mut batch = Batch { commands: Vec::new(), proposers: Vec::new(), readers: Vec::new() };
        let mut bytes = 0;
        for _ in 0..self.options.max_batch_commands {
            let Ok(request) = self.ports.requests.try_recv() else { break };
            match request {
                Request::Propose { command, promise } if !promise.is_abandoned() => {
                    bytes += command.len() as u64;
                    batch.commands.push(command);
                    batch.proposers.push(promise);
                }
                Request::Read { promise } if !promise.is_abandoned() => batch.readers.push(promise),
                Request::Propose { .. } | Request::Read { .. } => (),
                Request::Shutdown => self.begin_to_stop(),
            }
            if bytes >= self.options.max_batch_bytes {
                break;
            }
        }
        batch
    }

    fn propose(&mut self, commands: Vec<Bytes>, mut proposers: Vec<Promise<Proposed<R>>>) -> Result<(), Ended> {
        if commands.is_empty() {
            return Ok(());
        }
        // What is in the log may be replicated and applied by others, whatever becomes of this node.
        proposers.iter_mut().for_each(Promise::comes_in_doubt);
        let id = self.next_request();
        self.proposing.insert(id, proposers);
        self.step(Input::Propose { id, commands })
    }

    /// One read index serves all who asked before it was asked for.
    fn read(&mut self, readers: Vec<Promise<Index>>) -> Result<(), Ended> {
        if readers.is_empty() {
            return Ok(());
        }
        let id = self.next_request();
        self.readers.ask(id, readers);
        self.step(Input::Read { id })
    }

    fn take_ticks(&mut self) -> Result<(), Ended> {
        for _ in 0..self.clock.take_due(Instant::now()) {
            self.step(Input::Tick)?;
            self.is_changed = true;
            self.ticks_to_sweep = self.ticks_to_sweep.saturating_sub(1);
        }
        if self.ticks_to_sweep == 0 {
            self.ticks_to_sweep = self.options.core.election_timeout_ticks;
            self.sweep();
        }
        Ok(())
    }

    /// Drops the promises whose clients are gone. They would go with their entries, but a node without a majority may wait long for those.
    fn sweep(&mut self) {
        self.waiters.retain(|promise| !promise.is_abandoned());
        self.readers.retain(|promise| !promise.is_abandoned());
    }

    fn step(&mut self, input: Input) -> Result<(), Ended> {
        self.core.step(input).into_iter().try_for_each(|effect| self.carry_out(effect))
    }

    fn carry_out(&mut self, effect: Effect) -> Result<(), Ended> {
        match effect {
            Effect::Became { role, term, leader } => {
                self.is_changed = true;
                self.reporter.became(role, term, leader);
            }
            Effect::UseMembership(membership) => {
                self.is_changed = true;
                self.reporter.membership(&membership);
                self.ports.transport.use_membership(&membership);
            }
            Effect::Persist(persist) => self.writes.push(persist),
            Effect::Send(envelope) => self.ports.transport.send(envelope),
            Effect::Appended { id, first, count } => self.appended(id, first, count),
            Effect::Apply(entries) => self.apply(entries),
            Effect::ServeRead { id, index } => {
                self.readers.serve(id, index);
                self.answer_readers();
            }
            Effect::Refuse { id, reason, leader } => self.refuse(id, RequestError::of_refusal(reason, leader)),
            Effect::Discard { from, reason } => self.reporter.discard(from, reason),
            Effect::Halt(violation) => return Err(Ended::Violation(violation)),
        }
        Ok(())
    }

    fn appended(&mut self, id: RequestId, first: EntryId, count: u64) {
        let proposers = self.proposing.remove(&id).unwrap_or_default();
        assert_eq!(proposers.len() as u64, count, "a batch is appended as a whole");
        for (offset, promise) in (0..).zip(proposers) {
            self.waiters.insert(EntryId::new(first.index.plus(offset), first.term), promise);
        }
    }

    /// Hands committed entries to the applier, with those who wait for them.
    fn apply(&mut self, entries: Vec<Entry>) {
        let mut work = Vec::with_capacity(entries.len());
        for entry in entries {
            let decision = self.waiters.decide(entry.id);
            decision.lost.into_iter().for_each(|promise| promise.answer(Err(RequestError::Lost)));
            work.push(Committed { entry, waiter: decision.applied });
        }
        // It fails where the applier has ended; why is on its way.
        let _ = self.ports.work.send(work);
    }

    fn refuse(&mut self, id: RequestId, error: RequestError) {
        let proposers = self.proposing.remove(&id).unwrap_or_default();
        proposers.into_iter().for_each(|promise| promise.answer(Err(error)));
        self.readers.refuse(id).into_iter().for_each(|promise| promise.answer(Err(error)));
    }

    fn answer_readers(&mut self) {
        for (index, promise) in self.readers.take_ready(self.applied) {
            promise.answer(Ok(index));
        }
    }

    fn hand_over_writes(&mut self) {
        if !self.writes.is_empty() {
            // It fails where the log writer has ended; why is on its way.
            let _ = self.ports.writes.send(std::mem::take(&mut self.writes));
        }
    }

    fn publish_status(&self) {
        let status = self.core.status();
        self.ports.status.send_if_modified(|published| {
            let is_modified = *published != status;
            *published = status;
            is_modified
        });
    }

    fn begin_to_stop(&mut self) {
        let stop_at = Instant::now() + self.options.shutdown_grace;
        self.stop_at.get_or_insert(stop_at);
    }

    /// Ends the node once it was asked to stop and nobody waits any more, or their time is up.
    fn stop_if_done(&self) -> Result<(), Ended> {
        match self.stop_at {
            Some(at) if self.ports.open.0.budget.is_unused() || Instant::now() >= at => Err(Ended::Shutdown),
            _ => Ok(()),
        }
    }

    fn next_request(&mut self) -> RequestId {
        self.last_request.0 += 1;
        self.last_request
    }
}
