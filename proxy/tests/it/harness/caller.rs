//! Those who call: over mutual TLS as a sidecar would, in plain text as the workload does, or with raw bytes.

use super::Authority;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::{SpiffeId, Svid};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) trailers: HeaderMap,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn trailer(&self, name: &str) -> &str {
        self.trailers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The target that the app saw.
    pub(crate) fn target(&self) -> &str {
        self.body.lines().next().unwrap_or_default()
    }

    /// The values of a field that the app saw.
    pub(crate) fn seen(&self, name: &str) -> Vec<&str> {
        let prefix = format!("{name}: ");
        self.body
            .lines()
            .filter_map(|line| line.strip_prefix(prefix.as_str()))
            .collect()
    }
}

/// One connection.
pub(crate) enum Caller {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Caller {
    /// Over mutual TLS, to a sidecar that is `orders`.
    pub(crate) async fn http1(
        to: SocketAddr,
        authority: &Authority,
        svid: Option<&Svid>,
    ) -> io::Result<Self> {
        Ok(Self::plain_http1(tls(to, authority, svid, b"http/1.1").await?).await)
    }

    pub(crate) async fn http2(to: SocketAddr, authority: &Authority, svid: &Svid) -> Self {
        Self::over_http2(tls(to, authority, Some(svid), b"h2").await.unwrap()).await
    }

    /// As the workload speaks to its own sidecar.
    pub(crate) async fn workload(to: SocketAddr) -> Self {
        Self::plain_http1(TcpStream::connect(to).await.unwrap()).await
    }

    pub(crate) async fn workload_over(socket: &Path) -> Self {
        Self::plain_http1(UnixStream::connect(socket).await.unwrap()).await
    }

    pub(crate) async fn workload_http2(to: SocketAddr) -> Self {
        Self::over_http2(TcpStream::connect(to).await.unwrap()).await
    }

    async fn plain_http1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::Http1(sender)
    }

    async fn over_http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Self {
        let executor = TokioExecutor::new();
        let (sender, connection) = http2::handshake(executor, TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self::Http2(sender)
    }

    pub(crate) async fn get(&mut self, host: &str, path: &str) -> Reply {
        self.send(Request::get(path).header("host", host))
            .await
            .unwrap()
    }

    pub(crate) async fn send(&mut self, request: http::request::Builder) -> hyper::Result<Reply> {
        self.send_with(request, "").await
    }

    pub(crate) async fn send_with(
        &mut self,
        request: http::request::Builder,
        body: &'static str,
    ) -> hyper::Result<Reply> {
        let mut request = request
            .body(Full::new(Bytes::from_static(body.as_bytes())))
            .unwrap();
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Http2(sender) => {
                // A test that wrote the authority itself wants its Host field as it is.
                if request.uri().authority().is_none() {
                    let host = request.headers_mut().remove("host").unwrap();
                    let uri = format!("https://{}{}", host.to_str().unwrap(), request.uri());
                    *request.uri_mut() = uri.parse().unwrap();
                }
                *request.version_mut() = Version::HTTP_2;
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        read(response).await
    }

    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }
}

async fn read(response: Response<Incoming>) -> hyper::Result<Reply> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let body = body.to_bytes();
    Ok(Reply {
        trailers,
        status: head.status,
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    })
}

/// A connection to a sidecar that is `orders`, up to the end of the handshake on this side.
pub(crate) async fn tls(
    to: SocketAddr,
    authority: &Authority,
    svid: Option<&Svid>,
    alpn: &[u8],
) -> io::Result<TlsStream<TcpStream>> {
    let orders = SpiffeId::parse(super::ORDERS).unwrap();
    let bundle = Arc::new(Arc::new(authority.bundle()));
    let names = [alpn];
    // Without a name nothing is asked for.
    let names = &names[usize::from(alpn.is_empty())..];
    let config = identity::tls::client_config(svid, bundle, orders, names);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(to).await?;
    connector
        .connect(identity::tls::server_name(), stream)
        .await
}

/// Reads a response head, or what there is of one when the other side closes.
pub(crate) async fn head<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut bytes = Vec::new();
    let read = async {
        while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
            match stream.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .expect("an answer or a close within ten seconds");
    String::from_utf8_lossy(&bytes).into_owned()
}
