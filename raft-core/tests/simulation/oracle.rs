//! Sees all nodes at once, and what their disks would hold after a power loss, and knows all that ever happened: so it can tell
//! whether a rule was broken. Its rules are those of Figure 3 of the paper, and what they rest on.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use raft_core::effect::{Effect, Persist, RoleKind};
use raft_core::membership::Membership;
use raft_core::message::{AppendResult, Envelope, Message};
use raft_core::status::Status;
use raft_core::types::{Entry, EntryId, HardState, Index, NodeId, Payload, Snapshot, Term};

use crate::image::Image;
use crate::machine::Machine;

/// Everything that must stay true.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// Who leads or has led a term, and the log with which it does. A leader only appends, so the log stays true after it is gone.
    reigns: BTreeMap<Term, Reign>,
    /// Every entry that ever was in a log, with the one before it.
    entries: HashMap<EntryId, (EntryId, Payload)>,
    /// From index 1.
    committed: Vec<Entry>,
    /// The term of the leader that committed each of them, which may be later than the entry's own.
    commit_terms: Vec<Term>,
    /// What each node can't forget any more.
    hard_states: BTreeMap<NodeId, HardState>,
    /// Every vote that was durable or known to another node.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    pub truncations: u64,
    pub compactions: u64,
}

#[derive(Clone, Debug)]
struct Reign {
    leader: NodeId,
    log: Vec<EntryId>,
}

/// What a node did.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    pub id: NodeId,
    pub before: &'a Status,
    pub after: &'a Status,
    pub effects: &'a [Effect],
}

impl Oracle {
    /// An oracle for a cluster whose nodes all start with `first`.
    pub fn new(first: &[Entry]) -> Self {
        let mut oracle = Self {
            reigns: BTreeMap::new(),
            entries: HashMap::new(),
            committed: Vec::new(),
            commit_terms: Vec::new(),
            hard_states: BTreeMap::new(),
            votes: BTreeMap::new(),
            truncations: 0,
            compactions: 0,
        };
        oracle.check_log_matching(&[], first);
        oracle
    }

