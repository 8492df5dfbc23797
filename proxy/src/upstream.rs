//! Connections to where requests go: the local app ([`http1`], or [`http2`] in plain text for gRPC) and other sidecars
//! ([`http2`] over mutual TLS). Pools belong to one worker.

pub(crate) mod http1;
pub(crate) mod http2;

use crate::config::Endpoint;
use crate::error::ConnectError;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;

/// A connection on loan to one exchange. Dropping it before [`Lease::give_back`] closes an HTTP/1.1 connection, since
/// what is left on it belongs to nobody.
#[derive(Debug)]
pub(crate) enum Lease {
    Http1(http1::Lease),
    Http2(#[expect(dead_code, reason = "counts the stream until dropped")] http2::Stream),
}

impl Lease {
    /// The exchange is over and the connection at a message boundary.
    pub(crate) fn give_back(self) {
        match self {
            Self::Http1(lease) => lease.give_back(),
            Self::Http2(_) => {}
        }
    }
}

/// How long each step towards a response head may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    pub(crate) connect: Duration,
    pub(crate) response: Duration,
}

/// The caller's body on its way up, counted.
#[derive(Debug)]
pub(crate) struct RequestBody {
    inner: Incoming,
    /// None for a request without a body, which is most of them: nothing to count, nothing to allocate.
    sent: Option<Arc<AtomicU64>>,
}

impl RequestBody {
    pub(crate) fn new(inner: Incoming) -> Self {
        let sent = (!inner.is_end_stream()).then(Arc::default);
        Self { inner, sent }
    }

    /// Bytes passed on so far; shared, since the body itself moves into the connection's task.
    pub(crate) fn progress(&self) -> Option<Arc<AtomicU64>> {
        self.sent.clone()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(sent)) = (&frame, &self.sent)
            && let Some(data) = frame.data_ref()
        {
            sent.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Waits for a response head. The deadline starts anew while the upload makes progress: a large body is no slow app.
pub(crate) async fn within<T>(
    limit: Duration,
    progress: Option<&AtomicU64>,
    response: impl Future<Output = T>,
) -> Option<T> {
    let mut response = std::pin::pin!(response);
    let mut seen = 0;
    loop {
        if let Ok(done) = tokio::time::timeout(limit, response.as_mut()).await {
            return Some(done);
        }
        match progress.map(|sent| sent.load(Ordering::Relaxed)) {
            Some(sent) if sent != seen => seen = sent,
            _ => return None,
        }
    }
}

/// Opens a TCP connection. Addresses are tried in the resolver's order; the caller of this sets the deadline.
async fn connect_tcp(endpoint: &Endpoint) -> Result<TcpStream, ConnectError> {
    let connected = match endpoint.host.parse::<IpAddr>() {
        Ok(address) => TcpStream::connect((address, endpoint.port)).await,
        Err(_) => TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await,
    };
    let stream = connected.map_err(|error| ConnectError::Io(Arc::new(error)))?;
    stream
        .set_nodelay(true)
        .map_err(|error| ConnectError::Io(Arc::new(error)))?;
    Ok(stream)
}

/// Whether a gRPC call: decides the protocol towards the app, and the form of a refusal.
pub(crate) fn is_grpc(method: &Method, headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(CONTENT_TYPE)
        .map_or(&[][..], HeaderValue::as_bytes);
    method == Method::POST && content_type.starts_with(b"application/grpc")
}
