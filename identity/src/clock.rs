//! How far this machine's clock is from the CA's: validity is judged by the one and written by the other.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock that is off by more deserves a warning: certificates begin 30 s before they are issued, and a third of that is used
/// up.
const NOTABLE_MS: u64 = 10_000;

/// What time it was by the CA's clock, and when that was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaTime {
    /// Since the Unix epoch.
    said: Duration,
    heard: Instant,
    within: Duration,
}

impl CaTime {
    /// Of an answer that was asked for at `asked`, came at `heard` and tells the CA's time, in milliseconds since the Unix
    /// epoch. It was written at some moment between the two, so it is taken for that of the middle, and half of the
    /// way there and back is what it may be wrong by.
    pub fn new(unix_ms: i64, asked: Instant, heard: Instant) -> Self {
        let within = heard.saturating_duration_since(asked) / 2;
        let said = Duration::from_millis(u64::try_from(unix_ms).unwrap_or(0));
        Self {
            said: said.saturating_add(within),
            heard,
            within,
        }
    }

    /// What time it is by the CA's clock at `now`, in milliseconds since the Unix epoch.
    pub fn unix_ms(&self, now: Instant) -> i64 {
        let since = now.saturating_duration_since(self.heard);
        whole(self.said.saturating_add(since).as_millis())
    }

    /// How far off this machine's clock is when both of its clocks say `now`. The CA's is taken to have run since as the
    /// monotonic one here, so that a clock that is set between two answers shows at once.
    pub fn skew(&self, now: (Instant, SystemTime)) -> ClockSkew {
        let here = now.1.duration_since(UNIX_EPOCH).unwrap_or_default();
        ClockSkew {
            ahead_ms: whole(here.as_millis()).saturating_sub(self.unix_ms(now.0)),
            within_ms: u64::try_from(self.within.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// How far this machine's clock is from the CA's. `Display` is a clause for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockSkew {
    /// Negative when it is behind.
    ahead_ms: i64,
    within_ms: u64,
}

impl ClockSkew {
    /// Positive when this machine's clock is ahead of the CA's.
    pub fn seconds(&self) -> f64 {
        self.ahead_ms as f64 / 1000.0
    }

    /// Whether the clocks differ by more than 10 s, however long the answer took.
    pub fn is_notable(&self) -> bool {
        self.ahead_ms.unsigned_abs() > NOTABLE_MS.saturating_add(self.within_ms)
    }
}

impl fmt::Display for ClockSkew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = self.ahead_ms.unsigned_abs() as f64 / 1000.0;
        let which = match self.ahead_ms {
            ..0 => "behind",
            0.. => "ahead of",
        };
        let within = self.within_ms as f64 / 1000.0;
        write!(
            f,
            "this machine's clock is {by:.1} s {which} the CA's, give or take {within:.1} s"
        )
    }
}

fn whole(ms: u128) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTES: Duration = Duration::from_secs(300);

    fn at(unix: Duration) -> i64 {
        i64::try_from(unix.as_millis()).unwrap()
    }

    /// A CA whose clock says 1000 hours, and the skew of a clock that says `here` when the answer comes.
    fn skew_of(here: Duration, way: Duration) -> ClockSkew {
        let asked = Instant::now();
        let heard = asked + way;
        CaTime::new(at(1000 * HOUR), asked, heard).skew((heard, UNIX_EPOCH + here))
    }

    #[test]
    fn a_clock_that_is_off_shows_by_how_much_and_which_way() {
        for (here, seconds, text) in [
            (1001 * HOUR, 3600.0, "3600.0 s ahead of"),
            (999 * HOUR, -3600.0, "3600.0 s behind"),
            (1000 * HOUR + MINUTES, 300.0, "300.0 s ahead of"),
            (1000 * HOUR - MINUTES, -300.0, "300.0 s behind"),
            (Duration::ZERO, -3_600_000.0, "3600000.0 s behind"),
        ] {
            let skew = skew_of(here, Duration::ZERO);
            assert_eq!(skew.seconds(), seconds, "{here:?}");
            assert!(skew.is_notable(), "{here:?}");
            assert!(skew.to_string().contains(text), "{skew}");
        }
        assert!(!skew_of(1000 * HOUR, Duration::ZERO).is_notable());
    }

    #[test]
    fn an_answer_that_took_long_says_little() {
        let way = Duration::from_secs(12);
        let skew = skew_of(1000 * HOUR + Duration::from_secs(20), way);
        assert_eq!(skew.seconds(), 14.0);
        assert!(!skew.is_notable());
        assert!(skew.to_string().contains("give or take 6.0 s"), "{skew}");
    }

    #[test]
    fn a_clock_that_jumps_after_the_answer_shows_at_once_and_is_right_again_when_set_back() {
        let heard = Instant::now();
        let time = CaTime::new(at(1000 * HOUR), heard, heard);
        let later = heard + MINUTES;
        let right = UNIX_EPOCH + 1000 * HOUR + MINUTES;
        assert_eq!(time.skew((later, right)).seconds(), 0.0);
        assert_eq!(time.skew((later, right + HOUR)).seconds(), 3600.0);
        assert_eq!(time.skew((later, right - HOUR)).seconds(), -3600.0);
    }

    #[test]
    fn absurd_times_do_not_overflow() {
        let now = Instant::now();
        for unix_ms in [i64::MIN, -1, 0, i64::MAX] {
            let time = CaTime::new(unix_ms, now, now);
            for here in [UNIX_EPOCH, UNIX_EPOCH - HOUR, UNIX_EPOCH + 1000 * HOUR] {
                let skew = time.skew((now, here));
                assert!(skew.seconds().is_finite(), "{skew}");
            }
        }
    }
}
