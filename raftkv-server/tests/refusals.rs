//! Bad input is answered, not logged and dropped: each gets a sentence that says what was wrong and what to do.

mod support;

use std::net::TcpListener;
use std::time::Duration;

use prost::Message;
use raft_core::types::{ClusterId, Identity, Incarnation, NodeId};
use raft_transport_grpc::handshake::Handshake;
use raftkv_cli::{Error, Statement};
use raftkv_proto::raft::v1 as wire;
use raftkv_proto::raft::v1::Outcome;
use raftkv_proto::raft::v1::raft_service_client::RaftServiceClient;
use raftkv_proto::raftkv::v1::kv_client::KvClient;
use raftkv_proto::raftkv::v1::{ErrorDetail, PutRequest, Reason, Session};
use support::{Cluster, direct, eventually, free_ports, now_ms, run_to_end, server};
use tonic::Code;

/// Runs the server, which must end by itself, and returns its exit code and what it said.
fn refused(arguments: &[&str]) -> (i32, String) {
    let output = run_to_end(arguments);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().expect("it ends by itself"), said)
}

#[track_caller]
fn assert_refused(arguments: &[&str], code: i32, expected: &[&str]) {
    let (actual, said) = refused(arguments);
    assert_eq!(actual, code, "{arguments:?}: {said}");
    for text in expected {
        assert!(said.contains(text), "{arguments:?} should say {text:?}: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_would_do() {
    let folder = tempfile::tempdir().unwrap();
    let data = format!("--data-dir={}", folder.path().display());
    assert_refused(&[&data], 2, &["--id"]);
    assert_refused(&["--id=0", &data], 2, &["--id"]);
    assert_refused(&["--id=one", &data], 2, &["--id"]);
    assert_refused(&["--id=1", "--port=99999", &data], 2, &["--port"]);
    assert_refused(&["--id=1", "--peers=localhost", &data], 2, &["host:port"]);
    assert_refused(&["--id=1", "--peers=1=localhost:1", &data], 2, &["this node's own id"]);
    assert_refused(&["--id=1", "--peers=localhost:1,localhost:1", &data], 2, &["localhost:1 twice"]);
    assert_refused(&["--id=1", "--heartbeat=1s", &data], 2, &["--election-timeout"]);
    assert_refused(&["--id=1", "--prot=1", &data], 2, &["--port"]);
    assert_refused(&["--id=1", "--log=verbose", &data], 2, &["`verbose` is no level"]);
    assert_refused(&["--id=1", "--snapshot-after=0", &data], 2, &["--snapshot-after"]);
    assert_refused(&["--port=1", &data], 2, &["--id"]);
}

#[test]
fn an_empty_variable_counts_as_not_given() {
    let mut command = server();
    command.env("RAFTKV_ID", "1").env("RAFTKV_PEERS", "").env("RAFTKV_HEARTBEAT", "").env("RAFTKV_LISTEN", "");
    let output = command.arg("--election-timeout=99ms").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--heartbeat 50ms"), "all else is well, and the default too long: {said}");
}

#[test]
fn a_busy_port_ends_with_1_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = format!("--data-dir={}", folder.path().display());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let (code, said) = refused(&["--id=1", &format!("--port={port}"), &data]);
    assert_eq!(code, 1);
    assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("--port"), "{said}");
    assert_eq!(said.matches("Address already in use").count(), 1, "{said}");
}

#[test]
fn an_address_of_another_machine_ends_with_1_and_says_what_to_give() {
    let folder = tempfile::tempdir().unwrap();
    let data = format!("--data-dir={}", folder.path().display());
    // Reserved for documentation, so no machine has it.
    let expected = ["192.0.2.1", "an IP address of this machine", "--advertise"];
    assert_refused(&["--id=1", "--listen=192.0.2.1", &data], 1, &expected);
}

#[test]
fn a_folder_that_cannot_be_used_ends_with_1_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let inside = file.join("data").display().to_string();
    let port = format!("--port={}", free_ports(1)[0]);
    let file = file.display().to_string();
    assert_refused(&["--id=1", &port, &format!("--data-dir={file}")], 1, &[&file, "it is a file, not a folder"]);
    assert_refused(&["--id=1", &port, &format!("--data-dir={inside}")], 1, &[&inside, "give a folder"]);
}

#[test]
fn a_health_check_of_nobody_fails() {
    let port = format!("--port={}", free_ports(1)[0]);
    assert_refused(&["health", &port], 1, &["no node listens"]);
}

