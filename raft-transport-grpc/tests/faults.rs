//! Peers that are gone, slow, or come back.

mod common;

use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::*;
use raft_core::port::Transport;
use raft_core::types::{Member, NodeId};
use raft_transport_grpc::{AppendEntriesStream, InstallSnapshotStream, Options, identify};
use raftkv_proto::raft::v1 as wire;
use raftkv_proto::raft::v1::raft_service_server::RaftService;
use tokio::sync::mpsc::Sender;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// A peer that opens the stream and never reads from it.
struct Stalled {
    identity: wire::IdentifyReply,
    votes: Mutex<mpsc::Sender<wire::RequestVoteRequest>>,
    streams: Mutex<Vec<Stream>>,
}

/// Both directions of a stream, kept open.
type Stream = (Streaming<wire::AppendEntriesRequest>, Sender<Result<wire::AppendEntriesReply, Status>>);

impl Stalled {
    fn new(id: u64, votes: mpsc::Sender<wire::RequestVoteRequest>) -> Self {
        let identity = wire::IdentifyReply {
            protocol: 1,
            self_: Some(wire::Member { id, address: String::new(), incarnation: 100 * id, priority: 0 }),
            cluster_id: CLUSTER.0,
            complete: true,
            ..wire::IdentifyReply::default()
        };
        Self { identity, votes: Mutex::new(votes), streams: Mutex::default() }
    }
}

#[tonic::async_trait]
impl RaftService for Stalled {
    type AppendEntriesStream = AppendEntriesStream;
    type InstallSnapshotStream = InstallSnapshotStream;

    async fn identify(&self, _: Request<wire::IdentifyRequest>) -> Result<Response<wire::IdentifyReply>, Status> {
        Ok(Response::new(self.identity.clone()))
    }

    async fn request_vote(
        &self,
        request: Request<wire::RequestVoteRequest>,
    ) -> Result<Response<wire::RequestVoteReply>, Status> {
        self.votes.lock().unwrap().send(request.into_inner()).unwrap();
        std::future::pending().await
    }

    async fn append_entries(
        &self,
        request: Request<Streaming<wire::AppendEntriesRequest>>,
    ) -> Result<Response<AppendEntriesStream>, Status> {
        let (sender, replies) = tokio::sync::mpsc::channel(1);
        self.streams.lock().unwrap().push((request.into_inner(), sender));
        Ok(Response::new(ReceiverStream::new(replies)))
    }

    async fn install_snapshot(
        &self,
        _: Request<Streaming<wire::InstallSnapshotRequest>>,
    ) -> Result<Response<InstallSnapshotStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn timeout_now(
        &self,
        _: Request<wire::TimeoutNowRequest>,
    ) -> Result<Response<wire::TimeoutNowReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn read_index(&self, _: Request<wire::ReadIndexRequest>) -> Result<Response<wire::ReadIndexReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn compare_checksums(
        &self,
        _: Request<wire::CompareChecksumsRequest>,
    ) -> Result<Response<wire::CompareChecksumsReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn submit_command(
        &self,
        _: Request<wire::SubmitCommandRequest>,
    ) -> Result<Response<wire::SubmitCommandReply>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}

fn megabyte() -> Vec<Bytes> {
    vec![Bytes::from(vec![7; 1 << 20])]
}

/// What a membership records of node `id`, were it at `address`.
fn member_at(id: u64, address: &str) -> (NodeId, Member) {
    (NodeId(id), Member { address: address.to_owned(), incarnation: identity(id).incarnation, priority: 0 })
}

#[test]
fn a_stalled_peer_holds_up_neither_the_sender_nor_others_and_its_queue_is_bounded_in_bytes() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    let runtime = runtime();
    let (votes, asked) = mpsc::channel();
    let listener = bind(&runtime, "127.0.0.1:0");
    let third = member_at(3, &listener.local_addr().unwrap().to_string());
    serve(&runtime, listener, &Options::default(), Stalled::new(3, votes));
    a.transport.use_membership(&membership([a.member(), b.member(), third]));
    a.wait_connected(b.id());
    a.wait_connected(NodeId(3));

    // More than the queue, and the windows of HTTP/2 behind it, can hold.
    let sent = 200;
    let started = Instant::now();
    for round in 1..=sent {
        a.send(NodeId(3), 1, append(0, round, megabyte()));
    }
    assert!(started.elapsed() < Duration::from_secs(2), "sending took {:?}", started.elapsed());
    let dropped = a.status(NodeId(3)).dropped;
    assert!(dropped >= sent - 60, "only {dropped} of {sent} were dropped");

    // The living peer is served at once, and the stalled one can still be asked for its vote over the same connection.
    let started = Instant::now();
    a.send(b.id(), 1, heartbeat(1));
    assert_eq!(common::round(&b.receive()), 1);
    assert!(started.elapsed() < Duration::from_millis(500), "the living peer waited {:?}", started.elapsed());
    a.send(NodeId(3), 2, request_vote());
    assert_eq!(asked.recv_timeout(PATIENCE).unwrap().term, 2);
    assert!(a.status(NodeId(3)).connected);
}

