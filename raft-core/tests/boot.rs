//! A node starts from what fits together, and says of everything else what is wrong with it.

mod common;

use common::{ME, id, stored, stored_in, voters};
use raft_core::config::{Config, ConfigError};
use raft_core::effect::Persist;
use raft_core::node::{BootError, Node};
use raft_core::port::{OlderEntries, Stored};
use raft_core::types::{EntryId, HardState, Index, NodeId, Snapshot, Term, WriteId};

/// A log that begins after this entry, and goes on with entries of these terms.
fn after(last: EntryId, terms: &[u64], term: u64) -> Stored {
    let entries = (last.index.0 + 1..).zip(terms).map(|(index, &term)| common::command(index, term)).collect();
    let snapshot = Snapshot { last, membership: voters(1..=3).into() };
    Stored { hard_state: HardState { term: Term(term), vote: None }, snapshot, entries, ..Stored::default() }
}

/// The same, with entries that are not handed over: the first of each term, and the last.
fn with_older(stored: Stored, terms: &[EntryId], last: u64) -> Stored {
    Stored { older: OlderEntries { last: Index(last), terms: terms.to_vec(), memberships: Vec::new() }, ..stored }
}

fn with_memberships(stored: Stored, indexes: &[u64]) -> Stored {
    let memberships = indexes.iter().map(|&index| (Index(index), voters(1..=2).into())).collect();
    Stored { older: OlderEntries { memberships, ..stored.older }, ..stored }
}

fn start(stored: &Stored, applied: EntryId) -> Result<Node, BootError> {
    Node::new(Config::new(ME), stored.clone(), applied)
}

