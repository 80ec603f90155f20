//! Whatever a peer or a driver says, a node neither panics nor breaks its own word: it refuses, discards, or halts.

#[path = "common/disk.rs"]
mod disk;
#[path = "common/random.rs"]
mod random;
#[path = "common/store.rs"]
mod store;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::mem;

use bytes::Bytes;
use proptest::prelude::*;
use raft_core::config::Config;
use raft_core::effect::{Effect, RoleKind};
use raft_core::input::{Input, LoadFailed, ReadMode};
use raft_core::membership::{Change, Membership, MembershipChange};
use raft_core::message::{AppendEntries, AppendEntriesReply, AppendResult, Envelope, InstallSnapshot, Message};
use raft_core::node::Node;
use raft_core::port::Stored;
use raft_core::status::Status;
use raft_core::types::{
    Entry, EntryId, HardState, Index, Member, Moment, NodeId, Payload, ReadToken, RequestId, Round, Snapshot, Term,
    WriteId,
};

use disk::Disk;
use random::Random;

/// The node under test.
const ME: NodeId = NodeId(1);

/// A node, and what it has been told to write.
struct Subject {
    node: Node,
    disk: Disk<Stored>,
    last_write: WriteId,
    /// The true answers to what it has ordered, and not heard yet.
    answers: Vec<Input>,
    halted: bool,
}

impl Subject {
    fn draw(random: &mut Random) -> Self {
        let stored = draw_stored(random);
        let applied = stored.entries.get(random.below(4)).map_or(stored.snapshot.last, |entry| entry.id);
        let handed_over = store::handing_over(stored.clone(), random.pick(&[None, None, Some(0), Some(1)]));
        let node = Node::new(draw_config(random), handed_over, applied).expect("what is stored fits together");
        let last_write = WriteId::default();
        Self { node, disk: Disk::new(stored), last_write, answers: Vec::new(), halted: false }
    }

    /// Loses power, and starts again from what is left, which fits together whatever was said.
    fn restart(&mut self, random: &mut Random) {
        self.disk.lose_power(random.below(self.disk.underway() + 1));
        let stored = store::handing_over(self.disk.durable().clone(), random.pick(&[None, Some(0), Some(1)]));
        let applied = stored.snapshot.last;
        let restarted = Node::new(draw_config(random), stored, applied);
        self.node = restarted.expect("a node starts from what it has written");
        self.last_write = WriteId::default();
        self.answers.clear();
        self.halted = false;
    }

    /// Takes inputs, and checks what can be seen from outside.
    fn step(&mut self, inputs: Vec<Input>) -> Vec<Effect> {
        let count = inputs.len();
        if inputs.contains(&Input::Persisted(self.last_write)) {
            self.disk.make_durable(self.last_write);
        }
        let before = self.node.status();
        let mut effects = Vec::new();
        self.node.step_all(inputs, &mut effects);
        let after = self.node.status();
        assert!(effects.is_empty() || !self.halted, "a halted node does nothing");
        for effect in &effects {
            self.check_effect(effect);
        }
        if self.halted {
            return effects;
        }
        assert!(after.term >= before.term && after.term.0 <= Term::LAST.0.max(before.term.0));
        assert!(after.commit_index >= before.commit_index && after.applied_index >= before.applied_index);
        assert!(after.commit_index <= after.last_index && after.durable_index <= after.last_index);
        assert!(after.applied_index <= after.commit_index);
        assert_eq!(after.last_index, self.disk.written().last().index, "all is written");
        assert_eq!(after.term, self.disk.written().hard_state.term, "all is written");
        let entries = self.disk.written().entries.len();
        let most = 10 + (after.followers.len() + after.membership.members.len()) * (entries + 5);
        assert!(effects.len() <= most * count, "{} effects of {count} inputs", effects.len());
        effects
    }

