//! Whether a request that got no answer may be sent again, and how often that happens.
//!
//! Twice at most, and only what cannot be done twice by it: a request that the server says it has not looked at (RFC 9113
//! sections 6.8 and 8.7), or once one that may be repeated (RFC 9110 section 9.2.2) and whose connection was lost, or the time
//! for an attempt over, before any of its response. All that goes to a service has one budget, so that retries never multiply a load that it cannot bear.

use crate::body::Broken;
use crate::error::Failure;
use crate::metrics::{Direction, Metrics};
use crate::upstream::random::Random;
use h2::Reason;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Retries of one request.
const MOST: u32 = 2;
/// Waited before all but the first: whoever failed together does not come back together.
const SHORTEST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Requests that pay for one retry: 20 %.
const PRICE: u32 = 5;
/// Retries that may be made before any request has paid for them, so that a service with few requests has some.
const AT_FIRST: u32 = 3;
/// Retries that quiet times pay for; as many requests may be in flight on a connection that ends.
const MOST_SAVED: u32 = 100;

/// What the requests to one service have saved for retries. It belongs to one worker.
#[derive(Debug)]
pub(crate) struct Budget {
    saved: AtomicU32,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Self {
            saved: AtomicU32::new(AT_FIRST * PRICE),
        }
    }

    fn earn(&self) {
        // Nobody else writes it: a worker is one thread.
        let saved = self.saved.load(Ordering::Relaxed);
        if saved < MOST_SAVED * PRICE {
            self.saved.store(saved + 1, Ordering::Relaxed);
        }
    }

    fn spend(&self) -> bool {
        let saved = self.saved.load(Ordering::Relaxed);
        let left = saved.checked_sub(PRICE);
        self.saved.store(left.unwrap_or(saved), Ordering::Relaxed);
        left.is_some()
    }
}

/// The retries of one request.
#[derive(Debug)]
pub(crate) struct Retries<'b> {
    budget: &'b Budget,
    metrics: &'b Metrics,
    direction: Direction,
    made: u32,
    /// Whether what came of the last one is not yet known.
    is_pending: bool,
    /// Whether it was sent again although the server may have seen it.
    is_repeated: bool,
}

impl<'b> Retries<'b> {
    pub(crate) fn begin(budget: &'b Budget, metrics: &'b Metrics, direction: Direction) -> Self {
        budget.earn();
        Self {
            budget,
            metrics,
            direction,
            made: 0,
            is_pending: false,
            is_repeated: false,
        }
    }

    /// Whether to send the request again after `failure`, once this returns. `is_repeatable` says that the server may see
    /// it twice; `until` is when nobody waits for an answer any more.
    pub(crate) async fn again(
        &mut self,
        failure: &Failure,
        is_repeatable: bool,
        until: Instant,
    ) -> bool {
        self.settle("failed");
        let may_repeat = is_repeatable && !self.is_repeated;
        let is_allowed = match Fate::of(failure) {
            Fate::Unprocessed => true,
            Fate::Lost => may_repeat,
            Fate::Settled => false,
        };
        let pause = match self.made {
            0 => Duration::ZERO,
            _ => Random::new().between(SHORTEST_PAUSE, LONGEST_PAUSE),
        };
        if !is_allowed || self.made == MOST || Instant::now() + pause >= until {
            return false;
        }
        if !self.budget.spend() {
            self.metrics.retry(self.direction, "budget_exhausted");
            return false;
        }
        self.is_repeated |= Fate::of(failure) == Fate::Lost;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        self.made += 1;
        self.is_pending = true;
        true
    }

    /// The request was answered.
    pub(crate) fn answered(&mut self) {
        self.settle("answered");
    }

    fn settle(&mut self, outcome: &'static str) {
        if std::mem::take(&mut self.is_pending) {
            self.metrics.retry(self.direction, outcome);
        }
    }
}

impl Drop for Retries<'_> {
    fn drop(&mut self) {
        self.settle("failed");
    }
}

/// What became of a request that got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The server says that it has done nothing with it.
    Unprocessed,
    /// The connection is gone, or an answer does not come; the server may have seen it or not.
    Lost,
    /// Whatever it was, it would be the same again.
    Settled,
}

impl Fate {
    fn of(failure: &Failure) -> Self {
        match failure {
            Failure::NoResponse(Broken::Http2(error)) if error.is_io() => Self::Lost,
            Failure::NoResponse(Broken::Http2(error)) if is_unprocessed(error) => Self::Unprocessed,
            Failure::NoResponse(Broken::Io(_) | Broken::Closed) => Self::Lost,
            Failure::TryTimeout(_) => Self::Lost,
            _ => Self::Settled,
        }
    }
}

/// A server's GOAWAY fails only the streams above the last that it names: those it has not looked at. All others go on,
/// and fail with the connection if it ends before them.
fn is_unprocessed(error: &h2::Error) -> bool {
    let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (error.is_go_away() || is_refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn lost() -> Failure {
        Failure::NoResponse(Broken::Io(io::ErrorKind::ConnectionReset.into()))
    }

    #[test]
    fn retries_are_never_more_than_a_fifth_of_the_requests_and_three() {
        let budget = Budget::new();
        let mut retries = 0;
        for request in 1..=10_000 {
            budget.earn();
            // Quiet for a while, then everything fails as often as it is asked.
            while request > 1_000 && budget.spend() {
                retries += 1;
            }
            assert!(
                retries <= AT_FIRST + request / PRICE,
                "{retries} of {request}"
            );
        }
        assert!(retries > 9_000 / PRICE, "only {retries}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_request_is_repeated_once_and_only_if_it_may_be() {
        let (budget, metrics) = (Budget::new(), Metrics::new());
        let begin = || Retries::begin(&budget, &metrics, Direction::Outbound);
        let until = Instant::now() + Duration::from_secs(60);
        assert!(!begin().again(&lost(), false, until).await);
        assert!(!begin().again(&lost(), true, Instant::now()).await);
        let mut retries = begin();
        assert!(retries.again(&lost(), true, until).await);
        assert!(!retries.again(&lost(), true, until).await);
        let timeout = Failure::ResponseTimeout(Duration::ZERO);
        assert!(!begin().again(&timeout, true, until).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_budget_ends_retries() {
        let (budget, metrics) = (Budget::new(), Metrics::new());
        let (mut made, until) = (0, Instant::now() + Duration::from_secs(60));
        for _ in 0..10 {
            let mut retries = Retries::begin(&budget, &metrics, Direction::Outbound);
            made += u32::from(retries.again(&lost(), true, until).await);
        }
        // What ten requests have earned, and what was there.
        assert_eq!(made, AT_FIRST + 10 / PRICE);
    }
}
