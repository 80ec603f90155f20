//! What can be asked, and how each is sent.

use crate::call::Request;
use crate::verdict::Verdict;
use prost::Message;
use raftkv_proto::raft::v1::raft_service_client::RaftServiceClient;
use raftkv_proto::raft::v1::{SubmitCommandReply, SubmitCommandRequest};
use raftkv_proto::raftkv::v1::cluster_client::ClusterClient;
use raftkv_proto::raftkv::v1::kv_client::KvClient;
use raftkv_proto::raftkv::v1::sql_client::SqlClient;
use raftkv_proto::raftkv::v1::{
    AnswerHeader, DeleteReply, DeleteRequest, ExecuteReply, ExecuteRequest, GetReply, GetRequest, PutReply, PutRequest,
    StatusReply, StatusRequest,
};
use raftkv_proto::{MAX_REPLY_BYTES, MAX_REQUEST_BYTES};
use tonic::transport::Channel;
use tonic::{Response, Status};

impl Request for PutRequest {
    type Reply = PutReply;

    fn writes(&self) -> bool {
        true
    }

    fn bytes(&self) -> usize {
        self.encoded_len()
    }

    async fn send(self, channel: Channel, address: String) -> Verdict<PutReply> {
        judge(&address, kv(channel).put(self).await)
    }

    fn answered_by(reply: &PutReply) -> u64 {
        node_id(reply.header.as_ref())
    }
}

impl Request for GetRequest {
    type Reply = GetReply;

    fn writes(&self) -> bool {
        false
    }

    fn bytes(&self) -> usize {
        self.encoded_len()
    }

    async fn send(self, channel: Channel, address: String) -> Verdict<GetReply> {
        judge(&address, kv(channel).get(self).await)
    }

    fn answered_by(reply: &GetReply) -> u64 {
        node_id(reply.header.as_ref())
    }
}

impl Request for DeleteRequest {
    type Reply = DeleteReply;

    fn writes(&self) -> bool {
        true
    }

    fn bytes(&self) -> usize {
        self.encoded_len()
    }

    async fn send(self, channel: Channel, address: String) -> Verdict<DeleteReply> {
        judge(&address, kv(channel).delete(self).await)
    }

    fn answered_by(reply: &DeleteReply) -> u64 {
        node_id(reply.header.as_ref())
    }
}

/// SQL statements, and whether they can't change anything.
#[derive(Clone)]
pub(crate) struct Execute {
    pub(crate) request: ExecuteRequest,
    pub(crate) only_reads: bool,
}

impl Request for Execute {
    type Reply = ExecuteReply;

    fn writes(&self) -> bool {
        !self.only_reads
    }

    fn bytes(&self) -> usize {
        self.request.encoded_len()
    }

    async fn send(self, channel: Channel, address: String) -> Verdict<ExecuteReply> {
        let mut client = SqlClient::new(channel)
            .max_encoding_message_size(MAX_REQUEST_BYTES)
            .max_decoding_message_size(MAX_REPLY_BYTES);
        judge(&address, client.execute(self.request).await)
    }

    fn answered_by(reply: &ExecuteReply) -> u64 {
        node_id(reply.header.as_ref())
    }
}

impl Request for SubmitCommandRequest {
    type Reply = SubmitCommandReply;

    fn writes(&self) -> bool {
        !self.command.trim_start().get(..4).is_some_and(|word| word.eq_ignore_ascii_case("get "))
    }

    fn bytes(&self) -> usize {
        self.encoded_len()
    }

    async fn send(self, channel: Channel, address: String) -> Verdict<SubmitCommandReply> {
        let mut client = RaftServiceClient::new(channel)
            .max_encoding_message_size(MAX_REQUEST_BYTES)
            .max_decoding_message_size(MAX_REPLY_BYTES);
        match judge(&address, client.submit_command(self).await) {
            Verdict::Done(reply) => Verdict::of_submit(reply),
            other => other,
        }
    }

    fn answered_by(reply: &SubmitCommandReply) -> u64 {
        reply.node_id
    }
}

impl Request for StatusRequest {
    type Reply = StatusReply;

    fn writes(&self) -> bool {
        false
    }

    fn bytes(&self) -> usize {
        self.encoded_len()
    }

    async fn send(self, channel: Channel, address: String) -> Verdict<StatusReply> {
        let mut client = ClusterClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES);
        judge(&address, client.status(self).await)
    }

    fn answered_by(reply: &StatusReply) -> u64 {
        reply.node_id
    }
}

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_encoding_message_size(MAX_REQUEST_BYTES).max_decoding_message_size(MAX_REPLY_BYTES)
}

fn judge<T>(address: &str, answer: Result<Response<T>, Status>) -> Verdict<T> {
    match answer {
        Ok(response) => Verdict::Done(response.into_inner()),
        Err(status) => Verdict::of_status(address, &status),
    }
}

fn node_id(header: Option<&AnswerHeader>) -> u64 {
    header.map_or(0, |header| header.node_id)
}
