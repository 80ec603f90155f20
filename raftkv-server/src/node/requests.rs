//! The requests of a round.

use bytes::Bytes;
use crossbeam_channel::Receiver;
use raft_core::types::Index;

use super::handle::{Confirmation, Proposed, Request};
use super::promise::Promise;

/// Requests that the core is asked for together.
pub(super) struct Batch<R> {
    pub(super) commands: Vec<Bytes>,
    pub(super) proposers: Vec<Promise<Proposed<R>>>,
    pub(super) readers: Vec<Promise<Index>>,
    pub(super) lease_readers: Vec<Promise<Index>>,
    /// What is asked for by itself, rarely.
    pub(super) others: Vec<Request<R>>,
    /// Whether the node is to stop.
    pub(super) shutdown: bool,
}

impl<R> Batch<R> {
    /// Takes what waits, up to the limits. Those whose clients are gone are dropped: nothing was done for them yet.
    pub(super) fn take(requests: &Receiver<Request<R>>, max_requests: usize, max_bytes: u64) -> Self {
        let mut batch = Self {
            commands: Vec::new(),
            proposers: Vec::new(),
            readers: Vec::new(),
            lease_readers: Vec::new(),
            others: Vec::new(),
            shutdown: false,
        };
        let mut bytes = 0;
        for request in requests.try_iter().take(max_requests) {
            bytes += batch.add(request);
            if bytes >= max_bytes {
                break;
            }
        }
        batch
    }

    /// Adds a request, and returns its bytes.
    fn add(&mut self, request: Request<R>) -> u64 {
        match request {
            Request::Propose { command, promise } if !promise.is_abandoned() => {
                let bytes = command.len() as u64;
                self.commands.push(command);
                self.proposers.push(promise);
                return bytes;
            }
            Request::Read { confirmation, promise } if !promise.is_abandoned() => match confirmation {
                Confirmation::Quorum => self.readers.push(promise),
                Confirmation::Lease => self.lease_readers.push(promise),
            },
            Request::Propose { .. } | Request::Read { .. } => (),
            Request::Shutdown => self.shutdown = true,
            other => self.others.push(other),
        }
        0
    }
}
