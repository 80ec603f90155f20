//! What can be asked, and how each is sent.

use crate::call::Request;
use crate::statement::only_reads;
use crate::verdict::Verdict;
use prost::Message;
use raftkv_proto::raft::v1::raft_service_client::RaftServiceClient;
use raftkv_proto::raft::v1::{SubmitCommandReply, SubmitCommandRequest};
use raftkv_proto::raftkv::v1::cluster_client::ClusterClient;
use raftkv_proto::raftkv::v1::kv_client::KvClient;
use raftkv_proto::raftkv::v1::lease_client::LeaseClient;
use raftkv_proto::raftkv::v1::maintenance_client::MaintenanceClient;
use raftkv_proto::raftkv::v1::program_client::ProgramClient;
use raftkv_proto::raftkv::v1::sql_client::SqlClient;
use raftkv_proto::raftkv::v1::{
    AddMemberRequest, AnswerHeader, ChecksumsReply, ChecksumsRequest, CompactReply, CompactRequest, DeleteReply,
    DeleteRequest, DemoteMemberRequest, ExecuteReply, ExecuteRequest, GetReply, GetRequest, GrantLeaseReply,
    GrantLeaseRequest, KeepLeaseReply, KeepLeaseRequest, ListLeasesReply, ListLeasesRequest, ListMembersReply,
    ListMembersRequest, MembershipReply, PromoteMemberRequest, PutReply, PutRequest, RangeReply, RangeRequest,
    RemoveMemberRequest, ReplaceMemberRequest, RevokeLeaseReply, RevokeLeaseRequest, RunReply, RunRequest, StatusReply,
    StatusRequest, TransferLeaderReply, TransferLeaderRequest, UpdateMemberRequest, VerifyReply, VerifyRequest,
};
use raftkv_proto::{MAX_REPLY_BYTES, MAX_REQUEST_BYTES};
use tonic::transport::Channel;
use tonic::{Response, Status};

/// Calls that differ in nothing but their names, and in how a reply tells who gave it.
macro_rules! request {
    ($client:ident.$method:ident, $request:ty => $reply:ty, writes: $writes:literal, by: $by:expr) => {
        impl Request for $request {
            type Reply = $reply;

            fn writes(&self) -> bool {
                $writes
            }

            fn bytes(&self) -> usize {
                self.encoded_len()
            }

            async fn send(self, channel: Channel, address: String) -> Verdict<$reply> {
                let mut client = $client::new(channel)
                    .max_encoding_message_size(MAX_REQUEST_BYTES)
                    .max_decoding_message_size(MAX_REPLY_BYTES);
                judge(&address, client.$method(self).await)
            }

            fn answered_by(reply: &$reply) -> u64 {
                let by: fn(&$reply) -> u64 = $by;
                by(reply)
            }
        }
    };
    ($client:ident.$method:ident, $request:ty => $reply:ty, writes: $writes:literal) => {
        request!($client.$method, $request => $reply, writes: $writes, by: |reply| node_id(reply.header.as_ref()));
    };
}

request!(KvClient.put, PutRequest => PutReply, writes: true);
request!(KvClient.get, GetRequest => GetReply, writes: false);
request!(KvClient.range, RangeRequest => RangeReply, writes: false);
request!(KvClient.delete, DeleteRequest => DeleteReply, writes: true);
request!(KvClient.compact, CompactRequest => CompactReply, writes: true);
request!(SqlClient.execute, ExecuteRequest => ExecuteReply, writes: true);
request!(ProgramClient.run, RunRequest => RunReply, writes: true);
request!(LeaseClient.grant, GrantLeaseRequest => GrantLeaseReply, writes: true);
request!(LeaseClient.keep_alive, KeepLeaseRequest => KeepLeaseReply, writes: true);
request!(LeaseClient.revoke, RevokeLeaseRequest => RevokeLeaseReply, writes: true);
request!(LeaseClient.list, ListLeasesRequest => ListLeasesReply, writes: false);
request!(ClusterClient.status, StatusRequest => StatusReply, writes: false, by: |reply| reply.node_id);
request!(ClusterClient.list_members, ListMembersRequest => ListMembersReply, writes: false, by: |reply| reply.node_id);
request!(ClusterClient.add_member, AddMemberRequest => MembershipReply, writes: true, by: |reply| reply.node_id);
request!(ClusterClient.promote_member, PromoteMemberRequest => MembershipReply, writes: true, by: |reply| reply.node_id);
request!(ClusterClient.demote_member, DemoteMemberRequest => MembershipReply, writes: true, by: |reply| reply.node_id);
request!(ClusterClient.remove_member, RemoveMemberRequest => MembershipReply, writes: true, by: |reply| reply.node_id);
request!(ClusterClient.update_member, UpdateMemberRequest => MembershipReply, writes: true, by: |reply| reply.node_id);
request!(ClusterClient.replace_member, ReplaceMemberRequest => MembershipReply, writes: true, by: |reply| reply.node_id);
request!(ClusterClient.transfer_leader, TransferLeaderRequest => TransferLeaderReply, writes: true, by: |reply| reply.node_id);
request!(MaintenanceClient.verify, VerifyRequest => VerifyReply, writes: false, by: |reply| reply.node_id);
request!(MaintenanceClient.checksums, ChecksumsRequest => ChecksumsReply, writes: false, by: |reply| reply.node_id);

/// A request that may write, or surely does not.
#[derive(Clone)]
pub(crate) struct Sorted<R> {
    pub(crate) request: R,
    pub(crate) only_reads: bool,
}

impl<R: Request + Sync> Request for Sorted<R> {
    type Reply = R::Reply;

    fn writes(&self) -> bool {
        !self.only_reads
    }

    fn bytes(&self) -> usize {
        self.request.bytes()
    }

    async fn send(self, channel: Channel, address: String) -> Verdict<R::Reply> {
        self.request.send(channel, address).await
    }

    fn answered_by(reply: &R::Reply) -> u64 {
        R::answered_by(reply)
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

fn judge<T>(address: &str, answer: Result<Response<T>, Status>) -> Verdict<T> {
    match answer {
        Ok(response) => Verdict::Done(response.into_inner()),
        Err(status) => Verdict::of_status(address, &status),
    }
}

pub(crate) fn node_id(header: Option<&AnswerHeader>) -> u64 {
    header.map_or(0, |header| header.node_id)
}
