//! Who is refused, with which words, and that nothing of theirs is taken.

mod common;

use std::time::Duration;

use common::*;
use raft_core::port::Transport;
use raft_core::types::{ClusterId, Identity, Incarnation, NodeId};
use raft_transport_grpc::handshake::Handshake;
use raft_transport_grpc::{Options, identify};
use raftkv_proto::raft::v1::{
    AppendEntriesRequest, CompareChecksumsRequest, EntryId, IdentifyReply, IdentifyRequest, InstallSnapshotRequest,
    Member, ReadIndexRequest, RequestVoteRequest, TimeoutNowRequest,
};
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status};

/// What node 1 answers to each of the seven calls, made with this handshake.
fn call_all(node: &TestNode, stamp: &Handshake) -> [Result<(), Status>; 7] {
    let address = node.address.clone();
    runtime().block_on(async {
        let mut client = client(&address).await;
        let appends = tokio_stream::iter([AppendEntriesRequest::default()]);
        let parts = tokio_stream::iter([InstallSnapshotRequest::default()]);
        [
            client.identify(stamp.stamp(IdentifyRequest::default())).await.map(|_| ()),
            client.request_vote(stamp.stamp(RequestVoteRequest::default())).await.map(|_| ()),
            client.append_entries(stamp.stamp(appends)).await.map(|_| ()),
            client.install_snapshot(stamp.stamp(parts)).await.map(|_| ()),
            client.timeout_now(stamp.stamp(TimeoutNowRequest::default())).await.map(|_| ()),
            client.read_index(stamp.stamp(ReadIndexRequest::default())).await.map(|_| ()),
            client.compare_checksums(stamp.stamp(CompareChecksumsRequest::default())).await.map(|_| ()),
        ]
    })
}

#[test]
fn a_call_that_does_not_fit_is_refused_with_both_sides_values() {
    let node = TestNode::start(1);
    let recorded = membership([node.member(), TestNode::start(2).member()]);
    node.transport.use_membership(&recorded);
    let peer = identity(2);
    let good = Handshake::new(peer, node.id());
    let cases = [
        (Handshake { protocol: 2, ..good }, ["n2 speaks protocol 2", "n1 speaks 1"]),
        (
            Handshake { from: Identity { cluster: ClusterId(0xbad), ..peer }, ..good },
            ["n2 belongs to cluster 0000000000000bad", "n1 to cluster 00000000000000c1"],
        ),
        (Handshake { to: NodeId(7), ..good }, ["n2 looks for n7", "that of n1"]),
        (
            Handshake { from: Identity { incarnation: Incarnation(0xbad), ..peer }, ..good },
            ["n2 states incarnation 0000000000000bad", "n1 has 00000000000000c8 on record"],
        ),
        (
            Handshake { from: Identity { incarnation: Incarnation(0xbad), ..identity(1) }, ..good },
            ["two nodes have the id n1", "0000000000000bad"],
        ),
        (Handshake { from: Identity { node: NodeId(0), ..peer }, ..good }, ["raft-from", "only RaftKV nodes"]),
    ];
    for (handshake, parts) in cases {
        for result in call_all(&node, &handshake) {
            let status = result.expect_err("it is refused");
            assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
            assert!(parts.iter().all(|part| status.message().contains(part)), "{parts:?} in {status}");
        }
    }
    assert!(node.inbox.try_recv().is_err(), "nothing was delivered");
}

#[test]
fn a_call_without_metadata_is_refused() {
    let node = TestNode::start(1);
    let address = node.address.clone();
    let status = runtime().block_on(async {
        let mut client = client(&address).await;
        client.request_vote(Request::new(RequestVoteRequest::default())).await.unwrap_err()
    });
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("raft-protocol"), "{status}");
}

#[test]
fn a_caller_that_the_membership_does_not_name_is_heard() {
    // A node that is behind may not know the leader that will bring it up to date.
    let (behind, leader) = (TestNode::start(1), TestNode::start(4));
    behind.transport.use_membership(&membership([behind.member(), TestNode::start(2).member()]));
    leader.transport.use_membership(&membership([behind.member(), leader.member()]));
    leader.wait_connected(behind.id());
    leader.send(behind.id(), 3, heartbeat(1));
    assert_eq!(behind.receive().from, leader.id());
    behind.send(leader.id(), 3, accepted(1));
    assert_eq!(leader.receive().message, accepted(1));
}

