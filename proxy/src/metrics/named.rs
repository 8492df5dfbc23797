//! Families whose labels others chose. Each is capped.

use super::capped::Capped;
use super::{Decision, Declare, Metrics, PerDecision};
use identity::SpiffeId;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// Callers with series of their own. An ID may have 2048 bytes, so 256 of them in four decisions are 2.1 MiB of text:
/// below the 4 MiB that `/metrics` may have.
pub const MAX_CALLERS: usize = 256;
/// Limits with a series of their own.
pub const MAX_LIMITS: usize = 256;
/// Sources of endpoints whose failures have a series of their own.
pub const MAX_SOURCES: usize = 256;
/// Refused destinations with a series of their own.
pub const MAX_DESTINATIONS: usize = 256;

#[derive(Debug)]
pub(super) struct Named {
    callers: Capped<Caller>,
    limits: Capped<Counter>,
    destinations: Capped<Counter>,
    discovery_failures: Capped<Counter>,
}

impl Named {
    pub(super) fn declare(all: &mut Declare) -> Self {
        let callers: Family<[(&'static str, String); 2], Counter> = all.family(
            "caller_requests",
            "Inbound requests by caller; those past the cap as `other`",
        );
        let limits: Family<[(&'static str, String); 1], Counter> = all.family(
            "limit_refusals",
            "Requests refused by limit; those past the cap as `other`",
        );

        let destinations: Family<[(&'static str, String); 1], Counter> = all.family(
            "refused_destinations",
            "Requests and connections of the workload to what no service names, by destination; those past the cap as `other`",
        );

        let discovery_failures: Family<[(&'static str, String); 1], Counter> = all.family(
            "discovery_failures",
            "Attempts to find endpoints that failed, by what the configuration says of them; those past the cap as `other`",
        );

        Self {
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
            destinations: Capped::new(MAX_DESTINATIONS, move |destination| {
                destinations.get_or_create_owned(&[("destination", destination.to_owned())])
            }),
            discovery_failures: Capped::new(MAX_SOURCES, move |source| {
                discovery_failures.get_or_create_owned(&[("source", source.to_owned())])
            }),
        }
    }
}

impl Metrics {
    /// The counters of one caller: look them up once per connection and keep them with it.
    pub fn caller(&self, id: &SpiffeId) -> Caller {
        self.named.callers.of(id.as_str())
    }

    /// Counts a refusal by the limit with this name.
    pub fn limit_refusal(&self, limit: &str) {
        self.named.limits.of(limit).inc();
    }

    /// Counts what the workload wanted of a host, or an address and port, that no service names.
    pub(crate) fn destination_refused(&self, destination: &str) {
        self.named.destinations.of(destination).inc();
    }

    /// Counts an attempt to find endpoints that failed.
    pub(crate) fn discovery_failed(&self, source: &str) {
        self.named.discovery_failures.of(source).inc();
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
