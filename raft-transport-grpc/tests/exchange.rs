//! Messages find their way, in both directions.

mod common;

use bytes::Bytes;
use common::*;
use raft_core::message::{AppendEntriesReply, AppendResult, Envelope, Message};
use raft_core::port::Transport;
use raft_core::types::{EntryId, Incarnation, Index, Member, NodeId, ReadToken, Round, Term};
use raft_transport_grpc::{Error, Options};
use raftkv_proto::raft::v1::StateChecksum;

#[test]
fn every_kind_of_message_arrives_as_it_was_sent_in_both_directions() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    connect(&[&a, &b]);
    for (from, to) in [(&a, &b), (&b, &a)] {
        let rejected = AppendResult::Rejected { prev: Index(9), hint: EntryId::new(Index(4), Term(2)) };
        let exchanges = [
            (request_pre_vote(), Message::RequestPreVoteReply { request_term: Term(5), granted: true }),
            (request_vote(), Message::RequestVoteReply { granted: true }),
            (
                Message::ReadIndex { token: ReadToken(8) },
                Message::ReadIndexReply { token: ReadToken(8), index: Some(Index(0)) },
            ),
            (Message::ReadIndex { token: ReadToken(9) }, Message::ReadIndexReply { token: ReadToken(9), index: None }),
            (append(7, 3, vec![Bytes::from_static(b"set x=1"), Bytes::new()]), accepted(3)),
            (heartbeat(4), Message::AppendEntriesReply(AppendEntriesReply { round: Round(4), result: rejected })),
        ];
        for (request, reply) in exchanges {
            from.send(to.id(), 5, request.clone());
            assert_eq!(to.receive(), Envelope { from: from.id(), to: to.id(), term: Term(5), message: request });
            to.send(from.id(), 6, reply.clone());
            assert_eq!(from.receive(), Envelope { from: to.id(), to: from.id(), term: Term(6), message: reply });
        }
        from.send(to.id(), 5, Message::TimeoutNow);
        let timeout_now = Envelope { from: from.id(), to: to.id(), term: Term(5), message: Message::TimeoutNow };
        assert_eq!(to.receive(), timeout_now);
    }
}

#[test]
fn three_nodes_talk_to_each_other_from_plain_threads() {
    let nodes = [TestNode::start(1), TestNode::start(2), TestNode::start(3)];
    connect(&nodes.each_ref());
    std::thread::scope(|scope| {
        for node in &nodes {
            let (from, transport) = (node.id(), &node.transport);
            scope.spawn(move || {
                for to in (1..=3).map(NodeId).filter(|to| *to != from) {
                    transport.send(Envelope { from, to, term: Term(1), message: heartbeat(from.0) });
                }
            });
        }
    });
    for node in &nodes {
        let mut from = [node.receive().from, node.receive().from];
        from.sort();
        let others: Vec<_> = nodes.iter().map(TestNode::id).filter(|id| *id != node.id()).collect();
        assert_eq!(from.to_vec(), others);
    }
}

#[test]
fn appends_are_pipelined_and_keep_their_order() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    connect(&[&a, &b]);
    // No reply in between: the next does not wait for the last.
    for batch in 0..10 {
        for round in 1..=100 {
            a.send(b.id(), 1, append(round, batch * 100 + round, vec![Bytes::from(vec![7; 1000])]));
        }
        for round in 1..=100 {
            assert_eq!(common::round(&b.receive()), batch * 100 + round);
        }
    }
    for reply in 1..=100 {
        b.send(a.id(), 1, accepted(reply));
    }
    for reply in 1..=100 {
        assert_eq!(a.receive().message, accepted(reply));
    }
}

#[test]
fn an_entry_of_many_megabytes_passes_and_one_above_the_limit_is_dropped_without_harm() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    connect(&[&a, &b]);
    let large = append(0, 1, vec![Bytes::from(vec![1; (16 << 20) - 100])]);
    a.send(b.id(), 1, large.clone());
    assert_eq!(b.receive().message, large);
    a.send(b.id(), 1, append(0, 2, vec![Bytes::from(vec![1; 16 << 20])]));
    a.send(b.id(), 1, heartbeat(3));
    assert_eq!(common::round(&b.receive()), 3);
    let status = a.status(b.id());
    assert!(status.connected && status.dropped == 1, "{status:?}");
}

