//! This node whatever its role: its term, vote, log and membership, what waits for its disk, and the queue of effects.

use alloc::vec::Vec;
use bytes::Bytes;
use core::mem;

use crate::config::Config;
use crate::effect::{Effect, Malformed, Persist, Violation};
use crate::entries::Entries;
use crate::feed::Feed;
use crate::log::Log;
use crate::membership::Membership;
use crate::message::{AppendEntriesReply, AppendResult, Envelope, Message};
use crate::timer::{Jitter, Timer};
use crate::types::{Entry, EntryId, HardState, Index, NodeId, Payload, ReadToken, Round, Snapshot, Term, WriteId};

/// What every role works on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    config: Config,
    hard_state: HardState,
    log: Log,
    jitter: Jitter,
    /// How many elections in a row this node has stood in that nobody won in time.
    undecided_elections: u32,
    /// For how many ticks it still helps nobody to depose a leader that may rest on a lease.
    promised_ticks: u32,
    /// The last name that was made for a question to the leader.
    last_read_token: ReadToken,
    feed: Feed,
    /// The number of the last write that was ordered.
    last_write: WriteId,
    /// The write that makes the present term and vote durable, until it is confirmed.
    hard_state_write: Option<WriteId>,
    unwritten: Unwritten,
    notices: Vec<Effect>,
    orders: Vec<Effect>,
    /// Messages that wait for the term and vote to be durable. They belong to the present term and role.
    withheld: Vec<Envelope>,
    halted: bool,
}

/// What has changed and is in no `Persist` yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Unwritten {
    hard_state: bool,
    truncate_from: Option<Index>,
    compact: Option<Snapshot>,
    install: Option<Snapshot>,
    append_from: Option<Index>,
}

impl Unwritten {
    fn truncate_from(&mut self, index: Option<Index>) {
        self.truncate_from = self.truncate_from.into_iter().chain(index).min();
    }

    fn append_from(&mut self, index: Option<Index>) {
        self.append_from = self.append_from.into_iter().chain(index).min();
    }
}

