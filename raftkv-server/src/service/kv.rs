//! `raftkv.v1.Kv`: keys and values.

use std::sync::Arc;

use raft_store_sqlite::{Action, StepResult};
use raftkv_proto::raftkv::v1 as wire;
use raftkv_proto::raftkv::v1::kv_server::Kv;
use tonic::{Request, Response, Status};

use super::{header, running, session};
use crate::gate::Gate;
use crate::store::unexpected;

/// The service, over the node behind a gate.
#[derive(Clone, Debug)]
pub struct KvService {
    gate: Arc<Gate>,
}

impl KvService {
    /// The service of the node behind `gate`.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate }
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn put(&self, request: Request<wire::PutRequest>) -> Result<Response<wire::PutReply>, Status> {
        let wire::PutRequest { key, value, session: from } = request.into_inner();
        let applied = running(&self.gate)?.store.run(vec![Action::put(key, value).into()], session(from)).await?;
        let [StepResult::Put { replaced, .. }] = *applied.results else { return Err(unexpected().into()) };
        Ok(Response::new(wire::PutReply { header: header(&self.gate, applied.position), replaced }))
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::GetReply>, Status> {
        let key = request.into_inner().key;
        let (entry, position) = running(&self.gate)?.store.get(key.clone()).await?;
        let entry = entry.map(|entry| wire::KeyValue {
            key,
            value: entry.value,
            create_revision: entry.create_revision,
            mod_revision: entry.mod_revision,
            version: entry.version,
        });
        Ok(Response::new(wire::GetReply { header: header(&self.gate, position), entry }))
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Result<Response<wire::DeleteReply>, Status> {
        let wire::DeleteRequest { key, session: from } = request.into_inner();
        let applied = running(&self.gate)?.store.run(vec![Action::delete(key).into()], session(from)).await?;
        let [StepResult::Deleted { count, .. }] = *applied.results else { return Err(unexpected().into()) };
        Ok(Response::new(wire::DeleteReply { header: header(&self.gate, applied.position), deleted: count }))
    }
}
