//! Snapshots: their data past the core, their message after it, and what becomes of both where something breaks.

mod common;

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use common::*;
use raft_core::message::{Envelope, Message};
use raft_core::port::Transport;
use raft_core::types::{Incarnation, Member, NodeId, Term};
use raft_transport_grpc::Options;
use raft_transport_grpc::convert::{Announced, announced_to_wire, chunk_to_wire};
use raft_transport_grpc::handshake::Handshake;
use raftkv_proto::raft::v1::install_snapshot_request::Part;
use raftkv_proto::raft::v1::{InstallSnapshotReply, InstallSnapshotRequest, SnapshotChunk};
use tokio_stream::StreamExt;
use tonic::{Code, Status};

const MIB: u64 = 1 << 20;
/// What may be under way, with the chunk that is just being written.
const WINDOW: u64 = 9 * (256 << 10);
/// Long enough for what must not happen to happen.
const A_WHILE: Duration = Duration::from_millis(200);

fn throttled(bytes_per_second: u64) -> Options {
    Options { snapshot_bytes_per_second: NonZeroU64::new(bytes_per_second), ..Options::default() }
}

/// Node 1 with these options, and node 2, connected.
fn pair(options: Options) -> (TestNode, TestNode) {
    let nodes = (TestNode::start_with(identity(1), "127.0.0.1:0", options), TestNode::start(2));
    connect(&[&nodes.0, &nodes.1]);
    nodes
}

fn envelope(from: u64, index: u64) -> Envelope {
    Envelope { from: NodeId(from), to: NodeId(2), term: Term(5), message: install(index) }
}

fn wait_received(node: &TestNode, bytes: u64) {
    eventually("bytes received", || node.staging.get(|staged| staged.received >= bytes));
}

/// What node 2 answers to a stream of parts from node 1: all replies, and the status that ends them, if one does.
fn call(node: &TestNode, parts: Vec<Part>) -> (Vec<InstallSnapshotReply>, Option<Status>) {
    let address = node.address.clone();
    let handshake = Handshake::new(identity(1), node.id());
    runtime().block_on(async {
        let parts = parts.into_iter().map(|part| InstallSnapshotRequest { part: Some(part) });
        let requests = tokio_stream::iter(parts.collect::<Vec<_>>()).chain(tokio_stream::pending());
        let mut client = client(&address).await;
        let mut stream = client.install_snapshot(handshake.stamp(requests)).await.unwrap().into_inner();
        let mut replies = Vec::new();
        loop {
            match stream.message().await {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => return (replies, None),
                Err(status) => return (replies, Some(status)),
            }
        }
    })
}

fn header(capture: u64, size_bytes: u64) -> Part {
    let Message::InstallSnapshot(install) = install(7) else { unreachable!() };
    Part::Header(announced_to_wire(&Announced { capture, size_bytes, term: Term(5), install }))
}

fn chunk(offset: u64, len: u64) -> SnapshotChunk {
    chunk_to_wire(offset, (offset..offset + len).map(content).collect())
}

#[test]
fn a_snapshot_arrives_whole_and_its_message_once_it_is_durable() {
    let (a, b) = pair(Options::default());
    b.staging.set(|staged| staged.stalls = "finish");
    a.send_snapshot(b.id(), 7, FakeCapture::of(3 * MIB + 5));
    wait_received(&b, 3 * MIB + 5);
    assert!(b.inbox.recv_timeout(A_WHILE).is_err(), "it is not verified yet");
    b.staging.set(|staged| staged.stalls = "");
    assert_eq!(b.receive(), envelope(1, 7));
    let first = a.reports.recv().unwrap();
    assert_eq!(first, Report::Progress(b.id()));
    assert_eq!(a.sent(), (b.id(), true));
    assert_eq!(b.staging.get(|staged| (staged.last, staged.finished)), (last(7), 1));
    // The core's answer goes where its other answers go.
    b.send(a.id(), 5, accepted(7));
    assert_eq!(a.receive().message, accepted(7));
}

