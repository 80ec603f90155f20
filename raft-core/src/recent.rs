//! The entries in memory: the last ones of the log, and how large they are.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

use crate::entries::Entries;
use crate::types::{Entry, EntryId, Index};

/// The last entries of a log, and the one before them.
#[derive(Clone, Debug)]
pub struct Recent {
    /// In the pieces in which they came, none of them empty, so that whoever needs such a piece shares it.
    pieces: VecDeque<Piece>,
    /// For each of them the size of all entries up to it, so that the size of any range is one subtraction and can't drift.
    end_bytes: VecDeque<u64>,
    /// The last entry before them.
    before: EntryId,
    /// The size of all that were ever before them. Only differences matter.
    before_bytes: u64,
}

/// Some entries, at least one.
#[derive(Clone, Debug)]
struct Piece {
    /// The last of them, kept at hand for searches.
    last: EntryId,
    entries: Entries,
}

/// For how many entries there is room in a new piece that may grow.
const LEAST_ROOM: usize = 4;

/// How large a piece is before it takes no more: not very, for its memory is free only when all of it has gone.
const PIECE_BYTES: u64 = 1 << 20;

impl Recent {
    /// None, after the entry `before`.
    pub fn after(before: EntryId) -> Self {
        Self { pieces: VecDeque::new(), end_bytes: VecDeque::new(), before, before_bytes: 0 }
    }

    /// The last entry before those in memory.
    pub fn before(&self) -> EntryId {
        self.before
    }

    /// The last entry; the one before, if there are none.
    pub fn last(&self) -> EntryId {
        self.pieces.back().map_or(self.before, |piece| piece.last)
    }

    /// Entries from `from` up to `to`, both included: at least one, if there is one, and then as many as fit in `max_bytes`.
    pub fn fitting(&self, from: Index, to: Index, max_bytes: u64) -> Entries {
        let limit = self.end_bytes_at(from.prev()).saturating_add(max_bytes);
        let all_fit = self.end_bytes() <= limit;
        let fitting = || self.end_bytes.partition_point(|&end_bytes| end_bytes <= limit) as u64;
        let last = if all_fit { self.last().index } else { self.before.index.plus(fitting()).max(from) };
        self.range(from, last.min(to))
    }

    /// The entries from `from` up to `to`, both included and in memory. Those of one piece are shared, others copied.
    pub fn range(&self, from: Index, to: Index) -> Entries {
        if from > to || self.position(from).is_none() || self.position(to).is_none() {
            return Entries::default();
        }
        let first = self.piece_of(from);
        let piece = &self.pieces[first];
        if to <= piece.last.index {
            return piece.entries.slice(piece.position(from)..piece.position(to) + 1);
        }
        let mut entries = Vec::with_capacity((to.0 - from.0 + 1) as usize);
        for piece in self.pieces.range(first..) {
            let start = piece.position(from.max(piece.first_index()));
            if piece.last.index >= to {
                entries.extend_from_slice(&piece.entries[start..=piece.position(to)]);
                break;
            }
            entries.extend_from_slice(&piece.entries[start..]);
        }
        entries.into()
    }

    /// Adds entries, as a piece of their own.
    pub fn append(&mut self, entries: Entries) {
        let Some(last) = entries.last().map(|entry| entry.id) else { return };
        extend_bytes(&mut self.end_bytes, self.before_bytes, &entries);
        self.pieces.push_back(Piece { last, entries });
    }

    /// Adds entries that nobody has yet, to the last piece where that is small and nobody shares it: so those that come one by one before the first is
    /// written and sent become one piece.
    pub fn extend(&mut self, entries: impl IntoIterator<Item = Entry>) {
        let is_small = self.last_piece_bytes() < PIECE_BYTES;
        let entries = match self.pieces.back_mut().filter(|_| is_small) {
            Some(piece) => {
                let known = piece.entries.len();
                match piece.entries.extend_unshared(entries) {
                    Ok(()) => {
                        extend_bytes(&mut self.end_bytes, self.before_bytes, &piece.entries[known..]);
                        piece.last = piece.entries[piece.entries.len() - 1].id;
                        return;
                    }
                    Err(entries) => entries,
                }
            }
            None => entries,
        };
        let mut own = Vec::with_capacity(LEAST_ROOM);
        own.extend(entries);
        self.append(own.into());
    }

