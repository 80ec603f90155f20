//! Snapshots in memory: all that a state machine needs whose state fits there as one piece of bytes.
//!
//! Its `capture` is a [`MemoryCapture`] of its state as bytes, its `staging` a clone of the one [`MemoryStaging`] that it keeps, and its `install` takes the
//! bytes from there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use raft_core::port::{Capture, SnapshotError, Staging};
use raft_core::types::EntryId;

/// A copy of a state that is held in memory.
#[derive(Clone, Debug)]
pub struct MemoryCapture {
    last: EntryId,
    state: Bytes,
}

impl MemoryCapture {
    /// `state` includes all entries up to `last`.
    pub fn new(last: EntryId, state: impl Into<Bytes>) -> Self {
        Self { last, state: state.into() }
    }
}

impl Capture for MemoryCapture {
    fn last(&self) -> EntryId {
        self.last
    }

    fn size_bytes(&self) -> u64 {
        self.state.len() as u64
    }

    fn read(&mut self, offset: u64, max_bytes: usize) -> Result<Bytes, SnapshotError> {
        let start = self.state.len().min(usize::try_from(offset)?);
        let end = self.state.len().min(start.saturating_add(max_bytes));
        Ok(self.state.slice(start..end))
    }
}

/// Puts states together in memory. Clones share them: one is given to the transport, the other stays with the state machine.
#[derive(Clone, Debug, Default)]
pub struct MemoryStaging(Arc<Mutex<Received>>);

#[derive(Debug, Default)]
struct Received {
    receiving: Option<Receiving>,
    /// Those that are whole, oldest first: one may wait to be installed when the next arrives.
    whole: Vec<MemoryCapture>,
}

#[derive(Debug)]
struct Receiving {
    capture: u64,
    last: EntryId,
    size_bytes: u64,
    state: Vec<u8>,
}

/// How many may be whole and not installed. More arrive only where one never will be, its message having been lost.
const MAX_WHOLE: usize = 2;

/// Why a snapshot could not be received or installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StagingError {
    /// Another capture has taken its place, or it never began.
    #[error("this snapshot is not being received")]
    NotReceiving,
    /// The bytes leave a gap or repeat what is there.
    #[error("{found} bytes have arrived, and more come for offset {offset}")]
    Offset {
        /// How many are there.
        found: u64,
        /// Where those that came begin.
        offset: u64,
    },
    /// There are more or fewer bytes than were announced.
    #[error("the snapshot has {found} bytes instead of {expected}")]
    Size {
        /// How many came.
        found: u64,
        /// How many should.
        expected: u64,
    },
    /// The snapshot to install was not received, or not by this process.
    #[error("there is no snapshot up to {0} to install")]
    Missing(EntryId),
}

impl MemoryStaging {
    /// The state up to `last` that was received, to be installed. It and all older ones are then forgotten.
    pub fn take(&self, last: EntryId) -> Result<Bytes, StagingError> {
        let mut received = self.lock();
        let position = received.whole.iter().position(|capture| capture.last == last);
        let taken = received.whole.remove(position.ok_or(StagingError::Missing(last))?);
        received.whole.retain(|capture| capture.last.index > last.index);
        Ok(taken.state)
    }

    fn lock(&self) -> MutexGuard<'_, Received> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Received {
    fn receiving(&mut self, capture: u64) -> Result<&mut Receiving, StagingError> {
        self.receiving.as_mut().filter(|receiving| receiving.capture == capture).ok_or(StagingError::NotReceiving)
    }
}

impl Receiving {
    fn found(&self) -> u64 {
        self.state.len() as u64
    }
}

impl Staging for MemoryStaging {
    fn begin(&self, capture: u64, last: EntryId, size_bytes: u64) -> Result<u64, SnapshotError> {
        let mut received = self.lock();
        let is_known = |receiving: &&Receiving| {
            (receiving.capture, receiving.last, receiving.size_bytes) == (capture, last, size_bytes)
        };
        if let Some(receiving) = received.receiving.as_ref().filter(is_known) {
            return Ok(receiving.found());
        }
        received.receiving = Some(Receiving { capture, last, size_bytes, state: Vec::new() });
        Ok(0)
    }

