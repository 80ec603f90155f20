//! Where peers are. An id and an incarnation say who a node is; its address may change over a restart.

use std::collections::BTreeMap;

use raft_core::membership::Membership;
use raft_core::types::{Incarnation, Member, NodeId};

/// Announcements of more nodes are not kept: ids are free to make up.
const MAX_ANNOUNCED: usize = 1024;

/// What is known of where peers are, and of their disks.
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    /// What each node said last of itself: the freshest there is.
    announced: BTreeMap<NodeId, String>,
    /// What this node's flags say.
    given: BTreeMap<NodeId, String>,
    /// What the membership in force says.
    recorded: BTreeMap<NodeId, Member>,
}

impl AddressBook {
    /// Notes an address that a flag gives.
    pub(crate) fn give(&mut self, id: NodeId, address: String) {
        self.given.insert(id, address);
    }

    /// Notes what a node says of itself.
    pub(crate) fn announce(&mut self, id: NodeId, address: String) {
        if self.announced.len() < MAX_ANNOUNCED || self.announced.contains_key(&id) {
            self.announced.insert(id, address);
        }
    }

    /// Notes the membership in force.
    pub(crate) fn record(&mut self, membership: &Membership) {
        self.recorded.clone_from(&membership.members);
    }

    /// What the node has announced.
    pub(crate) fn announced(&self, id: NodeId) -> Option<&str> {
        self.announced.get(&id).map(String::as_str)
    }

    /// The node's incarnation in the membership; zero if not known.
    pub(crate) fn incarnation(&self, id: NodeId) -> Incarnation {
        self.recorded.get(&id).map_or(Incarnation(0), |member| member.incarnation)
    }

    /// The node's priority in the membership; zero if not known.
    pub(crate) fn priority(&self, id: NodeId) -> u32 {
        self.recorded.get(&id).map_or(0, |member| member.priority)
    }

    /// Where the node may be, most likely first, each address once.
    pub(crate) fn addresses(&self, id: NodeId) -> Vec<String> {
        let recorded = self.recorded.get(&id).map(|member| &member.address);
        let mut addresses: Vec<String> = Vec::new();
        for address in [self.announced.get(&id), self.given.get(&id), recorded].into_iter().flatten() {
            if !address.is_empty() && !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }

    /// The members in force, with the address where each most likely is.
    pub(crate) fn members(&self) -> impl Iterator<Item = (NodeId, Member)> + '_ {
        self.recorded.iter().map(|(id, member)| {
            let address = self.addresses(*id).into_iter().next().unwrap_or_default();
            (*id, Member { address, ..member.clone() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    fn membership(address: &str) -> Membership {
        let member = Member { address: address.into(), incarnation: Incarnation(7), priority: 0 };
        Membership::of_voters([(PEER, member)].into())
    }

    #[test]
    fn what_a_node_says_itself_goes_before_flags_and_flags_before_the_membership() {
        let mut book = AddressBook::default();
        book.record(&membership("recorded:1"));
        assert_eq!(book.addresses(PEER), ["recorded:1"]);
        book.record(&membership(""));
        assert!(book.addresses(PEER).is_empty());
        book.record(&membership("recorded:1"));
        book.give(PEER, "given:1".into());
        assert_eq!(book.addresses(PEER), ["given:1", "recorded:1"]);
        book.announce(PEER, "announced:1".into());
        assert_eq!(book.addresses(PEER), ["announced:1", "given:1", "recorded:1"]);
        book.announce(PEER, "recorded:1".into());
        assert_eq!(book.addresses(PEER), ["recorded:1", "given:1"]);
        assert_eq!(book.incarnation(PEER), Incarnation(7));
    }

    #[test]
    fn an_unknown_node_has_no_address_and_no_incarnation() {
        let book = AddressBook::default();
        assert!(book.addresses(PEER).is_empty());
        assert_eq!(book.incarnation(PEER), Incarnation(0));
    }

    #[test]
    fn announcements_of_made_up_ids_are_bounded() {
        let mut book = AddressBook::default();
        for id in 1..=2 * MAX_ANNOUNCED as u64 {
            book.announce(NodeId(id), "somewhere:1".into());
        }
        assert_eq!(book.announced.len(), MAX_ANNOUNCED);
        book.announce(NodeId(1), "elsewhere:1".into());
        assert_eq!(book.announced(NodeId(1)), Some("elsewhere:1"));
    }
}
