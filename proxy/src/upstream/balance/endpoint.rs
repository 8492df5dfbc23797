//! What is known of one endpoint.

use super::endpoints::Number;
use crate::config::Breaker;
use crate::discovery::Member;
use crate::upstream::http2::Lanes;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What an endpoint counts as that has a request and has not yet answered any: others are not sent after it.
const UNKNOWN: Duration = Duration::from_secs(1);
/// For so long a slow response weighs on its endpoint: after this the memory of it has faded to a third.
const MEMORY: Duration = Duration::from_secs(10);
/// What an endpoint begins with of its share: less would not tell whether it is well.
const LEAST_SHARE: f64 = 0.1;
/// How often the first rest goes into the longest.
const LONGEST_REST: u32 = 30;

/// An endpoint of a service, and how it has taken its requests.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) number: Number,
    pub(super) member: Member,
    pub(super) lanes: Arc<Lanes>,
    pub(super) in_hand: u32,
    /// Those of them that have no answer yet.
    pub(super) pending: usize,
    /// Response time in seconds: at once up to a peak, slowly down from it.
    cost: f64,
    measured: Option<Instant>,
    /// In a row.
    pub(super) failures: u32,
    pub(super) standing: Standing,
    /// How long it was out the last time, and since when it has been back.
    last_out: Duration,
    back_since: Option<Instant>,
    /// Since when its share grows. None: it has all of it.
    grows_since: Option<Instant>,
}

/// Whether an endpoint gets requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    In,
    Out {
        until: Instant,
    },
    /// Out, but for the one request that finds out how it is.
    Probed {
        since: Instant,
    },
}

impl Endpoint {
    pub(super) fn new(
        number: Number,
        member: Member,
        lanes: Arc<Lanes>,
        grows_since: Option<Instant>,
    ) -> Self {
        Self {
            number,
            member,
            lanes,
            in_hand: 0,
            pending: 0,
            cost: 0.0,
            measured: None,
            failures: 0,
            standing: Standing::In,
            last_out: Duration::ZERO,
            back_since: None,
            grows_since,
        }
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.standing != Standing::In
    }

    /// How long a request would take here, in seconds, were it to wait for those before it.
    pub(super) fn load(&self, now: Instant) -> f64 {
        let cost = match self.measured {
            None if self.in_hand > 0 => UNKNOWN.as_secs_f64(),
            None => 0.0,
            Some(at) => self.cost * fade(at, now),
        };
        cost * f64::from(self.in_hand + 1) / f64::from(self.member.weight)
    }

    pub(super) fn observe(&mut self, time: Duration, now: Instant) {
        let time = time.as_secs_f64();
        let kept = self.measured.map_or(0.0, |at| fade(at, now));
        self.cost = if time > self.cost {
            time
        } else {
            self.cost * kept + time * (1.0 - kept)
        };
        self.measured = Some(now);
    }

    /// The part of an endpoint's share that it gets, which grows over `slow_start`.
    pub(super) fn share(&self, slow_start: Option<Duration>, now: Instant) -> f64 {
        let (Some(since), Some(over)) = (self.grows_since, slow_start) else {
            return 1.0;
        };
        let grown = now.saturating_duration_since(since).as_secs_f64() / over.as_secs_f64();
        grown.clamp(LEAST_SHARE, 1.0)
    }

    /// It is well, and gets more of its requests again with time. How slow it was to fail is forgotten.
    pub(super) fn come_back(&mut self, time: Duration, now: Instant) {
        (self.cost, self.measured) = (time.as_secs_f64(), Some(now));
        self.standing = Standing::In;
        self.back_since = Some(now);
        self.grows_since = Some(now);
    }

    pub(super) fn eject(&mut self, breaker: Breaker, is_alone: bool, now: Instant) {
        let (first, most) = match is_alone {
            // Nobody else serves meanwhile.
            true => (breaker.rest / 10, breaker.rest),
            false => (breaker.rest, breaker.rest * LONGEST_REST),
        };
        // Once it has been well for as long as it was out, its past is forgotten.
        let is_forgotten = self
            .back_since
            .is_none_or(|since| now.saturating_duration_since(since) >= self.last_out);
        self.last_out = if self.standing == Standing::In && is_forgotten {
            first
        } else {
            (self.last_out * 2).clamp(first, most)
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
