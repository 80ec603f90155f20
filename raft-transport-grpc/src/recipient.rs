//! Who hears what comes in.

use raft_core::message::Envelope;
use raft_core::types::NodeId;

/// Where the transport puts what the core must hear: the node's mailbox. Called on the runtime's threads and with locks held, so no method may block
/// or call the transport.
pub trait Recipient: Send + Sync + 'static {
    /// Takes a peer's message, for [`Input::Receive`](raft_core::input::Input::Receive). Returns `false` if it can't; the message is lost then.
    fn deliver(&self, envelope: Envelope) -> bool;

    /// A part of the snapshot for `to` has arrived there, for [`Input::SnapshotProgress`](raft_core::input::Input::SnapshotProgress). Said
    /// often, and may be lost.
    fn snapshot_progress(&self, to: NodeId);

    /// The transfer of the snapshot for `to` has ended, for [`Input::SnapshotSent`](raft_core::input::Input::SnapshotSent). Said exactly once of each
    /// [`send_snapshot`](raft_core::port::Transport::send_snapshot) that no newer one to the same peer has replaced, unless the transport is
    /// closed before. Must not be lost.
    fn snapshot_sent(&self, to: NodeId, arrived: bool);
}
