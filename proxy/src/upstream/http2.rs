//! Multiplexed HTTP/2 connections ("lanes") to one endpoint: another sidecar over mutual TLS, or a gRPC app in plain text.
//! A sidecar that speaks no HTTP/2 gets a pool of HTTP/1.1 connections instead.
//!
//! A lane belongs to the certificate it was made with. When the SVID is renewed a new lane is made in the background, new
//! requests move over once it is ready, and the old one ends with its last request.

use super::http1::Pool;
use super::{Deadlines, Upstream, connect_tcp};
use crate::body::{Broken, Piece};
use crate::config::Endpoint;
use crate::error::{ConnectError, Failure};
use crate::h1::client::Connection as Http1Connection;
use crate::h1::head::Framing;
use crate::h1::wire::{Socket, Wire};
use crate::h2::{self, FRAME, SEND_BUFFER, STREAM_WINDOW, Sender};
use crate::metrics::{Direction, Metrics};
use crate::tls::{self, Alpn, LiveIdentity};
use ::h2::client::{Connection, ResponseFuture, SendRequest};
use ::h2::{Ping, RecvStream};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HOST};
use http::uri::{self, Authority, Scheme};
use http::{HeaderValue, Request, Uri, Version, request, response};
use identity::SpiffeId;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};
use tokio::time::timeout;

/// A sidecar that is gone without a FIN is noticed after two of these, if requests are waiting on it.
const PING: Duration = Duration::from_secs(10);
/// Lanes to one endpoint. Beyond that requests queue for a stream.
const MAX_LANES: usize = 8;
/// What a server may send as a head or as trailers: as much as over HTTP/1.1, in the octets that HTTP/2 counts.
const HEAD: u32 = 80 * 1024;
/// Requests at once on a lane before another is opened. Below what sidecars admit, so that none waits for a stream.
const STREAMS_PER_LANE: u32 = 200;
/// Responses that nobody reads do not block their neighbours on the same lane, however many there are.
const CONNECTION_WINDOW: u32 = STREAMS_PER_LANE * STREAM_WINDOW;
/// For so long a failed attempt answers for those who would try again at once.
const FAILURE_HOLDS: Duration = Duration::from_millis(100);
/// Between attempts to replace a lane that still works.
const REPLACE_AGAIN: Duration = Duration::from_secs(1);
/// Sends of one request: each lane may have closed under it, as when a server ends, and once more.
const MAX_SENDS: usize = MAX_LANES + 1;

/// Who is at the other end, and how to know.
#[derive(Debug)]
pub(crate) enum Remote {
    /// The workload of this sidecar.
    App,
    /// A sidecar that has to prove exactly this identity.
    Sidecar {
        identity: SpiffeId,
        live: Arc<LiveIdentity>,
        metrics: Arc<Metrics>,
    },
}

/// The lanes to one endpoint.
#[derive(Debug)]
pub(crate) struct Lanes {
    endpoint: Endpoint,
    name: Arc<str>,
    remote: Remote,
    open: Mutex<Vec<Lane>>,
    /// Connections to a sidecar that speaks HTTP/1.1 alone.
    http1: Pool,
    speaks_http1: AtomicBool,
    /// Held by whoever connects, so that many requests make one connection; keeps the last failure for those behind.
    connecting: tokio::sync::Mutex<Option<(Instant, ConnectError)>>,
}

#[derive(Debug, Clone)]
struct Lane {
    sender: SendRequest<Bytes>,
    standing: Arc<Standing>,
    validity: Option<Validity>,
}

/// What a lane's users know of it.
#[derive(Debug, Default)]
struct Standing {
    streams: AtomicUsize,
    is_closed: AtomicBool,
}

/// One request's place on a lane, counted until dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Standing>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One exchange on a lane.
#[derive(Debug)]
pub(crate) struct Stream {
    response: ResponseFuture,
    pub(super) sender: Sender,
    /// From the response head on.
    body: Option<RecvStream>,
    _place: Place,
}

