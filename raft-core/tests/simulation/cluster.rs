//! The cluster under simulation: machines, the network between them, clients, and the agenda of what happens when.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use raft_core::config::Config;
use raft_core::effect::{Effect, RoleKind};
use raft_core::input::{Input, LoadFailed, ReadMode};
use raft_core::message::{Envelope, Message};
use raft_core::port::Stored;
use raft_core::types::{Entry, Index, Moment, NodeId, Payload, Snapshot, Term, WriteId};

use crate::clients::Clients;
use crate::disk::Disk;
use crate::image::{Image, Write};
use crate::machine::Machine;
use crate::network::Network;
use crate::oracle::{Oracle, Step};
use crate::random::Random;
use crate::scenario::{Fault, Scenario, TICK};

/// A cluster and its world.
#[derive(Debug)]
pub struct Cluster {
    scenario: Scenario,
    random: Random,
    /// The present moment.
    now: u64,
    /// What will happen, by time; of what falls together, what was planned first comes first.
    agenda: BTreeMap<(u64, u64), Event>,
    planned: u64,
    network: Network,
    machines: BTreeMap<NodeId, Machine>,
    oracle: Oracle,
    clients: Clients,
    crashes: u64,
    loads: u64,
    installs: u64,
    /// The faults are over.
    calm: bool,
    recording: Recording,
    /// What happened, a line each, if that is recorded.
    pub trace: Vec<String>,
}

/// Whether to keep what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recording {
    Off,
    /// Keep the trace.
    Kept,
    /// Keep it and print each line as it happens, so that it is seen up to a failure.
    Printed,
}

/// How much a run has seen: a run in which nothing happens proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub reigns: u64,
    pub committed: u64,
    pub acknowledged: u64,
    pub reads_served: u64,
    pub refused: u64,
    pub lost: u64,
    pub truncations: u64,
    pub crashes: u64,
    pub compactions: u64,
    pub installs: u64,
    pub loads: u64,
    pub changes: u64,
    pub stepped_down: u64,
}

impl Tally {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            reigns: self.reigns + other.reigns,
            committed: self.committed + other.committed,
            acknowledged: self.acknowledged + other.acknowledged,
            reads_served: self.reads_served + other.reads_served,
            refused: self.refused + other.refused,
            lost: self.lost + other.lost,
            truncations: self.truncations + other.truncations,
            crashes: self.crashes + other.crashes,
            compactions: self.compactions + other.compactions,
            installs: self.installs + other.installs,
            loads: self.loads + other.loads,
            changes: self.changes + other.changes,
            stepped_down: self.stepped_down + other.stepped_down,
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Tick(NodeId),
    Deliver(Envelope),
    /// The disk has finished a write of the node's `life`.
    WriteDone {
        id: NodeId,
        life: u64,
        write: WriteId,
    },
    /// The driver has news for the node's `life`.
    Tell {
        id: NodeId,
        life: u64,
        input: Input,
    },
    /// The driver of the node's `life` does what it was asked.
    Work {
        id: NodeId,
        life: u64,
        job: Job,
    },
    Request,
    Operate,
    /// A client asks for a read at a node that has just woken up, before anything else that has come for it.
    ReadOnWaking(NodeId),
    Fault,
    /// All links work again.
    Mend,
    /// Power is back.
    Boot(NodeId),
}

/// What a driver does besides writing and applying.
#[derive(Clone, Copy, Debug)]
enum Job {
    Load { from: Index, max_bytes: u64 },
    TakeSnapshot,
    CaptureSnapshot { to: NodeId },
}

/// Entries from `from` on, as a store reads them.
fn read(disk: &Disk<Image>, from: Index, max_bytes: u64) -> Result<Vec<Entry>, LoadFailed> {
    let entries = disk.written().stored.read(from, max_bytes);
    let is_there = entries.first().is_some_and(|first| first.id.index == from);
    if is_there { Ok(entries) } else { Err(LoadFailed) }
}

