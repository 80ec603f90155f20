//! `raftkv.v1.Maintenance`: looking after the nodes' states.

use std::sync::Arc;

use raft_core::types::{Index, NodeId};
use raft_store_sqlite::Checksum;
use raftkv_proto::raftkv::v1 as wire;
use raftkv_proto::raftkv::v1::maintenance_server::Maintenance;
use tonic::{Request, Response, Status};

use super::running;
use crate::gate::Gate;
use crate::verification::{Known, Progress};

/// The service, over the node behind a gate.
#[derive(Clone, Debug)]
pub struct MaintenanceService {
    gate: Arc<Gate>,
}

impl MaintenanceService {
    /// The service of the node behind `gate`.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate }
    }
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn verify(&self, _: Request<wire::VerifyRequest>) -> Result<Response<wire::VerifyReply>, Status> {
        let index = running(&self.gate)?.store.mark().await?;
        Ok(Response::new(wire::VerifyReply { node_id: self.gate.id().0, index: index.0 }))
    }

    async fn checksums(
        &self,
        request: Request<wire::ChecksumsRequest>,
    ) -> Result<Response<wire::ChecksumsReply>, Status> {
        let open = running(&self.gate)?;
        let Known { progress, comes, checksums } = open.verification.known(Index(request.into_inner().index));
        let (hashed_bytes, state_bytes) = progress.bytes();
        let (progress, error) = match progress {
            Progress::NotBegun if comes => (wire::ChecksumProgress::Waiting, String::new()),
            Progress::NotBegun => (wire::ChecksumProgress::Passed, String::new()),
            Progress::Computing { .. } => (wire::ChecksumProgress::Computing, String::new()),
            Progress::Computed => (wire::ChecksumProgress::Computed, String::new()),
            Progress::Failed(why) => (wire::ChecksumProgress::Failed, why),
        };
        Ok(Response::new(wire::ChecksumsReply {
            node_id: open.identity.node.0,
            cluster_id: open.identity.cluster.0,
            incarnation: open.identity.incarnation.0,
            progress: progress.into(),
            hashed_bytes,
            state_bytes,
            error,
            checksums: checksums.into_iter().map(to_wire).collect(),
        }))
    }
}

fn to_wire((node, Checksum { at, digest, fault }): (NodeId, Checksum)) -> wire::NodeChecksum {
    wire::NodeChecksum {
        node_id: node.0,
        index: at.index.0,
        term: at.term.0,
        digest: digest.0.to_vec().into(),
        fault: fault.unwrap_or_default(),
    }
}
