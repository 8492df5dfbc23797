//! One connection: HTTP/2, calls to one of two services, told to go away when it has been of no use.
//!
//! A call is admitted by what the kernel says of the caller; only then is what it sends read.

use super::arriving::{Arriving, Ends};
use super::authority::Readable;
use super::{Service, Shared, Tasks};
use crate::call::{Calls, Entitlement};
use crate::caller::Peer;
use crate::proto::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryServiceServer;
use crate::proto::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use crate::sds::Sds;
use crate::workload_api::{self, WorkloadApi};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service as _;

/// The largest message to the Workload API: a token to validate.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;
/// The same to SDS: Envoy says with its first request what it is made of, some hundreds of extensions.
const MAX_SDS_MESSAGE_BYTES: usize = 64 * 1024;
/// From the beginning of a message to its end.
const MESSAGE: Duration = Duration::from_secs(10);
/// Calls open at once on one connection. Envoy opens a stream for each secret, and another connection when these are open.
const MAX_STREAMS: u32 = 32;
const MAX_HEADER_BYTES: u32 = 8 * 1024;
/// Both windows. What callers send is small.
const WINDOW_BYTES: u32 = 64 * 1024;
/// How soon a process that is stuck is noticed. One that has ended closes its socket.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection on which nothing was called for this long is closed.
const IDLE: Duration = Duration::from_secs(300);
/// The same before its first call: whoever connects means to call.
const FIRST_CALL: Duration = Duration::from_secs(10);
/// From the word to go away to the end.
const GOODBYE: Duration = Duration::from_secs(5);

const WORKLOAD_API: &str = "/SpiffeWorkloadAPI/";
const SDS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/";
/// The one call of SDS that is not a stream of messages.
const SDS_FETCH: &str = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets";

/// Serves one socket until the caller closes it, it is idle, or the server drains.
pub(super) async fn serve(
    service: Service,
    stream: UnixStream,
    (peer, shared): (Peer, Shared),
    is_admitted: bool,
) {
    let drain = service.tasks.drain.clone();
    let tasks = service.tasks.clone();
    // Ends the streams of this connection on every way out.
    let leaving = drain.child_token();
    let _left = leaving.clone().drop_guard();
    let room = Arc::clone(&shared.room);
    let calls = Calls::new(service, (peer, shared), is_admitted, leaving.clone());
    let use_of = Arc::new(Use::default());
    let in_vain = CancellationToken::new();
    let connection = builder(tasks).serve_connection(
        TokioIo::new(Readable::new(stream)),
        service_fn(|request| {
            let (calls, open, in_vain) = (calls.clone(), use_of.begin(), in_vain.clone());
            let room = Arc::clone(&room);
            async move {
                let response = match calls.authenticate().await {
                    Ok(entitlement) => {
                        open.0.is_served.store(true, Ordering::Relaxed);
                        answer(entitlement, request, room).await
                    }
                    Err(refusal) => {
                        if !open.0.is_served.load(Ordering::Relaxed) {
                            in_vain.cancel();
                        }
                        refusal.into_http()
                    }
                };
                // The call is open for as long as its body is.
                Ok::<_, Infallible>(response.map(|body| Body::new(Held { body, _open: open })))
            }
        }),
    );
    let mut connection = pin!(connection);
    tokio::select! {
        _ = &mut connection => return,
        () = use_of.is_over() => {}
        () = in_vain.cancelled() => {}
        () = drain.cancelled() => {}
    }
    leaving.cancel();
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GOODBYE, connection).await;
}

fn builder(tasks: Tasks) -> http2::Builder<Tasks> {
    let mut builder = http2::Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

async fn answer(
    entitlement: Entitlement,
    request: Request<Incoming>,
    room: Arc<Semaphore>,
) -> Response<Body> {
    let path = request.uri().path();
    let answered = if path.starts_with(WORKLOAD_API) {
        if let Err(refusal) = workload_api::check_header(request.headers()) {
            return refusal.into_http();
        }
        let request = request.map(|body| Arriving::new(body, Ends::Body, MESSAGE, room));
        SpiffeWorkloadApiServer::new(WorkloadApi(entitlement))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .call(request)
            .await
    } else if path.starts_with(SDS) {
        let ends = if path == SDS_FETCH {
            Ends::Body
        } else {
            Ends::EachMessage
        };
        let request = request.map(|body| Arriving::new(body, ends, MESSAGE, room));
        SecretDiscoveryServiceServer::new(Sds(entitlement))
            .max_decoding_message_size(MAX_SDS_MESSAGE_BYTES)
            .call(request)
            .await
    } else {
        Ok(Status::unimplemented("no such service on this socket").into_http())
    };
    match answered {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// What a connection is used for: how many calls it has open, and has had.
#[derive(Debug, Default)]
struct Use {
    /// Whether a call was ever admitted. A connection whose first one is refused is of no use.
    is_served: AtomicBool,
    open: AtomicUsize,
    begun: AtomicUsize,
}

impl Use {
    fn begin(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }

    /// Ready when nothing was called for too long.
    async fn is_over(&self) {
        sleep(FIRST_CALL).await;
        let mut begun = self.begun.load(Ordering::Relaxed);
        if begun == 0 {
            return;
        }
        loop {
            sleep(IDLE).await;
            let now = self.begun.load(Ordering::Relaxed);
            if self.open.load(Ordering::Relaxed) == 0 && now == begun {
                return;
            }
            begun = now;
        }
    }
}

/// One open call.
#[derive(Debug)]
struct Open(Arc<Use>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response body during which the call counts as open.
struct Held {
    body: Body,
    _open: Open,
}

impl hyper::body::Body for Held {
    type Data = <Body as hyper::body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Status>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
