//! The one loop: inputs, `step`, effects.

use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Select, Sender};
use raft_core::effect::{Effect, Persist, Refusal, RoleKind};
use raft_core::input::{Input, ReadMode};
use raft_core::message::{Envelope, Message};
use raft_core::node::Node;
use raft_core::port::{Capture, Transport};
use raft_core::status::Status;
use raft_core::types::{Entry, Index, NodeId, RequestId, Snapshot, Term};
use tokio::sync::watch;

use super::applier::{Captured, Task};
use super::clients::{Asked, Clients};
use super::clock::Clock;
use super::handle::{Handle, Proposed, Request};
use super::log_writer::{Load, LogWork};
use super::mailbox::Inbox;
use super::options::Options;
use super::promise::{Promise, RequestError};
use super::report::Reporter;
use super::requests::Batch;
use super::running::{Completion, Ended, Stop, StopOnDrop};
use super::stopping::{Handover, Stopping};

/// How many messages are taken in one round, so that requests and ticks get their turn.
const MAX_MESSAGES_A_ROUND: usize = 256;

/// What the driver is connected to.
pub(super) struct Ports<R, T> {
    pub(super) inbox: Inbox,
    pub(super) requests: Receiver<Request<R>>,
    pub(super) completions: Receiver<Completion>,
    pub(super) log: Sender<LogWork>,
    pub(super) work: Sender<Vec<Task<R>>>,
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
    clients: Clients<R>,
    role: RoleKind,
    /// Whether the membership in force names this node.
    is_member: bool,
    /// A copy of the state for a node, to go with the message that the core is about to order.
    captured: Option<(NodeId, Box<dyn Capture>)>,
    /// Whether role, term, leader or membership have changed in this round.
    is_changed: bool,
    ticks_to_sweep: u32,
    /// There once the node has been asked to stop.
    stopping: Option<Stopping>,
}

