//! The workload's own calls: route by authority, then forward over mutual TLS to exactly the identity that the service names.

use crate::authorize::DecisionId;
use crate::config::{Config, Endpoint, Service};
use crate::connection::{self, Terms};
use crate::error::{ConnectError, Failure};
use crate::exchange::{Body, Exchange, Origin};
use crate::forward::{self, Answered};
use crate::gather::Gather;
use crate::listener::Slot;
use crate::metrics::Direction;
use crate::normalize::normalize;
use crate::respond::{self, Manner};
use crate::tls::Alpn;
use crate::upstream::http2::{Lanes, Ready, Remote, keep_fresh};
use crate::upstream::{Deadlines, is_grpc};
use crate::worker::Shared;
use http::header::HOST;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use identity::SpiffeId;
use policy::target::{EmptySegments, EncodedSlash, PathParams, Profile};
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::timeout;

/// How an HTTP/2 connection begins (RFC 9113 section 3.4). No HTTP/1.1 method is `PRI`.
const PREFACE: &[u8] = b"PRI ";
/// The callee's profile decides what its paths may hold, at its sidecar; here only what no profile allows is refused.
const WIDEST: Profile = Profile {
    encoded_slash: EncodedSlash::Opaque,
    path_params: PathParams::Literal,
    empty_segments: EmptySegments::Literal,
};

/// The outbound side of one worker.
#[derive(Debug)]
pub(crate) struct Outbound {
    origin: Arc<Origin>,
    routes: Mutex<Arc<Routes>>,
}

impl Outbound {
    pub(crate) fn new(shared: &Arc<Shared>) -> Arc<Self> {
        let config = shared.config.load_full();
        Arc::new(Self {
            routes: Mutex::new(Arc::new(Routes::new(config, shared, None))),
            origin: Arc::new(Origin {
                shared: Arc::clone(shared),
                direction: Direction::Outbound,
                peer: None,
            }),
        })
    }

    /// A connection of the workload from accept to end. Whether it is the workload's was checked before.
    pub(crate) async fn serve<T>(self: Arc<Self>, mut stream: T, slot: Slot)
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let _slot = slot;
        let shared = &self.origin.shared;
        let _open = shared.metrics.connection(Direction::Outbound);
        let _in_flight = shared.drain.hold();
        let config = shared.config.load_full();
        let detected = tokio::select! {
            detected = timeout(config.timeouts.request_head, detect(&mut stream)) => detected,
            () = shared.drain.started() => return,
        };
        let Ok(Ok((protocol, start))) = detected else {
            return; // Closed or silent before its first four bytes: nobody to answer.
        };
        let stream = Restarted {
            start,
            read: 0,
            stream: Gather(stream),
        };
        let terms = Terms {
            protocol,
            ends: None,
            drain: shared.drain.clone(),
        };
        connection::serve(stream, terms, &config, |request| {
            answer(Arc::clone(&self), request)
        })
        .await;
    }

    /// The routes of the present configuration; connections to endpoints that stay are kept.
    fn routes(&self) -> Arc<Routes> {
        let shared = &self.origin.shared;
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let config = shared.config.load();
        if !Arc::ptr_eq(&config, &routes.config) {
            *routes = Arc::new(Routes::new(Arc::clone(&config), shared, Some(&routes)));
        }
        Arc::clone(&routes)
    }
}

async fn answer(outbound: Arc<Outbound>, request: Request<Incoming>) -> Response<Body> {
    let manner = Manner {
        version: request.version(),
        is_grpc: is_grpc(request.method(), request.headers()),
    };
    let mut exchange = Exchange::begin(&outbound.origin, &request);
    match handle(&outbound, Box::new(request), &mut exchange).await {
        Ok(answered) => answered.into_response(manner.version, exchange),
        Err(failure) => respond::failure(&failure, manner, exchange),
    }
}

/// The life of an outbound request. Whether the workload may do this is decided where it arrives, by who it proves to be.
async fn handle(
    outbound: &Outbound,
    mut request: Box<Request<Incoming>>,
    exchange: &mut Exchange,
) -> Result<Answered, Failure> {
    let normal = normalize(&mut request, &WIDEST)?;
    exchange.normalized(&request);

    let routes = outbound.routes();
    let host = normal.host(request.headers());
    let route = routes.find(request.headers(), host)?;
    exchange.allowed(None);

    let (lanes, ready) = route
        .connection(routes.config.timeouts.upstream_connect)
        .await?;
    let deadlines = Deadlines {
        connect: routes.config.timeouts.upstream_connect,
        response: route.timeout,
        idle: routes.config.timeouts.idle,
    };
    forward::to_service(request, lanes, ready, deadlines, exchange).await
}

