//! The simplest log store and transport there are: both in memory. Good for trying things out; a log in memory promises nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use raft_core::effect::Persist;
use raft_core::membership::Membership;
use raft_core::message::Envelope;
use raft_core::port::{Capture, LogStore, SnapshotError, Staging, Stored, Transport};
use raft_core::types::{Entry, Index, NodeId};
use raftkv_server::node::Mailbox;

/// A log in memory; an empty one for a node that waits to be added to a cluster. Clones share it, as a disk would be shared by one start of a node
/// and the next.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog(Arc<Mutex<Stored>>);

impl MemoryLog {
    /// The log of a node of a new cluster.
    pub fn first(membership: Membership) -> Self {
        Self(Arc::new(Mutex::new(Stored::first(membership))))
    }
}

impl LogStore for MemoryLog {
    type Error = Infallible;

    fn load(&mut self) -> Result<Stored, Infallible> {
        Ok(self.0.lock().expect("no thread panicked").clone())
    }

    fn write(&mut self, writes: &[Persist]) -> Result<(), Infallible> {
        let mut stored = self.0.lock().expect("no thread panicked");
        writes.iter().for_each(|write| stored.carry_out(write));
        Ok(())
    }

    fn read(&mut self, from: Index, max_bytes: u64) -> Result<Vec<Entry>, Infallible> {
        Ok(self.0.lock().expect("no thread panicked").read(from, max_bytes))
    }
}

/// A network within the process.
#[derive(Clone, Default)]
pub struct MemoryNetwork(Arc<Mutex<BTreeMap<NodeId, Peer>>>);

/// Where a node's messages go, and the data of the snapshots that it receives.
#[derive(Clone)]
struct Peer {
    mailbox: Mailbox,
    staging: Arc<dyn Staging>,
}

impl MemoryNetwork {
    /// Messages to `id` go to `mailbox` from now on, and snapshots to `staging`.
    pub fn connect(&self, id: NodeId, mailbox: Mailbox, staging: Arc<dyn Staging>) {
        self.0.lock().expect("no thread panicked").insert(id, Peer { mailbox, staging });
    }

    fn peer(&self, id: NodeId) -> Option<Peer> {
        self.0.lock().expect("no thread panicked").get(&id).cloned()
    }
}

impl Transport for MemoryNetwork {
    fn send(&self, envelope: Envelope) {
        if let Some(peer) = self.peer(envelope.to) {
            // A full mailbox drops the message, which Raft allows.
            peer.mailbox.deliver(envelope);
        }
    }

    fn send_snapshot(&self, envelope: Envelope, mut capture: Box<dyn Capture>) {
        let (from, to) = (envelope.from, envelope.to);
        let copied = self
            .peer(to)
            .is_some_and(|peer| copy(&mut *capture, &*peer.staging).is_ok() && peer.mailbox.deliver(envelope));
        if let Some(sender) = self.peer(from) {
            sender.mailbox.snapshot_sent(to, copied);
        }
    }

    fn use_membership(&self, _membership: &Membership) {
        // A transport with connections would open and close them here.
    }
}

/// Copies all at once, since it goes nowhere. A transport with connections would send piece by piece, in the background.
fn copy(capture: &mut dyn Capture, staging: &dyn Staging) -> Result<(), SnapshotError> {
    const NUMBER: u64 = 1;
    let size_bytes = capture.size_bytes();
    let offset = staging.begin(NUMBER, capture.last(), size_bytes)?;
    let state = capture.read(offset, usize::try_from(size_bytes)?)?;
    staging.write(NUMBER, offset, &state)?;
    staging.finish(NUMBER)
}