#[test]
fn a_change_of_membership_starts_and_stops_links() {
    let nodes = [TestNode::start(1), TestNode::start(2), TestNode::start(3)];
    let [a, b, c] = &nodes;
    connect(&[a, b]);
    assert_eq!(a.transport.peers().len(), 1);
    connect(&[a, b, c]);
    a.send(c.id(), 1, heartbeat(1));
    assert_eq!(c.receive().from, a.id());
    a.transport.use_membership(&membership([a.member(), c.member()]));
    assert_eq!(a.transport.peers().iter().map(|peer| peer.id).collect::<Vec<_>>(), [c.id()]);
    a.send(b.id(), 1, heartbeat(2));
    // The node that is gone from here still knows us, and its requests are answered.
    b.send(a.id(), 1, heartbeat(3));
    assert_eq!(a.receive().from, b.id());
    a.send(b.id(), 1, accepted(3));
    assert_eq!(b.receive().message, accepted(3), "and the heartbeat before it was not sent");
}

#[test]
fn a_closed_transport_ends_its_streams_and_refuses_calls() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    connect(&[&a, &b]);
    a.transport.close();
    assert!(a.transport.peers().is_empty());
    b.wait_problem(a.id(), "this node is stopping");
    // Nor does it come back by itself.
    a.transport.use_membership(&membership([a.member(), b.member()]));
    assert!(a.transport.peers().is_empty());
}

#[test]
fn a_removed_node_still_gets_what_was_sent_to_it_before() {
    // The link has this long to end, so that a busy machine is no failure.
    let options = Options { connect_timeout: PATIENCE, ..Options::default() };
    let (a, b) = (TestNode::start_with(identity(1), "127.0.0.1:0", options), TestNode::start(2));
    connect(&[&a, &b]);
    // More than is sent in no time.
    let command = Bytes::from(vec![7; 30_000]);
    for round in 1..=1000 {
        a.send(b.id(), 1, append(round, round, vec![command.clone()]));
    }
    assert_eq!(a.status(b.id()).dropped, 0);
    a.transport.use_membership(&membership([a.member()]));
    assert!(a.transport.peers().is_empty());
    a.send(b.id(), 1, heartbeat(1001));
    for round in 1..=1000 {
        assert_eq!(common::round(&b.receive()), round);
    }
    assert!(b.inbox.recv_timeout(std::time::Duration::from_millis(200)).is_err(), "and nothing after it");
}

#[test]
fn many_reads_may_be_asked_about_at_once_and_are_answered_in_any_order() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    connect(&[&a, &b]);
    for token in 1..=10 {
        a.send(b.id(), 5, Message::ReadIndex { token: ReadToken(token) });
    }
    let mut tokens: Vec<_> = (1..=10)
        .map(|_| match b.receive().message {
            Message::ReadIndex { token } => token,
            other => panic!("{other:?}"),
        })
        .collect();
    tokens.sort();
    assert!(tokens.iter().copied().eq((1..=10).map(ReadToken)));
    for token in tokens.into_iter().rev() {
        let reply = Message::ReadIndexReply { token, index: Some(Index(token.0)) };
        b.send(a.id(), 5, reply.clone());
        assert_eq!(a.receive().message, reply);
    }
    // Nobody asked about this one.
    b.send(a.id(), 5, Message::ReadIndexReply { token: ReadToken(11), index: None });
    assert!(a.inbox.try_recv().is_err());
}

#[test]
fn a_checksum_is_told_to_the_peer_that_is_meant_and_to_nobody_else() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    connect(&[&a, &b]);
    let told = StateChecksum { digest: Bytes::from(vec![7; 32]), ..StateChecksum::default() };
    let compare = |peer| runtime().block_on(a.transport.compare_checksums(peer, Some(told.clone())));
    let answer = compare(b.id()).unwrap().unwrap();
    assert_eq!((answer.digest, &*answer.fault), (told.digest.clone(), "n1"));
    assert!(matches!(compare(NodeId(9)), Err(Error::NoAddress)));
    // Another disk under the peer's name is told nothing.
    let (id, member) = b.member();
    let other = Member { incarnation: Incarnation(0xbad), ..member };
    a.transport.use_membership(&membership([a.member(), (id, other)]));
    let refused = compare(b.id()).unwrap_err();
    assert!(matches!(refused, Error::Mismatch(_)), "{refused}");
}
