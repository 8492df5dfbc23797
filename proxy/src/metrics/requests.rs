//! What becomes of requests.

use super::{
    CountBy, Decision, Declare, Direction, Labels, Metrics, PerDecision, PerDirection, count,
    per_direction,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use std::time::Duration;

/// Upper bounds in seconds. Few, since each is a line per direction: from the proxy's own cost to its timeouts.
const DURATION_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

#[derive(Debug)]
pub(super) struct Requests {
    ended: PerDirection<PerDecision<[Counter; STATUS_CLASSES.len()]>>,
    durations: PerDirection<Histogram>,
    received: PerDirection<Counter>,
    sent: PerDirection<Counter>,
    refusals: CountBy<3>,
    upstream_failures: CountBy<2>,
    retries: CountBy<2>,
}

impl Requests {
    pub(super) fn declare(all: &mut Declare) -> Self {
        let requests: CountBy<3> = all.family("requests", "Requests that have ended");
        let durations: Family<Labels<1>, Histogram, fn() -> Histogram> = all.declare(
            "request_duration_seconds",
            "From the request head to the end of the response, in seconds",
            Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS)),
        );
        let received: CountBy<1> = all.family("received_bytes", "Bodies from callers");
        let sent: CountBy<1> = all.family("sent_bytes", "Bodies to callers");
        let refusals = all.family("refusals", "Requests not let through, by reason");
        let upstream_failures = all.family(
            "upstream_failures",
            "Requests let through that got no answer, by reason",
        );
        let retries = all.family(
            "retries",
            "Requests that were, or should have been, sent again, by what came of it",
        );
        Self {
            ended: Direction::ALL.map(|direction| {
                Decision::ALL.map(|decision| {
                    STATUS_CLASSES.map(|status| {
                        requests.get_or_create_owned(&[
                            ("direction", direction.as_str()),
                            ("decision", decision.as_str()),
                            ("status", status),
                        ])
                    })
                })
            }),
            durations: per_direction(&durations),
            received: per_direction(&received),
            sent: per_direction(&sent),
            refusals,
            upstream_failures,
            retries,
        }
    }
}

impl Metrics {
    /// Counts a request that has ended; [`crate::access_log::Record::finish`] is its one caller.
    pub(crate) fn request(
        &self,
        direction: Direction,
        decision: Decision,
        status: u16,
        duration: Duration,
    ) {
        // A connection that ended before a status is the caller's own doing, hence with the 4xx.
        let class = match status / 100 {
            class @ 1..=5 => usize::from(class) - 1,
            _ => 3,
        };
        self.requests.ended[direction as usize][decision as usize][class].inc();
        self.requests.durations[direction as usize].observe(duration.as_secs_f64());
    }

    pub(crate) fn bodies(&self, direction: Direction, received: u64, sent: u64) {
        self.requests.received[direction as usize].inc_by(received);
        self.requests.sent[direction as usize].inc_by(sent);
    }

    /// `reason` of a request that was not let through.
    pub(crate) fn refusal(&self, direction: Direction, decision: Decision, reason: &'static str) {
        self.requests
            .refusals
            .get_or_create(&[
                ("direction", direction.as_str()),
                ("decision", decision.as_str()),
                ("reason", reason),
            ])
            .inc();
    }

    /// `reason` of a request that was let through and got no answer.
    pub(crate) fn upstream_failure(&self, direction: Direction, reason: &'static str) {
        count(&self.requests.upstream_failures, direction, reason);
    }

    /// What came of sending a request again.
    pub(crate) fn retry(&self, direction: Direction, outcome: &'static str) {
        self.requests
            .retries
            .get_or_create(&[("direction", direction.as_str()), ("outcome", outcome)])
            .inc();
    }
}
