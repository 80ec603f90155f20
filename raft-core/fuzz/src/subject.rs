//! The node under test, and the driver that it thinks it has.

use std::collections::VecDeque;

use arbitrary::{Result, Unstructured};
use raft_core::config::Config;
use raft_core::effect::{Effect, Persist};
use raft_core::input::{Input, LoadFailed};
use raft_core::message::{AppendEntriesReply, AppendResult, Envelope, Message};
use raft_core::node::Node;
use raft_core::port::{OlderEntries, Stored};
use raft_core::status::Status;
use raft_core::types::{Index, NodeId, WriteId};

use crate::draw;

/// The id of the node under test.
pub const ME: NodeId = NodeId(1);

/// How many true answers wait at the most: the oldest are lost.
const MAX_ANSWERS: usize = 32;

/// A node, and what it has been told to write.
pub struct Subject {
    node: Node,
    config: Config,
    /// What its writes have made of the log store. None if that began with more than memory holds.
    disk: Option<Stored>,
    last_write: WriteId,
    halted: bool,
    /// What a driver and peers that do as they should would say to it by now.
    answers: VecDeque<Input>,
}

impl Subject {
    /// A node that has started from what `bytes` say, if it does start.
    pub fn draw(bytes: &mut Unstructured<'_>) -> Result<Option<Self>> {
        let config = draw::config(bytes)?;
        let stored = draw::stored(bytes)?;
        let applied = draw::applied(bytes, &stored)?;
        let Ok(node) = Node::new(config.clone(), stored.clone(), applied) else { return Ok(None) };
        let disk = (stored.older == OlderEntries::default()).then_some(stored);
        let answers = VecDeque::new();
        Ok(Some(Self { node, config, disk, last_write: WriteId(0), halted: false, answers }))
    }

    pub fn status(&self) -> Status {
        self.node.status()
    }

    pub fn disk(&self) -> Option<&Stored> {
        self.disk.as_ref()
    }

    pub fn last_write(&self) -> WriteId {
        self.last_write
    }

    pub fn answers(&self) -> usize {
        self.answers.len()
    }

    pub fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Gives the node one of the answers that wait.
    pub fn answer(&mut self, answer: usize) {
        let input = self.answers.remove(answer).expect("one that waits");
        self.step(input);
    }

    /// Starts again from what was written, which fits together whatever was said.
    pub fn restart(&mut self) {
        let Some(disk) = &self.disk else { return };
        let node = Node::new(self.config.clone(), disk.clone(), disk.snapshot.last);
        self.node = node.expect("a node starts from what it has written");
        self.last_write = WriteId(0);
        self.halted = false;
        self.answers.clear();
    }

    /// Takes one input, and checks what can be seen from outside.
    pub fn step(&mut self, input: Input) {
        let before = self.node.status();
        let effects = self.node.step(input);
        assert!(effects.is_empty() || !self.halted, "a halted node does nothing");
        for effect in effects {
            self.carry_out(effect);
        }
        let after = self.node.status();
        if !self.halted {
            self.check(&before, &after);
        }
    }

    fn check(&self, before: &Status, after: &Status) {
        assert!(after.term >= before.term, "a term never falls");
        assert!(after.commit_index >= before.commit_index, "what is committed stays so");
        assert!(after.applied_index >= before.applied_index, "what is applied stays so");
        assert!(after.snapshot_index >= before.snapshot_index, "a log begins ever later");
        assert!(after.applied_index <= after.commit_index, "what is applied is committed");
        assert!(after.commit_index <= after.last_index, "only stored entries are committed");
        assert!(after.durable_index <= after.last_index, "only stored entries are durable");
        assert!(after.snapshot_index <= after.commit_index, "a snapshot includes what is committed");
        if let Some(disk) = &self.disk {
            assert_eq!(after.term, disk.hard_state.term, "the term is written");
            assert_eq!(after.last_index, disk.last().index, "the log is written");
            assert_eq!(after.snapshot_index, disk.snapshot.last.index, "the snapshot is recorded");
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(write) => self.persist(&write),
            Effect::Send(envelope) => self.deliver(envelope),
            Effect::Apply(entries) => {
                let last = entries.last().expect("there is something to apply");
                self.expect(Input::Applied(last.id.index));
            }
            Effect::InstallSnapshot(snapshot) => self.expect(Input::Applied(snapshot.last.index)),
            Effect::TakeSnapshot(snapshot) => self.expect(Input::SnapshotTaken(snapshot.last.index)),
            Effect::CaptureSnapshot { to } => {
                let index = self.node.status().applied_index;
                self.expect(Input::SnapshotCaptured { to, index });
            }
            Effect::Load { from, max_bytes } => self.load(from, max_bytes),
            Effect::Halt(_) => self.halted = true,
            Effect::Became { .. } | Effect::UseMembership(_) | Effect::Appended { .. } => (),
            Effect::SteppedDown { .. } | Effect::ServeRead { .. } => (),
            Effect::Refuse { .. } | Effect::Discard { .. } => (),
        }
    }

    fn expect(&mut self, answer: Input) {
        if self.answers.len() == MAX_ANSWERS {
            self.answers.pop_front();
        }
        self.answers.push_back(answer);
    }

    fn persist(&mut self, write: &Persist) {
        assert_eq!(write.id.0, self.last_write.0 + 1, "writes are counted");
        self.last_write = write.id;
        if let Some(disk) = &mut self.disk {
            disk.carry_out(write);
        }
        self.expect(Input::Persisted(write.id));
    }

    fn load(&mut self, from: Index, max_bytes: u64) {
        let mut left = max_bytes;
        let entries: Vec<_> = self
            .disk
            .iter()
            .flat_map(|disk| &disk.entries)
            .filter(|entry| entry.id.index >= from)
            .take_while(|entry| {
                let fits = left > 0;
                left = left.saturating_sub(entry.size_bytes());
                fits
            })
            .cloned()
            .collect();
        let entries = if entries.is_empty() { Err(LoadFailed) } else { Ok(entries) };
        self.expect(Input::Loaded { from, entries });
    }

    /// Lets the addressee agree to whatever it is asked.
    fn deliver(&mut self, envelope: Envelope) {
        let Envelope { from, to, term, message } = envelope;
        assert!(from == ME && to != ME, "{from} writes to {to}");
        let reply = match message {
            Message::RequestPreVote { .. } => Message::RequestPreVoteReply { request_term: term, granted: true },
            Message::RequestVote { .. } => Message::RequestVoteReply { granted: true },
            Message::AppendEntries(append) => Message::AppendEntriesReply(AppendEntriesReply {
                round: append.round,
                result: AppendResult::Accepted { matched: append.prev.index.plus(append.entries.len() as u64) },
            }),
            Message::InstallSnapshot(install) => {
                self.expect(Input::SnapshotSent { to, arrived: true });
                Message::AppendEntriesReply(AppendEntriesReply {
                    round: install.round,
                    result: AppendResult::Accepted { matched: install.snapshot.last.index },
                })
            }
            Message::ReadIndex { token } => {
                let index = Some(self.node.status().commit_index);
                Message::ReadIndexReply { token, index }
            }
            Message::TimeoutNow => Message::RequestVote { last: Default::default(), transfer: true },
            Message::RequestPreVoteReply { .. }
            | Message::RequestVoteReply { .. }
            | Message::AppendEntriesReply(_)
            | Message::ReadIndexReply { .. } => return,
        };
        self.expect(Input::Receive(Envelope { from: to, to: from, term, message: reply }));
    }
}
