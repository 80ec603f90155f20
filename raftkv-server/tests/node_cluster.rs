//! Nodes over ports in memory: what their clients are told.

mod node_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use node_support::{
    Cluster, LogControl, Network, Record, TestNode, command, ended, options, until, with_snapshots, within,
};
use raft_core::effect::{Refusal, RoleKind};
use raft_core::membership::{Change, ChangeError, MembershipChange};
use raft_core::types::{Member, NodeId};
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
        if cluster.leader(None).await.id == leader {
            assert_eq!(proposed, Err(RequestError::NotLeader { leader: Some(leader) }));
            break;
        }
    }
}

#[tokio::test]
async fn every_node_serves_reads() {
    let cluster = Cluster::start(3);
    let proposed = cluster.propose("a", None).await;
    for node in &cluster.nodes {
        let read = loop {
            // The leader may have changed since.
            if let Ok(index) = within(node.handle.read_index()).await {
                break index;
            }
        };
        assert!(read >= proposed.id.index && node.record.commands() == ["a"]);
    }
}

#[tokio::test]
async fn a_lease_answers_where_a_quorum_does_not() {
    let options = |id| {
        let mut options = options(id);
        // Far longer than the test waits.
        options.core.election_timeout_ticks = 200;
        options.core.lease = Some(1_500_000);
        options
    };
    let cluster = Cluster::with_spare(3, 0, options);
    let leader = &cluster.nodes[0];
    until("it leads", || {
        // Those with leases don't vote within an election timeout of their start.
        leader.handle.campaign();
        let status = leader.handle.status();
        status.role == RoleKind::Leader && status.applied_index == status.last_index
    })
    .await;
    within(leader.handle.lease_read()).await.unwrap();
    cluster.network.isolate(leader.id);
    within(leader.handle.lease_read()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(100), leader.handle.read_index()).await.is_err());
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

/// What a test and its clients tell each other.
#[derive(Default)]
struct Signals {
    stop: AtomicBool,
    acknowledged: AtomicUsize,
}

/// Proposes commands one after the other, none twice, wherever a leader is said to be, until told to stop.
async fn client(name: usize, handles: Vec<Handle<u64>>, signals: Arc<Signals>) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut at = name % handles.len();
    while !signals.stop.load(Ordering::Relaxed) {
        let command = Bytes::from(format!("client {name} command {}", attempts.len()));
        let outcome = within(handles[at].propose(command.clone())).await;
        if let Err(error) = outcome {
            let leader = if let RequestError::NotLeader { leader } = error { leader } else { None };
            at = leader.map_or((at + 1) % handles.len(), |id| id.0 as usize - 1);
            tokio::time::sleep(Duration::from_millis(5)).await;
        } else {
            signals.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        attempts.push(Attempt { command, outcome });
    }
    attempts
}

/// Checks what clients were told against what was applied.
fn check(commands: &[Bytes], attempts: Vec<Attempt>) {
    for Attempt { command, outcome } in attempts {
        let places: Vec<_> = (1..).zip(commands).filter(|(_, applied)| **applied == command).map(|(n, _)| n).collect();
        match outcome {
            Ok(proposed) => assert_eq!(places, [proposed.response], "{command:?} was acknowledged"),
            Err(RequestError::Unknown) => assert!(places.len() <= 1, "{command:?} was applied twice"),
            Err(error) => assert!(places.is_empty(), "{command:?} was applied, and said: {error}"),
        }
    }
}

/// Clients that write while a test does something to the cluster.
struct Load {
    signals: Arc<Signals>,
    clients: Vec<tokio::task::JoinHandle<Vec<Attempt>>>,
}

impl Load {
    fn on(cluster: &Cluster, clients: usize) -> Self {
        let handles: Vec<_> = cluster.nodes.iter().map(|node| node.handle.clone()).collect();
        let signals = Arc::new(Signals::default());
        let client = |name| tokio::spawn(client(name, handles.clone(), Arc::clone(&signals)));
        let clients = (0..clients).map(client).collect();
        Self { signals, clients }
    }

    /// Waits until some more is acknowledged.
    async fn goes_on(&self) {
        let acknowledged = || self.signals.acknowledged.load(Ordering::Relaxed);
        let before = acknowledged();
        until("writes go on", || acknowledged() > before + 20).await;
    }

    /// Stops the clients. Returns what they were told.
    async fn stop(self) -> Vec<Attempt> {
        self.signals.stop.store(true, Ordering::Relaxed);
        let mut attempts = Vec::new();
        for client in self.clients {
            attempts.extend(client.await.unwrap());
        }
        attempts
    }

