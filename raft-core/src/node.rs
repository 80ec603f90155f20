//! A Raft node: the rules for all servers, and the changes of role.

use alloc::vec::Vec;
use core::cmp::Ordering;
use core::mem;

use crate::config::{Config, ConfigError};
use crate::effect::{Effect, Malformed, Refusal, RoleKind, Violation};
use crate::entries::Entries;
use crate::input::Input;
use crate::log::Log;
use crate::message::{Envelope, Message};
use crate::port::Stored;
use crate::quorum::VoteResult;
use crate::replica::Replica;
use crate::role::Role;
use crate::role::candidate::{Candidate, Stage};
use crate::role::follower::Follower;
use crate::role::leader::{Leader, Leadership};
use crate::status::Status;
use crate::types::{Entry, EntryId, Index, NodeId, RequestId, Term, WriteId};

/// A Raft node: a value that takes inputs and returns effects. See the [crate page](crate) for the loop around it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    replica: Replica,
    role: Role,
}

impl Node {
    /// Starts a node from what it has stored and from the last entry that its state machine has applied. It begins as a follower;
    /// the first effects come with the first step.
    ///
    /// # Errors
    ///
    /// If a setting is out of its range, or what was stored does not fit together: then the node must not run.
    pub fn new(config: Config, stored: Stored, applied: EntryId) -> Result<Self, BootError> {
        config.validate()?;
        validate(&stored, applied)?;
        let Stored { hard_state, snapshot, older, entries } = stored;
        let log = Log::new(snapshot, older, entries, applied.index);
        if !log.contains(applied) {
            return Err(BootError::StateAhead { applied, last: log.last() });
        }
        let mut replica = Replica::new(config, hard_state, log);
        let role = Role::Follower(Follower::new(&mut replica));
        Ok(Self { replica, role })
    }

