//! HTTP/1.1 and HTTP/2 on one socket: its deadlines, its drain, its end. The deadlines of single bodies are in
//! `progress.rs`, and of those who do not read them in `connection/reader.rs`.

mod reader;

use crate::config::Config;
use crate::drain::Drain;
use crate::exchange::Body;
use crate::tls::Alpn;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use reader::{Read, Streams};
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What one stalled upload may hold in us; the app's own buffers come on top.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Sixteen stalled uploads do not yet block their neighbours on the same connection.
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;
/// Streams a client may open and reset before we have looked at them: rapid reset (CVE-2023-44487).
const PENDING_RESETS: usize = 32;
/// Resets that a client may make us send: MadeYouReset (CVE-2025-8671).
const LOCAL_RESETS: usize = 256;
/// What a response may have queued for a slow reader.
const SEND_BUFFER: usize = 64 * 1024;
/// The smallest buffer that hyper's HTTP/1 reader works with.
const MIN_READ_BUFFER: usize = 8192;

/// Which protocol to speak and when to stop.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) protocol: Alpn,
    /// When the certificate of either side ends; none on the workload's own connections.
    pub(crate) ends: Option<SystemTime>,
    pub(crate) drain: Drain,
}

/// Serves requests on `stream` until the caller leaves, nothing moves for the idle time, a certificate ends, or the drain
/// has let the last request finish.
pub(crate) async fn serve<T, H, R>(stream: T, terms: Terms, config: &Config, handle: H)
where
    T: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let activity = Arc::<Activity>::default();
    let streams = Streams::new(config.timeouts.idle);
    let service = service_fn(|request| {
        let mut turn = Turn::new(&activity);
        let waiting = (terms.protocol == Alpn::Http2).then(|| streams.begin());
        // Boxed where it is made: hyper moves what a service returns half a dozen times before it first polls it.
        let response = Box::pin(handle(request));
        async move {
            let response = response.await;
            turn.answered();
            Ok::<_, Infallible>(response.map(|body| Read::new(body, waiting, turn)))
        }
    });
    let io = TokioIo::new(Observed {
        stream,
        activity: Arc::clone(&activity),
    });
    let watch = Watch {
        activity: &activity,
        idle: config.timeouts.idle,
        ends: terms.ends,
        drain: terms.drain,
    };
    match terms.protocol {
        Alpn::Http1 => {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(config.timeouts.request_head)
                .max_headers(config.sizes.max_headers)
                .max_buf_size(config.sizes.max_head_bytes.max(MIN_READ_BUFFER))
                .half_close(false)
                .serve_connection(io, service);
            watch.drive(connection).await;
        }
        Alpn::Http2 => {
            let connection = http2::Builder::new(streams.clone())
                .timer(TokioTimer::new())
                .max_concurrent_streams(config.sizes.max_streams)
                .max_header_list_size(
                    u32::try_from(config.sizes.max_head_bytes).unwrap_or(u32::MAX),
                )
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_pending_accept_reset_streams(PENDING_RESETS)
                .max_local_error_reset_streams(LOCAL_RESETS)
                .max_send_buf_size(SEND_BUFFER)
                .serve_connection(io, service);
            watch.drive(connection).await;
        }
    }
}

/// Both of hyper's server connections.
trait Connection: Future<Output = hyper::Result<()>> {
    /// Takes no more requests and ends with the last one: GOAWAY, or `Connection: close`.
    fn wind_down(self: Pin<&mut Self>);
}