#[tokio::test]
async fn a_folder_of_another_node_or_in_use_is_refused() {
    let mut cluster = Cluster::start(1).await;
    let data = format!("--data-dir={}", cluster.place(1).data_dir().display());
    let port = format!("--port={}", free_ports(1)[0]);
    assert_refused(&["--id=1", &port, &data], 1, &["in use by another process"]);
    assert_eq!(cluster.node(1).terminate(), 0);
    assert_refused(&["--id=2", &port, &data], 1, &["belongs to node n1"]);
}

#[tokio::test]
async fn a_node_that_has_the_id_of_the_node_it_asks_ends() {
    let cluster = Cluster::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let data = format!("--data-dir={}", folder.path().display());
    let port = format!("--port={}", free_ports(1)[0]);
    let peers = format!("--peers={}", cluster.place(1).address);
    assert_refused(&["--id=1", &port, &peers, &data], 1, &["its own --id"]);
}

#[tokio::test]
async fn a_node_whose_id_another_waiting_node_has_ends() {
    let ports = free_ports(2);
    let folder = tempfile::tempdir().unwrap();
    // The first names a peer that never comes, so it goes on waiting.
    let first = Cluster::of_one_waiting_for(ports[0]);
    let data = format!("--data-dir={}", folder.path().display());
    let (port, peers) = (format!("--port={}", ports[1]), format!("--peers={}", first.place(1).address));
    assert_refused(&["--id=1", &port, &peers, &data], 1, &["give each node its own --id"]);
}

#[tokio::test]
async fn flags_that_contradict_the_stored_membership_are_reported_and_not_obeyed() {
    let mut cluster = Cluster::start(3).await;
    assert_eq!(cluster.node(2).terminate(), 0);
    let others = [cluster.place(1).address.clone(), cluster.place(3).address.clone()];
    cluster.node(2).start_with(&format!("--peers=1={},7={}", others[0], others[1]));
    let said = "not a member: the stored membership rules";
    let node = cluster.place(2);
    eventually("the report", Duration::from_secs(10), async || node.log_text().contains(said).then_some(())).await;
    cluster.settled(&[1, 2, 3]).await;
}

#[tokio::test]
async fn flags_that_name_addresses_of_nobody_are_reported_as_well() {
    let mut cluster = Cluster::start(3).await;
    assert_eq!(cluster.node(2).terminate(), 0);
    let nobody = free_ports(1)[0];
    cluster.node(2).start_with(&format!("--peers=localhost:{nobody}"));
    let said = format!("--peers names localhost:{nobody}, where no member is recorded: the stored membership rules");
    let node = cluster.place(2);
    eventually("the report", Duration::from_secs(10), async || node.log_text().contains(&said).then_some(())).await;
    cluster.settled(&[1, 2, 3]).await;
}

#[tokio::test]
async fn a_node_that_has_not_begun_is_not_healthy() {
    let port = free_ports(1)[0];
    let cluster = Cluster::of_one_waiting_for(port);
    let begins = async || cluster.status(1).await.filter(|status| status.role == "starting");
    eventually("the node to listen", Duration::from_secs(10), begins).await;
    let (_, port) = cluster.place(1).address.rsplit_once(':').unwrap();
    let health = run_to_end(&["health", &format!("--port={port}")]);
    assert_eq!(health.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&health.stderr).contains("it has not begun"), "{health:?}");
}

#[tokio::test]
async fn a_node_that_waits_says_for_whom_and_what_it_is() {
    let mut cluster = Cluster::new(3);
    cluster.node(1).start();
    let missing = [cluster.place(2).address.clone(), cluster.place(3).address.clone()];
    let node = cluster.place(1);
    eventually("the report", Duration::from_secs(10), async || {
        let log = node.log_text();
        missing.iter().all(|peer| log.contains(&format!("waiting to begin: {peer} does not answer"))).then_some(())
    })
    .await;
    assert_eq!(cluster.status(1).await.unwrap().role, "starting");
    let mut raft = RaftServiceClient::new(direct(&cluster, 1).await);
    let request = wire::SubmitCommandRequest { command: "set x=1".to_owned(), ..Default::default() };
    let reply = raft.submit_command(request).await.unwrap().into_inner();
    assert_eq!(reply.outcome(), Outcome::NoLeader);
    assert_eq!(cluster.node(1).terminate(), 0, "waiting can be stopped");
}

