//! Pauses between attempts to connect.

use std::time::Duration;

/// Doubles from attempt to attempt, with jitter, so that nodes which lost a peer at once do not return at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    /// The last attempt led to a connection that lasted this long. If that is longer than any pause, the trouble is over, and
    /// the next one starts with the shortest pause; otherwise a peer that takes connections only to end them would be
    /// tried without pause.
    pub(crate) fn connected_for(&mut self, lasted: Duration) {
        if lasted >= self.max {
            self.next = self.min;
        }
    }

    /// The next pause: between half of what is due and all of it.
    pub(crate) fn pause(&mut self) -> Duration {
        let due = self.next;
        self.next = due.saturating_mul(2).min(self.max);
        // Without a source of randomness the pause is merely not jittered.
        let random = getrandom::u32().unwrap_or(u32::MAX);
        due.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_limit_and_start_over_after_a_connection_that_lasted() {
        let mut backoff = Backoff::new(MIN, MAX);
        for due_millis in [50, 100, 200, 400, 800, 1000, 1000] {
            let due = Duration::from_millis(due_millis);
            let pause = backoff.pause();
            assert!(pause >= due / 2 && pause <= due, "{pause:?} for {due:?}");
        }
        backoff.connected_for(MAX / 2);
        assert!(backoff.pause() >= MAX / 2);
        backoff.connected_for(MAX);
        assert!(backoff.pause() <= MIN);
    }

    #[test]
    fn pauses_differ() {
        let mut backoff = Backoff::new(MAX, MAX);
        let pauses: Vec<_> = (0..20).map(|_| backoff.pause()).collect();
        assert!(pauses.windows(2).any(|pair| pair[0] != pair[1]), "{pauses:?}");
    }
}
