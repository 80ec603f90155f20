//! Rows that come as they are found.

use crate::call::Request;
use crate::error::{Error, Trouble, TroubleKind};
use crate::requests::node_id;
use crate::statement::Value;
use crate::verdict::Verdict;
use prost::Message;
use raftkv_proto::raftkv::v1::sql_client::SqlClient;
use raftkv_proto::raftkv::v1::{AnswerHeader, QueryReply, QueryRequest, Row};
use raftkv_proto::{MAX_REPLY_BYTES, MAX_REQUEST_BYTES};
use std::collections::VecDeque;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// The rows of a query, all of one state, as they come. Dropping them ends the query.
#[derive(Debug)]
pub struct Rows {
    address: String,
    header: AnswerHeader,
    /// Which statement's rows these are, and whether others may follow.
    statement: u32,
    others_follow: bool,
    columns: Vec<String>,
    /// The first reply of the next statement, if it has come.
    ahead: Option<QueryReply>,
    /// Rows that have come and were not asked for yet.
    rows: VecDeque<Row>,
    replies: Streaming<QueryReply>,
}

impl Rows {
    /// The node that answers, and the state that it answers from.
    pub fn header(&self) -> &AnswerHeader {
        &self.header
    }

    /// The names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The next row; none after the last.
    ///
    /// # Errors
    /// [`Error::Failed`] if the statement fails only here, [`Error::Invalid`] if another follows it in its text, [`Error::Unavailable`] if the node can't go on.
    pub async fn next(&mut self) -> Result<Option<Vec<Value>>, Error> {
        loop {
            if let Some(row) = self.rows.pop_front() {
                return Ok(Some(row.values.into_iter().map(Value::from).collect()));
            }
            if self.ahead.is_some() || !self.receive().await? {
                return Ok(None);
            }
        }
    }

    /// Goes on to the next statement of [`query_all`](crate::Client::query_all), past what is left of this one. Returns whether there is one.
    ///
    /// # Errors
    /// Those of [`next`](Self::next).
    pub async fn next_statement(&mut self) -> Result<bool, Error> {
        loop {
            self.rows.clear();
            if let Some(QueryReply { statement, columns, rows, .. }) = self.ahead.take() {
                (self.statement, self.columns, self.rows) = (statement, columns, rows.into());
                return Ok(true);
            }
            if !self.receive().await? {
                return Ok(false);
            }
        }
    }

    /// Takes one more reply. Returns whether there was one.
    async fn receive(&mut self) -> Result<bool, Error> {
        match self.replies.message().await {
            Ok(Some(reply)) if reply.statement > self.statement && !self.others_follow => {
                Err(Error::Invalid("a query is one statement: send the others in queries of their own".into()))
            }
            Ok(Some(reply)) if reply.statement > self.statement => {
                self.ahead = Some(reply);
                Ok(true)
            }
            Ok(Some(reply)) => {
                self.rows.extend(reply.rows);
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(status) => Err(self.broken(&status)),
        }
    }

    fn broken(&self, status: &Status) -> Error {
        match Verdict::<()>::of_status(&self.address, status) {
            Verdict::Failed(error) | Verdict::Rejected(error) => error,
            Verdict::TooLarge(message) => Error::TooLarge(message),
            _ => {
                let kind = TroubleKind::Lost(format!("ended the rows before their end ({})", status.message()));
                Error::Unavailable { troubles: vec![Trouble { address: self.address.clone(), kind }] }
            }
        }
    }
}

impl Request for QueryRequest {
    type Reply = Rows;

    fn writes(&self) -> bool {
        false
    }

    fn bytes(&self) -> usize {
        self.encoded_len()
    }

    /// The answer is the first reply, with what may follow.
    async fn send(self, channel: Channel, address: String) -> Verdict<Rows> {
        let others_follow = self.statements.len() > 1;
        let mut client = SqlClient::new(channel)
            .max_encoding_message_size(MAX_REQUEST_BYTES)
            .max_decoding_message_size(MAX_REPLY_BYTES);
        let begun = async {
            let mut replies = client.query(self).await?.into_inner();
            let first = replies.message().await?.ok_or_else(|| Status::unavailable("there is no reply"))?;
            Ok((first, replies))
        };
        match begun.await {
            Ok((QueryReply { header, columns, rows, .. }, replies)) => {
                let header = header.unwrap_or_default();
                let (statement, ahead, rows) = (0, None, rows.into());
                Verdict::Done(Rows { address, header, statement, others_follow, columns, ahead, rows, replies })
            }
            Err(status) => Verdict::of_status(&address, &status),
        }
    }

    fn answered_by(rows: &Rows) -> u64 {
        node_id(Some(&rows.header))
    }
}
