//! How fast a snapshot may go.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Spreads bytes over time, if there is a limit. Never makes up for time that was not used.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: Option<NonZeroU64>,
    next: Instant,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        Self { bytes_per_second, next: Instant::now() }
    }

    /// How many bytes may go at once, of `max`: a tenth of a second's worth, so that what goes slowly still moves often.
    pub(crate) fn at_once(&self, max: usize) -> usize {
        let share = self.bytes_per_second.map(|rate| usize::try_from(rate.get() / 10).unwrap_or(max));
        share.map_or(max, |share| share.clamp(1, max))
    }

    /// Waits until what is next may go, and returns it.
    pub(crate) async fn turn<T>(&self, next: T) -> T {
        sleep_until(self.next).await;
        next
    }

    /// Notes that so many bytes went just now.
    pub(crate) fn went(&mut self, bytes: usize) {
        if let Some(rate) = self.bytes_per_second {
            self.next = self.next.max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_are_spread_over_time_in_small_parts() {
        let mut pace = Pace::new(NonZeroU64::new(1000));
        assert_eq!(pace.at_once(1 << 20), 100);
        let started = Instant::now();
        for _ in 0..4 {
            pace.turn(()).await;
            pace.went(50);
        }
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(150), "the first goes at once, three wait 50 ms each: {took:?}");
        assert_eq!(Pace::new(NonZeroU64::new(1)).at_once(1 << 20), 1);
    }

    #[tokio::test]
    async fn without_a_limit_nothing_waits() {
        let mut pace = Pace::new(None);
        assert_eq!(pace.at_once(1 << 20), 1 << 20);
        pace.went(usize::MAX);
        assert!(pace.next <= Instant::now());
    }
}
