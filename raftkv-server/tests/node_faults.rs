//! Nodes whose ports fail, stall or overflow, and whose clients leave: nobody is told a falsehood, and nobody is left waiting.

mod node_support;

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use node_support::{
    Cluster, LogControl, MemoryLog, Network, Record, Recorder, TestNode, command, ended, first_log, options, until,
    with_snapshots, within,
};
use raft_core::effect::Violation;
use raft_core::entries::Entries;
use raft_core::membership::{Change, Membership, MembershipChange};
use raft_core::message::{AppendEntries, Envelope, Message};
use raft_core::port::{Capture, Staging, Transport};
use raft_core::types::{EntryId, Index, Member, NodeId, Round, Snapshot, Term};
use raftkv_server::node::{self, Ended, Options, RequestError, StartError};
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

    fn send_snapshot(&self, _envelope: Envelope, _capture: Box<dyn Capture>) {}

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
    let append =
        AppendEntries { prev: EntryId::ZERO, entries: Entries::default(), commit: Index::ZERO, round: Round(1) };
    let term = leader.handle.status().term;
    let envelope = Envelope { from: impostor, to: leader.id, term, message: Message::AppendEntries(append) };
    cluster.network.deliver(envelope);
    let (leader_id, mut nodes) = (leader.id, cluster.nodes);
    let position = nodes.iter().position(|node| node.id == leader_id).unwrap();
    let ended = ended(nodes.remove(position).running).await;
    assert!(matches!(ended, Ended::Violation(Violation::TwoLeaders { .. })), "{ended}");
}

/// Entries leave memory as soon as they may.
fn forgetful(id: u64) -> Options {
    let mut options = options(id);
    options.core.max_cached_bytes = 0;
    options.core.max_append_bytes = 100;
    options
}

/// A cluster whose leader has entries that left its memory, and a follower that lacks them and is cut off.
async fn with_one_behind(options: impl Fn(u64) -> Options) -> (Cluster, NodeId, NodeId) {
    let cluster = Cluster::with_spare(3, 0, options);
    let leader = cluster.leader(None).await;
    let behind = cluster.nodes.iter().find(|node| node.id != leader.id).unwrap().id;
    cluster.network.isolate(behind);
    for _ in 0..60 {
        within(leader.propose("a")).await.unwrap().unwrap();
    }
    let leader = leader.id;
    (cluster, leader, behind)
}

#[tokio::test]
async fn what_left_memory_is_loaded_for_a_follower_that_is_behind() {
    let (cluster, leader, behind) = with_one_behind(forgetful).await;
    cluster.network.heal();
    until("it catches up", || cluster.node(behind).record.commands().len() == 60).await;
    assert!(cluster.nodes.iter().map(|node| node.log.loads()).sum::<usize>() > 0);
    assert_eq!(cluster.node(behind).record.snapshots_installed(), 0);
    assert_eq!(cluster.node(behind).record.commands(), cluster.node(leader).record.commands());
}

#[tokio::test]
async fn a_load_that_finds_nothing_is_tried_again() {
    let (cluster, _, behind) = with_one_behind(forgetful).await;
    cluster.nodes.iter().for_each(|node| node.log.forget(true));
    let loads = || cluster.nodes.iter().map(|node| node.log.loads()).sum::<usize>();
    let before = loads();
    cluster.network.heal();
    until("it was tried more than once", || loads() > before + 1).await;
    assert!(cluster.nodes.iter().all(|node| !node.running.has_ended()));
    cluster.nodes.iter().for_each(|node| node.log.forget(false));
    until("it catches up", || cluster.node(behind).record.commands().len() == 60).await;
}

#[tokio::test]
async fn a_disk_that_can_not_be_read_ends_the_node() {
    let (mut cluster, leader, behind) = with_one_behind(forgetful).await;
    cluster.nodes.iter().filter(|node| node.id != behind).for_each(|node| node.log.break_reads());
    cluster.network.heal();
    until("a leader has read", || cluster.nodes.iter().any(|node| node.running.has_ended())).await;
    let position = cluster.nodes.iter().position(|node| node.running.has_ended()).unwrap_or(0);
    let ended = ended(cluster.nodes.remove(position).running).await;
    assert!(matches!(ended, Ended::DiskRead(_)), "{ended}, once led by {leader}");
}