#[test]
fn what_is_sent_to_a_dead_peer_is_dropped_at_once() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    let dead = DeadAddress::reserve();
    a.transport.use_membership(&membership([a.member(), b.member(), member_at(3, &dead.address)]));
    a.wait_connected(b.id());
    a.wait_problem(NodeId(3), "refused");
    let commands = megabyte();
    let started = Instant::now();
    for round in 1..=100_000 {
        a.send(NodeId(3), 1, append(0, round, commands.clone()));
    }
    assert!(started.elapsed() < Duration::from_secs(5), "sending took {:?}", started.elapsed());
    assert_eq!(a.status(NodeId(3)).dropped, 100_000);
    // 100 GB were sent, and nothing of it is kept: this is the only reference left.
    let [command] = &commands[..] else { unreachable!() };
    assert!(command.is_unique());
    a.send(b.id(), 1, heartbeat(1));
    assert_eq!(common::round(&b.receive()), 1);
}

#[test]
fn a_peer_that_takes_connections_and_says_nothing_is_given_up_and_holds_up_nobody() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let third = member_at(3, &mute.local_addr().unwrap().to_string());
    a.transport.use_membership(&membership([a.member(), third, b.member()]));
    a.wait_connected(b.id());
    a.send(b.id(), 1, heartbeat(1));
    assert_eq!(common::round(&b.receive()), 1);
    a.wait_problem(NodeId(3), "no answer in time");
}

#[test]
fn a_peer_that_restarts_on_the_same_port_is_found_again() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    connect(&[&a, &b]);
    let address = b.address.clone();
    b.kill();
    eventually("lost", || !a.status(NodeId(2)).connected);
    let b = TestNode::start_with(identity(2), &address, Options::default());
    a.wait_connected(b.id());
    a.send(b.id(), 2, heartbeat(7));
    assert_eq!(common::round(&b.receive()), 7);
    b.send(a.id(), 2, accepted(7));
    assert_eq!(a.receive().message, accepted(7));
}

#[test]
fn a_peer_that_restarts_elsewhere_announces_its_address() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    connect(&[&a, &b]);
    let recorded = membership([a.member(), b.member()]);
    b.kill();
    eventually("lost", || !a.status(NodeId(2)).connected);
    let b = TestNode::start(2);
    // The membership still has the old address, and only the newcomer can tell.
    b.transport.use_membership(&recorded);
    a.wait_connected(b.id());
    assert_eq!(a.status(b.id()).address, b.address);
    a.send(b.id(), 2, heartbeat(7));
    assert_eq!(common::round(&b.receive()), 7);
}

#[test]
fn a_peer_that_is_heard_from_is_connected_to_without_waiting_for_the_pause_to_end() {
    let long = 6 * PATIENCE;
    let options = Options { backoff_min: long, backoff_max: long, ..Options::default() };
    let a = TestNode::start_with(identity(1), "127.0.0.1:0", options);
    let dead = DeadAddress::reserve();
    a.transport.use_membership(&membership([a.member(), member_at(2, &dead.address)]));
    a.wait_problem(NodeId(2), "refused");
    let b = TestNode::start(2);
    b.transport.use_membership(&membership([a.member(), b.member()]));
    a.wait_connected(b.id());
}

#[test]
fn a_connected_peer_that_announces_another_address_is_followed_there() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    connect(&[&a, &b]);
    let proxy = Proxy::to(&b.address);
    let caller = wire::IdentifyReply {
        self_: Some(wire::Member {
            id: 2,
            address: proxy.address.clone(),
            incarnation: b.identity.incarnation.0,
            priority: 0,
        }),
        ..wire::IdentifyReply::default()
    };
    let request = wire::IdentifyRequest { caller: Some(caller) };
    let answer = runtime().block_on(identify(&a.address, b.identity, request, &Options::default()));
    assert_eq!(answer.unwrap().members[1].address, proxy.address);
    eventually("moved", || a.status(b.id()).address == proxy.address);
}

#[test]
fn an_address_that_a_flag_gives_is_used_and_a_wrong_one_is_passed_over() {
    let (a, b, c) = (TestNode::start(1), TestNode::start(2), TestNode::start(3));
    let dead = DeadAddress::reserve();
    a.transport.set_address(b.id(), b.address.clone());
    a.transport.set_address(c.id(), dead.address.clone());
    a.transport.use_membership(&membership([a.member(), member_at(2, &dead.address), c.member()]));
    a.wait_connected(b.id());
    assert_eq!(a.status(b.id()).address, b.address);
    a.wait_connected(c.id());
    assert_eq!(a.status(c.id()).address, c.address);
}

#[test]
fn a_peer_that_vanishes_without_a_word_is_noticed_and_looked_for_where_it_said_it_is() {
    let moment = Duration::from_millis(100);
    let options = Options { keepalive_interval: moment, keepalive_timeout: moment, ..Options::default() };
    let a = TestNode::start_with(identity(1), "127.0.0.1:0", options);
    let b = TestNode::start(2);
    let proxy = Proxy::to(&b.address);
    a.transport.use_membership(&membership([a.member(), member_at(2, &proxy.address)]));
    a.wait_connected(b.id());
    assert_eq!(a.status(b.id()).address, proxy.address);
    proxy.freeze();
    eventually("found at its own address", || a.status(b.id()).address == b.address);
    a.wait_connected(b.id());
}
