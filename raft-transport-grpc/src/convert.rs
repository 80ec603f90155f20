//! Between the wire's messages and the core's. To the wire always succeeds; from the wire may fail, and never panics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use raft_core::membership::Membership;
use raft_core::message::{AppendEntries, AppendEntriesReply, AppendResult, InstallSnapshot, Message};
use raft_core::types::{Entry, EntryId, Incarnation, Index, Member, NodeId, Payload, ReadToken, Round, Snapshot, Term};
use raftkv_proto::raft::v1 as wire;

/// A membership that names more nodes is refused.
pub const MAX_MEMBERS: usize = 1024;
/// An address of more bytes is refused: a DNS name has 253 at the most, a port 5.
pub const MAX_ADDRESS_BYTES: usize = 300;
/// A larger chunk of a snapshot is refused.
pub const MAX_CHUNK_BYTES: usize = 1 << 20;

/// What was wrong with a message from a peer. The message changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A field that every sender fills is absent.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// The entry has no payload, or one of a kind that only newer versions know.
    #[error("entry {0} has no payload that this version knows: upgrade this node before the cluster uses newer kinds")]
    UnknownPayload(Index),
    /// The entries' indexes do not fit in 64 bits.
    #[error("{count} entries after index {prev} would overflow the index")]
    IndexOverflow {
        /// The entry before them.
        prev: Index,
        /// How many there are.
        count: usize,
    },
    /// A node's id is zero.
    #[error("a member's id is zero")]
    ZeroId,
    /// A node is named twice in one list.
    #[error("`{list}` names {id} twice")]
    Repeated {
        /// The list.
        list: &'static str,
        /// The node.
        id: NodeId,
    },
    /// A node has a role but no record, or a record but no role.
    #[error("{0} stands in the members or in a list of roles, but not in both")]
    Unlisted(NodeId),
    /// Who waits to become a voter is a learner.
    #[error("{0} is promotable, but not a learner")]
    NoLearner(NodeId),
    /// The membership names too many nodes.
    #[error("{0} members are more than the {MAX_MEMBERS} that a cluster may have")]
    TooManyMembers(usize),
    /// A member's address is too long.
    #[error("the address of {0} is longer than {MAX_ADDRESS_BYTES} bytes")]
    LongAddress(NodeId),
    /// A pre-vote's reply answers another request than the one that was made.
    #[error("it answers the pre-vote of term {answered}, but was asked for that of term {asked}")]
    OtherPreVote {
        /// The term it names.
        answered: Term,
        /// The term of the request.
        asked: Term,
    },
    /// The answer to a read answers another than the one that was asked about.
    #[error("it answers the read {answered}, but was asked about {asked}")]
    OtherRead {
        /// The token it names.
        answered: ReadToken,
        /// The token of the request.
        asked: ReadToken,
    },
    /// A pre-vote that claims to be asked for by the leader.
    #[error("a pre-vote can't be part of a transfer")]
    PreVoteTransfer,
    /// A snapshot of nothing.
    #[error("a snapshot includes at least one entry")]
    EmptySnapshot,
    /// A snapshot's data is a header and then chunks.
    #[error("a part of a snapshot out of turn: a header comes first, and then nothing but chunks")]
    PartOutOfTurn,
    /// A chunk is not where it should be, or its size is wrong.
    #[error("{len} bytes at {offset} do not continue a snapshot of {size_bytes} bytes of which {received} are here")]
    ChunkOutOfPlace {
        /// Where it says it belongs.
        offset: u64,
        /// How many bytes it has.
        len: usize,
        /// How many bytes came before it.
        received: u64,
        /// The size of the whole.
        size_bytes: u64,
    },
    /// A chunk was altered on its way.
    #[error("the chunk at {offset} has the checksum {actual:08x}, and should have {stated:08x}")]
    Checksum {
        /// Where it belongs.
        offset: u64,
        /// What its sender says.
        stated: u32,
        /// What it is.
        actual: u32,
    },
    /// More of a snapshot is acknowledged than there is.
    #[error("it acknowledges {received} bytes of a snapshot, of which {sent} were sent")]
    NeverSent {
        /// What it says it has.
        received: u64,
        /// What it can have.
        sent: u64,
    },
}

/// The data of a snapshot that a leader announces, and the message that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Names the copy of the leader's state.
    pub capture: u64,
    /// The size of the whole.
    pub size_bytes: u64,
    /// The leader's term.
    pub term: Term,
    /// What is delivered once all data is here.
    pub install: InstallSnapshot,
}

