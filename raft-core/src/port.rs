//! What a driver needs from the world: three small synchronous traits. Nothing in the core calls them.

use alloc::vec;
use alloc::vec::Vec;

use crate::effect::Persist;
use crate::membership::Membership;
use crate::message::Envelope;
use crate::types::{Entry, EntryId, HardState, Index, Payload, Term};

/// What a log store held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stored {
    /// The term and vote.
    pub hard_state: HardState,
    /// All entries, from index 1.
    pub entries: Vec<Entry>,
}

impl Stored {
    /// What each node of a new cluster stores before its first start: `membership` as the first entry. All who begin together begin alike.
    pub fn first(membership: Membership) -> Self {
        let term = Term(1);
        let entry = Entry { id: EntryId::new(Index(1), term), payload: Payload::Membership(membership) };
        Self { hard_state: HardState { term, vote: None }, entries: vec![entry] }
    }

    /// Carries out a write: what a log store does, in memory.
    ///
    /// # Panics
    /// If the write does not fit what is stored, which the core's do: terms don't fall, and entries leave no gap.
    pub fn carry_out(&mut self, write: &Persist) {
        if let Some(hard_state) = write.hard_state {
            assert!(hard_state.term >= self.hard_state.term, "a stored term never falls: {write:?}");
            self.hard_state = hard_state;
        }
        if let Some(from) = write.truncate_from {
            let kept = from.prev().0 as usize;
            assert!(kept < self.entries.len(), "what is truncated is there: {write:?}");
            self.entries.truncate(kept);
        }
        for entry in &write.entries {
            assert!(entry.id.index.prev().0 == self.entries.len() as u64, "entries leave no gap: {write:?}");
            self.entries.push(entry.clone());
        }
    }
}

/// Keeps the log and the hard state. Its durability is what every promise rests on.
pub trait LogStore {
    /// Why it failed. The node stops at any failure to write.
    type Error: core::error::Error + Send + Sync + 'static;

    /// Reads everything a node starts from.
    fn load(&mut self) -> Result<Stored, Self::Error>;

    /// Carries out the writes in order, in one durable, atomic step: when it returns, all of them survive a power loss. After an error
    /// nothing may be assumed of them, and the store must not be used any more.
    fn write(&mut self, writes: &[Persist]) -> Result<(), Self::Error>;

    /// Reads entries from `from` on: at least one, if there is one, and then as many as fit in `max_bytes`.
    fn read(&mut self, from: Index, max_bytes: u64) -> Result<Vec<Entry>, Self::Error>;
}

/// What committed entries are applied to. Must be deterministic: equal entries give equal states and responses.
pub trait StateMachine {
    /// Why it failed. The node stops at any failure to apply; a command that fails is a response, not an error.
    type Error: core::error::Error + Send + Sync + 'static;
    /// The answer to a command.
    type Response: Send + 'static;

    /// The last entry that was applied, zero for a new state.
    fn applied(&self) -> Result<EntryId, Self::Error>;

    /// Applies the entries in order, with their last position, in one atomic step. Returns one response for each entry that is a command and
    /// `None` for the others. Entries follow [`applied`](Self::applied) without a gap.
    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Option<Self::Response>>, Self::Error>;
}

/// Carries messages to peers. It may lose, repeat and reorder them; it must not alter them.
pub trait Transport {
    /// Takes a message for delivery and returns at once, also where the peer is slow or gone: then it drops the message.
    fn send(&self, envelope: Envelope);

    /// Says which membership is in force: whom to talk to, and what is recorded of each.
    fn use_membership(&self, membership: &Membership);
}
