//! Who calls whom: the metadata that every call between nodes carries, and when it is refused.
//!
//! A node refuses a call that does not fit what it is: another protocol version, another cluster, another addressee, or
//! a caller whose disk is not the recorded one. It does *not* refuse a caller that its membership fails to name: a node that
//! is behind may know only members of old, and the leader that will bring it up to date be none of them.

use raft_core::types::{ClusterId, Identity, Incarnation, NodeId};
use raftkv_proto::raft::v1::IdentifyReply;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Status};

/// The protocol version that this crate speaks.
pub const PROTOCOL: u32 = 1;

const PROTOCOL_KEY: &str = "raft-protocol";
const CLUSTER_KEY: &str = "raft-cluster";
const FROM_KEY: &str = "raft-from";
const FROM_INCARNATION_KEY: &str = "raft-from-incarnation";
const TO_KEY: &str = "raft-to";

/// What a call says of its caller and its addressee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The protocol version that the caller speaks.
    pub protocol: u32,
    /// The caller. Its cluster is zero while it has not begun.
    pub from: Identity,
    /// The node it means to reach; [`NodeId::NONE`] if it does not know yet, which only `Identify` may say.
    pub to: NodeId,
}

/// What a call is for, which decides how much must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To learn who is there. A caller or callee that has not begun fits everyone, and a node may find itself.
    Identify,
    /// To take part in Raft.
    Raft,
}

/// Two nodes that do not fit each other, with what each of them holds. Reads alike on both sides.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// The call is not one of a node's.
    #[error("the call carries no valid `{0}`: only RaftKV nodes make this call; clients use SubmitCommand")]
    Metadata(&'static str),
    /// The versions differ.
    #[error("{from} speaks protocol {theirs}, {us} speaks {PROTOCOL}: run versions that understand each other")]
    Protocol {
        /// The other node.
        from: NodeId,
        /// What it speaks.
        theirs: u32,
        /// This node.
        us: NodeId,
    },
    /// The clusters differ.
    #[error(
        "{from} belongs to cluster {theirs}, {us} to cluster {ours}: check the addresses and data directories of both"
    )]
    Cluster {
        /// The other node.
        from: NodeId,
        /// Its cluster.
        theirs: ClusterId,
        /// This node.
        us: NodeId,
        /// Its cluster.
        ours: ClusterId,
    },
    /// Another node than the one that was meant is at this address.
    #[error("{from} looks for {wanted}, but this address is that of {found}: check the address it was given")]
    Addressee {
        /// Who called.
        from: NodeId,
        /// Whom it means.
        wanted: NodeId,
        /// Who answers.
        found: NodeId,
    },
    /// A node has another disk than the one that the membership records: it may have forgotten what it promised.
    #[error(
        "{node} states incarnation {stated}, but {us} has {recorded} on record: its data directory was replaced or is an \
         old copy; start it with its own data directory"
    )]
    Incarnation {
        /// The node.
        node: NodeId,
        /// What it states.
        stated: Incarnation,
        /// The node that keeps the record.
        us: NodeId,
        /// What is recorded of the other.
        recorded: Incarnation,
    },
    /// The caller has this node's own id.
    #[error("two nodes have the id {node}: one of incarnation {stated}, one of {ours}; give one of them another id")]
    SameId {
        /// The id.
        node: NodeId,
        /// The caller's incarnation.
        stated: Incarnation,
        /// This node's.
        ours: Incarnation,
    },
}

impl Handshake {
    /// What `from` says when it calls `to`.
    pub fn new(from: Identity, to: NodeId) -> Self {
        Self { protocol: PROTOCOL, from, to }
    }

