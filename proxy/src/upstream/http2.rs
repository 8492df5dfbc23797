//! Multiplexed HTTP/2 connections ("lanes") to one endpoint: another sidecar over mutual TLS, a server outside the mesh over TLS,
//! or a gRPC app in plain text. Who speaks no HTTP/2 gets a pool of HTTP/1.1 connections instead.
//!
//! A lane belongs to the certificate it was made with. When the SVID is renewed a new lane is made in the background, new
//! requests move over once it is ready, and the old one ends with its last request.

mod connect;
mod lane;
mod rotation;

pub(crate) use lane::{Standing, Stream, length};
pub(crate) use rotation::keep_fresh;

use super::http1::Pool;
use super::{Upstream, Wait};
use crate::config::Destination;
use crate::error::{ConnectError, Failure};
use crate::external::Server;
use crate::h1::client::Connection as Http1Connection;
use crate::h1::head::Framing;
use crate::metrics::Metrics;
use crate::proof::Claims;
use crate::redirect::OwnPorts;
use crate::tls::Connector;
use crate::upgrade::Upgrade;
use bytes::Bytes;
use h2::client::SendRequest;
use http::header::{HOST, TE};
use http::uri::{self, Authority, Scheme};
use http::{Request, Uri, Version, request};
use identity::SpiffeId;
use lane::{Lane, Place};
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// Lanes to one endpoint, between which requests are spread. There are more while each of these carries all the streams
/// that it may: WebSockets and calls that go on would keep every other request waiting.
const MAX_LANES: usize = 8;
/// Lanes to the app in all; then requests queue for a stream. Services say how many with `maxConnections`.
const MOST_LANES: usize = 64;
/// For so long a failed attempt answers for those who would try again at once.
const FAILURE_HOLDS: Duration = Duration::from_millis(100);
/// Sends of one request: each lane may have closed under it, as when a server ends, and once more.
const MAX_SENDS: usize = MAX_LANES + 1;

/// How long an HTTP/1.1 connection to a sidecar may rest: half of what sidecars wait by default.
const HTTP1_REST: Duration = Duration::from_secs(30);

/// And to a server outside, of which nobody knows more than of an app: see [`APP_IDLE`](crate::config::APP_IDLE).
const OUTSIDE_REST: Duration = crate::config::APP_IDLE;

/// Who is at the other end, and how to know.
#[derive(Debug)]
pub(crate) enum Remote {
    /// The workload of this sidecar.
    App,
    /// A sidecar that has to prove exactly this identity.
    Sidecar {
        connector: Connector,
        /// For upgrades where HTTP/2 carries none (RFC 8441 is an extension).
        http1: Connector,
        /// Lanes that may outlive the certificates they were made with.
        claims: Arc<Claims<Standing>>,
    },
    /// A server that has no sidecar, and is told nothing of ours.
    Outside {
        /// Who has to answer; None in plain text, which is HTTP/1.1.
        server: Option<Server>,
        own: OwnPorts,
    },
}

/// The lanes to one endpoint.
#[derive(Debug)]
pub(crate) struct Lanes {
    destination: Destination,
    name: Arc<str>,
    remote: Remote,
    metrics: Arc<Metrics>,
    open: Mutex<Vec<Lane>>,
    /// Connections to a sidecar that speaks HTTP/1.1 alone.
    http1: Pool,
    speaks_http1: AtomicBool,
    /// Each of those has this, too.
    open_http1: Arc<()>,
    /// Connections there may be.
    most: AtomicUsize,
    /// Held by whoever connects, so that many requests make one connection; keeps the last failure for those behind.
    connecting: tokio::sync::Mutex<Option<(Instant, ConnectError)>>,
}

impl Lanes {
    pub(crate) fn new(
        destination: Destination,
        remote: Remote,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let speaks_http1 = matches!(remote, Remote::Outside { server: None, .. });
        Arc::new(Self {
            name: destination.to_string().into(),
            destination,
            remote,
            metrics,
            open: Mutex::new(Vec::new()),
            http1: Pool::new(),
            speaks_http1: AtomicBool::new(speaks_http1),
            open_http1: Arc::default(),
            most: AtomicUsize::new(MOST_LANES),
            connecting: tokio::sync::Mutex::new(None),
        })
    }

