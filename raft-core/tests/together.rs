//! Inputs that have arrived together: what one step for all of them saves, and what it must not forget.

mod common;

use raft_core::effect::Effect;
use raft_core::input::Input;
use raft_core::message::{AppendEntries, InstallSnapshot, Message};
use raft_core::types::{EntryId, Index, RequestId, Round, Snapshot, WriteId};

use common::{ME, Subject, accepted, append, applied, id, propose, receive, sent, stored, voters, writes};

fn leader() -> Subject {
    let mut leader = Subject::start(stored(3, &[1]));
    leader.win();
    leader.receive(2, 2, accepted(2));
    leader.receive(3, 2, accepted(2));
    leader
}

#[test]
fn proposals_share_a_write_and_a_message_to_each_follower() {
    let effects = leader().step_all([propose(1), propose(2), propose(3)]);
    let ids = [3, 4, 5].map(|index| id(index, 2));
    let appended = effects.iter().filter_map(|effect| match effect {
        Effect::Appended { id, first, count } => Some((*id, *first, *count)),
        _ => None,
    });
    assert!(appended.eq([1, 2, 3].map(RequestId).into_iter().zip(ids).map(|(request, id)| (request, id, 1))));
    let [write] = writes(&effects)[..] else { panic!("one write: {effects:?}") };
    assert!(write.entries.iter().map(|entry| entry.id).eq(ids));
    let messages = sent(&effects);
    assert_eq!(messages.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [2, 3]);
    for (_, message) in messages {
        let Message::AppendEntries(AppendEntries { prev, entries, .. }) = message else { panic!("{message:?}") };
        assert_eq!((prev, &entries), (id(2, 2), &write.entries));
    }
}

#[test]
fn what_a_leader_sends_in_several_messages_is_written_and_acknowledged_once() {
    let mut n1 = Subject::start(stored(3, &[1]));
    let messages = [(1, 0), (2, 1), (3, 2)].map(|(prev, commit)| receive(2, 1, append(id(prev, 1), &[1], commit)));
    let effects = n1.step_all(messages);
    let [write] = writes(&effects)[..] else { panic!("one write: {effects:?}") };
    assert!(write.entries.iter().map(|entry| entry.id.index.0).eq(2..=4));
    let effects = n1.step(Input::Persisted(write.id));
    assert_eq!(sent(&effects), [(2, accepted(4))]);
    assert_eq!(applied(&effects), [id(2, 1)]);
}

/// The leader's next term begins while its last entries wait to be written.
#[test]
fn entries_that_a_later_message_cuts_off_are_not_written() {
    let mut n1 = Subject::start(stored(3, &[1]));
    let old = receive(2, 1, append(id(1, 1), &[1, 1], 0));
    let effects = n1.step_all([old, receive(3, 2, append(id(2, 1), &[2], 0))]);
    let [write] = writes(&effects)[..] else { panic!("one write: {effects:?}") };
    assert!(write.entries.iter().map(|entry| entry.id).eq([id(2, 1), id(3, 2)]));
    assert_eq!(write.hard_state.map(|hard_state| hard_state.term.0), Some(2));
}

#[test]
fn entries_after_a_snapshot_are_written_though_it_took_the_place_of_unwritten_ones() {
    let mut n1 = Subject::start(stored(3, &[1]));
    let last = id(9, 1);
    let snapshot = Snapshot { last, membership: voters(1..=3).into() };
    let install = Message::InstallSnapshot(InstallSnapshot { snapshot, round: Round(0) });
    let effects = n1.step_all([
        receive(2, 1, append(id(1, 1), &[1, 1], 0)),
        receive(2, 1, install),
        receive(2, 1, append(last, &[1], 9)),
    ]);
    let [write] = writes(&effects)[..] else { panic!("one write: {effects:?}") };
    assert_eq!(write.install.as_ref().map(|snapshot| snapshot.last), Some(last));
    assert!(write.entries.iter().map(|entry| entry.id).eq([id(10, 1)]));
    let effects = n1.step(Input::Persisted(WriteId(1)));
    assert_eq!(sent(&effects), [(2, accepted(10))]);
}

#[test]
fn nothing_is_done_for_what_came_with_the_proof_of_a_broken_rule() {
    let mut leader = leader();
    let other_leader = receive(3, 2, append(EntryId::ZERO, &[], 0));
    let effects = leader.step_all([propose(1), other_leader, propose(2)]);
    assert!(matches!(effects[..], [Effect::Halt(_)]), "{effects:?}");
    assert_eq!(leader.step_all([Input::Tick, propose(3)]), []);
}

#[test]
fn what_is_left_in_the_list_is_not_done_again() {
    let mut leader = leader();
    let mut effects = leader.step(propose(1));
    leader.node.step_all([], &mut effects);
    assert_eq!(effects, []);
}

/// A leader that is removed leaves nothing behind that only it has.
#[test]
fn what_came_with_the_end_of_a_leadership_is_sent_before_it() {
    let mut leader = leader();
    let changes = vec![raft_core::membership::Change::Remove(ME)];
    let change = raft_core::membership::MembershipChange { changes, stay_joint: false };
    leader.run(Input::ChangeMembership { id: RequestId(1), change });
    leader.receive(2, 2, accepted(3));
    let effects = leader.step_all([propose(2), receive(3, 2, accepted(3))]);
    let newest = |(_, message): &(u64, Message)| match message {
        Message::AppendEntries(append) => append.entries.last().map(|entry| entry.id.index),
        _ => None,
    };
    assert_eq!(sent(&effects).iter().filter_map(newest).collect::<Vec<_>>(), [Index(4), Index(4)]);
}
