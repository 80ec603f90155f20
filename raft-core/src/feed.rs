//! What the state machine is given, in order and no faster than it takes it: entries to apply, snapshots to install; and when it should take one itself.

use alloc::collections::VecDeque;
use core::mem;

use crate::config::Config;
use crate::effect::Effect;
use crate::entries::Entries;
use crate::log::Log;
use crate::types::{Entry, Index, Snapshot};

/// How far the state machine is, and what it has before it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Feed {
    /// The last entry that it was given in an `Apply`.
    applying_index: Index,
    /// The last entry that it has reported. Never above `applying_index`.
    applied_index: Index,
    /// What each `Apply` that is not reported yet has given to it: the last entry, and the size in bytes.
    applying: VecDeque<(Index, u64)>,
    /// Their size together.
    applying_bytes: u64,
    /// Entries to apply that have left memory.
    reload: Reload,
    /// A snapshot that takes the place of the state once it is durable.
    installing: Option<Snapshot>,
    /// The last entry that the last snapshot includes.
    snapshot_index: Index,
    /// Whether a snapshot is being taken.
    takes_snapshot: bool,
}

/// How entries come back that are to be applied and have left memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
enum Reload {
    /// None are asked for.
    #[default]
    Idle,
    /// Those from here on are being read.
    Asked(Index),
    /// They could not be read. It is tried again with the next tick.
    Failed,
    /// They are here.
    Here(Entries),
}

impl Feed {
    /// That of a state machine that has applied what is committed in the log.
    pub fn new(log: &Log) -> Self {
        let applied_index = log.commit_index();
        Self {
            applying_index: applied_index,
            applied_index,
            applying: VecDeque::new(),
            applying_bytes: 0,
            reload: Reload::Idle,
            installing: None,
            snapshot_index: log.base().index,
            takes_snapshot: false,
        }
    }

    /// The last entry that the state machine has reported.
    pub fn applied_index(&self) -> Index {
        self.applied_index
    }

    /// Notes that the state machine has applied entries up to `index`.
    pub fn applied(&mut self, index: Index) {
        self.applied_index = self.applied_index.max(index.min(self.applying_index));
        while let Some(&(last, bytes)) = self.applying.front()
            && last <= self.applied_index
        {
            self.applying_bytes -= bytes;
            self.applying.pop_front();
        }
    }

    /// The snapshot to take when enough was applied since the last. Asked whenever something of that changes, so that the moment can't be missed.
    pub fn take_worthwhile_snapshot(&mut self, config: &Config, log: &Log) -> Option<Snapshot> {
        let since = self.applied_index.0.saturating_sub(self.snapshot_index.0);
        if self.takes_snapshot || since < config.snapshot_after_entries {
            return None;
        }
        let snapshot = log.snapshot_at(self.applied_index)?;
        self.takes_snapshot = true;
        Some(snapshot)
    }

    /// Notes that the state up to `index` is durable. Returns the last entry that a snapshot includes now.
    pub fn snapshot_taken(&mut self, index: Index) -> Index {
        self.takes_snapshot = false;
        self.snapshot_index = self.snapshot_index.max(index.min(self.applied_index));
        self.snapshot_index
    }

    /// Takes a snapshot that is to take the place of the state. It is beyond what is committed here.
    pub fn install(&mut self, snapshot: Snapshot) {
        self.snapshot_index = snapshot.last.index;
        self.installing = Some(snapshot);
        self.reload = Reload::Idle;
    }

    /// Takes entries that were read back, if they are the next to apply.
    pub fn loaded(&mut self, from: Index, entries: Option<Entries>) {
        if self.reload != Reload::Asked(from) {
            return;
        }
        self.reload = match entries {
            Some(entries) => Reload::Here(entries),
            None => Reload::Failed,
        };
    }

    /// Counts one tick: what could not be read may be readable now.
    pub fn tick(&mut self) {
        if self.reload == Reload::Failed {
            self.reload = Reload::Idle;
        }
    }

    /// A snapshot replaces the state once the log rests on it, durably.
    pub fn take_install(&mut self, log: &Log) -> Option<Snapshot> {
        let durable_index = log.durable_index();
        let snapshot = self.installing.take_if(|snapshot| snapshot.last.index <= durable_index)?;
        self.applying_index = snapshot.last.index;
        self.applying.push_back((snapshot.last.index, 0));
        Some(snapshot)
    }

    /// The entries to apply next, or the order to read them. They are applied once they are committed and durable here, so that a state is never ahead of
    /// its own log; and not many ahead of what the state machine has done.
    pub fn take_apply(&mut self, config: &Config, log: &Log) -> Option<Effect> {
        let ready = log.commit_index().min(log.durable_index());
        if self.installing.is_some() || ready <= self.applying_index {
            return None;
        }
        let from = self.applying_index.next();
        let max_bytes = config.max_applying_bytes.checked_sub(self.applying_bytes)?;
        let mut entries = match mem::take(&mut self.reload) {
            Reload::Here(entries) => entries,
            Reload::Idle => match log.entries(from, ready, max_bytes) {
                Some(entries) => entries,
                None => {
                    self.reload = Reload::Asked(from);
                    return Some(Effect::Load { from, max_bytes });
                }
            },
            waiting @ (Reload::Asked(_) | Reload::Failed) => {
                self.reload = waiting;
                return None;
            }
        };
        entries.truncate(entries.partition_point(|entry| entry.id.index <= ready));
        let bytes = entries.iter().map(Entry::size_bytes).sum();
        self.applying_index = entries.last()?.id.index;
        self.applying_bytes += bytes;
        self.applying.push_back((self.applying_index, bytes));
        Some(Effect::Apply(entries))
    }
}
