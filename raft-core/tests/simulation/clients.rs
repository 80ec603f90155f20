//! The clients of the cluster: what they ask, and whether the answers are right.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::input::{Input, ReadMode};
use raft_core::membership::{Change, MembershipChange};
use raft_core::types::{Entry, EntryId, Index, Member, Moment, NodeId, Payload, RequestId, Term};

use crate::random::Random;

/// All requests, and what became of them.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    requests: u64,
    /// Requests without an outcome yet, by the node that was asked.
    open: BTreeMap<(NodeId, RequestId), Request>,
    /// Entries whose clients wait for them to be applied at the node that has appended them.
    awaited: BTreeMap<(NodeId, Index), Term>,
    /// Entries whose clients were told of their success.
    acknowledged: Vec<EntryId>,
    pub reads_served: u64,
    pub refused: u64,
    pub changes: u64,
    pub stepped_down: u64,
    /// Batches that another leader has overwritten.
    pub lost: u64,
}

#[derive(Clone, Debug)]
enum Request {
    Propose(Vec<Bytes>),
    Read {
        /// What was committed when the read began, and so must be seen by it.
        committed: Index,
    },
    /// A change of the membership.
    Change,
    /// Somebody else is to lead, or nobody.
    StepDown,
}

impl Clients {
    /// A request to node `id`, at a moment when entries up to `committed` are committed.
    pub fn ask(&mut self, random: &mut Random, id: NodeId, committed: Index, now: Moment) -> Input {
        if !random.percent(40) {
            return self.propose(random, id);
        }
        let mode = if random.percent(50) { ReadMode::Quorum } else { ReadMode::Lease { now } };
        self.read(id, committed, mode)
    }

    /// A batch of commands, no two of which are alike.
    pub fn propose(&mut self, random: &mut Random, node: NodeId) -> Input {
        let id = self.next_request();
        let command = |n: u64, size: usize| Bytes::from(format!("{id}.{n}:{}", "x".repeat(size)));
        let commands: Vec<Bytes> = (0..random.between(1..4)).map(|n| command(n, random.below(100))).collect();
        self.open.insert((node, id), Request::Propose(commands.clone()));
        Input::Propose { id, commands }
    }

    /// A read that must see what is committed at this moment.
    pub fn read(&mut self, node: NodeId, committed: Index, mode: ReadMode) -> Input {
        let id = self.next_request();
        self.open.insert((node, id), Request::Read { committed });
        Input::Read { id, mode }
    }

    /// Something that operators ask for.
    pub fn operate(&mut self, random: &mut Random, node: NodeId, ids: &[NodeId]) -> Input {
        let id = self.next_request();
        let (request, input) = match random.below(10) {
            0..6 => (Request::Change, Input::ChangeMembership { id, change: draw_change(random, ids) }),
            6 => (Request::Change, Input::LeaveJoint { id }),
            7 | 8 => (Request::StepDown, Input::TransferLeadership { id, to: random.pick(ids) }),
            _ => (Request::StepDown, Input::StepDown { id }),
        };
        self.open.insert((node, id), request);
        input
    }

    /// A node does not lead any more, as it was asked.
    pub fn stepped_down(&mut self, node: NodeId, id: RequestId) {
        let Request::StepDown = self.close(node, id) else { panic!("{node} steps down for {id}") };
        self.stepped_down += 1;
    }

    fn next_request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    /// A request has its outcome. Each has one, no more.
    fn close(&mut self, node: NodeId, id: RequestId) -> Request {
        self.open.remove(&(node, id)).unwrap_or_else(|| panic!("{node} gives {id} a second outcome"))
    }

    /// A batch stands in the log of the node that was asked.
    pub fn appended(&mut self, node: NodeId, id: RequestId, first: EntryId, count: u64, log: &[Entry]) {
        let start = first.index.prev().0 as usize;
        let entries = &log[start..start + count as usize];
        let commands = match self.close(node, id) {
            Request::Propose(commands) => commands,
            Request::Change => {
                assert!(
                    matches!(entries, [Entry { payload: Payload::Membership(_), .. }]),
                    "{node} appends {entries:?}"
                );
                self.changes += 1;
                return;
            }
            request @ (Request::Read { .. } | Request::StepDown) => panic!("{node} appends {request:?}"),
        };
        assert!(entries.iter().all(|entry| entry.id.term == first.term), "{node} appends {id} in another term");
        let payloads: Vec<Payload> = entries.iter().map(|entry| entry.payload.clone()).collect();
        let expected: Vec<Payload> = commands.into_iter().map(Payload::Command).collect();
        assert_eq!(payloads, expected, "{node} appends other commands than those of {id}");
        self.awaited.extend(entries.iter().map(|entry| ((node, entry.id.index), entry.id.term)));
    }

    /// A request does not happen.
    pub fn refused(&mut self, node: NodeId, id: RequestId) {
        self.close(node, id);
        self.refused += 1;
    }

    /// A read is answered from a state that has applied `index`.
    pub fn read_served(&mut self, node: NodeId, id: RequestId, index: Index, committed_now: Index) {
        let Request::Read { committed } = self.close(node, id) else { panic!("{node} reads the proposal {id}") };
        assert!(index >= committed, "stale read {id} at {node}: sees {index}, but {committed} was committed before");
        assert!(index <= committed_now, "read {id} at {node} waits for {index}, which is not committed");
        self.reads_served += 1;
    }

    /// A node has applied entries: clients who wait there learn of their success, or that their commands are lost.
    pub fn applied(&mut self, node: NodeId, entries: &[Entry]) {
        for Entry { id, .. } in entries {
            match self.awaited.remove(&(node, id.index)) {
                Some(term) if term == id.term => self.acknowledged.push(*id),
                Some(_) => self.lost += 1,
                None => (),
            }
        }
    }

    /// A node gets a snapshot in place of entries: what became of those that clients wait for is not known there.
    pub fn installed(&mut self, node: NodeId, index: Index) {
        self.awaited.retain(|(asked, at), _| *asked != node || *at > index);
    }

    /// A node is gone, and with it the outcome of what it was asked.
    pub fn lose_node(&mut self, node: NodeId) {
        self.open.retain(|(asked, _), _| *asked != node);
        self.awaited.retain(|(asked, _), _| *asked != node);
    }

    /// What was acknowledged.
    pub fn acknowledged(&self) -> &[EntryId] {
        &self.acknowledged
    }

    /// Requests that have no outcome yet.
    pub fn unanswered(&self) -> Vec<(NodeId, RequestId)> {
        self.open.keys().copied().collect()
    }
}

/// Mostly one change, sometimes several at once, of which many make no sense: those are refused.
fn draw_change(random: &mut Random, ids: &[NodeId]) -> MembershipChange {
    let count = random.pick(&[1, 1, 1, 2, 3]);
    let changes = (0..count).map(|_| draw_single_change(random, ids)).collect();
    MembershipChange { changes, stay_joint: random.percent(10) }
}

fn draw_single_change(random: &mut Random, ids: &[NodeId]) -> Change {
    let id = random.pick(ids);
    match random.below(8) {
        0 | 1 => Change::AddVoter(id, Member::default()),
        2 | 3 => Change::AddLearner { id, member: Member::default(), promote: random.percent(70) },
        4 => Change::Promote(id),
        5 => Change::Demote(id),
        6 => Change::Remove(id),
        _ => Change::Update(id, Member { priority: random.below(3) as u32, ..Member::default() }),
    }
}
