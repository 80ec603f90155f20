//! `raftkv.v1.Cluster`: what a node knows of itself and the others, and who belongs to the cluster.

use std::sync::Arc;

use raft_core::membership::Membership;
use raft_core::status::{ProgressKind, Status as NodeStatus};
use raft_core::types::{Incarnation, Member, NodeId};
use raftkv_proto::raftkv::v1 as wire;
use raftkv_proto::raftkv::v1::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use super::running;
use crate::admin::{Addition, IsChanged, Place, Replacement};
use crate::gate::{Gate, Open};
use crate::store::Failure;

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

    async fn list_members(
        &self,
        _: Request<wire::ListMembersRequest>,
    ) -> Result<Response<wire::ListMembersReply>, Status> {
        let open = running(&self.gate)?;
        let status = open.admin.status().await?;
        Ok(Response::new(wire::ListMembersReply {
            node_id: status.id.0,
            cluster_id: open.identity.cluster.0,
            members: members(open, &status),
        }))
    }

    async fn add_member(
        &self,
        request: Request<wire::AddMemberRequest>,
    ) -> Result<Response<wire::MembershipReply>, Status> {
        let request = request.into_inner();
        let place = match request.role() {
            wire::MemberRole::Voter => Place::Voter,
            wire::MemberRole::Learner => Place::Learner { promote: false },
            wire::MemberRole::Promotable | wire::MemberRole::Unspecified => Place::Learner { promote: true },
            wire::MemberRole::Outgoing => {
                return Err(Failure::Invalid("a node is added as a voter or as a learner".to_owned()).into());
            }
        };
        let wire::AddMemberRequest { id, address, incarnation, .. } = request;
        let addition = Addition { id: NodeId(id), address, incarnation: Incarnation(incarnation), place };
        let open = running(&self.gate)?;
        changed(open, open.admin.add(addition).await)
    }

    async fn promote_member(
        &self,
        request: Request<wire::PromoteMemberRequest>,
    ) -> Result<Response<wire::MembershipReply>, Status> {
        let open = running(&self.gate)?;
        changed(open, open.admin.promote(NodeId(request.into_inner().id)).await)
    }

    async fn demote_member(
        &self,
        request: Request<wire::DemoteMemberRequest>,
    ) -> Result<Response<wire::MembershipReply>, Status> {
        let open = running(&self.gate)?;
        changed(open, open.admin.demote(NodeId(request.into_inner().id)).await)
    }

    async fn remove_member(
        &self,
        request: Request<wire::RemoveMemberRequest>,
    ) -> Result<Response<wire::MembershipReply>, Status> {
        let open = running(&self.gate)?;
        changed(open, open.admin.remove(NodeId(request.into_inner().id)).await)
    }

    async fn update_member(
        &self,
        request: Request<wire::UpdateMemberRequest>,
    ) -> Result<Response<wire::MembershipReply>, Status> {
        let wire::UpdateMemberRequest { id, address, priority } = request.into_inner();
        let open = running(&self.gate)?;
        changed(open, open.admin.update(NodeId(id), address, priority).await)
    }

    async fn replace_member(
        &self,
        request: Request<wire::ReplaceMemberRequest>,
    ) -> Result<Response<wire::MembershipReply>, Status> {
        let wire::ReplaceMemberRequest { id, address, incarnation, force } = request.into_inner();
        let replacement = Replacement { id: NodeId(id), address, old: Incarnation(incarnation), force };
        let open = running(&self.gate)?;
        changed(open, open.admin.replace(replacement).await)
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferLeaderRequest>,
    ) -> Result<Response<wire::TransferLeaderReply>, Status> {
        let to = Some(NodeId(request.into_inner().to)).filter(|id| *id != NodeId::NONE);
        let (leader, status) = running(&self.gate)?.admin.transfer(to).await?;
        Ok(Response::new(wire::TransferLeaderReply {
            node_id: status.id.0,
            leader_id: leader.id.0,
            leader_address: leader.address,
            term: status.term.0,
        }))
    }
}

/// The membership after a change.
fn changed(open: &Open, changed: Result<IsChanged, Failure>) -> Result<Response<wire::MembershipReply>, Status> {
    let changed = changed?;
    let status = open.store.status();
    Ok(Response::new(wire::MembershipReply {
        node_id: status.id.0,
        cluster_id: open.identity.cluster.0,
        members: members(open, &status),
        changed,
    }))
}

/// What a node says before it has begun.
fn of_waiting(gate: &Gate) -> wire::StatusReply {
    let statement = gate.statement();
    let known = statement.members.into_iter();
    wire::StatusReply {
        node_id: gate.id().0,
        address: gate.address().to_owned(),
        role: "starting".to_owned(),
        members: known
            .map(|(id, Member { address, .. })| wire::MemberStatus { id: id.0, address, ..Default::default() })
            .collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        waits_for: gate.lobby().waits_for(),
        incarnation: statement.member.incarnation.0,
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
        members: members(open, &status),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        snapshot_index: status.snapshot_index.0,
        first_index: status.snapshot_index.next().0,
        durable_index: status.durable_index.0,
        transferring_to: status.transferring_to.map_or(0, |id| id.0),
        waits_for: Vec::new(),
        incarnation: open.identity.incarnation.0,
        alarms: alarms(open),
    }
}

/// What a person should know at once.
fn alarms(open: &Open) -> Vec<String> {
    let mut alarms = open.verification.alarms();
    alarms.extend(open.removal.alarm());
    alarms.extend(open.store.room().shortage().map(|shortage| shortage.to_string()));
    alarms
}

fn members(open: &Open, status: &NodeStatus) -> Vec<wire::MemberStatus> {
    let at = |id: NodeId| wire::MemberStatus { address: open.store.address(id, status), ..member(status, id) };
    status.membership.nodes().map(at).collect()
}

/// What the membership says of a node, and, where `status` is a leader's, what that knows of it.
fn member(status: &NodeStatus, id: NodeId) -> wire::MemberStatus {
    let recorded = status.membership.members.get(&id).cloned().unwrap_or_default();
    let member = wire::MemberStatus {
        id: id.0,
        voter: status.membership.is_voter(id),
        role: role(&status.membership, id).into(),
        incarnation: recorded.incarnation.0,
        priority: recorded.priority,
        ..Default::default()
    };
    match status.followers.iter().find(|follower| follower.id == id) {
        Some(follower) => wire::MemberStatus {
            match_index: follower.match_index.0,
            active: follower.active,
            progress: progress(follower.progress).into(),
            next_index: follower.next_index.0,
            lag: status.last_index.0.saturating_sub(follower.match_index.0),
            ..member
        },
        // The leader itself.
        None if status.leader == Some(status.id) && id == status.id => {
            wire::MemberStatus { match_index: status.durable_index.0, active: true, ..member }
        }
        None => member,
    }
}

fn role(membership: &Membership, id: NodeId) -> wire::MemberRole {
    if membership.voters.contains(&id) {
        wire::MemberRole::Voter
    } else if membership.outgoing.contains(&id) {
        wire::MemberRole::Outgoing
    } else if membership.promotable.contains(&id) {
        wire::MemberRole::Promotable
    } else {
        wire::MemberRole::Learner
    }
}

fn progress(kind: ProgressKind) -> wire::Progress {
    match kind {
        ProgressKind::Probe => wire::Progress::Probe,
        ProgressKind::Replicate => wire::Progress::Replicate,
        ProgressKind::Snapshot => wire::Progress::Snapshot,
    }
}
