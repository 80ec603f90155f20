//! States at marks: shown to whoever computes checksums, while more entries are applied.
//!
//! [`Operation::Mark`](crate::Operation::Mark) ends its transaction, so that the state can be looked at just as it is there: on a connection whose transaction
//! began before anything more was applied. As long as that is open, the write-ahead log of the state is moved into the file only up to
//! there, and grows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use raft_core::types::{EntryId, Index};
use rusqlite::{Connection, ErrorCode};

use super::{Checksum, DOING, compute, pin};
use crate::error::Error;
use crate::state_file::StateFile;

/// How long a computation works before it leaves the processor and the disk to others for as long.
const STRETCH: Duration = Duration::from_millis(5);
/// How many of SQLite's steps go by between looks at the clock: less than that takes.
const STEPS: i32 = 1000;

/// Waits for marks that a state machine applies. Where several come before they are asked for, only the last is to be had.
pub struct Marks(Arc<Board>);

/// The state at a mark.
pub struct Marked {
    connection: Connection,
    at: EntryId,
    size_bytes: u64,
    board: Arc<Board>,
    /// Keeps the folder locked.
    _file: Arc<StateFile>,
}

/// The state machine's side. Dropping it ends all waiting and computing.
pub(crate) struct Marker(Arc<Board>);

#[derive(Default)]
struct Board {
    latest: Mutex<Option<Result<Marked, Error>>>,
    changed: Condvar,
    /// The index of the last mark that was shown; zero if there was none.
    shown: AtomicU64,
    /// Whether there is someone who takes marks from here.
    is_watched: AtomicBool,
    is_closed: AtomicBool,
}

impl Board {
    fn latest(&self) -> MutexGuard<'_, Option<Result<Marked, Error>>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Lets go of the state that nobody has taken.
    fn clear(&self) {
        drop(self.latest().take());
    }
}

impl Marker {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn marks(&self) -> Marks {
        self.0.is_watched.store(true, Ordering::Release);
        Marks(self.0.clone())
    }

    /// Shows the state, which has just applied `at`, to whoever waits for it.
    pub(crate) fn show(&self, file: &Arc<StateFile>, at: EntryId) {
        if self.0.is_watched.load(Ordering::Acquire) {
            let marked = Marked::pin(file, at, &self.0);
            self.0.shown.store(at.index.0, Ordering::Release);
            *self.0.latest() = Some(marked);
            self.0.changed.notify_all();
        }
    }
}

impl Marker {
    /// Shows nothing any more, and ends all waiting and computing.
    pub(crate) fn close(&self) {
        self.0.is_closed.store(true, Ordering::Release);
        self.0.clear();
        self.0.changed.notify_all();
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        self.close();
    }
}

impl Marks {
    /// The last mark that there was to wait for, whether or not it was taken; zero if there was none.
    pub fn last(&self) -> Index {
        Index(self.0.shown.load(Ordering::Acquire))
    }

    /// Waits for the next mark, and returns the state there, or why there is none to be had. None once the state machine is gone. Blocks.
    #[allow(clippy::should_implement_trait, reason = "it blocks, which must show")]
    pub fn next(&self) -> Option<Result<Marked, Error>> {
        let mut latest = self.0.latest();
        loop {
            if self.0.is_closed() {
                return None;
            }
            if let Some(marked) = latest.take() {
                return Some(marked);
            }
            latest = self.0.changed.wait(latest).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        self.0.is_watched.store(false, Ordering::Release);
        self.0.clear();
    }
}

impl Marked {
    fn pin(file: &Arc<StateFile>, at: EntryId, board: &Arc<Board>) -> Result<Self, Error> {
        let connection = file.take()?.connection;
        let applied = pin(&connection).map_err(Error::sqlite(DOING))?;
        assert!(applied == at, "a state is shown before more is applied to it");
        let count = |pragma| connection.query_row(pragma, [], |row| row.get::<_, u64>(0)).map_err(Error::sqlite(DOING));
        let size_bytes = count("PRAGMA page_count")? * count("PRAGMA page_size")?;
        Ok(Self { connection, at, size_bytes, board: board.clone(), _file: file.clone() })
    }

    /// The mark.
    pub fn at(&self) -> EntryId {
        self.at
    }

    /// The size of the state, in bytes. What there is to be hashed is less.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Computes the checksum of the state, in half of the time of a processor, so that others get on with theirs. Adds to `bytes` how many bytes were hashed. None
    /// if the state machine went meanwhile. Blocks.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn checksum(mut self, bytes: &AtomicU64) -> Result<Option<Checksum>, Error> {
        let (board, mut since) = (self.board.clone(), Instant::now());
        let rest = move || {
            let worked = since.elapsed();
            if worked >= STRETCH {
                sleep(worked);
                since = Instant::now();
            }
            board.is_closed()
        };
        self.connection.progress_handler(STEPS, Some(rest)).map_err(Error::sqlite(DOING))?;
        match compute(&self.connection, self.at, bytes) {
            // Whatever came of it: it may have been cut short.
            _ if self.board.is_closed() => Ok(None),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Ok(None),
            computed => computed.map(Some).map_err(Error::sqlite(DOING)),
        }
    }
}
