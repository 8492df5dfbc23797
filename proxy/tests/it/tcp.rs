//! Opaque TCP over mutual TLS.

use crate::harness::{
    Authority, CART, FRONTEND, Life, ORDERS, Sidecar, compile, document, endpoints, grant_all,
    outbound, sidecar, tls,
};
use proxy::Address;
use proxy::config::{OutboundListen, Protocol, TcpService};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);
const GRANT: &str = "allow: [{tcp: true}]";

/// A server that says something first, then sends back what it hears, and its last word when the client has ended.
async fn server() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(b"welcome\n").await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await?;
                write.write_all(b"bye\n").await
            });
        }
    });
    address
}

/// The front end's sidecar carries TCP to the orders' sidecar, before that server.
struct Pair {
    authority: Authority,
    frontend: Sidecar,
    orders: Sidecar,
}

impl Pair {
    async fn new(documents: &str) -> Self {
        Self::of(documents, Life::Hour, ORDERS).await
    }

    async fn of(documents: &str, life: Life, expected: &str) -> Self {
        let authority = Authority::new();
        let app = server().await;
        let orders = sidecar(
            &authority,
            authority.svid(ORDERS, Life::Hour),
            app,
            documents,
            |config| {
                config.inbound[0].protocol = Protocol::Tcp;
            },
        );
        let service = TcpService {
            listen: Some(OutboundListen::Tcp("127.0.0.1:0".parse().unwrap())),
            destinations: Vec::new(),
            endpoints: endpoints([orders.inbound]),
            identity: expected.parse().unwrap(),
        };
        let frontend = sidecar(
            &authority,
            authority.svid(FRONTEND, life),
            app,
            "",
            |config| {
                config.outbound = outbound(vec![]);
                config.outbound.as_mut().unwrap().tcp.push(service);
            },
        );
        Self {
            authority,
            frontend,
            orders,
        }
    }

    async fn workload(&self) -> TcpStream {
        let [Address::Tcp(address)] = self.frontend.tcp[..] else {
            panic!("expected one TCP service, found {:?}", self.frontend.tcp);
        };
        TcpStream::connect(address).await.unwrap()
    }
}

fn tcp_grant() -> String {
    named("db", "never, because: test")
}

fn named(name: &str, not_after: &str) -> String {
    let spec = format!("from: [\"{FRONTEND}\"], validity: {{notAfter: {not_after}}}, {GRANT}");
    document("Grant", name, &spec)
}

/// What comes until the connection ends, in whatever way.
async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    // A reset is an end, too; how the connection ended is not what is asked.
    let _: io::Result<usize> = timeout(SOON, read).await.expect("the connection ends");
    String::from_utf8(bytes).unwrap()
}

async fn said(stream: &mut TcpStream, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    let read = stream.read_exact(&mut bytes);
    timeout(SOON, read).await.expect("bytes soon").unwrap();
    assert_eq!(bytes, expected.as_bytes());
}

#[tokio::test]
async fn bytes_pass_both_ways_whoever_speaks_first_and_whoever_ends_first() {
    let pair = Pair::new(&tcp_grant()).await;
    let mut client = pair.workload().await;
    said(&mut client, "welcome\n").await;
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut read, mut write) = client.split();
    let sent = body.clone();
    let (sending, mut received) = tokio::join!(
        async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await
        },
        async {
            let mut received = Vec::new();
            let read = read.read_to_end(&mut received);
            timeout(SOON * 4, read).await.expect("an end").unwrap();
            received
        }
    );
    sending.unwrap();
    // Our end went through, and the server's last word came back after it.
    assert_eq!(received.split_off(body.len()), b"bye\n");
    assert!(received == body, "the bytes differ");
}

