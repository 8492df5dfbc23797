use crate::harness::{
    App, Authority, FRONTEND, Life, ORDERS, Sidecar, grant_all, head, sidecar, tls,
};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

const IDLE: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(5);
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";

struct Mesh {
    authority: Authority,
    sidecar: Sidecar,
}

impl Mesh {
    fn new(app: SocketAddr) -> Self {
        let authority = Authority::new();
        let orders = authority.svid(ORDERS, Life::Hour);
        let sidecar = sidecar(&authority, orders, app, &grant_all(), |config| {
            config.timeouts.idle = IDLE;
            config.timeouts.response = IDLE;
        });
        Self { authority, sidecar }
    }

    async fn tls(&self, alpn: &[u8]) -> TlsStream<TcpStream> {
        let frontend = self.authority.svid(FRONTEND, Life::Hour);
        let to = self.sidecar.inbound;
        tls(to, &self.authority, Some(&frontend), alpn)
            .await
            .unwrap()
    }

    /// A caller that reads no more than `window` bytes ahead on a stream.
    async fn http2(&self, window: u32) -> SendRequest<Empty<Bytes>> {
        let io = TokioIo::new(self.tls(b"h2").await);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(io)
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    let uri = format!("https://orders.example{path}");
    Request::get(uri).body(Empty::new()).unwrap()
}

/// An app that answers one request with [`HEAD`] and then reads; what it read is told when its connection has ended.
async fn app_that_stops() -> (SocketAddr, oneshot::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ended, end) = oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        stream.write_all(HEAD).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.ok();
        ended.send(rest).ok();
    });
    (address, end)
}

#[tokio::test]
async fn a_response_that_stops_ends_its_stream_and_the_apps_connection() {
    let (app, end) = app_that_stops().await;
    let mesh = Mesh::new(app);
    let mut caller = mesh.http2(65_535).await;
    let response = caller.send_request(get("/a")).await.unwrap();
    let body = timeout(SOON, response.into_body().collect()).await;
    assert!(body.expect("ended").is_err(), "must not look complete");
    timeout(SOON, end)
        .await
        .expect("app's connection ended")
        .unwrap();
    assert!(!caller.is_closed(), "the connection has done nothing wrong");
}

#[tokio::test]
async fn a_response_that_stops_ends_an_http1_connection() {
    let (app, end) = app_that_stops().await;
    let mesh = Mesh::new(app);
    let mut stream = mesh.tls(b"http/1.1").await;
    let request = b"GET /a HTTP/1.1\r\nHost: orders.example\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "still open");
    assert!(!answer.ends_with(b"0\r\n\r\n"), "must not look complete");
    timeout(SOON, end)
        .await
        .expect("app's connection ended")
        .unwrap();
}

#[tokio::test]
async fn an_upload_that_goes_on_keeps_its_response_open() {
    let (app, end) = app_that_stops().await;
    let mesh = Mesh::new(app);
    let mut stream = mesh.tls(b"http/1.1").await;
    let request = b"POST /a HTTP/1.1\r\nHost: orders.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(request).await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    for _ in 0..16 {
        stream.write_all(chunk.as_bytes()).await.unwrap();
        sleep(IDLE / 4).await;
    }
    // Then it stops.
    let received = timeout(SOON, end).await.expect("ended").unwrap();
    assert!(received.len() > 16 * 0x1000, "{} bytes", received.len());
}

/// A byte now and then used to keep an upload, its connection and the app's alive for ever.
#[tokio::test]
async fn an_upload_that_stops_or_trickles_gets_a_status_in_time() {
    let app = App::start().await;
    let mesh = Mesh::new(app.address);
    for trickles in [false, true] {
        let mut stream = mesh.tls(b"http/1.1").await;
        let request = b"POST /a HTTP/1.1\r\nHost: orders.example\r\nContent-Length: 4096\r\n\r\nx";
        stream.write_all(request).await.unwrap();
        let (mut reading, mut writing) = tokio::io::split(stream);
        let trickle = tokio::spawn(async move {
            while trickles && writing.write_all(b"x").await.is_ok() {
                sleep(IDLE / 10).await;
            }
        });
        let answer = head(&mut reading).await;
        assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
        trickle.abort();
    }
}

