//! Sends a request that may go on, and fits the response to the hop back. Inbound it takes a [`Permit`]: forwarding
//! what nobody allowed does not compile.

mod asking;
mod hop;

use crate::authorize::{Asked, Permit, Rulebook};
use crate::config::Destination;
use crate::downstream::Downstream;
use crate::error::{ConnectError, Failure};
use crate::exchange::Exchange;
use crate::h1::client::Connection;
use crate::h1::head::Framing;
use crate::h1::wire::Wire;
use crate::hops::{self, HOPS, Hops};
use crate::metrics::Metrics;
use crate::normalize::{Normal, Rejection, remove_overrides};
use crate::outbound::Route;
use crate::peer::Who;
use crate::relay::{Passage, Relay};
use crate::respond::REJECTED;
use crate::socket::Socket;
use crate::upgrade::Upgrade;
use crate::upstream::http1::Pool;
use crate::upstream::http2::{self, Lanes, Remote};
use crate::upstream::retry::{Budget, Retries};
use crate::upstream::{self, Deadlines, Upstream, is_grpc};
use asking::Asking;
use bytes::BytesMut;
use hop::{Author, strip};
use http::header::{CONTENT_LENGTH, HeaderName, TE};
use http::request::Parts;
use http::{Method, response};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// The caller's certificate, in Envoy's format.
const FORWARDED_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The caller's SPIFFE ID, or `unauthenticated`.
const PEER: HeaderName = HeaderName::from_static("tipstaff-peer");

/// The workload of this sidecar, as one worker reaches it.
#[derive(Debug)]
pub(crate) struct App {
    name: Arc<str>,
    destination: Destination,
    pub(crate) http1: Pool,
    budget: Budget,
    /// For gRPC, whose trailers HTTP/1.1 does not carry well.
    http2: Arc<Lanes>,
}

impl App {
    pub(crate) fn new(destination: &Destination, metrics: &Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            name: destination.to_string().into(),
            destination: destination.clone(),
            http1: Pool::new(),
            budget: Budget::new(),
            http2: Lanes::new(destination.clone(), Remote::App, Arc::clone(metrics)),
        })
    }

    /// A connection for what is not HTTP, which has come through `hops` sidecars before this one.
    pub(crate) async fn open(
        &self,
        _permit: Permit<'_>,
        limit: Duration,
        hops: Hops,
        exchange: &mut Exchange<'_>,
    ) -> Result<Box<dyn Socket>, Failure> {
        exchange.forwarded(&self.name);
        let connecting = hops::connect(&self.destination, hops.and_this());
        let connected = timeout(limit, connecting).await;
        Ok(connected.unwrap_or(Err(ConnectError::Timeout(limit)))?)
    }

    async fn connect(&self, deadlines: Deadlines) -> Result<Box<Connection>, ConnectError> {
        let limit = deadlines.connect;
        let stream = timeout(limit, upstream::connect(&self.destination))
            .await
            .map_err(|_| ConnectError::Timeout(limit))??;
        let wire = Wire::new(stream, BytesMut::new());
        Ok(Box::new(Connection::new(wire, None)))
    }
}

