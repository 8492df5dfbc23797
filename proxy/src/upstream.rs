//! Connections to where requests go: the local app ([`http1`], or [`http2`] in plain text for gRPC) and other sidecars
//! ([`http2`] over mutual TLS). Pools belong to one worker.

pub(crate) mod balance;
pub(crate) mod call;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod reach;
pub(crate) mod retry;

pub(crate) mod random;

use crate::body::{Broken, Piece};
use crate::config::{Config, Destination, Endpoint};
use crate::error::{ConnectError, Failure};
use crate::h1;
use crate::h1::head::Framing;
use crate::metrics::{Direction, Metrics};
use crate::redirect::OwnPorts;
use crate::socket::Socket;
use crate::tls::{Connected, Connector, Credentials, tls_reason};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, response};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

/// A server outside that acknowledges nothing for so long is gone. As a sidecar that answers no PING.
const GONE: Duration = Duration::from_secs(20);

/// The server's side of one exchange. Dropping it before both bodies have ended closes an HTTP/1.1 connection and resets an
/// HTTP/2 stream, since what is left on it belongs to nobody.
#[derive(Debug)]
pub(crate) enum Upstream {
    Http1(Box<h1::client::Connection>),
    Http2(http2::Stream),
}

impl Upstream {
    /// Whether the request asks for another protocol, and nothing has come of it yet.
    pub(crate) fn asks_for_upgrade(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.asks_for_upgrade(),
            Self::Http2(stream) => stream.asks_for_upgrade(),
        }
    }

    /// Waits until a piece of the request's body may be sent.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::Http1(connection) => connection.poll_room(cx),
            Self::Http2(stream) => stream.sender.poll_room(cx),
        }
    }

    /// Sends a piece of the request's body; `ends` says that nothing follows.
    pub(crate) fn send(&mut self, data: Bytes, ends: bool) -> Result<(), Broken> {
        match self {
            Self::Http1(connection) => {
                connection.send(data);
                Ok(())
            }
            Self::Http2(stream) => stream.sender.send(data, ends),
        }
    }

    pub(crate) fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        match self {
            Self::Http1(connection) => {
                connection.end(trailers.as_ref());
                Ok(())
            }
            Self::Http2(stream) => stream.sender.end(trailers),
        }
    }

    /// Waits until what was sent has left our hands.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::Http1(connection) => connection.poll_flush(cx),
            Self::Http2(stream) => stream.sender.poll_room(cx),
        }
    }

    /// Waits for the response head, and says how its body comes.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(response::Parts, Framing), Broken>> {
        match self {
            Self::Http1(connection) => connection.poll_head(cx),
            Self::Http2(stream) => stream.poll_head(cx),
        }
    }

    /// The next piece of the response's body; `None` is its end.
    pub(crate) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, Broken>>> {
        match self {
            Self::Http1(connection) => connection.poll_body(cx),
            Self::Http2(stream) => stream.poll_body(cx),
        }
    }

    /// Whether the whole response was read.
    pub(crate) fn is_end(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_end(),
            Self::Http2(stream) => stream.is_end(),
        }
    }
}

/// How long an exchange, and each step of it, may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    pub(crate) begun: Instant,
    /// Of a gRPC call with a deadline: until then it is wanted.
    pub(crate) ends: Option<Instant>,
    pub(crate) connect: Duration,
    /// To the response head, over all attempts.
    pub(crate) response: Duration,
    /// The same of one attempt that another may follow.
    pub(crate) attempt: Option<Duration>,
    /// Without any of the two bodies moving.
    pub(crate) idle: Duration,
    /// The same of a connection that was upgraded.
    pub(crate) tunnel_idle: Duration,
    /// Of a pooled connection to the app.
    pub(crate) rest: Duration,
}

impl Deadlines {
    /// Of an exchange that began at `begun`.
    pub(crate) fn of(config: &Config, begun: Instant) -> Self {
        let timeouts = &config.timeouts;
        Self {
            begun,
            ends: None,
            connect: timeouts.upstream_connect,
            response: timeouts.response,
            attempt: None,
            idle: timeouts.idle,
            tunnel_idle: timeouts.tunnel_idle,
            rest: timeouts.app_idle,
        }
    }

    /// Those of a gRPC call: it ends when its caller says.
    pub(crate) fn of_call(self, headers: &HeaderMap) -> Result<Self, Failure> {
        let timeout = call::timeout(headers)?;
        if timeout == Some(Duration::ZERO) {
            return Err(Failure::DeadlineExceeded);
        }
        // What the clock cannot count to is no limit.
        let ends = timeout.and_then(|timeout| self.begun.checked_add(timeout));
        Ok(Self { ends, ..self })
    }

