//! How fresh a read must be.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use raft_core::types::Index;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consistency {
    /// Against what was acknowledged before.
    pub level: Level,
    /// An entry that the state must include in any case; zero for none.
    pub applied_index: Index,
}

/// How fresh a read must be, against what was acknowledged before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// It includes all of that: a majority confirms it.
    #[default]
    Linearizable,
    /// It includes all of that as long as clocks run alike, where the node has a lease; otherwise a majority confirms it.
    Lease,
    /// It includes whatever this node has applied.
    Stale {
        /// All that was acknowledged more than this many milliseconds ago, if that matters.
        max_age_ms: Option<u64>,
    },
}

/// When this node's state last was known to include everything that was acknowledged.
#[derive(Clone, Debug, Default)]
pub(super) struct Freshness(Arc<Mutex<Option<Instant>>>);

impl Freshness {
    /// Whether the state includes everything that was acknowledged `max_age` ago.
    pub(super) fn is_within(&self, max_age: Duration) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() <= max_age)
    }

    /// The state includes everything that was acknowledged at `at`.
    pub(super) fn confirmed(&self, at: Instant) {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = (*latest).max(Some(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_as_fresh_as_its_last_confirmation() {
        let freshness = Freshness::default();
        assert!(!freshness.is_within(Duration::MAX), "nothing was confirmed");
        let hour_ago = Instant::now().checked_sub(Duration::from_secs(3600)).unwrap();
        freshness.confirmed(hour_ago);
        assert!(freshness.is_within(Duration::from_secs(7200)));
        assert!(!freshness.is_within(Duration::from_secs(3599)));
        freshness.confirmed(Instant::now());
        freshness.confirmed(hour_ago);
        assert!(
            freshness.is_within(Duration::from_secs(60)),
            "a late confirmation of an earlier moment takes nothing back"
        );
    }
}
