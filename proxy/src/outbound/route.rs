//! One service: its endpoints, which of them is next, and what it may cost to ask again.

use crate::config::{Config, Destination, Service};
use crate::error::{ConnectError, Failure, Fault};
use crate::h1::head::Framing;
use crate::respond::GRPC_STATUS;
use crate::tls::{Connector, Wanted};
use crate::upstream::balance::{Balance, Turn};
use crate::upstream::http2::{Lanes, Ready, Remote, keep_fresh};
use crate::upstream::retry::Budget;
use crate::upstream::{Deadlines, Upstream};
use crate::worker::Shared;
use http::request::Parts;
use http::{StatusCode, response};
use identity::SpiffeId;
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::Duration;

/// Of gRPC: that nobody could answer, as in google/rpc/code.proto.
const UNAVAILABLE: &str = "14";
/// The longest that a request waits for a connection to an endpoint that has failed time after time.
const PROBE: Duration = Duration::from_secs(1);

/// Where the requests for one service go.
#[derive(Debug)]
pub(crate) struct Route {
    /// Never empty.
    endpoints: Vec<Arc<Lanes>>,
    balance: Arc<Balance>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) timeout: Duration,
}

impl Route {
    /// Connections to endpoints that `previous` has, too, are kept, and with all endpoints what is known of them.
    pub(super) fn new<'p>(
        service: &Service,
        shared: &Arc<Shared>,
        previous: impl Iterator<Item = &'p Arc<Self>> + Clone,
        config: &Config,
    ) -> Self {
        let endpoints = service.endpoints.iter().map(|endpoint| {
            let destination = Destination::from(endpoint.clone());
            let mut lanes = previous.clone().flat_map(|route| &route.endpoints);
            let kept = lanes.find(|lanes| lanes.leads_to(&destination, &service.identity));
            let kept = kept.cloned();
            kept.unwrap_or_else(|| connections(destination, &service.identity, shared, config))
        });
        let endpoints: Vec<_> = endpoints.collect();
        let same = previous.into_iter().find(|route| {
            let both = route.endpoints.iter().zip(&endpoints);
            route.endpoints.len() == endpoints.len()
                && both.into_iter().all(|(a, b)| Arc::ptr_eq(a, b))
        });
        let (balance, budget) = match same {
            Some(route) => (Arc::clone(&route.balance), Arc::clone(&route.budget)),
            None => {
                let ejected = shared.metrics.endpoints_ejected.clone();
                let balance = Balance::new(endpoints.len(), ejected);
                (Arc::new(balance), Arc::new(Budget::new()))
            }
        };
        Self {
            endpoints,
            balance,
            budget,
            timeout: service.timeout,
        }
    }

    /// A connection to the best endpoint that can be reached. One that has `failed` before is asked if there is no other.
    pub(crate) async fn attempt(
        &self,
        failed: Option<usize>,
        limit: Duration,
    ) -> Result<(Attempt<'_>, Ready), ConnectError> {
        let mut tried: SmallVec<[usize; 4]> = failed.into_iter().collect();
        if tried.len() == self.endpoints.len() {
            tried.clear();
        }
        let mut failure = ConnectError::Unstable;
        while let Some(mut turn) = self.balance.pick(&tried) {
            let lanes = &self.endpoints[turn.endpoint()];
            let limit = if turn.is_probe() {
                limit.min(PROBE)
            } else {
                limit
            };
            match lanes.ready(limit).await {
                Ok(ready) => return Ok((Attempt { turn, lanes }, ready)),
                // No endpoint's fault, nor another with any other.
                Err(error @ (ConnectError::NoIdentity | ConnectError::IdentityExpired)) => {
                    return Err(error);
                }
                Err(error) => {
                    turn.failed();
                    tried.push(turn.endpoint());
                    failure = error;
                }
            }
        }
        Err(failure)
    }
}

/// A place for one request at one endpoint.
#[derive(Debug)]
pub(crate) struct Attempt<'r> {
    turn: Turn<'r>,
    pub(crate) lanes: &'r Arc<Lanes>,
}

impl Attempt<'_> {
    pub(crate) fn endpoint(&self) -> usize {
        self.turn.endpoint()
    }

    /// Sends a request head on `ready`. `body` says how the rest will come.
    pub(crate) async fn send(
        &mut self,
        ready: Ready,
        head: &mut Parts,
        body: Framing,
        deadlines: Deadlines,
    ) -> Result<Upstream, Failure> {
        let sent = self.lanes.send(ready, head, body, deadlines).await;
        sent.inspect_err(|failure| self.failed(failure))
    }

    /// No response has begun. What is not the endpoint's fault says nothing about it.
    pub(crate) fn failed(&mut self, failure: &Failure) {
        if failure.fault() == Fault::Upstream {
            self.turn.failed();
        }
    }

    /// The response has begun. One that only says that nobody could answer is a failure of the endpoint.
    pub(crate) fn answered(&mut self, response: &response::Parts) {
        let is_failure = match response.status {
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => true,
            // How a gRPC call is told so.
            StatusCode::OK => {
                let status = response.headers.get(GRPC_STATUS);
                status.is_some_and(|status| status == UNAVAILABLE)
            }
            _ => false,
        };
        if is_failure {
            self.turn.failed();
        } else {
            self.turn.answered();
        }
    }
}

fn connections(
    destination: Destination,
    identity: &SpiffeId,
    shared: &Arc<Shared>,
    config: &Config,
) -> Arc<Lanes> {
    let connector = |wanted| {
        let live = Arc::clone(&shared.identity);
        Connector::new(identity.clone(), wanted, live)
    };
    let remote = Remote::Sidecar {
        connector: connector(Wanted::Http),
        prover: connector(Wanted::Proof),
        metrics: Arc::clone(&shared.metrics),
    };
    let lanes = Lanes::new(destination, remote);
    tokio::spawn(keep_fresh(
        Arc::downgrade(&lanes),
        Arc::clone(&shared.identity),
        config.timeouts.upstream_connect,
    ));
    lanes
}
