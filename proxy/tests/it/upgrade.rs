//! Upgrades: who may ask for one, and when its bytes flow.

mod lasting; // What lasts, and what ends it.
mod profiles; // What else a port takes only if its profile says so.
mod waiting; // Whose service has no endpoint yet.

use crate::harness::{
    Authority, FRONTEND, Life, ORDERS, Sidecar, document, grant, grant_all, head, outbound,
    service, sidecar, tls,
};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);
const HOST: &str = "orders.shop.example";
const ASK: &str = "GET /chat HTTP/1.1\r\nHost: orders.shop.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";

/// An app that answers every head with `answer`, then sends back what it hears. Tells what each connection brought.
async fn app(answer: &'static [u8]) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                tell.send(head(&mut stream).await).unwrap();
                stream.write_all(answer).await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await?;
                write.write_all(b"bye").await
            });
        }
    });
    (address, told)
}

struct Pair {
    authority: Authority,
    frontend: Sidecar,
    orders: Sidecar,
    told: mpsc::UnboundedReceiver<String>,
}

fn profile() -> String {
    document("HttpProfile", "ws", "upgrade: [websocket]")
}

impl Pair {
    async fn new(documents: &str, answer: &'static [u8]) -> Self {
        let authority = Authority::new();
        let (app, told) = app(answer).await;
        let orders = sidecar(
            &authority,
            authority.svid(ORDERS, Life::Hour),
            app,
            documents,
            |_| (),
        );
        let to = orders.inbound;
        let frontend = sidecar(
            &authority,
            authority.svid(FRONTEND, Life::Hour),
            app,
            "",
            |config| {
                config.outbound = outbound(vec![service(HOST, to, ORDERS)]);
            },
        );
        Self {
            authority,
            frontend,
            orders,
            told,
        }
    }

    async fn workload(&self) -> TcpStream {
        TcpStream::connect(self.frontend.outbound()).await.unwrap()
    }

    /// An HTTP/1.1 client with a certificate of its own, straight to the inbound side.
    async fn direct(&self) -> impl AsyncRead + AsyncWrite + Unpin + use<> {
        let frontend = self.authority.svid(FRONTEND, Life::Hour);
        tls(
            self.orders.inbound,
            &self.authority,
            Some(&frontend),
            b"http/1.1",
        )
        .await
        .unwrap()
    }
}

async fn said(stream: &mut (impl AsyncRead + Unpin), expected: &str) {
    let mut bytes = vec![0; expected.len()];
    let read = stream.read_exact(&mut bytes);
    timeout(SOON, read).await.expect("bytes soon").unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    let _ = timeout(SOON, stream.read_to_end(&mut bytes))
        .await
        .expect("the connection ends");
    String::from_utf8(bytes).unwrap()
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, ask: &str) {
    stream.write_all(ask.as_bytes()).await.unwrap();
    let answer = head(&mut stream).await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    for field in [
        "connection: upgrade\r\n",
        "upgrade: websocket\r\n",
        "sec-websocket-accept: x\r\n",
    ] {
        assert!(answer.contains(field), "{field} in {answer}");
    }
    for words in ["hello", "again"] {
        stream.write_all(words.as_bytes()).await.unwrap();
        said(&mut stream, words).await;
    }
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, "bye");
}

#[tokio::test]
async fn a_websocket_passes_over_both_sidecars_and_straight_to_one() {
    let mut pair = Pair::new(&(grant_all() + &profile()), SWITCH).await;
    converse(pair.workload().await, ASK).await;
    converse(pair.direct().await, ASK).await;
    for _ in 0..2 {
        let asked = pair.told.recv().await.unwrap().to_ascii_lowercase();
        assert!(asked.starts_with("get /chat http/1.1\r\n"), "{asked}");
        for field in [
            "connection: upgrade\r\n",
            "upgrade: websocket\r\n",
            "sec-websocket-key: ",
        ] {
            assert_eq!(asked.matches(field).count(), 1, "{field} in {asked}");
        }
        assert!(
            asked.contains(&format!("tipstaff-peer: {FRONTEND}\r\n")),
            "{asked}"
        );
        assert!(!asked.contains("tipstaff-method"), "{asked}");
        assert!(!asked.contains("transfer-encoding"), "{asked}");
    }
}

#[tokio::test]
async fn a_post_may_ask_too_and_arrives_as_a_post() {
    let mut pair = Pair::new(&(grant_all() + &profile()), SWITCH).await;
    let ask = ASK
        .replace("GET", "POST")
        .replace("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n");
    converse(pair.workload().await, &ask).await;
    converse(pair.direct().await, &ask).await;
    for _ in 0..2 {
        let asked = pair.told.recv().await.unwrap().to_ascii_lowercase();
        assert!(asked.starts_with("post /chat "), "{asked}");
        assert!(!asked.contains("transfer-encoding"), "{asked}");
        assert_eq!(asked.matches("content-length: 0\r\n").count(), 1, "{asked}");
    }
}

