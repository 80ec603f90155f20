//! Who waits for which membership change. Pure, as the other [`waiters`](super::waiters).

use raft_core::membership::Membership;
use raft_core::types::{Entry, EntryId, Index, Payload};

use super::handle::Changed;
use super::promise::RequestError;
use super::waiters::Waiters;

/// Those who wait for a membership change to be committed, through the joint configuration where there is one.
#[derive(Debug)]
pub(super) struct Changes<T> {
    /// Wait for the change's own entry.
    entering: Waiters<T>,
    /// That entry is committed, and is joint: they wait for the one that leaves it.
    leaving: Vec<T>,
}

/// What became of a change.
pub(super) type ChangeOutcome = Result<Changed, RequestError>;

impl<T> Default for Changes<T> {
    fn default() -> Self {
        Self { entering: Waiters::default(), leaving: Vec::new() }
    }
}

impl<T> Changes<T> {
    /// `waiter` waits for the change that `entry` begins.
    pub(super) fn insert(&mut self, entry: EntryId, waiter: T) {
        self.entering.insert(entry, waiter);
    }

    /// `entry` is committed. Returns those for whom that is the outcome.
    pub(super) fn decide(&mut self, entry: &Entry) -> Vec<(T, ChangeOutcome)> {
        let decision = self.entering.decide(entry.id);
        let mut decided: Vec<_> = decision.lost.into_iter().map(|waiter| (waiter, Err(RequestError::Lost))).collect();
        if let Payload::Membership(membership) = &entry.payload {
            self.leaving.extend(decision.applied);
            let will_be_left = !membership.outgoing.is_empty() && !membership.stays_joint;
            if !will_be_left {
                let changed = Changed { id: entry.id, membership: Membership::clone(membership) };
                decided.extend(self.leaving.drain(..).map(|waiter| (waiter, Ok(changed.clone()))));
            }
        }
        decided
    }

    /// A snapshot covers all entries up to `last`. Returns those who will not learn what became of their change.
    pub(super) fn cover(&mut self, last: Index) -> Vec<T> {
        let mut covered = self.entering.cover(last);
        covered.append(&mut self.leaving);
        covered
    }

    /// All who wait.
    pub(super) fn take_all(&mut self) -> Vec<T> {
        let mut all = self.entering.take_all();
        all.append(&mut self.leaving);
        all
    }
}

#[cfg(test)]
mod tests {
    use raft_core::types::{Member, NodeId, Term};

    use super::*;

    fn entry(index: u64, term: u64, payload: Payload) -> Entry {
        Entry { id: EntryId::new(Index(index), Term(term)), payload }
    }

    fn simple() -> Membership {
        Membership::of_voters([(NodeId(1), Member::default())].into())
    }

    fn joint() -> Membership {
        Membership { outgoing: [NodeId(1)].into(), ..simple() }
    }

    fn changes(index: u64, term: u64) -> Changes<&'static str> {
        let mut changes = Changes::default();
        changes.insert(EntryId::new(Index(index), Term(term)), "a");
        changes
    }

    #[test]
    fn a_simple_change_ends_with_its_entry() {
        let mut changes = changes(7, 3);
        assert!(changes.decide(&entry(6, 3, Payload::Noop)).is_empty());
        let committed = entry(7, 3, Payload::Membership(simple().into()));
        assert_eq!(changes.decide(&committed), [("a", Ok(Changed { id: committed.id, membership: simple() }))]);
    }

    #[test]
    fn a_joint_change_ends_with_the_entry_that_leaves_it() {
        let mut changes = changes(7, 3);
        assert!(changes.decide(&entry(7, 3, Payload::Membership(joint().into()))).is_empty());
        assert!(changes.decide(&entry(8, 4, Payload::Noop)).is_empty());
        let left = entry(9, 4, Payload::Membership(simple().into()));
        assert_eq!(changes.decide(&left), [("a", Ok(Changed { id: left.id, membership: simple() }))]);
    }

    #[test]
    fn a_change_that_is_to_stay_joint_ends_with_its_entry() {
        let membership = Membership { stays_joint: true, ..joint() };
        let outcomes = changes(7, 3).decide(&entry(7, 3, Payload::Membership(membership.clone().into())));
        assert_eq!(outcomes, [("a", Ok(Changed { id: EntryId::new(Index(7), Term(3)), membership }))]);
    }

    #[test]
    fn a_change_that_another_entry_replaced_is_lost() {
        let outcomes = changes(7, 3).decide(&entry(7, 4, Payload::Membership(simple().into())));
        assert_eq!(outcomes, [("a", Err(RequestError::Lost))]);
    }

    #[test]
    fn a_snapshot_hides_the_outcome() {
        assert!(changes(7, 3).cover(Index(6)).is_empty());
        assert_eq!(changes(7, 3).cover(Index(7)), ["a"]);
        let mut leaving = changes(7, 3);
        leaving.decide(&entry(7, 3, Payload::Membership(joint().into())));
        assert_eq!(leaving.cover(Index(20)), ["a"]);
    }

    #[test]
    fn all_can_be_given_up() {
        let mut changes = changes(7, 3);
        changes.decide(&entry(7, 3, Payload::Membership(joint().into())));
        changes.insert(EntryId::new(Index(9), Term(3)), "b");
        assert_eq!(changes.take_all(), ["b", "a"]);
    }
}
