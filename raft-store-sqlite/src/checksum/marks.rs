//! States at marks: shown to whoever computes checksums, while more entries are applied.
//!
//! [`Operation::Mark`](crate::Operation::Mark) ends its transaction, so that the state can be looked at just as it is there: on a connection whose transaction
//! began before anything more was applied. As long as that is open, the write-ahead log of the state is moved into the file only up to
//! there, and grows. Where it grows a lot, a computation makes haste, and in the end gives up: a comparison can wait, and a full disk can't.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use raft_core::types::{EntryId, Index};
use rusqlite::{Connection, ErrorCode};

use super::{Checksum, DOING, compute, pin};
use crate::error::Error;
use crate::folder::write_ahead_path;
use crate::state_file::StateFile;

/// How long a computation works before it leaves the processor and the disk to others for as long.
const STRETCH: Duration = Duration::from_millis(5);
/// How many of SQLite's steps go by between looks at the clock: less than that takes.
const STEPS: i32 = 1000;
/// How much the write-ahead log may grow before a computation gives up, unless the state is larger than this. From a quarter of it on, it rests no more.
const ROOM_BYTES: u64 = 1 << 30;

/// Waits for marks that a state machine applies. Where several come before they are asked for, only the last is to be had.
pub struct Marks(Arc<Board>);

/// The state at a mark.
pub struct Marked {
    connection: Connection,
    at: EntryId,
    size_bytes: u64,
    /// The length of the write-ahead log at the mark, and how much it may grow.
    log_bytes: u64,
    room_bytes: u64,
    board: Arc<Board>,
    /// Keeps the folder locked.
    file: Arc<StateFile>,
}

/// What a computation minds while it works.
struct Pace {
    /// Since when it has worked without a rest.
    since: Instant,
    log: PathBuf,
    log_bytes: u64,
    room_bytes: u64,
    board: Arc<Board>,
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
        let (log_bytes, room_bytes) = (length(&write_ahead_path(file.path())), ROOM_BYTES.max(size_bytes));
        Ok(Self { connection, at, size_bytes, log_bytes, room_bytes, board: board.clone(), file: file.clone() })
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
    /// [`Error::ChangesTooFast`] if too much is written meanwhile; others if the file can't be read.
    pub fn checksum(mut self, bytes: &AtomicU64) -> Result<Option<Checksum>, Error> {
        let Self { log_bytes, room_bytes, .. } = self;
        let log = write_ahead_path(self.file.path());
        let mut pace = Pace { since: Instant::now(), log, log_bytes, room_bytes, board: self.board.clone() };
        let must_end = move || pace.must_end();
        self.connection.progress_handler(STEPS, Some(must_end)).map_err(Error::sqlite(DOING))?;
        match compute(&self.connection, self.at, bytes) {
            // Whatever came of it: it may have been cut short.
            _ if self.board.is_closed() => Ok(None),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
                Err(Error::ChangesTooFast { room_bytes })
            }
            computed => computed.map(Some).map_err(Error::sqlite(DOING)),
        }
    }
}

impl Pace {
    /// Rests where that is due, and says whether to give up.
    fn must_end(&mut self) -> bool {
        let worked = self.since.elapsed();
        if worked < STRETCH {
            return self.board.is_closed();
        }
        let grown = length(&self.log).saturating_sub(self.log_bytes);
        if grown < self.room_bytes / 4 {
            sleep(worked);
        }
        self.since = Instant::now();
        grown > self.room_bytes || self.board.is_closed()
    }
}

/// The length of a file; zero if there is none.
fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

#[cfg(test)]
mod tests {
    use raft_core::port::{StateMachine, Stored};
    use raft_core::types::{ClusterId, Entry, NodeId, Payload, Term};

    use super::*;
    use crate::command::{Command, Operation};
    use crate::data_dir::DataDir;
    use crate::state_machine::SqliteStateMachine;
    use crate::step::Statement;

    fn apply(state: &mut SqliteStateMachine, operation: Operation) {
        let command = Command { time_ms: 1_795_437_296_789, seed: [7; 16], session: None, operation };
        let id = EntryId::new(state.position().index.next(), Term(1));
        state.apply(&[Entry { id, payload: Payload::Command(command.encode()) }]).unwrap();
    }

    #[test]
    fn a_state_is_let_go_where_too_much_is_written_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let mut directory = DataDir::open(folder.path(), NodeId(1)).unwrap();
        directory.begin(ClusterId(7), &Stored::default()).unwrap();
        let mut parts = directory.into_parts().unwrap();
        let (marks, state) = (parts.state_machine.marks(), &mut parts.state_machine);
        let many = "CREATE TABLE t AS WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 30000) SELECT n FROM r";
        apply(state, Operation::sql([Statement::new(many)]));
        for room_bytes in [1_000_000, 100_000_000] {
            apply(state, Operation::Mark);
            let marked = Marked { room_bytes, ..marks.next().unwrap().unwrap() };
            apply(state, Operation::sql([Statement::new("INSERT INTO t VALUES (zeroblob(8000000))")]));
            match marked.checksum(&AtomicU64::new(0)) {
                Err(Error::ChangesTooFast { room_bytes: 1_000_000 }) if room_bytes == 1_000_000 => (),
                Ok(Some(_)) if room_bytes > 1_000_000 => (),
                other => panic!("{room_bytes}: {other:?}"),
            }
        }
    }
}
