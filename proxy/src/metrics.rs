//! Every metric of the proxy: name, help, unit, labels.
//!
//! Labels are closed sets: enums, or `&'static str` (a text of the program can be one, a text of a peer cannot). The two
//! families that name what others chose, callers, limits and destinations, are capped; whoever comes after the cap counts as `other`.
//! Series of the request path are resolved before the first request, so counting one is an atomic add.

mod capped;
mod label;
mod standing;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::SpiffeId;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::IdentityFeed;
use crate::admin::PolicyStatus;
use crate::plaintext::Listeners;
use capped::Capped;

pub use capped::OTHER;
pub use label::{Decision, Direction};
pub(crate) use standing::Standing;

/// Callers with series of their own. An ID may have 2048 bytes, so 256 of them in four decisions are 2.1 MiB of text:
/// below the 4 MiB that `/metrics` may have.
pub const MAX_CALLERS: usize = 256;
/// Limits with a series of their own.
pub const MAX_LIMITS: usize = 256;
/// Sources of endpoints whose failures have a series of their own.
pub const MAX_SOURCES: usize = 256;
/// Refused destinations with a series of their own.
pub const MAX_DESTINATIONS: usize = 256;

/// Upper bounds in seconds. Few, since each is a line per direction: from the proxy's own cost to its timeouts.
const DURATION_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

type PerDirection<M> = [M; Direction::ALL.len()];
type PerDecision<M> = [M; Decision::ALL.len()];
type Labels<const N: usize> = [(&'static str, &'static str); N];
type CountBy<const N: usize> = Family<Labels<N>, Counter>;

