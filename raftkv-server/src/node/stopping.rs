//! How a node that was asked to stop comes to its end.

use std::time::Instant;

use raft_core::effect::RoleKind;
use raft_core::status::Status;
use raft_core::types::{NodeId, RequestId};

/// A node that was asked to stop: it takes no requests any more.
#[derive(Debug)]
pub(super) struct Stopping {
    /// Until when it waits for the requests under way.
    pub(super) by: Instant,
    /// There while it hands over leadership.
    pub(super) handover: Option<Handover>,
}

/// Leadership that is being handed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handover {
    /// The request to the core.
    pub(super) id: RequestId,
    /// When it is given up.
    pub(super) by: Instant,
}

impl Stopping {
    /// Whether nothing is to be waited for any more.
    pub(super) fn is_done(&self, is_idle: bool, now: Instant) -> bool {
        let hands_over = self.handover.is_some_and(|handover| now < handover.by);
        !hands_over && (is_idle || now >= self.by)
    }

    /// The request `id` was refused: if that was the handover, it is over.
    pub(super) fn refused(&mut self, id: RequestId) {
        self.handover.take_if(|handover| handover.id == id);
    }

    /// Another node leads: there is nothing to hand over any more.
    pub(super) fn follows(&mut self) {
        self.handover = None;
    }
}

/// Whom a leader that stops hands over to: of the voters that answer, one that has all or most of the log.
pub(super) fn successor(status: &Status) -> Option<NodeId> {
    if status.role != RoleKind::Leader {
        return None;
    }
    let membership = &status.membership;
    let voters = status.followers.iter().filter(|follower| follower.active && membership.voters.contains(&follower.id));
    voters.max_by_key(|follower| (follower.match_index, membership.priority(follower.id))).map(|follower| follower.id)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use raft_core::config::Config;
    use raft_core::membership::Membership;
    use raft_core::node::Node;
    use raft_core::port::Stored;
    use raft_core::status::{FollowerStatus, ProgressKind};
    use raft_core::types::{EntryId, Index, Member};

    use super::*;

    fn follower(id: u64, matched: u64, active: bool) -> FollowerStatus {
        let match_index = Index(matched);
        let progress = ProgressKind::Replicate;
        FollowerStatus { id: NodeId(id), match_index, next_index: match_index.next(), active, progress }
    }

    fn leader(followers: Vec<FollowerStatus>) -> Status {
        let member = |id: u64| (NodeId(id), Member { priority: if id == 3 { 1 } else { 0 }, ..Member::default() });
        let stored = Stored::first(Membership::of_voters((1..=4).map(member).collect()));
        let node = Node::new(Config::new(NodeId(1)), stored, EntryId::ZERO).unwrap();
        Status { role: RoleKind::Leader, followers, ..node.status() }
    }

    #[test]
    fn the_voter_that_is_furthest_succeeds() {
        let status =
            leader(vec![follower(2, 9, true), follower(3, 8, true), follower(4, 9, false), follower(5, 9, true)]);
        assert_eq!(successor(&status), Some(NodeId(2)), "n4 is silent and n5 has no vote");
        let equals = leader(vec![follower(2, 9, true), follower(3, 9, true), follower(4, 9, true)]);
        assert_eq!(successor(&equals), Some(NodeId(3)), "by priority");
        assert_eq!(successor(&leader(vec![])), None);
        assert_eq!(successor(&Status { role: RoleKind::Follower, ..status }), None);
    }

    #[test]
    fn a_node_waits_for_its_requests_and_its_handover() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut stopping = Stopping { by: later, handover: Some(Handover { id: RequestId(7), by: later }) };
        assert!(!stopping.is_done(true, now));
        stopping.refused(RequestId(6));
        assert!(!stopping.is_done(true, now));
        stopping.refused(RequestId(7));
        assert!(stopping.is_done(true, now));
        assert!(!stopping.is_done(false, now));
        assert!(stopping.is_done(false, later));
    }
}
