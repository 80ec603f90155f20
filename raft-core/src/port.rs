//! What a driver needs from the world: small synchronous traits. Nothing in the core calls them.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

use crate::effect::Persist;
use crate::membership::Membership;
use crate::message::Envelope;
use crate::types::{Entry, EntryId, HardState, Index, Payload, Snapshot, Term};

/// What a log store held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stored {
    /// The term and vote.
    pub hard_state: HardState,
    /// What the log begins after; nothing, if it is whole.
    pub snapshot: Snapshot,
    /// Entries after the snapshot that are stored, but not handed over: a long log need not fit in memory.
    pub older: OlderEntries,
    /// The entries after those, up to the last.
    pub entries: Vec<Entry>,
}

/// What a node must know of stored entries that it does not hold in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct OlderEntries {
    /// The last of them. Zero if there are none.
    pub last: Index,
    /// The first of them, and each whose term is above its predecessor's.
    pub terms: Vec<EntryId>,
    /// The memberships among them, with their indexes.
    pub memberships: Vec<(Index, Arc<Membership>)>,
}

impl Stored {
    /// What each node of a new cluster stores before its first start: `membership` as the first entry. All who begin together begin alike.
    pub fn first(membership: Membership) -> Self {
        let term = Term(1);
        let entry = Entry { id: EntryId::new(Index(1), term), payload: Payload::Membership(Arc::new(membership)) };
        Self { hard_state: HardState { term, vote: None }, entries: vec![entry], ..Self::default() }
    }

    /// The last entry; zero if there never was one.
    pub fn last(&self) -> EntryId {
        let older = self.older.terms.last().map(|first| EntryId::new(self.older.last, first.term));
        self.entries.last().map(|entry| entry.id).or(older).unwrap_or(self.snapshot.last)
    }

    /// Carries out a write: what a log store does, in memory. All entries must be in [`entries`](Self::entries).
    ///
    /// # Panics
    /// If the write does not fit what is stored, which the core's do: terms don't fall, and entries leave no gap.
    pub fn carry_out(&mut self, write: &Persist) {
        assert!(self.older == OlderEntries::default(), "all entries are in memory");
        if let Some(hard_state) = write.hard_state {
            assert!(hard_state.term >= self.hard_state.term, "a stored term never falls: {write:?}");
            self.hard_state = hard_state;
        }
        if let Some(from) = write.truncate_from {
            assert!(
                from > self.snapshot.last.index && from <= self.last().index,
                "what is truncated is there: {write:?}"
            );
            self.entries.retain(|entry| entry.id.index < from);
        }
        for snapshot in write.compact.iter().chain(&write.install) {
            assert!(snapshot.last.index > self.snapshot.last.index, "a log begins ever later: {write:?}");
            self.entries.retain(|entry| entry.id.index > snapshot.last.index);
            self.snapshot = snapshot.clone();
        }
        for entry in &write.entries {
            assert!(entry.id.index == self.last().index.next(), "entries leave no gap: {write:?}");
            self.entries.push(entry.clone());
        }
    }

    /// Reads entries from `from` on, or from the first after it that is in [`entries`](Self::entries): at least one, if there is one, and then as
    /// many as fit in `max_bytes`. What a log store does, in memory.
    pub fn read(&self, from: Index, max_bytes: u64) -> Vec<Entry> {
        let start = self.entries.partition_point(|entry| entry.id.index < from);
        let mut bytes = 0;
        let fitting = self.entries[start..].iter().take_while(|entry| {
            let is_first = bytes == 0;
            bytes += entry.size_bytes();
            is_first || bytes <= max_bytes
        });
        fitting.cloned().collect()
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

    /// Reads entries from `from` on: at least one, if there is one, and then as many as fit in `max_bytes`. Called between writes, for entries that
    /// were confirmed.
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

    /// Makes all that is applied survive a power loss, and returns its last entry. The log is then free to forget it.
    fn take_snapshot(&mut self) -> Result<EntryId, Self::Error>;

    /// A copy of the state as it is now, for another node. It is read while more entries are applied here, and dropped after.
    fn capture(&mut self) -> Result<Box<dyn Capture>, Self::Error>;

    /// Where a copy of another node's state is put together. Asked for once, at the start.
    fn staging(&self) -> Arc<dyn Staging>;

    /// Replaces the state by what was staged, of which `snapshot` tells the last entry, in one atomic step that survives a power loss.
    fn install(&mut self, snapshot: &Snapshot) -> Result<(), Self::Error>;
}

/// Why a snapshot could not be read or written.
pub type SnapshotError = Box<dyn core::error::Error + Send + Sync>;

/// A copy of a state at one entry, to be read piece by piece.
pub trait Capture: Send {
    /// The last entry that the state includes.
    fn last(&self) -> EntryId;

    /// The size of the whole.
    fn size_bytes(&self) -> u64;

    /// Reads from `offset` on: as many bytes as there are, but not more than `max_bytes`. Any part may be read again.
    fn read(&mut self, offset: u64, max_bytes: usize) -> Result<Bytes, SnapshotError>;
}

/// Puts a capture together again on the node that receives it. One at a time: beginning another drops the one before, unless that is finished and
/// waits to be installed.
pub trait Staging: Send + Sync {
    /// Begins to receive, or goes on after a break. Returns how many bytes of this very capture, told by a number that its sender has drawn, are here.
    fn begin(&self, capture: u64, last: EntryId, size_bytes: u64) -> Result<u64, SnapshotError>;

    /// Adds the bytes from `offset` on, which is where the last ended. An error if `capture` is not being received any more.
    fn write(&self, capture: u64, offset: u64, bytes: &[u8]) -> Result<(), SnapshotError>;

    /// Verifies that the capture is whole and makes sense, and makes it survive a power loss.
    fn finish(&self, capture: u64) -> Result<(), SnapshotError>;
}

/// Carries messages to peers. It may lose, repeat and reorder them; it must not alter them.
pub trait Transport {
    /// Takes a message for delivery and returns at once, also where the peer is slow or gone: then it drops the message.
    fn send(&self, envelope: Envelope);

    /// Begins to carry an `InstallSnapshot` to a peer, after the data that belongs to it, and returns at once. Reports each part that arrives, and the
    /// end, for [`SnapshotProgress`](crate::input::Input::SnapshotProgress) and [`SnapshotSent`](crate::input::Input::SnapshotSent). Replaces what was
    /// under way to the same peer.
    fn send_snapshot(&self, envelope: Envelope, capture: Box<dyn Capture>);

    /// Says which membership is in force: whom to talk to, and what is recorded of each.
    fn use_membership(&self, membership: &Membership);
}
