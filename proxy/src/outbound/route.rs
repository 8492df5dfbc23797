//! One service: its endpoints, which of them is next, and what it may cost to ask again.

mod endpoints;

use crate::config::{Endpoint, HashKey, Service};
use crate::error::{ConnectError, Failure, Fault};
use crate::h1::head::Framing;
use crate::respond::GRPC_STATUS;
use crate::upstream::balance::{Number, Turn};
use crate::upstream::http2::{Lanes, Ready};
use crate::upstream::retry::Budget;
use crate::upstream::{Deadlines, Upstream, Wait};
use crate::worker::Shared;
use endpoints::Endpoints;
use http::header::COOKIE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, response};
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Of gRPC: that nobody could answer, as in google/rpc/code.proto.
const UNAVAILABLE: &str = "14";
/// The longest that a request waits for a connection to an endpoint that has failed time after time.
const PROBE: Duration = Duration::from_secs(1);

/// Where the requests for one service go.
#[derive(Debug)]
pub(crate) struct Route {
    endpoints: Arc<Endpoints>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) timeout: Duration,
    pub(crate) try_timeout: Option<Duration>,
    hash: Option<HashKey>,
    /// What a server outside the mesh is to be called; none for sidecars.
    pub(crate) outside: Option<HeaderValue>,
}

impl Route {
    /// Where `previous` has a route with the same endpoints, what is known of them is kept; else the connections are.
    pub(super) fn new<'p>(
        service: &Service,
        shared: &Arc<Shared>,
        previous: impl Iterator<Item = &'p Arc<Self>> + Clone,
    ) -> Self {
        let same = previous
            .clone()
            .find(|route| route.endpoints.are_of(service));
        let (endpoints, budget) = match same {
            Some(route) => (Arc::clone(&route.endpoints), Arc::clone(&route.budget)),
            None => {
                let open = previous.flat_map(|route| route.endpoints.balance.lanes());
                let endpoints = Endpoints::new(service, shared, &open.collect::<Vec<_>>());
                (endpoints, Arc::new(Budget::new()))
            }
        };
        Self {
            endpoints,
            budget,
            timeout: service.timeout,
            try_timeout: service.resilience.try_timeout,
            hash: service.resilience.hash.clone(),
            outside: None,
        }
    }

    /// To a server outside the mesh that is called `host`.
    pub(super) fn outside(
        endpoints: impl IntoIterator<Item = (Endpoint, Arc<Lanes>)>,
        host: HeaderValue,
        timeout: Duration,
        shared: &Shared,
    ) -> Self {
        Self {
            endpoints: Endpoints::fixed(endpoints, shared),
            budget: Arc::new(Budget::new()),
            timeout,
            try_timeout: None,
            hash: None,
            outside: Some(host),
        }
    }

    pub(super) fn sweep(&self, limit: Duration) {
        let lanes = self.endpoints.balance.lanes();
        lanes.iter().for_each(|lanes| lanes.sweep(limit));
    }

    /// What the request has in common with those that go to the same endpoint.
    fn key<'h>(&self, head: &'h Parts) -> Option<&'h [u8]> {
        let key = match self.hash.as_ref()? {
            HashKey::Header(name) => head.headers.get(name)?.as_bytes(),
            HashKey::Cookie(name) => cookie(&head.headers, name)?,
            HashKey::Path => head.uri.path().as_bytes(),
        };
        (!key.is_empty()).then_some(key)
    }

    /// A connection to the best endpoint that can be reached. One that has `failed` before is asked if there is no other.
    pub(crate) async fn attempt(
        &self,
        failed: Option<Number>,
        wait: Wait,
        deadlines: Deadlines,
        head: &Parts,
    ) -> Result<(Attempt<'_>, Ready), Failure> {
        let balance = &self.endpoints.balance;
        let has_other = |number: &Number| balance.has_other(*number);
        let mut tried: SmallVec<[Number; 4]> = failed.into_iter().filter(has_other).collect();
        let mut failure = None;
        loop {
            let Some(mut turn) = balance.pick(&tried, self.key(head))? else {
                if let Some(failure) = failure {
                    return Err(Failure::from(failure));
                }
                // Boxed, as it is rare.
                Box::pin(self.endpoints.known(wait.limit())).await?;
                tried.clear();
                continue;
            };
            let connect = match turn.is_probe() {
                true => wait.connect.min(PROBE),
                false => wait.connect,
            };
            // Nor is all that is left of a request's time spent on one that may be gone, while there is another.
            let parts = match turn.has_other() {
                true => 2,
                false => 1,
            };
            let ends = deadlines.attempt.map(|limit| Instant::now() + limit);
            let one = Wait {
                connect,
                until: ends.map_or(wait.until, |ends| ends.min(wait.until)),
                parts,
            };
            match turn.lanes().ready(one).await {
                Ok(ready) => return Ok((Attempt { turn, ends }, ready)),
                // No endpoint's fault, nor another with any other.
                Err(error @ (ConnectError::NoIdentity | ConnectError::IdentityExpired)) => {
                    return Err(error.into());
                }
                Err(_) if deadlines.are_over() => {
                    turn.late();
                    return Err(Failure::DeadlineExceeded);
                }
                Err(error) => {
                    if !matches!(error, ConnectError::Full) {
                        turn.failed();
                    }
                    tried.push(turn.endpoint());
                    if wait.until <= Instant::now() {
                        return Err(error.into());
                    }
                    failure = Some(error);
                }
            }
        }
    }
}

/// The value of the first cookie of this name (RFC 6265 section 4.2.1). HTTP/2 may have a field for each (RFC 9113 section
/// 8.2.3).
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let fields = headers.get_all(COOKIE).into_iter();
    let mut pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let pair = pair.trim_ascii_start().strip_prefix(name.as_bytes())?;
        pair.strip_prefix(b"=")
    })
}

/// A place for one request at one endpoint.
#[derive(Debug)]
pub(crate) struct Attempt<'r> {
    turn: Turn<'r>,
    /// When another may follow.
    pub(crate) ends: Option<Instant>,
}

impl Attempt<'_> {
    pub(crate) fn endpoint(&self) -> Number {
        self.turn.endpoint()
    }

    pub(crate) fn lanes(&self) -> &Arc<Lanes> {
        self.turn.lanes()
    }

    /// Sends a request head on `ready`. `body` says how the rest will come.
    pub(crate) async fn send(
        &mut self,
        ready: Ready,
        head: &mut Parts,
        body: Framing,
        wait: Wait,
    ) -> Result<Upstream, Failure> {
        let sent = self.lanes().send(ready, head, body, wait).await;
        sent.inspect_err(|failure| self.failed(failure))
    }

    /// No response has begun. What is not the endpoint's fault says nothing about it.
    pub(crate) fn failed(&mut self, failure: &Failure) {
        match failure {
            // How long a caller waits is its own affair.
            Failure::DeadlineExceeded => self.turn.late(),
            // Its connection ends in order, with all the requests that waited on it; the next one tells how it is, and others are
            // asked before it.
            Failure::NoResponse(broken) if broken.is_orderly() => self.turn.left(),
            _ if failure.fault() == Fault::Upstream => self.turn.failed(),
            _ => {}
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