    /// The entries after `index` in the last piece, which holds that, or begins after it.
    pub fn last_piece_after(&self, index: Index) -> &[Entry] {
        self.pieces.back().map_or(&[], |piece| &piece.entries[piece.position(index.next().max(piece.first_index()))..])
    }

    fn last_piece_bytes(&self) -> u64 {
        let others = self.end_bytes.len() - self.pieces.back().map_or(0, |piece| piece.entries.len());
        self.end_bytes() - others.checked_sub(1).map_or(self.before_bytes, |last| self.end_bytes[last])
    }

    /// Forgets the oldest entries until the rest fits in `max_bytes`, but none after `last`.
    pub fn evict(&mut self, last: Index, max_bytes: u64) {
        while self.end_bytes() - self.before_bytes > max_bytes && self.before.index < last {
            self.forget_first();
        }
    }

    /// Forgets the entries up to `last`.
    pub fn forget_to(&mut self, last: Index) {
        while self.before.index < last {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let piece = self.pieces.front_mut().expect("there are entries in memory");
        self.before = piece.entries[0].id;
        piece.entries.advance(1);
        if piece.entries.is_empty() {
            self.pieces.pop_front();
        }
        self.before_bytes = self.end_bytes.pop_front().expect("each entry has a size");
    }

    /// Cuts off what follows `last`, which is in memory or was.
    pub fn truncate(&mut self, last: EntryId) {
        let Some(position) = self.position(last.index) else { return self.clear(last) };
        self.end_bytes.truncate(position + 1);
        while self.pieces.back().is_some_and(|piece| piece.first_index() > last.index) {
            self.pieces.pop_back();
        }
        if let Some(piece) = self.pieces.back_mut() {
            piece.entries.truncate(piece.position(last.index) + 1);
            piece.last = last;
        }
    }

    /// Forgets all entries: the next follows `before`.
    pub fn clear(&mut self, before: EntryId) {
        *self = Self { before_bytes: self.end_bytes(), ..Self::after(before) };
    }

    /// The size of the entries after `index`.
    pub fn bytes_after(&self, index: Index) -> u64 {
        self.end_bytes() - self.end_bytes_at(index)
    }

    /// The size of all entries.
    fn end_bytes(&self) -> u64 {
        self.end_bytes.back().copied().unwrap_or(self.before_bytes)
    }

    /// The size of all entries up to the one at `index`, or of those before all in memory.
    fn end_bytes_at(&self, index: Index) -> u64 {
        self.position(index).map_or(self.before_bytes, |position| self.end_bytes[position])
    }

    /// Which piece holds the entry at `index`: mostly the last, which is all that those who keep up ask for.
    fn piece_of(&self, index: Index) -> usize {
        match self.pieces.back() {
            Some(piece) if piece.first_index() <= index => self.pieces.len() - 1,
            _ => self.pieces.partition_point(|piece| piece.last.index < index),
        }
    }

    /// Where among the entries in memory that at `index` stands.
    fn position(&self, index: Index) -> Option<usize> {
        let position = index.0.checked_sub(self.before.index.0)?.checked_sub(1)?;
        usize::try_from(position).ok().filter(|&position| position < self.end_bytes.len())
    }

    fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.pieces.iter().flat_map(|piece| &piece.entries)
    }
}

/// Adds the size of all entries up to each of `entries`.
fn extend_bytes(end_bytes: &mut VecDeque<u64>, before_bytes: u64, entries: &[Entry]) {
    let mut bytes = end_bytes.back().copied().unwrap_or(before_bytes);
    for entry in entries {
        bytes += entry.size_bytes();
        end_bytes.push_back(bytes);
    }
}

// In which pieces the entries came, and how many bytes there were before them, is not what a log says.

impl PartialEq for Recent {
    fn eq(&self, other: &Self) -> bool {
        self.before == other.before && self.last() == other.last() && self.iter().eq(other.iter())
    }
}

impl Eq for Recent {}

impl Hash for Recent {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.before, self.last()).hash(state);
        self.iter().for_each(|entry| entry.hash(state));
    }
}

impl Piece {
    fn first_index(&self) -> Index {
        Index(self.last.index.0 + 1 - self.entries.len() as u64)
    }

    /// Where the entry at `index`, which is not beyond this piece, stands in it.
    fn position(&self, index: Index) -> usize {
        (index.0 - self.first_index().0) as usize
    }
}