#[test]
fn an_empty_state_arrives_as_well() {
    let (a, b) = pair(Options::default());
    a.send_snapshot(b.id(), 7, FakeCapture::of(0));
    assert_eq!(b.receive(), envelope(1, 7));
    assert_eq!(a.sent(), (b.id(), true));
}

#[test]
fn a_transfer_that_breaks_goes_on_where_the_peer_has_come_to() {
    let a = TestNode::start_with(identity(1), "127.0.0.1:0", throttled(16 * MIB));
    let mut proxy = None;
    let b = TestNode::start_behind(identity(2), "127.0.0.1:0", Options::default(), |address| {
        proxy.insert(Proxy::to(address)).address.clone()
    });
    let proxy = proxy.unwrap();
    connect(&[&a, &b]);
    let capture = FakeCapture::of(8 * MIB);
    let read = capture.read.clone();
    a.send_snapshot(b.id(), 7, capture);
    for part in [2 * MIB, 5 * MIB] {
        wait_received(&b, part);
        proxy.cut();
    }
    assert_eq!(b.receive(), envelope(1, 7));
    assert_eq!(a.sent(), (b.id(), true));
    let (begun, written) = b.staging.get(|staged| (staged.begun.clone(), staged.written));
    assert!(matches!(begun[..], [0, second, third] if second >= 2 * MIB && third >= 5 * MIB), "{begun:?}");
    assert_eq!(written, 8 * MIB);
    let again = *read.lock().unwrap() - 8 * MIB;
    assert!(again <= 2 * WINDOW, "{again} bytes were sent again after two breaks");
}

#[test]
fn a_peer_that_restarts_goes_on_with_what_it_has() {
    let (a, b) = pair(throttled(4 * MIB));
    a.send_snapshot(b.id(), 7, FakeCapture::of(2 * MIB));
    wait_received(&b, MIB);
    let (address, old) = (b.address.clone(), b.staging.clone());
    b.kill();
    let b = TestNode::start_with(identity(2), &address, Options::default());
    old.get(|old| {
        b.staging.set(|new| {
            (new.capture, new.last, new.size_bytes, new.received) =
                (old.capture, old.last, old.size_bytes, old.received);
        });
    });
    assert_eq!(b.receive(), envelope(1, 7));
    assert_eq!(a.sent(), (b.id(), true));
}

#[test]
fn a_corrupted_chunk_is_refused_and_not_written() {
    let b = TestNode::start(2);
    let altered = SnapshotChunk { crc32c: 1, ..chunk(10, 10) };
    let (replies, status) = call(&b, vec![header(1, 20), Part::Chunk(chunk(0, 10)), Part::Chunk(altered)]);
    assert_eq!(replies.iter().map(|reply| reply.received).collect::<Vec<_>>(), [0, 10]);
    let status = status.unwrap();
    assert_eq!(status.code(), Code::DataLoss, "{status}");
    assert_eq!(b.staging.get(|staged| staged.received), 10);
    // What was right is kept.
    let (replies, status) = call(&b, vec![header(1, 20), Part::Chunk(chunk(10, 10))]);
    assert!(status.is_none(), "{status:?}");
    assert_eq!(replies[0].received, 10);
    assert_eq!(*replies.last().unwrap(), InstallSnapshotReply { received: 20, complete: true });
    assert_eq!(b.receive(), envelope(1, 7));
}

