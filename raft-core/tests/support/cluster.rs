//! A cluster of real nodes whose clock, network and disks do as they are told.
//!
//! On the way it holds the nodes to what the core promises its driver: writes are numbered without a gap, nothing
//! leaves a node that is not durable there, entries are applied once and in order and never before they are durable,
//! and no two nodes lead one term or apply different entries.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use bytes::Bytes;
use raft_core::config::Config;
use raft_core::effect::{Effect, Persist, RoleKind};
use raft_core::input::{Input, LoadFailed, ReadMode};
use raft_core::membership::Membership;
use raft_core::message::{AppendEntriesReply, AppendResult, Envelope, Message};
use raft_core::node::{BootError, Node};
use raft_core::port::Stored;
use raft_core::status::Status;
use raft_core::types::{Entry, EntryId, HardState, Index, Member, NodeId, Payload, RequestId, Snapshot, Term, WriteId};

use crate::store;
use crate::support::disk::Disk;
use crate::support::network::{Filter, Network};
use crate::support::trace::{self, Standing};

/// More ticks than any timeout takes.
const MANY_TICKS: u32 = 1000;
/// More deliveries than any exchange between few nodes takes.
const MANY_DELIVERIES: usize = 10_000;

/// Nodes, what lies between them, and what they have done since the last [`Cluster::take_trace`].
#[derive(Clone, Debug)]
pub struct Cluster {
    machines: BTreeMap<NodeId, Machine>,
    network: Network,
    last_request: RequestId,
    trace: Vec<String>,
    history: History,
}

/// One machine: a node, while it runs, its disk and its state machine.
#[derive(Clone, Debug)]
struct Machine {
    config: Config,
    node: Option<Node>,
    disk: Disk,
    /// What the state machine has applied, from the first entry on. It survives a crash.
    applied: Vec<Entry>,
    /// What this machine takes its time for.
    held: BTreeSet<Work>,
    /// What it has been told to do and has not done yet.
    waiting: Vec<Order>,
    /// The last write that was ordered.
    last_write: WriteId,
    /// What was last announced.
    standing: Standing,
}

/// What a machine does at once, unless it is held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Saying what the state machine has applied.
    Applies,
    /// Reading entries that have left the node's memory.
    Loads,
    /// Making the state durable.
    Snapshots,
    /// Making a copy of the state for another node.
    Captures,
    /// Saying how the transfer of a snapshot has ended.
    Reports,
}

/// One piece of such work.
#[derive(Clone, Debug)]
enum Order {
    Apply(Index),
    Load { from: Index, max_bytes: u64 },
    TakeSnapshot(Index),
    Capture { to: NodeId },
    Report { to: NodeId, arrived: bool },
}

/// What may never be contradicted, whatever happens later.
#[derive(Clone, Debug, Default)]
struct History {
    leaders: BTreeMap<Term, NodeId>,
    applied: BTreeMap<Index, Entry>,
}

impl Cluster {
    /// Nodes 1 to `count` that begin together, of which some should rather lead than others, with the settings that `configure` makes for each.
    pub fn new(count: u64, preferred: &BTreeSet<NodeId>, configure: impl Fn(NodeId) -> Config) -> Self {
        let ids = (1..=count).map(NodeId);
        let priority = |id| (1..).zip(preferred).find(|(_, other)| **other == id).map_or(0, |(priority, _)| priority);
        let member = |id| (id, Member { priority: priority(id), ..Member::default() });
        let stored = Stored::first(Membership::of_voters(ids.clone().map(member).collect()));
        let mut cluster = Self {
            machines: ids.map(|id| (id, Machine::new(configure(id), Disk::new(stored.clone())))).collect(),
            network: Network::default(),
            last_request: RequestId(0),
            trace: Vec::new(),
            history: History::default(),
        };
        for id in cluster.ids() {
            cluster.start(id, EntryId::ZERO, None).expect("a new node can start");
        }
        cluster
    }

    // What there is.

    /// All nodes.
    pub fn ids(&self) -> BTreeSet<NodeId> {
        self.machines.keys().copied().collect()
    }

    /// Whether `id` runs.
    pub fn is_up(&self, id: NodeId) -> bool {
        self.machine(id).node.is_some()
    }

    /// The node, which must run.
    pub fn node(&self, id: NodeId) -> &Node {
        self.machine(id).node.as_ref().unwrap_or_else(|| panic!("{id} is down"))
    }

