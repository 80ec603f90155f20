//! What a node says of itself, for people and metrics.

use alloc::vec::Vec;
use core::cmp::Reverse;
use core::fmt;

use crate::effect::RoleKind;
use crate::membership::Membership;
use crate::types::{Index, NodeId, Term};

/// A node at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// The node.
    pub id: NodeId,
    /// Its role.
    pub role: RoleKind,
    /// Its current term.
    pub term: Term,
    /// Who leads that term, if known.
    pub leader: Option<NodeId>,
    /// The highest entry it knows to be committed.
    pub commit_index: Index,
    /// The highest entry its state machine has reported applied.
    pub applied_index: Index,
    /// The last entry of its log.
    pub last_index: Index,
    /// The highest entry that is durable on this node.
    pub durable_index: Index,
    /// The last entry that the log does not hold any more, a snapshot having taken its place; zero if it is whole.
    pub snapshot_index: Index,
    /// The membership in force.
    pub membership: Membership,
    /// Of a leader: what it knows of each other member. Empty otherwise.
    pub followers: Vec<FollowerStatus>,
    /// Of a leader that hands over: to whom.
    pub transferring_to: Option<NodeId>,
}

impl Status {
    /// Who had better lead next, where this node leads and is to hand over: of the other voters that are alive the one with the highest priority,
    /// then the one whose log is furthest, then the one with the lowest id. One that is to be found first, or to be sent a snapshot, is named
    /// only where all are.
    pub fn successor(&self) -> Option<NodeId> {
        if self.role != RoleKind::Leader {
            return None;
        }
        let voters = &self.membership.voters;
        let alive = self.followers.iter().filter(|follower| follower.active && voters.contains(&follower.id));
        let fitness = |follower: &&FollowerStatus| {
            let keeps_up = follower.progress == ProgressKind::Replicate;
            (keeps_up, self.membership.priority(follower.id), follower.match_index, Reverse(follower.id))
        };
        alive.max_by_key(fitness).map(|follower| follower.id)
    }
}

/// What a leader knows of a follower.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FollowerStatus {
    /// The follower.
    pub id: NodeId,
    /// The highest entry known to be durable there and to match the leader's log.
    pub match_index: Index,
    /// The next entry to send.
    pub next_index: Index,
    /// Whether it was heard of within the last two election timeouts.
    pub active: bool,
    /// How it is sent entries.
    pub progress: ProgressKind,
}

/// How a leader brings a follower up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProgressKind {
    /// It looks for where the logs agree.
    Probe,
    /// It sends entries ahead of their acknowledgement.
    Replicate,
    /// It sends a snapshot.
    Snapshot,
}

impl fmt::Display for ProgressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Probe => "probe",
            Self::Replicate => "replicate",
            Self::Snapshot => "snapshot",
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::config::Config;
    use crate::node::Node;
    use crate::port::Stored;
    use crate::types::{EntryId, Member};

    fn follower(id: u64, matched: u64, active: bool) -> FollowerStatus {
        let match_index = Index(matched);
        let progress = ProgressKind::Replicate;
        FollowerStatus { id: NodeId(id), match_index, next_index: match_index.next(), active, progress }
    }

    /// Node 1 leads voters 1 to 4, of which 3 is preferred.
    fn leader(followers: Vec<FollowerStatus>) -> Status {
        let member = |id: u64| (NodeId(id), Member { priority: u32::from(id == 3), ..Member::default() });
        let stored = Stored::first(Membership::of_voters((1..=4).map(member).collect()));
        let node = Node::new(Config::new(NodeId(1)), stored, EntryId::ZERO).unwrap();
        Status { role: RoleKind::Leader, followers, ..node.status() }
    }

    #[test]
    fn the_successor_is_alive_and_preferred_and_furthest() {
        let successor = |followers| leader(followers).successor().map(|id| id.0);
        assert_eq!(successor(vec![]), None);
        assert_eq!(
            successor(vec![follower(2, 9, true), follower(3, 8, true), follower(4, 9, true)]),
            Some(3),
            "preferred"
        );
        assert_eq!(
            successor(vec![follower(2, 8, true), follower(3, 9, false), follower(4, 9, true)]),
            Some(4),
            "furthest"
        );
        assert_eq!(
            successor(vec![follower(2, 9, true), follower(4, 9, true), follower(5, 10, true)]),
            Some(2),
            "n5 has no vote"
        );
        let behind = FollowerStatus { progress: ProgressKind::Snapshot, ..follower(3, 1, true) };
        assert_eq!(successor(vec![follower(2, 9, true), behind.clone()]), Some(2), "n3 needs a snapshot first");
        assert_eq!(successor(vec![behind]), Some(3), "there is no other");
        let follows = Status { role: RoleKind::Follower, ..leader(vec![follower(2, 9, true)]) };
        assert_eq!(follows.successor(), None);
    }
}