impl Replica {
    /// A node with the log it has stored, of which the state machine has applied what is committed.
    pub fn new(config: Config, hard_state: HardState, log: Log) -> Self {
        let jitter = Jitter::new(config.seed);
        // From a place of its own at each start, so that no late answer to a question of an earlier life fits one of this.
        let last_read_token = ReadToken(jitter.clone().draw_any());
        let mut replica = Self {
            config,
            hard_state,
            jitter,
            undecided_elections: 0,
            promised_ticks: 0,
            last_read_token,
            feed: Feed::new(&log),
            log,
            last_write: WriteId(0),
            hard_state_write: None,
            unwritten: Unwritten::default(),
            notices: Vec::new(),
            orders: Vec::new(),
            withheld: Vec::new(),
            halted: false,
        };
        replica.log.evict(replica.config.max_cached_bytes);
        replica.announce_membership();
        // It may have heard from a leader just before, and forgotten it.
        replica.promise_lease();
        replica
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its current term.
    pub fn term(&self) -> Term {
        self.hard_state.term
    }

    /// Its log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The membership in force.
    pub fn membership(&self) -> &Membership {
        self.log.membership()
    }

    /// The last entry that the state machine has reported.
    pub fn applied_index(&self) -> Index {
        self.feed.applied_index()
    }

    /// Whether a broken rule has stopped this node.
    pub fn is_halted(&self) -> bool {
        self.halted
    }

    /// Whether this node may stand for election: if it has a vote in the membership in force or in the committed one, since the former may be
    /// rolled back and the latter may be all that the others know. After a restart, which one is committed is not known: each may be that could.
    pub fn may_campaign(&self) -> bool {
        self.term() < Term::LAST && self.log.possible_memberships().any(|membership| membership.is_voter(self.id()))
    }

    /// A timer with a random timeout, from the least election timeout up to twice that (§5.2).
    pub fn new_election_timer(&mut self) -> Timer {
        let least = self.config.election_timeout_ticks;
        Timer::new(self.jitter.draw(least..2 * least))
    }

    /// A timer for the votes of an election: at first as [`new_election_timer`](Self::new_election_timer), and twice as long after each election
    /// that nobody won, up to 32 times. Votes take as long as the voters' disks, however slow those are.
    pub fn new_vote_timer(&mut self) -> Timer {
        const MOST_DOUBLINGS: u32 = 5;
        let factor = 1 << self.undecided_elections.min(MOST_DOUBLINGS);
        let least = self.config.election_timeout_ticks;
        Timer::new(self.jitter.draw(least..2 * least).saturating_mul(factor))
    }

    /// Notes that nobody won an election in which this node stood.
    pub fn note_undecided_election(&mut self) {
        self.undecided_elections = self.undecided_elections.saturating_add(1);
    }

    /// Notes that there is a leader.
    pub fn forget_undecided_elections(&mut self) {
        self.undecided_elections = 0;
    }

    /// The next name for a question to the leader.
    pub fn next_read_token(&mut self) -> ReadToken {
        self.last_read_token = self.last_read_token.next();
        self.last_read_token
    }

    // Leases. What this node has promised a leader outlives its role and its term: it may enter a higher one while the leader still rests on the
    // promise.

    /// Promises the leader, if it may have a lease, an election timeout without an election (thesis §6.4.1).
    pub fn promise_lease(&mut self) {
        if self.config.lease.is_some() {
            self.promised_ticks = self.config.election_timeout_ticks;
        }
    }

    /// Whether the promise still binds: neither to vote for another nor to stand, unless the leader itself wants it.
    pub fn is_bound_by_lease(&self) -> bool {
        self.promised_ticks > 0
    }

    // Term and vote.

    /// Enters `term`, without a vote in it yet. What was withheld belonged to the old one.
    pub fn enter_term(&mut self, term: Term) {
        assert!(term > self.hard_state.term, "terms never fall");
        self.set_hard_state(HardState { term, vote: None });
    }

    /// Enters the next term with this node's vote for itself.
    pub fn enter_next_term_as_candidate(&mut self) {
        self.set_hard_state(HardState { term: self.hard_state.term.next(), vote: Some(self.id()) });
    }

    fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
        self.unwritten.hard_state = true;
    }

    /// Whether the present term and vote would survive a power loss.
    pub fn hard_state_is_durable(&self) -> bool {
        !self.unwritten.hard_state && self.hard_state_write.is_none()
    }

    /// Answers a request for this node's vote: one vote a term, first come first served, for a log at least as recent as its own
    /// (§5.2, §5.4.1). Returns whether it was granted.
    pub fn answer_vote(&mut self, candidate: NodeId, last: EntryId) -> bool {
        let free = self.hard_state.vote.is_none_or(|vote| vote == candidate);
        let granted = free && last.is_as_recent_as(self.log.last());
        if granted && self.hard_state.vote.is_none() {
            self.set_hard_state(HardState { vote: Some(candidate), ..self.hard_state });
        }
        self.send(candidate, Message::RequestVoteReply { granted });
        granted
    }

    /// Answers whether a vote would be granted in the term after `request_term`, which is not below this node's, by a node that
    /// does not hear from a leader (thesis §9.6), and is not bound to one. Changes nothing.
    pub fn answer_pre_vote(&mut self, candidate: NodeId, request_term: Term, last: EntryId) {
        let granted = last.is_as_recent_as(self.log.last()) && !self.is_bound_by_lease();
        self.send(candidate, Message::RequestPreVoteReply { request_term, granted });
    }

    /// Refuses a pre-vote: this node follows a leader, or leads.
    pub fn refuse_pre_vote(&mut self, candidate: NodeId, request_term: Term) {
        self.send(candidate, Message::RequestPreVoteReply { request_term, granted: false });
    }