    /// What the node says of itself.
    pub fn status(&self, id: NodeId) -> Status {
        self.node(id).status()
    }

    /// What is durable on the node's disk.
    pub fn durable(&self, id: NodeId) -> &Stored {
        self.machine(id).disk.durable()
    }

    /// What the node's state machine has applied, from the first entry on.
    pub fn applied(&self, id: NodeId) -> &[Entry] {
        &self.machine(id).applied
    }

    /// The messages under way.
    pub fn under_way(&self) -> &[Envelope] {
        self.network.under_way()
    }

    /// The lines written since the last call.
    pub fn take_trace(&mut self) -> Vec<String> {
        mem::take(&mut self.trace)
    }

    /// Writes a line.
    pub fn note(&mut self, line: String) {
        self.trace.push(line);
    }

    fn machine(&self, id: NodeId) -> &Machine {
        self.machines.get(&id).unwrap_or_else(|| panic!("there is no {id}"))
    }

    fn machine_mut(&mut self, id: NodeId) -> &mut Machine {
        self.machines.get_mut(&id).unwrap_or_else(|| panic!("there is no {id}"))
    }

    // Time.

    /// One tick passes at a node. Returns whether it did anything.
    pub fn tick(&mut self, id: NodeId) -> bool {
        self.step(id, Input::Tick)
    }

    /// Time passes at a node until its role changes.
    pub fn campaign(&mut self, id: NodeId) {
        let acts = (0..MANY_TICKS).any(|_| self.tick(id));
        assert!(acts, "{id} does not stand for election");
    }

    /// Time passes at a leader until it sends heartbeats.
    pub fn heartbeat(&mut self, id: NodeId) {
        assert_eq!(self.status(id).role, RoleKind::Leader, "only a leader sends heartbeats");
        let acts = (0..MANY_TICKS).any(|_| self.tick(id));
        assert!(acts, "{id} sends no heartbeat");
    }

    /// Time passes at a follower until the leader, if it had one, is no reason any more to refuse others.
    ///
    /// # Panics
    ///
    /// If its own timeout is the least there is, so that it stands first: another seed helps.
    pub fn silence(&mut self, id: NodeId) {
        while self.hears_leader(id) {
            let stands = self.tick(id);
            assert!(!stands, "{id} has drawn the least election timeout: choose another seed");
        }
    }

    /// Whether a node refuses the best of candidates for the sake of its leader.
    fn hears_leader(&self, id: NodeId) -> bool {
        let best = EntryId::new(Index(u64::MAX), Term::LAST);
        let message = Message::RequestPreVote { last: best };
        let stranger = NodeId::LAST;
        let envelope = Envelope { from: stranger, to: id, term: self.status(id).term, message };
        let effects = self.node(id).clone().step(Input::Receive(envelope));
        let refuses = |effect: &Effect| match effect {
            Effect::Send(Envelope { message: Message::RequestPreVoteReply { granted, .. }, .. }) => !granted,
            _ => false,
        };
        effects.iter().any(refuses)
    }

    // The network.

    /// Delivers the messages under way that `filter` means, but not those that they bring about. Returns how many
    /// there were.
    pub fn deliver(&mut self, filter: &Filter) -> usize {
        let envelopes = self.network.take(filter);
        let count = envelopes.len();
        for envelope in envelopes {
            self.receive(envelope);
        }
        count
    }

    /// Delivers all messages, and those that they bring about, until none can be delivered.
    pub fn stabilize(&mut self) {
        let mut deliveries = 0;
        loop {
            match self.deliver(&Filter::default()) {
                0 => return,
                count => deliveries += count,
            }
            assert!(deliveries < MANY_DELIVERIES, "the cluster does not come to rest");
        }
    }

    /// Loses the messages that `filter` means.
    pub fn drop(&mut self, filter: &Filter) -> usize {
        let envelopes = self.network.take(filter);
        envelopes.iter().for_each(|envelope| self.lose(envelope));
        envelopes.len()
    }

    fn lose(&mut self, envelope: &Envelope) {
        self.note(trace::sent(envelope, "↛"));
        self.report(envelope, false);
    }

    /// Whoever has sent a snapshot hears whether it has arrived.
    fn report(&mut self, envelope: &Envelope, arrived: bool) {
        let Envelope { from, to, message, .. } = envelope;
        let carries_snapshot = matches!(message, Message::InstallSnapshot(_));
        if carries_snapshot && self.machines.contains_key(from) && self.is_up(*from) {
            self.order(*from, Work::Reports, Order::Report { to: *to, arrived });
        }
    }

