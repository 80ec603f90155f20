//! What goes over the wire comes out as it went in, and nothing that comes in makes us panic.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use prost::Message as _;
use raft_core::membership::Membership;
use raft_core::message::{AppendEntries, AppendEntriesReply, AppendResult, InstallSnapshot, Message};
use raft_core::types::{Entry, EntryId, Incarnation, Index, Member, NodeId, Payload, ReadToken, Round, Snapshot, Term};
use raft_transport_grpc::convert::*;
use raftkv_proto::raft::v1 as wire;

/// Any number, the edges more often than chance would have them.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0..5_u64, (u64::MAX - 5)..=u64::MAX]
}

fn entry_id() -> impl Strategy<Value = EntryId> {
    (number(), number()).prop_map(|(index, term)| EntryId::new(Index(index), Term(term)))
}

fn member() -> impl Strategy<Value = Member> {
    ("[a-z0-9.:]{0,30}", number(), any::<u32>()).prop_map(|(address, incarnation, priority)| Member {
        address,
        incarnation: Incarnation(incarnation),
        priority,
    })
}

/// A membership in which each node has at least one role.
fn membership() -> impl Strategy<Value = Membership> {
    let nodes = btree_map(number().prop_map(|id| NodeId(id.max(1))), (member(), 1_u8..16), 0..6);
    (nodes, any::<bool>()).prop_map(|(mut nodes, stays_joint)| {
        // Whoever is promotable is a learner.
        nodes.values_mut().for_each(|(_, roles)| *roles |= (*roles & 8) >> 1);
        let with = |role: u8| nodes.iter().filter(|(_, (_, roles))| roles & role != 0).map(|(id, _)| *id).collect();
        Membership {
            voters: with(1),
            outgoing: with(2),
            learners: with(4),
            promotable: with(8),
            stays_joint,
            members: nodes.iter().map(|(id, (member, _))| (*id, member.clone())).collect(),
        }
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        Just(Payload::Noop),
        vec(any::<u8>(), 0..40).prop_map(|command| Payload::Command(command.into())),
        membership().prop_map(|membership| Payload::Membership(membership.into())),
    ]
}

fn append_entries() -> impl Strategy<Value = AppendEntries> {
    let body = (entry_id(), vec((number(), payload()), 0..6), number(), number());
    body.prop_map(|(mut prev, payloads, commit, round)| {
        prev.index = prev.index.min(Index(u64::MAX - payloads.len() as u64));
        let entries = (1..).zip(payloads).map(|(offset, (term, payload))| {
            let id = EntryId::new(prev.index.plus(offset), Term(term));
            Entry { id, payload }
        });
        AppendEntries { prev, entries: entries.collect(), commit: Index(commit), round: Round(round) }
    })
}

fn append_result() -> impl Strategy<Value = AppendResult> {
    prop_oneof![
        number().prop_map(|matched| AppendResult::Accepted { matched: Index(matched) }),
        (number(), entry_id()).prop_map(|(prev, hint)| AppendResult::Rejected { prev: Index(prev), hint }),
    ]
}

/// Encodes and decodes.
fn over_the_wire<M: prost::Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).expect("what was encoded is decoded")
}

/// Decodes bytes as each kind of message, and converts what decodes. Any result is fine, as long as there is one.
fn convert_anything(bytes: &[u8]) {
    let _ = wire::AppendEntriesRequest::decode(bytes).map(append_entries_from_wire);
    let _ = wire::AppendEntriesReply::decode(bytes).map(append_reply_from_wire);
    let _ = wire::Membership::decode(bytes).map(membership_from_wire);
    let _ = wire::SnapshotHeader::decode(bytes).map(announced_from_wire);
    let _ = wire::SnapshotChunk::decode(bytes).map(|chunk| chunk_from_wire(chunk, 0, u64::MAX));
    let _ = wire::ReadIndexReply::decode(bytes).map(|reply| read_reply_from_wire(ReadToken(1), reply));
    let _ = wire::IdentifyReply::decode(bytes).map(|reply| members_from_wire(reply.members));
    if let Ok(request) = wire::RequestVoteRequest::decode(bytes) {
        let _ = vote_request_from_wire(request);
        let _ = wire::RequestVoteReply::decode(bytes).map(|reply| vote_reply_from_wire(&request, reply));
    }
}

