//! Nodes come, go and are replaced while clients write, and the cluster keeps its word.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use raft_core::types::{ClusterId, Identity, Incarnation, Member, NodeId};
use raft_store_sqlite::Contract;
use raft_transport_grpc::Options;
use raft_transport_grpc::handshake::Handshake;
use raftkv_cli::reply::{MemberRole, Progress};
use raftkv_cli::request::{AddMemberRequest, ReplaceMemberRequest, UpdateMemberRequest};
use raftkv_cli::{Client, Error};
use raftkv_proto::raft::v1 as wire;
use raftkv_proto::raft::v1::raft_service_client::RaftServiceClient;
use raftkv_proto::raft::v1::raft_service_server::RaftServiceServer;
use raftkv_server::begin::Lobby;
use raftkv_server::gate::Gate;
use raftkv_server::service::raft::RaftApi;
use support::writers::{Writers, assert_files_agree, assert_files_agree_of, assert_written_once};
use support::{Cluster, direct, eventually, run_to_end};
use tokio::net::TcpListener;
use tonic::transport::Server;

const PATIENCE: Duration = Duration::from_secs(40);

#[tokio::test]
async fn three_nodes_grow_to_five_and_shrink_to_three_under_writes() {
    let mut cluster = Cluster::start(3).await;
    let writers = Writers::start(&cluster, 6).await;
    for voters in [&[1, 2, 3, 4][..], &[1, 2, 3, 4, 5]] {
        writers.have_written(50).await;
        let id = cluster.add(1);
        cluster.node(id).start();
        cluster.voters_are(voters).await;
    }
    writers.have_written(50).await;
    // Those who began the cluster go, its leader among them.
    for (gone, left) in [(2, &[1, 3, 4, 5][..]), (1, &[3, 4, 5])] {
        let reply = cluster.client_at_all(left).remove_member(gone).await.unwrap();
        assert!(reply.changed);
        cluster.voters_are(left).await;
        cluster.node(gone).kill();
        writers.have_written(50).await;
    }
    let acknowledged = writers.stop().await;
    assert_written_once(&cluster, &acknowledged).await;
    assert_files_agree_of(&cluster, &[3, 4, 5]).await;
}

#[tokio::test]
async fn a_leader_that_is_removed_hands_over_and_no_write_is_lost() {
    let cluster = Cluster::start(3).await;
    let writers = Writers::start(&cluster, 4).await;
    writers.have_written(50).await;
    let leader = cluster.leader().await;
    let left: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    cluster.client().remove_member(leader).await.unwrap();
    cluster.leader_among(&left).await;
    cluster.voters_are(&left).await;
    writers.have_written(50).await;
    let acknowledged = writers.stop().await;
    assert_written_once(&cluster, &acknowledged).await;
    assert_files_agree_of(&cluster, &left).await;
}

#[tokio::test]
async fn leadership_moves_on_request_in_less_than_half_a_second() {
    let cluster = Cluster::start(3).await;
    let writers = Writers::start(&cluster, 2).await;
    writers.have_written(20).await;
    let mut times = Vec::new();
    for _ in 0..5 {
        let old = cluster.leader().await;
        let client = cluster.client();
        client.put("before", "1").await.unwrap();
        let asked = Instant::now();
        let reply = client.transfer_leader(None).await.unwrap();
        assert_ne!(reply.leader_id, old);
        client.put("after", "1").await.unwrap();
        times.push(asked.elapsed());
    }
    // Some tens of milliseconds each. The machine may be busy with other tests, so the one in the middle counts.
    times.sort_unstable();
    assert!(times[2] < Duration::from_millis(500), "from the request to the first write: {times:?}");

    let to = cluster.ids().into_iter().find(|id| *id != 1).unwrap();
    for what in ["a transfer to a node by name", "the same, which leads already"] {
        let moves = async || cluster.client().transfer_leader(Some(to)).await.ok().filter(|it| it.leader_id == to);
        eventually(what, PATIENCE, moves).await;
    }
    let refused = cluster.client().transfer_leader(Some(9)).await.unwrap_err();
    assert!(refused.to_string().contains("can't take over"), "{refused}");
    let acknowledged = writers.stop().await;
    assert_written_once(&cluster, &acknowledged).await;
    assert_files_agree(&cluster).await;
}