impl<T, S> Connection for http1::Connection<T, S>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: Service<Request<Incoming>, Response = Response<Read<Turn>>, Error = Infallible>,
{
    fn wind_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<T, S> Connection for http2::Connection<T, S, Streams>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: Service<Request<Incoming>, Response = Response<Read<Turn>>, Error = Infallible>,
    S::Future: Send + 'static,
{
    fn wind_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Decides when a connection has to wind down or end. Revocation, quarantine and a bundle that no longer verifies the peer
/// will end it here, too. One timer per connection, none per request.
struct Watch<'c> {
    activity: &'c Activity,
    idle: Duration,
    ends: Option<SystemTime>,
    drain: Drain,
}

impl Watch<'_> {
    async fn drive(self, connection: impl Connection) {
        let mut connection = pin!(connection);
        let mut winding_down = false;
        let mut seen = self.activity.seen();
        let leave_at = self.ends.map(leave_at);
        let mut timer = pin!(tokio::time::sleep_until(self.next(leave_at, false)));
        let mut draining = pin!(self.drain.started());
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = draining.as_mut(), if !winding_down => {
                    winding_down = true;
                    connection.as_mut().wind_down();
                }
                () = timer.as_mut() => {
                    let now = SystemTime::now();
                    // Hard: nothing passes under a certificate that has ended.
                    if self.ends.is_some_and(|ends| now >= ends) {
                        tracing::info!("connection closed at the end of its certificate");
                        return;
                    }
                    let is_stalled = self.activity.is_stalled_since(seen);
                    seen = self.activity.seen();
                    if is_stalled && winding_down {
                        return;
                    }
                    let must_leave = leave_at.is_some_and(|leave_at| now >= leave_at);
                    if (is_stalled || must_leave) && !winding_down {
                        winding_down = true;
                        connection.as_mut().wind_down();
                    }
                    timer.as_mut().reset(self.next(leave_at, winding_down));
                }
            }
        }
    }

    /// When to look again: after the idle time, or when a certificate asks for it.
    fn next(&self, leave_at: Option<SystemTime>, winding_down: bool) -> Instant {
        let due = if winding_down { self.ends } else { leave_at };
        let wait = due.map_or(self.idle, |due| {
            // At least a moment, so that a clock behind the timer does not make this spin.
            let left = due.duration_since(SystemTime::now()).unwrap_or_default();
            left.max(Duration::from_millis(10)).min(self.idle)
        });
        Instant::now() + wait
    }
}

/// When a connection stops taking requests before its certificate ends: after the calling sidecar has moved on by
/// itself, and with time for requests in flight.
fn leave_at(ends: SystemTime) -> SystemTime {
    let left = ends.duration_since(SystemTime::now()).unwrap_or_default();
    ends - (left / 8).min(Duration::from_secs(10))
}

/// What happens on a connection, as far as deadlines care.
#[derive(Debug, Default)]
struct Activity {
    /// Reads and writes that moved bytes.
    moves: AtomicU32,
    /// Requests taken in.
    begun: AtomicU32,
    /// Requests whose response has not ended.
    open: AtomicU32,
    /// Requests whose response head is not there yet: those waits have deadlines of their own.
    waiting: AtomicU32,
}

/// What had happened on a connection when it was last looked at.
#[derive(Clone, Copy)]
struct Seen {
    moves: u32,
    begun: u32,
}

impl Activity {
    fn seen(&self) -> Seen {
        Seen {
            moves: self.moves.load(Ordering::Relaxed),
            begun: self.begun.load(Ordering::Relaxed),
        }
    }

    /// Whether no byte moved, or none for a request: a caller may send PING frames for ever.
    fn is_stalled_since(&self, seen: Seen) -> bool {
        let now = self.seen();
        let is_unused = self.open.load(Ordering::Relaxed) == 0 && now.begun == seen.begun;
        let is_waiting = self.waiting.load(Ordering::Relaxed) > 0;
        is_unused || (now.moves == seen.moves && !is_waiting)
    }
}

/// A request from its head to the end of its response.
struct Turn {
    activity: Arc<Activity>,
    is_answered: bool,
}

impl Turn {
    fn new(activity: &Arc<Activity>) -> Self {
        for count in [&activity.begun, &activity.open, &activity.waiting] {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            activity: Arc::clone(activity),
            is_answered: false,
        }
    }

    /// The response head is there.
    fn answered(&mut self) {
        if !std::mem::replace(&mut self.is_answered, true) {
            self.activity.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.answered();
        self.activity.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket whose activity is counted.
struct Observed<T> {
    stream: T,
    activity: Arc<Activity>,
}

impl<T> Observed<T> {
    fn count(&self, moved: bool) {
        if moved {
            self.activity.moves.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Observed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.count(buffer.filled().len() > before);
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Observed<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(written.is_ready());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.count(written.is_ready());
        written
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
