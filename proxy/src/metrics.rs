//! Every metric of the proxy: name, help, unit, labels.
//!
//! Labels are closed sets: enums, or `&'static str` (a text of the program can be one, a text of a peer cannot). The two
//! families that name what others chose, callers, limits and destinations, are capped; whoever comes after the cap counts as `other`.
//! Series of the request path are resolved before the first request, so counting one is an atomic add.

mod requests;

mod connections;

mod named;

mod standing;

mod capped;

mod label;

use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

use crate::IdentityFeed;
use crate::admin::PolicyStatus;
use crate::plaintext::Listeners;
use connections::Connections;
use named::Named;
use requests::Requests;

pub use capped::OTHER;
pub use connections::OpenConnection;
pub use label::{Decision, Direction};
pub use named::{Caller, MAX_CALLERS, MAX_DESTINATIONS, MAX_LIMITS, MAX_SOURCES};
pub(crate) use standing::Standing;

type PerDirection<M> = [M; Direction::ALL.len()];
type PerDecision<M> = [M; Decision::ALL.len()];
type Labels<const N: usize> = [(&'static str, &'static str); N];
type CountBy<const N: usize> = Family<Labels<N>, Counter>;

/// All metrics of one proxy, shared by its workers.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Requests,
    pub(crate) endpoints_ejected: Gauge,
    endpoints: Family<[(&'static str, String); 1], Gauge>,
    connections: Connections,
    named: Named,
    pub(crate) plaintext: Listeners,
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

        let requests = Requests::declare(&mut all);
        let connections = Connections::declare(&mut all);
        let named = Named::declare(&mut all);
        Arc::new(Self {
            requests,
            connections,
            named,
            plaintext: plaintext(&mut all),
            endpoints_ejected: all.family(
                "ejected_endpoints",
                "Endpoints of services that get no requests for having failed, counted by each worker",
            ),
            endpoints: all.family(
                "discovered_endpoints",
                "Endpoints of a service that are known, in use or not",
            ),
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

    /// How many endpoints each service has now.
    pub(crate) fn endpoints(&self, services: impl Iterator<Item = (String, usize)>) {
        // Only those of the present configuration, or every reload would leave series behind.
        self.endpoints.clear();
        for (service, count) in services {
            let series = self.endpoints.get_or_create(&[("service", service)]);
            series.set(count as i64);
        }
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

fn plaintext(all: &mut Declare) -> Listeners {
    Listeners::new(
        all.family(
            "plaintext_connections",
            "Connections in plain text that a permissive listener took, by listener",
        ),
        all.family(
            "plaintext_granted",
            "Requests and opaque connections in plain text that a grant covers, by listener",
        ),
    )
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