    fn write(&self, capture: u64, offset: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        let mut received = self.lock();
        let receiving = received.receiving(capture)?;
        let found = receiving.found();
        if offset != found {
            return Err(StagingError::Offset { found, offset }.into());
        }
        let (found, expected) = (found + bytes.len() as u64, receiving.size_bytes);
        if found > expected {
            return Err(StagingError::Size { found, expected }.into());
        }
        receiving.state.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&self, capture: u64) -> Result<(), SnapshotError> {
        let mut received = self.lock();
        let receiving = received.receiving(capture)?;
        let (found, expected) = (receiving.found(), receiving.size_bytes);
        if found != expected {
            return Err(StagingError::Size { found, expected }.into());
        }
        let whole = MemoryCapture::new(receiving.last, std::mem::take(&mut receiving.state));
        received.receiving = None;
        received.whole.retain(|capture| capture.last != whole.last);
        received.whole.push(whole);
        if received.whole.len() > MAX_WHOLE {
            received.whole.remove(0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use raft_core::types::{Index, Term};

    use super::*;

    fn last(index: u64) -> EntryId {
        EntryId::new(Index(index), Term(1))
    }

    fn receive(staging: &MemoryStaging, capture: u64, index: u64, state: &[u8]) {
        assert_eq!(staging.begin(capture, last(index), state.len() as u64).unwrap(), 0);
        staging.write(capture, 0, state).unwrap();
        staging.finish(capture).unwrap();
    }

    #[test]
    fn a_capture_is_read_piece_by_piece() {
        let mut capture = MemoryCapture::new(last(7), &b"hello"[..]);
        assert_eq!((capture.last(), capture.size_bytes()), (last(7), 5));
        assert_eq!(capture.read(0, 2).unwrap(), "he");
        assert_eq!(capture.read(2, 100).unwrap(), "llo");
        assert_eq!(capture.read(1, 1).unwrap(), "e");
        assert!(capture.read(5, 1).unwrap().is_empty());
        assert!(capture.read(u64::MAX, usize::MAX).unwrap().is_empty());
    }

    #[test]
    fn a_transfer_goes_on_after_a_break() {
        let staging = MemoryStaging::default();
        staging.begin(1, last(7), 5).unwrap();
        staging.write(1, 0, b"he").unwrap();
        assert!(staging.finish(1).is_err(), "it is not whole");
        assert_eq!(staging.begin(1, last(7), 5).unwrap(), 2);
        assert!(staging.write(1, 0, b"he").is_err(), "it is there already");
        assert!(staging.write(1, 2, b"llo!").is_err(), "that is too much");
        staging.write(1, 2, b"llo").unwrap();
        staging.finish(1).unwrap();
        assert_eq!(staging.take(last(7)).unwrap(), "hello");
        assert_eq!(staging.take(last(7)), Err(StagingError::Missing(last(7))));
    }

    #[test]
    fn another_transfer_takes_its_place() {
        let staging = MemoryStaging::default();
        staging.begin(1, last(7), 5).unwrap();
        staging.write(1, 0, b"he").unwrap();
        assert_eq!(staging.begin(2, last(7), 5).unwrap(), 0);
        assert!(staging.write(1, 2, b"llo").is_err());
        assert!(staging.finish(1).is_err());
    }

    #[test]
    fn what_waits_to_be_installed_is_not_replaced() {
        let staging = MemoryStaging::default();
        receive(&staging, 1, 7, b"first");
        receive(&staging, 2, 9, b"second");
        assert_eq!(staging.take(last(7)).unwrap(), "first");
        assert_eq!(staging.take(last(9)).unwrap(), "second");
    }

    #[test]
    fn what_nobody_installs_is_forgotten() {
        let staging = MemoryStaging::default();
        for index in 1..=5 {
            receive(&staging, index, index, b"state");
        }
        assert!(staging.take(last(3)).is_err());
        assert!(staging.take(last(5)).is_ok());
        assert!(staging.take(last(4)).is_err(), "it is older than what was installed");
    }
}