impl Event {
    /// The node that must run for this to happen.
    fn node(&self) -> Option<NodeId> {
        match self {
            Self::Tick(id) | Self::Tell { id, .. } => Some(*id),
            Self::Deliver(envelope) => Some(envelope.to),
            Self::WriteDone { .. }
            | Self::Work { .. }
            | Self::Request
            | Self::Operate
            | Self::ReadOnWaking(_)
            | Self::Fault
            | Self::Mend
            | Self::Boot(_) => None,
        }
    }
}

impl Cluster {
    /// The cluster of a seed, about to start.
    pub fn new(seed: u64, recording: Recording) -> Self {
        let mut random = Random::new(seed);
        let scenario = Scenario::draw(&mut random);
        let mut cluster = Self::with(scenario, random, recording);
        cluster.plan(0..TICK, Event::Request);
        cluster.plan(0..20 * TICK, Event::Fault);
        cluster.plan(0..20 * TICK, Event::Operate);
        cluster
    }

    /// A cluster in which nothing happens but what a test brings about.
    pub fn quiet(seed: u64, nodes: u64) -> Self {
        let mut cluster = Self::with(Scenario::quiet(nodes), Random::new(seed), Recording::Off);
        cluster.calm = true;
        cluster
    }

    fn with(scenario: Scenario, random: Random, recording: Recording) -> Self {
        let first = Stored::first(scenario.membership.clone());
        let mut cluster = Self {
            now: 0,
            agenda: BTreeMap::new(),
            planned: 0,
            network: Network::new(scenario.network.clone()),
            machines: BTreeMap::new(),
            oracle: Oracle::new(&first.entries),
            clients: Clients::default(),
            crashes: 0,
            loads: 0,
            installs: 0,
            calm: false,
            recording,
            trace: Vec::new(),
            random,
            scenario,
        };
        cluster.note(|cluster| format!("{:?}", cluster.scenario));
        let members: Vec<NodeId> = cluster.scenario.membership.nodes().collect();
        let spares = (1..=cluster.scenario.spares).map(|spare| NodeId(members.len() as u64 + spare));
        for id in spares.collect::<Vec<_>>() {
            cluster.add_machine(id, Stored::default());
        }
        for id in members {
            cluster.add_machine(id, first.clone());
        }
        cluster
    }

    fn add_machine(&mut self, id: NodeId, stored: Stored) {
        let config = self.config(id);
        let tick_time = self.random.between(TICK * 8 / 10..TICK * 12 / 10);
        self.machines.insert(id, Machine::new(config, stored, tick_time));
        self.plan(0..TICK, Event::Tick(id));
    }

    /// Runs through the faults, and then sees that the cluster recovers.
    pub fn run(&mut self) -> Tally {
        self.run_until(self.scenario.storm);
        self.calm_down();
        self.await_recovery();
        self.tally()
    }

    fn tally(&self) -> Tally {
        Tally {
            reigns: self.oracle.reigns() as u64,
            committed: self.oracle.commit_index().0,
            acknowledged: self.clients.acknowledged().len() as u64,
            reads_served: self.clients.reads_served,
            refused: self.clients.refused,
            lost: self.clients.lost,
            truncations: self.oracle.truncations,
            crashes: self.crashes,
            compactions: self.oracle.compactions,
            installs: self.installs,
            loads: self.loads,
            changes: self.clients.changes,
            stepped_down: self.clients.stepped_down,
        }
    }

    // Time.

    fn plan(&mut self, delay: std::ops::Range<u64>, event: Event) {
        let at = self.now + self.random.between(delay);
        self.plan_at(at, event);
    }

    fn plan_at(&mut self, at: u64, event: Event) {
        self.planned += 1;
        self.agenda.insert((at, self.planned), event);
    }

