//! A folder whose node must not start again: a file in it says why. It stands outside of the state, which is what is not trusted.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::folder::sync_folder;

const NAME: &str = "refused";

fn path(folder: &Path) -> PathBuf {
    folder.join(NAME)
}

/// Has every later start of the node in `folder` be refused with [`Error::Diverged`], for this reason. Durable when this returns.
///
/// # Errors
/// If the folder can't be written.
pub fn refuse_later_starts(folder: &Path, why: &str) -> Result<(), Error> {
    let path = path(folder);
    // A file that is cut short refuses as well.
    let written = File::create(&path).and_then(|mut file| {
        writeln!(file, "{why}")?;
        file.sync_all()?;
        sync_folder(folder)
    });
    written.map_err(Error::io("noting that the node must not start again in", &path))
}

/// Refuses a folder whose node must not start again.
pub(crate) fn check(folder: &Path) -> Result<(), Error> {
    let path = path(folder);
    match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("reading", &path)(error)),
        Ok(why) => {
            let why = String::from_utf8_lossy(&why).trim().to_owned();
            Err(Error::Diverged { path: folder.to_owned(), why })
        }
    }
}
