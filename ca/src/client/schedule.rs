//! When to renew, and when to try again.

use std::time::{Duration, Instant, SystemTime};

/// A server's word is not taken for less than this: nothing it says may make a client spin.
const SOONEST: Duration = Duration::from_millis(200);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// Without a valid identity nothing passes, so the wait is shorter.
const LONGEST_RETRY_WITHOUT_IDENTITY: Duration = Duration::from_secs(5);
/// A server's word is not taken for more than this either.
const LONGEST_TOLD: Duration = Duration::from_secs(60);
const SHORTEST_CAP: Duration = Duration::from_millis(500);

/// When the next certificate is due.
///
/// Only differences of the server's clock are used, so that a wrong clock here shifts nothing. Due is what either clock
/// of ours says: the monotonic one does not see a suspended machine, the other may be set back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    due: Instant,
    due_by_clock: SystemTime,
    life: Duration,
}

impl Schedule {
    /// Takes the server's times, which are in milliseconds since the Unix epoch, at the moment `received`.
    pub(super) fn new(
        server_time: i64,
        renew_at: i64,
        not_after: i64,
        received: (Instant, SystemTime),
    ) -> Self {
        let between = |from: i64, to: i64| {
            Duration::from_millis(u64::try_from(to.saturating_sub(from)).unwrap_or(0))
        };
        // A day is the longest life there is; beyond it only a mistake remains, and `Instant` could overflow.
        let life = between(server_time, not_after).min(Duration::from_secs(7 * 24 * 60 * 60));
        let wait = between(server_time, renew_at).min(life).max(SOONEST);
        Self {
            due: received.0 + wait,
            due_by_clock: received.1 + wait,
            life,
        }
    }

    pub(super) fn is_due(&self, now: (Instant, SystemTime)) -> bool {
        now.0 >= self.due || now.1 >= self.due_by_clock
    }

    pub(super) fn wait(&self, now: (Instant, SystemTime)) -> Duration {
        let by_clock = self.due_by_clock.duration_since(now.1).unwrap_or_default();
        self.due.saturating_duration_since(now.0).min(by_clock)
    }

    pub(super) fn renew_at(&self) -> SystemTime {
        self.due_by_clock
    }

    /// How long the certificate lives from its receipt.
    pub(super) fn life(&self) -> Duration {
        self.life
    }
}

/// Exponential, capped, jittered waits between failed attempts.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure. `life` is that of the last certificate; `valid` says whether it still lives.
    pub(super) fn next(&mut self, life: Option<Duration>, valid: bool) -> Duration {
        let most = if valid {
            LONGEST_RETRY
        } else {
            LONGEST_RETRY_WITHOUT_IDENTITY
        };
        // A tenth of the life: a short-lived certificate needs several attempts between renewal time and expiry.
        let cap = life.map_or(most, |life| (life / 10).clamp(SHORTEST_CAP, most));
        let wait = FIRST_RETRY
            .saturating_mul(1 << self.failures.min(16))
            .min(cap);
        self.failures = self.failures.saturating_add(1);
        jittered(wait)
    }
}

/// The wait after a refusal that told when to come back: no less than that, up to half as much again, and not for ever.
/// `pause` is what it would have been otherwise.
pub(crate) fn not_before(told: Duration, pause: Duration) -> Duration {
    let told = told.min(LONGEST_TOLD);
    let spread = told.max(pause);
    told + jittered(spread).saturating_sub(spread / 2)
}

/// Between half of `wait` and all of it, so that clients that failed together do not return together.
pub(super) fn jittered(wait: Duration) -> Duration {
    let mut random = [0; 4];
    // Without randomness the whole wait is as good.
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        return wait;
    }
    let fraction = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
    wait.mul_f64(0.5 + fraction / 2.0)
}

/// Both clocks at one moment.
pub(super) fn now() -> (Instant, SystemTime) {
    (Instant::now(), SystemTime::now())
}

#[cfg(test)]
mod tests;
