//! A node's folder: who may use it, whom it belongs to, and the files in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_core::membership::Membership;
use raft_core::port::Stored;
use raft_core::types::{ClusterId, EntryId, HardState, Identity, Incarnation, Member, NodeId, Snapshot};

use crate::error::Error;
use crate::folder::{FolderLock, settle, sync_folder, write_ahead_path};
use crate::log::{Beginning, SqliteLog};
use crate::reader::Reader;
use crate::refusal;
use crate::restore::{self, Restored};
use crate::snapshot::SnapshotFolder;
use crate::state_file::{StateFile, swap};
use crate::state_machine::SqliteStateMachine;

/// The folder of one node, open and locked.
///
/// No other process, and no other `DataDir` of this process, can open it until this one and all [`Parts`] of it are
/// gone.
pub struct DataDir {
    folder: PathBuf,
    identity: Identity,
    log: SqliteLog,
    lock: Arc<FolderLock>,
}

/// What a node works with: one writer for each of its two files, and as many readers as it likes.
pub struct Parts {
    /// Keeps the log.
    pub log: SqliteLog,
    /// Keeps the state.
    pub state_machine: SqliteStateMachine,
    /// Reads the state while it is written. Cheap to clone.
    pub reader: Reader,
}

impl DataDir {
    /// Opens the folder of node `id`. Makes it, readable by its owner alone, if it is not there, and gives the node in
    /// it a new incarnation.
    ///
    /// # Errors
    /// [`Error::Unwritable`] if the folder can't be made or written, so another one may do; [`Error::InUse`] and
    /// [`Error::OtherNode`] if it is somebody else's; [`Error::Diverged`] after [`refuse_later_starts`](crate::refuse_later_starts); others if what it holds is damaged or from a newer version.
    pub fn open(folder: impl Into<PathBuf>, id: NodeId) -> Result<Self, Error> {
        let folder = folder.into();
        assert!(id != NodeId::NONE, "a node's id is not zero");
        let unwritable = |source| Error::Unwritable { path: folder.clone(), source };
        let lock = Arc::new(FolderLock::acquire(&folder)?);
        refuse_files_of_others(&folder, id)?;
        refusal::check(&folder)?;
        // Before anything reads them.
        for file in [log_path(&folder, id), state_path(&folder, id)] {
            for file in [write_ahead_path(&file), file] {
                settle(&file).map_err(Error::io("making durable", &file))?;
            }
        }
        let log = SqliteLog::open(log_path(&folder, id), id, random_incarnation()?, lock.clone())?;
        sync_folder(&folder).map_err(unwritable)?;
        let identity = log.identity();
        if identity.node != id {
            return Err(Error::OtherNode { path: folder, stored: identity.node, given: id });
        }
        let directory = Self { folder, identity, log, lock };
        directory.refuse_orphaned_state()?;
        Ok(directory)
    }

    /// Who the node in this folder is. Its cluster is zero until it has begun.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the node part of `cluster`, and stores what it starts from, in one durable step. A node that begins the
    /// cluster together with others passes [`Stored::first`]; one that comes later passes `Stored::default()`.
    ///
    /// # Errors
    /// [`Error::BegunAlready`] if the folder belongs to this cluster already, [`Error::OtherCluster`] if to another.
    pub fn begin(&mut self, cluster: ClusterId, first: &Stored) -> Result<(), Error> {
        assert!(cluster != ClusterId(0), "a cluster's id is not zero");
        assert!(first.snapshot == Snapshot::default(), "a node begins with a whole log");
        if self.identity.cluster == cluster {
            return Err(Error::BegunAlready { path: self.folder.clone(), cluster });
        }
        if self.identity.cluster != ClusterId(0) {
            return self.expect_cluster(cluster);
        }
        self.log.begin(cluster, first)?;
        self.identity.cluster = cluster;
        Ok(())
    }

    /// Makes the node the only member of a new cluster, `member`, whose data is that of a backup, or of any SQLite file, which is only read. All
    /// that is needed is stored in one durable step: after a failure or a crash, nothing has begun.
    ///
    /// # Errors
    /// [`Error::BegunAlready`] if the folder belongs to a cluster already; [`Error::Invalid`] and others if the file can't be restored.
    pub fn restore(&mut self, cluster: ClusterId, member: Member, from: &Path) -> Result<Restored, Error> {
        assert!(cluster != ClusterId(0), "a cluster's id is not zero");
        if self.identity.cluster != ClusterId(0) {
            return Err(Error::BegunAlready { path: self.folder.clone(), cluster: self.identity.cluster });
        }
        let snapshots = SnapshotFolder::open(&self.folder, self.lock.clone())?;
        let restored = restore::stage(from, &snapshots, cluster)?;
        let membership = Membership::of_voters([(self.identity.node, member)].into());
        let snapshot = Snapshot { last: restored.last, membership: Arc::new(membership) };
        let hard_state = HardState { term: restored.last.term, vote: None };
        self.log.begin(cluster, &Stored { hard_state, snapshot, ..Stored::default() })?;
        self.identity.cluster = cluster;
        Ok(restored)
    }

    /// Checks that the folder belongs to `cluster`.
    ///
    /// # Errors
    /// [`Error::OtherCluster`] if it does not.
    pub fn expect_cluster(&self, cluster: ClusterId) -> Result<(), Error> {
        if self.identity.cluster == cluster {
            return Ok(());
        }
        Err(Error::OtherCluster { path: self.folder.clone(), stored: self.identity.cluster, given: cluster })
    }

