//! Which folder a node keeps its files in, if the flags name none: the default one, or one inside it where that belongs to another
//! node of this machine, or one in the working directory where that can't be written.

use std::path::{Path, PathBuf};

use raft_core::types::NodeId;
use raft_store_sqlite::{DataDir, Error, log_path};
use tracing::{info, warn};

/// Where a node keeps its files if nothing else is said.
pub const DEFAULT_FOLDER: &str = "/var/lib/raft_data";
/// Where it keeps them if [`DEFAULT_FOLDER`] can't be written: in the working directory.
pub const FALLBACK_FOLDER: &str = "raft_data";

/// The folder to keep a node in whose id only its files know, if that is not `given`: one for its port, so that it is found again.
pub fn folder_for_port(given: Option<&Path>, port: u16) -> PathBuf {
    let name = format!("port{port}");
    let folder = given.map_or_else(|| Path::new(DEFAULT_FOLDER).join(&name), Path::to_owned);
    match given {
        None if std::fs::create_dir_all(&folder).is_err() => fallback_folder().join(name),
        _ => folder,
    }
}

/// The node whose log is in `folder`, if there is one.
///
/// # Errors
/// If the folder is there and can't be read.
pub fn find_id(folder: &Path) -> Result<Option<NodeId>, Error> {
    let unwritable = |source| Error::Unwritable { path: folder.to_owned(), source };
    if !folder.try_exists().map_err(unwritable)? {
        return Ok(None);
    }
    let files = std::fs::read_dir(folder).map_err(unwritable)?;
    let ids = files.filter_map(|file| {
        file.ok()?.file_name().to_str()?.strip_prefix("raft_log_")?.strip_suffix(".db")?.parse().ok()
    });
    Ok(ids.map(NodeId).find(|id| id.is_possible()))
}

/// Removes the log of a node that has not begun, so that its folder can be another's. Nothing was promised in it.
///
/// # Errors
/// If it can't be removed.
pub fn forget(folder: &Path, id: NodeId) -> Result<(), Error> {
    let log = log_path(folder, id);
    for suffix in ["", "-wal", "-shm"] {
        let path = PathBuf::from(format!("{}{suffix}", log.display()));
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::Unwritable { path, source });
            }
            _ => (),
        }
    }
    Ok(())
}

/// Opens and locks the folder of node `id`: `given`, or the one to use by default.
///
/// # Errors
/// Those of [`DataDir::open`].
pub fn open(given: Option<&Path>, id: NodeId) -> Result<DataDir, Error> {
    match given {
        Some(folder) => open_given(folder, id),
        None => open_default(Path::new(DEFAULT_FOLDER), &fallback_folder(), id),
    }
}

fn open_given(folder: &Path, id: NodeId) -> Result<DataDir, Error> {
    if folder.is_file() {
        let source = std::io::Error::new(std::io::ErrorKind::NotADirectory, "it is a file, not a folder");
        return Err(Error::Unwritable { path: folder.to_owned(), source });
    }
    DataDir::open(folder, id)
}

fn fallback_folder() -> PathBuf {
    std::env::current_dir().unwrap_or_default().join(FALLBACK_FOLDER)
}

fn open_default(default: &Path, fallback: &Path, id: NodeId) -> Result<DataDir, Error> {
    match open_shared(default, id) {
        Err(Error::Unwritable { path, source }) => {
            warn!("the default data folder {} can't be used ({source})", path.display());
            warn!("using {} instead; name a folder with --data-dir", fallback.display());
            open_shared(fallback, id)
        }
        result => result,
    }
}

/// Opens `folder`, or a folder of this node's own inside it where `folder` belongs to another node: so several can be started on one machine
/// with no thought given to folders.
fn open_shared(folder: &Path, id: NodeId) -> Result<DataDir, Error> {
    match DataDir::open(folder, id) {
        // A node that is just starting may hold the lock, and have no file yet.
        Err(Error::OtherNode { .. } | Error::InUse { .. }) if !log_path(folder, id).exists() => {
            let own = folder.join(format!("node{}", id.0));
            info!("{} belongs to another node; using {}", folder.display(), own.display());
            DataDir::open(own, id)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NodeId = NodeId(1);
    const TWO: NodeId = NodeId(2);

    #[test]
    fn a_given_folder_that_cannot_be_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(open(Some(&file.join("data")), ONE), Err(Error::Unwritable { .. })));
    }

    #[test]
    fn a_default_folder_that_cannot_be_written_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let fallback = folder.path().join("fallback");
        let opened = open_default(&file.join("data"), &fallback, ONE).unwrap();
        assert_eq!(opened.folder(), fallback);
    }

    #[test]
    fn two_nodes_share_the_default_folder_and_find_their_places_again() {
        let folder = tempfile::tempdir().unwrap();
        let (default, inside) = (folder.path().join("data"), folder.path().join("data/node2"));
        let first = open_default(&default, &default, ONE).unwrap();
        let second = open_default(&default, &default, TWO).unwrap();
        assert_eq!((first.folder(), second.folder()), (&*default, &*inside));

        drop((first, second));
        let second = open_default(&default, &default, TWO).unwrap();
        let first = open_default(&default, &default, ONE).unwrap();
        assert_eq!((first.folder(), second.folder()), (&*default, &*inside));
    }

    #[test]
    fn a_folder_knows_its_node_until_that_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(find_id(&folder.path().join("missing")).unwrap(), None);
        assert_eq!(find_id(folder.path()).unwrap(), None);
        drop(open(Some(folder.path()), TWO).unwrap());
        assert_eq!(find_id(folder.path()).unwrap(), Some(TWO));
        forget(folder.path(), TWO).unwrap();
        assert_eq!(find_id(folder.path()).unwrap(), None);
        drop(open(Some(folder.path()), ONE).unwrap());
    }

    #[test]
    fn a_file_is_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = open(Some(&file), ONE).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("it is a file, not a folder; give a folder"), "{error}");
    }

    #[test]
    fn a_node_that_runs_already_is_not_given_a_second_folder() {
        let folder = tempfile::tempdir().unwrap();
        let _running = open_default(folder.path(), folder.path(), ONE).unwrap();
        assert!(matches!(open_default(folder.path(), folder.path(), ONE), Err(Error::InUse { .. })));
    }
}