    fn check_effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Persist(write) => {
                self.last_write = write.id;
                self.disk.write(write.id, write.clone());
            }
            Effect::Send(envelope) => assert!(envelope.from == ME && envelope.to != ME, "{envelope:?}"),
            Effect::Apply(entries) => {
                let last = entries.last().expect("there is something to apply");
                self.answers.push(Input::Applied(last.id.index));
            }
            Effect::InstallSnapshot(snapshot) => self.answers.push(Input::Applied(snapshot.last.index)),
            Effect::Load { from, max_bytes } => {
                let entries = self.disk.durable().read(*from, *max_bytes);
                let entries = if entries.is_empty() { Err(LoadFailed) } else { Ok(entries) };
                self.answers.push(Input::Loaded { from: *from, entries });
            }
            Effect::TakeSnapshot(snapshot) => self.answers.push(Input::SnapshotTaken(snapshot.last.index)),
            Effect::CaptureSnapshot { to } => {
                let index = self.node.status().applied_index;
                self.answers.push(Input::SnapshotCaptured { to: *to, index });
            }
            Effect::Halt(_) => self.halted = true,
            _ => (),
        }
    }
}

/// What lets inputs be near to what the node would take for true.
struct Draw<'a> {
    random: &'a mut Random,
    status: Status,
    log: &'a [Entry],
    last_write: WriteId,
    answers: &'a mut Vec<Input>,
}

