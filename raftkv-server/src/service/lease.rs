//! `raftkv.v1.Lease`: keys that go when nobody keeps them.

use std::sync::Arc;

use raftkv_proto::raftkv::v1 as wire;
use raftkv_proto::raftkv::v1::lease_server::Lease;
use tonic::{Request, Response, Status};

use super::convert::{consistency_from_wire, leases_to_wire};
use super::{header, running, session};
use crate::gate::Gate;

/// The service, over the node behind a gate.
#[derive(Clone, Debug)]
pub struct LeaseService {
    gate: Arc<Gate>,
}

impl LeaseService {
    /// The service of the node behind `gate`.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate }
    }
}

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn grant(
        &self,
        request: Request<wire::GrantLeaseRequest>,
    ) -> Result<Response<wire::GrantLeaseReply>, Status> {
        let wire::GrantLeaseRequest { lease, ttl_ms, session: from } = request.into_inner();
        let (lease, position) = running(&self.gate)?.store.grant_lease(lease, ttl_ms, session(from)).await?;
        Ok(Response::new(wire::GrantLeaseReply { header: header(&self.gate, position), lease }))
    }

    async fn keep_alive(
        &self,
        request: Request<wire::KeepLeaseRequest>,
    ) -> Result<Response<wire::KeepLeaseReply>, Status> {
        let (ttl_ms, position) = running(&self.gate)?.store.keep_lease(request.into_inner().lease).await?;
        Ok(Response::new(wire::KeepLeaseReply { header: header(&self.gate, position), ttl_ms }))
    }

    async fn revoke(
        &self,
        request: Request<wire::RevokeLeaseRequest>,
    ) -> Result<Response<wire::RevokeLeaseReply>, Status> {
        let wire::RevokeLeaseRequest { lease, session: from } = request.into_inner();
        let (deleted, position) = running(&self.gate)?.store.revoke_lease(lease, session(from)).await?;
        Ok(Response::new(wire::RevokeLeaseReply { header: header(&self.gate, position), deleted }))
    }

    async fn list(&self, request: Request<wire::ListLeasesRequest>) -> Result<Response<wire::ListLeasesReply>, Status> {
        let wire::ListLeasesRequest { lease, keys, consistency } = request.into_inner();
        let only = (lease != 0).then_some(lease);
        let (leases, position) =
            running(&self.gate)?.store.leases(only, keys, consistency_from_wire(consistency)?).await?;
        Ok(Response::new(wire::ListLeasesReply {
            header: header(&self.gate, position),
            leases: leases_to_wire(leases),
        }))
    }
}
