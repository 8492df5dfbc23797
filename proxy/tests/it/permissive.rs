//! Ports that take callers in plain text, too: what those get, and what nobody gets by it.

mod denied;
mod opaque;

use crate::harness::{
    App, Authority, Caller, FRONTEND, Life, Sidecar, compile, document, grant_all, head, raw_app,
    sidecar, tls,
};
use http::{Request, StatusCode};
use proxy::Config;
use proxy::config::{AccessLog, Mtls, Protocol};
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);
/// What the deadline of a detection is in tests of it.
const SHORT: Duration = Duration::from_millis(300);

/// A grant to callers without an identity.
fn to_anyone(spec: &str) -> String {
    let spec =
        format!("from: [unauthenticated], validity: {{notAfter: never, because: test}}, {spec}");
    document("Grant", "anyone", &spec)
}

fn reads() -> String {
    to_anyone("allow: [{methods: [GET, POST], path: \"/open/**\"}]")
}

/// A permissive port in front of `app`, and whoever gave it its identity.
fn permissive(
    app: SocketAddr,
    documents: &str,
    change: impl FnOnce(&mut Config),
) -> (Authority, Sidecar) {
    let authority = Authority::new();
    let svid = authority.svid(crate::harness::ORDERS, Life::Hour);
    let orders = sidecar(&authority, svid, app, documents, |config| {
        config.inbound[0].mtls = Mtls::Permissive;
        change(config);
    });
    (authority, orders)
}

/// What comes until the connection ends, in whatever way.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    let _: io::Result<usize> = timeout(SOON, stream.read_to_end(&mut bytes))
        .await
        .expect("the connection ends");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits until `/metrics` has this; connections end before they are counted.
async fn counted(orders: &Sidecar, expected: &str) {
    let seen = async {
        while !orders.metrics().await.contains(expected) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, seen).await.expect(expected);
}

async fn said(stream: &mut TcpStream, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    let read = stream.read_exact(&mut bytes);
    timeout(SOON, read).await.expect("bytes soon").unwrap();
    assert_eq!(bytes, expected.as_bytes());
}

#[tokio::test]
async fn plain_text_gets_what_a_grant_gives_to_unauthenticated_and_mutual_tls_what_it_got_before() {
    let app = App::start().await;
    let (authority, orders) = permissive(app.address, &(grant_all() + &reads()), |_| ());
    let frontend = authority.svid(FRONTEND, Life::Hour);

    for mut caller in [
        Caller::workload(orders.inbound).await,
        Caller::workload_http2(orders.inbound).await,
    ] {
        let spoofed = Request::get("/open/1")
            .header("host", "orders")
            .header("tipstaff-peer", FRONTEND)
            .header("tipstaff_peer", FRONTEND)
            .header("x-forwarded-client-cert", format!("URI={FRONTEND}"));
        let reply = caller.send(spoofed).await.unwrap();
        assert_eq!(reply.target(), "/open/1");
        assert_eq!(reply.seen("tipstaff-peer"), ["unauthenticated"]);
        assert!(!reply.body.contains("spiffe:"), "{}", reply.body);
        // What identities are granted, by name or by pattern, is not for those without one.
        let denied = caller.get("orders", "/closed").await;
        assert_eq!(denied.status, StatusCode::FORBIDDEN);
    }
    for mut caller in [
        Caller::http1(orders.inbound, &authority, Some(&frontend))
            .await
            .unwrap(),
        Caller::http2(orders.inbound, &authority, &frontend).await,
    ] {
        let reply = caller.get("orders", "/closed").await;
        assert_eq!(reply.seen("tipstaff-peer"), [FRONTEND]);
        // Nor the other way round: the word is no pattern for identities.
        orders.policy.send_replace(Arc::new(compile(&reads())));
        let denied = caller.get("orders", "/open/1").await;
        assert_eq!(denied.status, StatusCode::FORBIDDEN);
        orders
            .policy
            .send_replace(Arc::new(compile(&(grant_all() + &reads()))));
    }
}

#[tokio::test]
async fn no_grant_to_identities_however_wide_lets_plain_text_in() {
    let app = App::start().await;
    let wide = grant_all().replace(FRONTEND, "spiffe://prod.example/**");
    let (_authority, orders) = permissive(app.address, &wide, |_| ());
    let mut caller = Caller::workload(orders.inbound).await;
    let denied = caller.get("orders", "/open/1").await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
    assert_eq!(app.requests(), 0);
}