    /// Stops the clients, and checks that `nodes` agree and that what the clients were told is true.
    async fn end<'a>(self, cluster: &Cluster, nodes: impl Iterator<Item = &'a TestNode> + Clone) {
        self.goes_on().await;
        let attempts = self.stop().await;
        let leader = cluster.leading().await;
        within(leader.handle.propose(command("last"))).await.unwrap();
        let commands = leader.record.commands();
        for node in nodes {
            until("every node has applied the same", || node.record.commands() == commands).await;
        }
        check(&commands, attempts);
    }
}

fn learner(id: u64) -> Change {
    Change::AddLearner { id: NodeId(id), member: Member::default(), promote: true }
}

fn voters(node: &TestNode) -> Vec<u64> {
    node.handle.status().membership.voters.iter().map(|id| id.0).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_grows_to_five_and_shrinks_to_three_under_writes() {
    let cluster = Cluster::with_spare(1, 4, with_snapshots);
    let load = Load::on(&cluster, 8);
    load.goes_on().await;
    cluster.change(vec![learner(2), learner(3)]).await;
    until("three vote", || voters(&cluster.nodes[0]) == [1, 2, 3]).await;
    load.goes_on().await;
    cluster.change(vec![learner(4), learner(5)]).await;
    until("five vote", || voters(&cluster.nodes[4]) == [1, 2, 3, 4, 5]).await;
    load.goes_on().await;
    let changed = cluster.change(vec![Change::Remove(NodeId(1)), Change::Remove(NodeId(2))]).await;
    assert_eq!(changed.membership.voters, [NodeId(3), NodeId(4), NodeId(5)].into());
    assert!(changed.membership.outgoing.is_empty(), "the joint configuration is left when the change is done");
    load.end(&cluster, cluster.nodes[2..].iter()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_replaced_under_writes() {
    let cluster = Cluster::with_spare(3, 1, with_snapshots);
    let load = Load::on(&cluster, 8);
    load.goes_on().await;
    let old = cluster.leading().await.id;
    cluster.change(vec![learner(4)]).await;
    until("it votes", || voters(cluster.node(old)).contains(&4)).await;
    load.goes_on().await;
    // The leader itself goes.
    let changed = cluster.change(vec![Change::Remove(old)]).await;
    assert!(!changed.membership.members.contains_key(&old));
    let rest = cluster.nodes.iter().filter(|node| node.id != old);
    until("another leads", || rest.clone().any(|node| node.handle.status().role == RoleKind::Leader)).await;
    load.end(&cluster, rest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_under_writes() {
    let cluster = Cluster::start(3);
    let load = Load::on(&cluster, 8);
    for _ in 0..6 {
        load.goes_on().await;
        let leader = cluster.leader(None).await;
        let to = cluster.nodes.iter().find(|node| node.id != leader.id).unwrap();
        within(leader.handle.transfer_leadership(to.id)).await.unwrap();
        until("the successor leads", || to.handle.status().role == RoleKind::Leader).await;
    }
    load.end(&cluster, cluster.nodes.iter()).await;
}

#[tokio::test]
async fn leadership_does_not_go_to_those_who_can_not_have_it() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader(None).await;
    for id in [leader.id, NodeId(9)] {
        let refused = within(leader.handle.transfer_leadership(id)).await;
        assert_eq!(refused, Err(RequestError::NoSuccessor(id)));
    }
    let other = cluster.nodes.iter().find(|node| node.id != leader.id).unwrap();
    cluster.network.cut(leader.id, other.id);
    assert_eq!(within(leader.handle.transfer_leadership(other.id)).await, Err(RequestError::TransferTimedOut));
    let refused = within(other.handle.transfer_leadership(leader.id)).await;
    assert!(matches!(refused, Err(RequestError::NotLeader { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_leader_steps_down_when_told() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader(None).await;
    let term = leader.handle.status().term;
    within(leader.handle.step_down()).await.unwrap();
    until("it leads that term no more", || {
        let status = leader.handle.status();
        status.role != RoleKind::Leader || status.term > term
    })
    .await;
    cluster.propose("after", None).await;
}

/// Elections would take seconds.
fn slow_to_elect(id: u64) -> Options {
    let mut options = options(id);
    options.core.election_timeout_ticks = 1000;
    options
}

#[tokio::test]
async fn a_leader_that_stops_hands_over_first() {
    let mut cluster = Cluster::with_spare(3, 0, slow_to_elect);
    cluster.nodes[0].handle.campaign();
    cluster.nodes[0].led().await;
    until("all follow", || cluster.nodes.iter().all(|node| node.handle.status().leader == Some(NodeId(1)))).await;
    let started = Instant::now();
    let stopped = cluster.take(NodeId(1));
    stopped.handle.shutdown();
    assert!(matches!(ended(stopped.running).await, Ended::Shutdown));
    cluster.propose("after", None).await;
    assert!(started.elapsed() < Duration::from_secs(5), "nobody waited for an election timeout");
}

#[tokio::test]
async fn a_leader_that_nobody_can_succeed_stops_all_the_same() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader(None).await.id;
    cluster.network.isolate(leader);
    let stopped = cluster.take(leader);
    stopped.handle.shutdown();
    assert!(matches!(ended(stopped.running).await, Ended::Shutdown));
}

#[tokio::test]
async fn a_follower_far_behind_gets_a_snapshot() {
    let cluster = Cluster::with_spare(3, 0, with_snapshots);
    let leader = cluster.leader(None).await;
    let behind = cluster.nodes.iter().find(|node| node.id != leader.id).unwrap();
    cluster.network.isolate(behind.id);
    let last = behind.log.entries().last().map(|entry| entry.id.index).unwrap();
    while leader.log.compacted() <= last.plus(20) {
        within(leader.propose("a")).await.unwrap().unwrap();
    }
    cluster.network.heal();
    let commands = leader.record.commands();
    until("it catches up", || behind.record.commands() == commands).await;
    assert!(behind.record.snapshots_installed() > 0 && behind.log.compacted() > last);
    cluster.propose("after", None).await;
    until("it follows on", || behind.record.commands().len() == commands.len() + 1).await;
}

#[tokio::test]
async fn a_learner_that_is_not_to_be_promoted_has_no_vote_and_serves_reads() {
    let cluster = Cluster::with_spare(1, 1, with_snapshots);
    let add = Change::AddLearner { id: NodeId(2), member: Member::default(), promote: false };
    cluster.change(vec![add]).await;
    let learner = &cluster.nodes[1];
    let proposed = within(cluster.nodes[0].propose("a")).await.unwrap().unwrap();
    until("it has caught up", || learner.record.commands() == ["a"]).await;
    assert!(within(learner.handle.read_index()).await.unwrap() >= proposed.id.index);
    assert_eq!(voters(learner), [1]);
    cluster.change(vec![Change::Promote(NodeId(2))]).await;
    until("it votes", || voters(learner) == [1, 2]).await;
}

#[tokio::test]
async fn a_change_that_makes_no_sense_says_why() {
    let cluster = Cluster::start(3);
    cluster.propose("a", None).await;
    let leader = cluster.leader(None).await;
    let change = |change| MembershipChange { changes: vec![change], stay_joint: false };
    let refused = within(leader.handle.change_membership(change(Change::Remove(NodeId(9))))).await;
    let error = refused.unwrap_err();
    assert_eq!(error, RequestError::Refused(Refusal::Change(ChangeError::NoMember(NodeId(9)))));
    assert_eq!(error.to_string(), "refused, and nothing was done: n9 is not a member");
    let refused = within(leader.handle.leave_joint()).await;
    assert_eq!(refused, Err(RequestError::Refused(Refusal::Change(ChangeError::NotJoint))));
}

#[tokio::test]
async fn a_configuration_stays_joint_until_told() {
    let cluster = Cluster::with_spare(1, 2, options);
    let leader = &cluster.nodes[0];
    leader.led().await;
    let changes = [2, 3].map(|id| Change::AddVoter(NodeId(id), Member::default())).to_vec();
    let change = MembershipChange { changes, stay_joint: true };
    let entered = within(leader.handle.change_membership(change)).await.unwrap();
    assert_eq!(entered.membership.outgoing, [NodeId(1)].into());
    let left = within(leader.handle.leave_joint()).await.unwrap();
    assert!(left.membership.outgoing.is_empty() && left.membership.voters.len() == 3);
    assert!(left.id.index > entered.id.index);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_are_told_is_true_while_leaders_change() {
    let cluster = Cluster::start(3);
    let load = Load::on(&cluster, 16);
    for _ in 0..4 {
        let leader = cluster.leader(None).await.id;
        cluster.network.isolate(leader);
        cluster.leader(Some(leader)).await;
        cluster.network.heal();
    }
    let attempts = load.stop().await;
    cluster.propose("last", None).await;
    for node in &cluster.nodes {
        until("every node has applied the last", || node.record.commands().last() == Some(&command("last"))).await;
    }

    let commands = cluster.nodes[0].record.commands();
    assert!(cluster.nodes.iter().all(|node| node.record.commands() == commands), "all agree");
    let acknowledged = attempts.iter().filter(|attempt| attempt.outcome.is_ok()).count();
    assert_eq!(commands.len(), acknowledged + 1, "what was acknowledged and the last one, and nothing else");
    check(&commands, attempts);
}
