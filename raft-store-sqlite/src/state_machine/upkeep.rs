//! Commands that are not programs: leases, and what is removed in the course of time.

use super::{SqliteStateMachine, session};
use crate::answer::Outcome;
use crate::kv::{Changes, compaction, lease};
use crate::limits::EXPIRED;

impl SqliteStateMachine {
    pub(super) fn grant_lease(&self, given: u64, ttl_ms: u64) -> rusqlite::Result<Outcome> {
        let (own, time_ms) = (self.position.applied.index.0, self.position.time_ms);
        let granted = lease::grant(&self.connection, (given != 0).then_some(given), own, ttl_ms, time_ms)?;
        let in_use = || Outcome::failed(format!("there is a lease {given} already"));
        Ok(granted.map_or_else(in_use, |lease| Outcome::LeaseGranted { lease }))
    }

    pub(super) fn keep_lease(&self, lease: u64) -> rusqlite::Result<Outcome> {
        let kept = lease::keep(&self.connection, lease, self.position.time_ms)?;
        Ok(kept.map_or(Outcome::NoSuchLease { lease }, |ttl_ms| Outcome::LeaseKept { ttl_ms }))
    }

    pub(super) fn revoke_lease(&mut self, lease: u64) -> rusqlite::Result<Outcome> {
        let mut changes = Changes::since(&self.position);
        if !lease::revoke(&self.connection, &mut changes, lease)? {
            return Ok(Outcome::NoSuchLease { lease });
        }
        changes.finish(&mut self.position);
        Ok(Outcome::LeaseRevoked { deleted: changes.count() })
    }

    /// Forgets what was before `revision`; the rows go piece by piece.
    pub(super) fn compact(&mut self, revision: u64) -> rusqlite::Result<Outcome> {
        if revision > self.position.revision {
            let current = self.position.revision;
            return Ok(Outcome::failed(format!("revision {revision} is not reached yet: the state is at {current}")));
        }
        self.position.compacted = self.position.compacted.max(revision);
        compaction::sweep(&self.connection, &mut self.position, EXPIRED)?;
        Ok(Outcome::Compacted)
    }

    /// Removes a piece of what is over by log time, and of what was forgotten.
    pub(super) fn expire(&mut self) -> rusqlite::Result<Outcome> {
        let mut changes = Changes::since(&self.position);
        let leases = lease::expire(&self.connection, &mut changes, self.position.time_ms, EXPIRED)?;
        changes.finish(&mut self.position);
        let history = compaction::sweep(&self.connection, &mut self.position, EXPIRED)?;
        let sessions = session::expire(&self.connection, &mut self.position)?;
        Ok(Outcome::Expired { more: leases || history || sessions })
    }

    /// Moves log time on to that of a command. After a change of leaders, no lease that lasted until then is over before its holder has
    /// had the time to keep it; one that was over already, and may have been refused for that, stays so.
    pub(super) fn move_on(&mut self, time_ms: u64) -> rusqlite::Result<()> {
        let before_ms = self.position.time_ms;
        self.position.advance_time(time_ms);
        let term = self.position.applied.term;
        if term > self.position.command_term {
            self.position.command_term = term;
            lease::extend_all(&self.connection, before_ms, self.position.time_ms)?;
        }
        Ok(())
    }
}
