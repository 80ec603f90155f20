//! Reads settings, stored states and inputs out of bytes.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use raft_core::config::Config;
use raft_core::input::{Input, LoadFailed, ReadMode};
use raft_core::membership::{Change, Membership, MembershipChange};
use raft_core::message::{AppendEntries, AppendEntriesReply, AppendResult, Envelope, InstallSnapshot, Message};
use raft_core::port::{OlderEntries, Stored};
use raft_core::status::Status;
use raft_core::types::{
    Entry, EntryId, HardState, Incarnation, Index, Member, Moment, NodeId, Payload, ReadToken, RequestId, Round,
    Snapshot, Term, WriteId,
};

use crate::subject::{ME, Subject};

/// Any settings that are in their ranges, and now and then some that are not.
pub fn config(bytes: &mut Unstructured<'_>) -> Result<Config> {
    let limits = [0, 1, 50, 200, 1 << 20, u64::MAX];
    let heartbeat_ticks = *bytes.choose(&[1, 1, 1, 2, 5, 0])?;
    Ok(Config {
        election_timeout_ticks: *bytes.choose(&[2, 3, 10, u32::MAX / 2, u32::MAX])?,
        heartbeat_ticks,
        seed: bytes.arbitrary()?,
        max_append_bytes: *bytes.choose(&limits)?,
        max_inflight_messages: *bytes.choose(&[1, 2, 64, usize::MAX])?,
        max_inflight_bytes: *bytes.choose(&limits)?,
        max_uncommitted_bytes: *bytes.choose(&limits)?,
        max_cached_bytes: *bytes.choose(&limits)?,
        max_applying_bytes: *bytes.choose(&limits)?,
        snapshot_after_entries: *bytes.choose(&[1, 2, 5, u64::MAX])?,
        kept_entries: *bytes.choose(&[0, 1, 3, u64::MAX])?,
        lease: *bytes.choose(&[None, Some(0), Some(10), Some(u64::MAX)])?,
        ..Config::new(ME)
    })
}

/// A log and a term that mostly fit together, near the beginning of time or near its end.
pub fn stored(bytes: &mut Unstructured<'_>) -> Result<Stored> {
    let mut last = EntryId::ZERO;
    let mut stored = Stored::default();
    if bytes.ratio(1, 4)? {
        last = EntryId::new(Index(*bytes.choose(&[1, 5, 1 << 62, u64::MAX - 3, u64::MAX])?), first_term(bytes)?);
        stored.snapshot = Snapshot { last, membership: membership(bytes)?.into() };
    }
    if bytes.ratio(1, 8)? {
        stored.older = older(bytes, &mut last)?;
    }
    if last == EntryId::ZERO {
        last.term = first_term(bytes)?;
    }
    for _ in 0..bytes.int_in_range(0..=5)? {
        last = following(bytes, last)?;
        let payload = match last.index {
            Index(1) => Payload::Membership(membership(bytes)?.into()),
            _ => payload(bytes)?,
        };
        stored.entries.push(Entry { id: last, payload });
    }
    let term = if bytes.ratio(15, 16)? { last.term } else { Term(bytes.arbitrary()?) };
    stored.hard_state = HardState { term, vote: *bytes.choose(&[None, Some(ME), Some(NodeId(2)), Some(NodeId(0))])? };
    Ok(stored)
}

fn first_term(bytes: &mut Unstructured<'_>) -> Result<Term> {
    bytes.choose(&[1, 1, 5, Term::LAST.0 - 1, Term::LAST.0, u64::MAX - 10]).copied().map(Term)
}

