//! `raftkv.v1.Sql`: statements on the user's own tables.

use std::sync::Arc;

use prost::Message;
use raft_store_sqlite::Piece;
use raftkv_proto::raftkv::v1 as wire;
use raftkv_proto::raftkv::v1::sql_server::Sql;
use tokio::sync::mpsc::{Receiver, channel};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::convert::{consistency_from_wire, results_to_wire, rows_to_wire, statement_from_wire};
use super::{header, running, session};
use crate::gate::Gate;
use crate::store::{Failure, Position};

/// The service, over the node behind a gate.
#[derive(Clone, Debug)]
pub struct SqlService {
    gate: Arc<Gate>,
}

impl SqlService {
    /// The service of the node behind `gate`.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate }
    }
}

#[tonic::async_trait]
impl Sql for SqlService {
    type QueryStream = ReceiverStream<Result<wire::QueryReply, Status>>;

    async fn execute(&self, request: Request<wire::ExecuteRequest>) -> Result<Response<wire::ExecuteReply>, Status> {
        let wire::ExecuteRequest { statements, session: from, consistency } = request.into_inner();
        let consistency = consistency_from_wire(consistency)?;
        let statements = statements.into_iter().map(statement_from_wire).collect();
        let (results, position) = running(&self.gate)?.store.sql(statements, session(from), consistency).await?;
        let results = results_to_wire(results);
        Ok(Response::new(wire::ExecuteReply { header: header(&self.gate, position), results }))
    }

    async fn query(&self, request: Request<wire::QueryRequest>) -> Result<Response<Self::QueryStream>, Status> {
        let wire::QueryRequest { statements, consistency } = request.into_inner();
        let statements = statements.into_iter().map(statement_from_wire).collect();
        let store = &running(&self.gate)?.store;
        let pieces = store.stream(statements, consistency_from_wire(consistency)?).await?;
        Ok(Response::new(replies(self.gate.clone(), pieces)))
    }
}

/// How many bytes of rows go into one reply, about.
const REPLY_BYTES: usize = 64 << 10;

/// Gathers pieces into replies, and sends them as fast as they are taken.
fn replies(
    gate: Arc<Gate>,
    mut pieces: Receiver<Result<Piece, Failure>>,
) -> ReceiverStream<Result<wire::QueryReply, Status>> {
    let (sender, receiver) = channel(1);
    tokio::spawn(async move {
        let mut next = Reply::default();
        while let Some(piece) = pieces.recv().await {
            let done = match piece {
                Ok(piece) => next.add(&gate, piece).map(Ok),
                Err(failure) => Some(Err(Status::from(failure))),
            };
            let Some(done) = done else { continue };
            let failed = done.is_err();
            if sender.send(done).await.is_err() || failed {
                return;
            }
        }
        // Nobody may be there to take it.
        let _ = sender.send(Ok(next.reply)).await;
    });
    ReceiverStream::new(receiver)
}

/// The reply that is being gathered.
#[derive(Default)]
struct Reply {
    reply: wire::QueryReply,
    bytes: usize,
    /// How many statements have begun.
    statements: u32,
}

impl Reply {
    /// Adds a piece. Returns the reply that was complete before it, or is by it.
    fn add(&mut self, gate: &Gate, piece: Piece) -> Option<wire::QueryReply> {
        match piece {
            Piece::State { revision, applied } => {
                self.reply.header = header(gate, Position { revision, index: applied.index });
                None
            }
            Piece::Columns(columns) => {
                self.statements += 1;
                let done = (self.statements > 1).then(|| self.take());
                self.reply.columns = columns;
                done
            }
            Piece::Row(row) => {
                let row = rows_to_wire(vec![row]);
                self.bytes += row.iter().map(Message::encoded_len).sum::<usize>();
                self.reply.rows.extend(row);
                (self.bytes >= REPLY_BYTES).then(|| self.take())
            }
        }
    }

    fn take(&mut self) -> wire::QueryReply {
        self.bytes = 0;
        let next = wire::QueryReply { statement: self.statements.saturating_sub(1), ..Default::default() };
        std::mem::replace(&mut self.reply, next)
    }
}