    /// Takes one input and returns what the caller must now do, in order. Any input is allowed at any time; what makes no sense is
    /// refused by an effect. After [`Effect::Halt`] nothing is done any more.
    pub fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.step_all([input], &mut effects);
        effects
    }

    /// Takes inputs that have arrived together, in order, and puts into `effects`, in place of what is in there, what the caller must now do for all of
    /// them: one write, and as few messages as carry the entries. A driver that lets inputs gather while it works, and uses `effects` again, does less
    /// work for each input; it is correct with any number at a time.
    pub fn step_all(&mut self, inputs: impl IntoIterator<Item = Input>, effects: &mut Vec<Effect>) {
        effects.clear();
        self.replica.queue_in(mem::take(effects));
        inputs.into_iter().for_each(|input| self.take(input));
        if let Role::Leader(leader) = &mut self.role
            && !self.replica.is_halted()
        {
            leader.replicate(&mut self.replica);
        }
        *effects = self.replica.take_effects();
    }

    fn take(&mut self, input: Input) {
        if self.replica.is_halted() {
            return;
        }
        match input {
            Input::Tick => self.tick(),
            Input::Receive(envelope) => self.receive(envelope),
            Input::Propose { id, commands } => {
                self.ask_leader(id, |leader, replica| leader.propose(replica, id, commands));
            }
            Input::Read { id, mode } => match &mut self.role {
                Role::Leader(leader) => leader.read(&mut self.replica, id, mode),
                Role::Follower(follower) => follower.read(&mut self.replica, id),
                Role::Candidate(_) => self.refuse(id),
            },
            Input::ChangeMembership { id, change } => {
                self.ask_leader(id, |leader, replica| leader.change_membership(replica, id, &change));
            }
            Input::LeaveJoint { id } => self.ask_leader(id, |leader, replica| leader.leave_joint(replica, id)),
            Input::TransferLeadership { id, to } => {
                self.ask_leader(id, |leader, replica| leader.transfer(replica, id, to));
            }
            Input::StepDown { id } => self.step_down(id),
            Input::Campaign => self.campaign_now(),
            Input::Persisted(write) => self.persisted(write),
            Input::Applied(index) => self.replica.applied(index),
            Input::Loaded { from, entries } => self.loaded(from, entries.ok()),
            Input::SnapshotTaken(index) => self.replica.snapshot_taken(index, self.needed()),
            Input::SnapshotCaptured { to, index } => {
                self.tell_leader(|leader, replica| leader.snapshot_captured(replica, to, index));
            }
            Input::SnapshotProgress { to } => self.tell_leader(|leader, _| leader.snapshot_progress(to)),
            Input::SnapshotSent { to, arrived } => self.tell_leader(|leader, _| leader.snapshot_sent(to, arrived)),
        }
    }

    /// What this node is at this moment, for people and metrics.
    pub fn status(&self) -> Status {
        let log = self.replica.log();
        Status {
            id: self.replica.id(),
            role: self.role_kind(),
            term: self.replica.term(),
            leader: self.leader(),
            commit_index: log.commit_index(),
            applied_index: self.replica.applied_index(),
            last_index: log.last().index,
            durable_index: log.durable_index(),
            snapshot_index: log.base().index,
            membership: self.replica.membership().clone(),
            followers: match &self.role {
                Role::Leader(leader) => leader.follower_statuses(),
                Role::Follower(_) | Role::Candidate(_) => Vec::new(),
            },
            transferring_to: match &self.role {
                Role::Leader(leader) => leader.successor(),
                Role::Follower(_) | Role::Candidate(_) => None,
            },
        }
    }

    fn tick(&mut self) {
        self.replica.tick();
        // Until its term and vote are durable, a node has no voice: a candidate has asked nobody yet, and a voter has promised a vote that it
        // would withdraw. So the time until an election begins then, or a disk slower than that time would never let one end.
        let has_voice = self.replica.hard_state_is_durable();
        match &mut self.role {
            Role::Follower(follower) => {
                if has_voice && follower.tick(&mut self.replica) {
                    self.campaign();
                }
            }
            Role::Candidate(candidate) => {
                if has_voice && candidate.tick() {
                    if candidate.stage() == Stage::Vote {
                        self.replica.note_undecided_election();
                    }
                    self.campaign();
                }
            }
            Role::Leader(leader) => {
                let leadership = leader.tick(&mut self.replica);
                self.conclude_leadership(leadership);
            }
        }
    }

    fn receive(&mut self, envelope: Envelope) {
        if let Err(reason) = self.check(&envelope) {
            return self.replica.discard(envelope.from, reason);
        }
        let Envelope { from, term, message, .. } = envelope;
        // Rules for all servers (§5.1): an old term is refused, a new one makes us its follower.
        match term.cmp(&self.replica.term()) {
            // A voter may answer a pre-vote from an older term (thesis §9.6).
            Ordering::Less if matches!(message, Message::RequestPreVoteReply { .. }) => (),
            Ordering::Less => return self.replica.refuse_stale(from, term, &message),
            // A pre-vote changes nobody's term.
            Ordering::Greater if matches!(message, Message::RequestPreVote { .. }) => (),
            // Who hears from a leader does not help to depose it (§6, thesis §4.2.3), unless the leader wants it (thesis §3.10).
            Ordering::Greater if is_unasked_vote(&message) && self.hears_leader() => return,
            // Nor does who is bound by a lease, even if it has lost sight of the leader (thesis §6.4.1).
            Ordering::Greater | Ordering::Equal if is_unasked_vote(&message) && self.replica.is_bound_by_lease() => {
                return;
            }
            Ordering::Greater => self.enter_term(term),
            Ordering::Equal => (),
        }
        if message.is_from_leader() {
            self.recognize(from);
            self.replica.promise_lease();
        }
        self.dispatch(from, term, message);
    }

    fn check(&self, envelope: &Envelope) -> Result<(), Malformed> {
        let id = self.replica.id();
        if envelope.to != id {
            return Err(Malformed::NotForUs(envelope.to));
        }
        if envelope.from == id || !envelope.from.is_possible() {
            return Err(Malformed::Sender(envelope.from));
        }
        if envelope.term > Term::LAST {
            return Err(Malformed::Term(envelope.term));
        }
        if let Message::AppendEntries(append) = &envelope.message
            && !append.is_continuous(envelope.term)
        {
            return Err(Malformed::Entries(append.prev));
        }
        if let Message::InstallSnapshot(install) = &envelope.message
            && !install.is_possible(envelope.term)
        {
            return Err(Malformed::Snapshot(install.snapshot.last));
        }
        Ok(())
    }

    fn dispatch(&mut self, from: NodeId, term: Term, message: Message) {
        let Self { replica, role } = self;
        if replica.is_halted() {
            return;
        }
        match role {
            Role::Follower(_) if message == Message::TimeoutNow => self.take_over(),
            Role::Follower(follower) => follower.receive(replica, from, term, message),
            Role::Leader(leader) => {
                let leadership = leader.receive(replica, from, term, message);
                self.conclude_leadership(leadership);
            }
            Role::Candidate(candidate) => {
                let result = candidate.receive(replica, from, term, message);
                self.conclude_election(result);
            }
        }
    }

    fn persisted(&mut self, write: WriteId) {
        let Self { replica, role } = self;
        replica.persisted(write);
        match role {
            Role::Follower(follower) => follower.persisted(replica),
            Role::Leader(leader) => {
                let leadership = leader.persisted(replica);
                self.conclude_leadership(leadership);
            }
            Role::Candidate(candidate) => {
                let result = candidate.persisted(replica);
                self.conclude_election(result);
            }
        }
    }

    /// Entries were read back: for the state machine, or for followers.
    fn loaded(&mut self, from: Index, entries: Option<Vec<Entry>>) {
        let entries = entries.filter(|entries| self.replica.log().holds_slice(from, entries)).map(Entries::from);
        self.replica.loaded(from, entries.clone());
        self.tell_leader(|leader, replica| leader.loaded(replica, from, entries.as_ref()));
    }

    /// The entry after which nothing may be compacted.
    fn needed(&self) -> Index {
        match &self.role {
            Role::Leader(leader) => leader.needed(),
            Role::Follower(_) | Role::Candidate(_) => Index(u64::MAX),
        }
    }

    /// Has request `id` carried out if this node leads, and refuses it otherwise.
    fn ask_leader(&mut self, id: RequestId, ask: impl FnOnce(&mut Leader, &mut Replica)) {
        match &mut self.role {
            Role::Leader(leader) => ask(leader, &mut self.replica),
            Role::Follower(_) | Role::Candidate(_) => self.refuse(id),
        }
    }

    /// Passes on what matters to a leader only.
    fn tell_leader(&mut self, tell: impl FnOnce(&mut Leader, &mut Replica)) {
        if let Role::Leader(leader) = &mut self.role {
            tell(leader, &mut self.replica);
        }
    }

    fn refuse(&mut self, id: RequestId) {
        let leader = self.leader();
        self.replica.order(Effect::Refuse { id, reason: Refusal::NotLeader, leader });
    }

    // What is known of the leader.

    fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(follower) => follower.leader(),
            Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.replica.id()),
        }
    }

    /// Whether this node follows a leader that is alive, or leads.
    fn hears_leader(&self) -> bool {
        match &self.role {
            Role::Follower(follower) => follower.hears_leader(&self.replica),
            Role::Candidate(_) => false,
            Role::Leader(_) => true,
        }
    }

    /// Follows the leader of this term. There can't be two.
    fn recognize(&mut self, leader: NodeId) {
        match self.leader() {
            Some(known) if known == leader => return,
            Some(first) => {
                let term = self.replica.term();
                return self.replica.halt(Violation::TwoLeaders { term, first, second: leader });
            }
            None => (),
        }
        if let Role::Candidate(_) = self.role {
            self.replica.drop_withheld();
            self.role = Role::Follower(Follower::new(&mut self.replica));
        }
        if let Role::Follower(follower) = &mut self.role {
            follower.follow(leader);
        }
        self.replica.forget_undecided_elections();
        self.announce_role();
    }

    // Changes of role.

    fn enter_term(&mut self, term: Term) {
        self.replica.enter_term(term);
        self.become_follower();
    }

    fn become_follower(&mut self) {
        self.change_role(|replica| Role::Follower(Follower::new(replica)));
    }

    fn step_down(&mut self, id: RequestId) {
        if !matches!(self.role, Role::Leader(_)) {
            return self.refuse(id);
        }
        self.become_follower();
        self.replica.order(Effect::SteppedDown { id });
    }

    /// Stands as if the election timeout had passed. It must not have a promise to keep, to a leader or to a candidate whose vote is being written.
    fn campaign_now(&mut self) {
        let leads = matches!(self.role, Role::Leader(_));
        let is_free = self.replica.hard_state_is_durable() && !self.replica.is_bound_by_lease();
        if !leads && is_free && self.replica.may_campaign() {
            self.campaign();
        }
    }

    /// Stands because the leader wants it (thesis §3.10): without asking first, since the others still hear from the leader.
    fn take_over(&mut self) {
        if self.replica.may_campaign() {
            self.stand(true);
        }
    }

    /// Stands for election, first by asking whether it would win (thesis §9.6).
    fn campaign(&mut self) {
        if !self.replica.may_campaign() {
            return self.forget_leader();
        }
        self.change_role(|replica| Role::Candidate(Candidate::ask_pre_votes(replica)));
        if let Role::Candidate(candidate) = &self.role {
            let result = candidate.result(&self.replica);
            self.conclude_election(result);
        }
    }

    /// Notes that the leader is silent: who can't stand itself must not hold up others for it.
    fn forget_leader(&mut self) {
        if self.leader().is_some() {
            self.become_follower();
        }
    }

    fn conclude_leadership(&mut self, leadership: Leadership) {
        if leadership == Leadership::Lost {
            self.become_follower();
        }
    }

    fn conclude_election(&mut self, result: VoteResult) {
        let Role::Candidate(candidate) = &self.role else { return };
        match (result, candidate.stage()) {
            (VoteResult::Pending, _) => (),
            (VoteResult::Lost, _) => self.become_follower(),
            (VoteResult::Won, Stage::PreVote) => self.stand(false),
            (VoteResult::Won, Stage::Vote) => self.change_role(|replica| Role::Leader(Leader::new(replica))),
        }
    }

    /// Enters the next term as a candidate (§5.2).
    fn stand(&mut self, transfer: bool) {
        self.replica.enter_next_term_as_candidate();
        self.change_role(|replica| Role::Candidate(Candidate::ask_votes(replica, transfer)));
    }

    /// Takes on a role. What was withheld was promised in the old one.
    fn change_role(&mut self, role: impl FnOnce(&mut Replica) -> Role) {
        match &mut self.role {
            Role::Follower(follower) => follower.resign(&mut self.replica),
            Role::Leader(leader) => leader.resign(&mut self.replica),
            Role::Candidate(_) => (),
        }
        self.replica.drop_withheld();
        self.role = role(&mut self.replica);
        self.announce_role();
    }

    fn announce_role(&mut self) {
        let (role, term, leader) = (self.role_kind(), self.replica.term(), self.leader());
        self.replica.announce(Effect::Became { role, term, leader });
    }

    fn role_kind(&self) -> RoleKind {
        match &self.role {
            Role::Follower(_) => RoleKind::Follower,
            Role::Candidate(candidate) => candidate.kind(),
            Role::Leader(_) => RoleKind::Leader,
        }
    }
}

