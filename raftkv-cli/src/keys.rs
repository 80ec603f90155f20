//! Which keys are meant, and how fresh a read must be.

use bytes::Bytes;
use raftkv_proto::raftkv::v1 as proto;
use std::time::Duration;

/// Keys, by the order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    /// One key.
    Key(Bytes),
    /// All keys that begin so. Empty: all keys.
    Prefix(Bytes),
    /// All keys from `start`; to `end`, which is not included, or to the last of all.
    Span {
        /// The first. Empty: from the first of all.
        start: Bytes,
        /// The end.
        end: Option<Bytes>,
    },
}

impl KeyRange {
    /// All keys.
    pub fn all() -> Self {
        Self::Prefix(Bytes::new())
    }

    /// All keys that begin so.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self::Prefix(prefix.into())
    }
}

impl<T: Into<Bytes>> From<T> for KeyRange {
    fn from(key: T) -> Self {
        Self::Key(key.into())
    }
}

impl From<KeyRange> for proto::KeyRange {
    fn from(range: KeyRange) -> Self {
        let keys = match range {
            KeyRange::Key(key) => proto::key_range::Keys::Key(key),
            KeyRange::Prefix(prefix) => proto::key_range::Keys::Prefix(prefix),
            KeyRange::Span { start, end } => proto::key_range::Keys::Span(proto::Span { start, end }),
        };
        Self { keys: Some(keys) }
    }
}

/// Which keys to read, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    range: KeyRange,
    revision: u64,
    limit: u64,
    detail: proto::Detail,
}

impl Lookup {
    /// Keys and values, as they are now.
    pub fn new(range: impl Into<KeyRange>) -> Self {
        Self { range: range.into(), revision: 0, limit: 0, detail: proto::Detail::Full }
    }

    /// As of a revision.
    #[must_use]
    pub fn at(self, revision: u64) -> Self {
        Self { revision, ..self }
    }

    /// At most so many; the count is of all.
    #[must_use]
    pub fn limit(self, limit: u64) -> Self {
        Self { limit, ..self }
    }

    /// Without the values.
    #[must_use]
    pub fn keys_only(self) -> Self {
        Self { detail: proto::Detail::Keys, ..self }
    }

    /// Only how many there are.
    #[must_use]
    pub fn count_only(self) -> Self {
        Self { detail: proto::Detail::Count, ..self }
    }
}

impl From<Lookup> for proto::Lookup {
    fn from(Lookup { range, revision, limit, detail }: Lookup) -> Self {
        Self { range: Some(range.into()), revision, limit, detail: detail.into() }
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// It includes everything that was acknowledged before the call began.
    #[default]
    Linearizable,
    /// The same as long as the nodes' clocks run alike, and faster, where the leader holds a lease; otherwise linearizable, as with this
    /// version of `raftkv-server`.
    Lease,
    /// Whatever the node that is asked has applied.
    Stale {
        /// But everything that was acknowledged longer ago than this.
        max_age: Option<Duration>,
    },
}

impl From<Consistency> for proto::Consistency {
    fn from(consistency: Consistency) -> Self {
        let (level, max_age) = match consistency {
            Consistency::Linearizable => (proto::Level::Linearizable, None),
            Consistency::Lease => (proto::Level::Lease, None),
            Consistency::Stale { max_age } => (proto::Level::Stale, max_age),
        };
        // Zero would be any age.
        let milliseconds = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX).max(1);
        Self { level: level.into(), max_age_ms: max_age.map_or(0, milliseconds), applied_index: 0 }
    }
}
