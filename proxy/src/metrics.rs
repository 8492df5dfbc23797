//! Every metric of the proxy: name, help, unit, labels.
//!
//! Labels are closed sets: enums, or `&'static str` (a text of the program can be one, a text of a peer cannot). The two
//! series that name what others chose, callers and limits, are capped; whoever comes after the cap is counted as `other`.
//! Series of the request path are resolved before the first request, so counting one is an atomic add.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use identity::{Svid, TrustBundle};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Callers with series of their own. An ID may have 2048 bytes; 256 of them in five decisions are 2.6 MiB of text, below
/// the 4 MiB that `/metrics` may have.
pub const MAX_CALLERS: usize = 256;
/// Limits with a series of their own.
pub const MAX_LIMITS: usize = 256;
/// What is counted under this name came after the cap.
pub const OTHER: &str = "other";

/// Upper bounds in seconds. Few, since each is a line per direction: from well below the proxy's own cost to the timeouts.
const DURATION_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// Which way a request goes, seen from the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    const ALL: [Self; 2] = [Self::Inbound, Self::Outbound];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What was decided about a request. An allowed request may still fail on its way; its status and reason say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    Allow,
    /// No grant names it, a guard forbids it, or no service names its destination (403).
    Deny,
    /// It is ambiguous or malformed (400 and kin); policy was not asked.
    Reject,
    /// It was granted, over a limit (429).
    Limit,
}

impl Decision {
    const ALL: [Self; 4] = [Self::Allow, Self::Deny, Self::Reject, Self::Limit];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Reject => "reject",
            Self::Limit => "limit",
        }
    }
}

const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// All metrics of one proxy, shared by its workers.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: [[[Counter; STATUS_CLASSES.len()]; Decision::ALL.len()]; Direction::ALL.len()],
    durations: [Histogram; Direction::ALL.len()],
    received: [Counter; Direction::ALL.len()],
    sent: [Counter; Direction::ALL.len()],
    refusals: Family<Labels<3>, Counter>,
    upstream_failures: Family<Labels<2>, Counter>,
    connections: [Gauge; Direction::ALL.len()],
    refused_connections: Family<Labels<2>, Counter>,
    handshakes: [Counter; Direction::ALL.len()],
    handshake_failures: Family<Labels<2>, Counter>,
    callers: Capped<[Counter; Decision::ALL.len()]>,
    limits: Capped<Counter>,
    identity_expiry: Gauge,
    identity_remaining: Gauge<f64, AtomicU64>,
    identity_changes: Counter,
    renewal_failing: Gauge,
    bundle_sequence: Gauge,
    policy_reloads: Counter,
    policy_reload_failures: Counter,
    policy_generation: Family<Vec<(&'static str, String)>, Gauge>,
    policy_loaded: Gauge,
    access_log_dropped: Counter,
    access_log_suppressed: Counter,
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        todo!()
    }

    /// Counts a request that has ended. [`crate::access_log::Record::finish`] calls it; nothing else should.
    pub(crate) fn request(
        &self,
        direction: Direction,
        decision: Decision,
        status: u16,
        duration: Duration,
    ) {
        todo!()
    }

    /// The counters of one caller, to be looked up once per connection and kept with it.
    pub fn caller(&self, id: &SpiffeId) -> Caller {
        todo!()
    }

    /// Counts a refusal by the limit with this name.
    pub fn limit_refusal(&self, limit: &str) {
        todo!()
    }

    /// Counts an open connection until the guard is dropped.
    #[must_use = "the connection is counted only while the guard lives"]
    pub fn connection(&self, direction: Direction) -> OpenConnection {
        todo!()
    }

    /// Counts a connection that was closed before its first byte was read: over the cap, or not from the workload.
    pub fn connection_refused(&self, direction: Direction, reason: &'static str) {
        todo!()
    }

    /// Counts a TLS handshake that succeeded.
    pub fn handshake(&self, direction: Direction) {
        todo!()
    }

    /// Counts a TLS handshake that failed.
    pub fn handshake_failure(&self, direction: Direction, reason: &'static str) {
        todo!()
    }

    /// Publishes the policy that serves from now on.
    pub fn policy_loaded(&self, generation: &str, at: SystemTime) {
        todo!()
    }

    /// Counts a policy or configuration that was refused at reload; the one before goes on serving.
    pub fn policy_reload_failed(&self) {
        todo!()
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> String {
        todo!()
    }
}

/// The counters of one caller. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller([Counter; Decision::ALL.len()]);

/// An open connection, counted until dropped.
#[derive(Debug)]
pub struct OpenConnection(Gauge);
