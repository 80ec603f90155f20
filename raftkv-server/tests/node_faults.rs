//! Nodes whose ports fail, stall or overflow, and whose clients leave: nobody is told a falsehood, and nobody is left waiting.

mod node_support;

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use node_support::{
    Cluster, MemoryLog, Network, Record, Recorder, TestNode, command, ended, first_log, options, until, within,
};
use raft_core::effect::Violation;
use raft_core::membership::Membership;
use raft_core::message::{AppendEntries, Envelope, Message};
use raft_core::port::Transport;
use raft_core::types::{EntryId, Index, Round};
use raftkv_server::node::{self, Ended, Options, RequestError};
use tokio::task::JoinHandle;

#[tokio::test]
async fn a_failed_write_ends_the_node_and_acknowledges_nothing() {
    let node = TestNode::alone(options(1)).await;
    within(node.handle.propose(command("before"))).await.unwrap();
    node.log.gate.close();
    let waiting: Vec<_> = (0..10).map(|_| node.propose("never")).collect();
    node.log.break_down();
    node.log.gate.open();
    for proposed in waiting {
        // Those that the driver had not come to yet were certainly not proposed.
        let error = within(proposed).await.unwrap().unwrap_err();
        assert!(matches!(error, RequestError::Unknown | RequestError::Stopped), "{error}");
    }
    let handle = node.handle.clone();
    assert!(matches!(ended(node.running).await, Ended::Disk(_)));
    assert_eq!(within(handle.propose(command("later"))).await, Err(RequestError::Stopped));
    assert_eq!(within(handle.read_index()).await, Err(RequestError::Stopped));
    assert_eq!(node.record.commands(), ["before"]);
}

#[tokio::test]
async fn a_node_that_can_not_write_its_vote_ends() {
    let log = first_log(1);
    log.break_down();
    let node = TestNode::start(options(1), &Network::default(), log, Record::default());
    assert!(matches!(ended(node.running).await, Ended::Disk(_)));
}

#[tokio::test]
async fn a_stalled_disk_does_not_hold_up_the_status() {
    let node = TestNode::alone(options(1)).await;
    node.log.gate.close();
    let proposed = node.propose("a");
    until("the entry is in the log, and not durable", || {
        let status = node.handle.status();
        status.last_index > status.durable_index
    })
    .await;
    assert!(!proposed.is_finished());
    node.log.gate.open();
    assert_eq!(within(proposed).await.unwrap().unwrap().response, 1);
}

#[tokio::test]
async fn what_has_queued_up_shares_a_write() {
    let node = TestNode::alone(options(1)).await;
    node.log.gate.close();
    let before = node.handle.status().last_index;
    let writes = node.log.writes();
    let mut waiting = Vec::new();
    for count in 1..=20 {
        // One after the other, so that the driver hands over a write for each.
        waiting.push(node.propose("a"));
        until("it is in the log", || node.handle.status().last_index == before.plus(count)).await;
    }
    node.log.gate.open();
    for proposed in waiting {
        within(proposed).await.unwrap().unwrap();
    }
    // The first was under way when the disk stalled; all that came meanwhile is the second.
    assert_eq!(node.log.writes() - writes, 2);
}

#[tokio::test]
async fn too_many_requests_are_refused_at_once() {
    let node = TestNode::alone(Options { max_waiting_requests: 4, ..options(1) }).await;
    node.log.gate.close();
    let waiting: Vec<_> = (0..4).map(|_| node.propose("a")).collect();
    until("all wait", || node.handle.status().last_index > node.handle.status().durable_index.plus(3)).await;
    assert_eq!(within(node.handle.propose(command("b"))).await, Err(RequestError::Overloaded));
    assert_eq!(within(node.handle.read_index()).await, Err(RequestError::Overloaded));
    node.log.gate.open();
    for proposed in waiting {
        within(proposed).await.unwrap().unwrap();
    }
    assert_eq!(within(node.handle.propose(command("c"))).await.unwrap().response, 5);
}

#[tokio::test]
async fn too_many_bytes_are_refused_at_once() {
    let node = TestNode::alone(Options { max_waiting_bytes: 8, ..options(1) }).await;
    node.log.gate.close();
    let waiting = node.propose("a command of more than 8 bytes");
    until("it waits", || node.handle.status().last_index > node.handle.status().durable_index).await;
    assert_eq!(within(node.handle.propose(command("b"))).await, Err(RequestError::Overloaded));
    node.log.gate.open();
    within(waiting).await.unwrap().unwrap();
    within(node.handle.propose(command("c"))).await.unwrap();
}