#[test]
fn identify_answers_those_who_have_not_begun() {
    let options = Options { contract: "rules=1 sqlite=3.54.1".to_owned(), ..Options::default() };
    let node = TestNode::start_with(identity(1), "127.0.0.1:0", options);
    node.transport.use_membership(&membership([node.member(), TestNode::start(2).member()]));
    let newcomer = Identity { cluster: ClusterId(0), node: NodeId(2), incarnation: Incarnation(0xbad) };
    let answer = runtime()
        .block_on(identify(&node.address, newcomer, IdentifyRequest::default(), &Options::default()))
        .expect("a new disk is told who is there, so that it can say what to do");
    let (id, member) = node.member();
    let this = Member { id: id.0, address: member.address, incarnation: member.incarnation.0, priority: 0 };
    assert_eq!((answer.protocol, answer.cluster_id, answer.complete), (1, CLUSTER.0, true));
    assert_eq!(answer.contract, "rules=1 sqlite=3.54.1", "carried as it is");
    assert_eq!(answer.self_, Some(this));
    assert_eq!(answer.members.iter().map(|member| member.id).collect::<Vec<_>>(), [1, 2]);
    // It takes no part in Raft, though.
    let [identify, others @ ..] = call_all(&node, &Handshake::new(newcomer, node.id()));
    assert!(identify.is_ok());
    for other in others {
        assert_eq!(other.unwrap_err().code(), Code::FailedPrecondition);
    }
}

#[test]
fn a_node_that_asks_itself_gets_an_answer() {
    let node = TestNode::start(1);
    let request = IdentifyRequest::default();
    let answer = runtime().block_on(identify(&node.address, identity(1), request, &Options::default())).unwrap();
    assert_eq!(answer.self_.unwrap().incarnation, identity(1).incarnation.0);
}

#[test]
fn identify_fails_in_time_and_says_why() {
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = Options { connect_timeout: Duration::from_millis(200), ..Options::default() };
    let ask = |address: &str| {
        let error = runtime().block_on(identify(address, identity(1), IdentifyRequest::default(), &options));
        error.unwrap_err().to_string()
    };
    assert!(ask(&DeadAddress::reserve().address).contains("refused"));
    assert!(ask("nowhere").contains("expected host:port"));
    assert_eq!(ask(&mute.local_addr().unwrap().to_string()), "no answer in time");
}

/// Two nodes that are to find each other unfit, and what each of them says of it.
fn assert_unfit(a: &TestNode, b: &TestNode, part: &str) {
    a.wait_problem(b.id(), part);
    b.wait_problem(a.id(), part);
    for (from, to) in [(a, b), (b, a)] {
        from.send(to.id(), 1, heartbeat(1));
        from.send(to.id(), 1, request_vote());
        assert!(!from.status(to.id()).connected);
        assert!(to.inbox.try_recv().is_err(), "nothing was delivered");
    }
}

#[test]
fn links_between_clusters_are_refused_on_both_sides() {
    let a = TestNode::start(1);
    let other = Identity { cluster: ClusterId(0xbad), ..identity(2) };
    let b = TestNode::start_with(other, "127.0.0.1:0", Options::default());
    let both = membership([a.member(), b.member()]);
    a.transport.use_membership(&both);
    b.transport.use_membership(&both);
    assert_unfit(&a, &b, "belongs to cluster");
}

#[test]
fn a_peer_with_a_new_disk_is_refused_and_told() {
    let a = TestNode::start(1);
    let wiped = Identity { incarnation: Incarnation(0xbad), ..identity(2) };
    let b = TestNode::start_with(wiped, "127.0.0.1:0", Options::default());
    let (id, mut member) = b.member();
    member.incarnation = identity(2).incarnation;
    let both = membership([a.member(), (id, member)]);
    a.transport.use_membership(&both);
    b.transport.use_membership(&both);
    assert_unfit(&a, &b, "n2 states incarnation 0000000000000bad, but n1 has 00000000000000c8 on record");
}

#[test]
fn another_node_at_the_address_is_not_taken_for_the_peer() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    let (_, member) = b.member();
    a.transport.use_membership(&membership([a.member(), (NodeId(3), member)]));
    let problem = a.wait_problem(NodeId(3), "n1 looks for n3");
    assert!(problem.contains("that of n2"), "{problem}");
    a.send(NodeId(3), 1, heartbeat(1));
    assert!(b.inbox.try_recv().is_err(), "nothing was delivered");
}