impl Draw<'_> {
    /// An input: one that helps the node on, one that nearly makes sense, or nonsense.
    fn input(&mut self) -> Input {
        match self.random.below(19) {
            12 => self.handover(),
            13 => self.driver(),
            14 => self.change(),
            15.. => self.answer(),
            0..3 => Input::Tick,
            3 => Input::Persisted(self.last_write),
            4 => Input::Persisted(WriteId(self.number())),
            5 => Input::Applied(Index(self.number())),
            6 => Input::Propose { id: RequestId(self.number()), commands: self.commands() },
            7 => Input::Read { mode: self.read_mode(), id: RequestId(self.number()) },
            8 | 9 => self.helpful(),
            _ => Input::Receive(self.envelope()),
        }
    }

    /// The true answer to something that was ordered.
    fn answer(&mut self) -> Input {
        if self.answers.is_empty() {
            return Input::Persisted(self.last_write);
        }
        let position = self.random.below(self.answers.len());
        self.answers.swap_remove(position)
    }

    /// What a driver says of loads and snapshots, true or not.
    fn driver(&mut self) -> Input {
        let (to, index) = (self.node(), Index(self.number()));
        match self.random.below(5) {
            0 => Input::Loaded { from: index, entries: self.loaded() },
            1 => Input::SnapshotTaken(index),
            2 => Input::SnapshotCaptured { to, index },
            3 => Input::SnapshotProgress { to },
            _ => Input::SnapshotSent { to, arrived: self.random.percent(50) },
        }
    }

    fn loaded(&mut self) -> Result<Vec<Entry>, LoadFailed> {
        if self.random.percent(30) { Err(LoadFailed) } else { Ok(self.append().entries.to_vec()) }
    }

    fn change(&mut self) -> Input {
        let id = RequestId(self.number());
        if self.random.percent(20) {
            return Input::LeaveJoint { id };
        }
        let changes = (0..self.random.below(4)).map(|_| self.one_change()).collect();
        Input::ChangeMembership { id, change: MembershipChange { changes, stay_joint: self.random.percent(30) } }
    }

    fn one_change(&mut self) -> Change {
        let (id, member) = (self.node(), Member::default());
        match self.random.below(6) {
            0 => Change::AddVoter(id, member),
            1 => Change::AddLearner { id, member, promote: self.random.percent(50) },
            2 => Change::Promote(id),
            3 => Change::Demote(id),
            4 => Change::Remove(id),
            _ => Change::Update(id, member),
        }
    }

    fn handover(&mut self) -> Input {
        let id = RequestId(self.number());
        match self.random.below(4) {
            0 => Input::StepDown { id },
            1 => Input::Campaign,
            _ => Input::TransferLeadership { id, to: self.node() },
        }
    }

    fn read_mode(&mut self) -> ReadMode {
        if self.random.percent(50) { ReadMode::Quorum } else { ReadMode::Lease { now: Moment(self.number()) } }
    }

    /// A number that is near to something, or at an end of the range.
    fn number(&mut self) -> u64 {
        let Status { term, last_index, commit_index, durable_index, snapshot_index, .. } = &self.status;
        let near = [
            0,
            1,
            term.0,
            last_index.0,
            commit_index.0,
            durable_index.0,
            snapshot_index.0,
            self.last_write.0,
            Term::LAST.0,
            u64::MAX,
        ];
        let number = self.random.pick(&near);
        match self.random.below(4) {
            0 => number.wrapping_add(1),
            1 => number.wrapping_sub(1),
            _ => number,
        }
    }

    fn term(&mut self) -> Term {
        if self.random.percent(70) { self.status.term } else { Term(self.number()) }
    }

    fn node(&mut self) -> NodeId {
        self.random.pick(&[0, 1, 2, 2, 2, 3, 3, 4, 5, 9, u64::MAX].map(NodeId))
    }

    /// An entry's id: mostly of one that is in the log.
    fn id(&mut self) -> EntryId {
        if !self.log.is_empty() && self.random.percent(70) {
            return self.log[self.random.below(self.log.len())].id;
        }
        EntryId::new(Index(self.number()), Term(self.number()))
    }

    fn commands(&mut self) -> Vec<Bytes> {
        (0..self.random.below(3)).map(|size| Bytes::from(vec![b'x'; size * 50])).collect()
    }

    /// The answer that the node waits for.
    fn helpful(&mut self) -> Input {
        let Status { role, term, last_index, .. } = self.status;
        let from = self.random.pick(&[2, 3, 4, 5].map(NodeId));
        let message = match role {
            RoleKind::Follower => return Input::Tick,
            RoleKind::PreCandidate => Message::RequestPreVoteReply { request_term: term, granted: true },
            RoleKind::Candidate => Message::RequestVoteReply { granted: true },
            // A new follower, who has nothing yet.
            RoleKind::Leader if self.random.percent(40) => Message::AppendEntriesReply(AppendEntriesReply {
                round: Round(0),
                result: AppendResult::Rejected { prev: last_index.prev(), hint: EntryId::ZERO },
            }),
            RoleKind::Leader => Message::AppendEntriesReply(AppendEntriesReply {
                round: Round(self.random.between(0..3)),
                result: AppendResult::Accepted { matched: last_index },
            }),
        };
        Input::Receive(Envelope { from, to: ME, term, message })
    }

    fn envelope(&mut self) -> Envelope {
        let to = if self.random.percent(95) { ME } else { self.node() };
        Envelope { from: self.node(), to, term: self.term(), message: self.message() }
    }

    fn message(&mut self) -> Message {
        match self.random.below(13) {
            11 | 12 => Message::InstallSnapshot(self.install()),
            0 => Message::RequestPreVote { last: self.id() },
            1 => Message::RequestVote { last: self.id(), transfer: self.random.percent(30) },
            8 => Message::TimeoutNow,
            9 => Message::ReadIndex { token: ReadToken(self.number()) },
            10 => {
                let index = self.random.percent(50).then(|| Index(self.number()));
                Message::ReadIndexReply { token: ReadToken(self.number()), index }
            }
            2 => Message::RequestPreVoteReply { request_term: self.term(), granted: self.random.percent(50) },
            3 => Message::RequestVoteReply { granted: self.random.percent(50) },
            4 | 5 => {
                Message::AppendEntriesReply(AppendEntriesReply { round: Round(self.number()), result: self.result() })
            }
            _ => Message::AppendEntries(self.append()),
        }
    }

    fn install(&mut self) -> InstallSnapshot {
        let ahead = self.status.last_index.plus(self.random.between(0..4));
        let last = if self.random.percent(60) { EntryId::new(ahead, self.status.term) } else { self.id() };
        let snapshot = Snapshot { last, membership: draw_membership(self.random).into() };
        InstallSnapshot { snapshot, round: Round(self.number()) }
    }

    fn result(&mut self) -> AppendResult {
        if self.random.percent(50) {
            AppendResult::Accepted { matched: Index(self.number()) }
        } else {
            AppendResult::Rejected { prev: Index(self.number()), hint: self.id() }
        }
    }

    fn append(&mut self) -> AppendEntries {
        let prev = self.id();
        let mut last = prev;
        let count = self.random.below(4);
        let entries = (0..count).map(|_| {
            last = self.id_after(last);
            Entry { id: last, payload: draw_payload(self.random) }
        });
        AppendEntries { prev, entries: entries.collect(), commit: Index(self.number()), round: Round(self.number()) }
    }

    fn id_after(&mut self, last: EntryId) -> EntryId {
        match self.random.below(10) {
            0 => self.id(),
            1 => EntryId::new(Index(self.number()), last.term),
            2..5 => EntryId::new(last.index.next(), last.term),
            _ => EntryId::new(last.index.next(), self.status.term),
        }
    }
}

