//! What is known of each endpoint, and what follows from it.

use crate::upstream::random::Random;
use std::time::{Duration, Instant};

/// For so long a slow response weighs on its endpoint: after this the memory of it has faded to a third.
const MEMORY: Duration = Duration::from_secs(10);
/// What a failure counts as: one that fails at once must not look quick.
const FAILURE: Duration = Duration::from_secs(1);
/// What an endpoint counts as that has a request and has not yet answered any: others are not sent after it.
const UNKNOWN: Duration = Duration::from_secs(1);

/// Failures in a row after which an endpoint is ejected.
const TOO_MANY: u32 = 5;
/// How long it is out the first time; twice as long each time after that.
const OUT_AT_FIRST: Duration = Duration::from_secs(10);
const OUT_AT_MOST: Duration = Duration::from_secs(300);

/// The endpoints of one service. At least half of them are always in use.
#[derive(Debug)]
pub(super) struct Endpoints {
    all: Vec<Endpoint>,
    ejected: usize,
    random: Random,
}

/// How an endpoint has taken a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Answered,
    Failed,
}

impl Endpoints {
    pub(super) fn new(count: usize) -> Self {
        Self::with(count, Random::new())
    }

    fn with(count: usize, random: Random) -> Self {
        Self {
            all: (0..count).map(|_| Endpoint::default()).collect(),
            ejected: 0,
            random,
        }
    }

    pub(super) fn ejected(&self) -> usize {
        self.ejected
    }

    pub(super) fn is_out(&self, number: usize) -> bool {
        self.all[number].standing != Standing::In
    }

    /// Hands a request to an endpoint that is not among `tried`: to one whose time out is over, to the better of two that are
    /// in use, or if there is none of these to any that is left. [`Self::end`] takes it back.
    pub(super) fn pick(&mut self, tried: &[usize], now: Instant) -> Option<usize> {
        let chosen = self
            .due(tried, now)
            .or_else(|| self.better_of_two(tried, now))
            .or_else(|| (0..self.all.len()).find(|number| !tried.contains(number)))?;
        self.all[chosen].in_hand += 1;
        Some(chosen)
    }

    /// One that was ejected and whose time is over: one request at a time finds out how it is.
    fn due(&mut self, tried: &[usize], now: Instant) -> Option<usize> {
        if self.ejected == 0 {
            return None;
        }
        let is_due = |endpoint: &Endpoint| matches!(endpoint.standing, Standing::Out { until } if until <= now);
        let due = (0..self.all.len())
            .find(|number| is_due(&self.all[*number]) && !tried.contains(number))?;
        self.all[due].standing = Standing::Probed;
        Some(due)
    }

    fn better_of_two(&mut self, tried: &[usize], now: Instant) -> Option<usize> {
        let first = self.any_in_use(None, tried)?;
        let Some(second) = self.any_in_use(Some(first), tried) else {
            return Some(first);
        };
        let is_better = self.all[second].load(now) < self.all[first].load(now);
        Some(if is_better { second } else { first })
    }

    /// One in use, each as likely as the others.
    fn any_in_use(&mut self, other_than: Option<usize>, tried: &[usize]) -> Option<usize> {
        let (mut seen, mut chosen) = (0, None);
        for (number, endpoint) in self.all.iter().enumerate() {
            let is_other = Some(number) != other_than && !tried.contains(&number);
            if is_other && endpoint.standing == Standing::In {
                seen += 1;
                // The n-th takes the place of the one before with a chance of 1/n.
                if self.random.below(seen) == 0 {
                    chosen = Some(number);
                }
            }
        }
        chosen
    }

    /// Takes note of how `number` took a request, `after` so long.
    pub(super) fn judge(&mut self, number: usize, verdict: Verdict, after: Duration, now: Instant) {
        let most_ejected = self.all.len() / 2;
        let endpoint = &mut self.all[number];
        match verdict {
            Verdict::Answered => {
                endpoint.observe(after, now);
                endpoint.failures = 0;
                if endpoint.standing == Standing::Probed {
                    endpoint.standing = Standing::In;
                    endpoint.back_since = Some(now);
                    self.ejected -= 1;
                }
            }
            Verdict::Failed => {
                endpoint.observe(after.max(FAILURE), now);
                endpoint.failures += 1;
                match endpoint.standing {
                    Standing::Probed => endpoint.eject(now),
                    Standing::In
                        if endpoint.failures >= TOO_MANY && self.ejected < most_ejected =>
                    {
                        endpoint.eject(now);
                        self.ejected += 1;
                    }
                    _ => {}
                }
            }
        }
    }

    /// Takes a request back from `number` that it was handed at `since`. One that was to find out how the endpoint is and
    /// has not, leaves that to the next.
    pub(super) fn end(&mut self, number: usize, is_judged: bool, since: Instant) {
        let endpoint = &mut self.all[number];
        endpoint.in_hand -= 1;
        if !is_judged && endpoint.standing == Standing::Probed {
            endpoint.standing = Standing::Out { until: since };
        }
    }
}

#[derive(Debug, Default)]
struct Endpoint {
    in_hand: u32,
    /// Response time in seconds: at once up to a peak, slowly down from it.
    cost: f64,
    measured: Option<Instant>,
    /// In a row.
    failures: u32,
    standing: Standing,
    /// How long it was out the last time, and since when it has been back.
    last_out: Duration,
    back_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Standing {
    #[default]
    In,
    Out {
        until: Instant,
    },
    /// Out, but for the one request that finds out how it is.
    Probed,
}

impl Endpoint {
    /// How long a request would take here, in seconds, were it to wait for those before it.
    fn load(&self, now: Instant) -> f64 {
        let cost = match self.measured {
            None if self.in_hand > 0 => UNKNOWN.as_secs_f64(),
            None => 0.0,
            Some(at) => self.cost * fade(at, now),
        };
        cost * f64::from(self.in_hand + 1)
    }

    fn observe(&mut self, time: Duration, now: Instant) {
        let time = time.as_secs_f64();
        let kept = self.measured.map_or(0.0, |at| fade(at, now));
        self.cost = if time > self.cost {
            time
        } else {
            self.cost * kept + time * (1.0 - kept)
        };
        self.measured = Some(now);
    }

    fn eject(&mut self, now: Instant) {
        // Once it has been well for as long as it was out, its past is forgotten.
        let is_forgotten = self
            .back_since
            .is_none_or(|since| now.saturating_duration_since(since) >= self.last_out);
        self.last_out = if self.standing == Standing::In && is_forgotten {
            OUT_AT_FIRST
        } else {
            (self.last_out * 2).min(OUT_AT_MOST)
        };
        self.standing = Standing::Out {
            until: now + self.last_out,
        };
        self.failures = 0;
    }
}

/// What is left of a memory from `then`.
fn fade(then: Instant, now: Instant) -> f64 {
    let age = now.saturating_duration_since(then).as_secs_f64();
    (-age / MEMORY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests;