#[tokio::test]
async fn guards_hold_for_plain_text_and_limits_by_identity_tell_addresses_apart() {
    let app = App::start().await;
    let documents = to_anyone(
        "allow: [{methods: [GET], path: \"/**\"}], \
         limits: [{name: few, key: [identity], rate: 2/h, burst: 2}]",
    ) + &document("Guard", "none", "deny: [{path: \"/admin/**\"}]");
    let (_authority, orders) = permissive(app.address, &documents, |_| ());
    let get = |from: &'static str, path: &'static str| async move {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(orders.inbound).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: orders\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        head(&mut stream).await[9..12].to_owned()
    };
    assert_eq!(get("127.0.0.1", "/admin/x").await, "403");
    for from in ["127.0.0.1", "127.0.0.2"] {
        let answers = [get(from, "/a").await, get(from, "/a").await];
        assert_eq!(answers, ["200", "200"], "{from}");
        assert_eq!(get(from, "/a").await, "429", "{from}");
    }
}

#[tokio::test]
async fn a_strict_port_takes_no_plain_text_and_counts_it() {
    let app = App::start().await;
    let (_authority, orders) = permissive(app.address, &reads(), |config| {
        config.inbound[0].mtls = Mtls::Strict;
    });
    let mut stream = TcpStream::connect(orders.inbound).await.unwrap();
    stream
        .write_all(b"GET /open/1 HTTP/1.1\r\nhost: orders\r\n\r\n")
        .await
        .unwrap();
    assert!(!rest(&mut stream).await.contains("HTTP"));
    counted(&orders, "reason=\"not_tls\"} 1").await;
    assert_eq!(app.requests(), 0);
}

#[tokio::test]
async fn what_began_as_tls_is_never_read_as_anything_else() {
    let app = App::start().await;
    let (_authority, orders) = permissive(app.address, &reads(), |_| ());
    for after in [
        &b"GET /open/1 HTTP/1.1\r\nhost: orders\r\n\r\n"[..],
        b"\x03\x01\x00\x10GET /open/1 HTTP/1.1\r\nhost: orders\r\n\r\n",
        b"\x16\x16\x16\x16\x16",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(orders.inbound).await.unwrap();
        stream.write_all(&[0x16]).await.unwrap();
        stream.flush().await.unwrap();
        // In a packet of its own, so that the two are seen one after the other.
        tokio::task::yield_now().await;
        let _: io::Result<()> = stream.write_all(after).await;
        let answer = rest(&mut stream).await;
        assert!(!answer.contains("HTTP"), "{answer}");
    }
    counted(&orders, "reason=\"not_tls\"} 4").await;
    assert_eq!(app.requests(), 0);
}

#[tokio::test]
async fn whoever_does_not_say_what_it_speaks_is_closed() {
    let app = App::start().await;
    let (_authority, orders) = permissive(app.address, &reads(), |config| {
        config.timeouts.tls_hello = SHORT;
        config.timeouts.request_head = SHORT;
    });
    for start in [
        &b""[..],
        b"\x16",
        b"\x16\x03\x01\x02\x00\x01",
        b"P",
        b"PRI",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        b"G",
    ] {
        let mut stream = TcpStream::connect(orders.inbound).await.unwrap();
        stream.write_all(start).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(!answer.contains(" 200 "), "{start:?}: {answer}");
    }
    for expected in [
        "tipstaff_tls_handshake_failures_total{direction=\"inbound\",reason=\"hello_timeout\"} 3",
        "tipstaff_ended_connections_total{direction=\"inbound\",reason=\"preface_timeout\"} 3",
    ] {
        counted(&orders, expected).await;
    }
    assert_eq!(app.requests(), 0);
}

#[tokio::test]
async fn bytes_that_told_what_is_spoken_are_not_lost_however_they_are_cut() {
    let app = App::start().await;
    let (authority, orders) = permissive(app.address, &(grant_all() + &reads()), |_| ());
    let request = b"POST /open/1 HTTP/1.1\r\nhost: orders\r\ncontent-length: 4\r\n\r\nbody";
    for piece in [1, 3, request.len()] {
        let mut stream = TcpStream::connect(orders.inbound).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for bytes in request.chunks(piece) {
            stream.write_all(bytes).await.unwrap();
            tokio::task::yield_now().await;
        }
        let answer = head(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{piece}: {answer}");
    }
    // A ClientHello that comes byte by byte.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(orders.inbound).await.unwrap();
        server.set_nodelay(true).unwrap();
        for _ in 0..400 {
            let byte = client.read_u8().await.unwrap();
            server.write_u8(byte).await.unwrap();
            tokio::task::yield_now().await;
        }
        tokio::io::copy_bidirectional(&mut client, &mut server)
            .await
            .ok();
    });
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let mut caller = Caller::http1(slow, &authority, Some(&frontend))
        .await
        .unwrap();
    let reply = caller.get("orders", "/closed").await;
    assert_eq!(reply.seen("tipstaff-peer"), [FRONTEND]);
}

