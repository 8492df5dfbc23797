//! The workload behind a sidecar: says what it was asked.

use super::head;
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UnixListener};

/// A Unix socket at `path` that leads to `app`.
pub(crate) fn unix_app(path: &Path, app: SocketAddr) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut app = TcpStream::connect(app).await.unwrap();
                // Ends with whichever side goes first.
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut app).await;
            });
        }
    });
}

/// An app that answers with the request it saw: the target on the first line, then a field per line (and the
/// trailers), then the body.
/// `/slow/<ms>` takes its time, `/bytes/<n>` answers so many.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl App {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<AtomicUsize>::default();
        let connections = Arc::<AtomicUsize>::default();
        let accepted = Arc::clone(&connections);
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, Arc::clone(&seen)));
            }
        });
        Self {
            address,
            requests,
            connections,
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(stream: TcpStream, seen: Arc<AtomicUsize>) {
    let mut start = [0; 3];
    let is_http2 = stream.peek(&mut start).await.is_ok() && &start == b"PRI";
    let service = service_fn(move |request| {
        seen.fetch_add(1, Ordering::SeqCst);
        echo(request)
    });
    let io = TokioIo::new(stream);
    // A test that cuts a connection makes this end with an error, which is not its own failure.
    if is_http2 {
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        server.serve_connection(io, service).await.ok();
    } else {
        let server = hyper::server::conn::http1::Builder::new();
        server.serve_connection(io, service).await.ok();
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    if let Some(wait) = path.strip_prefix("/slow/") {
        tokio::time::sleep(Duration::from_millis(wait.parse().unwrap())).await;
    }
    if let Some(length) = path.strip_prefix("/bytes/") {
        let bytes = vec![b'x'; length.parse().unwrap()];
        return Ok(Response::new(Full::new(Bytes::from(bytes))));
    }
    let mut text = format!("{path}\n{} {:?}\n", head.method, head.version);
    for (name, value) in &head.headers {
        text += &format!("{name}: {}\n", value.to_str().unwrap_or("?"));
    }
    if let Ok(body) = body.collect().await {
        for (name, value) in body.trailers().into_iter().flatten() {
            text += &format!("{name}: {}\n", value.to_str().unwrap_or("?"));
        }
        text += &format!("\n{}", String::from_utf8_lossy(&body.to_bytes()));
    }
    let mut response = Response::new(Full::new(Bytes::from(text)));
    if head.version == Version::HTTP_2 {
        let headers = response.headers_mut();
        headers.insert(
            "content-type",
            http::HeaderValue::from_static("application/grpc"),
        );
        headers.insert("grpc-status", http::HeaderValue::from_static("0"));
    }
    Ok(response)
}

/// An app that gives the same answer to every request head, and how many connections it took.
pub(crate) async fn raw_app(answer: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::<AtomicUsize>::default();
    let accepted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            accepted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                while !head(&mut stream).await.is_empty() {
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (address, connections)
}