    /// Puts a copy of the messages that `filter` means after all that are under way.
    pub fn duplicate(&mut self, filter: &Filter) -> usize {
        let mut rest = self.network.clone();
        let envelopes = rest.take(filter);
        for envelope in &envelopes {
            self.network.send(envelope.clone());
        }
        envelopes.len()
    }

    /// Lets the messages that `filter` means arrive last, the youngest first.
    pub fn reorder(&mut self, filter: &Filter) -> usize {
        let mut envelopes = self.network.take(filter);
        let count = envelopes.len();
        envelopes.reverse();
        for envelope in envelopes {
            self.network.send(envelope);
        }
        count
    }

    /// Cuts all links between `group` and the other nodes.
    pub fn partition(&mut self, group: &BTreeSet<NodeId>) {
        for &inside in group {
            for outside in self.ids().difference(group).copied() {
                self.network.cut(inside, outside);
                self.network.cut(outside, inside);
            }
        }
    }

    /// Cuts the way from one node to another.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.network.cut(from, to);
    }

    /// Mends all links.
    pub fn heal(&mut self) {
        self.network.heal();
    }

    /// A message arrives, from whomever. One that is addressed to a node that is down is lost.
    pub fn receive(&mut self, envelope: Envelope) {
        self.receive_at(envelope.to, envelope.clone());
        if self.is_up(envelope.to) {
            self.report(&envelope, true);
        }
    }

    /// A message arrives at `id`, whomever it is addressed to.
    pub fn receive_at(&mut self, id: NodeId, envelope: Envelope) {
        if !self.is_up(id) {
            return self.lose(&envelope);
        }
        let before = self.node(id).clone();
        let line = trace::received(&envelope);
        if !self.step(id, Input::Receive(envelope)) {
            let reaction = if *self.node(id) == before { "unmoved by" } else { "notes" };
            self.note(format!("{} {reaction} {line}", self.name(id)));
        }
    }

    // Clients.

    /// Proposes commands to a node, as one batch.
    pub fn propose(&mut self, id: NodeId, commands: Vec<Bytes>) -> RequestId {
        let request = self.next_request();
        self.step(id, Input::Propose { id: request, commands });
        request
    }

    /// Asks a node for a linearizable read.
    pub fn read(&mut self, id: NodeId, mode: ReadMode) -> RequestId {
        let request = self.next_request();
        self.step(id, Input::Read { id: request, mode });
        request
    }

    /// Asks a node for something else that has an outcome.
    pub fn ask(&mut self, id: NodeId, input: impl FnOnce(RequestId) -> Input) -> RequestId {
        let request = self.next_request();
        self.step(id, input(request));
        request
    }

    fn next_request(&mut self) -> RequestId {
        self.last_request = RequestId(self.last_request.0 + 1);
        self.last_request
    }

    // Disks, crashes, restarts.

    /// From now on writes wait for [`confirm`](Self::confirm).
    pub fn hold_disk(&mut self, id: NodeId) {
        self.machine_mut(id).disk.is_held = true;
    }

    /// Makes all writes durable, those to come as well.
    pub fn release_disk(&mut self, id: NodeId) {
        self.machine_mut(id).disk.is_held = false;
        self.flush(id);
    }

    /// Makes writes up to `write` durable, and says so to the node.
    pub fn confirm(&mut self, id: NodeId, write: WriteId) {
        self.machine_mut(id).disk.confirm(write);
        self.note(format!("{} persisted {write}", self.name(id)));
        self.step(id, Input::Persisted(write));
    }

    /// Makes writes up to `write` durable, without a word to the node.
    pub fn land(&mut self, id: NodeId, write: WriteId) {
        self.machine_mut(id).disk.confirm(write);
    }

    /// A node ends, and loses what was not durable.
    pub fn crash(&mut self, id: NodeId) {
        let machine = self.machine_mut(id);
        machine.node = None;
        machine.disk.lose_unconfirmed();
        machine.held.clear();
        machine.waiting.clear();
    }

    /// A node ends, and starts again from its disk, of which it is handed `in_memory` entries, or all. Its state machine has kept what it has applied,
    /// and installs a snapshot that it had not installed yet.
    pub fn restart(&mut self, id: NodeId, in_memory: Option<usize>) -> Result<(), BootError> {
        self.crash(id);
        let applied = self.applied(id).last().map_or(EntryId::ZERO, |entry| entry.id);
        let recorded = self.durable(id).snapshot.clone();
        if applied.index >= recorded.last.index {
            return self.start(id, applied, in_memory);
        }
        self.note(format!("{id} installs snapshot {}", trace::snapshot(&recorded)));
        self.machine_mut(id).applied = self.state_at(recorded.last);
        self.start(id, recorded.last, in_memory)
    }

    /// A node ends, and starts again from its disk, with a state machine that says it has applied `applied`.
    pub fn restart_with_applied(
        &mut self,
        id: NodeId,
        applied: EntryId,
        in_memory: Option<usize>,
    ) -> Result<(), BootError> {
        self.crash(id);
        self.start(id, applied, in_memory)
    }

    /// A node ends, and starts again with another disk, and a state machine with what the log begins after.
    pub fn replace_disk(&mut self, id: NodeId, stored: Stored) -> Result<(), BootError> {
        self.crash(id);
        let applied = stored.snapshot.last;
        self.machine_mut(id).applied = self.state_at(applied);
        self.machine_mut(id).disk = Disk::new(stored);
        self.start(id, applied, None)
    }

    /// The state that includes all up to `last`. Of what nobody has applied, no more is known than that it was there.
    fn state_at(&self, last: EntryId) -> Vec<Entry> {
        let unknown = |index| Entry { id: EntryId::new(index, last.term), payload: Payload::Noop };
        let entry = |index| self.history.applied.get(&index).cloned().unwrap_or_else(|| unknown(index));
        (1..=last.index.0).map(|index| entry(Index(index))).collect()
    }

    fn start(&mut self, id: NodeId, applied: EntryId, in_memory: Option<usize>) -> Result<(), BootError> {
        let missed = self.state_at(applied).split_off(self.applied(id).len().min(applied.index.0 as usize));
        let machine = self.machine_mut(id);
        let stored = store::handing_over(machine.disk.durable().clone(), in_memory);
        let node = Node::new(machine.config.clone(), stored, applied)?;
        machine.standing = Standing::of(&node.status());
        machine.last_write = WriteId(0);
        machine.applied.truncate(applied.index.0 as usize);
        machine.applied.extend(missed);
        machine.node = Some(node);
        self.note_start(id);
        // What a node says at its start, it says with the first step, whichever that is.
        self.step(id, Input::Persisted(WriteId(0)));
        Ok(())
    }

    fn note_start(&mut self, id: NodeId) {
        let machine = self.machine(id);
        let HardState { vote, .. } = machine.disk.durable().hard_state;
        let log = trace::log(machine.disk.durable());
        let vote = vote.map(|vote| format!(" vote={vote}")).unwrap_or_default();
        self.note(format!("{} starts{vote} applied={} {log}", machine.standing, machine.applied.len()));
    }

    // The driver's work.

    /// Gives a node an input and carries out what it orders. Returns whether it ordered anything.
    pub fn step(&mut self, id: NodeId, input: Input) -> bool {
        let Some(node) = &mut self.machine_mut(id).node else { return false };
        let effects = node.step(input);
        let acts = !effects.is_empty();
        let answers: Vec<Input> = effects.into_iter().filter_map(|effect| self.carry_out(id, effect)).collect();
        for answer in answers {
            self.step(id, answer);
        }
        self.flush(id);
        acts
    }

    // What machines do at once, unless they are held up.

    /// From now on this work waits for [`release`](Self::release).
    pub fn hold(&mut self, id: NodeId, work: Work) {
        self.machine_mut(id).held.insert(work);
    }

    /// Does the work that waits, and does it at once from now on. Returns how much it was.
    pub fn release(&mut self, id: NodeId, work: Work) -> usize {
        self.machine_mut(id).held.remove(&work);
        let orders = self.take_waiting(id, work);
        let count = orders.len();
        for order in orders {
            self.fulfil(id, order);
        }
        count
    }

    /// The work that waits fails. Returns how much it was.
    pub fn fail(&mut self, id: NodeId, work: Work) -> usize {
        let orders = self.take_waiting(id, work);
        let count = orders.len();
        for order in orders {
            match order {
                Order::Load { from, .. } => {
                    self.note(format!("{} load {from} fails", self.name(id)));
                    self.step(id, Input::Loaded { from, entries: Err(LoadFailed) });
                }
                Order::Capture { to } | Order::Report { to, .. } => {
                    self.fulfil(id, Order::Report { to, arrived: false });
                }
                Order::Apply(_) | Order::TakeSnapshot(_) => panic!("a node whose state machine fails is at its end"),
            }
        }
        count
    }

    fn take_waiting(&mut self, id: NodeId, work: Work) -> Vec<Order> {
        self.machine_mut(id).waiting.extract_if(.., |order| order.work() == work).collect()
    }

    /// Does a piece of work, now or when it is released.
    fn order(&mut self, id: NodeId, work: Work, order: Order) {
        if let Some(answer) = self.answer_unless_held(id, work, order) {
            self.step(id, answer);
        }
    }

    fn fulfil(&mut self, id: NodeId, order: Order) {
        let answer = self.answer(id, order);
        self.step(id, answer);
    }

    fn answer_unless_held(&mut self, id: NodeId, work: Work, order: Order) -> Option<Input> {
        let machine = self.machine_mut(id);
        if machine.held.contains(&work) {
            machine.waiting.push(order);
            return None;
        }
        Some(self.answer(id, order))
    }

    fn answer(&mut self, id: NodeId, order: Order) -> Input {
        match order {
            Order::Load { from, max_bytes } => {
                let entries = self.durable(id).read(from, max_bytes);
                Input::Loaded { from, entries: if entries.is_empty() { Err(LoadFailed) } else { Ok(entries) } }
            }
            Order::Apply(index) => Input::Applied(index),
            Order::TakeSnapshot(index) => Input::SnapshotTaken(index),
            Order::Capture { to } => Input::SnapshotCaptured { to, index: Index(self.applied(id).len() as u64) },
            Order::Report { to, arrived } => {
                let end = if arrived { "has arrived" } else { "has failed" };
                self.note(format!("{} snapshot for {to} {end}", self.name(id)));
                Input::SnapshotSent { to, arrived }
            }
        }
    }

    /// A disk that is not held is at once done with what was written.
    fn flush(&mut self, id: NodeId) {
        let disk = &self.machine(id).disk;
        if let Some(write) = disk.last_unconfirmed()
            && !disk.is_held
        {
            self.confirm(id, write);
        }
    }

    /// Carries out an effect. Returns its answer, which the node hears after all that it has ordered is done.
    fn carry_out(&mut self, id: NodeId, effect: Effect) -> Option<Input> {
        let name = self.name(id);
        match effect {
            Effect::Became { role, term, leader } => self.became(Standing { id, role, term, leader }),
            Effect::UseMembership(membership) => self.note(format!("{name} {}", trace::members(&membership))),
            Effect::Persist(persist) => self.persist(id, persist),
            Effect::Send(envelope) => self.send(id, envelope),
            Effect::Appended { id, first, count } => {
                self.note(format!("{name} appended {id} {}", trace::range(first, count)));
            }
            Effect::Apply(entries) => {
                let last = self.apply(id, &entries);
                return self.answer_unless_held(id, Work::Applies, Order::Apply(last));
            }
            Effect::Load { from, max_bytes } => {
                self.note(format!("{name} load {from} max_bytes={max_bytes}"));
                return self.answer_unless_held(id, Work::Loads, Order::Load { from, max_bytes });
            }
            Effect::TakeSnapshot(snapshot) => {
                self.note(format!("{name} take snapshot {}", trace::snapshot(&snapshot)));
                return self.answer_unless_held(id, Work::Snapshots, Order::TakeSnapshot(snapshot.last.index));
            }
            Effect::CaptureSnapshot { to } => {
                self.note(format!("{name} capture snapshot for {to}"));
                return self.answer_unless_held(id, Work::Captures, Order::Capture { to });
            }
            Effect::InstallSnapshot(snapshot) => {
                self.install(id, &snapshot);
                return self.answer_unless_held(id, Work::Applies, Order::Apply(snapshot.last.index));
            }
            Effect::SteppedDown { id } => self.note(format!("{name} stepped down {id}")),
            Effect::ServeRead { id, index } => self.note(format!("{name} {}", trace::serve(id, index))),
            Effect::Refuse { id, reason, leader } => {
                let hint = leader.map(|leader| format!(" (leader {leader})")).unwrap_or_default();
                self.note(format!("{name} refuse {id}{hint}: {reason}"));
            }
            Effect::Discard { from, reason } => self.note(format!("{name} discard from {from}: {reason}")),
            Effect::Halt(violation) => self.note(format!("{name} halt: {violation}")),
        }
        None
    }

    fn became(&mut self, standing: Standing) {
        let before = mem::replace(&mut self.machine_mut(standing.id).standing, standing);
        self.note(format!("{before} ⇨ {standing}"));
        if standing.role == RoleKind::Leader {
            let first = *self.history.leaders.entry(standing.term).or_insert(standing.id);
            assert_eq!(first, standing.id, "a term has one leader (§5.2), but {} has two", standing.term);
        }
    }

    fn persist(&mut self, id: NodeId, persist: Persist) {
        self.note(format!("{} persist {}", self.name(id), trace::write(&persist)));
        let machine = self.machine_mut(id);
        assert_eq!(persist.id, machine.last_write.next(), "writes are numbered without a gap");
        machine.last_write = persist.id;
        machine.disk.write(persist);
    }

    fn send(&mut self, id: NodeId, envelope: Envelope) {
        assert_eq!(envelope.from, id, "a node sends in its own name");
        self.check_promise(&envelope);
        let under_way = trace::sent(&envelope, "→");
        let arrives = self.machines.get(&envelope.to).is_some_and(|machine| machine.node.is_some());
        if arrives && self.network.send(envelope.clone()) {
            self.note(under_way);
        } else {
            self.lose(&envelope);
        }
    }

    /// A message may only promise what is durable.
    fn check_promise(&self, Envelope { from, to, term, message }: &Envelope) {
        let stored = self.durable(*from);
        let hard_state = stored.hard_state;
        assert!(hard_state.term >= *term, "a message of term {term} leaves {from} before that term is durable");
        match message {
            Message::RequestVote { .. } => {
                assert_eq!(hard_state.vote, Some(*from), "a candidate votes for itself first");
            }
            Message::RequestVoteReply { granted: true } => {
                assert_eq!(
                    hard_state,
                    HardState { term: *term, vote: Some(*to) },
                    "a vote is durable before it is sent"
                );
            }
            Message::AppendEntriesReply(AppendEntriesReply { result: AppendResult::Accepted { matched }, .. }) => {
                assert!(*matched <= stored.last().index, "what is acknowledged is durable");
            }
            _ => (),
        }
    }

    fn apply(&mut self, id: NodeId, entries: &[Entry]) -> Index {
        self.note(format!("{} apply {}", self.name(id), trace::contents(entries)));
        let machine = self.machines.get_mut(&id).expect("it has just ordered this");
        for entry in entries {
            assert_eq!(entry.id.index.0, machine.applied.len() as u64 + 1, "entries are applied once and in order");
            assert!(machine.disk.durable().entries.contains(entry), "an entry is durable before it is applied");
            let first = self.history.applied.entry(entry.id.index).or_insert_with(|| entry.clone());
            assert_eq!(first, entry, "all nodes apply the same entry at an index (§5.4.3)");
            machine.applied.push(entry.clone());
        }
        let last = entries.last().expect("there is something to apply");
        last.id.index
    }

    fn install(&mut self, id: NodeId, snapshot: &Snapshot) {
        self.note(format!("{} install snapshot {}", self.name(id), trace::snapshot(snapshot)));
        let recorded = &self.durable(id).snapshot;
        assert!(recorded.last.index >= snapshot.last.index, "a snapshot is recorded before it replaces the state");
        assert!(snapshot.last.index.0 > self.applied(id).len() as u64, "a state only moves on");
        self.machine_mut(id).applied = self.state_at(snapshot.last);
    }

    /// A node and its term: `n3@2`.
    fn name(&self, id: NodeId) -> String {
        format!("{id}@{}", self.status(id).term)
    }
}

impl Machine {
    fn new(config: Config, disk: Disk) -> Self {
        let standing = Standing { id: config.id, role: RoleKind::Follower, term: Term(0), leader: None };
        Self {
            config,
            node: None,
            disk,
            applied: Vec::new(),
            held: BTreeSet::new(),
            waiting: Vec::new(),
            last_write: WriteId(0),
            standing,
        }
    }
}

impl Order {
    fn work(&self) -> Work {
        match self {
            Self::Apply(_) => Work::Applies,
            Self::Load { .. } => Work::Loads,
            Self::TakeSnapshot(_) => Work::Snapshots,
            Self::Capture { .. } => Work::Captures,
            Self::Report { .. } => Work::Reports,
        }
    }
}
