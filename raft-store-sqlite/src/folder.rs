//! Folders: made durably, and locked.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// An exclusive lock on a folder, held by an open file in it. The system drops it with the process, however that ends.
pub(crate) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Makes the folder if it is not there, and locks it.
    pub(crate) fn acquire(folder: &Path) -> Result<Self, Error> {
        let unwritable = |source| Error::Unwritable { path: folder.to_owned(), source };
        make_folder(folder).map_err(unwritable)?;
        let path = folder.join("lock");
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(unwritable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::InUse { path: folder.to_owned(), holder: holder(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(unwritable(source)),
        }
        write_holder(&mut file).map_err(unwritable)?;
        Ok(Self { _file: file })
    }
}

/// Makes the folder and those above it, and makes their names durable.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let missing: Vec<_> = folder.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    for made in missing {
        sync_folder(made.parent().unwrap_or(Path::new("/")))?;
    }
    Ok(())
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    // The parent of `data` is the empty path, which stands for the current folder.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

/// Where SQLite keeps the write-ahead log of a file.
pub(crate) fn write_ahead_path(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push("-wal");
    path.into()
}

/// Makes what a file holds durable, if it is there, and has it read from the disk from now on.
///
/// A process that was killed leaves what it has not synced, and one that an fsync failed leaves what is not on the disk and never
/// will be: the system forgets that it has not written it. Whoever reads it then takes it for durable, and it is gone after a
/// power loss.
pub(crate) fn settle(file: &Path) -> io::Result<()> {
    match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => {
            let file = opened?;
            file.sync_all()?;
            forget_cached(&file)
        }
    }
}

#[cfg(target_os = "linux")]
fn forget_cached(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
}

/// Other systems have no way to ask for it, or keep what they could not write.
#[cfg(not(target_os = "linux"))]
fn forget_cached(_: &File) -> io::Result<()> {
    Ok(())
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Says in the lock file who holds it: for people alone.
fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

/// Who holds the lock, as far as the lock file tells.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(20).read_to_string(&mut text));
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(process)) => format!(" (pid {process})"),
        _ => String::new(),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::IoSliceMut;

    use rustix::fs::statfs;
    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    use super::*;

    const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

    fn is_cached(file: &File) -> bool {
        let mut byte = [0];
        match preadv2(file, &mut [IoSliceMut::new(&mut byte)], 0, ReadWriteFlags::NOWAIT) {
            Err(Errno::AGAIN) => false,
            read => read.map(|_| true).unwrap(),
        }
    }

    #[test]
    fn a_settled_file_is_read_from_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        if statfs(folder.path()).unwrap().f_type == TMPFS_MAGIC {
            // There is no disk to read it from.
            return;
        }
        let path = folder.path().join("file");
        fs::write(&path, vec![7; 1 << 20]).unwrap();
        let file = File::open(&path).unwrap();
        assert!(is_cached(&file), "what was just written is in memory");
        settle(&path).unwrap();
        assert!(!is_cached(&file), "it has left memory");
        assert_eq!(fs::read(&path).unwrap(), vec![7; 1 << 20]);
    }

    #[test]
    fn a_file_that_is_not_there_is_settled() {
        let folder = tempfile::tempdir().unwrap();
        settle(&folder.path().join("none")).unwrap();
    }
}
