//! What the services reach: the lobby before the node has begun, and the running node afterwards.

use std::sync::OnceLock;

use raft_core::types::{ClusterId, Identity, Incarnation, NodeId};
use raft_transport_grpc::GrpcTransport;
use raft_transport_grpc::convert::{Malformed, member_to_wire, members_from_wire};
use raftkv_proto::raft::v1 as wire;

use crate::admin::Admin;
use crate::begin::{Lobby, Members, Statement};
use crate::removal::Removal;
use crate::store::Store;
use crate::verification::Verification;

/// Lets requests through once the node runs.
#[derive(Debug)]
pub struct Gate {
    id: NodeId,
    /// Where others reach this node.
    address: String,
    lobby: Lobby,
    open: OnceLock<Open>,
}

/// A node that runs.
#[derive(Debug)]
pub struct Open {
    /// Who it is.
    pub identity: Identity,
    /// Runs commands and reads.
    pub store: Store,
    /// Changes the membership, and who leads.
    pub admin: Admin,
    /// Talks to the peers.
    pub transport: GrpcTransport,
    /// Compares the state with those of the others.
    pub verification: Verification,
    /// Whether this node was removed without being told.
    pub(crate) removal: Removal,
}

impl Gate {
    /// The gate of a node that others reach at `address`. It stays closed until [`open`](Self::open).
    pub fn new(id: NodeId, address: String, lobby: Lobby) -> Self {
        Self { id, address, lobby, open: OnceLock::new() }
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Where others reach it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What this node says before it has begun.
    pub fn lobby(&self) -> &Lobby {
        &self.lobby
    }

    /// Lets requests through from now on.
    ///
    /// # Panics
    /// If it was opened before.
    pub fn open(&self, open: Open) {
        assert!(self.open.set(open).is_ok(), "a node begins once");
    }

    /// The running node; none before it has begun.
    pub fn opened(&self) -> Option<&Open> {
        self.open.get()
    }

    /// What this node says of itself now.
    pub fn statement(&self) -> Statement {
        let lobby = self.lobby.statement();
        match self.opened() {
            None => lobby,
            Some(open) => Statement {
                cluster: open.identity.cluster,
                members: open.store.status().membership.members,
                complete: true,
                ..lobby
            },
        }
    }
}

impl From<Statement> for wire::IdentifyReply {
    fn from(statement: Statement) -> Self {
        let Statement { protocol, id, member, cluster, members, complete, contract } = statement;
        Self {
            protocol,
            self_: Some(member_to_wire(id, member)),
            cluster_id: cluster.0,
            members: members.into_iter().map(|(id, member)| member_to_wire(id, member)).collect(),
            complete,
            contract: contract.to_string(),
        }
    }
}

impl TryFrom<wire::IdentifyReply> for Statement {
    type Error = Malformed;

    fn try_from(reply: wire::IdentifyReply) -> Result<Self, Malformed> {
        let this: Members = members_from_wire(reply.self_.into_iter().collect())?;
        let (id, member) = this.into_iter().next().ok_or(Malformed::Missing("self"))?;
        if member.incarnation == Incarnation::default() {
            return Err(Malformed::Missing("self.incarnation"));
        }
        Ok(Self {
            protocol: reply.protocol,
            id,
            member,
            cluster: ClusterId(reply.cluster_id),
            members: members_from_wire(reply.members)?,
            complete: reply.complete,
            contract: reply.contract.as_str().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use raft_core::types::Member;
    use raft_store_sqlite::Contract;
    use raft_transport_grpc::handshake::PROTOCOL;

    use super::*;

    #[test]
    fn a_statement_survives_the_wire() {
        let member = |address: &str| Member { address: address.to_owned(), incarnation: Incarnation(7), priority: 0 };
        let statement = Statement {
            protocol: PROTOCOL,
            id: NodeId(1),
            member: member("a:1"),
            cluster: ClusterId(9),
            members: [(NodeId(1), member("a:1")), (NodeId(2), member("b:1"))].into(),
            complete: true,
            contract: Contract::from("rules=1 sqlite=3.54.1"),
        };
        let reply = wire::IdentifyReply::from(statement.clone());
        assert_eq!(Statement::try_from(reply), Ok(statement));
    }

    #[test]
    fn a_statement_without_a_speaker_is_refused() {
        let nobody = wire::IdentifyReply { protocol: PROTOCOL, ..Default::default() };
        assert_eq!(Statement::try_from(nobody), Err(Malformed::Missing("self")));
        let this = Some(wire::Member { id: 1, ..Default::default() });
        let diskless = wire::IdentifyReply { self_: this, ..Default::default() };
        assert_eq!(Statement::try_from(diskless), Err(Malformed::Missing("self.incarnation")));
    }
}