fn older(bytes: &mut Unstructured<'_>, last: &mut EntryId) -> Result<OlderEntries> {
    let mut terms = Vec::new();
    let mut memberships = Vec::new();
    for _ in 0..bytes.int_in_range(1..=3)? {
        *last = following(bytes, *last)?;
        last.term.0 = last.term.0.max(1).saturating_add(u64::from(!terms.is_empty()));
        terms.push(*last);
        if bytes.arbitrary()? {
            memberships.push((last.index, membership(bytes)?.into()));
        }
        last.index.0 = last.index.0.saturating_add(bytes.int_in_range(0..=3)?);
    }
    Ok(OlderEntries { last: last.index, terms, memberships })
}

/// An id that can come after `last`, or hardly ever one that can't.
fn following(bytes: &mut Unstructured<'_>, last: EntryId) -> Result<EntryId> {
    if bytes.ratio(1, 64)? {
        return Ok(EntryId::new(Index(bytes.arbitrary()?), Term(bytes.arbitrary()?)));
    }
    Ok(EntryId::new(last.index.next(), Term(last.term.0.saturating_add(bytes.int_in_range(0..=1)?))))
}

/// The last entry that the state machine has applied: one of the log.
pub fn applied(bytes: &mut Unstructured<'_>, stored: &Stored) -> Result<EntryId> {
    let applied = bytes.choose_index(8)?;
    Ok(stored.entries.get(applied).map_or(stored.snapshot.last, |entry| entry.id))
}

fn payload(bytes: &mut Unstructured<'_>) -> Result<Payload> {
    Ok(match bytes.int_in_range(0..=3u8)? {
        0 => Payload::Membership(membership(bytes)?.into()),
        1 => Payload::Noop,
        _ => Payload::Command(command(bytes)?),
    })
}

fn command(bytes: &mut Unstructured<'_>) -> Result<Bytes> {
    Ok(Bytes::from(vec![b'x'; *bytes.choose(&[0, 1, 100])?]))
}

/// Mostly one that makes sense; else any at all: empty, with nodes of id zero, with voters of whom nothing is recorded.
fn membership(bytes: &mut Unstructured<'_>) -> Result<Membership> {
    let voters = *bytes.choose(&[1, 2, 3, 3, 5])?;
    let mut sensible = Membership::of_voters((1..=voters).map(|id| (NodeId(id), Member::default())).collect());
    match bytes.int_in_range(0..=3u8)? {
        0 => {
            let nodes = *bytes.choose(&[0, 1, 2, 3, 9, u64::MAX])?;
            let mut draw_ids = || -> Result<BTreeSet<NodeId>> {
                let mut ids = BTreeSet::new();
                for id in [0, 1, 2, 3, 9, nodes] {
                    if bytes.arbitrary()? {
                        ids.insert(NodeId(id));
                    }
                }
                Ok(ids)
            };
            let (voters, outgoing, learners) = (draw_ids()?, draw_ids()?, draw_ids()?);
            let (promotable, recorded) = (draw_ids()?, draw_ids()?);
            let mut members = BTreeMap::new();
            for id in recorded {
                members.insert(id, member(bytes)?);
            }
            Ok(Membership { voters, outgoing, learners, promotable, stays_joint: bytes.arbitrary()?, members })
        }
        1 => {
            for id in [voters + 1, voters + 2] {
                sensible.learners.insert(NodeId(id));
                sensible.members.insert(NodeId(id), member(bytes)?);
            }
            sensible.promotable.extend(bytes.arbitrary::<bool>()?.then_some(NodeId(voters + 1)));
            Ok(sensible)
        }
        2 => {
            for id in [1, voters + 1] {
                sensible.outgoing.insert(NodeId(id));
                sensible.members.insert(NodeId(id), member(bytes)?);
            }
            sensible.stays_joint = bytes.arbitrary()?;
            Ok(sensible)
        }
        _ => Ok(sensible),
    }
}

fn member(bytes: &mut Unstructured<'_>) -> Result<Member> {
    Ok(Member {
        address: String::new(),
        incarnation: Incarnation(bytes.int_in_range(0..=2)?),
        priority: *bytes.choose(&[0, 0, 1, u32::MAX])?,
    })
}

