//! The numbers that everything else speaks of. Seen from outside, they are in [`types`](crate::types).

use core::fmt;

/// A newtype over `u64`, so that ids, terms and indexes cannot be mixed up.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

number!(
    /// A node's place in the membership. Zero is nobody.
    NodeId, "n{}"
);
number!(
    /// A term (§5.1). Zero is before the first election.
    Term, "{}"
);
number!(
    /// The position of an entry in the log. The first entry is 1; zero is "before the log".
    Index, "{}"
);
number!(
    /// The number of a [`Persist`](crate::effect::Persist). The first is 1; zero is "no write yet".
    WriteId, "#{}"
);
number!(
    /// A number that the caller gives to a request, to know its outcome by.
    RequestId, "r{}"
);
number!(
    /// A leader's round of asking who still follows it (thesis §6.4). Zero is before the first.
    Round, "{}"
);
number!(
    /// A number that a follower makes for the reads it asks its leader about, never used twice. Zero is none.
    ReadToken, "t{}"
);
number!(
    /// A time on the driver's own monotonic clock, in a unit of its choice. Only differences matter, and only on one node.
    Moment, "{}"
);
number!(
    /// The random number made with a node's data directory: the disk behind a [`NodeId`]. Zero is "not known".
    Incarnation, "{:016x}"
);
number!(
    /// The cluster's id, made when it begins. Zero is "not begun".
    ClusterId, "{:016x}"
);

impl NodeId {
    /// No node.
    pub const NONE: Self = Self(0);

    /// The last id there may be: stores have signed numbers.
    pub const LAST: Self = Self(i64::MAX as u64);

    /// Whether a node can have this id.
    pub fn is_possible(self) -> bool {
        (Self(1)..=Self::LAST).contains(&self)
    }
}

impl Term {
    /// The last term there may be. Far beyond what elections can reach; leaves room for stores with signed numbers.
    pub const LAST: Self = Self(1 << 62);

    /// The term after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Index {
    /// Before the log.
    pub const ZERO: Self = Self(0);

    /// The last position there may be: stores have signed numbers.
    pub const LAST: Self = Self(i64::MAX as u64);

    /// The position after this one.
    pub fn next(self) -> Self {
        self.plus(1)
    }

    /// The position before this one; that of zero is zero.
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The position `n` further on.
    pub fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }
}

impl WriteId {
    /// The write after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl ReadToken {
    /// The token after this one.
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

impl Round {
    /// The round after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// An entry's position and the term in which a leader made it. Two logs that hold the same `EntryId` hold the same
/// entries up to it (§5.3, log matching). Shown as `7@3`: index 7, term 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EntryId {
    /// Where it stands.
    pub index: Index,
    /// The term of the leader that made it.
    pub term: Term,
}

impl EntryId {
    /// Before the log.
    pub const ZERO: Self = Self { index: Index::ZERO, term: Term(0) };

    /// The entry at `index`, made in `term`.
    pub fn new(index: Index, term: Term) -> Self {
        Self { index, term }
    }

    /// Whether a log that ends here is at least as up-to-date as one that ends at `other` (§5.4.1).
    pub fn is_as_recent_as(self, other: Self) -> bool {
        (self.term, self.index) >= (other.term, other.index)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}
