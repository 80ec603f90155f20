//! Copies of the state for other nodes, made while entries are applied.
//!
//! A capture holds a read transaction, which shows the state as it was when it began, until its first byte is asked for.
//! Then it copies the state, page by page, to a file of its own, and ends the transaction. So it is the one who sends the
//! snapshot that waits for the copy, and not the one who applies entries.

use std::fs::File;
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::sleep;
use std::time::Instant;

use bytes::Bytes;
use raft_core::port::{Capture, SnapshotError};
use raft_core::types::EntryId;
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::error::Error;
use crate::folder::remove_file;
use crate::position::Position;
use crate::schema::{self, run};
use crate::snapshot::SnapshotFolder;

/// How many pages are copied between two pauses.
const PAGES: i32 = 256;

/// Begins captures. Those of the same state share a copy.
pub(crate) struct Captures {
    folder: Arc<SnapshotFolder>,
    latest: Weak<StateCopy>,
    next_number: u64,
}

/// A capture.
struct CopiedState(Arc<StateCopy>);

/// A copy of the state, made when it is first read, removed when nobody needs it any more.
struct StateCopy {
    last: EntryId,
    size_bytes: u64,
    path: PathBuf,
    progress: Mutex<Progress>,
    _folder: Arc<SnapshotFolder>,
}

enum Progress {
    /// The transaction that shows the state is open.
    Pinned(Connection),
    /// The file is whole.
    Copied(Arc<File>),
    /// The copy has failed: whoever needs one has to begin another.
    Failed,
}

impl Captures {
    pub(crate) fn new(folder: Arc<SnapshotFolder>) -> Self {
        Self { folder, latest: Weak::new(), next_number: 1 }
    }

    /// Captures the state in the file at `state`, which has applied `last`, and to which nothing is applied meanwhile.
    pub(crate) fn begin(&mut self, state: &Path, last: EntryId) -> Result<Box<dyn Capture>, Error> {
        let shared = self.latest.upgrade().filter(|copy| copy.last == last && !copy.has_failed());
        let copy = match shared {
            Some(copy) => copy,
            None => Arc::new(self.pin(state, last)?),
        };
        self.latest = Arc::downgrade(&copy);
        Ok(Box::new(CopiedState(copy)))
    }

    fn pin(&mut self, state: &Path, last: EntryId) -> Result<StateCopy, Error> {
        let connection = schema::open_to_read(state)?;
        let (position, size_bytes) = pin(&connection).map_err(Error::sqlite("capturing the state"))?;
        assert!(position.applied == last, "a state is captured between entries");
        let path = self.folder.captured(self.next_number);
        self.next_number += 1;
        let progress = Mutex::new(Progress::Pinned(connection));
        Ok(StateCopy { last, size_bytes, path, progress, _folder: self.folder.clone() })
    }
}

/// Begins a transaction that shows the state, and says where it stands and how large it is.
pub(crate) fn pin(connection: &Connection) -> rusqlite::Result<(Position, u64)> {
    run(connection, "BEGIN")?;
    let position = Position::read(connection)?;
    let count = |pragma| connection.query_row(pragma, [], |row| row.get::<_, u64>(0));
    Ok((position, count("PRAGMA page_count")? * count("PRAGMA page_size")?))
}

impl Capture for CopiedState {
    fn last(&self) -> EntryId {
        self.0.last
    }

    fn size_bytes(&self) -> u64 {
        self.0.size_bytes
    }

    fn read(&mut self, offset: u64, max_bytes: usize) -> Result<Bytes, SnapshotError> {
        let file = self.0.file()?;
        let left = usize::try_from(self.0.size_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; max_bytes.min(left)];
        file.read_exact_at(&mut bytes, offset).map_err(Error::io("reading the snapshot", &self.0.path))?;
        Ok(bytes.into())
    }
}

impl StateCopy {
    /// The file, made if nobody has asked for it before. Others who ask for it meanwhile wait.
    fn file(&self) -> Result<Arc<File>, Error> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match mem::replace(&mut *progress, Progress::Failed) {
            Progress::Failed => return Err(Error::Invalid("the copy of the state has failed before".into())),
            Progress::Pinned(state) => *progress = Progress::Copied(Arc::new(self.copy(&state)?)),
            copied @ Progress::Copied(_) => *progress = copied,
        }
        let Progress::Copied(file) = &*progress else { unreachable!("it was copied just now") };
        Ok(file.clone())
    }

    fn copy(&self, state: &Connection) -> Result<File, Error> {
        copy_pages(state, &self.path).map_err(Error::sqlite("copying the state"))?;
        let opened = File::open(&self.path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (length, file) = opened.map_err(Error::io("reading the snapshot", &self.path))?;
        if length == self.size_bytes {
            return Ok(file);
        }
        let what = format!("the copy has {length} bytes, and the state {}", self.size_bytes);
        Err(Error::InvalidSnapshot { last: self.last, what })
    }

    /// Does not wait: while the copy is made, it has not failed.
    fn has_failed(&self) -> bool {
        self.progress.try_lock().is_ok_and(|progress| matches!(*progress, Progress::Failed))
    }
}

impl Drop for StateCopy {
    fn drop(&mut self) {
        // The next start removes what is left.
        let _ = remove_file(&self.path);
    }
}

/// Copies the pages of the state that its open transaction shows. The copy needs no journal: after a crash nobody wants it.
pub(crate) fn copy_pages(state: &Connection, path: &Path) -> rusqlite::Result<()> {
    let mut copy = Connection::open(path)?;
    copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")?;
    let backup = Backup::new(state, &mut copy)?;
    loop {
        let began = Instant::now();
        match backup.step(PAGES)? {
            StepResult::Done => return Ok(()),
            // As long a pause as the work: who writes meanwhile shall hardly notice.
            StepResult::More => sleep(began.elapsed()),
            unfinished => unreachable!("nobody else has the copy open, and the state is pinned: {unfinished:?}"),
        }
    }
}