#[tokio::test]
async fn commands_that_cannot_be_run_are_answered() {
    let cluster = Cluster::start(1).await;
    let mut raft = RaftServiceClient::new(direct(&cluster, 1).await);
    let large = format!("set x={}", "v".repeat((1 << 20) + 1));
    for (command, outcome, expected) in [
        ("frobnicate", Outcome::Invalid, "unknown command `frobnicate`"),
        ("", Outcome::Invalid, "empty"),
        ("set x", Outcome::Invalid, "set KEY=VALUE"),
        (&large, Outcome::Invalid, "1048576"),
        ("SELEC", Outcome::Invalid, "unknown command"),
        ("SELECT FROM", Outcome::Invalid, "syntax error"),
        ("INSERT INTO", Outcome::Invalid, "incomplete input"),
        ("SELECT * FROM missing", Outcome::Failed, "no such table: missing"),
        ("INSERT INTO missing VALUES (1)", Outcome::Failed, "no such table: missing"),
        ("ATTACH 'x' AS y", Outcome::Invalid, "not allowed"),
        ("BEGIN", Outcome::Invalid, "not allowed"),
        ("get missing", Outcome::NotFound, ""),
    ] {
        let request = wire::SubmitCommandRequest { command: command.to_owned(), ..Default::default() };
        let reply = raft.submit_command(request).await.unwrap().into_inner();
        let shown: String = command.chars().take(40).collect();
        assert_eq!(reply.outcome(), outcome, "{shown}: {}", reply.error);
        assert_eq!(reply.success, outcome == Outcome::NotFound, "{shown}");
        assert!(reply.error.contains(expected), "{shown}: {}", reply.error);
        assert_eq!(reply.node_id, 1);
    }
}

