use crate::harness::{
    App, Authority, Caller, FRONTEND, Life, ORDERS, Sidecar, grant, grant_all, head, raw_app,
    sidecar, tls,
};
use http::{Method, Request, StatusCode};
use identity::Svid;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

const HOST: &str = "orders.example";
const SOON: Duration = Duration::from_secs(5);

struct Mesh {
    authority: Authority,
    frontend: Svid,
    sidecar: Sidecar,
}

impl Mesh {
    fn new(app: SocketAddr, documents: &str) -> Self {
        let authority = Authority::new();
        let orders = authority.svid(ORDERS, Life::Hour);
        Self {
            frontend: authority.svid(FRONTEND, Life::Hour),
            sidecar: sidecar(&authority, orders, app, documents, |config| {
                config.timeouts.idle = Duration::from_millis(500);
            }),
            authority,
        }
    }

    async fn callers(&self) -> [Caller; 2] {
        let (to, authority) = (self.sidecar.inbound, &self.authority);
        let http1 = Caller::http1(to, authority, Some(&self.frontend)).await;
        let http2 = Caller::http2(to, authority, &self.frontend).await;
        [http1.unwrap(), http2]
    }

    async fn raw(&self) -> TlsStream<TcpStream> {
        let svid = Some(&self.frontend);
        tls(self.sidecar.inbound, &self.authority, svid, b"http/1.1")
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn a_caller_that_waits_to_be_told_to_continue_is() {
    let app = App::start().await;
    let mesh = Mesh::new(app.address, &grant_all());
    let mut stream = mesh.raw().await;
    let request = format!(
        "POST /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let interim = head(&mut stream).await;
    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"a body").await.unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(!answer.contains("expect:"), "{answer}");
}

/// On HTTP/2 nobody told it.
#[tokio::test]
async fn a_caller_on_http2_that_waits_to_be_told_to_continue_is_unless_it_is_refused() {
    let app = App::start().await;
    let mesh = Mesh::new(
        app.address,
        &grant("allow: [{methods: [POST], path: \"/a\"}]"),
    );
    let svid = Some(&mesh.frontend);
    let stream = tls(mesh.sidecar.inbound, &mesh.authority, svid, b"h2").await;
    let (mut sender, connection) = h2::client::handshake(stream.unwrap()).await.unwrap();
    tokio::spawn(connection);
    for (path, expects, told, status) in [
        ("/a", "100-continue", true, StatusCode::OK),
        ("/a", "", false, StatusCode::OK),
        ("/b", "100-continue", false, StatusCode::FORBIDDEN),
    ] {
        let mut request = Request::post(format!("https://{HOST}{path}"));
        if !expects.is_empty() {
            request = request.header("expect", expects);
        }
        let (mut response, mut body) = sender
            .send_request(request.body(()).unwrap(), false)
            .unwrap();
        let wait = if told { SOON } else { SOON / 10 };
        let interim = timeout(wait, poll_fn(|cx| response.poll_informational(cx))).await;
        let heard = matches!(&interim, Ok(Some(Ok(head))) if head.status() == StatusCode::CONTINUE);
        assert_eq!(heard, told, "{path} {expects}: {interim:?}");
        // It may have been refused already.
        body.send_data("a body".into(), true).ok();
        let answer = timeout(SOON, response).await.expect("an answer").unwrap();
        assert_eq!(answer.status(), status, "{path} {expects}");
    }
}

#[tokio::test]
async fn a_refused_caller_is_not_told_to_continue() {
    let app = App::start().await;
    let mesh = Mesh::new(
        app.address,
        &grant("allow: [{methods: [GET], path: \"/\"}]"),
    );
    let mut stream = mesh.raw().await;
    let request = format!(
        "POST /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    // The body that may or may not follow must not be read as a request.
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .ok();
    let mut rest = Vec::new();
    timeout(SOON, stream.read_to_end(&mut rest))
        .await
        .expect("closed")
        .ok();
    assert_eq!(app.requests(), 0);
}

#[tokio::test]
async fn responses_without_a_body_leave_the_connection_usable() {
    for (method, answer, status) in [
        (
            Method::HEAD,
            &b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"[..],
            200,
        ),
        (Method::GET, b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (
            Method::GET,
            b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
            304,
        ),
        (
            Method::GET,
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            200,
        ),
    ] {
        let (app, connections) = raw_app(answer).await;
        let grants = grant("allow: [{methods: [GET, HEAD], path: \"/**\"}]");
        let mesh = Mesh::new(app, &grants);
        for mut caller in mesh.callers().await {
            for _ in 0..3 {
                let request = Request::builder()
                    .method(&method)
                    .uri("/a")
                    .header("host", HOST);
                let reply = timeout(SOON, caller.send(request))
                    .await
                    .expect("ends")
                    .unwrap();
                assert_eq!((reply.status.as_u16(), reply.body.as_str()), (status, ""));
            }
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1, "{status}");
    }
}

#[tokio::test]
async fn an_early_answer_reaches_a_caller_that_still_sends() {
    let answer =
        b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let (app, _) = raw_app(answer).await;
    let mesh = Mesh::new(app, &grant_all());
    let mut stream = mesh.raw().await;
    let request = format!("POST /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000000\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.write_all(&[b'x'; 4096]).await.unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn an_app_cannot_speak_in_the_sidecars_name() {
    let (app, _) = raw_app(
        b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\ntipstaff-rejected: 1\r\n\
          tipstaff-decision-id: 0123456789abcdef\r\n\r\n",
    )
    .await;
    let mesh = Mesh::new(app, &grant_all());
    for mut caller in mesh.callers().await {
        let reply = caller.get(HOST, "/a").await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        let ours = |name: &&http::HeaderName| name.as_str().starts_with("tipstaff-");
        assert_eq!(reply.headers.keys().find(ours), None);
        assert!(!reply.headers.contains_key("connection"), "{reply:?}");
    }
}

#[tokio::test]
async fn an_app_cannot_switch_protocols_unasked() {
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
    let (app, _) = raw_app(answer).await;
    let mesh = Mesh::new(app, &grant_all());
    for mut caller in mesh.callers().await {
        let request = Request::get("/a").header("host", HOST);
        let reply = timeout(SOON, caller.send(request))
            .await
            .expect("ends")
            .unwrap();
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_does_not_look_complete() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhalf\r\n",
    ] {
        let (app, _) = raw_app(answer).await;
        let mesh = Mesh::new(app, &grant_all());
        for mut caller in mesh.callers().await {
            let request = Request::get("/a").header("host", HOST);
            let reply = timeout(SOON, caller.send(request)).await.expect("ends");
            assert!(reply.is_err(), "{reply:?}");
        }
    }
}

/// Behind a bad chunk the next line used to be taken for the size of a chunk, once the response had begun.
#[tokio::test]
async fn nothing_is_read_after_a_body_that_breaks_while_it_is_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = Mesh::new(listener.local_addr().unwrap(), &grant_all());
    let go_on = Arc::<Notify>::default();
    let told = Arc::clone(&go_on);
    tokio::spawn(async move {
        while let Ok((mut app, _)) = listener.accept().await {
            head(&mut app).await;
            let start = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            app.write_all(start).await.unwrap();
            told.notified().await;
            app.write_all(b"0\r\n\r\n").await.unwrap();
        }
    });
    let mut stream = mesh.raw().await;
    let upload = format!("POST /a HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(upload.as_bytes()).await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
    let rest = format!("zz\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    stream.write_all(rest.as_bytes()).await.unwrap();
    // The sidecar has to have seen it before the response ends.
    tokio::time::sleep(Duration::from_millis(100)).await;
    go_on.notify_one();
    let mut rest = Vec::new();
    timeout(SOON, stream.read_to_end(&mut rest))
        .await
        .expect("closed")
        .ok();
    assert_eq!(String::from_utf8_lossy(&rest), "0\r\n\r\n");
}

/// An app that answers the first request on each connection and breaks off at the second, a pooled one by then. Answers
/// how many heads it has seen, too.
async fn app_that_breaks_off() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    let heads = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            for answer in [&answer[..], b""] {
                if !head(&mut stream).await.is_empty() {
                    seen.fetch_add(1, Ordering::SeqCst);
                }
                stream.write_all(answer).await.unwrap();
            }
        }
    });
    (app, heads)
}

/// Whether the app has acted on the request before it broke off, nobody knows.
#[tokio::test]
async fn a_request_that_may_have_been_acted_on_is_not_sent_again() {
    let (app, heads) = app_that_breaks_off().await;
    let mesh = Mesh::new(app, &grant_all());
    for mut caller in mesh.callers().await {
        for expected in [200, 502] {
            let request = Request::post("/a").header("host", HOST);
            let reply = caller.send(request).await.unwrap();
            assert_eq!(reply.status.as_u16(), expected);
        }
    }
    assert_eq!(heads.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_request_that_changes_nothing_is_sent_again_once() {
    let (app, heads) = app_that_breaks_off().await;
    let mesh = Mesh::new(app, &grant_all());
    for mut caller in mesh.callers().await {
        for _ in 0..2 {
            let request = Request::get("/a").header("host", HOST);
            let reply = caller.send(request).await.unwrap();
            assert_eq!(reply.status.as_u16(), 200);
        }
    }
    // Of the four requests each but the first met a pooled connection, and was asked again on a new one.
    assert_eq!(heads.load(Ordering::SeqCst), 7);
}
