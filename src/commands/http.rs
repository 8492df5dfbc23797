//! Small HTTP/1 listeners of the CA and the agent: each answers from memory, to anyone who may connect.
//!
//! Nobody keeps a place for long, and no address has all of them; on loopback (`http/local.rs`) no user but root and our own.

pub(super) mod local;

use anyhow::Context;
use bytes::Bytes;
use ca::server::Shares;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// A list of 65 536 certificates takes seconds on a slow line.
const TIMES: Times = Times {
    head: Duration::from_secs(5),
    connection: Duration::from_secs(15),
};
/// How long the loop rests after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection may take.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// From its beginning, or the answer before, to the end of a request's head.
    head: Duration,
    /// For all of its requests together.
    connection: Duration,
}

/// Connections at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Whoever comes beyond waits for a place.
    pub(super) connections: usize,
    /// Of these, how many one address may hold; more are closed at once.
    pub(super) per_address: usize,
}

/// A bound listener that does not answer yet.
#[derive(Debug)]
pub(super) struct Listener {
    listener: TcpListener,
    limits: Limits,
}

/// What is answered. Nothing of it is for caches: it is asked for because it may have changed.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: text.into(),
        }
    }
}

impl From<Answer> for Response<Full<Bytes>> {
    fn from(answer: Answer) -> Self {
        let mut response = Self::new(Full::new(answer.body));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}

impl Listener {
    /// # Errors
    /// When `address` cannot be bound.
    pub(super) async fn bind(address: SocketAddr, limits: Limits) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        Ok(Self { listener, limits })
    }

    /// Answers for as long as it is polled; its connections end with it.
    pub(super) async fn serve<F, R>(self, answer: F)
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Answer> + Send,
    {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let shares = Shares::new(self.limits.per_address);
        let mut connections = JoinSet::new();
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            while connections.try_join_next().is_some() {}
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(share) = shares.admit_address(peer.ip()) else {
                // For whoever looks for the reason: anyone can bring it about as often as it likes.
                let most = self.limits.per_address;
                tracing::debug!(address = %peer.ip(), most, "connection closed: its address has as many as it may");
                continue;
            };
            let answer = answer.clone();
            connections.spawn(async move {
                serve_connection(stream, answer, TIMES).await;
                drop((place, share));
            });
        }
    }
}

async fn serve_connection<S, F, R>(stream: S, answer: F, times: Times)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Answer>,
{
    let service = service_fn(|request| {
        let answering = answer(request);
        async { Ok::<Response<_>, Infallible>(answering.await.into()) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(times.head)
        .serve_connection(TokioIo::new(stream), service);
    // A broken connection concerns nobody else, and a slow one no more than its place.
    tokio::time::timeout(times.connection, connection)
        .await
        .ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpSocket, TcpStream};

    const LIMITS: Limits = Limits {
        connections: 4,
        per_address: 2,
    };

    async fn served() -> (SocketAddr, JoinSet<()>) {
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(any, LIMITS).await.unwrap();
        let address = listener.listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(listener.serve(async |_| Answer::text(StatusCode::OK, "here\n")));
        (address, task)
    }

    pub(super) async fn connect(from: &str, to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        let from = SocketAddr::new(from.parse().unwrap(), 0);
        socket.bind(from).unwrap();
        socket.connect(to).await.unwrap()
    }

    /// What is answered before the connection ends.
    pub(super) async fn ask(mut stream: TcpStream) -> String {
        let request = b"GET / HTTP/1.1\r\nhost: ca\r\nconnection: close\r\n\r\n";
        // One that is refused may be gone by now.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn one_address_cannot_keep_the_answers_from_the_others() {
        let (address, _task) = served().await;
        let mut held = Vec::new();
        for _ in 0..2 * LIMITS.connections {
            held.push(connect("127.0.0.2", address).await);
        }
        assert_eq!(ask(connect("127.0.0.2", address).await).await, "");
        let answer = ask(connect("127.0.0.3", address).await).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
        assert!(answer.contains("cache-control: no-cache"), "{answer:?}");
    }

    #[tokio::test]
    async fn who_is_slow_loses_its_place() {
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(60));
        for (head, connection) in [(short, long), (long, short)] {
            let (_silent, ours) = tokio::io::duplex(1024);
            let times = Times { head, connection };
            let answer = async |_| Answer::text(StatusCode::OK, "here\n");
            let served = serve_connection(ours, answer, times);
            tokio::time::timeout(long / 2, served).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_connections_end_with_their_listener() {
        let (address, mut task) = served().await;
        let mut stream = connect("127.0.0.2", address).await;
        let first = b"GET / HTTP/1.1\r\nhost: ca\r\n\r\n";
        stream.write_all(first).await.unwrap();
        assert_ne!(stream.read(&mut [0; 1024]).await.unwrap(), 0);
        task.shutdown().await;
        let end = stream.read(&mut [0; 1024]).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}