#[tokio::test]
async fn a_leader_asked_to_stop_hands_over() {
    // The others would miss a leader only after long.
    let mut cluster = Cluster::start_with_flags(3, &["--election-timeout=4s"]).await;
    let leader = cluster.leader().await;
    cluster.settled(&cluster.ids()).await;
    let asked = Instant::now();
    assert_eq!(cluster.node(leader).terminate(), 0);
    let left: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    cluster.leader_among(&left).await;
    assert!(asked.elapsed() < Duration::from_millis(3500), "they waited for an election: {:?}", asked.elapsed());
}

#[tokio::test]
async fn a_node_joins_a_cluster_whose_log_is_compacted() {
    let flags = ["--snapshot-after=50", "--keep-entries=5"];
    let mut cluster = Cluster::start_with_flags(3, &flags).await;
    let writers = Writers::start(&cluster, 4).await;
    writers.have_written(300).await;
    let leader = cluster.leader().await;
    eventually("a compacted log", PATIENCE, async || {
        cluster.status(leader).await.filter(|status| status.first_index > 1)
    })
    .await;
    let id = cluster.add(2);
    flags.iter().for_each(|flag| cluster.node(id).add_flag(flag));
    cluster.node(id).start();
    cluster.voters_are(&[1, 2, 3, 4]).await;
    writers.have_written(100).await;
    let acknowledged = writers.stop().await;
    assert_written_once(&cluster, &acknowledged).await;
    assert_files_agree(&cluster).await;
    let joined = cluster.status(id).await.unwrap();
    assert!(joined.first_index > 1, "it began with a snapshot: {joined:?}");
}

#[tokio::test]
async fn a_wiped_node_is_refused_and_comes_back_with_one_command() {
    let mut cluster = Cluster::start(3).await;
    let writers = Writers::start(&cluster, 4).await;
    writers.have_written(50).await;
    let wiped = 3;
    cluster.node(wiped).kill();
    cluster.node(wiped).wipe();
    cluster.node(wiped).start();
    let command = format!("member replace {wiped} --address {}", cluster.place(wiped).address);
    cluster.place(wiped).says(&command).await;
    assert!(cluster.node(wiped).is_running(), "it waits");
    let status = cluster.status(wiped).await.unwrap();
    assert_eq!(status.role, "starting");
    assert!(status.waits_for[0].contains(&command), "{:?}", status.waits_for);
    writers.have_written(50).await;

    replace(&cluster.client(), wiped).await.unwrap();
    cluster.voters_are(&[1, 2, 3]).await;
    writers.have_written(50).await;
    let acknowledged = writers.stop().await;
    assert_written_once(&cluster, &acknowledged).await;
    assert_files_agree(&cluster).await;
}

/// As `raftkv-cli member replace` does.
async fn replace(client: &Client, id: u64) -> Result<bool, Error> {
    let members = client.members().await?.members;
    let incarnation = members.iter().find(|member| member.id == id).map_or(0, |member| member.incarnation);
    let request = ReplaceMemberRequest { id, incarnation, ..Default::default() };
    client.replace_member(request).await.map(|reply| reply.changed)
}

#[tokio::test]
async fn a_member_is_replaced_by_another_one_under_writes() {
    let mut cluster = Cluster::start(3).await;
    let writers = Writers::start(&cluster, 4).await;
    writers.have_written(50).await;
    cluster.node(2).kill();
    let id = cluster.add(1);
    cluster.node(id).start();
    cluster.client_at_all(&[1, 3]).remove_member(2).await.unwrap();
    cluster.voters_are(&[1, 3, 4]).await;
    writers.have_written(50).await;
    let acknowledged = writers.stop().await;
    assert_written_once(&cluster, &acknowledged).await;
    assert_files_agree_of(&cluster, &[1, 3, 4]).await;
}

