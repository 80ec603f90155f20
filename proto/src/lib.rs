//! The wire format of RaftKV, generated from `raft.proto` and `raftkv.proto`, which document every field, and the limits that
//! both sides keep to.

#![allow(missing_docs, clippy::all, unreachable_pub)]

/// The largest request that a node takes from a client, in bytes.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;
/// The largest answer that a client takes, in bytes.
pub const MAX_REPLY_BYTES: usize = 64 << 20;

/// How far a client's sequence may run ahead of the answers that it has confirmed.
pub const MAX_UNANSWERED: u64 = 4096;

/// What nodes say to each other, and `SubmitCommand`.
pub mod raft {
    pub mod v1 {
        tonic::include_proto!("raft.v1");
    }
}

/// What applications say to a node.
pub mod raftkv {
    pub mod v1 {
        tonic::include_proto!("raftkv.v1");
    }
}
