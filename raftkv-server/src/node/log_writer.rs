//! The thread that makes the log durable, and reads it back.

use crossbeam_channel::{Receiver, Sender};
use raft_core::effect::Persist;
use raft_core::input::LoadFailed;
use raft_core::port::LogStore;
use raft_core::types::{Entry, Index};

use super::running::{Completion, Ended, Stop};

/// What the log writer is handed.
pub(super) enum LogWork {
    Write(Vec<Persist>),
    Load(Load),
}

/// Entries to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) from: Index,
    pub(super) max_bytes: u64,
}

/// Writes what the core orders: one durable write for all that has queued up, so that many requests share one sync. Between writes, reads
/// what has left memory.
pub(super) struct LogWriter<L> {
    pub(super) log: L,
    pub(super) work: Receiver<LogWork>,
    pub(super) completions: Sender<Completion>,
    pub(super) stop: Stop,
}

impl<L: LogStore> LogWriter<L> {
    /// Works until the driver is gone. A write that fails is the end, for what the store holds is not known any more; and so is a read, for what the
    /// store does not give back now it may not have at the next start.
    pub(super) fn run(mut self) -> Result<(), Ended> {
        while let Ok(first) = self.work.recv() {
            let (mut writes, mut loads) = (Vec::new(), Vec::new());
            for work in std::iter::once(first).chain(self.work.try_iter()) {
                match work {
                    LogWork::Write(more) => writes.extend(more),
                    LogWork::Load(load) => loads.push(load),
                }
            }
            if self.stop.is_set() {
                break;
            }
            // Clients wait for writes; only a follower that is behind waits for a load. What is loaded was durable before, so the order is free.
            self.write(&writes)?;
            loads.into_iter().try_for_each(|load| self.load(load))?;
        }
        Ok(())
    }

    fn write(&mut self, writes: &[Persist]) -> Result<(), Ended> {
        let Some(last) = writes.last() else { return Ok(()) };
        self.log.write(writes).map_err(|error| Ended::Disk(Box::new(error)))?;
        self.report(Completion::Persisted(last.id));
        Ok(())
    }

    fn load(&mut self, Load { from, max_bytes }: Load) -> Result<(), Ended> {
        let entries = self.log.read(from, max_bytes).map_err(|error| Ended::DiskRead(Box::new(error)))?;
        self.report(Completion::Loaded { from, entries: from_index(from, entries) });
        Ok(())
    }

    fn report(&self, completion: Completion) {
        // The driver may have ended meanwhile; then nobody needs to know.
        let _ = self.completions.send(completion);
    }
}

/// The entries, if the one that was asked for is there: it may have been compacted since.
fn from_index(from: Index, entries: Vec<Entry>) -> Result<Vec<Entry>, LoadFailed> {
    match entries.first() {
        Some(first) if first.id.index == from => Ok(entries),
        _ => Err(LoadFailed),
    }
}
