//! What all connections share: who this node is, where its peers are, and where messages go.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use raft_core::message::{Envelope, Message};
use raft_core::types::{Identity, Member, NodeId, Term};
use raftkv_proto::raft::v1::IdentifyReply;

use crate::address_book::AddressBook;
use crate::convert;
use crate::handshake::PROTOCOL;
use crate::options::Options;

/// Takes a message for the core; `false` if it can't, and the message is lost.
pub(crate) type Deliver = Box<dyn Fn(Envelope) -> bool + Send + Sync>;

/// This node, as its connections see it.
pub(crate) struct Local {
    pub(crate) identity: Identity,
    /// Where others reach it.
    pub(crate) address: String,
    pub(crate) options: Options,
    deliver: Deliver,
    book: Mutex<AddressBook>,
}

impl Local {
    pub(crate) fn new(identity: Identity, address: String, options: Options, deliver: Deliver) -> Self {
        Self { identity, address, options, deliver, book: Mutex::default() }
    }

    /// The address book. Not to be held over an `await`.
    pub(crate) fn book(&self) -> MutexGuard<'_, AddressBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a peer's message to the core. Returns whether it was taken.
    pub(crate) fn deliver(&self, from: NodeId, term: Term, message: Message) -> bool {
        (self.deliver)(Envelope { from, to: self.identity.node, term, message })
    }

    /// What this node says of itself.
    pub(crate) fn describe(&self) -> IdentifyReply {
        let Identity { cluster, node, incarnation } = self.identity;
        let this = convert::member_to_wire(node, Member { address: self.address.clone(), incarnation });
        let book = self.book();
        let members = book.members().map(|(id, member)| match id == node {
            true => this.clone(),
            false => convert::member_to_wire(id, member),
        });
        let members = members.collect();
        IdentifyReply { protocol: PROTOCOL, self_: Some(this), cluster_id: cluster.0, members, complete: true }
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local")
            .field("identity", &self.identity)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
