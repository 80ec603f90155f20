//! Which call a reply of the core answers.

mod common;

use std::time::Duration;

use common::*;
use raft_core::message::Message;
use raft_core::types::{NodeId, Term};
use raft_transport_grpc::handshake::Handshake;
use raft_transport_grpc::{Error, Options};
use raftkv_proto::raft::v1::{EntryId, RequestVoteReply, RequestVoteRequest};
use tonic::{Code, Status};

fn vote_request(term: u64) -> RequestVoteRequest {
    RequestVoteRequest { term, last: Some(EntryId::default()), pre_vote: false, transfer: false }
}

/// Calls `RequestVote` in the name of node 2, in the background.
fn call(
    runtime: &tokio::runtime::Runtime,
    node: &TestNode,
    request: RequestVoteRequest,
) -> tokio::task::JoinHandle<Result<RequestVoteReply, Status>> {
    let address = node.address.clone();
    let request = Handshake::new(identity(2), node.id()).stamp(request);
    runtime.spawn(async move {
        let mut client = client(&address).await;
        client.request_vote(request).await.map(tonic::Response::into_inner)
    })
}

#[test]
fn a_vote_is_answered_only_once_the_core_has_replied() {
    let (node, runtime) = (TestNode::start(1), runtime());
    let call = call(&runtime, &node, vote_request(5));
    assert_eq!(node.receive().term, Term(5));
    assert!(!call.is_finished());
    // Replies to others, of other kinds, or to earlier requests, are not this one's.
    node.send(NodeId(3), 5, Message::RequestVoteReply { granted: false });
    node.send(NodeId(2), 5, Message::RequestPreVoteReply { request_term: Term(5), granted: false });
    node.send(NodeId(2), 4, Message::RequestVoteReply { granted: false });
    node.send(NodeId(2), 5, Message::RequestVoteReply { granted: true });
    let reply = runtime.block_on(call).unwrap().unwrap();
    assert_eq!(reply, RequestVoteReply { term: 5, granted: true, pre_vote_term: 0 });
}

#[test]
fn a_newer_request_takes_the_place_of_an_unanswered_one() {
    let (node, runtime) = (TestNode::start(1), runtime());
    let older = call(&runtime, &node, vote_request(5));
    assert_eq!(node.receive().term, Term(5));
    let newer = call(&runtime, &node, vote_request(6));
    assert_eq!(node.receive().term, Term(6));
    assert_eq!(runtime.block_on(older).unwrap().unwrap_err().code(), Code::Aborted);
    node.send(NodeId(2), 6, Message::RequestVoteReply { granted: true });
    assert!(runtime.block_on(newer).unwrap().unwrap().granted);
}

#[test]
fn a_vote_that_is_never_answered_fails_in_time() {
    let options = Options { vote_timeout: Duration::from_millis(100), ..Options::default() };
    let node = TestNode::start_with(identity(1), "127.0.0.1:0", options);
    let runtime = runtime();
    let call = call(&runtime, &node, vote_request(5));
    assert_eq!(runtime.block_on(call).unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    node.send(NodeId(2), 5, Message::RequestVoteReply { granted: true });
}

#[test]
fn a_candidate_that_moves_on_gets_the_answer_to_its_latest_question() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    connect(&[&a, &b]);
    a.send(b.id(), 4, request_pre_vote());
    assert_eq!(b.receive().message, request_pre_vote());
    a.send(b.id(), 5, request_vote());
    assert_eq!(b.receive().message, request_vote());
    b.send(a.id(), 5, Message::RequestVoteReply { granted: true });
    let reply = a.receive();
    assert_eq!((reply.term, reply.message), (Term(5), Message::RequestVoteReply { granted: true }));
    // The pre-vote was cancelled, so its late answer reaches nobody.
    b.send(a.id(), 5, Message::RequestPreVoteReply { request_term: Term(4), granted: true });
    assert!(a.inbox.recv_timeout(Duration::from_millis(200)).is_err());
}

#[test]
fn a_refusal_with_a_newer_term_reaches_the_candidate() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    connect(&[&a, &b]);
    a.send(b.id(), 5, request_vote());
    b.receive();
    b.send(a.id(), 9, Message::RequestVoteReply { granted: false });
    let reply = a.receive();
    assert_eq!((reply.term, reply.message), (Term(9), Message::RequestVoteReply { granted: false }));
}

#[test]
fn replies_that_nobody_waits_for_are_dropped() {
    let node = TestNode::start(1);
    for message in [
        Message::RequestVoteReply { granted: true },
        Message::RequestPreVoteReply { request_term: Term(1), granted: true },
        accepted(1),
    ] {
        node.send(NodeId(9), 1, message);
    }
    assert!(node.inbox.try_recv().is_err());
}

#[test]
fn a_node_that_cannot_take_a_request_says_so() {
    let (mut node, runtime) = (TestNode::start(1), runtime());
    let address = node.address.clone();
    // The core is gone: nobody takes messages any more.
    node.inbox = std::sync::mpsc::channel().1;
    let request = Handshake::new(identity(2), NodeId(1)).stamp(vote_request(5));
    let error = runtime.block_on(async { client(&address).await.request_vote(request).await.unwrap_err() });
    assert_eq!(error.code(), Code::Unavailable);
    assert!(!Error::from(error).needs_operator());
}
