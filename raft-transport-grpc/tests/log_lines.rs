//! What people read of a peer that comes and goes: each change once, however many attempts lie between.

mod common;

use std::io;
use std::sync::{Arc, Mutex};

use common::*;
use raft_core::port::Transport;
use raft_core::types::{Identity, Incarnation};
use raft_transport_grpc::Options;
use raft_transport_grpc::handshake::Handshake;

/// Collects the lines of the log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// The lines about a peer, without time stamps, since the last call.
    fn take(&self, part: &str) -> Vec<String> {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }
}

/// Waits until the peer has been tried again several times.
fn several_attempts() {
    // Pauses begin at 10 ms and end at 40 ms.
    std::thread::sleep(std::time::Duration::from_millis(400));
}

fn assert_one(lines: &[String], level: &str, parts: &[&str]) {
    let [line] = lines else { panic!("one line, not {lines:#?}") };
    assert!(line.contains(level) && parts.iter().all(|part| line.contains(part)), "{line}");
}

#[test]
fn each_change_of_a_peer_is_one_line() {
    let lines = Lines::default();
    let writer = lines.clone();
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_target(true)
        .with_max_level(tracing::Level::INFO)
        .with_writer(move || writer.clone())
        .init();
    let moment = std::time::Duration::from_millis(10);
    let options = Options { backoff_min: moment, backoff_max: 4 * moment, ..Options::default() };
    let a = TestNode::start_with(identity(1), "127.0.0.1:0", options.clone());
    let b = TestNode::start(2);
    let (recorded, address) = (membership([a.member(), b.member()]), b.address.clone());
    b.kill();

    a.transport.use_membership(&recorded);
    several_attempts();
    assert_one(&lines.take("peer=n2"), "INFO", &["not reachable yet", "refused", &address]);

    let b = TestNode::start_with(identity(2), &address, options.clone());
    a.wait_connected(b.id());
    several_attempts();
    assert_one(&lines.take("peer=n2"), "INFO", &["connected", &address]);

    b.kill();
    several_attempts();
    assert_one(&lines.take("peer=n2"), "WARN", &["connection lost", &address]);

    // A peer that is refused is told of once on this side, and once on its own.
    let wiped = Identity { incarnation: Incarnation(0xbad), ..identity(2) };
    let b = TestNode::start_with(wiped, &address, options.clone());
    a.wait_problem(b.id(), "n2 states incarnation 0000000000000bad");
    several_attempts();
    assert_one(
        &lines.take("peer=n2"),
        "WARN",
        &["can't work with this peer", "n2 states incarnation 0000000000000bad"],
    );
    b.transport.use_membership(&recorded);
    b.wait_problem(a.id(), "n2 states incarnation 0000000000000bad");
    several_attempts();
    let both = lines.take("n2 states incarnation 0000000000000bad");
    assert_eq!(both.len(), 2, "{both:#?}");
    assert!(both.iter().any(|line| line.contains("peer=n2") && line.contains("refused a call")), "{both:#?}");
    assert!(both.iter().any(|line| line.contains("peer=n1") && line.contains("it refuses this node")), "{both:#?}");

    // A connection that breaks in the same way again and again is one trouble.
    let (c, d) = (TestNode::start_with(identity(3), "127.0.0.1:0", options), TestNode::start(4));
    connect(&[&c, &d]);
    lines.take("");
    let runtime = runtime();
    for _ in 0..20 {
        c.wait_connected(d.id());
        let connected_since = c.status(d.id()).since;
        let taken_over = Handshake::new(c.identity, d.id()).stamp(tokio_stream::pending());
        let stream = runtime.block_on(async { client(&d.address).await.append_entries(taken_over).await });
        eventually("connected anew", || c.status(d.id()).since > connected_since && c.status(d.id()).connected);
        drop(stream);
    }
    let flapping = lines.take("peer=n4");
    let [lost, connected] = &flapping[..] else { panic!("two lines, not {flapping:#?}") };
    assert!(lost.contains("connection lost") && connected.contains("connected"), "{flapping:#?}");
}