#[test]
fn what_fits_together_starts() {
    let older = || with_older(after(id(3, 2), &[4], 4), &[id(4, 2), id(6, 4)], 7);
    let older = || Stored { entries: vec![common::command(8, 4)], ..older() };
    for (stored, applied) in [
        (Stored::default(), EntryId::ZERO),
        (stored(3, &[1, 1, 2]), id(2, 1)),
        (stored_in(3, &[1], 9, Some(2)), id(1, 1)),
        (after(id(5, 2), &[], 2), id(5, 2)),
        (after(id(5, 2), &[2, 3], 3), id(7, 3)),
        (older(), id(3, 2)),
        (older(), id(5, 2)),
        (with_memberships(older(), &[4, 7]), id(8, 4)),
        (Stored { entries: Vec::new(), ..older() }, id(7, 4)),
    ] {
        let status = start(&stored, applied).unwrap_or_else(|error| panic!("{error}: {stored:?}")).status();
        assert_eq!((status.last_index, status.applied_index), (stored.last().index, applied.index));
        assert_eq!((status.durable_index, status.snapshot_index), (stored.last().index, stored.snapshot.last.index));
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let config = Config::new(NodeId::NONE);
    let error = Node::new(config, Stored::default(), EntryId::ZERO).unwrap_err();
    assert_eq!(error, BootError::Config(ConfigError::Id));
    assert_eq!(error.to_string(), format!("a node's id is from 1 to {}", i64::MAX));
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let gap = || Stored { entries: vec![common::command(1, 1), common::command(3, 1)], ..stored(3, &[1]) };
    let falling =
        || Stored { entries: vec![common::command(1, 2), common::command(2, 1)], ..stored_in(3, &[1], 2, None) };
    let damaged = |stored: Stored, applied, last, at| {
        (stored, applied, BootError::OlderEntries { last: Index(last), at: Index(at) })
    };
    let base = || after(id(3, 2), &[], 9);
    for (stored, applied, expected) in [
        (gap(), id(0, 0), BootError::Discontinuous { previous: id(1, 1), next: id(3, 1) }),
        (falling(), id(0, 0), BootError::Discontinuous { previous: id(1, 2), next: id(2, 1) }),
        (stored(3, &[1, 0]), id(0, 0), BootError::Discontinuous { previous: id(1, 1), next: id(2, 0) }),
        (stored_in(3, &[1, 3], 2, None), id(0, 0), BootError::TermBehind { last: id(2, 3), term: Term(2) }),
        (after(id(3, 2), &[], 1), id(3, 2), BootError::TermBehind { last: id(3, 2), term: Term(1) }),
        (after(id(3, 2), &[2], 2), id(2, 2), BootError::StateBehind { applied: id(2, 2), snapshot: id(3, 2) }),
        (after(id(3, 2), &[2], 2), id(5, 2), BootError::StateAhead { applied: id(5, 2), last: id(4, 2) }),
        (after(id(3, 2), &[2], 2), id(4, 1), BootError::StateAhead { applied: id(4, 1), last: id(4, 2) }),
        (after(id(3, 2), &[2], 2), id(3, 1), BootError::StateAhead { applied: id(3, 1), last: id(4, 2) }),
        // A snapshot of nothing, or of nothing that can be.
        damaged(after(id(3, 0), &[], 2), id(3, 0), 0, 3),
        damaged(after(id(0, 2), &[], 2), id(0, 2), 0, 0),
        damaged(after(id(1 << 63, 1), &[], 2), id(0, 0), 0, 1 << 63),
        // Terms that leave a gap, fall, repeat each other, or begin after the last; or that nobody tells.
        damaged(with_older(base(), &[id(5, 2)], 6), id(3, 2), 6, 5),
        damaged(with_older(base(), &[id(4, 1)], 6), id(3, 2), 6, 4),
        damaged(with_older(base(), &[id(4, 2), id(5, 2)], 6), id(3, 2), 6, 5),
        damaged(with_older(base(), &[id(4, 3), id(4, 4)], 6), id(3, 2), 6, 4),
        damaged(with_older(base(), &[id(4, 2), id(7, 3)], 6), id(3, 2), 6, 7),
        damaged(with_older(base(), &[], 6), id(3, 2), 6, 6),
        // Memberships out of their order or place.
        damaged(with_memberships(with_older(base(), &[id(4, 2)], 6), &[3]), id(3, 2), 6, 3),
        damaged(with_memberships(with_older(base(), &[id(4, 2)], 6), &[5, 5]), id(3, 2), 6, 5),
        damaged(with_memberships(with_older(base(), &[id(4, 2)], 6), &[7]), id(3, 2), 6, 7),
        damaged(with_memberships(base(), &[4]), id(3, 2), 0, 4),
    ] {
        assert_eq!(start(&stored, applied).unwrap_err(), expected, "{stored:?}");
    }
}

#[test]
fn a_refusal_says_what_to_look_at() {
    let (last, term) = (id(7, 3), Term(2));
    for (error, message) in [
        (
            BootError::Discontinuous { previous: id(1, 1), next: id(3, 1) },
            "entry 3@1 can't follow entry 1@1: the stored log is damaged",
        ),
        (
            BootError::OlderEntries { last: Index(6), at: Index(4) },
            "what is stored of the entries up to 6 does not fit together at 4: the stored log is damaged",
        ),
        (
            BootError::StateBehind { applied: id(2, 1), snapshot: last },
            "the state machine has applied entries up to 2@1 only, but the log begins after 7@3: the state is lost or too old",
        ),
        (
            BootError::TermBehind { last, term },
            "the log ends with entry 7@3, but the stored term is 2: the stored term is too old",
        ),
        (
            BootError::StateAhead { applied: id(9, 3), last },
            "the state machine has applied entry 9@3, which the log, ending at 7@3, does not hold: the log has lost its end",
        ),
    ] {
        assert_eq!(error.to_string(), message);
    }
}

/// What a log store does with a write, in memory.
#[test]
fn a_write_is_carried_out_in_order() {
    let snapshot = |last| Some(Snapshot { last, membership: voters(1..=2).into() });
    let mut log = stored(3, &[1, 1, 2, 2]);
    log.carry_out(&Persist { id: WriteId(1), compact: snapshot(id(2, 1)), ..Persist::default() });
    assert_eq!((log.snapshot.last, log.entries.len(), log.last()), (id(2, 1), 2, id(4, 2)));
    log.carry_out(&Persist {
        id: WriteId(2),
        hard_state: Some(HardState { term: Term(3), vote: None }),
        truncate_from: Some(Index(4)),
        entries: vec![common::command(4, 3)].into(),
        ..Persist::default()
    });
    assert_eq!((log.hard_state.term, log.last(), log.entries.len()), (Term(3), id(4, 3), 2));
    // A snapshot in place of a log that reaches beyond it.
    log.carry_out(&Persist {
        id: WriteId(3),
        truncate_from: Some(Index(4)),
        install: snapshot(id(3, 3)),
        ..Persist::default()
    });
    assert_eq!((log.snapshot.last, log.entries.len(), log.last()), (id(3, 3), 0, id(3, 3)));
    assert_eq!(*log.snapshot.membership, voters(1..=2));
    log.carry_out(&Persist { id: WriteId(4), entries: vec![common::command(4, 3)].into(), ..Persist::default() });
    assert_eq!(log.last(), id(4, 3));
    start(&log, id(3, 3)).expect("what was written fits together");
}
