//! One node under test: `n1` of a small cluster, spoken to by hand.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::ops::RangeInclusive;

use bytes::Bytes;
use raft_core::config::Config;
use raft_core::effect::{Effect, Persist, RoleKind};
use raft_core::input::{Input, ReadMode};
use raft_core::membership::Membership;
use raft_core::message::{AppendEntries, AppendEntriesReply, AppendResult, Envelope, Message};
use raft_core::node::Node;
use raft_core::port::Stored;
use raft_core::status::Status;
use raft_core::types::{Entry, EntryId, HardState, Index, Member, NodeId, Payload, RequestId, Round, Term, WriteId};

/// The node under test.
pub const ME: NodeId = NodeId(1);

/// A cluster whose voters are these.
pub fn voters(ids: RangeInclusive<u64>) -> Membership {
    Membership::of_voters(ids.map(|id| (NodeId(id), Member::default())).collect())
}

/// What a node of an `n`-node cluster has stored: a log with entries of these terms, of which the first holds the membership, and
/// the last term, without a vote.
pub fn stored(n: u64, terms: &[u64]) -> Stored {
    let mut stored = Stored::first(voters(1..=n));
    assert_eq!(terms.first(), Some(&1), "the first entry is made in term 1");
    stored.entries.extend((2..).zip(&terms[1..]).map(|(index, &term)| command(index, term)));
    stored.hard_state.term = Term(terms[terms.len() - 1]);
    stored
}

/// The same, in a later term in which the node may have voted.
pub fn stored_in(n: u64, terms: &[u64], term: u64, vote: Option<u64>) -> Stored {
    Stored { hard_state: HardState { term: Term(term), vote: vote.map(NodeId) }, ..stored(n, terms) }
}

/// Shorthand for `index@term`.
pub fn id(index: u64, term: u64) -> EntryId {
    EntryId::new(Index(index), Term(term))
}

/// An entry whose command says where it comes from.
pub fn command(index: u64, term: u64) -> Entry {
    Entry { id: id(index, term), payload: Payload::Command(Bytes::from(format!("{index}@{term}"))) }
}

/// A request to store entries of these terms after `prev`.
pub fn append(prev: EntryId, terms: &[u64], commit: u64) -> Message {
    let entries = (prev.index.0 + 1..).zip(terms).map(|(index, &term)| command(index, term)).collect();
    Message::AppendEntries(AppendEntries { prev, entries, commit: Index(commit), round: Round(0) })
}

/// A follower's acknowledgement.
pub fn accepted(matched: u64) -> Message {
    accepted_in(0, matched)
}

/// A follower's acknowledgement that shows that it has seen `round`.
pub fn accepted_in(round: u64, matched: u64) -> Message {
    let result = AppendResult::Accepted { matched: Index(matched) };
    Message::AppendEntriesReply(AppendEntriesReply { round: Round(round), result })
}

/// A follower's refusal.
pub fn rejected(prev: u64, hint: EntryId) -> Message {
    let result = AppendResult::Rejected { prev: Index(prev), hint };
    Message::AppendEntriesReply(AppendEntriesReply { round: Round(0), result })
}

/// A node with a disk, of which the test decides when it has finished.
pub struct Subject {
    pub node: Node,
    last_write: WriteId,
}

impl Subject {
    /// Starts `n1` from what it has stored, with nothing applied.
    pub fn start(stored: Stored) -> Self {
        Self::with(Config::new(ME), stored, EntryId::ZERO)
    }

    /// Starts a node with settings of its own.
    pub fn with(config: Config, stored: Stored, applied: EntryId) -> Self {
        let node = Node::new(config, stored, applied).expect("the node starts");
        Self { node, last_write: WriteId::default() }
    }

    /// Takes one input. Writes stay under way.
    pub fn step(&mut self, input: Input) -> Vec<Effect> {
        let effects = self.node.step(input);
        self.last_write = writes(&effects).last().map_or(self.last_write, |write| write.id);
        effects
    }