/// A candidate's request for a vote, for the wire.
pub fn vote_request_to_wire(term: Term, last: EntryId, transfer: bool) -> wire::RequestVoteRequest {
    wire::RequestVoteRequest { term: term.0, last: Some(entry_id_to_wire(last)), pre_vote: false, transfer }
}

/// A candidate's question whether it would get a vote, for the wire.
pub fn pre_vote_request_to_wire(term: Term, last: EntryId) -> wire::RequestVoteRequest {
    wire::RequestVoteRequest { pre_vote: true, ..vote_request_to_wire(term, last, false) }
}

/// A candidate's request from the wire, with its term.
pub fn vote_request_from_wire(request: wire::RequestVoteRequest) -> Result<(Term, Message), Malformed> {
    let last = entry_id_from_wire(request.last, "last")?;
    let message = match (request.pre_vote, request.transfer) {
        (false, transfer) => Message::RequestVote { last, transfer },
        (true, false) => Message::RequestPreVote { last },
        (true, true) => return Err(Malformed::PreVoteTransfer),
    };
    Ok((Term(request.term), message))
}

/// A voter's reply for the wire.
pub fn vote_reply_to_wire(term: Term, granted: bool) -> wire::RequestVoteReply {
    wire::RequestVoteReply { term: term.0, granted, pre_vote_term: 0 }
}

/// A voter's reply to a pre-vote for the wire.
pub fn pre_vote_reply_to_wire(term: Term, request_term: Term, granted: bool) -> wire::RequestVoteReply {
    wire::RequestVoteReply { term: term.0, granted, pre_vote_term: request_term.0 }
}

/// A voter's reply from the wire, with its term. Which kind it is follows from the request that it answers.
pub fn vote_reply_from_wire(
    request: &wire::RequestVoteRequest,
    reply: wire::RequestVoteReply,
) -> Result<(Term, Message), Malformed> {
    let granted = reply.granted;
    if !request.pre_vote {
        return Ok((Term(reply.term), Message::RequestVoteReply { granted }));
    }
    let request_term = Term(reply.pre_vote_term);
    if request_term.0 != request.term {
        return Err(Malformed::OtherPreVote { answered: request_term, asked: Term(request.term) });
    }
    Ok((Term(reply.term), Message::RequestPreVoteReply { request_term, granted }))
}

/// A leader's request for the wire. Payloads are moved, not copied.
///
/// # Panics
/// If the entries do not follow `prev` without a gap: their indexes are not sent, so a gap would alter them in silence.
pub fn append_entries_to_wire(term: Term, append: AppendEntries) -> wire::AppendEntriesRequest {
    let AppendEntries { prev, entries, commit, round } = append;
    let first = prev.index.next();
    let contiguous = (0..).zip(&entries).all(|(offset, entry)| entry.id.index == first.plus(offset));
    assert!(contiguous, "entries follow prev without a gap");
    wire::AppendEntriesRequest {
        term: term.0,
        prev: Some(entry_id_to_wire(prev)),
        entries: entries.iter().cloned().map(entry_to_wire).collect(),
        commit: commit.0,
        round: round.0,
    }
}

/// A leader's request from the wire, with its term.
pub fn append_entries_from_wire(request: wire::AppendEntriesRequest) -> Result<(Term, Message), Malformed> {
    let prev = entry_id_from_wire(request.prev, "prev")?;
    let count = request.entries.len();
    if prev.index.0.checked_add(count as u64).is_none() {
        return Err(Malformed::IndexOverflow { prev: prev.index, count });
    }
    let first = prev.index.next();
    let entries = (0..)
        .zip(request.entries)
        .map(|(offset, entry)| entry_from_wire(first.plus(offset), entry))
        .collect::<Result<_, _>>()?;
    let append = AppendEntries { prev, entries, commit: Index(request.commit), round: Round(request.round) };
    Ok((Term(request.term), Message::AppendEntries(append)))
}

/// A follower's reply for the wire.
pub fn append_reply_to_wire(term: Term, reply: AppendEntriesReply) -> wire::AppendEntriesReply {
    use wire::append_entries_reply::Result;
    let result = match reply.result {
        AppendResult::Accepted { matched } => Result::Accepted(wire::Accepted { matched: matched.0 }),
        AppendResult::Rejected { prev, hint } => {
            Result::Rejected(wire::Rejected { prev: prev.0, hint: Some(entry_id_to_wire(hint)) })
        }
    };
    wire::AppendEntriesReply { term: term.0, round: reply.round.0, result: Some(result) }
}

