//! The simplest log store and transport there are: both in memory. Good for trying things out; a log in memory promises nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use raft_core::effect::Persist;
use raft_core::membership::Membership;
use raft_core::message::Envelope;
use raft_core::port::{LogStore, Stored, Transport};
use raft_core::types::{Entry, Index, NodeId};
use raftkv_server::node::Mailbox;

/// A log in memory. Clones share it, as a disk would be shared by one start of a node and the next.
#[derive(Clone, Debug)]
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
        let stored = self.0.lock().expect("no thread panicked");
        let mut bytes = 0;
        let wanted = stored.entries.iter().filter(|entry| entry.id.index >= from);
        let fitting = wanted.take_while(|entry| {
            let is_first = bytes == 0;
            bytes += entry.size_bytes();
            is_first || bytes <= max_bytes
        });
        Ok(fitting.cloned().collect())
    }
}

/// A network within the process: each node's mailbox, by its id.
#[derive(Clone, Debug, Default)]
pub struct MemoryNetwork(Arc<Mutex<BTreeMap<NodeId, Mailbox>>>);

impl MemoryNetwork {
    /// Messages to `id` go to `mailbox` from now on.
    pub fn connect(&self, id: NodeId, mailbox: Mailbox) {
        self.0.lock().expect("no thread panicked").insert(id, mailbox);
    }
}

impl Transport for MemoryNetwork {
    fn send(&self, envelope: Envelope) {
        if let Some(mailbox) = self.0.lock().expect("no thread panicked").get(&envelope.to) {
            // A full mailbox drops the message, which Raft allows.
            mailbox.deliver(envelope);
        }
    }

    fn use_membership(&self, _membership: &Membership) {
        // A transport with connections would open and close them here.
    }
}