#[tokio::test]
async fn log_and_metrics_show_an_address_and_no_identity() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let app = App::start().await;
    let (_authority, orders) = permissive(app.address, &reads(), |config| {
        config.access_log = AccessLog::File(log.clone());
    });
    let mut caller = Caller::workload(orders.inbound).await;
    let request = Request::get("/open/1")
        .header("host", "orders")
        .header("tipstaff-peer", FRONTEND);
    caller.send(request).await.unwrap();
    let metrics = orders.metrics().await;
    assert!(
        !metrics.contains("tipstaff_caller_requests_total{caller=\"s")
            && !metrics.contains("tipstaff_caller_requests_total{caller=\"un"),
        "{metrics}"
    );
    let other = "tipstaff_caller_requests_total{caller=\"other\",decision=\"allow\"} 0";
    assert!(metrics.contains(other), "{metrics}");
    let line = timeout(SOON, async {
        loop {
            let text = std::fs::read_to_string(&log).unwrap();
            if text.ends_with('\n') {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let line = line.await.expect("a line");
    assert!(line.contains("\"peer.address\":\"127.0.0.1\""), "{line}");
    assert!(
        !line.contains("peer.id") && !line.contains("spiffe"),
        "{line}"
    );
}

#[tokio::test]
async fn the_report_tells_who_still_comes_in_plain_text() {
    let app = App::start().await;
    let (authority, orders) = permissive(app.address, &(grant_all() + &reads()), |_| ());
    let report = async || -> Value {
        let answer = orders.tells("/plaintext").await;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str::<Value>(body).unwrap()["listeners"][0].take()
    };
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let mut proven = Caller::http2(orders.inbound, &authority, &frontend).await;
    proven.get("orders", "/closed").await;
    let mut plain = Caller::workload(orders.inbound).await;
    plain.get("orders", "/closed").await;
    let before = report().await;
    assert_eq!(before["mtls"], "permissive");
    // It has watched for a moment, not for a day.
    assert_eq!(before["safe_to_switch_to_strict"], false, "{before}");
    let why = before["why"].as_str().unwrap();
    assert!(why.starts_with("no plain text was let in"), "{why}");
    let mut plain = Caller::workload(orders.inbound).await;
    plain.get("orders", "/open/1").await;
    let after = report().await;
    assert_eq!(after["safe_to_switch_to_strict"], false, "{after}");
    let port = &after["ports"][0];
    assert_eq!(port["port"], app.address.port());
    assert_eq!(port["mtls"], json!({"connections": 1, "requests": 1}));
    let caller = &port["callers"][0];
    assert_eq!(caller["address"], "127.0.0.1");
    let counts = ["connections", "requests", "granted"].map(|key| &caller[key]);
    assert_eq!(counts, [2, 2, 1], "{after}");
    counted(
        &orders,
        "tipstaff_plaintext_granted_total{listener=\"127.0.0.1:0\"} 1",
    )
    .await;
}

#[tokio::test]
async fn streams_in_plain_text_end_with_the_grant_that_let_them_in() {
    let (app, _) =
        raw_app(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n").await;
    let (_authority, orders) = permissive(app, &reads(), |_| ());
    let mut stream = TcpStream::connect(orders.inbound).await.unwrap();
    stream
        .write_all(b"GET /open/events HTTP/1.1\r\nhost: orders\r\n\r\n")
        .await
        .unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    orders
        .policy
        .send_replace(Arc::new(compile(&(reads() + &grant_all()))));
    let mut byte = [0; 1];
    let quiet = async { while stream.read(&mut byte).await.is_ok_and(|read| read > 0) {} };
    assert!(
        timeout(SHORT, quiet).await.is_err(),
        "it ended by another change"
    );
    orders.policy.send_replace(Arc::new(compile(&grant_all())));
    rest(&mut stream).await;
}

#[tokio::test]
async fn a_sidecar_without_an_identity_takes_nobody() {
    let app = App::start().await;
    let (_authority, orders) = permissive(app.address, &reads(), |_| ());
    orders.svid.send_replace(None);
    let mut stream = TcpStream::connect(orders.inbound).await.unwrap();
    let _: io::Result<()> = stream
        .write_all(b"GET /open/1 HTTP/1.1\r\nhost: orders\r\n\r\n")
        .await;
    assert_eq!(rest(&mut stream).await, "");
    counted(&orders, "reason=\"identity_absent\"} 1").await;
}
