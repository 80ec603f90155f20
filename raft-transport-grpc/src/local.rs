//! What all connections share: who this node is, where its peers are, and where messages go.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use raft_core::message::{Envelope, Message};
use raft_core::types::{Identity, Member, NodeId, Term};
use raftkv_proto::raft::v1::IdentifyReply;

use tonic::Status;
use tracing::warn;

use crate::address_book::AddressBook;
use crate::convert::{self, Malformed};
use crate::handshake::{Mismatch, PROTOCOL};
use crate::options::Options;
use crate::recipient::Recipient;
use crate::throttle::Throttle;

/// This node, as its connections see it.
pub(crate) struct Local {
    pub(crate) identity: Identity,
    /// Where others reach it.
    pub(crate) address: String,
    pub(crate) options: Options,
    pub(crate) recipient: Box<dyn Recipient>,
    book: Mutex<AddressBook>,
    refusals: Throttle,
}

impl Local {
    pub(crate) fn new(identity: Identity, address: String, options: Options, recipient: Box<dyn Recipient>) -> Self {
        Self { identity, address, options, recipient, book: Mutex::default(), refusals: Throttle::default() }
    }

    /// The address book. Not to be held over an `await`.
    pub(crate) fn book(&self) -> MutexGuard<'_, AddressBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a peer's message to the core. Returns whether it was taken.
    pub(crate) fn deliver(&self, from: NodeId, term: Term, message: Message) -> bool {
        self.recipient.deliver(Envelope { from, to: self.identity.node, term, message })
    }

    /// Refuses a caller, and says so in the log.
    pub(crate) fn refuse(&self, from: NodeId, mismatch: Mismatch) -> Status {
        if self.refusals.admits(from, &mismatch.to_string()) {
            warn!(peer = %from, "refused a call: {mismatch}");
        }
        mismatch.into()
    }

    /// Refuses a message, and says so in the log.
    pub(crate) fn refuse_malformed(&self, from: NodeId, malformed: &Malformed) -> Status {
        if self.refusals.admits(from, &malformed.to_string()) {
            warn!(peer = %from, "refused a message that makes no sense: {malformed}");
        }
        match malformed {
            // The next attempt may do better.
            Malformed::Checksum { .. } => Status::data_loss(malformed.to_string()),
            _ => Status::invalid_argument(malformed.to_string()),
        }
    }

    /// What this node says of itself.
    pub(crate) fn describe(&self) -> IdentifyReply {
        let Identity { cluster, node, incarnation } = self.identity;
        let book = self.book();
        let this = Member { address: self.address.clone(), incarnation, priority: book.priority(node) };
        let this = convert::member_to_wire(node, this);
        let members = book.members().map(|(id, member)| match id == node {
            true => this.clone(),
            false => convert::member_to_wire(id, member),
        });
        let members = members.collect();
        let contract = self.options.contract.clone();
        IdentifyReply {
            protocol: PROTOCOL,
            self_: Some(this),
            cluster_id: cluster.0,
            members,
            complete: true,
            contract,
        }
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
