//! One service: its endpoints, which of them is next, and what it may cost to ask again.

mod endpoints;

use crate::config::{self, HashKey, Service};
use crate::error::{ConnectError, Failure, Fault};
use crate::h1::head::Framing;
use crate::respond::GRPC_STATUS;
use crate::tls::LiveIdentity;
use crate::upstream::balance::{Number, Turn};
use crate::upstream::http2::Lanes;
use crate::upstream::retry::Budget;
use crate::upstream::{Deadlines, Upstream, Wait};
use crate::worker::Shared;
use endpoints::Endpoints;
pub(super) use endpoints::Stranger;
use http::header::COOKIE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, response};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Of gRPC: that nobody could answer, as in google/rpc/code.proto.
const UNAVAILABLE: &str = "14";
/// The longest that a request waits for a connection to an endpoint that has failed time after time.
const PROBE: Duration = Duration::from_secs(1);
/// Endpoints that one attempt tries to reach: no request dials a whole service.
const MOST_TRIED: usize = 4;
/// With less than this left no other endpoint is tried.
const SHORTEST: Duration = Duration::from_millis(10);

/// Where the requests for one service go.
#[derive(Debug)]
pub(crate) struct Route {
    endpoints: Arc<Endpoints>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) timeout: Duration,
    pub(crate) try_timeout: Option<Duration>,
    hash: Option<HashKey>,
    identity: Arc<LiveIdentity>,
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
            identity: Arc::clone(&shared.identity),
            outside: None,
        }
    }

    /// To a server outside the mesh that is called `host`.
    pub(super) fn outside(
        endpoints: &config::Endpoints,
        server: Stranger,
        host: HeaderValue,
        timeout: Duration,
        shared: &Arc<Shared>,
    ) -> Self {
        Self {
            endpoints: Endpoints::outside(endpoints, server, shared),
            budget: Arc::new(Budget::new()),
            timeout,
            try_timeout: None,
            hash: None,
            identity: Arc::clone(&shared.identity),
            outside: Some(host),
        }
    }

    pub(super) fn sweep(&self, limit: Duration) {
        let lanes = self.endpoints.balance.lanes();
        lanes.iter().for_each(|lanes| lanes.sweep(limit));
    }

    /// What the request has in common with those that go to the same endpoint.
    fn key<'h>(&self, head: &'h Parts) -> Option<Cow<'h, [u8]>> {
        let key: Cow<'_, [u8]> = match self.hash.as_ref()? {
            HashKey::Header(name) => head.headers.get(name)?.as_bytes().into(),
            HashKey::Cookie(name) => cookie(&head.headers, name)?.into(),
            HashKey::Path => head.uri.path().as_bytes().into(),
            HashKey::Identity => {
                let own = self.identity.present().ok()?;
                own.id().as_str().as_bytes().to_vec().into()
            }
        };
        (!key.is_empty()).then_some(key)
    }

    /// Sends a request head to the best endpoint that can be reached. One that has `failed` before is asked if there is no
    /// other. `body` says how the rest will come.
    ///
    /// An endpoint that goes before anything was sent to it costs no retry, whatever the method: the next is asked.
    pub(crate) async fn send(
        &self,
        failed: Option<Number>,
        wait: Wait,
        deadlines: Deadlines,
        (head, body): (&mut Parts, Framing),
    ) -> Result<(Attempt<'_>, Upstream), Failure> {
        let balance = &self.endpoints.balance;
        let has_other = |number: &Number| balance.has_other(*number);
        let mut tried: SmallVec<[Number; MOST_TRIED]> =
            failed.into_iter().filter(has_other).collect();
        let mut failure = None;
        loop {
            let Some(turn) = balance.pick(&tried, self.key(head).as_deref())? else {
                if let Some(failure) = failure {
                    return Err(failure);
                }
                // Boxed, as it is rare.
                Box::pin(self.endpoints.known(wait.limit())).await?;
                tried.clear();
                continue;
            };
            let mut attempt = Attempt::of(turn, deadlines.attempt);
            let one = attempt.wait(wait);
            let error = match attempt.send(one, deadlines, (&mut *head, body)).await {
                Ok(up) => {
                    let since_sent = |limit| Instant::now() + limit;
                    attempt.ends = attempt.ends.or_else(|| deadlines.attempt.map(since_sent));
                    return Ok((attempt, up));
                }
                Err(Failure::Connect(error)) => attempt.unreached(error, one, deadlines)?,
                Err(failure) => {
                    attempt.failed(&failure);
                    return Err(failure);
                }
            };
            tried.push(attempt.endpoint());
            let left = wait.until.saturating_duration_since(Instant::now());
            if tried.len() >= MOST_TRIED || left < SHORTEST {
                return Err(error);
            }
            failure = Some(error);
        }
    }
}

