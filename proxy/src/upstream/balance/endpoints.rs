//! What is known of each endpoint, and what follows from it.

use crate::discovery::Member;
use crate::upstream::http2::Lanes;
use crate::upstream::random::Random;
use std::sync::Arc;
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
    next: Number,
    ejected: usize,
    random: Random,
}

/// Names an endpoint for as long as it is one. No two of a service ever have the same; one that leaves and comes back has
/// another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number(u64);

/// An endpoint that is handed a request.
#[derive(Debug)]
pub(super) struct Picked {
    pub(super) number: Number,
    pub(super) lanes: Arc<Lanes>,
    /// Whether it has failed time after time.
    pub(super) is_probe: bool,
    /// Whether there is another that was not tried.
    pub(super) has_other: bool,
}

/// How an endpoint has taken a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Answered,
    Failed,
    /// It took longer than somebody waited; whether it would have answered is not known.
    Late,
}

impl Endpoints {
    pub(super) fn new() -> Self {
        Self::with(Random::new())
    }

    fn with(random: Random) -> Self {
        Self {
            all: Vec::new(),
            next: Number(0),
            ejected: 0,
            random,
        }
    }

    /// Has these from now on, in this order. What is known of those that it has already is kept.
    pub(super) fn set(&mut self, members: Vec<(Member, Arc<Lanes>)>) {
        let mut before = std::mem::take(&mut self.all);
        for (member, lanes) in members {
            let known = before
                .iter()
                .position(|endpoint| endpoint.member.address == member.address);
            self.all.push(match known {
                Some(known) => Endpoint {
                    member,
                    lanes,
                    ..before.swap_remove(known)
                },
                None => {
                    let number = self.next;
                    self.next = Number(number.0 + 1);
                    Endpoint::new(number, member, lanes)
                }
            });
        }
        let is_out = |endpoint: &&mut Endpoint| matches!(endpoint.standing, Standing::Out { .. });
        self.ejected = self.all.iter().filter(|all| all.is_ejected()).count();
        // Those that left may have been the ones in use.
        let too_many = self.ejected.saturating_sub(self.most_ejected());
        for endpoint in self.all.iter_mut().filter(is_out).take(too_many) {
            endpoint.standing = Standing::In;
            self.ejected -= 1;
        }
    }

    pub(super) fn ejected(&self) -> usize {
        self.ejected
    }

    fn most_ejected(&self) -> usize {
        self.all.len() / 2
    }

    pub(super) fn lanes(&self) -> impl Iterator<Item = &Arc<Lanes>> {
        self.all.iter().map(|endpoint| &endpoint.lanes)
    }

    pub(super) fn has_other(&self, number: Number) -> bool {
        self.all.iter().any(|endpoint| endpoint.number != number)
    }

    /// The one there is, if it is the only one.
    pub(super) fn only(&self) -> Option<(Number, &Arc<Lanes>)> {
        match &self.all[..] {
            [only] => Some((only.number, &only.lanes)),
            _ => None,
        }
    }

    /// Hands a request to an endpoint that is not among `tried`: to one whose time out is over, to the better of two that are
    /// in use, or if there is none of these to any that is left. [`Self::end`] takes it back.
    pub(super) fn pick(&mut self, tried: &[Number], now: Instant) -> Option<Picked> {
        let chosen = self
            .due(tried, now)
            .or_else(|| self.better_of_two(tried, now))
            .or_else(|| self.all.iter().position(|all| !tried.contains(&all.number)))?;
        let has_other = self.all.len() > tried.len() + 1;
        let endpoint = &mut self.all[chosen];
        endpoint.in_hand += 1;
        Some(Picked {
            number: endpoint.number,
            lanes: Arc::clone(&endpoint.lanes),
            is_probe: endpoint.is_ejected(),
            has_other,
        })
    }

    /// One that was ejected and whose time is over: one request at a time finds out how it is.
    fn due(&mut self, tried: &[Number], now: Instant) -> Option<usize> {
        if self.ejected == 0 {
            return None;
        }
        let is_due = |endpoint: &Endpoint| matches!(endpoint.standing, Standing::Out { until } if until <= now);
        let due = self
            .all
            .iter()
            .position(|endpoint| is_due(endpoint) && !tried.contains(&endpoint.number))?;
        self.all[due].standing = Standing::Probed;
        Some(due)
    }

    fn better_of_two(&mut self, tried: &[Number], now: Instant) -> Option<usize> {
        let first = self.any_in_use(None, tried)?;
        let Some(second) = self.any_in_use(Some(first), tried) else {
            return Some(first);
        };
        let is_better = self.all[second].load(now) < self.all[first].load(now);
        Some(if is_better { second } else { first })
    }

    /// One in use, each as likely as the others.
    fn any_in_use(&mut self, other_than: Option<usize>, tried: &[Number]) -> Option<usize> {
        let (mut seen, mut chosen) = (0, None);
        for (place, endpoint) in self.all.iter().enumerate() {
            let is_other = Some(place) != other_than && !tried.contains(&endpoint.number);
            if is_other && endpoint.standing == Standing::In {
                seen += 1;
                // The n-th takes the place of the one before with a chance of 1/n.
                if self.random.below(seen) == 0 {
                    chosen = Some(place);
                }
            }
        }
        chosen
    }

    /// Takes note of how `number` took a request, `after` so long.
    pub(super) fn judge(
        &mut self,
        number: Number,
        verdict: Verdict,
        after: Duration,
        now: Instant,
    ) {
        let most_ejected = self.most_ejected();
        let Some(endpoint) = self.all.iter_mut().find(|all| all.number == number) else {
            return; // It has left.
        };
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
            Verdict::Late => endpoint.observe(after, now),
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
    pub(super) fn end(&mut self, number: Number, is_judged: bool, since: Instant) {
        let Some(endpoint) = self.all.iter_mut().find(|all| all.number == number) else {
            return; // It has left.
        };
        endpoint.in_hand -= 1;
        if !is_judged && endpoint.standing == Standing::Probed {
            endpoint.standing = Standing::Out { until: since };
        }
    }
}

#[derive(Debug)]
struct Endpoint {
    number: Number,
    member: Member,
    lanes: Arc<Lanes>,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    In,
    Out {
        until: Instant,
    },
    /// Out, but for the one request that finds out how it is.
    Probed,
}

impl Endpoint {
    fn new(number: Number, member: Member, lanes: Arc<Lanes>) -> Self {
        Self {
            number,
            member,
            lanes,
            in_hand: 0,
            cost: 0.0,
            measured: None,
            failures: 0,
            standing: Standing::In,
            last_out: Duration::ZERO,
            back_since: None,
        }
    }

    fn is_ejected(&self) -> bool {
        self.standing != Standing::In
    }

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
