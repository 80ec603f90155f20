//! What is known of the checksums of states, and what follows from it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use raft_core::membership::Membership;
use raft_core::quorum::VoteResult;
use raft_core::types::{Incarnation, Index, NodeId, Term};
use raft_store_sqlite::{Checksum, StateDigest};

use crate::begin::Members;

/// At how many entries, the last that there were, checksums are remembered.
const KEPT: usize = 8;

/// The checksums of nodes at one entry.
pub(super) type Checksums = BTreeMap<NodeId, Checksum>;

/// What is known, by entry.
#[derive(Debug, Default)]
pub(super) struct Findings {
    marks: BTreeMap<Index, Mark>,
}

#[derive(Debug, Default)]
struct Mark {
    own: Progress,
    /// By node, and by its disk: a disk that was replaced says nothing of the new one.
    known: BTreeMap<(NodeId, Incarnation), Checksum>,
}

/// How far this node is with its own checksum at an entry.
#[derive(Clone, Debug, Default)]
pub enum Progress {
    /// It has not begun, or has no state to begin with.
    #[default]
    NotBegun,
    /// It computes.
    Computing {
        /// How many bytes it has hashed.
        hashed: Arc<AtomicU64>,
        /// The size of the state, in bytes.
        state_bytes: u64,
    },
    /// It is done.
    Computed,
    /// It could not compute it, for this reason.
    Failed(String),
}

impl Progress {
    /// How many bytes are hashed, and the size of the state; zero where nothing is being computed.
    pub fn bytes(&self) -> (u64, u64) {
        match self {
            Self::Computing { hashed, state_bytes } => (hashed.load(Ordering::Relaxed), *state_bytes),
            _ => (0, 0),
        }
    }
}

impl Findings {
    pub(super) fn set_progress(&mut self, index: Index, progress: Progress) {
        self.mark(index).own = progress;
    }

    pub(super) fn progress(&self, index: Index) -> Progress {
        self.marks.get(&index).map(|mark| mark.own.clone()).unwrap_or_default()
    }

    pub(super) fn is_computing(&self) -> bool {
        self.marks.values().any(|mark| matches!(mark.own, Progress::Computing { .. }))
    }

    /// Notes the checksum of a node, told by itself.
    pub(super) fn note(&mut self, node: NodeId, incarnation: Incarnation, checksum: Checksum) {
        self.mark(checksum.at.index).known.insert((node, incarnation), checksum);
    }

    /// What is known of the members' states at an entry.
    pub(super) fn at(&self, index: Index, members: &Members) -> Checksums {
        let known = self.marks.get(&index).into_iter().flat_map(|mark| &mark.known);
        let of_member = |((node, incarnation), checksum): (&(NodeId, Incarnation), &Checksum)| {
            let is_recorded = members.get(node).is_some_and(|member| member.incarnation == *incarnation);
            is_recorded.then(|| (*node, checksum.clone()))
        };
        known.filter_map(of_member).collect()
    }

    /// The last entry at which more than one checksum is known, with those of the members.
    pub(super) fn last_compared(&self, members: &Members) -> Option<Checksums> {
        self.marks.keys().rev().map(|index| self.at(*index, members)).find(|known| known.len() > 1)
    }

    fn mark(&mut self, index: Index) -> &mut Mark {
        if !self.marks.contains_key(&index) && self.marks.len() == KEPT {
            self.marks.pop_first();
        }
        self.marks.entry(index).or_default()
    }
}

/// What follows from the checksums at an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No two differ.
    Alike,
    /// Most of the voters have the same, and these nodes have others.
    Minority(Vec<NodeId>),
    /// They differ, and none is that of most voters, as far as is known.
    Split,
}

/// Sorts nodes out. Only what a majority of the voters has, in each half of a joint membership, is the cluster's state: those voters can go on
/// without the others. So the membership that counts is the one in force now, whichever it was at the entry.
pub(super) fn judge(membership: &Membership, known: &Checksums) -> Verdict {
    let groups = groups(known);
    if groups.len() < 2 {
        return Verdict::Alike;
    }
    let has_majority = |nodes: &Vec<NodeId>| {
        let votes = known.keys().map(|node| (*node, nodes.contains(node))).collect();
        membership.vote_result(&votes) == VoteResult::Won
    };
    match groups.values().find(|nodes| has_majority(nodes)) {
        Some(majority) => Verdict::Minority(known.keys().copied().filter(|node| !majority.contains(node)).collect()),
        None => Verdict::Split,
    }
}

/// The nodes of each checksum.
fn groups(known: &Checksums) -> BTreeMap<(Term, StateDigest), Vec<NodeId>> {
    let mut groups = BTreeMap::<_, Vec<NodeId>>::new();
    for (node, checksum) in known {
        groups.entry((checksum.at.term, checksum.digest)).or_default().push(*node);
    }
    groups
}

/// Says who has which checksum, for people: `node 1 has 0123456789abcdef, nodes 2, 3 have …`.
pub(super) fn describe(known: &Checksums) -> String {
    let groups = groups(known).into_iter().map(|((_, digest), nodes)| {
        let verb = if nodes.len() == 1 { "has" } else { "have" };
        format!("{} {verb} {}", name(&nodes), digest.short())
    });
    let faults = known.iter().filter_map(|(node, checksum)| {
        Some(format!("SQLite says of the file of node {}: {}", node.0, checksum.fault.as_ref()?))
    });
    groups.chain(faults).collect::<Vec<_>>().join(", ")
}

