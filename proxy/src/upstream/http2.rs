//! Multiplexed HTTP/2 connections ("lanes") to one endpoint: another sidecar over mutual TLS, or a gRPC app in plain text.
//!
//! A lane belongs to the certificate it was made with. When the SVID is renewed a new lane is made in the background, new
//! requests move over once it is ready, and the old one ends with its last request.

use super::{Deadlines, RequestBody, connect_tcp};
use crate::config::Endpoint;
use crate::error::{ConnectError, Failure};
use crate::gather::Gather;
use crate::metrics::{Direction, Metrics};
use crate::progress::within;
use crate::tls::{self, LiveIdentity};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use identity::SpiffeId;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// What one stalled response may hold back in us (RFC 9113 section 6.9.2 starts at 64 KiB, too).
const STREAM_WINDOW: u32 = 64 * 1024;
/// Sixteen stalled streams do not yet block their neighbours.
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;
/// A sidecar that is gone without a FIN is noticed after two of these, if requests are waiting on it.
const PING: Duration = Duration::from_secs(10);
/// Lanes to one endpoint. Beyond that requests queue for a stream.
const MAX_LANES: usize = 8;
/// Requests at once on a lane before another is opened. Below what sidecars admit, so that none waits for a stream.
const STREAMS_PER_LANE: usize = 200;
/// For so long a failed attempt answers for those who would try again at once.
const FAILURE_HOLDS: Duration = Duration::from_millis(100);
/// Between attempts to replace a lane that still works.
const REPLACE_AGAIN: Duration = Duration::from_secs(1);
/// Sends of one request: to a lane that closed under it, and once more.
const MAX_SENDS: usize = 3;

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
    /// Held by whoever connects, so that many requests make one connection; keeps the last failure for those behind.
    connecting: tokio::sync::Mutex<Option<(Instant, ConnectError)>>,
}

#[derive(Debug, Clone)]
struct Lane {
    sender: SendRequest<RequestBody>,
    streams: Arc<AtomicUsize>,
    validity: Option<Validity>,
}

/// One request's place on a lane, counted until dropped.
#[derive(Debug)]
pub(crate) struct Stream(Arc<AtomicUsize>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
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

    /// A lane with room, connecting if there is none.
    pub(crate) async fn ready(self: &Arc<Self>, limit: Duration) -> Result<Ready, ConnectError> {
        if let Some(ready) = self.pick() {
            return Ok(ready);
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
            Ok(lane) => {
                *last_failure = None;
                let ready = lane.reserve();
                self.lock().push(lane);
                Ok(ready)
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

    /// Sends a request on `ready` and waits for the response head.
    ///
    /// A lane may close under the request (GOAWAY); it is sent again only when hyper hands it back, which it does when
    /// no stream was opened for it.
    pub(crate) async fn send(
        self: &Arc<Self>,
        mut ready: Ready,
        mut request: Box<Request<RequestBody>>,
        deadlines: Deadlines,
    ) -> Result<(Response<Incoming>, Stream), Failure> {
        let upload = request.body().upload();
        for _ in 0..MAX_SENDS {
            let response = ready.sender.try_send_request(*request);
            match within(deadlines.response, upload.as_deref(), pin!(response)).await {
                None => return Err(Failure::ResponseTimeout(deadlines.response)),
                Some(Ok(response)) => return Ok((response, ready.stream)),
                Some(Err(mut error)) => match error.take_message() {
                    Some(unsent) => {
                        *request = unsent;
                        self.discard(&ready);
                        ready = self.ready(deadlines.connect).await?;
                    }
                    None => return Err(Failure::NoResponse(error.into_error())),
                },
            }
        }
        Err(Failure::Connect(ConnectError::Unstable))
    }

    fn pick(&self) -> Option<Ready> {
        let now = SystemTime::now();
        let mut open = self.lock();
        open.retain(|lane| {
            !lane.sender.is_closed()
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

    /// Takes a lane that hands requests back out of use; those in flight on it go on.
    fn discard(&self, ready: &Ready) {
        self.lock()
            .retain(|lane| !Arc::ptr_eq(&lane.streams, &ready.stream.0));
    }

    async fn connect(self: &Arc<Self>, limit: Duration) -> Result<Lane, ConnectError> {
        let connect = async {
            match &self.remote {
                Remote::App => lane(Gather(connect_tcp(&self.endpoint).await?), None).await,
                Remote::Sidecar {
                    identity: expected,
                    live,
                    metrics,
                } => {
                    let (connector, svid) = tls::connector(live, expected.clone())?;
                    let stream = Gather(connect_tcp(&self.endpoint).await?);
                    let name = identity::tls::server_name();
                    let tls = connector.connect(name, stream).await.map_err(|error| {
                        metrics.handshake_failure(Direction::Outbound, tls::tls_reason(&error));
                        ConnectError::Handshake(Arc::new(error))
                    })?;
                    metrics.handshake(Direction::Outbound);
                    let not_after = tls::server_not_after(&tls)?.min(svid.leaf().not_after);
                    let validity = Validity::new(SystemTime::now(), not_after);
                    lane(tls, Some(validity)).await
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

/// A lane with a stream reserved on it.
#[derive(Debug)]
pub(crate) struct Ready {
    sender: SendRequest<RequestBody>,
    stream: Stream,
}

impl Lane {
    fn load(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        self.load() < STREAMS_PER_LANE
    }

    fn reserve(&self) -> Ready {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Ready {
            sender: self.sender.clone(),
            stream: Stream(Arc::clone(&self.streams)),
        }
    }
}

async fn lane<S>(stream: S, validity: Option<Validity>) -> Result<Lane, ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http2::Builder::new(Boxed)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ConnectError::Http(Arc::new(error)))?;
    // Ends when the other side closes, or when every sender is dropped and the last stream has ended.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "HTTP/2 connection to an upstream ended");
        }
    });
    Ok(Lane {
        sender,
        streams: Arc::default(),
        validity,
    })
}

/// Spawns hyper's tasks from boxes: each is as large as the state of a whole connection, and making a task copies it
/// several times.
#[derive(Debug, Clone, Copy)]
struct Boxed;

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Boxed {
    fn execute(&self, task: F) {
        tokio::spawn(Box::pin(task));
    }
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
        if lanes.lock().is_empty() {
            continue;
        }
        match lanes.connect(limit).await {
            Ok(lane) => *lanes.lock() = vec![lane],
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