#[tokio::test]
async fn a_node_that_is_alive_is_not_replaced_unless_forced() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    cluster.settled(&cluster.ids()).await;
    let refused = replace(&cluster.client(), follower).await.unwrap_err();
    assert!(refused.to_string().contains("nothing to replace"), "{refused}");
    let refused = replace(&cluster.client(), leader).await.unwrap_err();
    assert!(refused.to_string().contains("leads"), "{refused}");
    let forced = ReplaceMemberRequest { id: follower, force: true, ..Default::default() };
    assert!(cluster.client().replace_member(forced).await.unwrap().changed);
    cluster.voters_are(&[1, 2, 3]).await;
    cluster.client().put("x", "1").await.unwrap();
    assert_files_agree(&cluster).await;
}

#[tokio::test]
async fn a_change_that_would_leave_no_majority_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.settled(&cluster.ids()).await;
    let [alive, dead] = cluster.ids().into_iter().filter(|id| *id != leader).collect::<Vec<_>>()[..] else { panic!() };
    cluster.node(dead).kill();
    eventually("the leader's notice", PATIENCE, async || {
        let members = cluster.client_at(leader).members().await.ok()?.members;
        members.iter().any(|member| member.id == dead && !member.active).then_some(())
    })
    .await;
    let client = cluster.client();
    for refused in [client.remove_member(alive).await, client.demote_member(alive).await] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, Error::Failed(_)), "{refused}");
        assert!(refused.to_string().contains(&format!("bring back node {dead} first")), "{refused}");
    }
    client.remove_member(dead).await.unwrap();
    client.put("x", "1").await.unwrap();
}

#[tokio::test]
async fn a_node_that_the_cluster_does_not_know_waits_until_it_is_added() {
    let mut cluster = Cluster::start(1).await;
    let id = cluster.add_stranger(1);
    cluster.node(id).start();
    let address = cluster.place(id).address.clone();
    cluster.place(id).says(&format!("member add {id} {address}")).await;
    assert!(cluster.node(id).is_running(), "it waits");
    let request = AddMemberRequest { id, address, ..Default::default() };
    assert!(cluster.client_at(1).add_member(request).await.unwrap().changed);
    cluster.voters_are(&[1, id]).await;
    assert_files_agree(&cluster).await;
}

#[tokio::test]
async fn a_learner_stays_one_until_it_is_promoted() {
    let mut cluster = Cluster::start(1).await;
    let id = cluster.add(1);
    cluster.node(id).add_flag("--learner");
    cluster.node(id).start();
    let role = async |client: &Client| {
        let members = client.members().await.ok()?.members;
        members.iter().find(|member| member.id == id).map(|member| (member.role(), member.progress(), member.lag))
    };
    let client = cluster.client_at(1);
    client.put("x", "1").await.unwrap();
    let learns = async || role(&client).await.filter(|it| *it == (MemberRole::Learner, Progress::Replicate, 0));
    eventually("the learner to catch up", PATIENCE, learns).await;
    assert_eq!(cluster.client_at(id).get("x").await.unwrap().entry.unwrap().value, "1", "a learner may be asked");

    assert!(client.promote_member(id).await.unwrap().changed);
    assert!(!client.promote_member(id).await.unwrap().changed, "it is a voter already");
    cluster.voters_are(&[1, id]).await;
    assert!(client.demote_member(id).await.unwrap().changed);
    assert!(!client.demote_member(id).await.unwrap().changed);
    assert!(client.remove_member(id).await.unwrap().changed);
    assert!(!client.remove_member(id).await.unwrap().changed, "it is gone already");
    let last = client.remove_member(1).await.unwrap_err();
    assert!(last.to_string().contains("at least one voter"), "{last}");
    client.put("x", "2").await.unwrap();
}

