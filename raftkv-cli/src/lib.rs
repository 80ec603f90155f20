//! The RaftKV client: keys, values and SQL on a cluster, from Rust.
//!
//! ```no_run
//! # async fn example() -> Result<(), raftkv_cli::Error> {
//! use raftkv_cli::{Client, Statement};
//!
//! let client = Client::builder().endpoints(["localhost:50051", "localhost:50052", "localhost:50053"]).build()?;
//! client.put("x", "1").await?;
//! let entry = client.get("x").await?.entry;
//! assert_eq!(entry.map(|entry| entry.value), Some("1".into()));
//!
//! client.sql(["CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)"]).await?;
//! client.sql([Statement::new("INSERT INTO users (name) VALUES (?)").bind("Ada")]).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The client knows the wire format alone, not the server. [`Client`] says how it finds the leader and what a retry does;
//! [`Error`] says what a failed write may have left behind. The `raftkv-cli` command is this library with a face.

mod backup;
mod call;
mod client;
mod error;
mod keys;
mod program;
mod query;
mod requests;
mod router;
mod session;
mod statement;
mod verdict;

pub use backup::Backup;
pub use client::{Client, ClientBuilder};
pub use error::{Error, Trouble, TroubleKind};
pub use keys::{Consistency, KeyRange, Lookup};
pub use program::{Compare, Program, Relation};
pub use query::Rows;
pub use raftkv_proto::{MAX_REPLY_BYTES, MAX_REQUEST_BYTES};
pub use statement::{Output, Statement, Value};

/// What is asked of the membership.
pub mod request {
    pub use raftkv_proto::raftkv::v1::{AddMemberRequest, ReplaceMemberRequest, UpdateMemberRequest};
}

/// The answers, as they come over the wire.
pub mod reply {
    pub use raftkv_proto::raft::v1::{Outcome, SubmitCommandReply};
    pub use raftkv_proto::raftkv::v1::{
        AnswerHeader, ChecksumProgress, ChecksumsReply, CompactReply, DeleteReply, DeleteResult, ExecuteReply, Found,
        GetReply, GrantLeaseReply, IfResult, KeepLeaseReply, KeyValue, LeaseStatus, ListLeasesReply, ListMembersReply,
        MemberRole, MemberStatus, MembershipReply, NodeChecksum, Progress, PutReply, PutResult, RangeReply,
        RevokeLeaseReply, Row, RunReply, SqlResult, StatementResult, StatusReply, StepResult, TransferLeaderReply,
        VerifyReply, step_result,
    };
}
