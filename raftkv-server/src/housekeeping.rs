//! What a cluster does of itself: its leader proposes to remove what has expired, to forget history that was kept long enough, and has the nodes
//! compare their states now and then.
//!
//! Every node looks on, so that one that comes to lead knows what was when; nothing is proposed by any but the leader, nor while there is
//! nothing to do. A proposal that is refused is made again at a later look, for what it was to remove is still there.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use raft_core::effect::RoleKind;
use raft_core::types::Index;
use raft_store_sqlite::{Operation, Outcome, Upkeep};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::debug;

use crate::store::{Failure, Store};
use crate::verification::Verification;

/// How often a node looks whether there is something to do: what has expired is removed about so late.
const LOOK: Duration = Duration::from_millis(500);

/// When to do what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// How long history is kept. Zero: for ever.
    pub(crate) history: Duration,
    /// How often the nodes compare their states. Zero: never.
    pub(crate) verify_every: Duration,
}

/// Keeps the house of a node for as long as it is polled.
pub(crate) async fn keep_house(store: Store, verification: Verification, schedule: Schedule) {
    let history = History::new(schedule.history);
    let comparisons = Comparisons::new(schedule.verify_every, Instant::now());
    let upkeep = Upkeep::default();
    let mut housekeeper = Housekeeper { store, verification, applied: None, upkeep, history, comparisons };
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if let Err(failure) = housekeeper.look().await {
            debug!("housekeeping goes on later: {failure}");
        }
    }
}

struct Housekeeper {
    store: Store,
    verification: Verification,
    /// What the node had applied when the state was looked into; a state that has not changed is not looked into again.
    applied: Option<Index>,
    upkeep: Upkeep,
    history: History,
    comparisons: Comparisons,
}

impl Housekeeper {
    async fn look(&mut self) -> Result<(), Failure> {
        let status = self.store.status();
        if self.applied != Some(status.applied_index) {
            self.upkeep = self.store.upkeep().await?;
            self.applied = Some(status.applied_index);
        }
        self.history.note(Instant::now(), &self.upkeep);
        self.comparisons.note(Instant::now(), self.verification.last());
        if status.role != RoleKind::Leader {
            return Ok(());
        }
        self.expire().await?;
        self.compact().await?;
        self.compare().await
    }

    /// Removes what has expired, piece by piece.
    async fn expire(&self) -> Result<(), Failure> {
        if self.upkeep.next_expiry_ms.is_none_or(|next| next > now_ms()) {
            return Ok(());
        }
        while let Outcome::Expired { more: true } = self.store.propose(Operation::Expire).await? {}
        Ok(())
    }

    /// Has the nodes compare their states.
    async fn compare(&mut self) -> Result<(), Failure> {
        let is_due = self.comparisons.is_due(Instant::now(), self.verification.is_wanted());
        if is_due && !self.verification.is_under_way() {
            self.store.mark().await?;
        }
        Ok(())
    }

    /// Forgets history that has been kept for long enough.
    async fn compact(&mut self) -> Result<(), Failure> {
        let Some(revision) = self.history.outlived(Instant::now()) else { return Ok(()) };
        match self.store.propose(Operation::Compact { revision }).await {
            // One that the state refuses, it would refuse again.
            Ok(_) | Err(Failure::Failed(_)) => self.history.forget_first(),
            Err(failure) => return Err(failure),
        }
        Ok(())
    }
}

/// When the states of the nodes were last compared.
struct Comparisons {
    /// Zero: never.
    every: Duration,
    /// The mark at which they last were, and when that was noted.
    last: (Index, Instant),
}

impl Comparisons {
    /// By how much a node that was started hastens the next comparison. Not for each at once: one that crashes time and again is started as often.
    const HASTE: u32 = 60;

    fn new(every: Duration, now: Instant) -> Self {
        Self { every, last: (Index(0), now) }
    }

    fn note(&mut self, now: Instant, mark: Index) {
        if mark != self.last.0 {
            self.last = (mark, now);
        }
    }

    fn is_due(&self, now: Instant, is_wanted: bool) -> bool {
        let wait = if is_wanted { self.every / Self::HASTE } else { self.every };
        !self.every.is_zero() && now.duration_since(self.last.1) >= wait
    }
}

/// Which revision was the state's, and when: as far back as history is kept, and one before.
struct History {
    /// Zero: for ever.
    kept: Duration,
    /// The oldest first. Revisions do not fall, and are above what is forgotten.
    samples: VecDeque<(Instant, u64)>,
}

impl History {
    /// Into how many samples the time is divided.
    const SAMPLES: u32 = 16;

    fn new(kept: Duration) -> Self {
        Self { kept, samples: VecDeque::new() }
    }