proptest! {
    #[test]
    fn append_entries_round_trips(term in number(), append in append_entries()) {
        let wire = append_entries_to_wire(Term(term), append.clone());
        let back = append_entries_from_wire(over_the_wire(&wire)).unwrap();
        prop_assert_eq!(back, (Term(term), Message::AppendEntries(append)));
    }

    #[test]
    fn append_entries_reply_round_trips(term in number(), round in number(), result in append_result()) {
        let reply = AppendEntriesReply { round: Round(round), result };
        let wire = append_reply_to_wire(Term(term), reply.clone());
        let back = append_reply_from_wire(over_the_wire(&wire)).unwrap();
        prop_assert_eq!(back, (Term(term), Message::AppendEntriesReply(reply)));
    }

    #[test]
    fn votes_round_trip(term in number(), last in entry_id(), transfer: bool, reply_term in number(), granted: bool) {
        let (term, reply_term) = (Term(term), Term(reply_term));
        let request = over_the_wire(&vote_request_to_wire(term, last, transfer));
        prop_assert_eq!(vote_request_from_wire(request).unwrap(), (term, Message::RequestVote { last, transfer }));
        let reply = over_the_wire(&vote_reply_to_wire(reply_term, granted));
        let reply = vote_reply_from_wire(&request, reply).unwrap();
        prop_assert_eq!(reply, (reply_term, Message::RequestVoteReply { granted }));

        let request = over_the_wire(&pre_vote_request_to_wire(term, last));
        prop_assert_eq!(vote_request_from_wire(request).unwrap(), (term, Message::RequestPreVote { last }));
        let reply = over_the_wire(&pre_vote_reply_to_wire(reply_term, term, granted));
        let reply = vote_reply_from_wire(&request, reply).unwrap();
        prop_assert_eq!(reply, (reply_term, Message::RequestPreVoteReply { request_term: term, granted }));
    }

    #[test]
    fn what_announces_a_snapshot_round_trips(
        (capture, size_bytes, term, round) in (number(), number(), number(), number()),
        mut last in entry_id(),
        membership in membership(),
    ) {
        last.index = last.index.max(Index(1));
        let install = InstallSnapshot { snapshot: Snapshot { last, membership: membership.into() }, round: Round(round) };
        let announced = Announced { capture, size_bytes, term: Term(term), install };
        let back = announced_from_wire(over_the_wire(&announced_to_wire(&announced))).unwrap();
        prop_assert_eq!(back, announced);
    }

    #[test]
    fn chunks_round_trip_and_one_changed_bit_is_noticed(
        offset in 0..u64::MAX / 2,
        data in vec(any::<u8>(), 1..100),
        bit in any::<prop::sample::Index>(),
    ) {
        let (data, end) = (Bytes::from(data), offset + 100);
        let mut chunk = over_the_wire(&chunk_to_wire(offset, data.clone()));
        prop_assert_eq!(chunk_from_wire(chunk.clone(), offset, end), Ok(data.clone()));
        let mut altered = data.to_vec();
        let bit = bit.index(8 * altered.len());
        altered[bit / 8] ^= 1 << (bit % 8);
        chunk.data = altered.into();
        let noticed = matches!(chunk_from_wire(chunk, offset, end), Err(Malformed::Checksum { .. }));
        prop_assert!(noticed);
    }

    #[test]
    fn answers_about_reads_round_trip(term in number(), token in number(), index in prop::option::of(number())) {
        let (term, token, index) = (Term(term), ReadToken(token), index.map(Index));
        let reply = over_the_wire(&read_reply_to_wire(term, token, index));
        prop_assert_eq!(read_reply_from_wire(token, reply), Ok((term, Message::ReadIndexReply { token, index })));
        let asked = token.next();
        prop_assert_eq!(read_reply_from_wire(asked, reply), Err(Malformed::OtherRead { answered: token, asked }));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        convert_anything(&bytes);
    }

    #[test]
    fn mutated_messages_never_panic(
        append in append_entries(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = append_entries_to_wire(Term(1), append).encode_to_vec();
        for (position, value) in changes {
            let position = position.index(bytes.len());
            bytes[position] = value;
        }
        convert_anything(&bytes);
        convert_anything(&bytes[..cut.index(bytes.len())]);
    }
}

fn request(prev: u64, count: usize) -> wire::AppendEntriesRequest {
    let noop = wire::entry::Payload::Noop(wire::Noop {});
    let entries = vec![wire::Entry { term: 1, payload: Some(noop) }; count];
    wire::AppendEntriesRequest {
        term: 1,
        prev: Some(wire::EntryId { index: prev, term: 1 }),
        entries,
        commit: u64::MAX,
        round: u64::MAX,
    }
}

#[test]
fn indexes_follow_prev_up_to_the_last_there_is_and_not_beyond() {
    let (_, message) = append_entries_from_wire(request(u64::MAX - 2, 2)).unwrap();
    let Message::AppendEntries(append) = message else { panic!("{message:?}") };
    let indexes: Vec<_> = append.entries.iter().map(|entry| entry.id.index.0).collect();
    assert_eq!(indexes, [u64::MAX - 1, u64::MAX]);
    assert!(append_entries_from_wire(request(u64::MAX, 0)).is_ok());
    let overflow = Malformed::IndexOverflow { prev: Index(u64::MAX - 1), count: 2 };
    assert_eq!(append_entries_from_wire(request(u64::MAX - 1, 2)), Err(overflow));
}

#[test]
fn what_is_missing_is_named() {
    let no_prev = wire::AppendEntriesRequest { prev: None, ..request(0, 0) };
    assert_eq!(append_entries_from_wire(no_prev), Err(Malformed::Missing("prev")));
    let mut no_payload = request(7, 2);
    no_payload.entries[1].payload = None;
    assert_eq!(append_entries_from_wire(no_payload), Err(Malformed::UnknownPayload(Index(9))));
    let no_last = wire::RequestVoteRequest { term: 1, last: None, pre_vote: true, transfer: false };
    assert_eq!(vote_request_from_wire(no_last), Err(Malformed::Missing("last")));
    let no_result = wire::AppendEntriesReply { term: 1, round: 1, result: None };
    assert_eq!(append_reply_from_wire(no_result), Err(Malformed::Missing("result")));
    let rejected = wire::append_entries_reply::Result::Rejected(wire::Rejected { prev: 1, hint: None });
    let no_hint = wire::AppendEntriesReply { term: 1, round: 1, result: Some(rejected) };
    assert_eq!(append_reply_from_wire(no_hint), Err(Malformed::Missing("rejected.hint")));
}

#[test]
fn a_payload_of_a_kind_from_the_future_is_refused_and_not_skipped() {
    // An entry of term 1 whose payload is field 15, a message of two bytes.
    let future = wire::Entry::decode([0x08, 1, 0x7a, 2, 0x08, 1].as_slice()).expect("protobuf skips unknown fields");
    let mut append = request(4, 1);
    append.entries.push(future);
    assert_eq!(append_entries_from_wire(append), Err(Malformed::UnknownPayload(Index(6))));
}

#[test]
fn a_pre_vote_reply_must_answer_the_request() {
    let request = pre_vote_request_to_wire(Term(5), EntryId::ZERO);
    let other = vote_reply_from_wire(&request, pre_vote_reply_to_wire(Term(9), Term(4), true));
    assert_eq!(other, Err(Malformed::OtherPreVote { answered: Term(4), asked: Term(5) }));
}

#[test]
#[should_panic(expected = "entries follow prev without a gap")]
fn a_gap_is_never_sent() {
    let entry = Entry { id: EntryId::new(Index(9), Term(1)), payload: Payload::Noop };
    let prev = EntryId::new(Index(7), Term(1));
    append_entries_to_wire(
        Term(1),
        AppendEntries { prev, entries: vec![entry].into(), commit: Index(0), round: Round(0) },
    );
}

#[test]
fn memberships_that_contradict_themselves_are_refused() {
    let member = |id: u64| wire::Member { id, address: "a:1".into(), incarnation: 1, priority: 0 };
    let with =
        |members: Vec<wire::Member>, voters: Vec<u64>| wire::Membership { members, voters, ..Default::default() };
    let long = wire::Member { address: "a".repeat(MAX_ADDRESS_BYTES + 1), ..member(1) };
    let many = (1..=MAX_MEMBERS as u64 + 1).map(member).collect();
    let cases = [
        (with(vec![member(0)], vec![0]), Malformed::ZeroId),
        (with(vec![member(1), member(1)], vec![1]), Malformed::Repeated { list: "members", id: NodeId(1) }),
        (with(vec![member(1)], vec![1, 1]), Malformed::Repeated { list: "voters", id: NodeId(1) }),
        (with(vec![member(1)], vec![1, 2]), Malformed::Unlisted(NodeId(2))),
        (with(vec![member(1), member(2)], vec![1]), Malformed::Unlisted(NodeId(2))),
        (with(vec![long], vec![1]), Malformed::LongAddress(NodeId(1))),
        (with(many, vec![]), Malformed::TooManyMembers(MAX_MEMBERS + 1)),
    ];
    let promotable = wire::Membership { promotable: vec![1], ..with(vec![member(1)], vec![1]) };
    let cases = cases.into_iter().chain([(promotable, Malformed::NoLearner(NodeId(1)))]);
    for (membership, malformed) in cases {
        assert_eq!(membership_from_wire(membership), Err(malformed));
    }
    let joint = wire::Membership { outgoing: vec![2], learners: vec![2], ..with(vec![member(1), member(2)], vec![1]) };
    let joint = membership_from_wire(joint).expect("one who leaves may stay as a learner");
    assert_eq!((joint.outgoing, joint.learners), (BTreeSet::from([NodeId(2)]), BTreeSet::from([NodeId(2)])));
}

#[test]
fn payloads_are_not_copied() {
    let command = Bytes::from(vec![7; 1000]);
    let entry = Entry { id: EntryId::new(Index(1), Term(1)), payload: Payload::Command(command.clone()) };
    let append = AppendEntries { prev: EntryId::ZERO, entries: vec![entry].into(), commit: Index(0), round: Round(0) };
    let wire = append_entries_to_wire(Term(1), append);
    let Some(wire::entry::Payload::Command(sent)) = &wire.entries[0].payload else { panic!("{wire:?}") };
    assert_eq!(sent.as_ptr(), command.as_ptr());
}

#[test]
fn a_list_of_nodes_becomes_a_map() {
    let list = vec![wire::Member { id: 3, address: "c:1".into(), incarnation: 9, priority: 4 }];
    let member = Member { address: "c:1".into(), incarnation: Incarnation(9), priority: 4 };
    assert_eq!(members_from_wire(list), Ok(BTreeMap::from([(NodeId(3), member)])));
}

#[test]
fn a_chunk_must_be_the_next_one_and_no_larger_than_allowed() {
    let chunk = |offset, len| chunk_to_wire(offset, vec![7; len].into());
    let size_bytes = 3 << 20;
    assert!(chunk_from_wire(chunk(10, MAX_CHUNK_BYTES), 10, size_bytes).is_ok());
    for (offset, len, received) in [
        (10, 1, 9),
        (10, 1, 11),
        (10, 0, 10),
        (10, MAX_CHUNK_BYTES + 1, 10),
        (size_bytes - 5, 6, size_bytes - 5),
        (u64::MAX, 1, u64::MAX),
    ] {
        let malformed = Malformed::ChunkOutOfPlace { offset, len, received, size_bytes };
        assert_eq!(chunk_from_wire(chunk(offset, len), received, size_bytes), Err(malformed));
    }
}

#[test]
fn a_snapshot_is_announced_in_full() {
    let announced = |snapshot| wire::SnapshotHeader { term: 1, snapshot, round: 1, capture: 1, size_bytes: 1 };
    let membership = Some(wire::Membership::default());
    let last = Some(wire::EntryId { index: 1, term: 1 });
    for (snapshot, malformed) in [
        (None, Malformed::Missing("snapshot")),
        (Some(wire::Snapshot { last: None, membership: membership.clone() }), Malformed::Missing("snapshot.last")),
        (Some(wire::Snapshot { last, membership: None }), Malformed::Missing("snapshot.membership")),
        (Some(wire::Snapshot { last: Some(wire::EntryId::default()), membership }), Malformed::EmptySnapshot),
    ] {
        assert_eq!(announced_from_wire(announced(snapshot)), Err(malformed));
    }
}

#[test]
fn a_pre_vote_is_never_part_of_a_transfer() {
    let request = wire::RequestVoteRequest { pre_vote: true, ..vote_request_to_wire(Term(5), EntryId::ZERO, true) };
    assert_eq!(vote_request_from_wire(request), Err(Malformed::PreVoteTransfer));
}
