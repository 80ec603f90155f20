//! Between the wire's messages and the core's. To the wire always succeeds; from the wire may fail, and never panics.

use std::collections::{BTreeMap, BTreeSet};

use raft_core::membership::Membership;
use raft_core::message::{AppendEntries, AppendEntriesReply, AppendResult, Message};
use raft_core::types::{Entry, EntryId, Incarnation, Index, Member, NodeId, Payload, Round, Term};
use raftkv_proto::raft::v1 as wire;

/// A membership that names more nodes is refused.
pub const MAX_MEMBERS: usize = 1024;
/// An address of more bytes is refused: a DNS name has 253 at the most, a port 5.
pub const MAX_ADDRESS_BYTES: usize = 300;

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
}

/// A candidate's request for the wire. `pre_vote` says which of the two kinds it is.
pub fn vote_request_to_wire(term: Term, last: EntryId, pre_vote: bool) -> wire::RequestVoteRequest {
    wire::RequestVoteRequest { term: term.0, last: Some(entry_id_to_wire(last)), pre_vote }
}

/// A candidate's request from the wire, with its term.
pub fn vote_request_from_wire(request: wire::RequestVoteRequest) -> Result<(Term, Message), Malformed> {
    let last = entry_id_from_wire(request.last, "last")?;
    let message = if request.pre_vote { Message::RequestPreVote { last } } else { Message::RequestVote { last } };
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
        entries: entries.into_iter().map(entry_to_wire).collect(),
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

/// A membership for the wire.
pub fn membership_to_wire(membership: Membership) -> wire::Membership {
    let ids = |ids: BTreeSet<NodeId>| ids.into_iter().map(|id| id.0).collect();
    wire::Membership {
        members: membership.members.into_iter().map(|(id, member)| member_to_wire(id, member)).collect(),
        voters: ids(membership.voters),
        outgoing: ids(membership.outgoing),
        learners: ids(membership.learners),
    }
}

/// A membership from the wire.
pub fn membership_from_wire(membership: wire::Membership) -> Result<Membership, Malformed> {
    let members = members_from_wire(membership.members)?;
    let membership = Membership {
        voters: roles_from_wire("voters", membership.voters, &members)?,
        outgoing: roles_from_wire("outgoing", membership.outgoing, &members)?,
        learners: roles_from_wire("learners", membership.learners, &members)?,
        members,
    };
    let idle = membership.nodes().find(|id| !membership.is_voter(*id) && !membership.learners.contains(id));
    idle.map_or(Ok(()), |id| Err(Malformed::Unlisted(id)))?;
    Ok(membership)
}

/// What is recorded of a node, for the wire.
pub fn member_to_wire(id: NodeId, member: Member) -> wire::Member {
    wire::Member { id: id.0, address: member.address, incarnation: member.incarnation.0 }
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
    Ok((id, Member { address: member.address, incarnation: Incarnation(member.incarnation) }))
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
        Payload::Membership(membership) => Wire::Membership(membership_to_wire(membership)),
    };
    wire::Entry { term: entry.id.term.0, payload: Some(payload) }
}

fn entry_from_wire(index: Index, entry: wire::Entry) -> Result<Entry, Malformed> {
    use wire::entry::Payload as Wire;
    let payload = match entry.payload.ok_or(Malformed::UnknownPayload(index))? {
        Wire::Noop(wire::Noop {}) => Payload::Noop,
        Wire::Command(command) => Payload::Command(command),
        Wire::Membership(membership) => Payload::Membership(membership_from_wire(membership)?),
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