    /// Refuses a message of an old term; the reply tells its sender of the new one (§5.1).
    pub fn refuse_stale(&mut self, from: NodeId, term: Term, message: &Message) {
        let reply = match message {
            Message::RequestPreVote { .. } => Message::RequestPreVoteReply { request_term: term, granted: false },
            Message::RequestVote { .. } => Message::RequestVoteReply { granted: false },
            Message::AppendEntries(append) => Message::AppendEntriesReply(AppendEntriesReply {
                round: Round::default(),
                result: AppendResult::Rejected { prev: append.prev.index, hint: EntryId::ZERO },
            }),
            Message::InstallSnapshot(install) => Message::AppendEntriesReply(AppendEntriesReply {
                round: Round::default(),
                result: AppendResult::Rejected { prev: install.snapshot.last.index, hint: EntryId::ZERO },
            }),
            Message::ReadIndex { token } => Message::ReadIndexReply { token: *token, index: None },
            // Its term is over, and so is what it wanted.
            Message::TimeoutNow => return,
            // Nobody waits for an answer to an answer.
            Message::RequestPreVoteReply { .. }
            | Message::RequestVoteReply { .. }
            | Message::AppendEntriesReply(_)
            | Message::ReadIndexReply { .. } => return,
        };
        self.send(from, reply);
    }

    // The log.

    /// Appends an entry of this node's term, as its leader. Returns its id.
    pub fn append(&mut self, payload: Payload) -> EntryId {
        let is_membership = matches!(payload, Payload::Membership(_));
        let id = self.append_all([payload]);
        if is_membership {
            self.announce_membership();
        }
        id
    }

    /// Appends commands of this node's term, at least one, as its leader. Returns the id of the first.
    pub fn append_commands(&mut self, commands: Vec<Bytes>) -> EntryId {
        self.append_all(commands.into_iter().map(Payload::Command))
    }

    fn append_all(&mut self, payloads: impl IntoIterator<Item = Payload>) -> EntryId {
        let first = EntryId::new(self.log.last().index.next(), self.term());
        self.unwritten.append_from(Some(first.index));
        let entry = |(index, payload)| Entry { id: EntryId::new(Index(index), first.term), payload };
        self.log.append_own((first.index.0..).zip(payloads).map(entry));
        first
    }

    /// Makes the log hold a leader's entries, as [`Log::splice`].
    pub fn splice(&mut self, entries: Entries) -> Result<(), EntryId> {
        let spliced = self.log.splice(entries)?;
        self.unwritten.truncate_from(spliced.truncated_from);
        self.unwritten.append_from(spliced.appended_from);
        if spliced.membership_changed {
            self.announce_membership();
        }
        Ok(())
    }

    /// Notes that entries up to `index` are committed.
    pub fn commit_to(&mut self, index: Index) {
        self.log.commit_to(index);
    }

    /// Notes that all writes up to `id` are durable, and lets go what waited for the term and vote. A number that was not given out yet
    /// confirms nothing more than those that were.
    pub fn persisted(&mut self, id: WriteId) {
        self.log.confirm_writes(id);
        if self.hard_state_write.is_some_and(|write| write <= id) {
            self.hard_state_write = None;
        }
        if self.hard_state_is_durable() {
            self.orders.extend(mem::take(&mut self.withheld).into_iter().map(Effect::Send));
        }
    }

    // The state machine.

    /// Notes that the state machine has applied entries up to `index`.
    pub fn applied(&mut self, index: Index) {
        self.feed.applied(index);
        self.take_snapshot_if_worthwhile();
    }

    fn take_snapshot_if_worthwhile(&mut self) {
        if let Some(snapshot) = self.feed.take_worthwhile_snapshot(&self.config, &self.log) {
            self.order(Effect::TakeSnapshot(snapshot));
        }
    }

    /// Notes that the state up to `index` is durable, and drops the entries before it: but not the last few, which slow followers may need, and none
    /// after `needed`.
    pub fn snapshot_taken(&mut self, index: Index, needed: Index) {
        let snapshot_index = self.feed.snapshot_taken(index);
        let kept = Index(snapshot_index.0.saturating_sub(self.config.kept_entries)).min(needed);
        if kept > self.log.base().index
            && let Some(snapshot) = self.log.snapshot_at(kept)
        {
            self.log.compact(&snapshot);
            self.unwritten.compact = Some(snapshot);
        }
        self.take_snapshot_if_worthwhile();
    }