#[tokio::test]
async fn a_response_has_its_whole_time_after_a_long_upload() {
    let app = App::start().await;
    let mesh = Mesh::new(app.address);
    let mut stream = mesh.tls(b"http/1.1").await;
    let request =
        b"POST /slow/200 HTTP/1.1\r\nHost: orders.example\r\nContent-Length: 20480\r\n\r\n";
    stream.write_all(request).await.unwrap();
    for _ in 0..5 {
        stream.write_all(&[b'x'; 4096]).await.unwrap();
        sleep(IDLE / 3).await;
    }
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Nothing moves towards a reader that has stopped, and nothing asked for its stream: it held the app's connection for
/// as long as its neighbours lived.
#[tokio::test]
async fn a_reader_that_stops_loses_its_stream_and_not_its_neighbours() {
    let app = App::start().await;
    let mesh = Mesh::new(app.address);
    let mut caller = mesh.http2(1024).await;
    let stalled = caller.send_request(get("/bytes/4000000")).await.unwrap();
    assert_eq!(stalled.status(), StatusCode::OK);
    let begun = Instant::now();
    while begun.elapsed() < 4 * IDLE {
        let response = caller.send_request(get("/a")).await.unwrap();
        assert!(response.into_body().collect().await.is_ok());
        sleep(IDLE / 10).await;
    }
    let body = timeout(SOON, stalled.into_body().collect()).await;
    assert!(body.expect("ended").is_err(), "must have been reset");
}

/// The last piece of an answer used to be waited for, and then the next request was taken all the same.
#[tokio::test]
async fn a_reader_that_stops_gets_no_further_answers_on_http1() {
    let app = App::start().await;
    let mesh = Mesh::new(app.address);
    let mut stream = mesh.tls(b"http/1.1").await;
    let requests = b"GET /bytes/2000 HTTP/1.1\r\nHost: orders.example\r\n\r\n".repeat(1000);
    let flood = async { while stream.write_all(&requests).await.is_ok() {} };
    timeout(2 * SOON, flood).await.expect("cut off");
}

/// PING frames used to count as activity.
#[tokio::test]
async fn a_connection_without_requests_ends_although_it_pings() {
    let app = App::start().await;
    let mesh = Mesh::new(app.address);
    let io = TokioIo::new(mesh.tls(b"h2").await);
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(hyper_util::rt::TokioTimer::new())
        .keep_alive_interval(IDLE / 10)
        .keep_alive_while_idle(true)
        .handshake::<_, Empty<Bytes>>(io)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let response = sender.send_request(get("/a")).await.unwrap();
    assert!(response.into_body().collect().await.is_ok());
    timeout(SOON, connection)
        .await
        .expect("sent away")
        .unwrap()
        .ok();
}

/// What a reader has not taken stays with the app: nothing of ours grows with the response.
#[tokio::test]
async fn a_response_waits_at_the_app_for_its_reader() {
    const MIB: usize = 1024 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = Mesh::new(listener.local_addr().unwrap());
    let mut caller = mesh.http2(1024).await;
    let response = tokio::spawn(caller.send_request(get("/a")));
    let (mut app, _) = listener.accept().await.unwrap();
    head(&mut app).await;
    app.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n")
        .await
        .unwrap();
    let response = response.await.unwrap().unwrap();
    let mut written = 0;
    let chunk = vec![b'x'; MIB];
    while let Ok(Ok(bytes)) = timeout(IDLE / 3, app.write(&chunk)).await {
        written += bytes;
    }
    // Both ends' socket buffers of the system take some megabytes.
    assert!(written < 32 * MIB, "{written} bytes");
    drop(response);
}