    /// From now on there may be so many connections.
    pub(crate) fn set_most(&self, connections: usize) {
        self.most.store(connections, Ordering::Relaxed);
    }

    /// The endpoint as the access log shows it.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether these are connections to that endpoint, where that identity has to be proven; None outside the mesh.
    pub(crate) fn leads_to(&self, destination: &Destination, expected: Option<&SpiffeId>) -> bool {
        let proven = match &self.remote {
            Remote::Sidecar { connector, .. } => Some(connector.expected()),
            Remote::App | Remote::Outside { .. } => None,
        };
        self.destination == *destination && proven == expected
    }

    /// A place on a lane with room, connecting if there is none.
    pub(crate) async fn ready(self: &Arc<Self>, wait: Wait) -> Result<Ready, ConnectError> {
        match self.pick() {
            Some(ready) => Ok(ready),
            // Boxed: rare, and its state would make every request's future as large.
            None => Box::pin(self.await_connection(wait)).await,
        }
    }

    /// A connection that nobody waits for any more is still made: else those who wait for less than a handshake takes would
    /// never have one.
    async fn await_connection(self: &Arc<Self>, wait: Wait) -> Result<Ready, ConnectError> {
        let limit = wait.limit();
        let lanes = Arc::clone(self);
        let (handed, connected) = oneshot::channel();
        // Ends within the time for a connection, and that of the one before it.
        tokio::spawn(async move {
            let made = lanes.connected(wait.connect).await;
            if let Err(Ok(Ready::Http1(unwanted))) = handed.send(made) {
                lanes.put(unwanted);
            }
        });
        match timeout(limit, connected).await {
            Ok(Ok(connected)) => connected,
            // The worker ends.
            Ok(Err(_)) => Err(ConnectError::Unstable),
            Err(_) => Err(ConnectError::Timeout(limit)),
        }
    }