/// The value of the first cookie of this name (RFC 6265 section 4.2.1). An HTTP/1.1 client may send several fields, although
/// it must not (section 5.4).
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

impl<'r> Attempt<'r> {
    /// May take `limit` while there is another endpoint.
    fn of(turn: Turn<'r>, limit: Option<Duration>) -> Self {
        let limit = limit.filter(|_| turn.has_other());
        let ends = limit.map(|limit| Instant::now() + limit);
        Self { turn, ends }
    }

    /// How much of `wait` is for this one.
    fn wait(&self, wait: Wait) -> Wait {
        let connect = match self.turn.is_probe() {
            true => wait.connect.min(PROBE),
            false => wait.connect,
        };
        Wait {
            connect,
            until: self.ends.map_or(wait.until, |ends| ends.min(wait.until)),
            // Nor is all that is left of a request's time spent on one that may be gone, while there is another.
            parts: if self.turn.has_other() { 2 } else { 1 },
        }
    }

    /// There was no connection in the time that it had.
    ///
    /// # Errors
    /// When there would be none with any other endpoint either.
    fn unreached(
        &mut self,
        error: ConnectError,
        had: Wait,
        deadlines: Deadlines,
    ) -> Result<Failure, Failure> {
        let is_hurried = deadlines.ends == Some(had.until)
            && matches!(error, ConnectError::Timeout(limit) if limit < had.connect);
        match error {
            // No endpoint's fault.
            ConnectError::NoIdentity | ConnectError::IdentityExpired => return Err(error.into()),
            // How long a caller waits is its own affair.
            _ if is_hurried || deadlines.are_over() => {
                self.turn.late();
                return Ok(Failure::DeadlineExceeded);
            }
            ConnectError::Full => {}
            _ => self.turn.failed(),
        }
        Ok(error.into())
    }

    pub(crate) fn endpoint(&self) -> Number {
        self.turn.endpoint()
    }

    pub(crate) fn lanes(&self) -> &Arc<Lanes> {
        self.turn.lanes()
    }

    /// Where this fails for want of a connection, nothing was sent.
    async fn send(
        &self,
        wait: Wait,
        deadlines: Deadlines,
        (head, body): (&mut Parts, Framing),
    ) -> Result<Upstream, Failure> {
        let ready = self.lanes().ready(wait).await?;
        deadlines.pass_on(&mut head.headers)?;
        self.lanes().send(ready, head, body, wait).await
    }

    /// No response has begun. What is not the endpoint's fault says nothing about it.
    pub(crate) fn failed(&mut self, failure: &Failure) {
        match failure {
            // It may still be waited for.
            Failure::TryTimeout(_) => {}
            // How long a caller waits is its own affair.
            Failure::DeadlineExceeded => self.turn.late(),
            // Its connection ends in order, with all the requests that waited on it; the next one tells how it is, and others are
            // asked before it.
            Failure::NoResponse(broken) if broken.is_orderly() => self.turn.left(),
            _ if failure.fault() == Fault::Upstream => self.turn.failed(),
            _ => {}
        }
    }

    /// No response has begun in the time for an attempt, and `next` is waited for instead. The same endpoint once more says
    /// nothing about it yet.
    pub(crate) fn given_up_for(&mut self, next: &Self) {
        if next.endpoint() == self.endpoint() {
            self.turn.late();
        } else {
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