    /// A request that carries this.
    pub fn stamp<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert(PROTOCOL_KEY, MetadataValue::from(self.protocol));
        metadata.insert(CLUSTER_KEY, MetadataValue::from(self.from.cluster.0));
        metadata.insert(FROM_KEY, MetadataValue::from(self.from.node.0));
        metadata.insert(FROM_INCARNATION_KEY, MetadataValue::from(self.from.incarnation.0));
        metadata.insert(TO_KEY, MetadataValue::from(self.to.0));
        request
    }

    /// Reads what a call carries. Fails if something is absent, or not a number, or the caller is nobody.
    pub fn read(metadata: &MetadataMap) -> Result<Self, Mismatch> {
        let protocol = number(metadata, PROTOCOL_KEY)?;
        let from = Identity {
            cluster: ClusterId(number(metadata, CLUSTER_KEY)?),
            node: NodeId(number(metadata, FROM_KEY)?),
            incarnation: Incarnation(number(metadata, FROM_INCARNATION_KEY)?),
        };
        if from.node == NodeId::NONE {
            return Err(Mismatch::Metadata(FROM_KEY));
        }
        let protocol = u32::try_from(protocol).map_err(|_| Mismatch::Metadata(PROTOCOL_KEY))?;
        Ok(Self { protocol, from, to: NodeId(number(metadata, TO_KEY)?) })
    }

    /// Checks a call that `us` received. `recorded` is the caller's incarnation in the membership, zero if not known.
    pub fn check(&self, us: &Identity, purpose: Purpose, recorded: Incarnation) -> Result<(), Mismatch> {
        let Identity { cluster, node, incarnation } = self.from;
        if self.protocol != PROTOCOL {
            return Err(Mismatch::Protocol { from: node, theirs: self.protocol, us: us.node });
        }
        let asks_who = purpose == Purpose::Identify;
        let not_begun = cluster == ClusterId(0) || us.cluster == ClusterId(0);
        if cluster != us.cluster && !(asks_who && not_begun) {
            return Err(Mismatch::Cluster { from: node, theirs: cluster, us: us.node, ours: us.cluster });
        }
        if self.to != us.node && !(asks_who && self.to == NodeId::NONE) {
            return Err(Mismatch::Addressee { from: node, wanted: self.to, found: us.node });
        }
        if node == us.node && !(asks_who && incarnation == us.incarnation) {
            return Err(Mismatch::SameId { node, stated: incarnation, ours: us.incarnation });
        }
        // A node that begins anew under a known id learns from the answer that it can't come back just so.
        if !(asks_who && not_begun) {
            check_incarnation(&self.from, us, recorded)?;
        }
        Ok(())
    }
}

/// Checks what the node at an address says of itself, when `us` means to reach `peer` there. `recorded` is the peer's
/// incarnation in the membership, zero if not known. A cluster of zero, not begun yet, passes.
pub fn check_answer(
    answer: &IdentifyReply,
    us: &Identity,
    peer: NodeId,
    recorded: Incarnation,
) -> Result<(), Mismatch> {
    let member = answer.self_.as_ref();
    let found = Identity {
        cluster: ClusterId(answer.cluster_id),
        node: NodeId(member.map_or(0, |member| member.id)),
        incarnation: Incarnation(member.map_or(0, |member| member.incarnation)),
    };
    if answer.protocol != PROTOCOL {
        return Err(Mismatch::Protocol { from: found.node, theirs: answer.protocol, us: us.node });
    }
    if found.node != peer {
        return Err(Mismatch::Addressee { from: us.node, wanted: peer, found: found.node });
    }
    if found.cluster != us.cluster && found.cluster != ClusterId(0) {
        return Err(Mismatch::Cluster { from: found.node, theirs: found.cluster, us: us.node, ours: us.cluster });
    }
    check_incarnation(&found, us, recorded)
}

fn check_incarnation(them: &Identity, us: &Identity, recorded: Incarnation) -> Result<(), Mismatch> {
    if recorded == Incarnation(0) || recorded == them.incarnation {
        return Ok(());
    }
    Err(Mismatch::Incarnation { node: them.node, stated: them.incarnation, us: us.node, recorded })
}

fn number(metadata: &MetadataMap, key: &'static str) -> Result<u64, Mismatch> {
    let value = metadata.get(key).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.parse().ok()).ok_or(Mismatch::Metadata(key))
}

impl From<Mismatch> for Status {
    fn from(mismatch: Mismatch) -> Self {
        Self::failed_precondition(mismatch.to_string())
    }
}
