//! A look at the log's write-ahead log before SQLite takes one.
//!
//! SQLite reads it up to the first frame that is not as it was written, and takes the rest for a transaction that a crash cut
//! short. Where that frame was damaged later, by the disk, it forgets what was acknowledged, and says nothing.
//!
//! The two can be told apart. A transaction is written only when the one before it is synced, and each start of a node begins the
//! file anew, under another number. So a crash leaves nothing of a later transaction behind a bad frame. What is of this
//! generation, and comes after the end of the transaction that the bad frame is in, proves that one to have been durable. So does a
//! page that is there for the second time, for a transaction writes a page once.
//!
//! What is left is damage to the last transaction itself: nothing tells that from a write that a crash cut short. It is cut off. (So
//! is the one before, if the very mark that ended it is gone and it shares no page with the last.)

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use crate::error::Error;
use crate::folder::write_ahead_path;

/// Refuses a log whose write-ahead log was damaged after it had been written.
pub(super) fn refuse_damage(log: &Path) -> Result<(), Error> {
    let path = write_ahead_path(log);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(Error::io("looking at", &path))?,
    };
    match find_damage(BufReader::with_capacity(1 << 20, file)).map_err(Error::io("looking at", &path))? {
        Some(what) => Err(Error::DamagedFile { path, what }),
        None => Ok(()),
    }
}

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// As much of a disk as is written whole, or not at all.
const SECTOR_BYTES: u64 = 512;

fn find_damage(mut file: impl BufRead) -> io::Result<Option<String>> {
    let mut header = [0; HEADER_BYTES];
    if !fill(&mut file, &mut header)? {
        return Ok(None);
    }
    let Some(mut reader) = FrameReader::new(&header) else {
        // It is synced before the first frame is written, and lies in one sector.
        let is_unwritten = header == [0; HEADER_BYTES] && file.bytes().all(|byte| matches!(byte, Ok(0)));
        return Ok((!is_unwritten).then(|| "its header is not as it was written".into()));
    };
    let mut verdict = Verdict::default();
    while let Some(frame) = reader.next(&mut file)? {
        if verdict.is_damage(frame) {
            let what = format!("frame {} is not as it was written, and there are later ones", verdict.last_whole + 1);
            return Ok(Some(what));
        }
    }
    Ok(None)
}

/// What the frames so far tell.
#[derive(Default)]
struct Verdict {
    /// How many frames there are before the first bad one.
    last_whole: u64,
    /// The frame before, if one of those so far is bad.
    previous: Option<Frame>,
    /// Whether the transaction has ended that the first bad frame is in.
    transaction_ended: bool,
    /// The pages that this transaction has written so far: each once.
    pages: BTreeSet<u32>,
}

impl Verdict {
    /// Whether the frame shows that one before it was damaged after it had been written.
    fn is_damage(&mut self, frame: Frame) -> bool {
        let begins_another = frame.is_of_this_generation && frame.page.is_some_and(|page| !self.pages.insert(page));
        if let Some(previous) = &self.previous {
            // That this frame follows it shows that the other's header is right, whatever its generation seems to be.
            self.transaction_ended |= frame.is_good() && previous.ends_transaction;
            if frame.is_of_this_generation && (self.transaction_ended || begins_another) {
                return true;
            }
        }
        if self.previous.is_none() && frame.is_good() {
            self.last_whole += 1;
            if frame.ends_transaction {
                self.pages.clear();
            }
            return false;
        }
        self.transaction_ended |= frame.is_of_this_generation && frame.ends_transaction;
        self.previous = Some(frame);
        false
    }
}

/// What there is to know of a frame: a page as a transaction has left it.
struct Frame {
    is_of_this_generation: bool,
    /// Whether it follows the frame before it, and is as it was written.
    follows: bool,
    ends_transaction: bool,
    /// Which page it is of, where that is certain.
    page: Option<u32>,
}

impl Frame {
    fn is_good(&self) -> bool {
        self.is_of_this_generation && self.follows
    }
}

struct FrameReader {
    /// Whether the checksums are over words of which the first byte counts most.
    is_big_endian: bool,
    salts: [u8; 8],
    /// The checksum of what was read last, as it is stored: that of the next frame goes on from there.
    checksum: [u32; 2],
    position: u64,
    page: Vec<u8>,
}

impl FrameReader {
    /// None if the header is not as it was written.
    fn new(header: &[u8; HEADER_BYTES]) -> Option<Self> {
        let magic = word(header, 0);
        let is_big_endian = match magic {
            0x377f_0682 => false,
            0x377f_0683 => true,
            _ => return None,
        };
        let checksum = [word(header, 24), word(header, 28)];
        if checksum != sum([0, 0], &header[..24], is_big_endian) {
            return None;
        }
        let page_bytes = word(header, 8);
        if !page_bytes.is_power_of_two() || !(512..=65536).contains(&page_bytes) {
            return None;
        }
        let salts = header[16..24].try_into().ok()?;
        let position = HEADER_BYTES as u64;
        Some(Self { is_big_endian, salts, checksum, position, page: vec![0; page_bytes as usize] })
    }

    /// The next frame, if the file has a whole one.
    fn next(&mut self, file: &mut impl Read) -> io::Result<Option<Frame>> {
        let mut header = [0; FRAME_HEADER_BYTES];
        if !fill(file, &mut header)? || !fill(file, &mut self.page)? {
            return Ok(None);
        }
        let computed = sum(self.checksum, &header[..8], self.is_big_endian);
        let computed = sum(computed, &self.page, self.is_big_endian);
        self.checksum = [word(&header, 16), word(&header, 20)];
        // Where a sector begins right after the mark, both may be older than the rest.
        let page_and_mark_count = !(self.position + 8).is_multiple_of(SECTOR_BYTES);
        self.position += (FRAME_HEADER_BYTES + self.page.len()) as u64;
        Ok(Some(Frame {
            is_of_this_generation: header[8..16] == self.salts,
            follows: computed == self.checksum,
            ends_transaction: page_and_mark_count && word(&header, 4) != 0,
            page: page_and_mark_count.then(|| word(&header, 0)),
        }))
    }
}

/// SQLite's checksum, which goes on from that of what came before.
fn sum([mut first, mut second]: [u32; 2], bytes: &[u8], is_big_endian: bool) -> [u32; 2] {
    let number = |word: &[u8]| {
        let word = word.try_into().expect("a word is four bytes");
        if is_big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
    };
    for pair in bytes.chunks_exact(8) {
        first = first.wrapping_add(number(&pair[..4])).wrapping_add(second);
        second = second.wrapping_add(number(&pair[4..])).wrapping_add(first);
    }
    [first, second]
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("a word is four bytes"))
}

/// Reads as much as fits; says whether there was as much.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}
