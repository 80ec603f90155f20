//! How much may wait at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A limit on things that wait, in number and in bytes. Cloned handles share it.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    max_items: usize,
    /// Not counting the item that passes it: a single larger one still goes, if nothing else waits.
    max_bytes: u64,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    items: usize,
    bytes: u64,
}

/// A share of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    bytes: u64,
    budget: Budget,
}

impl Budget {
    pub(super) fn new(max_items: usize, max_bytes: u64) -> Self {
        Self { max_items, max_bytes, taken: Arc::default() }
    }

    /// A share for one item of so many bytes, or nothing if too much waits already.
    pub(super) fn take(&self, bytes: u64) -> Option<Permit> {
        let mut taken = self.lock();
        if taken.items >= self.max_items || taken.bytes >= self.max_bytes {
            return None;
        }
        taken.items += 1;
        taken.bytes += bytes;
        Some(Permit { bytes, budget: self.clone() })
    }

    /// Whether nothing waits.
    pub(super) fn is_unused(&self) -> bool {
        self.lock().items == 0
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut taken = self.budget.lock();
        taken.items -= 1;
        taken.bytes -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_limited_and_given_back() {
        let budget = Budget::new(2, 100);
        let first = budget.take(1).unwrap();
        let _second = budget.take(1).unwrap();
        assert!(budget.take(1).is_none());
        drop(first);
        assert!(budget.take(1).is_some());
    }

    #[test]
    fn bytes_are_limited_but_a_large_item_goes_alone() {
        let budget = Budget::new(10, 100);
        let large = budget.take(1000).unwrap();
        assert!(budget.take(1).is_none());
        assert!(!budget.is_unused());
        drop(large);
        assert!(budget.is_unused());
        assert!(budget.take(1).is_some());
    }
}