    /// Takes inputs that have arrived together. Writes stay under way.
    pub fn step_all<const N: usize>(&mut self, inputs: [Input; N]) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.node.step_all(inputs, &mut effects);
        self.last_write = writes(&effects).last().map_or(self.last_write, |write| write.id);
        effects
    }

    /// All writes are durable now.
    pub fn confirm(&mut self) -> Vec<Effect> {
        self.step(Input::Persisted(self.last_write))
    }

    /// Takes one input with a quick disk: returns also what follows once its writes are durable.
    pub fn run(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = self.step(input);
        let mut confirmed = WriteId::default();
        while confirmed < self.last_write {
            confirmed = self.last_write;
            effects.extend(self.confirm());
        }
        effects
    }

    /// Receives a message, with a quick disk.
    pub fn receive(&mut self, from: u64, term: u64, message: Message) -> Vec<Effect> {
        self.run(receive(from, term, message))
    }

    /// Lets time pass.
    pub fn tick(&mut self, ticks: u32) -> Vec<Effect> {
        (0..ticks).flat_map(|_| self.run(Input::Tick)).collect()
    }

    /// Proposes one command, with a quick disk.
    pub fn propose(&mut self, request: u64) -> Vec<Effect> {
        self.run(propose(request))
    }

    /// Asks for a read, with a quick disk.
    pub fn read(&mut self, request: u64) -> Vec<Effect> {
        self.run(Input::Read { id: RequestId(request), mode: ReadMode::Quorum })
    }

    /// Lets time pass until it is no follower any more. Returns how many ticks, and what happened in the last.
    pub fn await_timeout(&mut self) -> (u32, Vec<Effect>) {
        for ticks in 1..1_000 {
            let effects = self.tick(1);
            let campaigns = |effect: &Effect| matches!(effect, Effect::Became { role: RoleKind::PreCandidate, .. });
            if effects.iter().any(campaigns) {
                return (ticks, effects);
            }
        }
        panic!("it never stands for election")
    }

    /// Makes it a candidate: the others would vote for it. Its vote is durable.
    pub fn campaign(&mut self) -> Vec<Effect> {
        self.await_timeout();
        self.with_pre_votes()
    }

    /// The others grant their pre-votes.
    pub fn with_pre_votes(&mut self) -> Vec<Effect> {
        self.hear_majority(|term| Message::RequestPreVoteReply { request_term: term, granted: true })
    }

    /// Makes it the leader of the next term.
    pub fn win(&mut self) -> Vec<Effect> {
        self.campaign();
        let effects = self.hear_majority(|_| Message::RequestVoteReply { granted: true });
        assert_eq!(self.status().role, RoleKind::Leader);
        effects
    }

    /// Just as many others as make a majority with this node say this, in its term.
    fn hear_majority(&mut self, message: impl Fn(Term) -> Message) -> Vec<Effect> {
        let status = self.status();
        let others = status.membership.voters.len() as u64 / 2;
        let term = status.term;
        (2..2 + others).flat_map(|from| self.receive(from, term.0, message(term))).collect()
    }

    /// The node at this moment.
    pub fn status(&self) -> Status {
        self.node.status()
    }

    /// Its term.
    pub fn term(&self) -> u64 {
        self.status().term.0
    }
}

/// The input of a message to `n1`.
pub fn receive(from: u64, term: u64, message: Message) -> Input {
    Input::Receive(Envelope { from: NodeId(from), to: ME, term: Term(term), message })
}

/// The input of one proposed command.
pub fn propose(request: u64) -> Input {
    Input::Propose { id: RequestId(request), commands: vec![Bytes::from(format!("request {request}"))] }
}

/// The writes among effects.
pub fn writes(effects: &[Effect]) -> Vec<&Persist> {
    let mut writes = Vec::new();
    for effect in effects {
        if let Effect::Persist(write) = effect {
            writes.push(write);
        }
    }
    writes
}

/// The messages among effects: to whom, and what.
pub fn sent(effects: &[Effect]) -> Vec<(u64, Message)> {
    let message = |effect: &Effect| match effect {
        Effect::Send(envelope) => Some((envelope.to.0, envelope.message.clone())),
        _ => None,
    };
    effects.iter().filter_map(message).collect()
}

/// The entries to apply among effects.
pub fn applied(effects: &[Effect]) -> Vec<EntryId> {
    let ids = |effect: &Effect| match effect {
        Effect::Apply(entries) => entries.iter().map(|entry| entry.id).collect(),
        _ => Vec::new(),
    };
    effects.iter().flat_map(ids).collect()
}

/// The reads to serve among effects: which, and from what index on.
pub fn served(effects: &[Effect]) -> Vec<(u64, u64)> {
    let read = |effect: &Effect| match effect {
        Effect::ServeRead { id, index } => Some((id.0, index.0)),
        _ => None,
    };
    effects.iter().filter_map(read).collect()
}