#[tokio::test]
async fn a_receiver_that_stops_in_the_middle_gets_the_snapshot_after() {
    let (mut cluster, _, behind) = with_one_behind(with_snapshots).await;
    cluster.network.pieces.limit(1);
    cluster.network.heal();
    until("a piece has gone", || cluster.network.pieces.is_used_up()).await;
    let receiver = cluster.take(behind);
    receiver.handle.shutdown();
    ended(receiver.running).await;
    cluster.network.isolate(behind);
    assert_eq!(receiver.record.snapshots_installed(), 0);
    cluster.network.pieces.open();
    cluster.network.heal();
    let back = TestNode::start(with_snapshots(behind.0), &cluster.network, receiver.log, receiver.record);
    until("it catches up", || back.record.commands().len() == 60).await;
    assert!(back.record.snapshots_installed() > 0);
}

#[tokio::test]
async fn a_copy_that_fails_is_tried_again() {
    let (cluster, _, behind) = with_one_behind(with_snapshots).await;
    cluster.nodes.iter().for_each(|node| node.record.fail_captures(1));
    cluster.network.heal();
    until("it catches up", || cluster.node(behind).record.commands().len() == 60).await;
    assert!(cluster.nodes.iter().any(|node| node.record.captures_to_fail() == 0));
}

#[tokio::test]
async fn commands_that_a_snapshot_covers_are_unknown() {
    let cluster = Cluster::with_spare(3, 0, with_snapshots);
    cluster.propose("before", None).await;
    let old = cluster.leader(None).await;
    cluster.network.isolate(old.id);
    let waiting: Vec<_> = (0..5).map(|_| old.propose("never")).collect();
    until("all are in the log", || old.handle.status().last_index >= old.handle.status().commit_index.plus(5)).await;
    let last = old.handle.status().last_index;
    while cluster.leader(Some(old.id)).await.log.compacted() <= last {
        cluster.propose("after", Some(old.id)).await;
    }
    cluster.network.heal();
    for proposed in waiting {
        assert_eq!(within(proposed).await.unwrap(), Err(RequestError::Unknown));
    }
    until("the snapshot is installed", || old.record.snapshots_installed() > 0).await;
}

#[tokio::test]
async fn a_snapshot_that_was_received_before_a_stop_is_installed_at_the_start() {
    let membership = Membership::of_voters([(NodeId(1), Member::default())].into()).into();
    let snapshot = Snapshot { last: EntryId::new(Index(7), Term(2)), membership };
    let record = Record::default();
    record.staging.begin(1, snapshot.last, 3).unwrap();
    record.staging.write(1, 0, b"a\nb").unwrap();
    record.staging.finish(1).unwrap();
    let node = TestNode::start(options(1), &Network::default(), LogControl::received(snapshot), record);
    assert_eq!(node.record.commands(), ["a", "b"]);
    node.led().await;
    assert_eq!(within(node.handle.propose(command("c"))).await.unwrap().response, 3);
}

#[tokio::test]
async fn a_start_without_the_snapshot_that_the_log_rests_on_is_refused() {
    let membership = Membership::of_voters([(NodeId(1), Member::default())].into()).into();
    let log = LogControl::received(Snapshot { last: EntryId::new(Index(7), Term(2)), membership });
    let (_, inbox) = node::mailbox(&options(1));
    let error = node::start(options(1), inbox, MemoryLog(log), Recorder(Record::default()), Network::default());
    assert!(matches!(error, Err(StartError::StateMachine(_))), "{error:?}");
}

#[tokio::test]
async fn a_change_that_a_deposed_leader_can_not_follow_is_unknown() {
    let cluster = Cluster::start(3);
    cluster.propose("before", None).await;
    let old = cluster.leader(None).await;
    cluster.network.isolate(old.id);
    let change = MembershipChange { changes: vec![Change::Remove(old.id)], stay_joint: false };
    assert_eq!(within(old.handle.change_membership(change)).await, Err(RequestError::Unknown));
}