impl Stream {
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(response::Parts, Framing), Broken>> {
        let (head, body) = ready!(Pin::new(&mut self.response).poll(cx))?.into_parts();
        let framing = if body.is_end_stream() {
            Framing::Empty
        } else {
            // h2 holds the body to the length; one that is no number it has refused.
            let length = head.headers.get(CONTENT_LENGTH).and_then(length);
            length.map_or(Framing::Chunked, Framing::Length)
        };
        self.body = Some(body);
        Poll::Ready(Ok((head, framing)))
    }

    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, Broken>>> {
        match &mut self.body {
            Some(body) => h2::poll_body(body, cx),
            None => Poll::Ready(None),
        }
    }

    pub(super) fn is_end(&self) -> bool {
        self.body.as_ref().is_none_or(RecvStream::is_end_stream)
    }
}

/// The number in a Content-Length field.
pub(crate) fn length(field: &HeaderValue) -> Option<u64> {
    let digits = field.to_str().ok()?;
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

/// When a lane has to be replaced, from the certificates at its two ends.
#[derive(Debug, Clone, Copy)]
struct Validity {
    /// From here on a replacement is made in the background.
    replace_at: SystemTime,
    /// From here on it takes no request.
    retire_at: SystemTime,
}

impl Validity {
    fn new(now: SystemTime, not_after: SystemTime) -> Self {
        let left = not_after.duration_since(now).unwrap_or_default();
        // Well before the server side sends us away, and early enough for a second attempt.
        Self {
            replace_at: not_after - (left / 2).min(Duration::from_secs(60)),
            retire_at: not_after - (left / 4).min(Duration::from_secs(20)),
        }
    }
}

impl Lanes {
    pub(crate) fn new(endpoint: Endpoint, remote: Remote) -> Arc<Self> {
        Arc::new(Self {
            name: endpoint.to_string().into(),
            endpoint,
            remote,
            open: Mutex::new(Vec::new()),
            http1: Pool::new(),
            speaks_http1: AtomicBool::new(false),
            connecting: tokio::sync::Mutex::new(None),
        })
    }

    /// The endpoint as the access log shows it.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether these are connections to that endpoint and that identity.
    pub(crate) fn leads_to(&self, endpoint: &Endpoint, expected: &SpiffeId) -> bool {
        matches!(&self.remote, Remote::Sidecar { identity, .. } if identity == expected)
            && self.endpoint == *endpoint
    }

    /// A place on a lane with room, connecting if there is none.
    pub(crate) async fn ready(self: &Arc<Self>, limit: Duration) -> Result<Ready, ConnectError> {
        if let Some(ready) = self.pick() {
            return Ok(ready);
        }
        if self.speaks_http1.load(Ordering::Relaxed) {
            // Each request needs a connection of its own there: nothing is gained by waiting for another's.
            return Ok(Box::pin(self.connect(limit)).await?.into_ready(self));
        }
        let mut last_failure = self.connecting.lock().await;
        if let Some(ready) = self.pick() {
            return Ok(ready);
        }
        if let Some((at, error)) = &*last_failure
            && at.elapsed() < FAILURE_HOLDS
        {
            return Err(error.clone());
        }
        // Boxed: rare, and a handshake's state would make every request's future as large.
        match Box::pin(self.connect(limit)).await {
            Ok(connected) => {
                *last_failure = None;
                Ok(connected.into_ready(self))
            }
            Err(error) => {
                tracing::warn!(
                    endpoint = %self.endpoint,
                    reason = error.reason(),
                    error = &error as &dyn std::error::Error,
                    "cannot connect"
                );
                *last_failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Sends a request head on `ready`. `body` says how the rest will come.
    ///
    /// A lane may have been closed since (GOAWAY); then the request, of which nothing was sent, goes to another.
    pub(crate) async fn send(
        self: &Arc<Self>,
        mut ready: Ready,
        head: &mut request::Parts,
        body: Framing,
        deadlines: Deadlines,
    ) -> Result<Upstream, Failure> {
        for _ in 0..MAX_SENDS {
            let (mut sender, place) = match ready {
                Ready::Http1(mut connection) => {
                    connection.begin(head, body);
                    return Ok(Upstream::Http1(connection));
                }
                Ready::Lane(sender, place) => (sender, place),
            };
            // Never waits: what is over the server's limit on streams queues in the library.
            if poll_fn(|cx| sender.poll_ready(cx)).await.is_ok() {
                let ends = matches!(body, Framing::Empty | Framing::Length(0));
                let sent = sender.send_request(self.request(head), ends);
                let (response, stream) = sent.map_err(|error| Failure::NoResponse(error.into()))?;
                return Ok(Upstream::Http2(Stream {
                    response,
                    sender: Sender::new(stream),
                    body: None,
                    _place: place,
                }));
            }
            self.discard(&place);
            ready = self.ready(deadlines.connect).await?;
        }
        Err(Failure::Connect(ConnectError::Unstable))
    }

    /// Keeps an HTTP/1.1 connection of [`Ready::Http1`] for the next request.
    pub(crate) fn put(&self, connection: Box<Http1Connection>) {
        self.http1.put(connection);
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
            Remote::Sidecar { .. } => Scheme::HTTPS,
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
            return self.http1.take().map(Ready::Http1);
        }
        let now = SystemTime::now();
        let mut open = self.lock();
        open.retain(|lane| {
            !lane.standing.is_closed.load(Ordering::Relaxed)
                && lane
                    .validity
                    .is_none_or(|validity| now < validity.retire_at)
        });
        let full = open.len() >= MAX_LANES;
        let lane = open
            .iter()
            .find(|lane| lane.has_room())
            .or_else(|| full.then(|| open.iter().min_by_key(|lane| lane.load()))?)?;
        Some(lane.reserve())
    }

    /// Takes a lane that is closed out of use; requests in flight on it go on.
    fn discard(&self, place: &Place) {
        self.lock()
            .retain(|lane| !Arc::ptr_eq(&lane.standing, &place.0));
    }

    async fn connect(self: &Arc<Self>, limit: Duration) -> Result<Connected, ConnectError> {
        let connect = async {
            match &self.remote {
                Remote::App => {
                    let stream = connect_tcp(&self.endpoint).await?;
                    Ok(Connected::Lane(lane(Box::new(stream), None).await?))
                }
                Remote::Sidecar {
                    identity: expected,
                    live,
                    metrics,
                } => {
                    let (connector, svid) = tls::connector(live, expected.clone())?;
                    let stream = connect_tcp(&self.endpoint).await?;
                    let name = identity::tls::server_name();
                    let tls = connector.connect(name, stream).await.map_err(|error| {
                        metrics.handshake_failure(Direction::Outbound, tls::tls_reason(&error));
                        ConnectError::Handshake(Arc::new(error))
                    })?;
                    metrics.handshake(Direction::Outbound);
                    let (alpn, not_after) = tls::server_terms(&tls)?;
                    let not_after = not_after.min(svid.leaf().not_after);
                    let validity = Validity::new(SystemTime::now(), not_after);
                    Ok(match alpn {
                        Alpn::Http2 => Connected::Lane(lane(Box::new(tls), Some(validity)).await?),
                        Alpn::Http1 => {
                            let wire = Wire::new(Box::new(tls), BytesMut::new());
                            let retire_at = Some(validity.retire_at);
                            Connected::Http1(Box::new(Http1Connection::new(wire, retire_at)))
                        }
                    })
                }
            }
        };
        timeout(limit, connect)
            .await
            .unwrap_or(Err(ConnectError::Timeout(limit)))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Lane>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a handshake led to.
enum Connected {
    Lane(Lane),
    Http1(Box<Http1Connection>),
}

impl Connected {
    /// Makes it the way for requests to come, this one first.
    fn into_ready(self, lanes: &Lanes) -> Ready {
        let speaks_http1 = matches!(self, Self::Http1(_));
        lanes.speaks_http1.store(speaks_http1, Ordering::Relaxed);
        match self {
            Self::Http1(connection) => Ready::Http1(connection),
            Self::Lane(lane) => {
                let ready = lane.reserve();
                lanes.lock().push(lane);
                ready
            }
        }
    }
}

/// A place for one request.
#[derive(Debug)]
pub(crate) enum Ready {
    Lane(SendRequest<Bytes>, Place),
    Http1(Box<Http1Connection>),
}

impl Lane {
    fn load(&self) -> usize {
        self.standing.streams.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        self.load()
            < self
                .sender
                .current_max_send_streams()
                .min(STREAMS_PER_LANE as usize)
    }

    fn reserve(&self) -> Ready {
        self.standing.streams.fetch_add(1, Ordering::Relaxed);
        Ready::Lane(self.sender.clone(), Place(Arc::clone(&self.standing)))
    }
}

async fn lane(socket: Box<dyn Socket>, validity: Option<Validity>) -> Result<Lane, ConnectError> {
    let (sender, connection) = ::h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEAD)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake(socket)
        .await
        .map_err(|error| ConnectError::Http(Arc::new(error)))?;
    let standing = Arc::<Standing>::default();
    // Boxed: making a task copies it several times.
    tokio::spawn(Box::pin(drive(connection, Arc::clone(&standing))));
    Ok(Lane {
        sender,
        standing,
        validity,
    })
}

/// Carries a lane's bytes. Ends when the other side closes or is gone, or when nobody can send on it any more and the last
/// stream has ended.
async fn drive(mut connection: Connection<Box<dyn Socket>, Bytes>, standing: Arc<Standing>) {
    let mut pings = connection.ping_pong();
    let mut awaits_pong = false;
    let mut alarm = pin!(tokio::time::sleep(PING));
    poll_fn(|cx| {
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
            if let Err(error) = ended {
                tracing::debug!(%error, "HTTP/2 connection to an upstream ended");
            }
            return Poll::Ready(());
        }
        let Some(pings) = &mut pings else {
            return Poll::Pending;
        };
        if awaits_pong && pings.poll_pong(cx).is_ready() {
            awaits_pong = false;
        }
        while alarm.as_mut().poll(cx).is_ready() {
            if awaits_pong {
                tracing::debug!("HTTP/2 connection to an upstream answers no PING");
                return Poll::Ready(());
            }
            if standing.streams.load(Ordering::Relaxed) > 0 {
                awaits_pong = pings.send_ping(Ping::opaque()).is_ok();
            }
            alarm.as_mut().reset(tokio::time::Instant::now() + PING);
        }
        Poll::Pending
    })
    .await;
    standing.is_closed.store(true, Ordering::Relaxed);
}

/// Keeps the lanes of one sidecar endpoint fresh: replaces them when the SVID is renewed and before a certificate ends.
/// Ends with the lanes themselves.
pub(crate) async fn keep_fresh(lanes: Weak<Lanes>, live: Arc<LiveIdentity>, limit: Duration) {
    let mut svid = live.watch();
    svid.mark_unchanged();
    loop {
        let Some(wait) = lanes.upgrade().map(|lanes| lanes.until_replacement()) else {
            return;
        };
        tokio::select! {
            changed = svid.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
        let Some(lanes) = lanes.upgrade() else { return };
        lanes.http1.clear();
        if lanes.lock().is_empty() {
            continue;
        }
        match lanes.connect(limit).await {
            Ok(Connected::Lane(lane)) => *lanes.lock() = vec![lane],
            // Whatever is there now speaks HTTP/1.1, as the next request learns. What is in flight goes on.
            Ok(Connected::Http1(_)) => lanes.lock().clear(),
            Err(error) => {
                tracing::warn!(%error, endpoint = %lanes.endpoint, "cannot replace a connection whose certificate is renewed or ends");
                tokio::time::sleep(REPLACE_AGAIN).await;
            }
        }
    }
}

impl Lanes {
    /// How long until the first of the lanes has to be replaced.
    fn until_replacement(&self) -> Duration {
        let open = self.lock();
        open.iter()
            .filter_map(|lane| lane.validity)
            .map(|validity| {
                validity
                    .replace_at
                    .duration_since(SystemTime::now())
                    .unwrap_or_default()
            })
            .min()
            // A lane opened meanwhile cannot need it sooner: half of what is left of a certificate is more than this.
            .unwrap_or(REPLACE_AGAIN)
    }
}
