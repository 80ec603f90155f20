//! Time in ticks, and the seeded randomness that keeps elections apart.

use core::ops::Range;

/// Counts ticks up to a timeout.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Timer {
    elapsed_ticks: u32,
    timeout_ticks: u32,
}

impl Timer {
    /// A timer that has just started.
    pub fn new(timeout_ticks: u32) -> Self {
        Self { elapsed_ticks: 0, timeout_ticks }
    }

    /// Counts one tick. True if the timeout is reached; the timer then starts again.
    pub fn tick(&mut self) -> bool {
        self.elapsed_ticks += 1;
        let expired = self.elapsed_ticks >= self.timeout_ticks;
        if expired {
            self.elapsed_ticks = 0;
        }
        expired
    }

    /// Starts again.
    pub fn restart(&mut self) {
        self.elapsed_ticks = 0;
    }

    /// Ticks since the start.
    pub fn elapsed_ticks(&self) -> u32 {
        self.elapsed_ticks
    }
}

/// A small generator of randomness (SplitMix64), which is a part of the node's state and so repeats with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Jitter {
    state: u64,
}

impl Jitter {
    /// A generator that starts from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number in `range`, which is not empty.
    pub fn draw(&mut self, range: Range<u32>) -> u32 {
        range.start + (self.draw_any() % u64::from(range.end - range.start)) as u32
    }

    /// Any number.
    pub fn draw_any(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_expires_at_its_timeout_and_starts_again() {
        let mut timer = Timer::new(3);
        let fired: [bool; 6] = core::array::from_fn(|_| timer.tick());
        assert_eq!(fired, [false, false, true, false, false, true]);
    }

    #[test]
    fn jitter_repeats_with_its_seed_and_covers_its_range() {
        let draw = |seed| {
            let mut jitter = Jitter::new(seed);
            core::array::from_fn::<u32, 64, _>(|_| jitter.draw(15..30))
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!((15..30).all(|ticks| draw(1).contains(&ticks) || draw(2).contains(&ticks)));
    }
}
