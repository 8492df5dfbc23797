//! When to renew, and when to try again.

use std::time::{Duration, Instant, SystemTime};

/// A server's word is not taken for less than this: nothing it says may make a client spin.
const SOONEST: Duration = Duration::from_millis(200);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// Without a valid identity nothing passes, so the wait is shorter.
const LONGEST_RETRY_WITHOUT_IDENTITY: Duration = Duration::from_secs(5);
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
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const HOUR: Duration = Duration::from_secs(3600);

    fn unix_ms(time: SystemTime) -> i64 {
        i64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
    }

    fn schedule(received: (Instant, SystemTime), server: SystemTime) -> Schedule {
        let renew_at = server + Duration::from_secs(30 * 60);
        Schedule::new(
            unix_ms(server),
            unix_ms(renew_at),
            unix_ms(server + HOUR),
            received,
        )
    }

    #[test]
    fn a_wrong_local_clock_shifts_nothing() {
        for server in [SystemTime::now() - 24 * HOUR, SystemTime::now() + 24 * HOUR] {
            let received = now();
            let schedule = schedule(received, server);
            assert!(!schedule.is_due(received));
            assert_eq!(schedule.wait(received), HOUR / 2);
        }
    }

    #[test]
    fn either_clock_makes_it_due() {
        let received = now();
        let schedule = schedule(received, received.1);
        let later = HOUR / 2;
        assert!(
            schedule.is_due((received.0 + later, received.1)),
            "the clock was set back"
        );
        assert!(
            schedule.is_due((received.0, received.1 + later)),
            "the machine slept"
        );
        assert!(!schedule.is_due((received.0 + later / 2, received.1 + later / 2)));
    }

    #[test]
    fn absurd_times_neither_spin_nor_overflow() {
        let received = now();
        for (server_time, renew_at, not_after) in [
            (0, 0, 0),
            (i64::MAX, i64::MIN, i64::MIN),
            (i64::MIN, i64::MAX, i64::MAX),
        ] {
            let schedule = Schedule::new(server_time, renew_at, not_after, received);
            assert!(schedule.wait(received) >= SOONEST);
            assert!(schedule.wait(received) <= 7 * 24 * HOUR);
        }
    }

    #[test]
    fn waits_grow_to_a_cap_that_fits_the_life() {
        for (life, valid, cap) in [
            (None, false, 5.0),
            (Some(HOUR), true, 30.0),
            (Some(HOUR), false, 5.0),
            (Some(Duration::from_secs(5)), true, 0.5),
            (Some(Duration::from_secs(60)), true, 6.0),
        ] {
            let mut backoff = Backoff::default();
            let waits: Vec<f64> = (0..40)
                .map(|_| backoff.next(life, valid).as_secs_f64())
                .collect();
            assert!(waits[0] <= 0.25, "{waits:?}");
            assert!(waits.iter().all(|wait| *wait <= cap), "{waits:?}");
            assert!(waits[39] >= cap / 2.0, "{waits:?}");
        }
    }
}