#[tokio::test]
async fn a_session_begins_near_the_time_of_the_cluster_and_not_elsewhere() {
    let cluster = Cluster::start(1).await;
    let mut kv = KvClient::new(direct(&cluster, 1).await);
    let session = |opened_ms| Session { client_id: "a client".into(), sequence: 1, answered: 0, opened_ms };
    let request = |opened_ms| PutRequest {
        key: "x".into(),
        value: "1".into(),
        session: Some(session(opened_ms)),
        ..Default::default()
    };

    let status = kv.put(request(0)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let hour_ms = 60 * 60 * 1000;
    for opened_ms in [1, now_ms() - hour_ms, now_ms() + hour_ms] {
        let status = kv.put(request(opened_ms)).await.unwrap_err();
        let detail = ErrorDetail::decode(status.details()).unwrap();
        assert_eq!((status.code(), detail.reason()), (Code::Aborted, Reason::SessionExpired), "{status}");
        assert!(now_ms().abs_diff(detail.log_time_ms) < 60_000, "{detail:?}");
    }
    let mut raft = RaftServiceClient::new(direct(&cluster, 1).await);
    let command = wire::SubmitCommandRequest {
        command: "set x=1".into(),
        client_id: "me".into(),
        sequence: 1,
        ..Default::default()
    };
    let old = wire::SubmitCommandRequest { opened_ms: 1, ..command.clone() };
    let reply = raft.submit_command(old).await.unwrap().into_inner();
    assert_eq!((reply.success, reply.outcome()), (false, Outcome::SessionExpired), "{}", reply.error);
    assert!(cluster.client().get("x").await.unwrap().entry.is_none(), "nothing was applied");

    // What it says helps, whatever the client's own clock does.
    let new = wire::SubmitCommandRequest { opened_ms: reply.log_time_ms, ..command };
    assert!(raft.submit_command(new).await.unwrap().into_inner().success);
    assert!(kv.put(request(reply.log_time_ms)).await.unwrap().into_inner().replaced);
}

#[tokio::test]
async fn requests_that_cannot_be_run_are_errors_with_a_reason() {
    let cluster = Cluster::start(1).await;
    let mut kv = KvClient::new(direct(&cluster, 1).await);
    for (key, value) in [("", "v".to_owned()), ("x", "v".repeat((1 << 20) + 1))] {
        let request = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        let status = kv.put(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(ErrorDetail::decode(status.details()).unwrap().reason(), Reason::Invalid);
    }
    let client = cluster.client();
    client.sql(["CREATE TABLE t (a INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (1)"]).await.unwrap();
    let twice = ["INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (1)"];
    assert!(matches!(client.sql(twice).await, Err(Error::Failed(_))));
    assert_eq!(client.submit("SELECT a FROM t").await.unwrap().result, "a\n1", "a failed command changes nothing");
    let unbound = [Statement::new("INSERT INTO t VALUES (?)")];
    assert!(matches!(client.sql(unbound).await, Err(Error::Failed(_) | Error::Invalid(_))));

    // What is quoted of a statement must leave the error small enough for its way.
    let long = format!("INSERT INTO t VALUES ({})", "ä".repeat(100_000));
    assert!(
        matches!(client.sql([long.as_str()]).await, Err(Error::Failed(message)) if message.contains("no such column: äää"))
    );
}

#[tokio::test]
async fn followers_read_and_name_the_leader_for_writes_and_survivors_without_a_majority_name_none() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    // A follower knows the leader once it has heard of it.
    cluster.settled(&cluster.ids()).await;
    let address = cluster.place(leader).address.clone();
    let followers: Vec<_> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    for id in &followers {
        let mut raft = RaftServiceClient::new(direct(&cluster, *id).await);
        for command in ["get x", "SELECT 1"] {
            let request = wire::SubmitCommandRequest { command: command.to_owned(), ..Default::default() };
            let reply = raft.submit_command(request).await.unwrap().into_inner();
            assert_eq!((reply.success, reply.node_id), (true, *id), "{command}: {}", reply.error);
        }
        for command in ["set x=1", "CREATE TABLE t (a)"] {
            let request = wire::SubmitCommandRequest { command: command.to_owned(), ..Default::default() };
            let reply = raft.submit_command(request).await.unwrap().into_inner();
            assert_eq!((reply.success, reply.outcome()), (false, Outcome::NotLeader), "{command}: {}", reply.error);
            assert_eq!((reply.leader_id, &reply.leader_address), (leader, &address));
        }
    }
    cluster.node(leader).kill();
    cluster.node(followers[0]).kill();
    let mut raft = RaftServiceClient::new(direct(&cluster, followers[1]).await);
    let reply = eventually("the loss of the leader", Duration::from_secs(10), async || {
        let request = wire::SubmitCommandRequest { command: "get x".to_owned(), ..Default::default() };
        let reply = raft.submit_command(request).await.unwrap().into_inner();
        (reply.outcome() != Outcome::NotLeader).then_some(reply)
    })
    .await;
    assert_eq!((reply.outcome(), reply.leader_id), (Outcome::NoLeader, 0));
}

#[tokio::test]
async fn nodes_that_do_not_fit_are_refused_and_the_refusal_is_logged() {
    let cluster = Cluster::start(1).await;
    let channel = direct(&cluster, 1).await;
    let status = cluster.status(1).await.unwrap();
    let stranger = Identity { cluster: ClusterId(status.cluster_id), node: NodeId(2), incarnation: Incarnation(5) };
    let foreign = Identity { cluster: ClusterId(1), ..stranger };
    let newer = Handshake { protocol: 9, ..Handshake::new(stranger, NodeId(1)) };
    for (handshake, expected) in [
        (newer, "speaks protocol 9"),
        (Handshake::new(foreign, NodeId(1)), "belongs to cluster"),
        (Handshake::new(stranger, NodeId(3)), "looks for n3"),
    ] {
        let mut raft = RaftServiceClient::new(channel.clone());
        let vote = raft.request_vote(handshake.stamp(wire::RequestVoteRequest::default())).await.unwrap_err();
        assert_eq!(vote.code(), Code::FailedPrecondition);
        assert!(vote.message().contains(expected), "{}", vote.message());
        assert!(cluster.place(1).log_text().contains(expected), "both sides say it");
    }
    let bare = RaftServiceClient::new(channel).request_vote(wire::RequestVoteRequest::default()).await.unwrap_err();
    assert_eq!(bare.code(), Code::FailedPrecondition, "only nodes make this call");
}

#[tokio::test]
async fn a_vote_for_an_id_that_cannot_be_stored_stops_nobody() {
    let mut cluster = Cluster::start(3).await;
    let status = cluster.status(3).await.unwrap();
    [1, 2].into_iter().for_each(|id| cluster.node(id).kill());
    let (cluster_id, incarnation) = (ClusterId(status.cluster_id), Incarnation(5));
    let stranger = Identity { cluster: cluster_id, node: NodeId(u64::MAX), incarnation };
    let mut raft = RaftServiceClient::new(direct(&cluster, 3).await);
    eventually("the loss of the leader", Duration::from_secs(10), async || {
        (cluster.status(3).await.unwrap().leader_id == 0).then_some(())
    })
    .await;
    let last = Some(wire::EntryId { index: 1000, term: 1000 });
    let request = wire::RequestVoteRequest { term: 1000, last, pre_vote: false, transfer: false };
    let vote = raft.request_vote(Handshake::new(stranger, NodeId(3)).stamp(request)).await;
    assert!(vote.is_err(), "{vote:?}");
    assert_eq!(cluster.status(3).await.unwrap().term, status.term, "it has changed nothing");
}

#[tokio::test]
async fn health_follows_the_leader() {
    let mut cluster = Cluster::start(2).await;
    let (_, port) = cluster.place(1).address.rsplit_once(':').unwrap();
    let port = format!("--port={port}");
    let health = || run_to_end(&["health", &port]).status.code();
    assert_eq!(health(), Some(0));
    cluster.node(2).kill();
    eventually("the loss of the leader", Duration::from_secs(10), async || (health() == Some(1)).then_some(())).await;
}
