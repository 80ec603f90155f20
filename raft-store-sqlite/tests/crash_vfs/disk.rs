//! A disk that keeps what is confirmed apart from what is not.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_int;
use std::fs;
use std::ops::AddAssign;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::ffi;

use crate::random::Random;

/// As much as a disk writes whole, or not at all.
const SECTOR: usize = 512;
/// As much as the system's cache keeps together.
const PAGE: usize = 4096;

/// The disk beneath one folder.
pub struct Disk {
    folder: PathBuf,
    model: Mutex<Model>,
}

/// Which of the files that were ever there.
pub type FileId = usize;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A sync fails. Some of what it was for is lost, and the system takes it for written from now on.
    Sync,
    /// A write fails, in part.
    Write,
    /// There is no more room, until the next start.
    Full,
    /// Syncs do nothing, and say nothing of it: no store can live with that.
    Lie,
}

/// What there was of everything.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub writes: u64,
    pub syncs: u64,
    pub cuts_at_syncs: u64,
    pub cuts_between: u64,
    pub torn: u64,
    pub failures: BTreeMap<(Fault, String), u64>,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.writes += other.writes;
        self.syncs += other.syncs;
        self.cuts_at_syncs += other.cuts_at_syncs;
        self.cuts_between += other.cuts_between;
        self.torn += other.torn;
        for (what, times) in other.failures {
            *self.failures.entry(what).or_default() += times;
        }
    }
}

/// What the next start may find.
pub struct Image {
    /// Where the power was cut.
    pub at: String,
    files: BTreeMap<String, Vec<u8>>,
}

impl Image {
    /// Makes it a folder.
    pub fn write_to(&self, folder: &Path) {
        fs::create_dir_all(folder.join("snapshots")).unwrap();
        for (name, bytes) in &self.files {
            fs::write(folder.join(name), bytes).unwrap();
        }
    }
}

struct Model {
    random: Random,
    files: Vec<File>,
    names: BTreeMap<String, Name>,
    /// What fails, on files whose names begin so, after how many more operations of that kind.
    plan: Option<(Fault, String, u64)>,
    is_full: bool,
    /// The files that the fault was planned for, once it has happened.
    failed: Option<String>,
    /// Whether one of them was written or synced after that.
    tried_again: bool,
    images: Vec<Image>,
    tally: Tally,
}

/// A name in the folder.
#[derive(Default)]
struct Name {
    /// Which file it is of: for who asks now, and after a power loss.
    now: Option<FileId>,
    confirmed: Option<FileId>,
}

#[derive(Default)]
struct File {
    name: String,
    inode: u64,
    /// What the system shows.
    cached: Vec<u8>,
    /// What the disk certainly holds.
    confirmed: Vec<u8>,
    /// What may be on it besides, in the order in which it was written.
    pending: Vec<Change>,
    /// Pages that the system takes for written, and that are not.
    lost: BTreeSet<usize>,
}

enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate { length: usize },
}

/// How much of what is not confirmed reaches the disk.
#[derive(Clone, Copy)]
enum Reached {
    Nothing,
    Everything,
    Some,
}

impl Disk {
    /// A disk that holds what is in the folder.
    pub fn new(folder: &Path, seed: u64) -> Self {
        let mut model = Model {
            random: Random::new(seed),
            files: Vec::new(),
            names: BTreeMap::new(),
            plan: None,
            is_full: false,
            failed: None,
            tried_again: false,
            images: Vec::new(),
            tally: Tally::default(),
        };
        for file in fs::read_dir(folder).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            if name.starts_with("raft_") && !name.ends_with("-shm") {
                model.open(folder, &name);
            }
        }
        Self { folder: folder.to_owned(), model: Mutex::new(model) }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// From now on, the fault happens on files whose names begin so, after so many operations that it could have hit.
    pub fn plan(&self, fault: Fault, prefix: &str, after: u64) {
        self.model().plan = Some((fault, prefix.to_owned(), after));
    }

    /// Whether the fault that was planned has happened.
    pub fn has_failed(&self) -> bool {
        self.model().failed.is_some()
    }

    /// Whether somebody went on writing where the fault had happened.
    pub fn was_tried_again(&self) -> bool {
        self.model().tried_again
    }

    /// What a power loss would have left, wherever the power was cut since the last call.
    pub fn take_images(&self) -> Vec<Image> {
        std::mem::take(&mut self.model().images)
    }

    /// What a power loss would leave now.
    pub fn cut(&self) -> Image {
        self.model().image(&self.folder, "at rest".into())
    }

    /// What the process finds that starts after this one has ended: the store begins with having all written, and read from the disk again.
    pub fn restart(&self) -> Image {
        self.model().image_of(&self.folder, "at a restart".into(), Reached::Everything)
    }

    pub fn tally(&self) -> Tally {
        self.model().tally.clone()
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self, name: &str) -> FileId {
        self.model().open(&self.folder, name)
    }

    pub(super) fn delete(&self, name: &str, and_sync: bool) {
        let mut model = self.model();
        model.cut_between(&self.folder, name, "removal");
        model.names.entry(name.to_owned()).or_default().now = None;
        if and_sync {
            model.confirm_names();
        }
    }