#[expect(
    clippy::wrong_self_convention,
    reason = "the way goes to the app or to a service; nothing is converted"
)]
impl Passage<'_, '_, '_> {
    /// Sends an allowed request to the app, in the protocol that the caller's request is in, and the response back.
    ///
    /// `rulebook` is asked again for as long as the response lasts.
    ///
    /// # Errors
    /// What the caller is to be answered: no response has begun.
    pub(crate) async fn to_app(
        self,
        _permit: Permit<'_>,
        head: &mut Parts,
        normal: &Normal,
        (who, rulebook): (&Who, &Rulebook),
        app: &App,
    ) -> Result<Ended, Failure> {
        self.exchange.forwarded(&app.name);
        if normal.has_override {
            remove_overrides(&mut head.headers);
        }
        if let Some(forwarded_cert) = who.forwarded_cert() {
            head.headers.insert(FORWARDED_CERT, forwarded_cert);
        }
        head.headers.insert(PEER, who.header());
        head.headers.insert(HOPS, normal.hops.one_more());
        let body = framing(head, self.caller)?;
        if is_grpc(&head.method, &head.headers) {
            // Boxed: its state would make every request's future as large.
            let asked = Box::new(head.clone());
            let deadlines = self.deadlines.of_call(&head.headers)?;
            let way = Passage { deadlines, ..self };
            let called = Box::pin(way.to_grpc_app(head, body, app));
            return match until_withdrawn(called, (who, rulebook), &asked, normal).await {
                Some(called) => called.map(|()| Ended::ByItself),
                None => Ok(Ended::Withdrawn),
            };
        }
        head.headers.remove(TE);
        self.to_http1_app(head, body, normal, (who, rulebook), app)
            .await
    }

    async fn to_http1_app(
        self,
        head: &mut Parts,
        body: Framing,
        normal: &Normal,
        (who, rulebook): (&Who, &Rulebook),
        app: &App,
    ) -> Result<Ended, Failure> {
        let deadlines = self.deadlines;
        let pooled = match head.extensions.get::<Upgrade>() {
            // Not asked twice: a connection of its own cannot have been closed under it.
            Some(upgrade) => {
                head.headers.extend(upgrade.fields());
                None
            }
            None => app.http1.take(deadlines.rest, deadlines.begun),
        };
        let is_repeatable = pooled.is_some() && is_idempotent(head);
        let (metrics, direction) = self.exchange.counters();
        let mut retries = Retries::begin(&app.budget, metrics, direction);
        let up = match pooled {
            Some(connection) => begin(connection, head, body),
            // Boxed, as it is rare.
            None => begin(Box::pin(app.connect(deadlines)).await?, head, body),
        };
        let mut relay = Relay::new(self, up, false);
        let (response, body) = match relay.head().await {
            Ok(answered) => answered,
            // The connection may have closed under the request.
            Err(failure) => {
                let is_repeatable = is_repeatable && relay.can_ask_again() && !relay.has_begun();
                let until = relay.wait().until;
                if !Box::pin(retries.again(&failure, is_repeatable, until)).await {
                    return Err(failure);
                }
                let connection = Box::pin(app.connect(deadlines)).await?;
                relay.ask_again(begin(connection, head, body), None);
                relay.head().await?
            }
        };
        retries.answered();
        answer(&mut relay, response, body, Author::App)?;
        let passed = until_withdrawn(relay.body(), (who, rulebook), head, normal).await;
        if passed.is_none() {
            return Ok(Ended::Withdrawn);
        }
        if let Upstream::Http1(connection) = relay.into_upstream() {
            app.http1.put(connection);
        }
        Ok(Ended::ByItself)
    }

    async fn to_grpc_app(self, head: &mut Parts, body: Framing, app: &App) -> Result<(), Failure> {
        let deadlines = self.deadlines;
        let wait = deadlines.first_wait();
        let ready = app.http2.ready(wait).await;
        let ready = ready.map_err(|error| deadlines.failure(error))?;
        deadlines.pass_on(&mut head.headers)?;
        let up = app.http2.send(ready, head, body, wait).await?;
        let mut relay = Relay::new(self, up, true);
        let (response, body) = relay.head().await?;
        answer(&mut relay, response, body, Author::App)?;
        relay.body().await;
        Ok(())
    }

    /// Sends a request to a sidecar of a service, or where that is safe to one after the other, and the response back.
    ///
    /// # Errors
    /// What the caller is to be answered: no response has begun.
    pub(crate) async fn to_service(
        mut self,
        head: &mut Parts,
        route: &Route,
    ) -> Result<(), Failure> {
        let is_stream = is_grpc(&head.method, &head.headers);
        if is_stream {
            self.deadlines = self.deadlines.of_call(&head.headers)?;
        }
        let body = framing(head, self.caller)?;
        let request = (&mut *head, body);
        let (mut asking, mut relay) = Asking::begin(self, route, request, is_stream).await?;
        let (response, body) = asking.answer(&mut relay, head).await?;
        answer(&mut relay, response, body, route.author())?;
        relay.body().await;
        if let Upstream::Http1(connection) = relay.into_upstream() {
            asking.attempt.lanes().put(connection);
        }
        Ok(())
    }
}

impl Route {
    fn author(&self) -> Author {
        match self.outside {
            None => Author::Sidecar,
            Some(_) => Author::App,
        }
    }
}

/// How an allowed exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    ByItself,
    /// What allowed it is no longer in force: nothing of it may go on.
    Withdrawn,
}

/// Whatever lasts, lasts no longer than what allowed it: None when that is withdrawn. What is over at once costs nothing.
async fn until_withdrawn<T>(
    passed: impl Future<Output = T>,
    (who, rulebook): (&Who, &Rulebook),
    head: &Parts,
    normal: &Normal,
) -> Option<T> {
    tokio::select! {
        biased;
        passed = passed => Some(passed),
        () = rulebook.withdrawn(who, Asked::Request(head, normal)) => None,
    }
}

/// Begins the response, without the fields of the hop it came over.
fn answer(
    relay: &mut Relay<'_, '_, '_>,
    mut head: response::Parts,
    body: Framing,
    author: Author,
) -> Result<(), Failure> {
    let is_rejected = strip(&mut head.headers, author);
    if relay.speaks_http1() {
        let upgrade = head.extensions.get().map(Upgrade::fields);
        head.headers.extend(upgrade.into_iter().flatten());
    }
    // HTTP/2 cannot end a connection for one request, so whoever carried it there for an HTTP/1.1 caller ends that one.
    if is_rejected && relay.speaks_http1() {
        head.headers.remove(REJECTED);
    }
    relay.respond(head, body, is_rejected)
}

fn begin(mut connection: Box<Connection>, head: &Parts, body: Framing) -> Upstream {
    connection.begin(head, body);
    Upstream::Http1(connection)
}

/// Whether being done twice is the same as once (RFC 9110 section 9.2.2).
fn is_idempotent(head: &Parts) -> bool {
    head.method.is_idempotent() && head.extensions.get::<Upgrade>().is_none()
}

/// How the body of a request is told to end on the next hop.
fn framing(head: &Parts, caller: &Downstream<'_>) -> Result<Framing, Failure> {
    let length = head
        .headers
        .get(CONTENT_LENGTH)
        .map(|field| http2::length(field).ok_or(Rejection::Framing))
        .transpose()?;
    Ok(match length {
        Some(length) => Framing::Length(length),
        // What follows an upgrade is no body of the request, although a stream that is still open looks like one.
        None if caller.has_body() && head.extensions.get::<Upgrade>().is_none() => Framing::Chunked,
        // Servers expect a length of those methods (RFC 9110 section 8.6).
        None if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) => {
            Framing::Length(0)
        }
        None => Framing::Empty,
    })
}
