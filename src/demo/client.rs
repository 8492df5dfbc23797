//! A plain HTTP/1.1 client: what `curl` would do in the caller's place.

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Longer than any deadline of the sidecars' own, so that their answer is what we see.
const PATIENCE: Duration = Duration::from_secs(15);

/// A request, named as a person would type it.
#[derive(Debug, Clone)]
pub(super) struct Call<'a> {
    pub(super) to: SocketAddr,
    pub(super) host: &'a str,
    pub(super) method: Method,
    pub(super) path: &'a str,
}

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Call<'_> {
    /// The same call as a shell command.
    pub(super) fn as_curl(&self) -> String {
        let method = match self.method {
            Method::GET => String::new(),
            ref other => format!("-X {other} "),
        };
        format!(
            "curl -i {method}-H 'Host: {}' http://{}{}",
            self.host, self.to, self.path
        )
    }

    pub(super) async fn send(&self) -> anyhow::Result<Reply> {
        Connection::open(self.to).await?.send(self).await
    }
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_str(&self.body)
            .with_context(|| format!("expected a JSON body, found {:?}", self.body))
    }
}

/// One keep-alive connection.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
}

impl Connection {
    pub(super) async fn open(to: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to)
            .await
            .with_context(|| format!("connecting to {to}"))?;
        stream.set_nodelay(true).context("setting TCP_NODELAY")?;
        Self::over(stream).await
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> anyhow::Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .context("starting HTTP/1.1")?;
        // Ends when `sender` is dropped or the peer closes.
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    pub(super) async fn send(&mut self, call: &Call<'_>) -> anyhow::Result<Reply> {
        let request = Request::builder()
            .method(&call.method)
            .uri(call.path)
            .header("host", call.host)
            .body(Empty::new())
            .context("building the request")?;
        let exchange = async {
            let (head, body) = self.sender.send_request(request).await?.into_parts();
            Ok::<_, hyper::Error>((head, body.collect().await?.to_bytes()))
        };
        let Ok(outcome) = tokio::time::timeout(PATIENCE, exchange).await else {
            bail!("no answer within {PATIENCE:?} to {}", call.as_curl());
        };
        let (head, body) = outcome.with_context(|| format!("sending {}", call.as_curl()))?;
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

/// POSTs to a sidecar's administration socket.
pub(super) async fn post_to_socket(socket: &Path, path: &str) -> anyhow::Result<Reply> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("connecting to {}", socket.display()))?;
    let to = SocketAddr::from(([127, 0, 0, 1], 0));
    let call = Call {
        to,
        host: "localhost",
        method: Method::POST,
        path,
    };
    Connection::over(stream).await?.send(&call).await
}
