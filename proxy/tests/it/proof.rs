//! Long streams outlive the certificates of their connection, if their peer proves itself again, and only then.

mod peers;

use crate::harness::{
    Authority, FRONTEND, Life, ORDERS, Sidecar, document, endpoints, grant_all, head, outbound,
    service, sidecar,
};
use proxy::Address;
use proxy::config::{OutboundListen, Protocol, TcpService};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const LIFE: Life = Life::For(Duration::from_secs(4));
const ASK: &str = "GET /chat HTTP/1.1\r\nHost: orders.shop.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Switches protocols if it is asked to, and sends back what it hears.
async fn echo(switches: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                if switches {
                    head(&mut stream).await;
                    stream
                        .write_all(
                            b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
                        )
                        .await?;
                }
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    address
}

struct Pair {
    authority: Authority,
    frontend: Sidecar,
    orders: Sidecar,
}

impl Pair {
    async fn new(protocol: Protocol) -> Self {
        let authority = Authority::new();
        let app = echo(protocol == Protocol::Http).await;
        let documents = match protocol {
            Protocol::Http => grant_all() + &document("HttpProfile", "ws", "upgrade: [websocket]"),
            Protocol::Tcp => {
                grant_all().replace("{methods: [GET, POST], path: \"/**\"}", "{tcp: true}")
            }
        };
        let orders = sidecar(
            &authority,
            authority.svid(ORDERS, LIFE),
            app,
            &documents,
            |config| {
                config.inbound[0].protocol = protocol;
            },
        );
        let to = orders.inbound;
        let frontend = sidecar(
            &authority,
            authority.svid(FRONTEND, LIFE),
            app,
            "",
            |config| {
                config.outbound = outbound(vec![service("orders.shop.example", to, ORDERS)]);
                config.outbound.as_mut().unwrap().tcp.push(TcpService {
                    listen: Some(OutboundListen::Tcp("127.0.0.1:0".parse().unwrap())),
                    destinations: Vec::new(),
                    endpoints: endpoints([to]),
                    identity: ORDERS.parse().unwrap(),
                });
            },
        );
        Self {
            authority,
            frontend,
            orders,
        }
    }

    /// An open stream, over either protocol.
    async fn stream(&self, protocol: Protocol) -> TcpStream {
        if protocol == Protocol::Tcp {
            let [Address::Tcp(address)] = self.frontend.tcp[..] else {
                panic!("expected one TCP service");
            };
            return TcpStream::connect(address).await.unwrap();
        }
        let mut stream = TcpStream::connect(self.frontend.outbound()).await.unwrap();
        stream.write_all(ASK.as_bytes()).await.unwrap();
        let answer = head(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        stream
    }

    fn renew(&self, sidecar: &Sidecar, id: &str) {
        let svid = self.authority.svid(id, LIFE);
        sidecar.svid.send_replace(Some(Arc::new(svid)));
    }
}

/// For how long the stream carries what it is given.
async fn lasts(stream: &mut TcpStream, most: Duration, mut meanwhile: impl FnMut()) -> Duration {
    let start = Instant::now();
    while start.elapsed() < most {
        meanwhile();
        let mut echo = [0; 5];
        let asked = async {
            stream.write_all(b"hello").await?;
            stream.read_exact(&mut echo).await
        };
        match timeout(Duration::from_secs(5), asked)
            .await
            .expect("an echo or an end")
        {
            Ok(_) => assert_eq!(&echo, b"hello"),
            Err(_) => break,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    start.elapsed()
}

#[tokio::test]
async fn a_stream_lives_through_rotations_of_both_sides() {
    for protocol in [Protocol::Http, Protocol::Tcp] {
        let pair = Pair::new(protocol).await;
        let mut stream = pair.stream(protocol).await;
        let mut renewed = Instant::now();
        let lasted = lasts(&mut stream, Duration::from_secs(11), || {
            if renewed.elapsed() > Duration::from_secs(1) {
                renewed = Instant::now();
                pair.renew(&pair.frontend, FRONTEND);
                pair.renew(&pair.orders, ORDERS);
            }
        })
        .await;
        assert!(
            lasted >= Duration::from_secs(11),
            "{protocol:?}: only {lasted:?}"
        );
    }
}

#[tokio::test]
async fn a_peer_that_stops_renewing_is_cut_whichever_side_it_is() {
    for protocol in [Protocol::Http, Protocol::Tcp] {
        for (renews, id) in [(0, ORDERS), (1, FRONTEND)] {
            let pair = Pair::new(protocol).await;
            let sidecar = [&pair.orders, &pair.frontend][renews];
            let mut stream = pair.stream(protocol).await;
            let mut renewed = Instant::now();
            let lasted = lasts(&mut stream, Duration::from_secs(9), || {
                if renewed.elapsed() > Duration::from_secs(1) {
                    renewed = Instant::now();
                    pair.renew(sidecar, id);
                }
            })
            .await;
            assert!(
                lasted < Duration::from_secs(5),
                "{protocol:?} {id}: {lasted:?}"
            );
        }
    }
}

/// A proof used to go to the service's next endpoint, or to whichever replica its name stood for at that time.
#[tokio::test]
async fn each_stream_is_proven_at_the_replica_it_leads_to() {
    let pair = Pair::new(Protocol::Tcp).await;
    let app = echo(false).await;
    let documents = grant_all().replace("{methods: [GET, POST], path: \"/**\"}", "{tcp: true}");
    let other = pair.authority.svid(ORDERS, LIFE);
    let other = sidecar(&pair.authority, other, app, &documents, |config| {
        config.inbound[0].protocol = Protocol::Tcp;
    });
    let frontend = pair.authority.svid(FRONTEND, LIFE);
    let frontend = sidecar(&pair.authority, frontend, app, "", |config| {
        config.outbound = outbound(vec![]);
        config.outbound.as_mut().unwrap().tcp.push(TcpService {
            listen: Some(OutboundListen::Tcp("127.0.0.1:0".parse().unwrap())),
            destinations: Vec::new(),
            endpoints: endpoints([pair.orders.inbound, other.inbound]),
            identity: ORDERS.parse().unwrap(),
        });
    });
    let [Address::Tcp(address)] = frontend.tcp[..] else {
        panic!("expected one TCP service");
    };
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        lasts(&mut stream, Duration::from_millis(1), || {}).await;
        streams.push(stream);
    }
    let renew = || {
        pair.renew(&pair.orders, ORDERS);
        pair.renew(&other, ORDERS);
        pair.renew(&frontend, FRONTEND);
    };
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(8) {
        renew();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for stream in &mut streams {
        let lasted = lasts(stream, Duration::from_millis(50), || {}).await;
        assert!(lasted >= Duration::from_millis(50), "a stream has ended");
    }
    // One proof for all that lead to a replica, after each renewal and seldom besides.
    let metrics = other.metrics().await;
    let handshakes = metrics
        .lines()
        .find_map(|line| line.strip_prefix("tipstaff_tls_handshakes_total{direction=\"inbound\"} "))
        .expect("handshakes are counted");
    let handshakes: u32 = handshakes.parse().unwrap();
    assert!((12..40).contains(&handshakes), "{handshakes}");
}
