//! Files that are there whole or not at all.

use crate::failure::Failure;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use tokio::task::spawn_blocking;

/// A file that is being written under another name. Dropped, it is gone.
pub(crate) struct WholeFile {
    path: PathBuf,
    /// Whether it may take the place of one that is there.
    replaces: bool,
    part: NamedTempFile,
}

impl WholeFile {
    pub(crate) fn create(path: PathBuf, replaces: bool) -> Result<Self, Failure> {
        if !replaces && path.exists() {
            return Err(taken(&path));
        }
        let part =
            NamedTempFile::with_prefix_in(".raftkv-", folder(&path)).map_err(|error| unwritable(&path, error))?;
        Ok(Self { path, replaces, part })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.part.write_all(bytes).map_err(|error| unwritable(&self.path, error))
    }

    /// Gives it its name, once it is on the disk.
    pub(crate) async fn keep(self) -> Result<(), Failure> {
        spawn_blocking(move || self.keep_now()).await.map_err(io::Error::other)?
    }

    fn keep_now(self) -> Result<(), Failure> {
        let Self { path, replaces, part } = self;
        part.as_file().sync_all().map_err(|error| unwritable(&path, error))?;
        let kept = if replaces { part.persist(&path) } else { part.persist_noclobber(&path) };
        match kept {
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Err(taken(&path)),
            kept => kept.map_err(|error| unwritable(&path, error.error))?,
        };
        let synced = File::open(folder(&path)).and_then(|folder| folder.sync_all());
        synced.map_err(|error| unwritable(&path, error))
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn taken(path: &Path) -> Failure {
    Failure::Usage(format!("{} is there already: --force takes its place", path.display()))
}

fn unwritable(path: &Path, error: io::Error) -> Failure {
    io::Error::new(error.kind(), format!("{} can't be written: {error}", path.display())).into()
}
