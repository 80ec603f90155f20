//! Entries as they stand in the file: those that were written together share a row, for a row of its own would cost an
//! entry more than its bytes do.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raft_core::types::{Entry, EntryId, Index, Payload, Term};

use crate::codec;
use crate::error::Error;

const NOOP: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Entries that follow each other, packed.
pub(super) struct Batch {
    /// The index of the first.
    pub(super) first: Index,
    /// The checksum of the batch that was the last when this one was written, zero if there was none. So a batch that was
    /// replaced by an older one, whole in itself, is found out by those after it.
    pub(super) before: u32,
    /// Covers all of the above and the entries.
    pub(super) checksum: u32,
    /// One after the other: term, kind, length, payload.
    pub(super) entries: Bytes,
}

impl Batch {
    pub(super) fn new(first: Index, before: u32, entries: Bytes) -> Self {
        Self { first, before, checksum: checksum(first, before, &entries), entries }
    }

    /// The entries, if they are as they were written. They share the memory of the batch.
    pub(super) fn unpack(&self) -> Result<Vec<Entry>, Error> {
        if self.checksum != checksum(self.first, self.before, &self.entries) {
            return Err(self.damaged("the checksum of it, or of those written with it, is wrong"));
        }
        let (mut entries, mut bytes) = (Vec::new(), self.entries.clone());
        let mut index = self.first;
        while bytes.has_remaining() {
            let packed = take(&mut bytes).ok_or_else(|| self.damaged("it ends too early"))?;
            entries.push(packed.decode(index)?);
            index = index.next();
        }
        if entries.is_empty() {
            return Err(self.damaged("it is empty"));
        }
        Ok(entries)
    }

    fn damaged(&self, what: &str) -> Error {
        Error::Damaged { index: self.first, what: what.into() }
    }
}

/// Adds an entry to those of a batch.
pub(super) fn pack(entry: &Entry, into: &mut BytesMut) {
    let (kind, payload) = match &entry.payload {
        Payload::Noop => (NOOP, Bytes::new()),
        Payload::Command(command) => (COMMAND, command.clone()),
        Payload::Membership(membership) => (MEMBERSHIP, codec::encode_membership(membership)),
    };
    into.put_u64_le(entry.id.term.0);
    into.put_u8(kind);
    into.put_u32_le(u32::try_from(payload.len()).expect("SQLite holds no more than a gigabyte in a row"));
    into.put_slice(&payload);
}

/// An entry whose payload is not decoded yet.
pub(super) struct PackedEntry {
    pub(super) term: Term,
    pub(super) kind: u8,
    pub(super) payload: Bytes,
}

impl PackedEntry {
    pub(super) fn decode(self, index: Index) -> Result<Entry, Error> {
        let id = EntryId::new(index, self.term);
        let undecodable = |why| Error::Undecodable { what: "an entry", why };
        let payload = match self.kind {
            NOOP => Payload::Noop,
            COMMAND => Payload::Command(self.payload),
            MEMBERSHIP => Payload::Membership(
                codec::decode_membership(&self.payload)
                    .map_err(|error| undecodable(format!("in entry {id}, {error}")))?
                    .into(),
            ),
            // Never skipped: what a newer version stored may matter for safety.
            unknown => return Err(undecodable(format!("entry {id} is of the unknown kind {unknown}"))),
        };
        Ok(Entry { id, payload })
    }
}

fn take(bytes: &mut Bytes) -> Option<PackedEntry> {
    let term = Term(bytes.try_get_u64_le().ok()?);
    let kind = bytes.try_get_u8().ok()?;
    let length = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
    (length <= bytes.remaining()).then(|| PackedEntry { term, kind, payload: bytes.split_to(length) })
}

fn checksum(first: Index, before: u32, entries: &[u8]) -> u32 {
    let sum = crc32c::crc32c(&first.0.to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &before.to_le_bytes());
    crc32c::crc32c_append(sum, entries)
}
