//! `raftkv.v1.Cluster`: what a node knows of itself and the others.

use std::sync::Arc;

use raft_core::status::Status as NodeStatus;
use raft_core::types::{Member, NodeId};
use raftkv_proto::raftkv::v1 as wire;
use raftkv_proto::raftkv::v1::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use crate::gate::{Gate, Open};

/// The service, over the node behind a gate.
#[derive(Clone, Debug)]
pub struct ClusterService {
    gate: Arc<Gate>,
}

impl ClusterService {
    /// The service of the node behind `gate`.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::StatusReply>, Status> {
        let reply = match self.gate.opened() {
            Some(open) => of_running(&self.gate, open).await,
            None => of_waiting(&self.gate),
        };
        Ok(Response::new(reply))
    }
}

/// What a node says before it has begun.
fn of_waiting(gate: &Gate) -> wire::StatusReply {
    let known = gate.statement().members.into_iter();
    wire::StatusReply {
        node_id: gate.id().0,
        address: gate.address().to_owned(),
        role: "starting".to_owned(),
        members: known
            .map(|(id, Member { address, .. })| wire::MemberStatus { id: id.0, address, ..Default::default() })
            .collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    }
}

async fn of_running(gate: &Gate, open: &Open) -> wire::StatusReply {
    let status = open.store.status();
    let leader = status.leader.map(|id| open.store.leader(id, &status));
    wire::StatusReply {
        node_id: status.id.0,
        address: gate.address().to_owned(),
        cluster_id: open.identity.cluster.0,
        role: status.role.to_string(),
        term: status.term.0,
        leader_id: leader.as_ref().map_or(0, |leader| leader.id.0),
        leader_address: leader.map(|leader| leader.address).unwrap_or_default(),
        commit_index: status.commit_index.0,
        applied_index: status.applied_index.0,
        last_index: status.last_index.0,
        revision: open.store.revision().await,
        members: status.membership.nodes().map(|id| member(open, &status, id)).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn member(open: &Open, status: &NodeStatus, id: NodeId) -> wire::MemberStatus {
    let leads = status.leader == Some(status.id);
    let follower = status.followers.iter().find(|follower| follower.id == id);
    let (match_index, active) = match follower {
        Some(follower) => (follower.match_index.0, follower.active),
        // The leader itself.
        None if leads && id == status.id => (status.durable_index.0, true),
        None => (0, false),
    };
    let voter = status.membership.is_voter(id);
    wire::MemberStatus { id: id.0, address: open.store.address(id, status), voter, match_index, active }
}