    /// Notes the state's revision, if there is something before it and it is not too soon after the last note.
    fn note(&mut self, now: Instant, &Upkeep { revision, compacted, .. }: &Upkeep) {
        while self.samples.front().is_some_and(|(_, noted)| *noted <= compacted) {
            self.samples.pop_front();
        }
        let step = self.kept / Self::SAMPLES;
        let is_time = self.samples.back().is_none_or(|(noted, _)| now.duration_since(*noted) >= step);
        // Before the first revision is nothing.
        if is_time && revision > compacted.max(1) && !self.kept.is_zero() {
            self.samples.push_back((now, revision));
        }
        // Of those that are old enough, the newest says it all.
        while self.samples.get(1).is_some_and(|(noted, _)| self.is_old(*noted, now)) {
            self.samples.pop_front();
        }
    }

    /// The revision up to which history was kept long enough, if any was. All that was so within the time that is to be kept stays readable.
    fn outlived(&self, now: Instant) -> Option<u64> {
        let (noted, revision) = *self.samples.front()?;
        self.is_old(noted, now).then_some(revision)
    }

    fn forget_first(&mut self) {
        self.samples.pop_front();
    }

    fn is_old(&self, noted: Instant, now: Instant) -> bool {
        now.duration_since(noted) >= self.kept
    }
}

/// The wall clock, in milliseconds since 1970, by which the leader stamps commands.
fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);

    fn at(revision: u64, compacted: u64) -> Upkeep {
        Upkeep { revision, compacted, next_expiry_ms: None }
    }

    #[test]
    fn history_is_kept_for_its_time_and_not_much_longer() {
        let (mut history, begin) = (History::new(HOUR), Instant::now());
        for minute in 0..600 {
            let now = begin + minute * MINUTE;
            // One change a minute.
            history.note(now, &at(u64::from(minute) + 2, 0));
            let kept = history.outlived(now).map(|revision| minute + 2 - u32::try_from(revision).unwrap());
            match kept {
                None => assert!(minute < 60, "after {minute} minutes"),
                Some(kept) => assert!((60..=64).contains(&kept), "{kept} minutes are kept"),
            }
            assert!(history.samples.len() <= 18, "{}", history.samples.len());
        }
    }

    #[test]
    fn what_is_forgotten_is_not_forgotten_again() {
        let (mut history, begin) = (History::new(HOUR), Instant::now());
        history.note(begin, &at(7, 0));
        assert_eq!(history.outlived(begin + HOUR - MINUTE), None);
        assert_eq!(history.outlived(begin + HOUR), Some(7));
        history.forget_first();
        for hour in 1..5 {
            history.note(begin + hour * HOUR, &at(7, 7));
            assert_eq!(history.outlived(begin + hour * HOUR), None);
        }
        history.note(begin + 5 * HOUR, &at(8, 7));
        assert_eq!(history.outlived(begin + 6 * HOUR), Some(8));
    }

    #[test]
    fn what_others_have_forgotten_is_not_forgotten_again() {
        let (mut history, begin) = (History::new(HOUR), Instant::now());
        history.note(begin, &at(7, 0));
        history.note(begin + 10 * MINUTE, &at(9, 0));
        history.note(begin + HOUR, &at(9, 7));
        assert_eq!(history.outlived(begin + HOUR), None);
        history.note(begin + 2 * HOUR, &at(9, 9));
        assert_eq!(history.outlived(begin + 2 * HOUR), None);
        // Nor by a node that has just been started.
        let mut history = History::new(HOUR);
        history.note(begin, &at(9, 9));
        assert_eq!(history.outlived(begin + 2 * HOUR), None);
    }

    #[test]
    fn a_state_that_nobody_has_changed_has_nothing_to_forget() {
        let (mut history, begin) = (History::new(HOUR), Instant::now());
        history.note(begin, &at(1, 0));
        assert_eq!(history.outlived(begin + 2 * HOUR), None);
    }

    #[test]
    fn states_are_compared_now_and_then_and_sooner_where_a_node_was_started() {
        let begin = Instant::now();
        let mut comparisons = Comparisons::new(HOUR, begin);
        let due = |comparisons: &Comparisons, minutes| {
            [false, true].map(|is_wanted| comparisons.is_due(begin + minutes * MINUTE, is_wanted))
        };
        assert_eq!(due(&comparisons, 0), [false, false]);
        assert_eq!(due(&comparisons, 1), [false, true]);
        assert_eq!(due(&comparisons, 60), [true, true]);
        comparisons.note(begin + HOUR, Index(7));
        comparisons.note(begin + HOUR + 2 * MINUTE, Index(7));
        assert_eq!(due(&comparisons, 60), [false, false]);
        assert_eq!(due(&comparisons, 61), [false, true]);
        assert_eq!(due(&comparisons, 120), [true, true]);
        assert_eq!(due(&Comparisons::new(Duration::ZERO, begin), 1_000_000), [false, false]);
    }

    #[test]
    fn history_may_be_kept_for_ever() {
        let (mut history, begin) = (History::new(Duration::ZERO), Instant::now());
        history.note(begin, &at(7, 0));
        assert_eq!(history.outlived(begin + 1000 * HOUR), None);
    }
}