    /// Says how much was written, and whether that was all.
    pub(super) fn write(&self, file: FileId, offset: usize, bytes: &[u8]) -> (usize, Result<(), c_int>) {
        let mut model = self.model();
        let name = model.files[file].name.clone();
        model.touch(&name);
        model.cut_between(&self.folder, &name, "write");
        model.tally.writes += 1;
        let grows = offset + bytes.len() > model.files[file].cached.len();
        if grows && model.strikes(Fault::Full, &name) {
            model.is_full = true;
        }
        let done = match () {
            () if model.is_full && grows => Err(ffi::SQLITE_FULL),
            () if model.strikes(Fault::Write, &name) => Err(ffi::SQLITE_IOERR_WRITE),
            () => Ok(()),
        };
        let written = if done.is_ok() { bytes.len() } else { model.random.below(bytes.len()) };
        if written > 0 {
            model.files[file].write(offset, &bytes[..written]);
        }
        (written, done)
    }

    pub(super) fn truncate(&self, file: FileId, length: usize) {
        let mut model = self.model();
        let name = model.files[file].name.clone();
        model.cut_between(&self.folder, &name, "truncation");
        model.files[file].truncate(length);
    }

    pub(super) fn sync(&self, file: FileId) -> Result<(), c_int> {
        let mut model = self.model();
        let name = model.files[file].name.clone();
        model.touch(&name);
        model.tally.syncs += 1;
        model.cut_at_sync(&self.folder, &format!("before a sync of {name}"));
        if model.strikes(Fault::Lie, &name) {
            return Ok(());
        }
        let done = if model.strikes(Fault::Sync, &name) {
            let Model { files, random, .. } = &mut *model;
            files[file].fail_to_sync(random);
            Err(ffi::SQLITE_IOERR_FSYNC)
        } else {
            model.files[file].confirm();
            // SQLite syncs the folder with a write-ahead log that is new.
            model.confirm_names();
            Ok(())
        };
        model.cut_at_sync(&self.folder, &format!("after a sync of {name}"));
        done
    }
}

impl Model {
    fn open(&mut self, folder: &Path, name: &str) -> FileId {
        let path = folder.join(name);
        let inode = fs::metadata(&path).unwrap().ino();
        if let Some(known) = self.names.get(name).and_then(|name| name.now)
            && self.files[known].inode == inode
        {
            return known;
        }
        // Not of SQLite's making, so it was made durable; or new, and empty.
        let content = fs::read(&path).unwrap();
        let id = self.files.len();
        let is_new = content.is_empty();
        let (cached, confirmed) = (content.clone(), content);
        self.files.push(File { name: name.to_owned(), inode, cached, confirmed, ..File::default() });
        let name = self.names.entry(name.to_owned()).or_default();
        name.now = Some(id);
        if !is_new {
            name.confirmed = Some(id);
        }
        id
    }

    fn confirm_names(&mut self) {
        self.names.values_mut().for_each(|name| name.confirmed = name.now);
    }

    /// Notes that a file is about to be written or synced.
    fn touch(&mut self, name: &str) {
        self.tried_again |= self.failed.as_ref().is_some_and(|prefix| name.starts_with(prefix));
    }

    /// Whether the fault happens now.
    fn strikes(&mut self, fault: Fault, name: &str) -> bool {
        let Some((planned, prefix, left)) = &mut self.plan else { return false };
        if *planned != fault || !name.starts_with(prefix.as_str()) {
            return false;
        }
        if *left > 0 {
            *left -= 1;
            return false;
        }
        *self.tally.failures.entry((fault, name.trim_start_matches("raft_").to_owned())).or_default() += 1;
        if fault != Fault::Lie {
            self.failed = self.plan.take().map(|(_, prefix, _)| prefix);
        }
        true
    }

    fn cut_at_sync(&mut self, folder: &Path, at: &str) {
        self.tally.cuts_at_syncs += 1;
        let image = self.image(folder, format!("{at}, number {}", self.tally.syncs));
        self.images.push(image);
    }

    fn cut_between(&mut self, folder: &Path, name: &str, what: &str) {
        if self.random.percent(2) {
            self.tally.cuts_between += 1;
            let image = self.image(folder, format!("before a {what} of {name}, after {} syncs", self.tally.syncs));
            self.images.push(image);
        }
    }

    fn image(&mut self, folder: &Path, at: String) -> Image {
        let reached = self.random.pick(&[Reached::Nothing, Reached::Everything, Reached::Some, Reached::Some]);
        self.image_of(folder, at, reached)
    }

    fn image_of(&mut self, folder: &Path, at: String, reached: Reached) -> Image {
        let mut files = received(folder);
        let Self { random, files: all, names, tally, .. } = self;
        for (text, name) in names {
            // Removed by others than SQLite, durably.
            if name.now.is_some() && !folder.join(text).exists() {
                *name = Name::default();
            }
            let file = match reached {
                Reached::Nothing => name.confirmed,
                Reached::Everything => name.now,
                Reached::Some => random.pick(&[name.now, name.confirmed]),
            };
            if let Some(file) = file {
                tally.torn += u64::from(matches!(reached, Reached::Some) && !all[file].pending.is_empty());
                files.insert(text.clone(), all[file].image(random, reached));
            }
        }
        Image { at, files }
    }
}