#[tokio::test]
async fn no_byte_flows_before_the_app_has_agreed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = Authority::new();
    let documents = grant_all() + &profile();
    let svid = authority.svid(ORDERS, Life::Hour);
    let orders = sidecar(
        &authority,
        svid,
        listener.local_addr().unwrap(),
        &documents,
        |_| (),
    );
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let mut caller = tls(orders.inbound, &authority, Some(&frontend), b"http/1.1")
        .await
        .unwrap();
    let early = format!("{ASK}GET /smuggled HTTP/1.1\r\n\r\n");
    caller.write_all(early.as_bytes()).await.unwrap();
    let (mut app, _) = listener.accept().await.unwrap();
    head(&mut app).await;
    let mut more = [0; 1];
    let waited = timeout(Duration::from_millis(300), app.read(&mut more)).await;
    assert!(waited.is_err(), "a byte came before the 101");
    app.write_all(SWITCH).await.unwrap();
    said(&mut app, "GET /smuggled HTTP/1.1\r\n\r\n").await;
}

#[tokio::test]
async fn an_upgrade_needs_the_profile_and_the_grant() {
    for (documents, status) in [
        (grant_all(), 400),
        (profile(), 403),
        (
            grant("allow: [{methods: [POST], path: \"/chat\"}]") + &profile(),
            403,
        ),
        (
            grant_all() + &profile() + &document("Guard", "no", "deny: [{path: \"/chat\"}]"),
            403,
        ),
        (grant_all() + &profile().replace("websocket", "tcp"), 400),
    ] {
        let mut pair = Pair::new(&documents, SWITCH).await;
        let streams: [Box<dyn Both>; 2] = [
            Box::new(pair.direct().await),
            Box::new(pair.workload().await),
        ];
        for mut stream in streams {
            stream.write_all(ASK.as_bytes()).await.unwrap();
            let answer = head(&mut stream).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer} {documents}"
            );
        }
        assert!(pair.told.try_recv().is_err(), "the app was asked");
    }
}

trait Both: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Both for T {}

#[tokio::test]
async fn what_only_looks_like_an_upgrade_is_refused() {
    let mut pair = Pair::new(&(grant_all() + &profile()), SWITCH).await;
    for ask in [
        ASK.replace("Connection: Upgrade\r\n", ""),
        ASK.replace(
            "Upgrade: websocket\r\n",
            "Upgrade: websocket\r\nUpgrade: websocket\r\n",
        ),
        ASK.replace("Upgrade: websocket\r\n", "Upgrade: websocket, h2c\r\n"),
        ASK.replace(
            "Upgrade: websocket\r\n",
            "Upgrade: h2c\r\nUpgrade: websocket\r\n",
        ),
        ASK.replace(
            "Upgrade: websocket\r\n",
            "Upgrade: websocket\r\nContent-Length: 3\r\n",
        ),
        ASK.replace(
            "Upgrade: websocket\r\n",
            "Upgrade: websocket\r\nTransfer-Encoding: chunked\r\n",
        ),
        ASK.replace("Upgrade: websocket\r\n", "Upgrade: \r\n"),
    ] {
        let streams: [Box<dyn Both>; 2] = [
            Box::new(pair.direct().await),
            Box::new(pair.workload().await),
        ];
        for mut stream in streams {
            stream.write_all(ask.as_bytes()).await.unwrap();
            let answer = head(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}\n{ask}");
        }
    }
    assert!(pair.told.try_recv().is_err(), "the app was asked");
}

#[tokio::test]
async fn an_app_that_does_not_switch_is_heard_with_its_own_status() {
    for (answer, status) in [
        (
            &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..],
            "200",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "204"),
        (
            b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nok",
            "426",
        ),
        // It says in our name what it may not.
        (
            b"HTTP/1.1 403 Forbidden\r\nTipstaff-Status: 200\r\nContent-Length: 2\r\n\r\nok",
            "403",
        ),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n",
            "502",
        ),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
            "502",
        ),
    ] {
        let pair = Pair::new(&(grant_all() + &profile()), answer).await;
        let streams: [Box<dyn Both>; 2] = [
            Box::new(pair.direct().await),
            Box::new(pair.workload().await),
        ];
        for mut stream in streams {
            stream.write_all(ASK.as_bytes()).await.unwrap();
            let heard = head(&mut stream).await.to_ascii_lowercase();
            assert!(
                heard.starts_with(&format!("http/1.1 {status} ")),
                "{status}: {heard}"
            );
            assert!(!heard.contains("tipstaff-status"), "{heard}");
        }
    }
}

/// What the answer to a HEAD says of the body that it does not have broke the answer to a CONNECT.
#[tokio::test]
async fn a_head_that_asks_for_an_upgrade_is_answered_as_a_head() {
    for (answer, status) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"[..], 200),
        (
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            304,
        ),
        (
            b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 5\r\n\r\n",
            426,
        ),
    ] {
        let all = grant("allow: [{methods: [HEAD], path: \"/**\"}]");
        let mut pair = Pair::new(&(all + &profile()), answer).await;
        let streams: [Box<dyn Both>; 2] = [
            Box::new(pair.direct().await),
            Box::new(pair.workload().await),
        ];
        for mut stream in streams {
            let ask = ASK.replace("GET", "HEAD");
            stream.write_all(ask.as_bytes()).await.unwrap();
            let heard = head(&mut stream).await;
            assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{heard}");
            let asked = pair.told.recv().await.unwrap();
            assert!(asked.starts_with("HEAD /chat "), "{asked}");
        }
    }
}