#[tokio::test]
async fn clients_who_leave_free_their_places() {
    let node = TestNode::alone(Options { max_waiting_requests: 4, ..options(1) }).await;
    node.log.gate.close();
    let before = node.handle.status().last_index;
    let waiting: Vec<_> = (0..4).map(|_| node.propose("a")).collect();
    until("all are in the log", || node.handle.status().last_index == before.plus(4)).await;
    waiting.iter().for_each(JoinHandle::abort);
    // Nothing is applied, so only their leaving can free a place.
    until("there is a place", || {
        let mut propose = pin!(node.handle.propose(command("b")));
        propose.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_waits_for_requests_under_way() {
    let node = TestNode::alone(Options { shutdown_grace: Duration::from_secs(60), ..options(1) }).await;
    node.log.gate.close();
    let before = node.handle.status().last_index;
    let waiting: Vec<_> = (0..10).map(|_| node.propose("a")).collect();
    until("all are in the log", || node.handle.status().last_index == before.plus(10)).await;
    node.handle.shutdown();
    assert_eq!(within(node.handle.propose(command("late"))).await, Err(RequestError::Stopped));
    node.log.gate.open();
    for proposed in waiting {
        within(proposed).await.unwrap().unwrap();
    }
    assert!(matches!(ended(node.running).await, Ended::Shutdown));
    assert_eq!(node.record.commands().len(), 10);
}

#[tokio::test]
async fn a_shutdown_answers_those_it_can_not_serve() {
    let node = TestNode::alone(Options { shutdown_grace: Duration::ZERO, ..options(1) }).await;
    node.log.gate.close();
    let before = node.handle.status().last_index;
    let waiting: Vec<_> = (0..10).map(|_| node.propose("a")).collect();
    until("all are in the log", || node.handle.status().last_index == before.plus(10)).await;
    node.handle.shutdown();
    for proposed in waiting {
        assert_eq!(within(proposed).await.unwrap(), Err(RequestError::Unknown));
    }
    assert_eq!(within(node.handle.propose(command("late"))).await, Err(RequestError::Stopped));
    node.log.gate.open();
    assert!(matches!(ended(node.running).await, Ended::Shutdown));
}

#[tokio::test]
async fn a_stopped_node_does_not_finish_a_long_queue() {
    let options = Options { shutdown_grace: Duration::ZERO, max_batch_commands: 1, ..options(1) };
    let node = TestNode::alone(options).await;
    node.record.gate.close();
    let before = node.handle.status().last_index;
    let waiting: Vec<_> = (0..10).map(|_| node.propose("a")).collect();
    until("all are committed", || node.handle.status().commit_index == before.plus(10)).await;
    node.handle.shutdown();
    until("the driver has ended", || node.running.has_ended()).await;
    node.record.gate.open();
    let mut applied = 0;
    for proposed in waiting {
        match within(proposed).await.unwrap() {
            Ok(_) => applied += 1,
            Err(error) => assert_eq!(error, RequestError::Unknown),
        }
    }
    assert!(matches!(ended(node.running).await, Ended::Shutdown));
    assert_eq!((applied, node.record.commands().len()), (1, 1), "only what was under way");
}

#[tokio::test]
async fn a_state_machine_that_fails_ends_the_node() {
    let node = TestNode::alone(options(1)).await;
    assert_eq!(within(node.propose("fail")).await.unwrap(), Err(RequestError::Unknown));
    assert!(matches!(ended(node.running).await, Ended::StateMachine(_)));
}

#[tokio::test]
async fn a_panic_ends_the_node_and_says_where() {
    let node = TestNode::alone(options(1)).await;
    assert_eq!(within(node.propose("panic")).await.unwrap(), Err(RequestError::Unknown));
    match ended(node.running).await {
        Ended::Panic { thread, message } => assert_eq!((&thread[..], &message[..]), ("n1-apply", "asked to")),
        other => panic!("{other}"),
    }
}

/// A transport with a bug.
struct Buggy;

impl Transport for Buggy {
    fn send(&self, _envelope: Envelope) {}

    fn use_membership(&self, _membership: &Membership) {
        panic!("a bug");
    }
}

#[tokio::test]
async fn a_panic_of_the_transport_ends_the_node_and_its_other_threads() {
    let (_, inbox) = node::mailbox(&options(1));
    let (log, state) = (MemoryLog(first_log(1)), Recorder(Record::default()));
    let (handle, running) = node::start(options(1), inbox, log, state, Buggy).unwrap();
    match ended(running).await {
        Ended::Panic { thread, message } => assert_eq!((&thread[..], &message[..]), ("n1-driver", "a bug")),
        other => panic!("{other}"),
    }
    assert_eq!(within(handle.propose(command("a"))).await, Err(RequestError::Stopped));
    let mut status = handle.watch_status();
    assert!(within(status.wait_for(|_| false)).await.is_err(), "the status closes with the node");
}

#[tokio::test]
async fn a_second_leader_of_the_term_stops_the_node() {
    let cluster = Cluster::start(3);
    cluster.propose("before", None).await;
    let leader = cluster.leader(None).await;
    let impostor = cluster.nodes.iter().find(|node| node.id != leader.id).unwrap().id;
    let append = AppendEntries { prev: EntryId::ZERO, entries: vec![], commit: Index::ZERO, round: Round(1) };
    let term = leader.handle.status().term;
    let envelope = Envelope { from: impostor, to: leader.id, term, message: Message::AppendEntries(append) };
    cluster.network.deliver(envelope);
    let (leader_id, mut nodes) = (leader.id, cluster.nodes);
    let position = nodes.iter().position(|node| node.id == leader_id).unwrap();
    let ended = ended(nodes.remove(position).running).await;
    assert!(matches!(ended, Ended::Violation(Violation::TwoLeaders { .. })), "{ended}");
}
