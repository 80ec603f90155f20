//! Entries in a row, shared by all who need them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::ops::{Deref, Range};

use crate::types::Entry;

/// Entries in a row. The log, the write, the message to each follower and the state machine share them: a clone, or a part, copies none.
#[derive(Clone, Default)]
pub struct Entries {
    /// What these are a part of; none if they are none.
    shared: Option<Arc<Vec<Entry>>>,
    start: usize,
    end: usize,
}

impl Entries {
    /// A part of these entries.
    ///
    /// # Panics
    ///
    /// If they are not that many.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "a part is not longer than the whole");
        Self { shared: self.shared.clone(), start: self.start + range.start, end: self.start + range.end }
    }

    /// Forgets the first `count` entries. Their memory is free once nobody shares the others.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "a part is not longer than the whole");
        self.start += count;
    }

    /// Forgets all entries but the first `count`.
    pub fn truncate(&mut self, count: usize) {
        self.end = self.end.min(self.start + count);
    }

    /// Adds `more` at the end, if nobody shares these entries and none of the first were forgotten, whose memory would grow old with the others.
    ///
    /// # Errors
    ///
    /// Otherwise with `more`, and nothing is added.
    pub fn extend_unshared<I: IntoIterator<Item = Entry>>(&mut self, more: I) -> Result<(), I> {
        match self.shared.as_mut().and_then(Arc::get_mut) {
            Some(own) if self.start == 0 => {
                own.truncate(self.end);
                own.extend(more);
                self.end = own.len();
                Ok(())
            }
            _ => Err(more),
        }
    }
}

impl From<Vec<Entry>> for Entries {
    fn from(entries: Vec<Entry>) -> Self {
        Self { start: 0, end: entries.len(), shared: (!entries.is_empty()).then(|| entries.into()) }
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        Vec::from_iter(entries).into()
    }
}

impl Deref for Entries {
    type Target = [Entry];

    fn deref(&self) -> &[Entry] {
        self.shared.as_ref().map_or(&[], |shared| &shared[self.start..self.end])
    }
}

impl<'a> IntoIterator for &'a Entries {
    type Item = &'a Entry;
    type IntoIter = core::slice::Iter<'a, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

// Whatever is around them, these entries are all that counts.

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Entries {}

impl Hash for Entries {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::types::{EntryId, Index, Payload, Term};

    fn entries(indexes: Range<u64>) -> Entries {
        indexes.map(|index| Entry { id: EntryId::new(Index(index), Term(1)), payload: Payload::Noop }).collect()
    }

    #[test]
    fn a_part_of_a_part_is_where_it_was() {
        let part = entries(0..9).slice(2..7);
        assert_eq!(part, entries(2..7));
        assert_eq!(part.slice(1..3), entries(3..5));
        assert_eq!(part.slice(5..5), Entries::default());
    }

    #[test]
    fn what_is_forgotten_is_gone_at_either_end() {
        let mut part = entries(0..9).slice(2..7);
        part.advance(1);
        part.truncate(3);
        assert_eq!(part, entries(3..6));
        part.truncate(5);
        assert_eq!(part, entries(3..6), "nothing comes back");
    }

    #[test]
    #[should_panic(expected = "not longer than the whole")]
    fn a_part_does_not_reach_beyond_its_whole() {
        entries(0..9).slice(2..7).slice(0..6);
    }

    #[test]
    fn entries_grow_only_while_nobody_shares_them() {
        let mut own = entries(0..4);
        own.truncate(2);
        assert!(own.extend_unshared(entries(2..5).to_vec()).is_ok(), "nobody sees what was cut off");
        assert_eq!(own, entries(0..5));
        let part = own.slice(1..3);
        assert!(own.extend_unshared(entries(5..6).to_vec()).is_err());
        assert_eq!((own.len(), part), (5, entries(1..3)));
        assert!(own.extend_unshared(entries(5..6).to_vec()).is_ok(), "the part is gone");
        assert_eq!(own, entries(0..6));
        own.advance(1);
        assert!(own.extend_unshared(entries(6..7).to_vec()).is_err(), "what is forgotten must go some day");
        assert!(Entries::default().extend_unshared(Vec::new()).is_err(), "there is nothing to add to");
    }

    #[test]
    fn equal_entries_are_equal_wherever_they_lie() {
        assert_eq!(Entries::from(vec![entries(0..9)[4].clone()]), entries(4..5));
        assert_ne!(entries(0..9).slice(0..1), entries(0..9).slice(1..2));
    }
}