/// A follower's reply from the wire, with its term.
pub fn append_reply_from_wire(reply: wire::AppendEntriesReply) -> Result<(Term, Message), Malformed> {
    use wire::append_entries_reply::Result;
    let result = match reply.result.ok_or(Malformed::Missing("result"))? {
        Result::Accepted(accepted) => AppendResult::Accepted { matched: Index(accepted.matched) },
        Result::Rejected(rejected) => AppendResult::Rejected {
            prev: Index(rejected.prev),
            hint: entry_id_from_wire(rejected.hint, "rejected.hint")?,
        },
    };
    let message = Message::AppendEntriesReply(AppendEntriesReply { round: Round(reply.round), result });
    Ok((Term(reply.term), message))
}

/// What announces a snapshot's data, for the wire.
pub fn announced_to_wire(announced: &Announced) -> wire::SnapshotHeader {
    let Announced { capture, size_bytes, term, install } = announced;
    wire::SnapshotHeader {
        term: term.0,
        snapshot: Some(snapshot_to_wire(install.snapshot.clone())),
        round: install.round.0,
        capture: *capture,
        size_bytes: *size_bytes,
    }
}

/// What announces a snapshot's data, from the wire.
pub fn announced_from_wire(header: wire::SnapshotHeader) -> Result<Announced, Malformed> {
    let snapshot = snapshot_from_wire(header.snapshot.ok_or(Malformed::Missing("snapshot"))?)?;
    let install = InstallSnapshot { snapshot, round: Round(header.round) };
    Ok(Announced { capture: header.capture, size_bytes: header.size_bytes, term: Term(header.term), install })
}

/// A part of a snapshot's data for the wire.
pub fn chunk_to_wire(offset: u64, data: Bytes) -> wire::SnapshotChunk {
    wire::SnapshotChunk { offset, crc32c: crc32c::crc32c(&data), data }
}

/// A part of a snapshot's data from the wire, if it is what comes after the `received` bytes.
pub fn chunk_from_wire(chunk: wire::SnapshotChunk, received: u64, size_bytes: u64) -> Result<Bytes, Malformed> {
    let wire::SnapshotChunk { offset, data, crc32c: stated } = chunk;
    let len = data.len();
    let fits = (1..=MAX_CHUNK_BYTES).contains(&len) && len as u64 <= size_bytes.saturating_sub(received);
    if offset != received || !fits {
        return Err(Malformed::ChunkOutOfPlace { offset, len, received, size_bytes });
    }
    let actual = crc32c::crc32c(&data);
    if actual != stated {
        return Err(Malformed::Checksum { offset, stated, actual });
    }
    Ok(data)
}

/// A follower's question about a read, for the wire.
pub fn read_request_to_wire(term: Term, token: ReadToken) -> wire::ReadIndexRequest {
    wire::ReadIndexRequest { term: term.0, token: token.0 }
}

/// A leader's answer about a read, for the wire.
pub fn read_reply_to_wire(term: Term, token: ReadToken, index: Option<Index>) -> wire::ReadIndexReply {
    wire::ReadIndexReply { term: term.0, token: token.0, index: index.map(|index| index.0) }
}

/// A leader's answer about the read `asked` from the wire, with its term.
pub fn read_reply_from_wire(asked: ReadToken, reply: wire::ReadIndexReply) -> Result<(Term, Message), Malformed> {
    let token = ReadToken(reply.token);
    if token != asked {
        return Err(Malformed::OtherRead { answered: token, asked });
    }
    Ok((Term(reply.term), Message::ReadIndexReply { token, index: reply.index.map(Index) }))
}

/// What is known of a state, for the wire.
pub fn snapshot_to_wire(snapshot: Snapshot) -> wire::Snapshot {
    wire::Snapshot {
        last: Some(entry_id_to_wire(snapshot.last)),
        membership: Some(membership_to_wire(Arc::unwrap_or_clone(snapshot.membership))),
    }
}

/// What is known of a state, from the wire.
pub fn snapshot_from_wire(snapshot: wire::Snapshot) -> Result<Snapshot, Malformed> {
    let last = entry_id_from_wire(snapshot.last, "snapshot.last")?;
    if last.index == Index::ZERO {
        return Err(Malformed::EmptySnapshot);
    }
    let membership = snapshot.membership.ok_or(Malformed::Missing("snapshot.membership"))?;
    Ok(Snapshot { last, membership: membership_from_wire(membership)?.into() })
}

/// A membership for the wire.
pub fn membership_to_wire(membership: Membership) -> wire::Membership {
    let ids = |ids: BTreeSet<NodeId>| ids.into_iter().map(|id| id.0).collect();
    wire::Membership {
        members: membership.members.into_iter().map(|(id, member)| member_to_wire(id, member)).collect(),
        voters: ids(membership.voters),
        outgoing: ids(membership.outgoing),
        learners: ids(membership.learners),
        promotable: ids(membership.promotable),
        stays_joint: membership.stays_joint,
    }
}

