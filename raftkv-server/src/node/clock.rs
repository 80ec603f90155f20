//! When ticks are due.

use std::time::{Duration, Instant};

use raft_core::types::Moment;

/// Turns time into ticks.
///
/// A driver that is a little late gives the ticks it missed, so that heartbeats keep their pace. One that stood still for long (a
/// stopped process, a machine that slept) gives only a few: its peers' messages of that time still wait to be read, and a node that
/// counted the pause first would call an election against a leader who is alive. Nothing that safety rests on counts ticks.
#[derive(Debug)]
pub(super) struct Clock {
    tick: Duration,
    /// How many ticks are given at once at the most. At least 1.
    max_ticks: u32,
    next: Instant,
    /// The zero of [`moment`](Self::moment).
    start: Instant,
}

impl Clock {
    pub(super) fn new(tick: Duration, max_ticks: u32, now: Instant) -> Self {
        assert!(!tick.is_zero() && max_ticks > 0, "time passes in ticks");
        Self { tick, max_ticks, next: now + tick, start: now }
    }

    /// When the next tick is due.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// The time `now` for the core, in microseconds.
    pub(super) fn moment(&self, now: Instant) -> Moment {
        // Rounded down, so never later than it is; and half a million years fit.
        Moment(now.saturating_duration_since(self.start).as_micros().try_into().unwrap_or(u64::MAX))
    }

    /// How many ticks to give now.
    pub(super) fn take_due(&mut self, now: Instant) -> u32 {
        for due in 0..self.max_ticks {
            if now < self.next {
                return due;
            }
            self.next += self.tick;
        }
        self.next = self.next.max(now + self.tick);
        self.max_ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(10);

    #[test]
    fn a_late_tick_keeps_the_pace() {
        let start = Instant::now();
        let mut clock = Clock::new(TICK, 5, start);
        assert_eq!(clock.take_due(start + TICK / 2), 0);
        assert_eq!(clock.take_due(start + TICK * 3 / 2), 1);
        assert_eq!(clock.next(), start + TICK * 2);
    }

    #[test]
    fn moments_are_never_later_than_the_time() {
        let start = Instant::now();
        let clock = Clock::new(TICK, 5, start);
        assert_eq!(clock.moment(start), Moment(0));
        assert_eq!(clock.moment(start + Duration::from_nanos(2999)), Moment(2));
    }

    #[test]
    fn a_few_missed_ticks_are_given() {
        let start = Instant::now();
        let mut clock = Clock::new(TICK, 5, start);
        assert_eq!(clock.take_due(start + TICK * 3), 3);
        assert_eq!(clock.next(), start + TICK * 4);
    }

    #[test]
    fn a_long_pause_is_not_replayed() {
        let start = Instant::now();
        let mut clock = Clock::new(TICK, 5, start);
        let woken = start + TICK * 1000;
        assert_eq!(clock.take_due(woken), 5);
        assert_eq!(clock.take_due(woken), 0);
        assert_eq!(clock.next(), woken + TICK);
    }
}