/// All metrics of one proxy, shared by its workers.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: PerDirection<PerDecision<[Counter; STATUS_CLASSES.len()]>>,
    durations: PerDirection<Histogram>,
    received: PerDirection<Counter>,
    sent: PerDirection<Counter>,
    refusals: CountBy<3>,
    upstream_failures: CountBy<2>,
    retries: CountBy<2>,
    pub(crate) endpoints_ejected: Gauge,
    endpoints: Family<[(&'static str, String); 1], Gauge>,
    discovery_failures: Capped<Counter>,
    connections: PerDirection<Gauge>,
    connections_refused: CountBy<2>,
    connections_ended: CountBy<2>,
    upstreams_ended: CountBy<2>,
    handshakes: PerDirection<Counter>,
    handshake_failures: CountBy<2>,
    callers: Capped<Caller>,
    limits: Capped<Counter>,
    pub(crate) plaintext: Listeners,
    destinations: Capped<Counter>,
    pub(crate) standing: Standing,
    reloads: Counter,
    reload_failures: Counter,
    pub(crate) memory_used: Gauge,
    pub(crate) memory_limit: Gauge,
    pub(crate) overload_level: Gauge,
    pub(crate) access_log_dropped: Counter,
    pub(crate) access_log_suppressed: Counter,
}

impl Metrics {
    /// Declares everything. This is the list of metrics.
    pub fn new() -> Arc<Self> {
        let mut all = Declare(Registry::with_prefix("tipstaff"));

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

        let connections: Family<Labels<1>, Gauge> = all.family(
            "open_connections",
            "Connections accepted and not yet closed",
        );
        let connections_refused = all.family(
            "refused_connections",
            "Connections closed before their first byte was read, by reason",
        );
        let connections_ended = all.family(
            "ended_connections",
            "Connections of callers that ended before their time, by reason",
        );
        let upstreams_ended = all.family(
            "ended_upstream_connections",
            "HTTP/2 connections to apps and servers that ended before their time, by reason",
        );
        let handshakes: CountBy<1> = all.family("tls_handshakes", "TLS handshakes that succeeded");
        let handshake_failures = all.family(
            "tls_handshake_failures",
            "TLS handshakes that failed, by reason",
        );

        let callers: Family<[(&'static str, String); 2], Counter> = all.family(
            "caller_requests",
            "Inbound requests by caller; those past the cap as `other`",
        );
        let limits: Family<[(&'static str, String); 1], Counter> = all.family(
            "limit_refusals",
            "Requests refused by limit; those past the cap as `other`",
        );

        let plaintext = Listeners::new(
            all.family(
                "plaintext_connections",
                "Connections in plain text that a permissive listener took, by listener",
            ),
            all.family(
                "plaintext_granted",
                "Requests and opaque connections in plain text that a grant covers, by listener",
            ),
        );

        let destinations: Family<[(&'static str, String); 1], Counter> = all.family(
            "refused_destinations",
            "Requests and connections of the workload to what no service names, by destination; those past the cap as `other`",
        );

        let discovery_failures: Family<[(&'static str, String); 1], Counter> = all.family(
            "discovery_failures",
            "Attempts to find endpoints that failed, by what the configuration says of them; those past the cap as `other`",
        );

        Arc::new(Self {
            requests: Direction::ALL.map(|direction| {
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
            endpoints_ejected: all.family(
                "ejected_endpoints",
                "Endpoints of services that get no requests for having failed, counted by each worker",
            ),
            endpoints: all.family(
                "discovered_endpoints",
                "Endpoints of a service that are known, in use or not",
            ),
            discovery_failures: Capped::new(MAX_SOURCES, move |source| {
                discovery_failures.get_or_create_owned(&[("source", source.to_owned())])
            }),
            connections: per_direction(&connections),
            connections_refused,
            connections_ended,
            upstreams_ended,
            handshakes: per_direction(&handshakes),
            handshake_failures,
            callers: Capped::new(MAX_CALLERS, move |caller| {
                Caller(Decision::ALL.map(|decision| {
                    callers.get_or_create_owned(&[
                        ("caller", caller.to_owned()),
                        ("decision", decision.as_str().to_owned()),
                    ])
                }))
            }),
            limits: Capped::new(MAX_LIMITS, move |limit| {
                limits.get_or_create_owned(&[("limit", limit.to_owned())])
            }),
            plaintext,
            destinations: Capped::new(MAX_DESTINATIONS, move |destination| {
                destinations.get_or_create_owned(&[("destination", destination.to_owned())])
            }),
            standing: Standing::declare(&mut all),
            reloads: all.family("reloads", "Reloads of configuration and policy that succeeded"),
            reload_failures: all.family(
                "reload_failures",
                "Reloads refused; what was there before goes on serving",
            ),
            memory_used: all.family(
                "memory_used_bytes",
                "Memory held against the limit; 0 where none is known",
            ),
            memory_limit: all.family(
                "memory_limit_bytes",
                "What may be used (sizes.maxMemory, or the cgroup's limit); 0 where none is known",
            ),
            overload_level: all.family(
                "overload_level",
                "What memory use keeps out: 0 nothing, 1 requests, 2 connections, too",
            ),
            access_log_dropped: all.family(
                "access_log_dropped_lines",
                "Lines lost because the writer fell behind or failed",
            ),
            access_log_suppressed: all.family(
                "access_log_suppressed_lines",
                "Lines of refusals left out under flood",
            ),
            registry: all.0,
        })
    }

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
        self.requests[direction as usize][decision as usize][class].inc();
        self.durations[direction as usize].observe(duration.as_secs_f64());
    }

    pub(crate) fn bodies(&self, direction: Direction, received: u64, sent: u64) {
        self.received[direction as usize].inc_by(received);
        self.sent[direction as usize].inc_by(sent);
    }

    /// `reason` of a request that was not let through.
    pub(crate) fn refusal(&self, direction: Direction, decision: Decision, reason: &'static str) {
        self.refusals
            .get_or_create(&[
                ("direction", direction.as_str()),
                ("decision", decision.as_str()),
                ("reason", reason),
            ])
            .inc();
    }

    /// `reason` of a request that was let through and got no answer.
    pub(crate) fn upstream_failure(&self, direction: Direction, reason: &'static str) {
        count(&self.upstream_failures, direction, reason);
    }

    /// What came of sending a request again.
    pub(crate) fn retry(&self, direction: Direction, outcome: &'static str) {
        self.retries
            .get_or_create(&[("direction", direction.as_str()), ("outcome", outcome)])
            .inc();
    }

    /// The counters of one caller: look them up once per connection and keep them with it.
    pub fn caller(&self, id: &SpiffeId) -> Caller {
        self.callers.of(id.as_str())
    }

    /// Counts a refusal by the limit with this name.
    pub fn limit_refusal(&self, limit: &str) {
        self.limits.of(limit).inc();
    }

    /// Counts what the workload wanted of a host, or an address and port, that no service names.
    pub(crate) fn destination_refused(&self, destination: &str) {
        self.destinations.of(destination).inc();
    }

    /// Counts an attempt to find endpoints that failed.
    pub(crate) fn discovery_failed(&self, source: &str) {
        self.discovery_failures.of(source).inc();
    }

    /// How many endpoints each service has now.
    pub(crate) fn endpoints(&self, services: impl Iterator<Item = (String, usize)>) {
        // Only those of the present configuration, or every reload would leave series behind.
        self.endpoints.clear();
        for (service, count) in services {
            let series = self.endpoints.get_or_create(&[("service", service)]);
            series.set(count as i64);
        }
    }

    /// Counts an open connection until the guard is dropped.
    #[must_use = "the connection is counted only while the guard lives"]
    pub fn connection(&self, direction: Direction) -> OpenConnection {
        let open = &self.connections[direction as usize];
        open.inc();
        OpenConnection(open.clone())
    }

    /// Counts a connection closed before its first byte was read: over the cap, or not from the workload.
    pub fn connection_refused(&self, direction: Direction, reason: &'static str) {
        count(&self.connections_refused, direction, reason);
    }

    /// Counts a connection that ended by what came on it.
    pub(crate) fn connection_ended(&self, direction: Direction, reason: &'static str) {
        count(&self.connections_ended, direction, reason);
    }

    /// The same of a connection that requests are sent on.
    pub(crate) fn upstream_ended(&self, direction: Direction, reason: &'static str) {
        count(&self.upstreams_ended, direction, reason);
    }

    /// Counts a TLS handshake that succeeded.
    pub fn handshake(&self, direction: Direction) {
        self.handshakes[direction as usize].inc();
    }

    /// Counts a TLS handshake that failed.
    pub fn handshake_failure(&self, direction: Direction, reason: &'static str) {
        count(&self.handshake_failures, direction, reason);
    }

    /// Counts a reload of configuration and policy that succeeded.
    pub fn reloaded(&self) {
        self.reloads.inc();
    }

    /// Counts a reload that was refused; what was there before goes on serving.
    pub fn reload_refused(&self) {
        self.reload_failures.inc();
    }

    /// All metrics as OpenMetrics text, with identity and policy as they are at `now`.
    pub(crate) fn encode(
        &self,
        feed: &IdentityFeed,
        policy: &PolicyStatus,
        now: SystemTime,
    ) -> String {
        self.standing.observe(feed, policy, now);
        let mut encoded = String::new();
        text::encode(&mut encoded, &self.registry).expect("a String takes every write");
        encoded
    }
}

/// The counters of one caller. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller(PerDecision<Counter>);

impl Caller {
    pub(crate) fn request(&self, decision: Decision) {
        self.0[decision as usize].inc();
    }
}

/// An open connection, counted until dropped.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Registers metrics and hands them back.
struct Declare(Registry);

impl Declare {
    fn family<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        self.declare(name, help, M::default())
    }

    fn declare<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }
}

fn per_direction<M: Clone, C>(family: &Family<Labels<1>, M, C>) -> PerDirection<M>
where
    C: prometheus_client::metrics::family::MetricConstructor<M>,
{
    Direction::ALL.map(|direction| family.get_or_create_owned(&[("direction", direction.as_str())]))
}

fn count(family: &CountBy<2>, direction: Direction, reason: &'static str) {
    family
        .get_or_create(&[("direction", direction.as_str()), ("reason", reason)])
        .inc();
}

#[cfg(test)]
mod tests;