    async fn connected(self: &Arc<Self>, limit: Duration) -> Result<Ready, ConnectError> {
        if self.speaks_http1.load(Ordering::Relaxed) {
            return self.connected_http1(limit).await;
        }
        let mut last_failure = self.connecting.lock().await;
        if let Some(ready) = self.pick() {
            return Ok(ready);
        }
        if self.speaks_http1.load(Ordering::Relaxed) {
            drop(last_failure);
            return self.connected_http1(limit).await;
        }
        if let Some((at, error)) = &*last_failure
            && at.elapsed() < FAILURE_HOLDS
        {
            return Err(error.clone());
        }
        match self.connect(limit).await {
            Ok(connected) => {
                *last_failure = None;
                Ok(connected.into_ready(self))
            }
            Err(error) => {
                tracing::warn!(
                    endpoint = %self.destination,
                    reason = error.reason(),
                    error = &error as &dyn std::error::Error,
                    "cannot connect"
                );
                *last_failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Each request needs a connection of its own there: nothing is gained by waiting for another's.
    async fn connected_http1(self: &Arc<Self>, limit: Duration) -> Result<Ready, ConnectError> {
        if Arc::strong_count(&self.open_http1) > self.most.load(Ordering::Relaxed) {
            return Err(ConnectError::Full);
        }
        let _counted = Arc::clone(&self.open_http1);
        Ok(self.connect(limit).await?.into_ready(self))
    }

    /// Sends a request head on `ready`. `body` says how the rest will come.
    ///
    /// A lane may have been closed since (GOAWAY); then the request, of which nothing was sent, goes to another.
    pub(crate) async fn send(
        self: &Arc<Self>,
        mut ready: Ready,
        head: &mut request::Parts,
        body: Framing,
        wait: Wait,
    ) -> Result<Upstream, Failure> {
        for _ in 0..MAX_SENDS {
            let (mut sender, place) = match ready {
                Ready::Http1(mut connection) => {
                    // A field of one hop; who is outside learns nothing of ours.
                    if matches!(self.remote, Remote::Outside { .. }) {
                        head.headers.remove(TE);
                    }
                    let upgrade = head.extensions.get().map(Upgrade::fields);
                    head.headers.extend(upgrade.into_iter().flatten());
                    connection.begin(head, body);
                    return Ok(Upstream::Http1(connection));
                }
                Ready::Lane(sender, place) => (sender, place),
            };
            // Never waits: what is over the server's limit on streams queues in the library.
            if poll_fn(|cx| sender.poll_ready(cx)).await.is_ok() {
                if head.extensions.get::<Upgrade>().is_some()
                    && let Some(http1) = Box::pin(self.around(&sender, &place, wait)).await?
                {
                    ready = Ready::Http1(http1);
                    continue;
                }
                let upgrade: Option<Upgrade> = head.extensions.remove();
                let ends = upgrade.is_none() && matches!(body, Framing::Empty | Framing::Length(0));
                let mut request = self.request(head);
                if let Some(upgrade) = &upgrade {
                    upgrade.connect(&mut request);
                }
                let sent = sender.send_request(request, ends);
                let (response, stream) = sent.map_err(|error| Failure::NoResponse(error.into()))?;
                return Ok(Upstream::Http2(Stream::new(
                    response, stream, upgrade, place,
                )));
            }
            self.discard(&place);
            ready = self.ready(wait).await?;
        }
        Err(Failure::Connect(ConnectError::Unstable))
    }

    /// Closes pooled HTTP/1.1 connections that have rested for longer than `limit`.
    pub(crate) fn sweep(&self, limit: Duration) {
        self.http1.sweep(limit);
    }

    /// Keeps an HTTP/1.1 connection of [`Ready::Http1`] for the next request, where requests need one.
    pub(crate) fn put(&self, connection: Box<Http1Connection>) {
        if self.speaks_http1.load(Ordering::Relaxed) {
            self.http1.put(connection);
        }
    }

    /// The request as HTTP/2 has it: scheme and authority from the URI. Host was made canonical, so it can be an authority;
    /// if it could not, the request would go without and be refused.
    fn request(&self, head: &mut request::Parts) -> Request<()> {
        let host = head.headers.remove(HOST);
        let mut parts = uri::Parts::default();
        parts.path_and_query = std::mem::take(&mut head.uri).into_parts().path_and_query;
        parts.authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
        parts.scheme = Some(match self.remote {
            Remote::App => Scheme::HTTP,
            Remote::Sidecar { .. } | Remote::Outside { .. } => Scheme::HTTPS,
        });
        let mut request = Request::new(());
        *request.method_mut() = std::mem::take(&mut head.method);
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = std::mem::take(&mut head.headers);
        request
    }

    fn pick(&self) -> Option<Ready> {
        if self.speaks_http1.load(Ordering::Relaxed) {
            let rest = match self.remote {
                Remote::Outside { .. } => OUTSIDE_REST,
                Remote::App | Remote::Sidecar { .. } => HTTP1_REST,
            };
            return self.http1.take(rest, Instant::now()).map(Ready::Http1);
        }
        let now = SystemTime::now();
        let mut open = self.lock();
        open.retain(|lane| {
            !lane.standing.is_closed.load(Ordering::Relaxed)
                && lane
                    .validity
                    .is_none_or(|validity| now < validity.retire_at)
        });
        let most = self.most.load(Ordering::Relaxed);
        let shared = || {
            let least = open.iter().min_by_key(|lane| lane.load())?;
            let suffices = open.len() >= MAX_LANES && !least.is_full();
            // A server that takes none for now (RFC 9113 section 6.5.2) would take none on another either.
            let takes_none = least.sender.current_max_send_streams() == 0;
            (suffices || takes_none || open.len() >= most).then_some(least)
        };
        let lane = open.iter().find(|lane| lane.has_room()).or_else(shared)?;
        Some(lane.reserve())
    }

    /// Takes a lane that is closed out of use; requests in flight on it go on.
    fn discard(&self, place: &Place) {
        self.lock()
            .retain(|lane| !Arc::ptr_eq(&lane.standing, &place.0));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Lane>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place for one request.
#[derive(Debug)]
pub(crate) enum Ready {
    Lane(SendRequest<Bytes>, Place),
    Http1(Box<Http1Connection>),
}
