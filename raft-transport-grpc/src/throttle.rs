//! Complaints that are worth a line in the log, but not one for each attempt.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use raft_core::types::NodeId;

/// How long an unchanged complaint about a node stays unsaid.
const INTERVAL: Duration = Duration::from_secs(10);
/// Complaints about more nodes than this are forgotten and may be repeated early: ids are free to make up.
const MAX_NODES: usize = 64;

/// Lets a complaint about a node through when it differs from the last one about it, or every ten seconds.
#[derive(Debug, Default)]
pub struct Throttle {
    said: Mutex<BTreeMap<NodeId, (String, Instant)>>,
}

impl Throttle {
    /// Whether to say this about the node now. If so, it counts as said.
    pub fn admits(&self, about: NodeId, complaint: &str) -> bool {
        self.admits_at(about, complaint, Instant::now())
    }

    fn admits_at(&self, about: NodeId, complaint: &str, now: Instant) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match said.get(&about) {
            Some((last, when)) if last == complaint && now.duration_since(*when) < INTERVAL => return false,
            None if said.len() >= MAX_NODES => said.clear(),
            _ => (),
        }
        said.insert(about, (complaint.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_said_when_it_changes_and_every_ten_seconds() {
        let throttle = Throttle::default();
        let start = Instant::now();
        assert!(throttle.admits_at(NodeId(1), "a", start));
        assert!(!throttle.admits_at(NodeId(1), "a", start + INTERVAL / 2));
        assert!(throttle.admits_at(NodeId(2), "a", start + INTERVAL / 2));
        assert!(throttle.admits_at(NodeId(1), "b", start + INTERVAL / 2));
        assert!(!throttle.admits_at(NodeId(1), "b", start + INTERVAL));
        assert!(throttle.admits_at(NodeId(1), "b", start + INTERVAL * 2));
    }

    #[test]
    fn memory_is_bounded_however_many_ids_are_made_up() {
        let throttle = Throttle::default();
        for id in 0..10 * MAX_NODES as u64 {
            throttle.admits(NodeId(id), "a");
        }
        assert!(throttle.said.lock().unwrap().len() <= MAX_NODES);
    }
}
