//! What clients have asked for, and how each of their promises is kept. Pure but for the promises it answers.

use std::collections::BTreeMap;

use raft_core::types::{Entry, EntryId, Index, RequestId};

use super::applier::Committed;
use super::changes::Changes;
use super::handle::{Changed, Proposed};
use super::promise::{Promise, RequestError};
use super::waiters::{Readers, Waiters};

/// What the core was asked for, by the id of its outcome.
pub(super) enum Asked<R> {
    /// A batch of commands.
    Proposals(Vec<Promise<Proposed<R>>>),
    /// A membership change.
    Change(Promise<Changed>),
    /// Not to lead any more.
    StepDown(Promise<()>),
}

/// All who wait for something of this node.
pub(super) struct Clients<R> {
    last_request: RequestId,
    /// Requests whose outcome the core has not said yet, but for reads.
    asked: BTreeMap<RequestId, Asked<R>>,
    /// Proposals that are in the log, and wait for their entries to be applied.
    waiters: Waiters<Promise<Proposed<R>>>,
    /// Membership changes that are in the log, and wait to be committed.
    changes: Changes<Promise<Changed>>,
    readers: Readers<Promise<Index>>,
    applied: Index,
    /// Whether this node did not lead at the last [`sweep`](Self::sweep).
    is_deposed: bool,
}

impl<R> Clients<R> {
    /// Nobody waits; the state machine has applied all entries up to `applied`.
    pub(super) fn new(applied: Index) -> Self {
        Self {
            last_request: RequestId(0),
            asked: BTreeMap::new(),
            waiters: Waiters::default(),
            changes: Changes::default(),
            readers: Readers::default(),
            applied,
            is_deposed: false,
        }
    }

    /// An id that no request has had.
    pub(super) fn next_request(&mut self) -> RequestId {
        self.last_request.0 += 1;
        self.last_request
    }

    /// Notes what is about to be asked for, and returns the id for its outcome. From here on it may take effect whatever becomes of this node.
    pub(super) fn ask(&mut self, mut asked: Asked<R>) -> RequestId {
        match &mut asked {
            Asked::Proposals(promises) => promises.iter_mut().for_each(Promise::comes_in_doubt),
            Asked::Change(promise) => promise.comes_in_doubt(),
            Asked::StepDown(promise) => promise.comes_in_doubt(),
        }
        let id = self.next_request();
        self.asked.insert(id, asked);
        id
    }

    /// Notes those who are about to read, and returns the id for their outcome.
    pub(super) fn ask_to_read(&mut self, readers: Vec<Promise<Index>>) -> RequestId {
        let id = self.next_request();
        self.readers.ask(id, readers);
        id
    }

    /// The request stands in the log: `count` entries from `first` on.
    pub(super) fn appended(&mut self, id: RequestId, first: EntryId, count: u64) {
        match self.asked.remove(&id) {
            Some(Asked::Proposals(promises)) => {
                assert_eq!(promises.len() as u64, count, "a batch is appended as a whole");
                for (offset, promise) in (0..).zip(promises) {
                    self.waiters.insert(EntryId::new(first.index.plus(offset), first.term), promise);
                }
            }
            Some(Asked::Change(promise)) => self.changes.insert(first, promise),
            Some(Asked::StepDown(_)) | None => (),
        }
    }

    /// The entry is committed. Returns it with the one who waits for it to be applied.
    pub(super) fn committed(&mut self, entry: Entry) -> Committed<R> {
        for (promise, outcome) in self.changes.decide(&entry) {
            promise.answer(outcome);
        }
        let decision = self.waiters.decide(entry.id);
        decision.lost.into_iter().for_each(|promise| promise.answer(Err(RequestError::Lost)));
        Committed { entry, waiter: decision.applied }
    }

    /// A snapshot takes the place of all entries up to `last`: what became of those here, nobody can say any more.
    pub(super) fn covered(&mut self, last: Index) {
        self.waiters.cover(last).into_iter().for_each(|promise| promise.answer(Err(RequestError::Unknown)));
        self.changes.cover(last).into_iter().for_each(|promise| promise.answer(Err(RequestError::Unknown)));
    }

    /// This node does not lead any more, as the request has asked.
    pub(super) fn stepped_down(&mut self, id: RequestId) {
        if let Some(Asked::StepDown(promise)) = self.asked.remove(&id) {
            promise.answer(Ok(()));
        }
    }

    /// The readers of `id` may read once `index` is applied.
    pub(super) fn serve(&mut self, id: RequestId, index: Index) {
        self.readers.serve(id, index);
        self.answer_readers();
    }

    /// The state machine has applied all entries up to `index`.
    pub(super) fn applied(&mut self, index: Index) {
        self.applied = index;
        self.answer_readers();
    }

    fn answer_readers(&mut self) {
        for (index, promise) in self.readers.take_ready(self.applied) {
            promise.answer(Ok(index));
        }
    }

    /// The request will not happen.
    pub(super) fn refused(&mut self, id: RequestId, error: RequestError) {
        match self.asked.remove(&id) {
            Some(Asked::Proposals(promises)) => promises.into_iter().for_each(|promise| promise.answer(Err(error))),
            Some(Asked::Change(promise)) => promise.answer(Err(error)),
            Some(Asked::StepDown(promise)) => promise.answer(Err(error)),
            None => self.readers.refuse(id).into_iter().for_each(|promise| promise.answer(Err(error))),
        }
    }

    /// To be called now and then, with what this node is. Drops the promises whose clients are gone: they would go with their entries, but a node
    /// without a majority may wait long for those. Answers where this node may never learn more: one that has not led since the last call may not hear
    /// what became of a membership change, and one that is no member any more hears nothing at all.
    pub(super) fn sweep(&mut self, leads: bool, is_member: bool) {
        self.waiters.retain(|promise| !promise.is_abandoned());
        self.readers.retain(|promise| !promise.is_abandoned());
        let was_deposed = std::mem::replace(&mut self.is_deposed, !leads);
        if leads || !was_deposed {
            return;
        }
        self.changes.take_all().into_iter().for_each(|promise| promise.answer(Err(RequestError::Unknown)));
        if !is_member {
            self.waiters.take_all().into_iter().for_each(|promise| promise.answer(Err(RequestError::Unknown)));
            self.readers.take_all_served().into_iter().for_each(|promise| promise.answer(Err(RequestError::Unknown)));
        }
    }
}