    /// How long the request may wait for a connection, having last moved at `moved`.
    pub(crate) fn wait(&self, moved: Instant) -> Wait {
        let head = moved + self.response;
        Wait {
            connect: self.connect,
            until: self.ends.map_or(head, |ends| head.min(ends)),
            parts: 1,
        }
    }

    pub(crate) fn first_wait(&self) -> Wait {
        self.wait(self.begun)
    }

    /// Tells the next hop how long the call is still wanted.
    pub(crate) fn pass_on(&self, headers: &mut HeaderMap) -> Result<(), Failure> {
        self.ends
            .map_or(Ok(()), |ends| call::pass_on(headers, ends))
    }

    /// Why a request that got no connection is answered.
    pub(crate) fn failure(&self, error: ConnectError) -> Failure {
        match self.are_over() {
            true => Failure::DeadlineExceeded,
            false => error.into(),
        }
    }

    /// Whether nobody wants the call any more.
    pub(crate) fn are_over(&self) -> bool {
        self.ends.is_some_and(|ends| ends <= Instant::now())
    }
}

/// How long a request waits for a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    /// What one may take to be made.
    pub(crate) connect: Duration,
    /// When the request has no time left for it.
    pub(crate) until: Instant,
    /// Of the time that is left, one part of so many may be waited for this one.
    pub(crate) parts: u32,
}

impl Wait {
    pub(crate) fn limit(&self) -> Duration {
        let left = self.until.saturating_duration_since(Instant::now());
        (left / self.parts).min(self.connect)
    }
}

/// Connects and shakes hands with a sidecar; the caller of this sets the deadline.
pub(crate) async fn connect_sidecar(
    destination: &Destination,
    connector: &Connector,
    metrics: &Metrics,
) -> Result<Connected<Box<dyn Socket>>, ConnectError> {
    let credentials = connector.credentials()?;
    connect_sidecar_with(destination, (connector, credentials), metrics).await
}

/// The same with credentials of that connector's.
pub(crate) async fn connect_sidecar_with(
    destination: &Destination,
    (connector, credentials): (&Connector, Credentials),
    metrics: &Metrics,
) -> Result<Connected<Box<dyn Socket>>, ConnectError> {
    let stream = connect(destination).await?;
    let connected = connector.connect(credentials, stream).await;
    let connected = connected.inspect_err(|error| {
        let reason = match error {
            ConnectError::Handshake(error) => tls_reason(error),
            other => other.reason(),
        };
        metrics.handshake_failure(Direction::Outbound, reason);
    })?;
    metrics.handshake(Direction::Outbound);
    Ok(connected)
}

/// Opens a connection in plain text; the caller of this sets the deadline.
pub(crate) async fn connect(destination: &Destination) -> Result<Box<dyn Socket>, ConnectError> {
    match destination {
        Destination::Tcp(endpoint) => Ok(Box::new(connect_tcp(endpoint).await?)),
        Destination::Unix(path) => match UnixStream::connect(path).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(ConnectError::Io(Arc::new(error))),
        },
    }
}

/// The same to a server outside the mesh, which is never this sidecar: a name can stand for any address.
pub(crate) async fn connect_outside(
    destination: &Destination,
    own: &OwnPorts,
) -> Result<Box<dyn Socket>, ConnectError> {
    let Destination::Tcp(endpoint) = destination else {
        return connect(destination).await;
    };
    let stream = connect_tcp(endpoint).await?;
    notice_loss(&stream).map_err(|error| ConnectError::Io(Arc::new(error)))?;
    let address = stream.peer_addr();
    let address = address.map_err(|error| ConnectError::Io(Arc::new(error)))?;
    if own.lead_to(address) {
        return Err(ConnectError::Loop);
    }
    Ok(Box::new(stream))
}

/// Has the kernel end a connection whose other side is gone without a word. Of sidecars their HTTP/2 connections tell that
/// (PING), but to servers of others that may look like an attack: those of gRPC end connections over it.
fn notice_loss(stream: &TcpStream) -> io::Result<()> {
    let stream = SockRef::from(stream);
    stream.set_tcp_user_timeout(Some(GONE))?;
    let keep_alive = TcpKeepalive::new().with_time(GONE / 2);
    stream.set_tcp_keepalive(&keep_alive.with_interval(GONE / 4))
}

/// Opens a TCP connection. Addresses are tried in the resolver's order.
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
    // Of most requests the method says enough.
    method == Method::POST
        && headers
            .get(CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
