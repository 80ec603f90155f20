//! Folders: made durably, and locked.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

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
