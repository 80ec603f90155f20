//! What the node tells people.

use std::error::Error;
use std::time::{Duration, Instant};

use raft_core::effect::{Malformed, RoleKind};
use raft_core::membership::Membership;
use raft_core::types::{NodeId, Snapshot, Term};

/// Writes a line for what matters, and not a flood for what repeats.
#[derive(Debug)]
pub(super) struct Reporter {
    id: NodeId,
    /// The leader that was known last.
    leader: Option<NodeId>,
    discards: RateLimit,
}

impl Reporter {
    pub(super) fn new(id: NodeId) -> Self {
        Self { id, leader: None, discards: RateLimit::new(Duration::from_secs(1)) }
    }

    /// One line for each result of an election. Attempts that may repeat for hours, where there is no majority, are left to `debug`.
    pub(super) fn became(&mut self, role: RoleKind, term: Term, leader: Option<NodeId>) {
        let id = self.id;
        let had_leader = std::mem::replace(&mut self.leader, leader).is_some();
        match (role, leader) {
            (RoleKind::Leader, _) => tracing::info!("{id} became leader of term {term}"),
            (_, Some(leader)) => tracing::info!("{id} follows {leader}, leader of term {term}"),
            (role, None) if had_leader => tracing::info!("{id} is {role} in term {term} and knows no leader"),
            (role, None) => tracing::debug!("{id} is {role} in term {term} and knows no leader"),
        }
    }

    pub(super) fn membership(&self, membership: &Membership) {
        let id = self.id;
        let Membership { voters, outgoing, learners, .. } = membership;
        tracing::info!("{id} uses membership: voters {}", names(voters));
        if !outgoing.is_empty() {
            tracing::info!("{id} uses membership: outgoing voters {}", names(outgoing));
        }
        if !learners.is_empty() {
            tracing::info!("{id} uses membership: learners {}", names(learners));
        }
    }

    pub(super) fn installs(&self, snapshot: &Snapshot) {
        let id = self.id;
        tracing::info!("{id} installs a snapshot up to {}", snapshot.last);
    }

    pub(super) fn no_capture(&self, to: NodeId, error: &dyn Error) {
        let id = self.id;
        tracing::warn!("{id} could not copy its state for {to}, and will try again: {error}");
    }

    pub(super) fn discard(&mut self, from: NodeId, reason: Malformed) {
        let id = self.id;
        match self.discards.allow(Instant::now()) {
            Some(0) => tracing::warn!("{id} discards a message from {from}: {reason}"),
            Some(more) => tracing::warn!("{id} discards a message from {from}: {reason} (and {more} others before it)"),
            None => (),
        }
    }
}

fn names<'a>(ids: impl IntoIterator<Item = &'a NodeId>) -> String {
    ids.into_iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ")
}

/// Lets one line through in each interval, and counts the others.
#[derive(Debug)]
struct RateLimit {
    interval: Duration,
    last: Option<Instant>,
    suppressed: u64,
}

impl RateLimit {
    fn new(interval: Duration) -> Self {
        Self { interval, last: None, suppressed: 0 }
    }

    /// How many lines were held back since the last one, if one may go now.
    fn allow(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.duration_since(last) < self.interval) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_limited_and_counted() {
        let start = Instant::now();
        let mut limit = RateLimit::new(Duration::from_secs(1));
        assert_eq!(limit.allow(start), Some(0));
        assert_eq!(limit.allow(start + Duration::from_millis(10)), None);
        assert_eq!(limit.allow(start + Duration::from_millis(20)), None);
        assert_eq!(limit.allow(start + Duration::from_millis(1000)), Some(2));
        assert_eq!(limit.allow(start + Duration::from_millis(2500)), Some(0));
    }
}
