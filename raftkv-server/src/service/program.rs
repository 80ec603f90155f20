//! `raftkv.v1.Program`: keys and SQL in one atomic command.

use std::sync::Arc;

use raftkv_proto::raftkv::v1 as wire;
use raftkv_proto::raftkv::v1::program_server::Program;
use tonic::{Request, Response, Status};

use super::convert::{consistency_from_wire, step_results_to_wire, steps_from_wire};
use super::{header, running, session};
use crate::gate::Gate;
use crate::store::Ran;

/// The service, over the node behind a gate.
#[derive(Clone, Debug)]
pub struct ProgramService {
    gate: Arc<Gate>,
}

impl ProgramService {
    /// The service of the node behind `gate`.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate }
    }
}

#[tonic::async_trait]
impl Program for ProgramService {
    async fn run(&self, request: Request<wire::RunRequest>) -> Result<Response<wire::RunReply>, Status> {
        let wire::RunRequest { steps, session: from, consistency } = request.into_inner();
        let (steps, consistency) = (steps_from_wire(steps)?, consistency_from_wire(consistency)?);
        let Ran { results, position } = running(&self.gate)?.store.run(steps, session(from), consistency).await?;
        let results = step_results_to_wire(results);
        Ok(Response::new(wire::RunReply { header: header(&self.gate, position), results }))
    }
}