/// Where the workload's requests may go.
#[derive(Debug)]
struct Routes {
    config: Arc<Config>,
    by_host: HashMap<String, Arc<Route>>,
}

impl Routes {
    fn new(config: Arc<Config>, shared: &Arc<Shared>, previous: Option<&Self>) -> Self {
        let services = config
            .outbound
            .iter()
            .flat_map(|outbound| &outbound.services);
        let mut by_host = HashMap::new();
        for service in services {
            let route = Arc::new(Route::new(service, shared, previous, &config));
            for host in &service.hosts {
                by_host.insert(host.clone(), Arc::clone(&route));
            }
        }
        Self { config, by_host }
    }

    /// The service that has the request's host, with its port if the configuration names one, else by name alone.
    fn find(&self, headers: &HeaderMap, name: &str) -> Result<&Route, Failure> {
        let host = headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or(name);
        let route = self.by_host.get(host).or_else(|| self.by_host.get(name));
        route
            .map(Arc::as_ref)
            .ok_or_else(|| Failure::UnknownDestination {
                host: host.to_owned(),
                id: DecisionId::new(),
            })
    }

    fn lanes(&self, endpoint: &Endpoint, identity: &SpiffeId) -> Option<Arc<Lanes>> {
        let mut all = self.by_host.values().flat_map(|route| &route.endpoints);
        let same = |lanes: &&Arc<Lanes>| lanes.leads_to(endpoint, identity);
        all.find(same).cloned()
    }
}

/// One service.
#[derive(Debug)]
struct Route {
    /// Never empty.
    endpoints: Vec<Arc<Lanes>>,
    next: AtomicUsize,
    timeout: Duration,
}

impl Route {
    fn new(
        service: &Service,
        shared: &Arc<Shared>,
        previous: Option<&Routes>,
        config: &Config,
    ) -> Self {
        let endpoints = service.endpoints.iter().map(|endpoint| {
            let kept = previous.and_then(|routes| routes.lanes(endpoint, &service.identity));
            kept.unwrap_or_else(|| {
                let remote = Remote::Sidecar {
                    identity: service.identity.clone(),
                    live: Arc::clone(&shared.identity),
                    metrics: Arc::clone(&shared.metrics),
                };
                let lanes = Lanes::new(endpoint.clone(), remote);
                tokio::spawn(keep_fresh(
                    Arc::downgrade(&lanes),
                    Arc::clone(&shared.identity),
                    config.timeouts.upstream_connect,
                ));
                lanes
            })
        });
        Self {
            endpoints: endpoints.collect(),
            next: AtomicUsize::new(0),
            timeout: service.timeout,
        }
    }

    /// A connection to the next endpoint in turn, or to the first after it that can be reached.
    async fn connection(&self, limit: Duration) -> Result<(&Arc<Lanes>, Ready), ConnectError> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut failure = ConnectError::Unstable;
        for turn in 0..self.endpoints.len() {
            let lanes = &self.endpoints[first.wrapping_add(turn) % self.endpoints.len()];
            match lanes.ready(limit).await {
                Ok(ready) => return Ok((lanes, ready)),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// Reads just enough to tell HTTP/2 with prior knowledge from HTTP/1.1.
async fn detect<T: AsyncRead + Unpin>(stream: &mut T) -> io::Result<(Alpn, [u8; PREFACE.len()])> {
    let mut start = [0; PREFACE.len()];
    stream.read_exact(&mut start).await?;
    let protocol = if start == PREFACE {
        Alpn::Http2
    } else {
        Alpn::Http1
    };
    Ok((protocol, start))
}

/// A stream of which the start has been read already.
struct Restarted<T> {
    start: [u8; PREFACE.len()],
    read: usize,
    stream: T,
}

impl<T: AsyncRead + Unpin> AsyncRead for Restarted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read < self.start.len() {
            let rest = &self.start[self.read..];
            let taken = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..taken]);
            self.read += taken;
            if self.read < self.start.len() || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            // The rest of the head has most likely arrived with the start: one turn for both.
            return match Pin::new(&mut self.stream).poll_read(cx, buffer) {
                Poll::Pending => Poll::Ready(Ok(())),
                ready => ready,
            };
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Restarted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
