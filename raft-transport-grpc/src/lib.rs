//! Raft messages between peers, over gRPC.
//!
//! The core's messages are asynchronous and on their own; the wire has the RPCs that the Raft paper names. Each pair of nodes has
//! two connections, one for what each of them asks:
//!
//! ```text
//!     core ── send(RequestVote, AppendEntries, …) ► link ══ our connection ══► the peer
//!          ◄── deliver(its replies) ─────────────────┘
//!
//!     core ◄── deliver(its requests) ──────────┐
//!          ── send(our replies) ──► inbound ══ its connection ══ the peer
//! ```
//!
//! A [`link`](PeerStatus) is a task of its own with a bounded queue, so a peer that is slow or gone holds up nobody, and
//! what can't be sent now is dropped: Raft sends anew. Before anything is sent, [`Identify`](handshake) has shown that
//! the peer is who it should be; its address alone is no proof.
//!
//! What comes in goes to the [`Recipient`] that the transport is made with: the node's mailbox. The data of a snapshot goes past the core, from a
//! [`Capture`](raft_core::port::Capture) here to the [`Staging`](raft_core::port::Staging) of the peer, on a connection of its own, so that
//! it holds up nothing else; the message itself is delivered there once all its data is durable.
//!
//! [`GrpcTransport`] is the port that the driver sends through, and has a method for each RPC that the server delegates to.

pub mod convert;
pub mod handshake;

mod address_book;
mod backoff;
mod destination;
mod dial;
mod error;
mod inbound;
mod link;
mod local;
mod options;
mod outgoing;
mod pace;
mod reception;
mod recipient;
mod session;
mod throttle;
mod transport;

pub use dial::identify;
pub use error::Error;
pub use link::PeerStatus;
pub use options::Options;
pub use recipient::Recipient;
pub use throttle::Throttle;
pub use transport::{AppendEntriesStream, GrpcTransport, InstallSnapshotStream};