/// `node 1`, or `nodes 1, 2`.
pub(super) fn name(nodes: &[NodeId]) -> String {
    let ids = nodes.iter().map(|node| node.0.to_string()).collect::<Vec<_>>().join(", ");
    format!("node{} {ids}", if nodes.len() == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use raft_core::types::{EntryId, Member};

    use super::*;

    fn members(ids: &[u64]) -> Members {
        let member = |id: &u64| (NodeId(*id), Member { incarnation: Incarnation(100 + id), ..Member::default() });
        ids.iter().map(member).collect()
    }

    fn checksum(index: u64, digest: u8) -> Checksum {
        let at = EntryId::new(Index(index), Term(1));
        Checksum { at, digest: StateDigest([digest; 32]), fault: None }
    }

    /// Node 1 has the first digest, node 2 the second, and so on; 0 stands for a node that has told none.
    fn known(digests: &[u8]) -> Checksums {
        let told = (1..).zip(digests).filter(|(_, digest)| **digest > 0);
        told.map(|(id, digest)| (NodeId(id), checksum(7, *digest))).collect()
    }

    fn minority(ids: &[u64]) -> Verdict {
        Verdict::Minority(ids.iter().copied().map(NodeId).collect())
    }

    #[test]
    fn only_what_a_majority_of_the_voters_has_is_the_clusters_state() {
        for (voters, digests, expected) in [
            (1, &[5][..], Verdict::Alike),
            (2, &[5, 6], Verdict::Split),
            (3, &[], Verdict::Alike),
            (3, &[5, 0, 5], Verdict::Alike),
            (3, &[5, 0, 6], Verdict::Split),
            (3, &[5, 5, 6], minority(&[3])),
            (3, &[6, 5, 5], minority(&[1])),
            (3, &[5, 6, 7], Verdict::Split),
            (4, &[5, 5, 6, 6], Verdict::Split),
            (4, &[5, 5, 6, 0], Verdict::Split),
            (4, &[5, 5, 5, 6], minority(&[4])),
            (5, &[5, 5, 6, 0, 0], Verdict::Split),
            (5, &[5, 5, 6, 0, 5], minority(&[3])),
            (5, &[5, 6, 5, 7, 5], minority(&[2, 4])),
            // Learners have no say, and are told as well. Three of them have what no voter has.
            (3, &[5, 5, 0, 6, 6, 6], minority(&[4, 5, 6])),
            (3, &[5, 6, 0, 6, 6, 6], Verdict::Split),
        ] {
            let ids: Vec<u64> = (1..=voters).collect();
            let membership = Membership::of_voters(members(&ids));
            assert_eq!(judge(&membership, &known(digests)), expected, "{voters} voters, {digests:?}");
        }
    }

    #[test]
    fn both_halves_of_a_joint_membership_must_have_it() {
        let mut membership = Membership::of_voters(members(&[1, 2, 3]));
        membership.members = members(&[1, 2, 3, 4, 5]);
        membership.outgoing = [3, 4, 5].map(NodeId).into();
        for (digests, expected) in [
            ([5, 5, 6, 6, 0], Verdict::Split),
            ([5, 5, 6, 6, 6], Verdict::Split),
            ([5, 5, 5, 6, 0], Verdict::Split),
            ([5, 5, 5, 6, 5], minority(&[4])),
            ([5, 5, 6, 5, 5], minority(&[3])),
        ] {
            assert_eq!(judge(&membership, &known(&digests)), expected, "{digests:?}");
        }
    }

    #[test]
    fn the_same_digest_at_an_entry_of_another_term_is_another_checksum() {
        let mut known = known(&[5, 5, 5]);
        known.get_mut(&NodeId(2)).unwrap().at.term = Term(2);
        assert_eq!(judge(&Membership::of_voters(members(&[1, 2, 3])), &known), minority(&[2]));
    }

    #[test]
    fn a_disk_that_was_replaced_says_nothing_of_the_new_one() {
        let mut findings = Findings::default();
        findings.note(NodeId(1), Incarnation(101), checksum(7, 5));
        findings.note(NodeId(2), Incarnation(102), checksum(7, 6));
        findings.note(NodeId(9), Incarnation(109), checksum(7, 6));
        let recorded = members(&[1, 2]);
        assert_eq!(findings.at(Index(7), &recorded), known(&[5, 6]));
        let mut replaced = recorded.clone();
        replaced.get_mut(&NodeId(2)).unwrap().incarnation = Incarnation(202);
        assert_eq!(findings.at(Index(7), &replaced), known(&[5]));
        assert_eq!(findings.last_compared(&recorded), Some(known(&[5, 6])));
        assert_eq!(findings.last_compared(&replaced), None);
    }

    #[test]
    fn the_last_marks_are_remembered_and_no_more() {
        let mut findings = Findings::default();
        for index in 1..=100 {
            findings.note(NodeId(1), Incarnation(101), checksum(index, 5));
            findings.set_progress(Index(index), Progress::Computed);
        }
        assert_eq!(findings.marks.len(), KEPT);
        assert!(findings.marks.contains_key(&Index(100)));
    }

    #[test]
    fn a_person_is_told_who_has_what() {
        let mut known = known(&[5, 6, 5]);
        known.get_mut(&NodeId(2)).unwrap().fault = Some("row 1 missing from index i".to_owned());
        assert_eq!(
            describe(&known),
            "nodes 1, 3 have 0505050505050505, node 2 has 0606060606060606, SQLite says of the file of node 2: row 1 missing from index i"
        );
    }
}