/// Whether this asks for a vote of which the leader knows nothing.
fn is_unasked_vote(message: &Message) -> bool {
    matches!(message, Message::RequestVote { transfer: false, .. })
}

/// Why a node can't start from what was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// A setting is out of its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log has a gap, or a term falls.
    #[error("entry {next} can't follow entry {previous}: the stored log is damaged")]
    Discontinuous {
        /// An entry, or zero.
        previous: EntryId,
        /// What is stored after it.
        next: EntryId,
    },
    /// What is said of the older entries contradicts itself.
    #[error("what is stored of the entries up to {last} does not fit together at {at}: the stored log is damaged")]
    OlderEntries {
        /// The last of them.
        last: Index,
        /// Where it does not fit.
        at: Index,
    },
    /// The log begins after entries that the state machine has not applied.
    #[error(
        "the state machine has applied entries up to {applied} only, but the log begins after {snapshot}: the state is lost or too old"
    )]
    StateBehind {
        /// The state machine's last.
        applied: EntryId,
        /// The snapshot's last.
        snapshot: EntryId,
    },
    /// The log has an entry of a term that the node has not seen.
    #[error("the log ends with entry {last}, but the stored term is {term}: the stored term is too old")]
    TermBehind {
        /// The last entry.
        last: EntryId,
        /// The stored term.
        term: Term,
    },
    /// The state machine has applied an entry that the log does not hold.
    #[error(
        "the state machine has applied entry {applied}, which the log, ending at {last}, does not hold: the log has lost its end"
    )]
    StateAhead {
        /// The state machine's.
        applied: EntryId,
        /// The log's.
        last: EntryId,
    },
}

