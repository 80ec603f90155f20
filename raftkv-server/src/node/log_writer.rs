//! The thread that makes the log durable.

use crossbeam_channel::{Receiver, Sender};
use raft_core::effect::Persist;
use raft_core::port::LogStore;

use super::running::{Completion, Ended, Stop};

/// Writes what the core orders: one durable write for all that has queued up, so that many requests share one sync.
pub(super) struct LogWriter<L> {
    pub(super) log: L,
    pub(super) writes: Receiver<Vec<Persist>>,
    pub(super) completions: Sender<Completion>,
    pub(super) stop: Stop,
}

impl<L: LogStore> LogWriter<L> {
    /// Writes until the driver is gone. A write that fails is the end: what the store holds is not known any more.
    pub(super) fn run(mut self) -> Result<(), Ended> {
        while let Ok(first) = self.writes.recv() {
            let mut writes = first;
            writes.extend(self.writes.try_iter().flatten());
            if self.stop.is_set() {
                break;
            }
            self.log.write(&writes).map_err(|error| Ended::Disk(Box::new(error)))?;
            if let Some(last) = writes.last() {
                // The driver may have ended meanwhile; then nobody needs to know.
                let _ = self.completions.send(Completion::Persisted(last.id));
            }
        }
        Ok(())
    }
}
