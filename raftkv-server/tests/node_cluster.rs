//! Nodes over ports in memory: what their clients are told.

mod node_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use node_support::{Cluster, LogControl, Network, Record, TestNode, command, ended, options, until, within};
use raft_core::types::NodeId;
use raftkv_server::node::{Ended, Handle, Options, Proposed, RequestError, StartError};

#[tokio::test]
async fn a_node_alone_serves() {
    let node = TestNode::alone(options(1)).await;
    let first = within(node.handle.propose(command("a"))).await.unwrap();
    let second = within(node.handle.propose(command("b"))).await.unwrap();
    assert_eq!((first.response, second.response), (1, 2));
    assert!(within(node.handle.read_index()).await.unwrap() >= second.id.index);
    assert_eq!(node.record.commands(), ["a", "b"]);
    node.handle.shutdown();
    assert!(matches!(ended(node.running).await, Ended::Shutdown));
}

#[tokio::test]
async fn three_nodes_elect_replicate_and_read() {
    let cluster = Cluster::start(3);
    let first = cluster.propose("a", None).await;
    let second = cluster.propose("b", None).await;
    assert!(first.id.index < second.id.index);
    let read = loop {
        // The leader may have changed since.
        if let Ok(index) = within(cluster.leader(None).await.handle.read_index()).await {
            break index;
        }
    };
    assert!(read >= second.id.index, "a read sees what was acknowledged before it");
    for node in &cluster.nodes {
        until("every node has applied both", || node.record.commands() == ["a", "b"]).await;
    }
}