/// What was received of snapshots, whole and durable.
fn received(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(files) = fs::read_dir(folder.join("snapshots")) else { return BTreeMap::new() };
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let names = names.filter(|name| name.starts_with("received_")).map(|name| format!("snapshots/{name}"));
    names.map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
}

impl File {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.cached.len() < end {
            self.cached.resize(end, 0);
        }
        self.cached[offset..end].copy_from_slice(bytes);
        self.pending.push(Change::Write { offset, bytes: bytes.to_vec() });
        // A page that changes again is written again, with what was lost of it.
        for page in offset / PAGE..end.div_ceil(PAGE) {
            if self.lost.remove(&page) {
                self.write_page_again(page);
            }
        }
    }

    fn write_page_again(&mut self, page: usize) {
        let (offset, end) = (page * PAGE, self.cached.len().min((page + 1) * PAGE));
        self.pending.push(Change::Write { offset, bytes: self.cached[offset..end].to_vec() });
    }

    fn truncate(&mut self, length: usize) {
        self.cached.resize(length, 0);
        self.lost.retain(|page| page * PAGE < length);
        self.pending.push(Change::Truncate { length });
    }

    fn confirm(&mut self) {
        self.confirmed = self.with(|_| usize::MAX, usize::MAX);
        self.pending.clear();
    }

    /// Some pages reach the disk. The others count as written, and are not; the length is still to be written.
    fn fail_to_sync(&mut self, random: &mut Random) {
        let dirty: BTreeSet<_> = self.pending.iter().flat_map(Change::pages).collect();
        let length = self.cached.len();
        let lost: BTreeSet<_> = dirty.into_iter().filter(|page| page * PAGE < length && random.percent(70)).collect();
        self.confirmed =
            self.with(|sector| if lost.contains(&(sector * SECTOR / PAGE)) { 0 } else { usize::MAX }, usize::MAX);
        self.pending = vec![Change::Truncate { length }];
        self.lost.extend(lost);
    }

    /// What is on the disk after a power loss.
    fn image(&self, random: &mut Random, reached: Reached) -> Vec<u8> {
        let all = self.pending.len();
        match reached {
            Reached::Nothing => self.confirmed.clone(),
            Reached::Everything => self.with(|_| all, all),
            Reached::Some => {
                // Up to some write, most of what came before, and little of what came after.
                let (until, percent) = (random.below(all + 1), random.pick(&[50, 90, 100]));
                let any = random.below(all + 1);
                let length = random.pick(&[until, any, all]);
                self.with(|_| if random.percent(percent) { until } else { random.below(all + 1) }, length)
            }
        }
    }

    /// The file with so many of the changes in each sector, and in its length.
    fn with(&self, mut seen_by: impl FnMut(usize) -> usize, seen_by_length: usize) -> Vec<u8> {
        let lengths = self.pending.iter().scan(self.confirmed.len(), |length, change| {
            *length = change.length_after(*length);
            Some(*length)
        });
        let lengths: Vec<_> = std::iter::once(self.confirmed.len()).chain(lengths).collect();
        let mut bytes = self.confirmed.clone();
        bytes.resize(lengths.iter().copied().max().unwrap_or(0), 0);
        let sectors: Vec<_> = (0..bytes.len().div_ceil(SECTOR)).map(&mut seen_by).collect();
        for (number, change) in self.pending.iter().enumerate() {
            change.apply(&mut bytes, |sector| match change {
                Change::Write { .. } => sectors[sector] > number,
                // A file is cut short by its length alone: what it still has of its length, it has as it was.
                Change::Truncate { .. } => seen_by_length > number,
            });
        }
        bytes.truncate(lengths[seen_by_length.min(self.pending.len())]);
        bytes
    }
}

impl Change {
    fn length_after(&self, length: usize) -> usize {
        match self {
            Self::Write { offset, bytes } => length.max(offset + bytes.len()),
            Self::Truncate { length } => *length,
        }
    }

    fn pages(&self) -> std::ops::Range<usize> {
        match self {
            Self::Write { offset, bytes } => offset / PAGE..(offset + bytes.len()).div_ceil(PAGE),
            Self::Truncate { .. } => 0..0,
        }
    }

    fn apply(&self, file: &mut [u8], reaches: impl Fn(usize) -> bool) {
        let (start, end) = match self {
            Self::Write { offset, bytes } => (*offset, offset + bytes.len()),
            Self::Truncate { length } => (*length, file.len()),
        };
        for sector in start / SECTOR..end.div_ceil(SECTOR) {
            let (from, to) = (start.max(sector * SECTOR), end.min((sector + 1) * SECTOR));
            if from >= to || !reaches(sector) {
                continue;
            }
            match self {
                Self::Write { offset, bytes } => file[from..to].copy_from_slice(&bytes[from - offset..to - offset]),
                Self::Truncate { .. } => file[from..to].fill(0),
            }
        }
    }
}