#[tokio::test]
async fn only_a_tcp_grant_for_this_caller_lets_bytes_pass() {
    for documents in [
        String::new(),
        grant_all(),
        tcp_grant().replace(FRONTEND, CART),
        named("db", "2000-01-01T00:00:00Z"),
        tcp_grant() + &document("Guard", "none", "deny: [{path: \"/admin/**\"}]"),
    ] {
        let pair = Pair::new(&documents).await;
        let mut client = pair.workload().await;
        // It may be gone already.
        let _: io::Result<()> = client.write_all(b"hello\n").await;
        assert_eq!(rest(&mut client).await, "", "{documents}");
        let metrics = pair.orders.metrics().await;
        assert!(metrics.contains("decision=\"deny\""), "{metrics}");
    }
}

#[tokio::test]
async fn a_server_of_another_identity_gets_no_byte() {
    let pair = Pair::of(&tcp_grant(), Life::Hour, CART).await;
    let mut client = pair.workload().await;
    let _: io::Result<()> = client.write_all(b"secret\n").await;
    assert_eq!(rest(&mut client).await, "");
    let metrics = pair.frontend.metrics().await;
    assert!(
        metrics.contains("reason=\"unexpected_identity\""),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_tcp_port_takes_nobody_who_asked_for_http_or_for_nothing() {
    let pair = Pair::new(&tcp_grant()).await;
    let frontend = pair.authority.svid(FRONTEND, Life::Hour);
    for alpn in [&b"h2"[..], b"http/1.1", b""] {
        let Ok(mut stream) = tls(pair.orders.inbound, &pair.authority, Some(&frontend), alpn).await
        else {
            continue;
        };
        let _: io::Result<()> = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
        assert_eq!(rest(&mut stream).await, "", "{alpn:?}");
    }
}

#[tokio::test]
async fn an_http_port_takes_nobody_who_asked_for_tcp() {
    let authority = Authority::new();
    let app = server().await;
    let documents = tcp_grant() + &grant_all();
    let svid = authority.svid(ORDERS, Life::Hour);
    let orders = sidecar(&authority, svid, app, &documents, |_| ());
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let shaken = tls(orders.inbound, &authority, Some(&frontend), b"tipstaff-tcp").await;
    assert!(shaken.is_err());
}

#[tokio::test]
async fn a_grant_that_is_withdrawn_or_ends_takes_its_connections_along_and_no_other_change_does() {
    let pair = Pair::new(&tcp_grant()).await;
    let mut client = pair.workload().await;
    said(&mut client, "welcome\n").await;
    for other in [
        grant_all(),
        named("more", "never, because: test"),
        String::new(),
    ] {
        pair.orders
            .policy
            .send_replace(Arc::new(compile(&(tcp_grant() + &other))));
        client.write_all(b"still\n").await.unwrap();
        said(&mut client, "still\n").await;
    }
    pair.orders.policy.send_replace(Arc::new(compile("")));
    assert_eq!(rest(&mut client).await, "");

    let end = time::OffsetDateTime::now_utc() + Duration::from_secs(2);
    let end = end
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap();
    let pair = Pair::new(&named("db", &end)).await;
    let mut client = pair.workload().await;
    assert_eq!(rest(&mut client).await, "welcome\n");
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let life = Life::For(Duration::from_secs(2));
    let pair = Pair::of(&tcp_grant(), life, ORDERS).await;
    let mut client = pair.workload().await;
    assert_eq!(rest(&mut client).await, "welcome\n");
}

#[tokio::test]
async fn an_idle_connection_ends_and_connections_are_limited() {
    let documents = tcp_grant().replace(
        GRANT,
        &format!("{GRANT}, limits: [{{name: few, key: [identity], rate: 2/h, burst: 2}}]"),
    );
    let pair = Pair::new(&documents).await;
    let mut config = pair.orders.config.clone();
    config.timeouts.tunnel_idle = Duration::from_millis(300);
    pair.orders.reload.apply(config).unwrap();
    for _ in 0..2 {
        let mut client = pair.workload().await;
        assert_eq!(rest(&mut client).await, "welcome\n");
    }
    let mut client = pair.workload().await;
    assert_eq!(rest(&mut client).await, "");
    let metrics = pair.orders.metrics().await;
    assert!(metrics.contains("decision=\"limit\""), "{metrics}");
}