fn draw_payload(random: &mut Random) -> Payload {
    match random.below(4) {
        0 => Payload::Membership(draw_membership(random).into()),
        1 => Payload::Noop,
        size => Payload::Command(Bytes::from(vec![b'x'; (size - 2) * 100])),
    }
}

/// Mostly one that makes sense; else one that nobody would write: empty, with nodes of id zero, with voters of whom nothing is recorded.
fn draw_membership(random: &mut Random) -> Membership {
    let size = random.pick(&[1, 3, 3, 5]);
    let sensible = Membership::of_voters((1..=size).map(|id| (NodeId(id), draw_member(random))).collect());
    if random.percent(60) {
        return sensible;
    }
    let mut ids = || -> BTreeSet<NodeId> {
        [0, 1, 2, 3, 9, u64::MAX].into_iter().filter(|_| random.percent(40)).map(NodeId).collect()
    };
    let (voters, outgoing, learners, recorded) = (ids(), ids(), ids(), ids());
    let members: BTreeMap<_, _> = recorded.into_iter().map(|id| (id, Member::default())).collect();
    Membership { voters, outgoing, learners, members, ..Membership::default() }
}

fn draw_member(random: &mut Random) -> Member {
    Member { priority: random.pick(&[0, 0, 1, u32::MAX]), ..Member::default() }
}

/// A log and a term that fit together, near the beginning of time or near its end.
fn draw_stored(random: &mut Random) -> Stored {
    let start = random.pick(&[1, 1, 1, 5, Term::LAST.0 - 1, Term::LAST.0, u64::MAX - 10]);
    let mut term = Term(start);
    let entries: Vec<Entry> = (1..=random.between(0..6))
        .map(|index| {
            term = Term(term.0 + random.between(0..2));
            let payload =
                if index == 1 { Payload::Membership(draw_membership(random).into()) } else { draw_payload(random) };
            Entry { id: EntryId::new(Index(index), term), payload }
        })
        .collect();
    let vote = random.pick(&[None, Some(ME), Some(NodeId(2)), Some(NodeId(0))]);
    let stored = Stored { hard_state: HardState { term, vote }, entries, ..Stored::default() };
    if random.percent(60) { stored } else { compacted(stored, random) }
}

/// The same, of a log that begins later.
fn compacted(stored: Stored, random: &mut Random) -> Stored {
    let mut entries = stored.entries;
    let rest = entries.split_off(random.below(entries.len() + 1));
    let Some(last) = entries.last().map(|entry| entry.id) else {
        return Stored { entries: rest, ..stored };
    };
    Stored { snapshot: Snapshot { last, membership: draw_membership(random).into() }, entries: rest, ..stored }
}

/// Any settings that are in their ranges.
fn draw_config(random: &mut Random) -> Config {
    let bytes = [0, 1, 200, u64::MAX];
    Config {
        election_timeout_ticks: random.pick(&[2, 2, 3, u32::MAX / 2]),
        heartbeat_ticks: 1,
        seed: random.next(),
        max_append_bytes: random.pick(&bytes),
        max_inflight_messages: random.pick(&[1, 2, usize::MAX]),
        max_inflight_bytes: random.pick(&bytes),
        max_uncommitted_bytes: random.pick(&bytes),
        max_cached_bytes: random.pick(&bytes),
        max_applying_bytes: random.pick(&bytes),
        snapshot_after_entries: random.pick(&[1, 2, 3, u64::MAX]),
        kept_entries: random.pick(&[0, 1, 2, u64::MAX]),
        lease: random.pick(&[None, None, Some(0), Some(2), Some(u64::MAX)]),
        ..Config::new(ME)
    }
}