fn validate(stored: &Stored, applied: EntryId) -> Result<(), BootError> {
    let mut last = validate_older(stored)?;
    for entry in &stored.entries {
        let next = entry.id;
        if next.index != last.index.next() || next.term < last.term.max(Term(1)) {
            return Err(BootError::Discontinuous { previous: last, next });
        }
        last = next;
    }
    let term = stored.hard_state.term;
    if last.term > term {
        return Err(BootError::TermBehind { last, term });
    }
    let snapshot = stored.snapshot.last;
    if applied.index < snapshot.index {
        return Err(BootError::StateBehind { applied, snapshot });
    }
    if applied.index > last.index {
        return Err(BootError::StateAhead { applied, last });
    }
    Ok(())
}

/// Checks what is said of entries that are not in memory. Returns the last of them.
fn validate_older(stored: &Stored) -> Result<EntryId, BootError> {
    let Stored { snapshot, older, .. } = stored;
    let damaged = |at| Err(BootError::OlderEntries { last: older.last, at });
    let is_possible = (snapshot.last.index == Index::ZERO) == (snapshot.last.term == Term(0));
    if !is_possible || snapshot.last.index.0 > Index::LAST.0 || older.last > Index::LAST {
        return damaged(snapshot.last.index);
    }
    let mut last = snapshot.last;
    for (position, &start) in older.terms.iter().enumerate() {
        let is_first = position == 0 && start.index == last.index.next() && start.term >= last.term.max(Term(1));
        let is_later = position > 0 && start.index > last.index && start.term > last.term;
        if !(is_first || is_later) || start.index > older.last {
            return damaged(start.index);
        }
        last = start;
    }
    if older.terms.is_empty() && older.last != Index::ZERO {
        return damaged(older.last);
    }
    let mut previous = snapshot.last.index;
    for &(index, _) in &older.memberships {
        if index <= previous || index > older.last {
            return damaged(index);
        }
        previous = index;
    }
    Ok(if older.terms.is_empty() { snapshot.last } else { EntryId::new(older.last, last.term) })
}