/// A membership from the wire.
pub fn membership_from_wire(membership: wire::Membership) -> Result<Membership, Malformed> {
    let members = members_from_wire(membership.members)?;
    let membership = Membership {
        voters: roles_from_wire("voters", membership.voters, &members)?,
        outgoing: roles_from_wire("outgoing", membership.outgoing, &members)?,
        learners: roles_from_wire("learners", membership.learners, &members)?,
        promotable: roles_from_wire("promotable", membership.promotable, &members)?,
        stays_joint: membership.stays_joint,
        members,
    };
    let idle = membership.nodes().find(|id| !membership.is_voter(*id) && !membership.learners.contains(id));
    idle.map_or(Ok(()), |id| Err(Malformed::Unlisted(id)))?;
    let other = membership.promotable.difference(&membership.learners).next();
    other.map_or(Ok(()), |id| Err(Malformed::NoLearner(*id)))?;
    Ok(membership)
}

/// What is recorded of a node, for the wire.
pub fn member_to_wire(id: NodeId, member: Member) -> wire::Member {
    wire::Member { id: id.0, address: member.address, incarnation: member.incarnation.0, priority: member.priority }
}

/// What is recorded of a node, from the wire.
pub fn member_from_wire(member: wire::Member) -> Result<(NodeId, Member), Malformed> {
    let id = NodeId(member.id);
    if id == NodeId::NONE {
        return Err(Malformed::ZeroId);
    }
    if member.address.len() > MAX_ADDRESS_BYTES {
        return Err(Malformed::LongAddress(id));
    }
    let wire::Member { address, incarnation, priority, .. } = member;
    Ok((id, Member { address, incarnation: Incarnation(incarnation), priority }))
}

/// A list of nodes from the wire, as a membership or an `IdentifyReply` has it.
pub fn members_from_wire(list: Vec<wire::Member>) -> Result<BTreeMap<NodeId, Member>, Malformed> {
    if list.len() > MAX_MEMBERS {
        return Err(Malformed::TooManyMembers(list.len()));
    }
    let mut members = BTreeMap::new();
    for member in list {
        let (id, member) = member_from_wire(member)?;
        if members.insert(id, member).is_some() {
            return Err(Malformed::Repeated { list: "members", id });
        }
    }
    Ok(members)
}

/// A list of ids, each of which must have a record among `members`: so it can't be longer than they are.
fn roles_from_wire(
    list: &'static str,
    ids: Vec<u64>,
    members: &BTreeMap<NodeId, Member>,
) -> Result<BTreeSet<NodeId>, Malformed> {
    let mut nodes = BTreeSet::new();
    for id in ids.into_iter().map(NodeId) {
        if !members.contains_key(&id) {
            return Err(Malformed::Unlisted(id));
        }
        if !nodes.insert(id) {
            return Err(Malformed::Repeated { list, id });
        }
    }
    Ok(nodes)
}

fn entry_to_wire(entry: Entry) -> wire::Entry {
    use wire::entry::Payload as Wire;
    let payload = match entry.payload {
        Payload::Noop => Wire::Noop(wire::Noop {}),
        Payload::Command(command) => Wire::Command(command),
        Payload::Membership(membership) => Wire::Membership(membership_to_wire(Arc::unwrap_or_clone(membership))),
    };
    wire::Entry { term: entry.id.term.0, payload: Some(payload) }
}

fn entry_from_wire(index: Index, entry: wire::Entry) -> Result<Entry, Malformed> {
    use wire::entry::Payload as Wire;
    let payload = match entry.payload.ok_or(Malformed::UnknownPayload(index))? {
        Wire::Noop(wire::Noop {}) => Payload::Noop,
        Wire::Command(command) => Payload::Command(command),
        Wire::Membership(membership) => Payload::Membership(membership_from_wire(membership)?.into()),
    };
    Ok(Entry { id: EntryId::new(index, Term(entry.term)), payload })
}

fn entry_id_to_wire(id: EntryId) -> wire::EntryId {
    wire::EntryId { index: id.index.0, term: id.term.0 }
}

fn entry_id_from_wire(id: Option<wire::EntryId>, field: &'static str) -> Result<EntryId, Malformed> {
    let id = id.ok_or(Malformed::Missing(field))?;
    Ok(EntryId::new(Index(id.index), Term(id.term)))
}
