//! Which of many equal lines are written: whoever can connect must not be able to fill the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const LINES_PER_SECOND: u32 = 10;

/// Lets so many through in a second, and counts the others.
#[derive(Debug, Default)]
pub(crate) struct Sampler(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    start: Option<Instant>,
    admitted: u32,
    left_out: u64,
}

impl Sampler {
    /// Whether to write one more now, and then how many were left out since the last one written.
    pub(crate) fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |start| now.saturating_duration_since(start) >= Duration::from_secs(1);
        if window.start.is_none_or(is_over) {
            window.start = Some(now);
            window.admitted = 0;
        }
        if window.admitted >= LINES_PER_SECOND {
            window.left_out += 1;
            return None;
        }
        window.admitted += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_by_the_second_and_say_how_many_were_left_out() {
        let (sampler, start) = (Sampler::default(), Instant::now());
        let written = (0..1000).filter(|_| sampler.admit_at(start).is_some());
        assert_eq!(written.count(), 10);
        let later = start + Duration::from_secs(1);
        assert_eq!(sampler.admit_at(later), Some(990));
        assert_eq!(sampler.admit_at(later), Some(0));
    }
}
