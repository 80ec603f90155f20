//! A node's settings.

use std::time::Duration;

use raft_core::config::Config;
use raft_core::types::NodeId;

/// A node's settings. All numbers are at least 1.
#[derive(Clone, Debug)]
pub struct Options {
    /// The core's settings. Give it a seed of its own at every start. Its `lease` is in microseconds.
    pub core: Config,
    /// How long a tick of the core's clock is.
    pub tick: Duration,
    /// How many requests may wait for their outcome.
    pub max_waiting_requests: usize,
    /// How many bytes of commands may wait for their outcome, not counting the command that passes the limit.
    pub max_waiting_bytes: u64,
    /// How many commands are proposed together, and how many entries are applied in one transaction.
    pub max_batch_commands: usize,
    /// How many bytes are proposed together, and applied in one transaction, not counting the command that passes the limit.
    pub max_batch_bytes: u64,
    /// How many messages from peers may wait.
    pub max_inbox_messages: usize,
    /// How many bytes of messages from peers may wait, not counting the message that passes the limit.
    pub max_inbox_bytes: u64,
    /// How long a stopping node waits for the outcome of the requests under way. Zero: not at all. A leader may take an election timeout besides, to hand
    /// over.
    pub shutdown_grace: Duration,
}

impl Options {
    /// Defaults for node `id`: ticks of 10 ms, so elections after 150 to 300 ms.
    pub fn new(id: NodeId) -> Self {
        Self {
            core: Config::new(id),
            tick: Duration::from_millis(10),
            max_waiting_requests: 8192,
            max_waiting_bytes: 64 << 20,
            max_batch_commands: 1024,
            max_batch_bytes: 1 << 20,
            max_inbox_messages: 4096,
            max_inbox_bytes: 64 << 20,
            shutdown_grace: Duration::from_secs(1),
        }
    }

    /// The name of a setting that is zero and must not be, if there is one.
    pub(super) fn zero(&self) -> Option<&'static str> {
        let settings = [
            ("tick", self.tick.is_zero()),
            ("max_waiting_requests", self.max_waiting_requests == 0),
            ("max_waiting_bytes", self.max_waiting_bytes == 0),
            ("max_batch_commands", self.max_batch_commands == 0),
            ("max_batch_bytes", self.max_batch_bytes == 0),
            ("max_inbox_messages", self.max_inbox_messages == 0),
            ("max_inbox_bytes", self.max_inbox_bytes == 0),
        ];
        settings.into_iter().find_map(|(name, is_zero)| is_zero.then_some(name))
    }
}
