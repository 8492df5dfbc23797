//! Connections to where requests go: the local app ([`http1`], or [`http2`] in plain text for gRPC) and other sidecars
//! ([`http2`] over mutual TLS). Pools belong to one worker.

pub(crate) mod http1;
pub(crate) mod http2;

use crate::config::Endpoint;
use crate::error::ConnectError;
use crate::normalize::strip_trailers;
use crate::progress::{BodyError, Patience, Upload};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
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

/// How long each step of an exchange may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    pub(crate) connect: Duration,
    pub(crate) response: Duration,
    /// Between two frames of a body.
    pub(crate) idle: Duration,
}

/// The caller's body on its way up.
#[derive(Debug)]
pub(crate) struct RequestBody {
    inner: Incoming,
    patience: Patience,
    /// None for a request without a body, which is most of them: nothing to count, nothing to allocate.
    upload: Option<Arc<Upload>>,
}

impl RequestBody {
    /// `is_stream` says that single small messages are to be expected.
    pub(crate) fn new(inner: Incoming, deadlines: Deadlines, is_stream: bool) -> Self {
        let upload = (!inner.is_end_stream()).then(|| Arc::new(Upload::new(is_stream)));
        Self {
            inner,
            // Until there is a response head it is `within` that ends an upload, with a status.
            patience: Patience::new(deadlines.idle.max(deadlines.response)),
            upload,
        }
    }

    /// Shared, since the body itself moves into the connection's task.
    pub(crate) fn upload(&self) -> Option<Arc<Upload>> {
        self.upload.clone()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Poll::Ready(mut frame) = Pin::new(&mut this.inner).poll_frame(cx)? else {
            return this.patience.poll_stall(this.upload.as_deref(), cx);
        };
        this.patience.renew();
        if let Some(trailers) = frame.as_mut().and_then(Frame::trailers_mut) {
            strip_trailers(trailers);
        }
        if let Some(upload) = &this.upload {
            if let Some(data) = frame.as_ref().and_then(Frame::data_ref) {
                upload.pass(data.len() as u64);
            }
            if frame.is_none() || this.inner.is_end_stream() {
                upload.touch();
            }
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
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
