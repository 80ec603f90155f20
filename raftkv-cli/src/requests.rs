//! What can be asked, and how each is sent.

use crate::call::Request;
use crate::statement::only_reads;
use crate::verdict::Verdict;
use prost::Message;
use raftkv_proto::raft::v1::raft_service_client::RaftServiceClient;
use raftkv_proto::raft::v1::{SubmitCommandReply, SubmitCommandRequest};
use raftkv_proto::raftkv::v1::cluster_client::ClusterClient;
use raftkv_proto::raftkv::v1::kv_client::KvClient;
use raftkv_proto::raftkv::v1::sql_client::SqlClient;
use raftkv_proto::raftkv::v1::{
    AddMemberRequest, AnswerHeader, DeleteReply, DeleteRequest, DemoteMemberRequest, ExecuteReply, ExecuteRequest,
    GetReply, GetRequest, ListMembersReply, ListMembersRequest, MembershipReply, PromoteMemberRequest, PutReply,
    PutRequest, RemoveMemberRequest, ReplaceMemberRequest, StatusReply, StatusRequest, TransferLeaderReply,
    TransferLeaderRequest, UpdateMemberRequest,
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
        let is_get = self.command.trim_start().get(..4).is_some_and(|word| word.eq_ignore_ascii_case("get "));
        !is_get && !only_reads(&self.command)
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

/// The calls of the `Cluster` service, which are all alike.
macro_rules! cluster_request {
    ($request:ty, $method:ident, $reply:ty, writes: $writes:literal) => {
        impl Request for $request {
            type Reply = $reply;

            fn writes(&self) -> bool {
                $writes
            }

            fn bytes(&self) -> usize {
                self.encoded_len()
            }

            async fn send(self, channel: Channel, address: String) -> Verdict<$reply> {
                let mut client = ClusterClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES);
                judge(&address, client.$method(self).await)
            }

            fn answered_by(reply: &$reply) -> u64 {
                reply.node_id
            }
        }
    };
}

cluster_request!(StatusRequest, status, StatusReply, writes: false);
cluster_request!(ListMembersRequest, list_members, ListMembersReply, writes: false);
cluster_request!(AddMemberRequest, add_member, MembershipReply, writes: true);
cluster_request!(PromoteMemberRequest, promote_member, MembershipReply, writes: true);
cluster_request!(DemoteMemberRequest, demote_member, MembershipReply, writes: true);
cluster_request!(RemoveMemberRequest, remove_member, MembershipReply, writes: true);
cluster_request!(UpdateMemberRequest, update_member, MembershipReply, writes: true);
cluster_request!(ReplaceMemberRequest, replace_member, MembershipReply, writes: true);
cluster_request!(TransferLeaderRequest, transfer_leader, TransferLeaderReply, writes: true);

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
