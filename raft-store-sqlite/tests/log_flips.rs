//! A log with a byte flipped, wherever that is, is read as it was, or refused; or it lacks what was written last, if that is where the
//! damage is and nothing tells it from a write that a crash cut short. It is never something else.

mod common;

use std::path::{Path, PathBuf};

use common::{append, begin, blob, entry, membership};
use raft_core::effect::Persist;
use raft_core::port::{LogStore, Stored};
use raft_core::types::{Entry, HardState, Identity, NodeId, Payload, Term};
use raft_store_sqlite::{DataDir, Error, log_path};
use tempfile::TempDir;

const WAL_HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const FRAME_BYTES: usize = FRAME_HEADER_BYTES + 4096;

/// What a node reads when it starts.
#[derive(Clone, Debug, PartialEq)]
struct Content {
    identity: Identity,
    stored: Stored,
}

fn content(folder: &Path) -> Result<Content, Error> {
    let opened = DataDir::open(folder, NodeId(1))?;
    let identity = opened.identity();
    let mut log = opened.into_parts()?.log;
    Ok(Content { identity, stored: log.load()? })
}

/// The files of a log at one moment, and what each of its writes has led to.
struct Image {
    folder: TempDir,
    log: Vec<u8>,
    wal: Vec<u8>,
    /// With the length that the write-ahead log then had.
    contents: Vec<(usize, Content)>,
}

fn log_file(folder: &Path) -> PathBuf {
    log_path(folder, NodeId(1))
}

fn wal_file(folder: &Path) -> PathBuf {
    let mut path = log_file(folder).into_os_string();
    path.push("-wal");
    path.into()
}

/// In memory where that can be had: files are opened thousands of times.
fn fast_folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn writes() -> Vec<Persist> {
    let hard_state = Some(HardState { term: Term(2), vote: Some(NodeId(3)) });
    vec![
        append(vec![entry(1, Payload::Membership(membership().into())), blob(2, 1, "two")]),
        Persist { hard_state, ..Persist::default() },
        append(vec![blob(3, 2, &"three ".repeat(1500))]),
        append(vec![blob(4, 2, "four"), entry_of_term(5, 2)]),
        append(vec![blob(6, 2, &"six ".repeat(2000))]),
    ]
}

fn entry_of_term(index: u64, term: u64) -> Entry {
    let mut noop = entry(index, Payload::Noop);
    noop.id.term = Term(term);
    noop
}

impl Image {
    /// As a crash would leave the files.
    fn of_a_running_log() -> Self {
        let folder = fast_folder();
        begin(folder.path());
        let opened = DataDir::open(folder.path(), NodeId(1)).unwrap();
        let identity = opened.identity();
        let mut log = opened.into_parts().unwrap().log;
        let mut contents = Vec::new();
        let read = |path: PathBuf| std::fs::read(path).unwrap();
        for write in writes() {
            log.write(&[write]).unwrap();
            let stored = log.load().unwrap();
            contents.push((read(wal_file(folder.path())).len(), Content { identity, stored }));
        }
        let (file, wal) = (read(log_file(folder.path())), read(wal_file(folder.path())));
        drop(log);
        Self { folder, log: file, wal, contents }
    }

    /// As a clean stop leaves them.
    fn of_a_closed_log() -> Self {
        let mut image = Self::of_a_running_log();
        image.log = std::fs::read(log_file(image.folder.path())).unwrap();
        image.wal.clear();
        image
    }

    fn all(&self) -> &Content {
        &self.contents[self.contents.len() - 1].1
    }

    /// What a log with these files has, and what it has after one more write, unless it is refused.
    fn read(&self, log: &[u8], wal: &[u8]) -> Result<Content, Error> {
        let folder = self.folder.path();
        std::fs::write(log_file(folder), log).unwrap();
        std::fs::write(wal_file(folder), wal).unwrap();
        let content = content(folder)?;
        self.check_next_write(&content)?;
        Ok(content)
    }

    /// Damage that is not seen in what is read must not do harm later.
    fn check_next_write(&self, before: &Content) -> Result<(), Error> {
        let mut log = DataDir::open(self.folder.path(), NodeId(1))?.into_parts()?.log;
        let next = blob(before.stored.last().index.next().0, 9, &"next ".repeat(1000));
        log.load()?;
        log.write(&[append(vec![next.clone()])])?;
        drop(log);
        let mut expected = before.clone();
        expected.stored.entries.push(next);
        assert_eq!(content(self.folder.path())?, expected, "after one more write");
        Ok(())
    }
}

fn flipped(bytes: &[u8], position: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[position] ^= 1 << (position % 8);
    bytes
}

/// Each is one that says what to do.
fn assert_is_clear(error: &Error, position: usize) {
    let text = error.to_string();
    let advice =
        ["raftkv-cli member replace", "use the newer version", "is not a file of RaftKV", "give another folder"];
    assert!(advice.iter().any(|advice| text.contains(advice)), "byte {position}: {text}");
}