impl<R, T: Transport> Driver<R, T> {
    pub(super) fn new(core: Node, applied: Index, options: Options, ports: Ports<R, T>, stop: Stop) -> Self {
        let clock = Clock::new(options.tick, options.core.heartbeat_ticks, Instant::now());
        let is_member = core.status().membership.members.contains_key(&options.core.id);
        Self {
            core,
            ports,
            clock,
            reporter: Reporter::new(options.core.id),
            writes: Vec::new(),
            clients: Clients::new(applied),
            role: RoleKind::Follower,
            is_member,
            captured: None,
            is_changed: false,
            ticks_to_sweep: options.core.election_timeout_ticks,
            stopping: None,
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
                Completion::Loaded { from, entries } => self.step(Input::Loaded { from, entries })?,
                Completion::Applied(index) => {
                    self.step(Input::Applied(index))?;
                    self.clients.applied(index);
                }
                Completion::SnapshotTaken(index) => self.step(Input::SnapshotTaken(index))?,
                Completion::Captured { to, capture } => self.captured(to, capture)?,
                Completion::Failed(ended) => return Err(ended),
            }
        }
        Ok(())
    }

    fn take_messages(&mut self) -> Result<(), Ended> {
        for _ in 0..MAX_MESSAGES_A_ROUND {
            let Ok(letter) = self.ports.inbox.messages.try_recv() else { break };
            self.step(letter.input)?;
        }
        Ok(())
    }

    /// The copy of the state for `to` goes with the `InstallSnapshot` that the core now orders, or is not needed any more.
    fn captured(&mut self, to: NodeId, capture: Captured) -> Result<(), Ended> {
        match capture {
            Ok(capture) => {
                let index = capture.last().index;
                self.captured = Some((to, capture));
                self.step(Input::SnapshotCaptured { to, index })?;
                self.captured = None;
                Ok(())
            }
            Err(error) => {
                self.reporter.no_capture(to, &*error);
                self.step(Input::SnapshotSent { to, arrived: false })
            }
        }
    }

    fn take_requests(&mut self) -> Result<(), Ended> {
        let Options { max_batch_commands, max_batch_bytes, .. } = self.options;
        let batch = Batch::take(&self.ports.requests, max_batch_commands, max_batch_bytes);
        if batch.shutdown {
            self.begin_to_stop()?;
        }
        if self.stopping.is_some() {
            // Dropped unused, they answer that the node has stopped.
            return Ok(());
        }
        self.propose(batch.commands, batch.proposers)?;
        self.read(ReadMode::Quorum, batch.readers)?;
        // Taken after the requests were made, and before the core acts on it.
        let now = self.clock.moment(Instant::now());
        self.read(ReadMode::Lease { now }, batch.lease_readers)?;
        batch.others.into_iter().try_for_each(|request| self.ask(request))
    }

    fn propose(&mut self, commands: Vec<Bytes>, proposers: Vec<Promise<Proposed<R>>>) -> Result<(), Ended> {
        if commands.is_empty() {
            return Ok(());
        }
        let id = self.clients.ask(Asked::Proposals(proposers));
        self.step(Input::Propose { id, commands })
    }

    /// One read index serves all who asked before it was asked for.
    fn read(&mut self, mode: ReadMode, readers: Vec<Promise<Index>>) -> Result<(), Ended> {
        if readers.is_empty() {
            return Ok(());
        }
        let id = self.clients.ask_to_read(readers);
        self.step(Input::Read { id, mode })
    }

    fn ask(&mut self, request: Request<R>) -> Result<(), Ended> {
        let input = match request {
            Request::ChangeMembership { change, promise } => {
                Input::ChangeMembership { id: self.clients.ask(Asked::Change(promise)), change }
            }
            Request::LeaveJoint { promise } => Input::LeaveJoint { id: self.clients.ask(Asked::Change(promise)) },
            Request::TransferLeadership { to, promise } => {
                Input::TransferLeadership { id: self.clients.ask(Asked::StepDown(promise)), to }
            }
            Request::StepDown { promise } => Input::StepDown { id: self.clients.ask(Asked::StepDown(promise)) },
            Request::Campaign => Input::Campaign,
            Request::Propose { .. } | Request::Read { .. } | Request::Shutdown => return Ok(()),
        };
        self.step(input)
    }

    fn take_ticks(&mut self) -> Result<(), Ended> {
        for _ in 0..self.clock.take_due(Instant::now()) {
            self.step(Input::Tick)?;
            self.is_changed = true;
            self.ticks_to_sweep = self.ticks_to_sweep.saturating_sub(1);
        }
        if self.ticks_to_sweep == 0 {
            self.ticks_to_sweep = self.options.core.election_timeout_ticks;
            self.clients.sweep(self.role == RoleKind::Leader, self.is_member);
        }
        Ok(())
    }

    fn step(&mut self, input: Input) -> Result<(), Ended> {
        self.core.step(input).into_iter().try_for_each(|effect| self.carry_out(effect))
    }

    fn carry_out(&mut self, effect: Effect) -> Result<(), Ended> {
        match effect {
            Effect::Became { role, term, leader } => self.became(role, term, leader),
            Effect::UseMembership(membership) => {
                self.is_changed = true;
                self.is_member = membership.members.contains_key(&self.options.core.id);
                self.reporter.membership(&membership);
                self.ports.transport.use_membership(&membership);
            }
            Effect::Persist(persist) => self.writes.push(persist),
            Effect::Load { from, max_bytes } => self.hand_to_log(LogWork::Load(Load { from, max_bytes })),
            Effect::Send(envelope) => self.send(envelope),
            Effect::Appended { id, first, count } => self.clients.appended(id, first, count),
            Effect::Apply(entries) => self.apply(&entries),
            Effect::TakeSnapshot(_) => self.hand_to_applier(vec![Task::TakeSnapshot]),
            Effect::CaptureSnapshot { to } => self.hand_to_applier(vec![Task::Capture { to }]),
            Effect::InstallSnapshot(snapshot) => self.install(snapshot),
            Effect::SteppedDown { id } => self.clients.stepped_down(id),
            Effect::ServeRead { id, index } => self.clients.serve(id, index),
            Effect::Refuse { id, reason, leader } => self.refuse(id, reason, leader),
            Effect::Discard { from, reason } => self.reporter.discard(from, reason),
            Effect::Halt(violation) => return Err(Ended::Violation(violation)),
        }
        Ok(())
    }

    fn became(&mut self, role: RoleKind, term: Term, leader: Option<NodeId>) {
        self.is_changed = true;
        self.role = role;
        self.reporter.became(role, term, leader);
        if role != RoleKind::Leader
            && leader.is_some()
            && let Some(stopping) = &mut self.stopping
        {
            stopping.follows();
        }
    }

    /// Sends a message; an `InstallSnapshot` with the copy of the state that was made for it.
    fn send(&mut self, envelope: Envelope) {
        let is_install = matches!(envelope.message, Message::InstallSnapshot(_));
        match self.captured.take_if(|(to, _)| is_install && *to == envelope.to) {
            Some((_, capture)) => self.ports.transport.send_snapshot(envelope, capture),
            None => {
                assert!(!is_install, "a snapshot is sent only with its data");
                self.ports.transport.send(envelope);
            }
        }
    }

    /// Hands committed entries to the applier, with those who wait for them.
    fn apply(&mut self, entries: &[Entry]) {
        let tasks = entries.iter().map(|entry| Task::Apply(self.clients.committed(entry.clone()))).collect();
        self.hand_to_applier(tasks);
    }

    fn install(&mut self, snapshot: Snapshot) {
        self.reporter.installs(&snapshot);
        self.clients.covered(snapshot.last.index);
        self.hand_to_applier(vec![Task::Install(snapshot)]);
    }

    fn refuse(&mut self, id: RequestId, reason: Refusal, leader: Option<NodeId>) {
        if let Some(stopping) = &mut self.stopping {
            stopping.refused(id);
        }
        self.clients.refused(id, RequestError::of_refusal(reason, leader));
    }

    fn hand_to_applier(&self, tasks: Vec<Task<R>>) {
        // It fails where the applier has ended; why is on its way.
        let _ = self.ports.work.send(tasks);
    }

    fn hand_to_log(&self, work: LogWork) {
        // It fails where the log writer has ended; why is on its way.
        let _ = self.ports.log.send(work);
    }

    fn hand_over_writes(&mut self) {
        if !self.writes.is_empty() {
            let writes = std::mem::take(&mut self.writes);
            self.hand_to_log(LogWork::Write(writes));
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

    /// A leader hands over first, so that the others do not have to find out that it is gone.
    fn begin_to_stop(&mut self) -> Result<(), Ended> {
        if self.stopping.is_some() {
            return Ok(());
        }
        let now = Instant::now();
        let by = now + self.options.shutdown_grace;
        let Some(to) = self.core.status().successor() else {
            self.stopping = Some(Stopping { by, handover: None });
            return Ok(());
        };
        let id = self.clients.next_request();
        let election_timeout = self.options.tick * self.options.core.election_timeout_ticks;
        self.stopping = Some(Stopping { by, handover: Some(Handover { id, by: now + election_timeout }) });
        self.step(Input::TransferLeadership { id, to })
    }

    /// Ends the node once it was asked to stop and nobody waits any more, or their time is up.
    fn stop_if_done(&self) -> Result<(), Ended> {
        let is_idle = self.ports.open.0.budget.is_unused();
        match &self.stopping {
            Some(stopping) if stopping.is_done(is_idle, Instant::now()) => Err(Ended::Shutdown),
            _ => Ok(()),
        }
    }
}