#[tokio::test]
async fn a_node_that_has_joined_starts_again_with_the_same_flags() {
    let mut cluster = Cluster::start(1).await;
    let id = cluster.add(1);
    cluster.node(id).start();
    cluster.voters_are(&[1, 2]).await;
    assert_eq!(cluster.node(id).terminate(), 0);
    cluster.node(id).start();
    cluster.leader().await;
    cluster.client_at(id).put("x", "1").await.unwrap();
    assert_eq!(cluster.status(id).await.unwrap().node_id, 2, "its files know its id");
    assert_files_agree(&cluster).await;
}

#[tokio::test]
async fn nodes_that_join_at_the_same_time_get_ids_of_their_own() {
    let mut cluster = Cluster::start(1).await;
    let joining: Vec<u64> = (0..3).map(|_| cluster.add(1)).collect();
    joining.iter().for_each(|id| cluster.node(*id).start());
    let client = cluster.client_at(1);
    let members = eventually("all to be voters", PATIENCE, async || {
        let members = client.members().await.ok()?.members;
        (members.len() == 4 && members.iter().all(|it| it.role() == MemberRole::Voter)).then_some(members)
    })
    .await;
    let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
    client.put("x", "1").await.unwrap();
}

#[tokio::test]
async fn a_node_that_joins_waits_for_the_cluster_and_says_so() {
    let mut cluster = Cluster::new(1);
    let id = cluster.add(1);
    cluster.node(id).start();
    cluster.place(id).says("waiting to join: no endpoint reachable").await;
    cluster.node(1).start();
    cluster.voters_are(&[1, 2]).await;
}

#[tokio::test]
async fn additions_that_cannot_be_right_are_refused() {
    let cluster = Cluster::start(2).await;
    let other = Cluster::start(1).await;
    cluster.settled(&[1, 2]).await;
    let client = cluster.client();
    let (own, strange) = (cluster.place(2).address.clone(), other.place(1).address.clone());
    for (id, address, incarnation, expected) in [
        (3, "localhost:1", 0, "no node answers at localhost:1"),
        (3, "localhost", 0, "host:port"),
        (0, "localhost:1", 0, "a node's id is from 1"),
        (3, &own, 0, "is node 2, not 3"),
        (1, &strange, 0, "belongs to another cluster"),
        (2, &own, 7, "another data directory than expected"),
    ] {
        let request = AddMemberRequest { id, address: address.to_owned(), incarnation, ..Default::default() };
        let error = client.add_member(request).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let again = AddMemberRequest { id: 2, address: own, ..Default::default() };
    assert!(!client.add_member(again).await.unwrap().changed, "it is a member just so");
    let update = |priority| UpdateMemberRequest { id: 2, address: None, priority: Some(priority) };
    assert!(client.update_member(update(3)).await.unwrap().changed);
    assert!(!client.update_member(update(3)).await.unwrap().changed);
    assert_eq!(client.members().await.unwrap().members[1].priority, 3);
}

/// A node that waits at an address of this process, and that states another contract than the servers'.
async fn node_with(contract: Contract) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let member = Member { address: address.clone(), incarnation: Incarnation(7), ..Member::default() };
    let gate = Arc::new(Gate::new(NodeId(2), address.clone(), Lobby::new(NodeId(2), member, &[], contract)));
    let service = RaftServiceServer::new(RaftApi::new(gate));
    let serving = Server::builder().add_service(service).serve_with_incoming(Options::incoming(listener));
    tokio::spawn(serving);
    address
}