/// Draws inputs near to what a node would take for true.
pub struct Draw<'a, 'b> {
    bytes: &'a mut Unstructured<'b>,
    status: Status,
    log: Vec<EntryId>,
    last_write: WriteId,
}

impl<'a, 'b> Draw<'a, 'b> {
    pub fn new(bytes: &'a mut Unstructured<'b>, subject: &Subject) -> Self {
        let entries = subject.disk().into_iter().flat_map(|disk| &disk.entries);
        let log = entries.map(|entry| entry.id).collect();
        Self { bytes, status: subject.status(), log, last_write: subject.last_write() }
    }

    pub fn input(&mut self) -> Result<Input> {
        let id = RequestId(0);
        Ok(match self.bytes.int_in_range(0..=31u8)? {
            0..8 => Input::Tick,
            8 => Input::Persisted(WriteId(self.number()?)),
            9 => Input::Applied(Index(self.number()?)),
            10..13 => Input::Propose { id, commands: self.some(|draw| command(draw.bytes))? },
            13 => Input::Read { id, mode: self.read_mode()? },
            14 | 15 => Input::ChangeMembership { id, change: self.change()? },
            16 => Input::LeaveJoint { id },
            17 => Input::TransferLeadership { id, to: self.node()? },
            18 => Input::StepDown { id },
            19 => Input::Campaign,
            20 => Input::Loaded { from: Index(self.number()?), entries: self.loaded()? },
            21 => Input::SnapshotTaken(Index(self.number()?)),
            22 => Input::SnapshotCaptured { to: self.node()?, index: Index(self.number()?) },
            23 => Input::SnapshotProgress { to: self.node()? },
            24 => Input::SnapshotSent { to: self.node()?, arrived: self.bytes.arbitrary()? },
            _ => Input::Receive(self.envelope()?),
        })
    }

    /// A number that is near to something, or at an end of the range, or any.
    fn number(&mut self) -> Result<u64> {
        let Status { term, last_index, commit_index, applied_index, snapshot_index, .. } = &self.status;
        let near = [
            0,
            term.0,
            last_index.0,
            commit_index.0,
            applied_index.0,
            snapshot_index.0,
            self.last_write.0,
            Term::LAST.0,
            u64::MAX,
        ];
        let number = *self.bytes.choose(&near)?;
        Ok(match self.bytes.int_in_range(0..=7u8)? {
            0 => number.wrapping_sub(1),
            1 | 2 => number.wrapping_add(1),
            3 => self.bytes.arbitrary()?,
            _ => number,
        })
    }

    fn term(&mut self) -> Result<Term> {
        if self.bytes.ratio(3, 4)? { Ok(self.status.term) } else { self.number().map(Term) }
    }

    fn node(&mut self) -> Result<NodeId> {
        self.bytes.choose(&[0, 1, 2, 2, 2, 3, 3, 4, 5, 9, u64::MAX]).copied().map(NodeId)
    }

    /// An entry's id: mostly of one that is in the log.
    fn id(&mut self) -> Result<EntryId> {
        if !self.log.is_empty() && self.bytes.ratio(3, 4)? {
            return self.bytes.choose(&self.log).copied();
        }
        Ok(EntryId::new(Index(self.number()?), Term(self.number()?)))
    }

    fn some<T>(&mut self, mut draw: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        (0..self.bytes.int_in_range(0..=3u8)?).map(|_| draw(self)).collect()
    }

    fn read_mode(&mut self) -> Result<ReadMode> {
        if self.bytes.arbitrary()? {
            return Ok(ReadMode::Quorum);
        }
        Ok(ReadMode::Lease { now: Moment(self.number()?) })
    }

