//! `raftkv.v1.Maintenance`: looking after the nodes' states.

use std::sync::Arc;

use raft_core::types::{Index, NodeId};
use raft_store_sqlite::Checksum;
use raftkv_proto::raftkv::v1 as wire;
use raftkv_proto::raftkv::v1::maintenance_server::Maintenance;
use tokio::sync::mpsc::channel;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::convert::consistency_from_wire;
use super::{header, running};
use crate::gate::Gate;
use crate::store::BackupPiece;
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
    type BackupStream = ReceiverStream<Result<wire::BackupReply, Status>>;

    async fn backup(&self, request: Request<wire::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let open = running(&self.gate)?;
        let consistency = consistency_from_wire(request.into_inner().consistency)?;
        let mut pieces = open.store.back_up(consistency).await?;
        let (gate, cluster_id) = (self.gate.clone(), open.identity.cluster.0);
        let (sender, replies) = channel(1);
        tokio::spawn(async move {
            while let Some(piece) = pieces.recv().await {
                let reply = piece.map(|piece| backup_reply(&gate, cluster_id, piece)).map_err(Status::from);
                if sender.send(reply).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(replies)))
    }

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

fn backup_reply(gate: &Gate, cluster_id: u64, piece: BackupPiece) -> wire::BackupReply {
    match piece {
        BackupPiece::Begun { position, size_bytes } => wire::BackupReply {
            header: Some(wire::BackupHeader { header: header(gate, position), cluster_id, size_bytes }),
            ..Default::default()
        },
        BackupPiece::Bytes(data) => wire::BackupReply { crc32c: crc32c::crc32c(&data), data, ..Default::default() },
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