    fn run_until(&mut self, end: u64) {
        while let Some(next) = self.agenda.first_entry()
            && next.key().0 < end
        {
            let ((now, _), event) = next.remove_entry();
            self.now = now;
            self.happen(event);
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        let resumes = event.node().map_or(0, |id| self.machines[&id].paused_until);
        if resumes > self.now {
            return self.plan_at(resumes, event);
        }
        match event {
            Event::Tick(id) => {
                let tick_time = self.machines[&id].tick_time;
                self.plan(tick_time - 5..tick_time + 5, Event::Tick(id));
                self.step(id, Input::Tick);
            }
            Event::Deliver(envelope) => {
                if self.network.connects(envelope.from, envelope.to) {
                    self.step(envelope.to, Input::Receive(envelope));
                }
            }
            Event::WriteDone { id, life, write } => self.write_done(id, life, write),
            Event::Tell { id, life, input } => {
                if self.machines[&id].life == life {
                    self.step(id, input);
                }
            }
            Event::Request => self.request(),
            Event::ReadOnWaking(id) => self.read(id),
            Event::Work { id, life, job } => self.work(id, life, job),
            Event::Operate => self.operate(),
            Event::Fault => self.fault(),
            Event::Mend => self.network.cut(BTreeSet::new()),
            Event::Boot(id) => self.boot(id),
        }
    }

    // Nodes.

    /// The settings of one start of a node.
    fn config(&mut self, id: NodeId) -> Config {
        Config { id, seed: self.random.next(), ..self.scenario.config.clone() }
    }

    /// A node takes in what has come, with what else waits for it; or lets it wait, till the next tick at the latest.
    fn step(&mut self, id: NodeId, input: Input) {
        let waits = input != Input::Tick && !self.calm && self.random.percent(self.scenario.gathered);
        let machine = self.machines.get_mut(&id).expect("all nodes have machines");
        let Some(node) = &mut machine.node else { return };
        machine.waiting.push(input);
        if waits {
            return;
        }
        let inputs = mem::take(&mut machine.waiting);
        let line = (self.recording != Recording::Off).then(|| format!("{:>6} {id} ← {inputs:?}", self.now));
        let mut effects = Vec::new();
        node.step_all(inputs, &mut effects);
        let before = mem::replace(&mut machine.status, node.status());
        for effect in &effects {
            if let Effect::Persist(write) = effect {
                machine.disk.write(write.id, Write::new(write.clone(), self.oracle.committed()));
            }
        }
        if let Some(line) = line {
            self.note(|_| line);
            effects.iter().for_each(|effect| self.note(|_| format!("           {id} → {effect:?}")));
        }
        let after = self.machines[&id].status.clone();
        self.oracle.check(Step { id, before: &before, after: &after, effects: &effects }, &self.machines);
        self.carry_out_all(id, effects);
    }

    /// Carries out effects in order; rarely, the power goes in between. (Writes are under way already: to lose one is the same as
    /// never having begun it.)
    fn carry_out_all(&mut self, id: NodeId, effects: Vec<Effect>) {
        let dies = !self.calm && self.may_crash() && self.random.below(1_000) == 0;
        let done = if dies { self.random.below(effects.len() + 1) } else { effects.len() };
        for effect in effects.into_iter().take(done) {
            self.carry_out(id, effect);
        }
        if dies {
            self.crash(id);
        }
    }

    fn may_crash(&self) -> bool {
        self.scenario.faults.iter().any(|fault| matches!(fault, Fault::Crash))
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect) {
        match effect {
            Effect::Persist(write) => self.plan_write(id, write.id),
            Effect::Send(envelope) => self.send(id, envelope),
            Effect::Apply(entries) => self.apply(id, &entries),
            Effect::Load { from, max_bytes } => self.load(id, from, max_bytes),
            Effect::TakeSnapshot(_) => self.later(id, Job::TakeSnapshot),
            Effect::CaptureSnapshot { to } => self.later(id, Job::CaptureSnapshot { to }),
            Effect::InstallSnapshot(snapshot) => self.install(id, &snapshot),
            Effect::Appended { id: request, first, count } => {
                let log = &self.machines[&id].disk.written().log;
                self.clients.appended(id, request, first, count, log);
            }
            Effect::ServeRead { id: request, index } => {
                self.clients.read_served(id, request, index, self.oracle.commit_index());
            }
            Effect::Refuse { id: request, .. } => self.clients.refused(id, request),
            Effect::Became { .. } | Effect::UseMembership(_) => (),
            Effect::SteppedDown { id: request } => self.clients.stepped_down(id, request),
            Effect::Discard { .. } | Effect::Halt(_) => unreachable!("the oracle allows neither"),
        }
    }

    fn apply(&mut self, id: NodeId, entries: &[Entry]) {
        let machine = self.machines.get_mut(&id).expect("all nodes have machines");
        assert_eq!(entries[0].id.index, machine.applied().index.next(), "{id} skips or repeats entries");
        machine.apply(entries);
        let (life, input) = (machine.life, Input::Applied(machine.applied().index));
        self.clients.applied(id, entries);
        self.plan(0..TICK, Event::Tell { id, life, input });
    }

    // Snapshots, and entries that have left memory.

    /// Sends a message. Whoever sends a snapshot is mostly told of its end.
    fn send(&mut self, id: NodeId, envelope: Envelope) {
        let delays = self.network.delays(&mut self.random);
        if let Message::InstallSnapshot(_) = envelope.message
            && (self.calm || !self.random.percent(5))
        {
            let life = self.machines[&id].life;
            let input = Input::SnapshotSent { to: envelope.to, arrived: !delays.is_empty() };
            let end = self.now + delays.first().copied().unwrap_or(TICK);
            self.plan_at(end, Event::Tell { id, life, input });
        }
        for delay in delays {
            self.plan_at(self.now + delay, Event::Deliver(envelope.clone()));
        }
    }

    fn load(&mut self, id: NodeId, from: Index, max_bytes: u64) {
        self.loads += 1;
        self.later(id, Job::Load { from, max_bytes });
    }

    /// Plans what the node's driver does in its own time.
    fn later(&mut self, id: NodeId, job: Job) {
        let life = self.machines[&id].life;
        self.plan(0..3 * TICK, Event::Work { id, life, job });
    }

    fn work(&mut self, id: NodeId, life: u64, job: Job) {
        let fails = !self.calm && self.random.percent(10);
        let machine = self.machines.get_mut(&id).expect("all nodes have machines");
        if machine.life != life || machine.node.is_none() {
            return;
        }
        let input = match job {
            Job::Load { from, .. } if fails => Input::Loaded { from, entries: Err(LoadFailed) },
            Job::Load { from, max_bytes } => Input::Loaded { from, entries: read(&machine.disk, from, max_bytes) },
            Job::TakeSnapshot => {
                machine.save();
                Input::SnapshotTaken(machine.applied().index)
            }
            Job::CaptureSnapshot { to } if fails => Input::SnapshotSent { to, arrived: false },
            Job::CaptureSnapshot { to } => Input::SnapshotCaptured { to, index: machine.applied().index },
        };
        self.plan(0..TICK, Event::Tell { id, life, input });
    }

    fn install(&mut self, id: NodeId, snapshot: &Snapshot) {
        let machine = self.machines.get_mut(&id).expect("all nodes have machines");
        machine.install(snapshot);
        self.installs += 1;
        let (life, index) = (machine.life, snapshot.last.index);
        self.clients.installed(id, index);
        self.plan(0..TICK, Event::Tell { id, life, input: Input::Applied(index) });
    }

    // Disks.

    fn plan_write(&mut self, id: NodeId, write: WriteId) {
        let write_time = if self.calm { 1..10 } else { self.scenario.write_time.clone() };
        let done = self.now + self.random.between(write_time);
        let machine = self.machines.get_mut(&id).expect("all nodes have machines");
        machine.disk_busy_until = machine.disk_busy_until.max(done);
        let (at, life) = (machine.disk_busy_until, machine.life);
        self.plan_at(at, Event::WriteDone { id, life, write });
    }

    /// A write is durable, and the node will hear of it: at once or later, now and then twice, or only with the next.
    fn write_done(&mut self, id: NodeId, life: u64, write: WriteId) {
        let machine = self.machines.get_mut(&id).expect("all nodes have machines");
        if machine.life != life || machine.node.is_none() {
            return;
        }
        machine.disk.make_durable(write);
        self.oracle.check_durable(id, machine.disk.durable());
        let is_covered_by_next = machine.disk.underway() > 0 && self.random.percent(10);
        let times = if is_covered_by_next { 0 } else { 1 + u64::from(self.random.percent(10)) };
        for _ in 0..times {
            self.plan(0..TICK / 2, Event::Tell { id, life, input: Input::Persisted(write) });
        }
    }

    // Faults.

    fn fault(&mut self) {
        if self.calm {
            return;
        }
        let fault = self.random.pick(&self.scenario.faults);
        let time = self.random.between(self.scenario.fault_time.clone());
        let ids: Vec<NodeId> = self.machines.keys().copied().collect();
        let victim = self.victim(&ids);
        self.note(|_| format!("       {fault:?} of {victim}, for {time}"));
        match fault {
            Fault::Crash => self.crash(victim),
            Fault::Blackout => ids.iter().for_each(|&id| self.crash(id)),
            Fault::Pause => {
                let until = self.now + time;
                self.machines.get_mut(&victim).expect("all nodes have machines").paused_until = until;
                self.plan_at(until, Event::ReadOnWaking(victim));
            }
            Fault::Split | Fault::Isolate | Fault::CutLinks => {
                let links = self.draw_cut(fault, victim, &ids);
                self.network.cut(links);
                self.plan_at(self.now + time, Event::Mend);
            }
        }
        self.plan(self.scenario.fault_pause.clone(), Event::Fault);
    }

    /// Leaders suffer most, for that is where it hurts.
    fn victim(&mut self, ids: &[NodeId]) -> NodeId {
        let leader = self.leader().filter(|_| self.random.percent(50));
        leader.unwrap_or_else(|| self.random.pick(ids))
    }

    fn draw_cut(&mut self, fault: Fault, victim: NodeId, ids: &[NodeId]) -> BTreeSet<(NodeId, NodeId)> {
        let random = &mut self.random;
        let (half, way) = (random.next(), random.below(3));
        let is_cut = |from: NodeId, to: NodeId, random: &mut Random| match fault {
            Fault::Split => (half >> from.0) & 1 != (half >> to.0) & 1,
            Fault::Isolate => (way != 0 && from == victim) || (way != 1 && to == victim),
            _ => random.percent(30),
        };
        let links = ids.iter().flat_map(|&from| ids.iter().map(move |&to| (from, to)));
        links.filter(|&(from, to)| is_cut(from, to, random)).collect()
    }

    fn crash(&mut self, id: NodeId) {
        let machine = self.machines.get_mut(&id).expect("all nodes have machines");
        if machine.node.is_none() {
            return;
        }
        machine.lose_power(&mut self.random);
        self.oracle.check_durable(id, machine.disk.durable());
        self.clients.lose_node(id);
        self.crashes += 1;
        self.note(|_| format!("       {id} loses power"));
        self.plan(self.scenario.fault_time.clone(), Event::Boot(id));
    }

    fn boot(&mut self, id: NodeId) {
        let config = self.config(id);
        let machine = self.machines.get_mut(&id).expect("all nodes have machines");
        if machine.node.is_none() {
            machine.disk_busy_until = self.now;
            machine.boot(config, &mut self.random);
            self.note(|_| format!("       {id} starts"));
        }
    }

    // Clients.

    fn request(&mut self) {
        if self.calm {
            return;
        }
        let running = self.machines.iter().filter(|(_, machine)| machine.node.is_some());
        let ids: Vec<NodeId> = running.map(|(&id, _)| id).collect();
        let paused = |cluster: &Self, id: NodeId| cluster.machines[&id].paused_until > cluster.now;
        if let Some(id) = self.draw_addressee(&ids).filter(|&id| !paused(self, id)) {
            let now = self.clock();
            let input = self.clients.ask(&mut self.random, id, self.oracle.commit_index(), now);
            self.step(id, input);
        }
        self.plan(self.scenario.request_pause.clone(), Event::Request);
    }

    fn read(&mut self, id: NodeId) {
        if self.machines[&id].node.is_some() {
            let mode = ReadMode::Lease { now: self.clock() };
            let input = self.clients.read(id, self.oracle.commit_index(), mode);
            self.step(id, input);
        }
    }

    /// The time as a driver tells it, which is never in the future.
    fn clock(&mut self) -> Moment {
        Moment(self.now.saturating_sub(self.random.between(0..TICK / 2)))
    }

    /// An operator asks for something, mostly where it can be had.
    fn operate(&mut self) {
        if self.calm {
            return;
        }
        let ids: Vec<NodeId> = self.machines.keys().copied().collect();
        let id = self.leader().filter(|_| self.random.percent(90)).unwrap_or_else(|| self.random.pick(&ids));
        if self.machines[&id].node.is_some() && self.machines[&id].paused_until <= self.now {
            let input = match self.random.percent(10) {
                true => Input::Campaign,
                false => self.clients.operate(&mut self.random, id, &ids),
            };
            self.step(id, input);
        }
        self.plan(self.scenario.operation_pause.clone(), Event::Operate);
    }

    /// Mostly a node that takes itself for a leader, also one that is none any more.
    fn draw_addressee(&mut self, running: &[NodeId]) -> Option<NodeId> {
        let leads = |id: &&NodeId| self.machines[id].status.role == RoleKind::Leader;
        let leaders: Vec<NodeId> = running.iter().filter(leads).copied().collect();
        let choices = if leaders.is_empty() || self.random.percent(10) { running } else { &leaders };
        (!choices.is_empty()).then(|| self.random.pick(choices))
    }

    // Recovery.

    /// The running leader of the latest term.
    fn leader(&self) -> Option<NodeId> {
        let running = self.machines.iter().filter(|(_, machine)| machine.node.is_some());
        let leaders = running.filter(|(_, machine)| machine.status.role == RoleKind::Leader);
        leaders.max_by_key(|(_, machine)| machine.status.term).map(|(&id, _)| id)
    }

    /// Ends all faults. What was under way in the network may still come late.
    fn calm_down(&mut self) {
        self.note(|cluster| format!("{:>6} calm", cluster.now));
        self.calm = true;
        self.network.calm_down();
        for id in self.machines.keys().copied().collect::<Vec<_>>() {
            let machine = self.machines.get_mut(&id).expect("all nodes have machines");
            machine.paused_until = 0;
            machine.tick_time = TICK;
            self.boot(id);
        }
    }

    /// Once faults are over, there is a leader before long, it serves, all become alike, and nothing disturbs them any more.
    fn await_recovery(&mut self) {
        let patience = 20 * self.scenario.longest_election_timeout();
        // At the slowest, an entry is loaded, and takes a round trip.
        let longest_log = self.machines.values().map(|machine| machine.status.last_index.0).max().unwrap_or_default();
        let catch_up = longest_log * 6 * TICK;
        self.wait("all to follow one leader", patience, Self::has_one_leader);
        // What was sent late during the faults may come until now, and disturb.
        self.run_until(self.now + self.scenario.network.late_delay.end);
        self.wait("all to follow one leader again", patience, Self::has_one_leader);
        self.wait("the leader to change nothing more by itself", 2 * patience + catch_up, Self::is_settled);
        self.wait("all to follow the one who shall lead", patience, Self::has_one_leader);
        let leader = self.leader().expect("there is one");
        let input = self.clients.propose(&mut self.random, leader);
        self.step(leader, input);
        self.wait("all to apply all", patience + catch_up, Self::is_equal);
        let term = self.term();
        self.run_until(self.now + 3 * self.scenario.longest_election_timeout());
        assert_eq!(self.term(), term, "an election without need");
        self.check_end();
    }

    /// Cuts these links for good, and sees that a leader serves nevertheless before long, and that nobody disturbs it.
    pub fn endure(&mut self, links: BTreeSet<(NodeId, NodeId)>) {
        let timeout = self.scenario.longest_election_timeout();
        self.wait("all to follow one leader", 20 * timeout, Self::has_one_leader);
        self.network.cut(links);
        self.run_until(self.now + 10 * timeout);
        let (term, commit_index) = (self.term(), self.oracle.commit_index());
        for _ in 0..20 {
            if let Some(leader) = self.leader() {
                let input = self.clients.propose(&mut self.random, leader);
                self.step(leader, input);
            }
            self.run_until(self.now + timeout);
        }
        assert_eq!(self.term(), term, "elections go on: {:#?}", self.statuses());
        let committed = self.oracle.commit_index().0 - commit_index.0;
        assert!(committed >= 20, "{committed} commands are served: {:#?}", self.statuses());
    }

    fn wait(&mut self, what: &str, patience: u64, is_reached: impl Fn(&Self) -> bool) {
        let end = self.now + patience;
        while !is_reached(self) {
            assert!(self.now < end, "waited {patience} moments for {what}, in vain: {:#?}", self.statuses());
            self.run_until(self.now + TICK);
        }
    }

    fn has_one_leader(&self) -> bool {
        let leader = self.leader();
        leader.is_some() && self.members().all(|machine| machine.status.leader == leader)
    }

    /// Whether the leader has left a joint configuration, promoted whom it shall, and has no reason to hand over.
    fn is_settled(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let status = &self.machines[&leader].status;
        let membership = &status.membership;
        let priority = |id: &NodeId| membership.priority(*id);
        let may_stay = if membership.is_joint() { membership.stays_joint } else { membership.promotable.is_empty() };
        may_stay
            && status.transferring_to.is_none()
            && membership.voters.iter().all(|id| priority(id) <= priority(&leader))
    }

    /// The machines that belong to the cluster, as its leader has it.
    fn members(&self) -> impl Iterator<Item = &Machine> {
        let membership = self.leader().map(|leader| &self.machines[&leader].status.membership);
        let is_member = move |id| membership.is_none_or(|membership| membership.members.contains_key(id));
        self.machines.iter().filter(move |(id, _)| is_member(id)).map(|(_, machine)| machine)
    }

    fn is_equal(&self) -> bool {
        let last = self.oracle.commit_index();
        let is_there = |machine: &Machine| {
            machine.applied().index == last && machine.status.last_index == last && machine.disk.underway() == 0
        };
        self.members().all(is_there)
    }

    fn term(&self) -> Term {
        self.machines.values().map(|machine| machine.status.term).max().unwrap_or_default()
    }

    fn check_end(&self) {
        assert!(self.is_equal(), "nodes differ: {:#?}", self.statuses());
        let committed = self.oracle.committed();
        for machine in self.members() {
            let id = machine.status.id;
            assert!(machine.disk.durable().log == committed, "the log of {id} is not what was committed");
        }
        let is_committed = |id| committed.iter().any(|entry| entry.id == id);
        assert!(self.clients.acknowledged().iter().all(|&id| is_committed(id)), "an acknowledged command is lost");
        let commands = committed.iter().filter_map(|entry| match &entry.payload {
            Payload::Command(command) => Some(command),
            Payload::Noop | Payload::Membership(_) => None,
        });
        let distinct: BTreeSet<_> = commands.clone().collect();
        assert_eq!(distinct.len(), commands.count(), "a command is committed twice");
        let unanswered = self.clients.unanswered();
        assert!(unanswered.is_empty(), "requests without an outcome: {unanswered:?}");
    }

    fn statuses(&self) -> Vec<(NodeId, RoleKind, Term, Option<NodeId>, Index, Index)> {
        let line = |(&id, machine): (&NodeId, &Machine)| {
            let status = &machine.status;
            (id, status.role, status.term, status.leader, status.last_index, status.commit_index)
        };
        self.machines.iter().map(line).collect()
    }

    fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.recording == Recording::Off {
            return;
        }
        let line = line(self);
        if self.recording == Recording::Printed {
            println!("{line}");
        }
        self.trace.push(line);
    }
}