    fn change(&mut self) -> Result<MembershipChange> {
        let changes = self.some(|draw| {
            let (id, kind) = (draw.node()?, draw.bytes.int_in_range(0..=5u8)?);
            Ok(match kind {
                0 => Change::AddVoter(id, member(draw.bytes)?),
                1 => Change::AddLearner { id, member: member(draw.bytes)?, promote: draw.bytes.arbitrary()? },
                2 => Change::Promote(id),
                3 => Change::Demote(id),
                4 => Change::Remove(id),
                _ => Change::Update(id, member(draw.bytes)?),
            })
        })?;
        Ok(MembershipChange { changes, stay_joint: self.bytes.arbitrary()? })
    }

    fn loaded(&mut self) -> Result<std::result::Result<Vec<Entry>, LoadFailed>> {
        if self.bytes.arbitrary()? {
            return Ok(Err(LoadFailed));
        }
        let after = self.id()?;
        self.entries_after(after).map(Ok)
    }

    fn envelope(&mut self) -> Result<Envelope> {
        let to = if self.bytes.ratio(15, 16)? { ME } else { self.node()? };
        Ok(Envelope { from: self.node()?, to, term: self.term()?, message: self.message()? })
    }

    fn message(&mut self) -> Result<Message> {
        Ok(match self.bytes.int_in_range(0..=15u8)? {
            0 => Message::RequestPreVote { last: self.id()? },
            1 => Message::RequestVote { last: self.id()?, transfer: self.bytes.arbitrary()? },
            2 => Message::RequestPreVoteReply { request_term: self.term()?, granted: self.bytes.arbitrary()? },
            3 => Message::RequestVoteReply { granted: self.bytes.arbitrary()? },
            4 | 5 => {
                let round = Round(self.number()?);
                Message::AppendEntriesReply(AppendEntriesReply { round, result: self.result()? })
            }
            6 | 7 => Message::InstallSnapshot(self.install()?),
            8 => Message::TimeoutNow,
            9 => Message::ReadIndex { token: ReadToken(self.number()?) },
            10 => {
                let index = if self.bytes.arbitrary()? { Some(Index(self.number()?)) } else { None };
                Message::ReadIndexReply { token: ReadToken(self.number()?), index }
            }
            _ => Message::AppendEntries(self.append()?),
        })
    }

    fn result(&mut self) -> Result<AppendResult> {
        Ok(if self.bytes.arbitrary()? {
            AppendResult::Accepted { matched: Index(self.number()?) }
        } else {
            AppendResult::Rejected { prev: Index(self.number()?), hint: self.id()? }
        })
    }

    fn install(&mut self) -> Result<InstallSnapshot> {
        let last = match self.bytes.int_in_range(0..=2u8)? {
            0 => self.id()?,
            1 => EntryId::new(self.status.last_index.plus(self.bytes.int_in_range(1..=3)?), self.status.term),
            _ => EntryId::new(Index(self.number()?), self.term()?),
        };
        Ok(InstallSnapshot { snapshot: Snapshot { last, membership: membership(self.bytes)?.into() }, round: self.round()? })
    }

    fn round(&mut self) -> Result<Round> {
        self.bytes.choose(&[0, 0, 1, 2, u64::MAX]).copied().map(Round)
    }

    fn append(&mut self) -> Result<AppendEntries> {
        let prev = self.id()?;
        let entries = self.entries_after(prev)?.into();
        Ok(AppendEntries { prev, entries, commit: Index(self.number()?), round: self.round()? })
    }

    fn entries_after(&mut self, mut last: EntryId) -> Result<Vec<Entry>> {
        self.some(|draw| {
            last = draw.id_after(last)?;
            Ok(Entry { id: last, payload: payload(draw.bytes)? })
        })
    }

    fn id_after(&mut self, last: EntryId) -> Result<EntryId> {
        Ok(match self.bytes.int_in_range(0..=15u8)? {
            0 => self.id()?,
            1 => EntryId::new(Index(self.number()?), last.term),
            2..8 => EntryId::new(last.index.next(), last.term),
            _ => EntryId::new(last.index.next(), self.status.term),
        })
    }
}
