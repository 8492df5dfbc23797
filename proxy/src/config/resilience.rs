//! How the endpoints of a service are used: how long one is waited for, how much it is given, and when it is left alone.

use std::time::Duration;

use http::HeaderName;
use serde::{Serialize, Serializer};

/// A cold cache or a JIT has seen enough requests by then to be as quick as it will be.
const SLOW_START: Duration = Duration::from_secs(10);
/// What Envoy allows, too. It matters for endpoints that speak HTTP/1.1 alone: a connection of HTTP/2 carries hundreds.
const ENDPOINT_CONNECTIONS: usize = 1024;
/// At a thousand requests a second four seconds without an answer; about 40 MiB of requests that wait.
const MAX_PENDING: usize = 4096;
/// A bad moment is over before five requests have failed without one that did not.
const FAILURES: u32 = 5;
/// A process that was restarted is mostly back by then.
const REST: Duration = Duration::from_secs(10);

/// What is asked of a service's endpoints. The defaults suit any service. Each worker counts for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resilience {
    /// How long one attempt may take, from the choice of an endpoint to the response head, where another may follow: of a
    /// request that may be repeated. None: as long as the request itself.
    #[serde(serialize_with = "or_off")]
    pub try_timeout: Option<Duration>,
    /// Over which an endpoint that is new or was left alone comes to its share of the requests. None: it has it at once.
    #[serde(serialize_with = "or_off")]
    pub slow_start: Option<Duration>,
    /// Connections to one endpoint.
    pub max_connections: usize,
    /// Requests at one endpoint whose response has not begun.
    pub max_pending: usize,
    /// None: no endpoint is left alone.
    pub breaker: Option<Breaker>,
    /// What requests have in common that are to go to the same endpoint. None: each goes where it is answered soonest.
    #[serde(serialize_with = "key_or_off")]
    pub hash: Option<HashKey>,
}

/// What is looked at in a request. One that does not have it goes where it is answered soonest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HashKey {
    /// The first field of this name.
    Header(#[serde(serialize_with = "super::as_text")] HeaderName),
    /// The first cookie of this name.
    Cookie(String),
    /// The path without its query.
    Path,
    /// That of this sidecar: all that workloads of one identity ask, wherever they run.
    Identity,
}

/// When an endpoint gets no requests for having failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Breaker {
    /// In a row.
    pub failures: u32,
    /// The first time; twice as long each time after that, up to thirty times as long. An endpoint without others is left
    /// alone for a tenth of that, and up to this.
    #[serde(serialize_with = "super::as_duration")]
    pub rest: Duration,
}

impl Default for Resilience {
    fn default() -> Self {
        Self {
            try_timeout: None,
            slow_start: Some(SLOW_START),
            max_connections: ENDPOINT_CONNECTIONS,
            max_pending: MAX_PENDING,
            breaker: Some(Breaker::default()),
            hash: None,
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: FAILURES,
            rest: REST,
        }
    }
}

fn or_off<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => super::as_duration(value, serializer),
        None => serializer.serialize_str("off"),
    }
}

fn key_or_off<S: Serializer>(key: &Option<HashKey>, serializer: S) -> Result<S::Ok, S::Error> {
    match key {
        Some(key) => key.serialize(serializer),
        None => serializer.serialize_str("off"),
    }
}