#[tokio::test]
async fn a_read_waits_until_its_index_is_applied() {
    let node = TestNode::alone(options(1)).await;
    node.record.gate.close();
    let proposed = node.propose("a");
    until("the command is committed, and not applied", || {
        let status = node.handle.status();
        status.commit_index > status.applied_index
    })
    .await;
    let (handle, record) = (node.handle.clone(), node.record.clone());
    let read = tokio::spawn(async move { handle.read_index().await.map(|_| record.commands()) });
    // Long enough for a read that does not wait to be answered.
    assert!(tokio::time::timeout(Duration::from_millis(100), node.handle.read_index()).await.is_err());
    assert!(!read.is_finished());
    node.record.gate.open();
    assert_eq!(within(read).await.unwrap().unwrap(), ["a"]);
    within(proposed).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_follower_names_the_leader() {
    let cluster = Cluster::start(3);
    loop {
        let leader = cluster.leader(None).await.id;
        let follower = cluster.nodes.iter().find(|node| node.id != leader).unwrap();
        let proposed = within(follower.handle.propose(command("a"))).await;
        let read = within(follower.handle.read_index()).await;
        if cluster.leader(None).await.id == leader {
            let refused = RequestError::NotLeader { leader: Some(leader) };
            assert_eq!((proposed.unwrap_err(), read.unwrap_err()), (refused, refused));
            break;
        }
    }
}

#[tokio::test]
async fn a_command_that_another_replaced_is_lost() {
    let cluster = Cluster::start(3);
    cluster.propose("before", None).await;
    let old = cluster.leader(None).await;
    cluster.network.isolate(old.id);
    // More of them than the others will ever have entries.
    let waiting: Vec<_> = (0..20).map(|_| old.propose("never")).collect();
    cluster.propose("instead", Some(old.id)).await;
    cluster.network.heal();
    for proposed in waiting {
        assert_eq!(within(proposed).await.unwrap(), Err(RequestError::Lost));
    }
    for node in &cluster.nodes {
        until("all agree", || node.record.commands() == ["before", "instead"]).await;
    }
}

#[tokio::test]
async fn a_command_that_the_next_leader_commits_is_applied() {
    let cluster = Cluster::start(3);
    cluster.propose("before", None).await;
    let old = cluster.leader(None).await;
    let others: Vec<_> = cluster.nodes.iter().filter(|node| node.id != old.id).collect();
    // The entry reaches the others, but their acknowledgement is lost with the leader.
    others.iter().for_each(|node| cluster.network.cut(node.id, old.id));
    let proposed = old.propose("kept");
    until("the entry is everywhere", || {
        others.iter().all(|node| {
            node.log.entries().iter().any(|entry| entry.payload == raft_core::types::Payload::Command(command("kept")))
        })
    })
    .await;
    cluster.network.isolate(old.id);
    cluster.propose("after", Some(old.id)).await;
    cluster.network.heal();
    assert_eq!(within(proposed).await.unwrap().unwrap().response, 2);
    for node in &cluster.nodes {
        until("all agree", || node.record.commands() == ["before", "kept", "after"]).await;
    }
}

#[tokio::test]
async fn a_deposed_leader_serves_no_read() {
    let cluster = Cluster::start(3);
    cluster.propose("before", None).await;
    let old = cluster.leader(None).await;
    cluster.network.isolate(old.id);
    let handle = old.handle.clone();
    let read = tokio::spawn(async move { handle.read_index().await });
    cluster.propose("after", Some(old.id)).await;
    cluster.network.heal();
    assert!(matches!(within(read).await.unwrap(), Err(RequestError::NotLeader { .. })));
}

#[tokio::test]
async fn a_restart_continues_where_it_was() {
    let node = TestNode::alone(options(1)).await;
    within(node.handle.propose(command("a"))).await.unwrap();
    node.handle.shutdown();
    ended(node.running).await;
    let node = TestNode::start(options(1), &Network::default(), node.log, node.record);
    node.led().await;
    assert_eq!(within(node.handle.propose(command("b"))).await.unwrap().response, 2);
    assert_eq!(node.record.commands(), ["a", "b"]);
}

#[tokio::test]
async fn a_lost_state_is_rebuilt_from_the_log() {
    let node = TestNode::alone(options(1)).await;
    within(node.handle.propose(command("a"))).await.unwrap();
    node.handle.shutdown();
    ended(node.running).await;
    let node = TestNode::start(options(1), &Network::default(), node.log, Record::default());
    node.led().await;
    assert_eq!(node.record.commands(), ["a"]);
}

#[tokio::test]
async fn a_state_ahead_of_its_log_is_not_started() {
    let node = TestNode::alone(options(1)).await;
    within(node.handle.propose(command("a"))).await.unwrap();
    node.handle.shutdown();
    ended(node.running).await;
    let (_, inbox) = raftkv_server::node::mailbox(&options(1));
    let log = node_support::MemoryLog(LogControl::default());
    let state = node_support::Recorder(node.record);
    let error = raftkv_server::node::start(options(1), inbox, log, state, Network::default()).unwrap_err();
    assert!(matches!(error, StartError::Boot(_)), "{error}");
}

#[tokio::test]
async fn a_setting_of_zero_is_refused_by_name() {
    let wrong = Options { tick: Duration::ZERO, ..options(1) };
    let (_, inbox) = raftkv_server::node::mailbox(&wrong);
    let log = node_support::MemoryLog(LogControl::default());
    let state = node_support::Recorder(Record::default());
    let error = raftkv_server::node::start(wrong, inbox, log, state, Network::default()).unwrap_err();
    assert_eq!(error.to_string(), "tick must be above zero");
}

#[tokio::test]
async fn the_status_is_followed_without_polling() {
    let cluster = Cluster::start(3);
    let mut status = cluster.nodes[0].handle.watch_status();
    let seen = within(status.wait_for(|status| status.leader.is_some())).await.unwrap().clone();
    assert_eq!(seen.id, NodeId(1));
    assert_eq!(seen.membership.voters.len(), 3);
}

#[tokio::test]
async fn a_stopped_leader_is_replaced() {
    let mut cluster = Cluster::start(3);
    cluster.propose("before", None).await;
    let old = cluster.leader(None).await.id;
    let position = cluster.nodes.iter().position(|node| node.id == old).unwrap();
    let node = cluster.nodes.remove(position);
    node.handle.shutdown();
    ended(node.running).await;
    cluster.propose("after", Some(old)).await;
    let back = TestNode::start(options(old.0), &cluster.network, node.log, node.record);
    until("it catches up", || back.record.commands() == ["before", "after"]).await;
}

/// What became of one command that a client proposed once.
struct Attempt {
    command: Bytes,
    outcome: Result<Proposed<u64>, RequestError>,
}

/// Proposes commands one after the other, none twice, wherever a leader is said to be, until told to stop.
async fn client(name: usize, handles: Vec<Handle<u64>>, stop: Arc<AtomicBool>) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut at = name % handles.len();
    while !stop.load(Ordering::Relaxed) {
        let command = Bytes::from(format!("client {name} command {}", attempts.len()));
        let outcome = within(handles[at].propose(command.clone())).await;
        if let Err(error) = outcome {
            let leader = if let RequestError::NotLeader { leader } = error { leader } else { None };
            at = leader.map_or((at + 1) % handles.len(), |id| id.0 as usize - 1);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        attempts.push(Attempt { command, outcome });
    }
    attempts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_are_told_is_true_while_leaders_change() {
    let cluster = Cluster::start(3);
    let handles: Vec<_> = cluster.nodes.iter().map(|node| node.handle.clone()).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..16).map(|name| tokio::spawn(client(name, handles.clone(), Arc::clone(&stop)))).collect();
    for _ in 0..4 {
        let leader = cluster.leader(None).await.id;
        cluster.network.isolate(leader);
        cluster.leader(Some(leader)).await;
        cluster.network.heal();
    }
    stop.store(true, Ordering::Relaxed);
    let mut attempts = Vec::new();
    for client in clients {
        attempts.extend(client.await.unwrap());
    }
    cluster.propose("last", None).await;
    for node in &cluster.nodes {
        until("every node has applied the last", || node.record.commands().last() == Some(&command("last"))).await;
    }

    let commands = cluster.nodes[0].record.commands();
    assert!(cluster.nodes.iter().all(|node| node.record.commands() == commands), "all agree");
    let acknowledged = attempts.iter().filter(|attempt| attempt.outcome.is_ok()).count();
    assert_eq!(commands.len(), acknowledged + 1, "what was acknowledged and the last one, and nothing else");
    for Attempt { command, outcome } in attempts {
        match outcome {
            Ok(proposed) => assert_eq!(commands[proposed.response as usize - 1], command),
            Err(error) => assert!(!commands.contains(&command), "{command:?} was applied, and said: {error}"),
        }
    }
}