    /// Takes a snapshot from the leader in place of the log. It is beyond what is committed here.
    pub fn install(&mut self, snapshot: Snapshot) {
        self.unwritten.truncate_from(self.log.install(&snapshot));
        self.unwritten.append_from = None;
        self.unwritten.install = Some(snapshot.clone());
        self.feed.install(snapshot);
        self.announce_membership();
    }

    /// Takes entries that were read back, if they are the next to apply.
    pub fn loaded(&mut self, from: Index, entries: Option<Entries>) {
        self.feed.loaded(from, entries);
    }

    /// Counts one tick: a promise comes to its end, and what could not be read may be readable now.
    pub fn tick(&mut self) {
        self.promised_ticks = self.promised_ticks.saturating_sub(1);
        self.feed.tick();
    }

    // Effects.

    /// Sends a message of the present term, once that term and this node's vote in it are durable.
    pub fn send(&mut self, to: NodeId, message: Message) {
        let envelope = Envelope { from: self.id(), to, term: self.term(), message };
        if self.hard_state_is_durable() {
            self.orders.push(Effect::Send(envelope));
        } else {
            self.withhold(envelope);
        }
    }

    /// Keeps a message until it may leave, in place of an older one of its kind to the same node: so what waits for a slow disk stays bounded,
    /// however often this node is asked.
    fn withhold(&mut self, envelope: Envelope) {
        let kind = mem::discriminant(&envelope.message);
        self.withheld.retain(|older| older.to != envelope.to || mem::discriminant(&older.message) != kind);
        self.withheld.push(envelope);
    }

    /// Drops what was withheld, for it belongs to a term or role that has ended.
    pub fn drop_withheld(&mut self) {
        self.withheld = Vec::new();
    }

    /// Orders something other than a message or a write.
    pub fn order(&mut self, effect: Effect) {
        self.orders.push(effect);
    }

    /// Tells people and metrics of a change.
    pub fn announce(&mut self, effect: Effect) {
        self.notices.push(effect);
    }

    fn announce_membership(&mut self) {
        let membership = self.log.membership().clone();
        self.announce(Effect::UseMembership(membership));
    }

    /// Says that a message made no sense.
    pub fn discard(&mut self, from: NodeId, reason: Malformed) {
        self.announce(Effect::Discard { from, reason });
    }

    /// Stops this node for good: a rule that safety rests on was broken elsewhere. Nothing that this step wanted is carried out.
    pub fn halt(&mut self, violation: Violation) {
        self.halted = true;
        self.withheld.clear();
        self.unwritten = Unwritten::default();
        self.orders.clear();
        self.orders.push(Effect::Halt(violation));
    }

    /// Begins a step, whose effects are queued in this empty list. Between steps, there are none.
    pub fn queue_in(&mut self, orders: Vec<Effect>) {
        self.orders = orders;
    }

    /// Everything that the step has brought about: one write for all that has changed, and what has become ready to apply.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        if self.halted {
            self.notices.append(&mut self.orders);
            return mem::take(&mut self.notices);
        }
        let persist = self.take_persist();
        let install = self.feed.take_install(&self.log);
        let apply = self.feed.take_apply(&self.config, &self.log);
        self.log.evict(self.config.max_cached_bytes);
        let mut effects = mem::take(&mut self.orders);
        if let Some(write) = persist {
            effects.insert(0, Effect::Persist(write));
        }
        if !self.notices.is_empty() {
            effects.splice(0..0, mem::take(&mut self.notices));
        }
        effects.extend(install.map(Effect::InstallSnapshot));
        effects.extend(apply);
        effects
    }

    fn take_persist(&mut self) -> Option<Persist> {
        if self.unwritten == Unwritten::default() {
            return None;
        }
        let unwritten = mem::take(&mut self.unwritten);
        let id = self.last_write.next();
        self.last_write = id;
        if unwritten.hard_state {
            self.hard_state_write = Some(id);
        }
        self.log.note_write(id);
        Some(Persist {
            id,
            hard_state: unwritten.hard_state.then_some(self.hard_state),
            truncate_from: unwritten.truncate_from,
            compact: unwritten.compact,
            install: unwritten.install,
            entries: unwritten.append_from.map(|from| self.log.entries_from(from)).unwrap_or_default(),
        })
    }
}
