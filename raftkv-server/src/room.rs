//! Room on the disk. While it is short, writes that take room are refused, so that there is some left for what can't be refused: terms and
//! votes, what a leader sends, and what makes room.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytesize::ByteSize;
use rustix::fs::statvfs;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

/// How often to look.
const LOOK: Duration = Duration::from_secs(1);

/// How much room there must be, and whether there is. Clones share what is known.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    /// In bytes. Zero: whatever there is will do.
    wanted: u64,
    shortage: Arc<Mutex<Option<Shortage>>>,
}

/// Too little room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// How many bytes are free.
    pub free: u64,
    /// How many should be.
    pub wanted: u64,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (free, wanted) = (ByteSize(self.free), ByteSize(self.wanted));
        write!(
            f,
            "the disk is nearly full: {free} are free where this node keeps its files, less than --min-free-space {wanted}"
        )
    }
}

impl Room {
    pub(crate) fn new(wanted: ByteSize) -> Self {
        Self { wanted: wanted.0, shortage: Arc::default() }
    }

    /// What is lacking, if anything is.
    pub(crate) fn shortage(&self) -> Option<Shortage> {
        *self.lock()
    }

    /// Looks at once, and then from time to time for as long as it is polled.
    pub(crate) async fn watch(self, folder: PathBuf) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let (room, folder) = (self.clone(), folder.clone());
            // A disk that stalls must not hold up anything else.
            let _ = tokio::task::spawn_blocking(move || room.look(&folder)).await;
        }
    }

    /// Looks how much is free where the folder lies. What can't be told is no shortage: the disk will say itself when it is full.
    pub(crate) fn look(&self, folder: &Path) {
        if self.wanted == 0 {
            return;
        }
        match statvfs(folder) {
            Ok(disk) => self.note(disk.f_bavail.saturating_mul(disk.f_frsize)),
            Err(error) => warn!("how much room is left in {} can't be told: {error}", folder.display()),
        }
    }

    fn note(&self, free: u64) {
        let mut shortage = self.lock();
        // A little more ends it than began it, so that it does not come and go with each write.
        let enough = if shortage.is_some() { self.wanted.saturating_add(self.wanted / 8) } else { self.wanted };
        let now = (free < enough).then_some(Shortage { free, wanted: self.wanted });
        match (*shortage, now) {
            (None, Some(short)) => {
                warn!("{short}: what takes room is refused, reads go on; remove what is not needed, or give it more");
            }
            (Some(_), None) => info!("there is room on the disk again: {}", ByteSize(free)),
            _ => (),
        }
        *shortage = now;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Shortage>> {
        self.shortage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_begins_below_what_is_wanted_and_ends_a_little_above() {
        let room = Room::new(ByteSize(800));
        let shortages = [800, 799, 850, 899, 900, 801, 0].map(|free| {
            room.note(free);
            room.shortage().map(|shortage| shortage.free)
        });
        assert_eq!(shortages, [None, Some(799), Some(850), Some(899), None, None, Some(0)]);
    }

    #[test]
    fn the_room_of_a_real_folder_is_found() {
        let folder = tempfile::tempdir().unwrap();
        for (wanted, is_short) in [(ByteSize(0), false), (ByteSize(1), false), (ByteSize(u64::MAX), true)] {
            let room = Room::new(wanted);
            room.look(folder.path());
            assert_eq!(room.shortage().is_some(), is_short, "{wanted}");
        }
        let room = Room::new(ByteSize(u64::MAX));
        room.look(Path::new("/nowhere/at/all"));
        assert_eq!(room.shortage(), None);
    }
}