    /// The last committed entry.
    pub fn commit_index(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// What is committed, in order.
    pub fn committed(&self) -> &[Entry] {
        &self.committed
    }

    /// How many terms had a leader.
    pub fn reigns(&self) -> usize {
        self.reigns.len()
    }

    /// A node has made a step, and its writes are under way. Comes before the other effects are carried out.
    pub fn check(&mut self, step: Step<'_>, machines: &BTreeMap<NodeId, Machine>) {
        let disk = &machines[&step.id].disk;
        for effect in step.effects {
            if let Effect::Persist(write) = effect {
                self.check_write(step, write, disk.written());
            }
        }
        self.check_status(step, disk.durable(), disk.written());
        self.check_reign(step, disk.written());
        self.check_commit(step, machines);
        for effect in step.effects {
            match effect {
                Effect::Send(envelope) => self.check_message(envelope, disk.durable()),
                Effect::Apply(entries) => self.check_apply(step, entries, disk.durable()),
                Effect::InstallSnapshot(snapshot) => {
                    let durable = &disk.durable().stored.snapshot;
                    assert!(
                        durable.last.index >= snapshot.last.index,
                        "{} installs what its log does not rest on",
                        step.id
                    );
                    self.check_snapshot(step.id, snapshot);
                }
                Effect::TakeSnapshot(snapshot) => self.check_snapshot(step.id, snapshot),
                Effect::Discard { from, reason } => panic!("{} can't make sense of {from}: {reason}", step.id),
                Effect::Halt(violation) => panic!("{} stops: {violation}", step.id),
                _ => (),
            }
        }
    }

    /// A term never falls and a vote never changes, also over restarts (§5.1, §5.2).
    pub fn check_durable(&mut self, id: NodeId, durable: &Image) {
        let new = durable.stored.hard_state;
        let old = self.hard_states.insert(id, new).unwrap_or_default();
        let vote_stays = new.term > old.term || old.vote.is_none() || new.vote == old.vote;
        assert!(new.term >= old.term && vote_stays, "{id} goes back from {old:?} to {new:?}");
        if let Some(candidate) = new.vote {
            self.note_vote(id, new.term, candidate);
        }
    }

    fn note_vote(&mut self, voter: NodeId, term: Term, candidate: NodeId) {
        let first = *self.votes.entry((voter, term)).or_insert(candidate);
        assert_eq!(first, candidate, "{voter} votes twice in term {term}");
    }

    /// A snapshot includes committed entries only, and has the membership at its last (§7).
    fn check_snapshot(&self, id: NodeId, snapshot: &Snapshot) {
        let Some(included) = self.committed.get(..snapshot.last.index.0 as usize) else {
            panic!("the snapshot of {id} goes up to {}, which is not committed", snapshot.last);
        };
        assert_eq!(
            included.last().map(|entry| entry.id),
            Some(snapshot.last),
            "the snapshot of {id} is of another log"
        );
        let membership = included.iter().rev().find_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(membership),
            Payload::Noop | Payload::Command(_) => None,
        });
        assert_eq!(Some(&snapshot.membership), membership, "the snapshot of {id} has another membership");
    }

    fn check_write(&mut self, step: Step<'_>, write: &Persist, written: &Image) {
        let stays_leader = is_leader(step.before) && is_leader(step.after);
        assert!(!stays_leader || write.truncate_from.is_none(), "leader {} truncates its log (append-only)", step.id);
        self.truncations += u64::from(write.truncate_from.is_some());
        for snapshot in write.compact.iter().chain(&write.install) {
            self.check_snapshot(step.id, snapshot);
        }
        self.compactions += u64::from(write.compact.is_some());
        let (kept, new) = written.log.split_at(written.log.len() - write.entries.len());
        self.check_log_matching(kept, new);
    }

    /// Log matching (§5.3): an entry is everywhere the same, and so is the one before it; so all before it are.
    fn check_log_matching(&mut self, kept: &[Entry], new: &[Entry]) {
        let mut previous = kept.last().map_or(EntryId::ZERO, |entry| entry.id);
        for Entry { id, payload } in new {
            let known = self.entries.entry(*id).or_insert_with(|| (previous, payload.clone()));
            assert_eq!(*known, (previous, payload.clone()), "two logs differ at or before {id} (log matching)");
            previous = *id;
        }
    }

    fn check_status(&self, step: Step<'_>, durable: &Image, written: &Image) {
        let Step { id, before, after, effects } = step;
        assert!(after.term >= before.term, "the term of {id} falls");
        assert!(after.commit_index >= before.commit_index, "the commit index of {id} falls");
        assert!(after.applied_index >= before.applied_index, "the applied index of {id} falls");
        assert!(after.applied_index <= after.commit_index, "{id} applies what is not committed");
        assert_eq!(after.last_index.0, written.log.len() as u64, "the log of {id} is not what it has written");
        assert_eq!(after.term, written.stored.hard_state.term, "the term of {id} is not what it has written");
        let claimed = after.durable_index.0 as usize;
        let truly_durable =
            claimed <= durable.log.len() && durable.log[..claimed].last() == written.log[..claimed].last();
        assert!(truly_durable, "{id} believes {} durable, which is not", after.durable_index);
        let now = (after.role, after.term, after.leader);
        let announced = effects.iter().rev().find_map(|effect| match effect {
            Effect::Became { role, term, leader } => Some((*role, *term, *leader)),
            _ => None,
        });
        let last_known = announced.unwrap_or((before.role, before.term, before.leader));
        assert_eq!(now, last_known, "{id} has changed without a word, or not as it said");
    }

    /// Election safety (§5.2), and leader completeness (§5.4).
    fn check_reign(&mut self, step: Step<'_>, written: &Image) {
        let Step { id, after, .. } = step;
        if !is_leader(after) {
            return;
        }
        let term = after.term;
        if !self.reigns.contains_key(&term) {
            self.check_completeness(id, term, written);
        }
        let reign = self.reigns.entry(term).or_insert(Reign { leader: id, log: Vec::new() });
        assert_eq!(reign.leader, id, "term {term} has two leaders (election safety)");
        let known = reign.log.len();
        reign.log.extend(written.log[known..].iter().map(|entry| entry.id));
    }

    /// What was committed in a term is in the logs of all leaders of later terms. It is the term of the commit that counts, not the
    /// entry's own: a leader of an old term may be elected late, and need not have what a later term has committed meanwhile.
    fn check_completeness(&self, id: NodeId, term: Term, written: &Image) {
        let earlier = self.committed.iter().zip(&self.commit_terms).filter(|(_, commit_term)| **commit_term < term);
        for (entry, _) in earlier {
            let position = entry.id.index.prev().0 as usize;
            let has = written.log.get(position) == Some(entry);
            assert!(has, "{id} leads term {term} without the committed entry {} (leader completeness)", entry.id);
        }
    }

    fn check_commit(&mut self, step: Step<'_>, machines: &BTreeMap<NodeId, Machine>) {
        let Step { id, before, after, .. } = step;
        let log = &machines[&id].disk.written().log;
        let known = self.committed.len();
        for entry in &log[before.commit_index.0 as usize..after.commit_index.0 as usize] {
            match self.committed.get(entry.id.index.prev().0 as usize) {
                Some(first) => {
                    assert_eq!(entry, first, "{id} takes another entry for committed (state machine safety)");
                }
                None => {
                    self.committed.push(entry.clone());
                    self.commit_terms.push(after.term);
                }
            }
        }
        if self.committed.len() > known {
            self.check_new_commit(step, machines);
        }
    }

    /// Only a leader commits, by counting durable copies of an entry of its own term (§5.3, §5.4.2).
    fn check_new_commit(&self, step: Step<'_>, machines: &BTreeMap<NodeId, Machine>) {
        let Step { id, before, after: status, .. } = step;
        let last = self.committed.last().map_or(EntryId::ZERO, |entry| entry.id);
        // A leader that is removed steps down in the step in which it commits that.
        assert!(is_leader(before) || is_leader(status), "{id} takes {last} for committed before any leader does");
        assert_eq!(last.term, status.term, "leader {id} commits {last} of another term by counting");
        let holds = |voter: &NodeId| {
            let durable = &machines[voter].disk.durable().log;
            durable.get(last.index.prev().0 as usize).is_some_and(|entry| entry.id == last)
        };
        let count = |voters: &BTreeSet<NodeId>| voters.iter().filter(|voter| holds(voter)).count();
        let agree = |voters: &BTreeSet<NodeId>| count(voters) * 2 > voters.len() || voters.is_empty();
        let is_quorum = |membership: &Membership| agree(&membership.voters) && agree(&membership.outgoing);
        // A commit may bring about another membership in the same step.
        let has_quorum = is_quorum(&before.membership) || is_quorum(&status.membership);
        assert!(has_quorum, "{id} commits {last} without a quorum of {:?}", before.membership);
    }

    /// What a message promises would survive a power loss at this very moment.
    fn check_message(&mut self, envelope: &Envelope, durable: &Image) {
        let Envelope { from, to, term, message } = envelope;
        let hard_state = durable.stored.hard_state;
        assert_eq!(*term, hard_state.term, "{from} speaks of a term that is not durable");
        match message {
            Message::RequestVote { .. } => {
                assert_eq!(hard_state.vote, Some(*from), "{from} stands without its own vote");
            }
            Message::RequestVoteReply { granted: true } => {
                assert_eq!(hard_state.vote, Some(*to), "{from} grants a vote that is not durable");
                self.note_vote(*from, *term, *to);
            }
            Message::AppendEntries(append) => {
                assert_eq!(self.reigns[term].leader, *from, "{from} does not lead term {term}");
                assert!(append.commit <= self.commit_index(), "{from} says that {} is committed", append.commit);
            }
            Message::AppendEntriesReply(reply) => {
                if let AppendResult::Accepted { matched } = reply.result {
                    self.check_acknowledgement(envelope, matched, durable);
                }
            }
            Message::InstallSnapshot(install) => {
                assert_eq!(self.reigns[term].leader, *from, "{from} does not lead term {term}");
                self.check_snapshot(*from, &install.snapshot);
            }
            Message::RequestPreVote { .. }
            | Message::TimeoutNow
            | Message::ReadIndex { .. }
            | Message::ReadIndexReply { .. }
            | Message::RequestPreVoteReply { .. }
            | Message::RequestVoteReply { granted: false } => (),
        }
    }

    /// The follower's durable log is the leader's, up to `matched`.
    fn check_acknowledgement(&self, envelope: &Envelope, matched: Index, durable: &Image) {
        let Envelope { from, to, term, .. } = envelope;
        let reign = &self.reigns[term];
        assert_eq!(reign.leader, *to, "{from} acknowledges {matched} to {to}, which does not lead term {term}");
        let count = matched.0 as usize;
        let in_leader = reign.log.get(..count).map(|log| log.last().copied());
        let in_follower = durable.log.get(..count).map(|log| log.last().map(|entry| entry.id));
        assert!(in_leader.is_some(), "{from} acknowledges {matched}, beyond the log of {to}");
        assert_eq!(in_follower, in_leader, "{from} acknowledges {matched}, which is not durable there");
    }

    /// State machine safety (§5.4.3): all apply the same, in order, each entry once, and only what is durable on the node itself.
    fn check_apply(&self, step: Step<'_>, entries: &[Entry], durable: &Image) {
        let Step { id, after, .. } = step;
        for entry in entries {
            let position = entry.id.index.prev().0 as usize;
            assert!(entry.id.index <= after.commit_index, "{id} applies {} before it is committed", entry.id);
            assert_eq!(entry, &self.committed[position], "{id} applies another entry (state machine safety)");
            assert_eq!(durable.log.get(position), Some(entry), "{id} applies {} before it is durable", entry.id);
        }
    }
}

fn is_leader(status: &Status) -> bool {
    status.role == RoleKind::Leader
}
