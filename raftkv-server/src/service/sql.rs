//! `raftkv.v1.Sql`: statements on the user's own tables.

use std::sync::Arc;

use raft_store_sqlite::{Argument, Parameter, Statement, StatementResult, Value};
use raftkv_proto::raftkv::v1 as wire;
use raftkv_proto::raftkv::v1::sql_server::Sql;
use raftkv_proto::raftkv::v1::value::Kind;
use tonic::{Request, Response, Status};

use super::{header, running, session};
use crate::gate::Gate;

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
    async fn execute(&self, request: Request<wire::ExecuteRequest>) -> Result<Response<wire::ExecuteReply>, Status> {
        let wire::ExecuteRequest { statements, session: from } = request.into_inner();
        let statements = statements.into_iter().map(statement_from_wire).collect();
        let (results, position) = running(&self.gate)?.store.sql(statements, session(from)).await?;
        let results = results.into_iter().map(result_to_wire).collect();
        Ok(Response::new(wire::ExecuteReply { header: header(&self.gate, position), results }))
    }
}

fn statement_from_wire(statement: wire::Statement) -> Statement {
    let wire::Statement { sql, parameters } = statement;
    Statement { sql, parameters: parameters.into_iter().map(parameter_from_wire).collect() }
}

fn parameter_from_wire(parameter: wire::Parameter) -> Parameter {
    let wire::Parameter { name, value } = parameter;
    let value = match value.and_then(|value| value.kind) {
        None => Value::Null,
        Some(Kind::Integer(integer)) => Value::Integer(integer),
        Some(Kind::Real(real)) => Value::Real(real),
        Some(Kind::Text(text)) => Value::Text(text),
        Some(Kind::Blob(blob)) => Value::Blob(blob),
    };
    Parameter { name: (!name.is_empty()).then_some(name), value: Argument::Given(value) }
}

fn result_to_wire(result: StatementResult) -> wire::StatementResult {
    let StatementResult { columns, rows, rows_affected, last_insert_id } = result;
    let row = |values: Vec<Value>| wire::Row { values: values.into_iter().map(value_to_wire).collect() };
    wire::StatementResult { columns, rows: rows.into_iter().map(row).collect(), rows_affected, last_insert_id }
}

fn value_to_wire(value: Value) -> wire::Value {
    let kind = match value {
        Value::Null => None,
        Value::Integer(integer) => Some(Kind::Integer(integer)),
        Value::Real(real) => Some(Kind::Real(real)),
        Value::Text(text) => Some(Kind::Text(text)),
        Value::Blob(blob) => Some(Kind::Blob(blob)),
    };
    wire::Value { kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_types_both_ways() {
        for value in [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Real(0.5),
            Value::Text("a".to_owned()),
            Value::Blob("b".into()),
        ] {
            let wire = wire::Parameter { name: ":x".to_owned(), value: Some(value_to_wire(value.clone())) };
            assert_eq!(
                parameter_from_wire(wire),
                Parameter { name: Some(":x".to_owned()), value: Argument::Given(value) }
            );
        }
        assert_eq!(
            parameter_from_wire(wire::Parameter::default()),
            Parameter { name: None, value: Argument::Given(Value::Null) }
        );
    }
}