/// What a node has come to in a run.
#[derive(Default)]
struct Seen {
    roles: HashSet<RoleKind>,
    discards: usize,
    halts: usize,
    loads: usize,
    snapshots: usize,
    captures: usize,
    installs: usize,
}

impl Seen {
    fn note(&mut self, effect: &Effect) {
        let count = match effect {
            Effect::Discard { .. } => &mut self.discards,
            Effect::Load { .. } => &mut self.loads,
            Effect::TakeSnapshot(_) => &mut self.snapshots,
            Effect::CaptureSnapshot { .. } => &mut self.captures,
            Effect::InstallSnapshot(_) => &mut self.installs,
            _ => return,
        };
        *count += 1;
    }
}

/// Runs a node through one input for each seed, some of which come together.
fn run(start: u64, seeds: impl IntoIterator<Item = u64>, seen: &mut Seen) {
    let mut subject = Subject::draw(&mut Random::new(start));
    let mut inputs = Vec::new();
    for seed in seeds {
        if seed % 100 == 0 {
            seen.halts += usize::from(subject.halted);
            subject.restart(&mut Random::new(seed));
            inputs.clear();
        }
        let status = subject.node.status();
        seen.roles.insert(status.role);
        let log = subject.disk.written().entries.clone();
        let last_write = subject.last_write;
        let answers = &mut subject.answers;
        let input = Draw { random: &mut Random::new(seed), status, log: &log, last_write, answers }.input();
        inputs.push(input);
        if seed % 4 == 3 {
            continue;
        }
        let effects = subject.step(mem::take(&mut inputs));
        effects.iter().for_each(|effect| seen.note(effect));
    }
    seen.halts += usize::from(subject.halted);
}

proptest! {
    /// A failure is reduced to the few inputs that it takes.
    #[test]
    fn no_input_makes_a_node_panic(start in any::<u64>(), seeds in prop::collection::vec(any::<u64>(), 0..100)) {
        run(start, seeds, &mut Seen::default());
    }
}

/// The same inputs at every run, and more of them. They lead nodes everywhere: if they got stuck at once, they would prove nothing.
#[test]
fn inputs_lead_nodes_everywhere() {
    let mut seen = Seen::default();
    for start in 0..2_000 {
        let mut random = Random::new(start);
        run(start, (0..100).map(|_| random.next()), &mut seen);
    }
    assert_eq!(seen.roles.len(), 4, "{:?}", seen.roles);
    assert!(seen.discards > 1_000 && seen.halts > 100, "{} discards, {} halts", seen.discards, seen.halts);
    let Seen { loads, snapshots, captures, installs, .. } = seen;
    assert!(
        loads.min(snapshots).min(installs) > 100 && captures > 10,
        "{loads} loads, {snapshots} snapshots, {captures} captures, {installs} installs"
    );
}

/// Entries at the ends of the range of positions don't follow what they pretend to.
#[test]
fn entries_that_repeat_a_position_are_no_continuation() {
    let (first, last) = (EntryId::ZERO, EntryId::new(Index(u64::MAX), Term(1)));
    for (prev, ids, is_continuous) in [
        (first, vec![first], false),
        (first, vec![EntryId::new(Index(1), Term(1)), first], false),
        (last, vec![last], false),
        (last, vec![first], false),
        (first, vec![EntryId::new(Index(1), Term(1)), EntryId::new(Index(2), Term(1))], true),
        (EntryId::new(Index(u64::MAX - 1), Term(1)), vec![last], true),
    ] {
        let entries = ids.iter().map(|&id| Entry { id, payload: Payload::Noop }).collect();
        let append = AppendEntries { prev, entries, commit: Index(1), round: Round(0) };
        assert_eq!(append.is_continuous(Term(1)), is_continuous, "{ids:?} after {prev}");
    }
}
