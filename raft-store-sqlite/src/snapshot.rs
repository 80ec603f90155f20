//! Snapshots: copies of the state on their way to another node, and from one. Both are files in the node's folder.

mod capture;
mod staging;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_core::port::Staging;
use raft_core::types::{ClusterId, EntryId, Index, Term};

use crate::error::Error;
use crate::folder::{FolderLock, make_folder, remove_file, sync_folder};

pub(crate) use capture::{Captures, copy_pages, pin};

/// Where snapshots are, within a node's folder.
const NAME: &str = "snapshots";
const CAPTURED: &str = "captured_";
const RECEIVED: &str = "received_";
const RECEIVING: &str = "receiving.db";
const SUFFIX: &str = ".db";

/// The folder of snapshots.
pub(crate) struct SnapshotFolder {
    path: PathBuf,
    /// For as long as anybody works with a file in it.
    _lock: Arc<FolderLock>,
}

impl SnapshotFolder {
    /// Opens that of the node in `folder`, and makes it if it is not there.
    pub(crate) fn open(folder: &Path, lock: Arc<FolderLock>) -> Result<Self, Error> {
        let path = folder.join(NAME);
        make_folder(&path).map_err(Error::io("making the folder", &path))?;
        Ok(Self { path, _lock: lock })
    }

    /// Where the state at `last` is, once it is received and verified.
    pub(crate) fn received(&self, last: EntryId) -> PathBuf {
        self.path.join(format!("{RECEIVED}{}_{}{SUFFIX}", last.index, last.term))
    }

    /// Where copies of another node's state are put together.
    pub(crate) fn staging(self: &Arc<Self>, cluster: ClusterId) -> Arc<dyn Staging> {
        Arc::new(staging::SnapshotStaging::new(self.clone(), cluster))
    }

    /// Removes what was received of states up to `index`: they will not be needed any more.
    pub(crate) fn forget_received(&self, index: Index) -> Result<(), Error> {
        self.remove(|name| received_last(name).is_some_and(|last| last.index <= index))
    }

    /// Removes everything that a node left behind when it stopped. Its captures are read by nobody, and what it has received
    /// without recording it in its log, it has forgotten.
    pub(crate) fn clean(&self) -> Result<(), Error> {
        self.remove(|name| name == RECEIVING || name.starts_with(CAPTURED) || received_last(name).is_some())
    }

    fn remove(&self, useless: impl Fn(&str) -> bool) -> Result<(), Error> {
        let failed = |error| Error::io("cleaning", &self.path)(error);
        for file in fs::read_dir(&self.path).map_err(failed)? {
            let file = file.map_err(failed)?;
            if file.file_name().to_str().is_some_and(&useless) {
                remove_file(&file.path()).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn receiving(&self) -> PathBuf {
        self.path.join(RECEIVING)
    }

    fn captured(&self, number: u64) -> PathBuf {
        self.path.join(format!("{CAPTURED}{number}{SUFFIX}"))
    }

    /// Where a state is to be put together that comes from no peer.
    pub(crate) fn new_receiving(&self) -> Result<PathBuf, Error> {
        let path = self.receiving();
        remove_file(&path).map_err(Error::io("beginning to receive a snapshot in", &path))?;
        Ok(path)
    }

    /// Verifies what was put together, and gives it its name, durably: so it is kept until it is installed.
    pub(crate) fn keep_received(&self, cluster: ClusterId, last: EntryId) -> Result<(), Error> {
        let path = self.receiving();
        let stored = File::open(&path).and_then(|file| file.sync_all());
        stored.map_err(Error::io("storing a snapshot in", &path))?;
        staging::verify(&path, cluster, last)?;
        let renamed = fs::rename(self.receiving(), self.received(last)).and_then(|()| sync_folder(&self.path));
        renamed.map_err(Error::io("keeping a snapshot in", &self.path))
    }
}

/// Where the backup with this number, which nobody else has, of the state at `state` is made. What a crash leaves there is removed as a capture is.
pub(crate) fn backup_path(state: &Path, number: u64) -> PathBuf {
    state.with_file_name(NAME).join(format!("{CAPTURED}backup_{number:016x}{SUFFIX}"))
}

/// Which state a received file holds, by its name.
fn received_last(name: &str) -> Option<EntryId> {
    let (index, term) = name.strip_prefix(RECEIVED)?.strip_suffix(SUFFIX)?.split_once('_')?;
    Some(EntryId::new(Index(index.parse().ok()?), Term(term.parse().ok()?)))
}
