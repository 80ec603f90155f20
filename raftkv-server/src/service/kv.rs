//! `raftkv.v1.Kv`: keys and values.

use std::sync::Arc;

use raft_store_sqlite::{Action, Argument, KeyRange, Lookup, Put, StepResult, Value};
use raftkv_proto::raftkv::v1 as wire;
use raftkv_proto::raftkv::v1::kv_server::Kv;
use tonic::{Request, Response, Status};

use super::convert::{
    consistency_from_wire, entries_to_wire, entry_to_wire, found_to_wire, lookup_from_wire, range_from_wire,
};
use super::{header, running, session};
use crate::gate::Gate;
use crate::store::{Failure, Ran, unexpected};

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

    /// Replicates a single action.
    async fn write(
        &self,
        action: Action,
        from: Option<wire::Session>,
    ) -> Result<(StepResult, Option<wire::AnswerHeader>), Status> {
        let Ran { mut results, position } =
            running(&self.gate)?.store.write(vec![action.into()], session(from)).await?;
        let result = results.pop().ok_or_else(unexpected)?;
        Ok((result, header(&self.gate, position)))
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn put(&self, request: Request<wire::PutRequest>) -> Result<Response<wire::PutReply>, Status> {
        let wire::PutRequest { key, value, session: from, lease, previous } = request.into_inner();
        let put = Put { key, value: Argument::Given(Value::Blob(value)), lease, previous };
        match self.write(Action::Put(put), from).await? {
            (StepResult::Put { replaced, previous }, header) => {
                Ok(Response::new(wire::PutReply { header, replaced, previous: previous.map(entry_to_wire) }))
            }
            _ => Err(unexpected().into()),
        }
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::GetReply>, Status> {
        let wire::GetRequest { key, consistency, revision } = request.into_inner();
        let lookup = Lookup { revision, ..Lookup::key(key) };
        let (found, position) = running(&self.gate)?.store.find(lookup, consistency_from_wire(consistency)?).await?;
        let entry = found.entries.into_iter().next().map(entry_to_wire);
        Ok(Response::new(wire::GetReply { header: header(&self.gate, position), entry }))
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Result<Response<wire::DeleteReply>, Status> {
        let wire::DeleteRequest { key, session: from, range, previous } = request.into_inner();
        let range = match range {
            Some(_) if !key.is_empty() => {
                return Err(Failure::Invalid("give a key or a range, not both".to_owned()).into());
            }
            Some(range) => range_from_wire(Some(range))?,
            None => KeyRange::Key(key),
        };
        match self.write(Action::Delete { range, previous }, from).await? {
            (StepResult::Deleted { count, previous }, header) => {
                let previous = entries_to_wire(previous);
                Ok(Response::new(wire::DeleteReply { header, deleted: count, previous }))
            }
            _ => Err(unexpected().into()),
        }
    }

    async fn range(&self, request: Request<wire::RangeRequest>) -> Result<Response<wire::RangeReply>, Status> {
        let wire::RangeRequest { lookup, consistency } = request.into_inner();
        let lookup = lookup_from_wire(lookup.unwrap_or_default())?;
        let (found, position) = running(&self.gate)?.store.find(lookup, consistency_from_wire(consistency)?).await?;
        let found = Some(found_to_wire(found));
        Ok(Response::new(wire::RangeReply { header: header(&self.gate, position), found }))
    }

    async fn compact(&self, request: Request<wire::CompactRequest>) -> Result<Response<wire::CompactReply>, Status> {
        let position = running(&self.gate)?.store.compact(request.into_inner().revision).await?;
        Ok(Response::new(wire::CompactReply { header: header(&self.gate, position) }))
    }
}