    /// Opens the state, checks that it fits the log, and hands out the parts. Where a snapshot was about to replace the state,
    /// it does so first.
    ///
    /// # Errors
    /// [`Error::NotBegun`] before [`begin`](Self::begin); [`Error::OtherCluster`], [`Error::StateAhead`] or
    /// [`Error::StateBehind`] if the state is not from this log; [`Error::SnapshotMissing`] if it was to be replaced and can't be.
    pub fn into_parts(mut self) -> Result<Parts, Error> {
        let Identity { cluster, node, .. } = self.identity;
        if cluster == ClusterId(0) {
            return Err(Error::NotBegun { path: self.folder });
        }
        let path = state_path(&self.folder, node);
        let snapshots = Arc::new(SnapshotFolder::open(&self.folder, self.lock.clone())?);
        self.finish_install(&path, &snapshots)?;
        self.refuse_state_behind(&path)?;
        snapshots.clean()?;
        let file = Arc::new(StateFile::new(path.clone(), self.lock.clone()));
        let state_machine = SqliteStateMachine::open(file.clone(), cluster, snapshots)?;
        sync_folder(&self.folder).map_err(|source| Error::Unwritable { path: self.folder.clone(), source })?;
        self.refuse_state_ahead(&path, state_machine.position())?;
        let reader = Reader::open(file)?;
        Ok(Parts { log: self.log, state_machine, reader })
    }

    /// Finishes what was begun if the log says that its snapshot is to replace the state: the log decides.
    fn finish_install(&mut self, state: &Path, snapshots: &SnapshotFolder) -> Result<(), Error> {
        let Beginning { snapshot, must_install } = self.log.beginning();
        if !must_install {
            return Ok(());
        }
        let (last, staged) = (snapshot.last, snapshots.received(snapshot.last));
        // A state that lacks its write-ahead log, since the swap had begun, may not even be readable.
        let applied = SqliteStateMachine::peek_applied(state);
        if !applied.as_ref().is_ok_and(|applied| applied.index >= last.index) {
            if !staged.exists() {
                let (path, applied) = (state.to_owned(), applied?);
                return Err(Error::SnapshotMissing { path, staged, applied, snapshot: last });
            }
            swap(state, &staged).map_err(Error::io("replacing the state by a snapshot in", state))?;
        }
        self.log.note_installed()
    }

    /// The log has dropped entries only because the state held them: if it does not, it was lost.
    fn refuse_state_behind(&self, path: &Path) -> Result<(), Error> {
        let snapshot = self.log.beginning().snapshot.last;
        if snapshot == EntryId::ZERO {
            return Ok(());
        }
        let applied = SqliteStateMachine::peek_applied(path)?;
        if applied.index >= snapshot.index {
            return Ok(());
        }
        Err(Error::StateBehind { path: path.to_owned(), applied, snapshot })
    }

    /// A log that has not begun has led to no state: if there is one, the log was lost.
    fn refuse_orphaned_state(&self) -> Result<(), Error> {
        let path = state_path(&self.folder, self.identity.node);
        let exists = path.try_exists().map_err(|source| Error::Unwritable { path: self.folder.clone(), source })?;
        if exists && self.identity.cluster == ClusterId(0) {
            let applied = SqliteStateMachine::peek_applied(&path)?;
            return Err(Error::StateAhead { path, applied, last: self.log.last() });
        }
        Ok(())
    }

    /// A state is never ahead of its own log, so if it is, the log has lost its end, and with it promises.
    fn refuse_state_ahead(&mut self, path: &Path, applied: EntryId) -> Result<(), Error> {
        if applied == EntryId::ZERO || self.log.term_at(applied.index)? == Some(applied.term) {
            return Ok(());
        }
        Err(Error::StateAhead { path: path.to_owned(), applied, last: self.log.last() })
    }
}

/// Where node `id` keeps its log in `folder`.
pub fn log_path(folder: &Path, id: NodeId) -> PathBuf {
    folder.join(format!("{LOG_PREFIX}{}{SUFFIX}", id.0))
}

/// Where node `id` keeps its state in `folder`.
pub fn state_path(folder: &Path, id: NodeId) -> PathBuf {
    folder.join(format!("{STATE_PREFIX}{}{SUFFIX}", id.0))
}

const LOG_PREFIX: &str = "raft_log_";
const STATE_PREFIX: &str = "raft_node_";
const SUFFIX: &str = ".db";

fn refuse_files_of_others(folder: &Path, id: NodeId) -> Result<(), Error> {
    let unwritable = |source| Error::Unwritable { path: folder.to_owned(), source };
    for file in fs::read_dir(folder).map_err(unwritable)? {
        let name = file.map_err(unwritable)?.file_name();
        match name.to_str().and_then(owner) {
            Some(other) if other != id => {
                return Err(Error::OtherNode { path: folder.to_owned(), stored: other, given: id });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whose database a file is, by its name.
fn owner(name: &str) -> Option<NodeId> {
    let rest = name.strip_prefix(LOG_PREFIX).or_else(|| name.strip_prefix(STATE_PREFIX))?;
    rest.strip_suffix(SUFFIX)?.parse().ok().map(NodeId)
}

/// A random number that is not zero.
fn random_incarnation() -> Result<Incarnation, Error> {
    loop {
        let number = getrandom::u64().map_err(Error::Random)?;
        if number != 0 {
            return Ok(Incarnation(number));
        }
    }
}
