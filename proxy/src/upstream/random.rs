//! Numbers that spread load. Nothing that has to be kept from anyone may come from here.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A xorshift generator (Marsaglia 2003).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Begins differently each time.
    pub(crate) fn new() -> Self {
        Self::seeded(RandomState::new().hash_one(0))
    }

    pub(crate) fn seeded(seed: u64) -> Self {
        // From nothing it would never leave nothing.
        Self(seed.max(1))
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The upper half: the lower bits of a xorshift are the weaker ones.
        ((self.0 >> 32) as usize) % end
    }

    /// A number from 0 to less than 1.
    pub(crate) fn chance(&mut self) -> f64 {
        const STEPS: usize = 1 << 16;
        self.below(STEPS) as f64 / STEPS as f64
    }

    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = most.saturating_sub(least).as_millis() as usize;
        least + Duration::from_millis(self.below(span + 1) as u64)
    }
}