fn flip_in_file(image: &Image, positions: impl Iterator<Item = usize>) {
    let mut refused = 0;
    for position in positions {
        match image.read(&flipped(&image.log, position), &image.wal) {
            Ok(content) => assert_eq!(&content, image.all(), "byte {position}"),
            Err(error) => {
                assert_is_clear(&error, position);
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "some of it matters");
}

fn flip_in_wal(image: &Image, positions: impl Iterator<Item = usize>) {
    let last = image.contents.len() - 1;
    let last_write = image.contents[last - 1].0;
    for position in positions {
        match image.read(&image.log, &flipped(&image.wal, position)) {
            Ok(content) if content == *image.all() => {}
            Ok(content) => {
                assert_eq!(content, image.contents[last - 1].1, "byte {position}");
                assert!(
                    position >= last_write,
                    "byte {position} is not of the last write, which begins at {last_write}"
                );
            }
            Err(error) => {
                assert!(position < image.wal.len(), "byte {position}: {error}");
                assert_is_clear(&error, position);
            }
        }
    }
}

/// All that tells how to read the rest, and some of the rest.
fn of_interest_in_wal(wal: &[u8]) -> impl Iterator<Item = usize> {
    (0..wal.len()).filter(|&position| {
        position < WAL_HEADER_BYTES
            || (position - WAL_HEADER_BYTES) % FRAME_BYTES < FRAME_HEADER_BYTES
            || position % 157 == 0
    })
}

/// The beginning of each page, and some of the rest.
fn of_interest_in_file(file: &[u8]) -> impl Iterator<Item = usize> {
    (0..file.len()).filter(|&position| position < 100 || position % 4096 < 12 || position % 157 == 0)
}

#[test]
fn a_flipped_byte_of_the_write_ahead_log_is_harmless_refused_or_in_the_last_write() {
    let image = Image::of_a_running_log();
    flip_in_wal(&image, of_interest_in_wal(&image.wal));
}

#[test]
fn a_flipped_byte_of_the_file_is_harmless_or_refused() {
    let image = Image::of_a_closed_log();
    flip_in_file(&image, of_interest_in_file(&image.log));
}

#[test]
#[ignore = "takes minutes"]
fn each_byte_of_the_write_ahead_log_may_be_flipped() {
    let image = Image::of_a_running_log();
    flip_in_wal(&image, 0..image.wal.len());
}

#[test]
#[ignore = "takes minutes"]
fn each_byte_of_the_file_may_be_flipped() {
    let image = Image::of_a_closed_log();
    flip_in_file(&image, 0..image.log.len());
}

/// A sector that was not written: only in the last write can it be the work of a crash.
#[test]
fn a_write_ahead_log_that_lacks_a_sector_is_refused_unless_it_is_of_the_last_write() {
    let image = Image::of_a_running_log();
    let last = image.contents.len() - 1;
    let last_write = image.contents[last - 1].0;
    for position in (0..image.wal.len()).step_by(512) {
        let mut wal = image.wal.clone();
        let end = wal.len().min(position + 512);
        wal[position..end].fill(0);
        match image.read(&image.log, &wal) {
            Ok(content) if content == *image.all() => {}
            Ok(content) => {
                assert_eq!(content, image.contents[last - 1].1, "sector at {position}");
                assert!(end > last_write, "the sector at {position} is not of the last write");
            }
            Err(error) => {
                assert!(position < last_write, "sector at {position}: {error}");
                assert_is_clear(&error, position);
            }
        }
    }
}

#[test]
fn a_write_ahead_log_that_a_crash_cut_short_is_no_damage() {
    let image = Image::of_a_running_log();
    let last = image.contents.len() - 1;
    let last_write = image.contents[last - 1].0;
    for length in (last_write..image.wal.len()).step_by(100) {
        let content = image.read(&image.log, &image.wal[..length]).unwrap();
        assert_eq!(content, image.contents[last - 1].1, "cut at {length}");
    }
}

/// What the first crash has left must not look like something later than what the second has torn.
#[test]
fn a_second_crash_is_no_damage_either() {
    let image = Image::of_a_running_log();
    let folder = image.folder.path();
    let last = image.contents.len() - 1;
    let (last_write, before) = &image.contents[last - 1];
    // The rest of a long write, without its first frame.
    std::fs::write(log_file(folder), &image.log).unwrap();
    std::fs::write(wal_file(folder), flipped(&image.wal, last_write + FRAME_HEADER_BYTES)).unwrap();
    let mut log = DataDir::open(folder, NodeId(1)).unwrap().into_parts().unwrap().log;
    assert_eq!(log.load().unwrap(), before.stored);
    log.write(&[append(vec![blob(6, 2, "short")])]).unwrap();
    let (file, wal) = (std::fs::read(log_file(folder)).unwrap(), std::fs::read(wal_file(folder)).unwrap());
    drop(log);
    // And a short one after it, likewise: it begins where the first did, or the file does.
    let begins_at = if wal.len() < image.wal.len() { WAL_HEADER_BYTES } else { *last_write };
    let content = image.read(&file, &flipped(&wal, begins_at + FRAME_HEADER_BYTES)).unwrap();
    assert_eq!(&content, before);
}