#[test]
fn parts_that_make_no_sense_are_refused() {
    let b = TestNode::start(2);
    let large = chunk(0, MIB + 1);
    for parts in [
        vec![Part::Chunk(chunk(0, 10))],
        vec![header(1, 20), header(1, 20)],
        vec![header(1, 20), Part::Chunk(chunk(5, 10))],
        vec![header(1, 20), Part::Chunk(chunk(0, 21))],
        vec![header(1, 20), Part::Chunk(chunk(0, 0))],
        vec![header(1, 4 * MIB), Part::Chunk(large)],
        vec![Part::Header(Default::default())],
    ] {
        let status = call(&b, parts).1.expect("it is refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    assert_eq!(b.staging.get(|staged| staged.written), 0);
    assert!(b.inbox.try_recv().is_err(), "nothing was delivered");
}

#[test]
fn a_snapshot_whose_end_the_leader_missed_is_not_sent_or_delivered_again() {
    let b = TestNode::start(2);
    let (_, status) = call(&b, vec![header(1, 10), Part::Chunk(chunk(0, 10))]);
    assert!(status.is_none(), "{status:?}");
    assert_eq!(b.receive(), envelope(1, 7));
    let (replies, status) = call(&b, vec![header(1, 10)]);
    assert!(status.is_none(), "{status:?}");
    assert_eq!(replies, [InstallSnapshotReply { received: 10, complete: true }]);
    assert!(b.inbox.try_recv().is_err(), "the core was told already");
}

#[test]
fn a_newer_snapshot_takes_the_place_of_an_older_one_to_the_same_peer() {
    let (a, b) = pair(throttled(MIB));
    a.send_snapshot(b.id(), 7, FakeCapture::of(64 * MIB));
    wait_received(&b, 1);
    a.send_snapshot(b.id(), 8, FakeCapture::of(1000));
    assert_eq!(b.receive(), envelope(1, 8));
    assert_eq!(a.sent(), (b.id(), true));
    assert!(a.reports.recv_timeout(A_WHILE).is_err(), "of the older one nothing is said any more");
    assert!(b.inbox.try_recv().is_err());
}

#[test]
fn a_snapshot_of_another_leader_ends_the_one_before_it() {
    let (a, b) = pair(throttled(MIB));
    let c = TestNode::start(3);
    connect(&[&b, &c]);
    b.transport.use_membership(&membership([a.member(), b.member(), c.member()]));
    a.send_snapshot(b.id(), 7, FakeCapture::of(64 * MIB));
    wait_received(&b, 1);
    c.send_snapshot(b.id(), 8, FakeCapture::of(MIB));
    assert_eq!(b.receive(), envelope(3, 8));
    assert_eq!(c.sent(), (b.id(), true));
    assert_eq!(a.sent(), (b.id(), false), "and does not displace the newer one in turn");
}

#[test]
fn a_peer_that_cannot_store_it_is_reported() {
    for call in ["begin", "write", "finish"] {
        let (a, b) = pair(Options::default());
        b.staging.set(|staged| staged.fails = call);
        a.send_snapshot(b.id(), 7, FakeCapture::of(MIB));
        assert_eq!(a.sent(), (b.id(), false), "{call}");
        assert!(b.inbox.try_recv().is_err(), "{call}");
        // The next one does better.
        b.staging.set(|staged| staged.fails = "");
        a.send_snapshot(b.id(), 8, FakeCapture::of(MIB));
        assert_eq!(a.sent(), (b.id(), true), "{call}");
    }
}

#[test]
fn a_capture_that_cannot_be_read_is_reported() {
    let (a, b) = pair(Options::default());
    a.send_snapshot(b.id(), 7, FakeCapture { fails: true, ..FakeCapture::of(MIB) });
    assert_eq!(a.sent(), (b.id(), false));
}

#[test]
fn a_peer_that_stays_away_is_given_up_and_a_stranger_at_once() {
    let options = Options { snapshot_patience: A_WHILE, ..Options::default() };
    let a = TestNode::start_with(identity(1), "127.0.0.1:0", options);
    let dead = DeadAddress::reserve();
    let (id, member) = TestNode::start(2).member();
    let member = Member { address: dead.address.clone(), ..member };
    a.transport.use_membership(&membership([a.member(), (id, member)]));
    let started = Instant::now();
    a.send_snapshot(id, 7, FakeCapture::of(MIB));
    assert_eq!(a.sent(), (id, false));
    assert!(started.elapsed() >= A_WHILE, "it was tried more than once");
    a.send_snapshot(NodeId(9), 7, FakeCapture::of(MIB));
    assert_eq!(a.sent(), (NodeId(9), false));
}

#[test]
fn a_peer_that_takes_nothing_any_more_is_given_up() {
    let (a, b) = pair(Options { snapshot_patience: A_WHILE, ..Options::default() });
    b.staging.set(|staged| staged.stalls = "write");
    a.send_snapshot(b.id(), 7, FakeCapture::of(MIB));
    assert_eq!(a.sent(), (b.id(), false));
    b.staging.set(|staged| staged.stalls = "");
}

#[test]
fn verifying_may_take_longer_than_the_patience() {
    let (a, b) = pair(Options { snapshot_patience: Duration::from_secs(1), ..Options::default() });
    b.staging.set(|staged| staged.stalls = "finish");
    a.send_snapshot(b.id(), 7, FakeCapture::of(MIB));
    wait_received(&b, MIB);
    std::thread::sleep(Duration::from_millis(2500));
    b.staging.set(|staged| staged.stalls = "");
    assert_eq!(a.sent(), (b.id(), true));
    assert_eq!(b.staging.get(|staged| staged.begun.clone()), [0]);
}

#[test]
fn a_throttled_snapshot_takes_its_time() {
    let (a, b) = pair(throttled(2 * MIB));
    let started = Instant::now();
    a.send_snapshot(b.id(), 7, FakeCapture::of(MIB));
    assert_eq!(a.sent(), (b.id(), true));
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(350), "1 MiB at 2 MiB/s took {took:?}");
}

#[test]
fn appends_and_votes_pass_while_a_snapshot_is_slow_or_stalled() {
    for (rate, stalls) in [(MIB, ""), (1024 * MIB, "write")] {
        let nodes =
            [TestNode::start_with(identity(1), "127.0.0.1:0", throttled(rate)), TestNode::start(2), TestNode::start(3)];
        let [a, b, c] = &nodes;
        connect(&[a, b, c]);
        b.staging.set(|staged| staged.stalls = stalls);
        a.send_snapshot(b.id(), 7, FakeCapture::of(64 * MIB));
        eventually("begun", || b.staging.get(|staged| !staged.begun.is_empty()));
        let started = Instant::now();
        for round in 1..=50 {
            for peer in [b, c] {
                a.send(peer.id(), 5, heartbeat(round));
                assert_eq!(common::round(&peer.receive()), round);
                peer.send(a.id(), 5, accepted(round));
                assert_eq!(a.receive().message, accepted(round));
            }
        }
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        b.send(a.id(), 6, request_vote());
        assert_eq!(a.receive().message, request_vote());
        assert!(b.staging.get(|staged| staged.received < 64 * MIB), "the snapshot is still under way");
        b.staging.set(|staged| staged.stalls = "");
    }
}

#[test]
fn a_large_state_is_never_in_memory_as_a_whole() {
    let (a, b) = pair(Options::default());
    b.staging.set(|staged| staged.stalls = "write");
    let capture = FakeCapture::of(64 * MIB);
    let read = capture.read.clone();
    a.send_snapshot(b.id(), 7, capture);
    eventually("the window is full", || *read.lock().unwrap() >= 2 * MIB);
    std::thread::sleep(A_WHILE);
    assert_eq!(*read.lock().unwrap(), 2 * MIB, "no more is read than may be under way");
    b.staging.set(|staged| staged.stalls = "");
    while b.staging.get(|staged| staged.finished) == 0 {
        let (read, written) = (*read.lock().unwrap(), b.staging.get(|staged| staged.written));
        assert!(read <= written + WINDOW, "{read} bytes were read where {written} were written");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(a.sent(), (b.id(), true));
    assert_eq!(*read.lock().unwrap(), 64 * MIB);
}

#[test]
fn another_disk_neither_sends_nor_gets_a_snapshot() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    let with = |(id, member): (NodeId, Member)| (id, Member { incarnation: Incarnation(0xbad), ..member });
    // The receiver has another disk of the sender on record, then the other way round.
    for (of_a, of_b) in [
        (membership([a.member(), b.member()]), membership([with(a.member()), b.member()])),
        (membership([a.member(), with(b.member())]), membership([a.member(), b.member()])),
    ] {
        a.transport.use_membership(&of_a);
        b.transport.use_membership(&of_b);
        a.send_snapshot(b.id(), 7, FakeCapture::of(MIB));
        assert_eq!(a.sent(), (b.id(), false));
    }
    assert_eq!(b.staging.get(|staged| staged.begun.len()), 0);
}

#[test]
fn a_sender_or_receiver_that_is_replaced_or_removed_is_cut_off() {
    let replaced = |node: &TestNode| {
        let (id, member) = node.member();
        (id, Member { incarnation: Incarnation(0xbad), ..member })
    };
    type Change = fn(&TestNode, &TestNode, (NodeId, Member), (NodeId, Member));
    let changes: [Change; 3] = [
        |a, b, _, new_b| a.transport.use_membership(&membership([a.member(), (b.id(), new_b.1)])),
        |a, _, _, _| a.transport.use_membership(&membership([a.member()])),
        |a, b, new_a, _| b.transport.use_membership(&membership([(a.id(), new_a.1), b.member()])),
    ];
    for change in changes {
        let (a, b) = pair(throttled(MIB));
        a.send_snapshot(b.id(), 7, FakeCapture::of(64 * MIB));
        wait_received(&b, 1);
        change(&a, &b, replaced(&a), replaced(&b));
        assert_eq!(a.sent(), (b.id(), false));
        assert!(b.inbox.try_recv().is_err());
    }
}

#[test]
fn a_stranger_may_send_a_snapshot() {
    // The leader of a node that is behind may be none of the members it knows.
    let (a, b) = (TestNode::start(4), TestNode::start(2));
    b.transport.use_membership(&membership([b.member()]));
    a.transport.use_membership(&membership([a.member(), b.member()]));
    a.send_snapshot(b.id(), 7, FakeCapture::of(MIB));
    assert_eq!(b.receive(), envelope(4, 7));
    assert_eq!(a.sent(), (b.id(), true));
}

#[test]
fn a_snapshot_that_the_core_cannot_take_now_is_offered_again() {
    let options = Options { snapshot_patience: A_WHILE, ..Options::default() };
    let (a, mut b) = pair(options);
    b.inbox = std::sync::mpsc::channel().1;
    a.send_snapshot(b.id(), 7, FakeCapture::of(MIB));
    assert_eq!(a.sent(), (b.id(), false), "until there is no patience left");
    assert_eq!(b.staging.get(|staged| (staged.written, staged.finished)), (MIB, 1), "its data is not sent again");
}

#[test]
fn a_closed_transport_says_nothing_of_its_snapshots() {
    let (a, b) = pair(throttled(MIB));
    a.send_snapshot(b.id(), 7, FakeCapture::of(64 * MIB));
    wait_received(&b, 1);
    a.transport.close();
    a.send_snapshot(b.id(), 8, FakeCapture::of(1));
    std::thread::sleep(A_WHILE);
    assert!(a.reports.try_iter().all(|report| report == Report::Progress(b.id())));
    assert!(b.inbox.try_recv().is_err());
}

#[test]
#[should_panic(expected = "a capture goes with its own snapshot")]
fn a_capture_of_another_entry_is_never_sent() {
    let node = TestNode::start_with(identity(1), "127.0.0.1:0", Options::default());
    node.transport.send_snapshot(envelope(1, 7), Box::new(FakeCapture::of(1)));
}