#[test]
fn a_peer_that_is_replaced_in_the_membership_must_prove_its_new_disk() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    connect(&[&a, &b]);
    let (id, mut member) = b.member();
    member.incarnation = Incarnation(0x201);
    a.transport.use_membership(&membership([a.member(), (id, member.clone())]));
    // The old disk is cut off in both directions.
    a.wait_problem(b.id(), "but n1 has 0000000000000201 on record");
    b.wait_problem(a.id(), "but n1 has 0000000000000201 on record");
    b.kill();
    let replaced = Identity { incarnation: Incarnation(0x201), ..identity(2) };
    let b = TestNode::start_with(replaced, &member.address, Options::default());
    b.transport.use_membership(&membership([a.member(), b.member()]));
    a.wait_connected(b.id());
    b.wait_connected(a.id());
}

#[test]
fn an_announced_address_is_believed_only_of_the_node_itself() {
    let (a, b, c) = (TestNode::start(1), TestNode::start(2), TestNode::start(3));
    a.transport.use_membership(&membership([a.member(), b.member(), c.member()]));
    a.wait_connected(b.id());
    // Node 3 claims to know where node 2 is, or speaks of itself as of node 2; and someone with another disk claims to be node 2.
    let lie = |id: u64, incarnation: u64| IdentifyReply {
        self_: Some(Member { id, address: "127.0.0.1:9".into(), incarnation, priority: 0 }),
        ..IdentifyReply::default()
    };
    let options = Options::default();
    let not_begun = Identity { cluster: ClusterId(0), incarnation: Incarnation(0xbad), ..identity(2) };
    for (from, caller) in [(identity(3), lie(2, 200)), (identity(3), lie(2, 300)), (not_begun, lie(2, 0xbad))] {
        let request = IdentifyRequest { caller: Some(caller) };
        let answer = runtime().block_on(identify(&a.address, from, request, &options)).unwrap();
        let addresses: Vec<_> = answer.members.iter().map(|member| &member.address).collect();
        assert_eq!(addresses, [&a.address, &b.address, &c.address]);
    }
    assert!(a.status(b.id()).connected);
}

#[test]
fn nonsense_from_a_member_is_refused_and_not_delivered() {
    let node = TestNode::start(1);
    let address = node.address.clone();
    let handshake = Handshake::new(identity(2), node.id());
    let append = |prev, entries| AppendEntriesRequest { term: 1, prev, entries, commit: 0, round: 0 };
    let end = EntryId { index: u64::MAX, term: 1 };
    let entry = raftkv_proto::raft::v1::Entry { term: 1, payload: None };
    let nonsense =
        [append(None, vec![]), append(Some(end), vec![entry.clone()]), append(Some(EntryId::default()), vec![entry])];
    for request in nonsense {
        let status = runtime().block_on(async {
            let mut client = client(&address).await;
            let requests = tokio_stream::iter([request]).chain(tokio_stream::pending());
            let mut replies = client.append_entries(handshake.stamp(requests)).await.unwrap().into_inner();
            replies.message().await.expect_err("the stream ends with a reason")
        });
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let no_last = RequestVoteRequest { term: 1, last: None, pre_vote: false, transfer: false };
    let status = runtime().block_on(async {
        let mut client = client(&address).await;
        client.request_vote(handshake.stamp(no_last)).await.unwrap_err()
    });
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(node.inbox.try_recv().is_err(), "nothing was delivered");
}

#[test]
fn a_message_above_the_limit_is_refused_before_it_is_read() {
    let options = Options { max_message_bytes: 1000, ..Options::default() };
    let node = TestNode::start_with(identity(1), "127.0.0.1:0", options);
    let address = node.address.clone();
    let handshake = Handshake::new(identity(2), node.id());
    let payload = raftkv_proto::raft::v1::entry::Payload::Command(vec![7; 2000].into());
    let entry = raftkv_proto::raft::v1::Entry { term: 1, payload: Some(payload) };
    let request =
        AppendEntriesRequest { term: 1, prev: Some(EntryId::default()), entries: vec![entry], commit: 0, round: 0 };
    let status = runtime().block_on(async {
        let mut client = client(&address).await;
        let requests = tokio_stream::iter([request]).chain(tokio_stream::pending());
        let mut replies = client.append_entries(handshake.stamp(requests)).await.unwrap().into_inner();
        replies.message().await.expect_err("the stream ends with a reason")
    });
    assert!(status.message().contains("too large"), "{status}");
    assert!(node.inbox.try_recv().is_err(), "nothing was delivered");
}
