//! Three nodes in memory, driven by raft-core, by raft-rs and by openraft, all doing the same work.
//!
//! A [`Load`] is a number of commands in batches. Several batches, the [`window`](Load::window), are proposed at once; when they are through, the next.
//! A run ends when every command is committed on the leader and applied on all three nodes.
//!
//! What is the same for all:
//!
//! - The payloads are made before the run and reference-counted, so none copies them. Messages are handed over as they are, without a codec.
//! - Durable means handed to a list of what was written. An entry is acknowledged, and counted by the leader, only after that.
//! - Applying counts the commands and their bytes, which must be all in the end.
//! - A node takes in all that waits for it before it writes once for all of that (where it lets its driver choose, as raft-core and raft-rs do), and does
//!   nothing where nothing waits.
//! - What a node receives is its own: no two nodes share entries, as they could not across a network.
//! - One thread. Pre-vote and check-quorum are on where there is a choice, and up to 1 MiB goes into one message.
//! - Followers learn of the last commit by a heartbeat, except openraft's, who are told at once.
//!
//! What differs:
//!
//! - **raft-core** is driven by inputs and effects, by `step_all`. A batch is one `Propose`. The log, the write and the state machine of a node share its
//!   entries; the driver copies those of a message on their way to another node.
//! - **raft-rs** is driven by its ready loop, over a store of our own that has no locks and takes entries by value, as its `MemStorage` does not. A batch
//!   is one `MsgPropose` with many entries. It copies entries itself, for its store, for each message and for applying them. Commits are not sent by
//!   themselves (`skip_bcast_commit`), and appends that wait for the same follower become one (`batch_append`): both make it faster.
//! - **openraft** drives itself, in tasks of a tokio runtime of one thread. A batch is as many `client_write_ff` as it has commands, all sent before
//!   any is awaited. It answers when the leader has applied. Its tasks, channels and timers are in its figures; it has no way to do without.

pub mod core_cluster;
pub mod openraft_cluster;
pub mod raft_rs_cluster;

use bytes::Bytes;

/// The sizes of a batch that are measured, in commands.
pub const BATCHES: [usize; 3] = [1, 16, 256];

/// The sizes of a payload that are measured, in bytes.
pub const PAYLOADS: [usize; 3] = [16, 256, 4096];

/// How many commands a run has: enough for many rounds, and no more than nodes keep in memory.
pub const RUN_COMMANDS: usize = 8192;

/// What is to be replicated.
#[derive(Clone, Debug)]
pub struct Load {
    /// How many commands there are, a multiple of `batch`.
    pub commands: usize,
    /// How many commands are proposed together.
    pub batch: usize,
    /// How many batches are proposed before the first is awaited.
    pub window: usize,
    /// Each command.
    pub payload: Bytes,
}

impl Load {
    /// A run of `batch` commands of `payload_bytes` each at a time.
    pub fn new(batch: usize, payload_bytes: usize, window: usize) -> Self {
        Self { commands: RUN_COMMANDS, batch, window, payload: Bytes::from(vec![b'x'; payload_bytes]) }
    }

    /// How many batches each round proposes.
    fn rounds(&self) -> impl Iterator<Item = usize> {
        let batches = self.commands / self.batch;
        (0..batches).step_by(self.window).map(move |done| self.window.min(batches - done))
    }
}

/// Three nodes with a leader.
pub trait Cluster {
    /// What to call it in a table.
    const NAME: &str;

    /// Starts the nodes, and waits for one to lead.
    fn start() -> Self;

    /// Replicates the load, until it is applied on all nodes.
    fn replicate(&mut self, load: &Load);
}

/// What a state machine was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// How many commands.
    pub commands: usize,
    /// How many bytes they had.
    pub bytes: usize,
}

impl Applied {
    fn add(&mut self, command: &[u8]) {
        self.commands += 1;
        self.bytes += command.len();
    }

    /// After one more load.
    fn after(self, load: &Load) -> Self {
        let bytes = self.bytes + load.commands * load.payload.len();
        Self { commands: self.commands + load.commands, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster that did not apply everything would never come to an end.
    fn replicates<C: Cluster>() {
        let mut cluster = C::start();
        for (batch, window) in [(1, 1), (16, 3), (256, 4)] {
            cluster.replicate(&Load { commands: 512, ..Load::new(batch, 16, window) });
        }
    }

    #[test]
    fn all_replicate() {
        replicates::<core_cluster::CoreCluster>();
        replicates::<raft_rs_cluster::RaftRsCluster>();
        replicates::<openraft_cluster::OpenraftCluster>();
    }
}