#[tokio::test]
async fn a_node_that_would_apply_commands_otherwise_is_not_added() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    let ours = Contract::of_this_program().unwrap();
    let equals = Cluster::start(2).await;
    equals.settled(&[1, 2]).await;
    let other = Contract::from(format!("{ours} option=ENABLE_ICU").replace("rules=", "rules=1000").as_str());
    for (contract, expected) in [
        (other, "only there: option=ENABLE_ICU, rules=1000"),
        (Contract::default(), "does not state how it applies commands"),
    ] {
        let request = AddMemberRequest { id: 2, address: node_with(contract).await, ..Default::default() };
        let error = client.add_member(request).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let request = AddMemberRequest {
        id: 2,
        address: node_with(ours).await,
        role: MemberRole::Learner.into(),
        ..Default::default()
    };
    let reply = client.add_member(request).await.unwrap();
    assert!(reply.changed, "an equal one passes");

    // A member that has another version since is not turned away, but told of.
    let from = Identity { cluster: ClusterId(reply.cluster_id), node: NodeId(2), incarnation: Incarnation(7) };
    let this = wire::Member { id: 2, incarnation: 7, ..Default::default() };
    let caller = wire::IdentifyReply { self_: Some(this), contract: "rules=0".to_owned(), ..Default::default() };
    let request = wire::IdentifyRequest { caller: Some(caller) };
    let mut peer = RaftServiceClient::new(direct(&cluster, 1).await);
    peer.identify(Handshake::new(from, NodeId(1)).stamp(request)).await.unwrap();
    cluster.place(1).says("node 2 would apply commands otherwise").await;
    for id in [1, 2] {
        let said = equals.place(id).log_text();
        assert!(
            !said.contains("applies commands") && !said.contains("apply commands"),
            "equals are not told of: {said}"
        );
    }
}

#[tokio::test]
async fn a_member_that_runs_twice_is_told() {
    let mut cluster = Cluster::start(3).await;
    assert_eq!(cluster.node(3).terminate(), 0);
    let copy = cluster.add_stranger(1);
    let files = cluster.place(3).data_dir().to_owned();
    cluster.node(copy).become_copy_of(&files, 3);
    cluster.node(3).start();
    cluster.settled(&[1, 2, 3]).await;
    cluster.node(copy).start();
    eventually("the warning", PATIENCE, async || {
        [1, 2].into_iter().any(|id| cluster.place(id).log_text().contains("node 3 runs twice")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_began_alone_by_mistake_does_not_end_the_others() {
    let mut cluster = Cluster::new(3);
    cluster.node(2).start_without_peers();
    cluster.leader_among(&[2]).await;
    assert!(cluster.place(2).log_text().contains("WARN"), "it says what it does");
    [1, 3].into_iter().for_each(|id| cluster.node(id).start());
    for id in [1, 3] {
        cluster.place(id).says("if it was begun by mistake").await;
        assert!(cluster.node(id).is_running());
    }
    cluster.node(2).kill();
    cluster.node(2).wipe();
    cluster.node(2).start();
    cluster.voters_are(&[1, 2, 3]).await;
}

#[test]
fn a_node_that_joins_refuses_flags_that_contradict() {
    let both = run_to_end(&["--id=1", "--join=localhost:1", "--peers=localhost:2"]);
    assert_eq!(both.status.code(), Some(2), "{both:?}");
}

#[tokio::test]
async fn a_node_that_was_removed_finds_out_and_says_so() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let removed = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    // It can't hear of its removal.
    cluster.node(removed).pause();
    cluster.client_at(leader).remove_member(removed).await.unwrap();
    cluster.node(removed).resume();
    cluster.node(removed).says("it was removed from the cluster, as node").await;
    let alarms = cluster.status(removed).await.unwrap().alarms;
    assert!(alarms.iter().any(|alarm| alarm.contains("--join")), "{alarms:?}");
    for id in cluster.ids().into_iter().filter(|id| *id != removed) {
        assert_eq!(cluster.status(id).await.unwrap().alarms, Vec::<String>::new(), "node {id}");
    }
}

#[tokio::test]
async fn a_node_that_has_lost_its_majority_is_not_called_removed() {
    let mut cluster = Cluster::start(3).await;
    let (alone, others) = (3, [1, 2]);
    others.into_iter().for_each(|id| cluster.node(id).pause());
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(cluster.status(alone).await.unwrap().alarms, Vec::<String>::new());
    others.into_iter().for_each(|id| cluster.node(id).resume());
    cluster.leader().await;
}
