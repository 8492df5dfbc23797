use crate::harness::{
    App, Authority, Caller, FRONTEND, Life, ORDERS, Reply, Sidecar, endpoints, grant, outbound,
    service, sidecar,
};
use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use identity::tls::{ClientAuth, server_config};
use proxy::config::Breaker;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

const HOST: &str = "orders.shop.example";
/// Far more than any deadline here.
const SOON: Duration = Duration::from_secs(10);

fn call(timeout: &str) -> http::request::Builder {
    Request::post("/a.B/C")
        .header("host", HOST)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
}

fn grants() -> String {
    grant("allow: [{grpc: a.B, methods: [C]}]")
}

/// What a server does with a call.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Nothing, for ever.
    Hangs,
    /// Sends the head and a message, then nothing.
    Begins,
}

/// A gRPC server that never ends a call, and what it saw: the timeout of each call, then how it was told to stop.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    timeouts: mpsc::UnboundedReceiver<String>,
    resets: mpsc::UnboundedReceiver<Reason>,
}

impl Server {
    /// A sidecar of the orders, that takes its time for a handshake.
    async fn sidecar(authority: &Authority, way: Way, handshake: Duration) -> Self {
        let svid = authority.svid(ORDERS, Life::Hour);
        let bundle = Arc::new(Arc::new(authority.bundle()));
        let config = server_config(&svid, bundle, ClientAuth::Required, &[b"h2"]);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::start(way, Some((acceptor, handshake))).await
    }

    /// An app.
    async fn app(way: Way) -> Self {
        Self::start(way, None).await
    }

    async fn start(way: Way, tls: Option<(TlsAcceptor, Duration)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<AtomicUsize>::default();
        let accepted = Arc::clone(&connections);
        let (seen, timeouts) = mpsc::unbounded_channel();
        let (reset, resets) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                let (tls, seen, reset) = (tls.clone(), seen.clone(), reset.clone());
                // Ends with the connection.
                tokio::spawn(async move {
                    match tls {
                        Some((acceptor, handshake)) => {
                            sleep(handshake).await;
                            let stream = acceptor.accept(stream).await.unwrap();
                            answer(way, stream, seen, reset).await;
                        }
                        None => answer(way, stream, seen, reset).await,
                    }
                });
            }
        });
        Self {
            address,
            connections,
            timeouts,
            resets,
        }
    }

    async fn reset(&mut self) -> Reason {
        timeout(SOON, self.resets.recv()).await.unwrap().unwrap()
    }
}

async fn answer(
    way: Way,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    seen: mpsc::UnboundedSender<String>,
    reset: mpsc::UnboundedSender<Reason>,
) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let value = request.headers().get("grpc-timeout");
        let value = value.map_or("", |value| value.to_str().unwrap());
        seen.send(value.to_owned()).unwrap();
        tokio::spawn(serve(way, request, respond, reset.clone()));
    }
}

async fn serve(
    way: Way,
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    reset: mpsc::UnboundedSender<Reason>,
) {
    let told = match way {
        Way::Hangs => std::future::poll_fn(|cx| respond.poll_reset(cx)).await,
        Way::Begins => {
            let head = Response::builder().header("content-type", "application/grpc");
            let mut body = respond
                .send_response(head.body(()).unwrap(), false)
                .unwrap();
            let message = Bytes::from_static(b"\0\0\0\0\x01x");
            body.send_data(message, false).unwrap();
            std::future::poll_fn(|cx| body.poll_reset(cx)).await
        }
    };
    drop(request);
    reset.send(told.unwrap()).unwrap();
}

/// A sidecar of the front end that reaches the orders at `to`.
fn frontend(authority: &Authority, to: SocketAddr) -> Sidecar {
    let svid = authority.svid(FRONTEND, Life::Hour);
    sidecar(authority, svid, to, "", |config| {
        config.outbound = outbound(vec![service(HOST, to, ORDERS)]);
    })
}

async fn send(caller: &mut Caller, timeout: &str) -> hyper::Result<Reply> {
    let called = caller.send_with(call(timeout), "a message");
    tokio::time::timeout(SOON, called)
        .await
        .expect("an answer in time")
}

/// What a hop says is left of a call, in nanoseconds.
fn nanoseconds(value: &str) -> u64 {
    let (number, unit) = value.split_at(value.len() - 1);
    assert!(number.len() <= 8, "{value}");
    let unit = match unit {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "S" => 1_000_000_000,
        other => panic!("{other}"),
    };
    number.parse::<u64>().unwrap() * unit
}

#[tokio::test]
async fn both_sidecars_pass_on_less_than_they_were_given_and_not_nothing() {
    let authority = Authority::new();
    let app = App::start().await;
    let svid = authority.svid(ORDERS, Life::Hour);
    let orders = sidecar(&authority, svid, app.address, &grants(), |_| ());
    let frontend = frontend(&authority, orders.inbound);
    let to = frontend.outbound();
    for mut workload in [Caller::workload(to).await, Caller::workload_http2(to).await] {
        for (given, most) in [("10S", 10_000_000_000), ("9999999u", 9_999_999_000)] {
            let reply = send(&mut workload, given).await.unwrap();
            let [seen] = reply.seen("grpc-timeout")[..] else {
                panic!("expected one timeout: {reply:?}");
            };
            assert!((1..most).contains(&nanoseconds(seen)), "{seen} of {given}");
        }
    }
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_the_server_is_told_to_stop() {
    for way in [Way::Hangs, Way::Begins] {
        let authority = Authority::new();
        let mut server = Server::sidecar(&authority, way, Duration::ZERO).await;
        let caller = frontend(&authority, server.address);
        let mut outbound = Caller::workload_http2(caller.outbound()).await;

        let mut app = Server::app(way).await;
        let svid = authority.svid(ORDERS, Life::Hour);
        let orders = sidecar(&authority, svid, app.address, &grants(), |_| ());
        let svid = authority.svid(FRONTEND, Life::Hour);
        let mut inbound = Caller::http2(orders.inbound, &authority, &svid).await;

        for (caller, server) in [(&mut outbound, &mut server), (&mut inbound, &mut app)] {
            let reply = send(caller, "300m").await.unwrap();
            let status = match way {
                Way::Hangs => reply.header("grpc-status"),
                Way::Begins => reply.trailer("grpc-status"),
            };
            assert_eq!(status, "4", "{way:?}: {reply:?}");
            let seen = server.timeouts.recv().await.unwrap();
            assert!(nanoseconds(&seen) < 300_000_000, "{seen}");
            assert_eq!(server.reset().await, Reason::CANCEL, "{way:?}");
        }
        let counted =
            r#"tipstaff_upstream_failures_total{direction="inbound",reason="deadline_exceeded"} 1"#;
        assert!(orders.metrics().await.contains(counted), "{way:?}");
    }
}

/// HTTP/1.1 has no trailers that a client has to read.
#[tokio::test]
async fn a_response_that_a_deadline_cuts_is_never_whole() {
    let authority = Authority::new();
    let mut server = Server::sidecar(&authority, Way::Begins, Duration::ZERO).await;
    let frontend = frontend(&authority, server.address);
    let mut workload = Caller::workload(frontend.outbound()).await;
    let reply = send(&mut workload, "200m").await;
    assert!(reply.is_err(), "{reply:?}");
    assert_eq!(server.reset().await, Reason::CANCEL);
}

#[tokio::test]
async fn a_timeout_that_is_not_well_formed_is_rejected_and_one_that_is_over_goes_nowhere() {
    let authority = Authority::new();
    let app = App::start().await;
    let svid = authority.svid(ORDERS, Life::Hour);
    let orders = sidecar(&authority, svid, app.address, &grants(), |config| {
        config.outbound = outbound(vec![service(HOST, app.address, ORDERS)]);
    });
    let svid = authority.svid(FRONTEND, Life::Hour);
    for (value, expected) in [
        ("1", "3"),
        ("1s", "3"),
        ("-1S", "3"),
        ("1.5S", "3"),
        ("100000000n", "3"),
        ("0n", "4"),
    ] {
        for mut caller in [
            Caller::http2(orders.inbound, &authority, &svid).await,
            Caller::workload_http2(orders.outbound()).await,
        ] {
            let reply = send(&mut caller, value).await.unwrap();
            assert_eq!(reply.header("grpc-status"), expected, "{value}: {reply:?}");
            let twice = call("1S").header("grpc-timeout", value);
            let reply = caller.send(twice).await.unwrap();
            assert_eq!(reply.header("grpc-status"), "3", "twice: {reply:?}");
        }
    }
    assert_eq!((app.requests(), app.connections()), (0, 0));
}

#[tokio::test]
async fn the_field_says_nothing_about_other_requests() {
    let authority = Authority::new();
    let app = App::start().await;
    let svid = authority.svid(ORDERS, Life::Hour);
    let documents = grant("allow: [{methods: [GET], path: \"/**\"}]");
    let orders = sidecar(&authority, svid, app.address, &documents, |_| ());
    let svid = authority.svid(FRONTEND, Life::Hour);
    let mut caller = Caller::http2(orders.inbound, &authority, &svid).await;
    let request = Request::get("/a").header("host", HOST);
    let reply = caller.send(request.header("grpc-timeout", "soon")).await;
    assert_eq!(reply.unwrap().seen("grpc-timeout"), ["soon"]);
}

#[tokio::test]
async fn a_connection_is_made_even_if_no_call_waits_as_long_as_a_handshake_takes() {
    let authority = Authority::new();
    let server = Server::sidecar(&authority, Way::Begins, Duration::from_millis(300)).await;
    let mut seen = server.timeouts;
    let frontend = frontend(&authority, server.address);
    let mut workload = Caller::workload_http2(frontend.outbound()).await;
    let arrived = async {
        // Each waits for a third of the handshake.
        while seen.is_empty() {
            send(&mut workload, "100m").await.unwrap();
        }
        seen.recv().await.unwrap()
    };
    timeout(SOON, arrived).await.expect("a call that arrives");
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

/// It takes the connection, as kernels do, and never says a word.
#[tokio::test]
async fn a_deadline_ends_the_wait_for_a_connection() {
    let authority = Authority::new();
    let hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let frontend = frontend(&authority, hole.local_addr().unwrap());
    let mut workload = Caller::workload_http2(frontend.outbound()).await;
    let reply = send(&mut workload, "100m").await.unwrap();
    assert_eq!(reply.header("grpc-status"), "4", "{reply:?}");
}

/// How long callers wait is their own affair: one in a hurry used to take endpoints from all the others.
#[tokio::test]
async fn a_caller_in_a_hurry_has_no_endpoint_ejected() {
    let authority = Authority::new();
    let holes = [
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    ];
    let to = holes.each_ref().map(|hole| hole.local_addr().unwrap());
    let svid = authority.svid(FRONTEND, Life::Hour);
    let frontend = sidecar(&authority, svid, to[0], "", |config| {
        let mut orders = service(HOST, to[0], ORDERS);
        orders.endpoints = endpoints(to);
        let (failures, rest) = (1, SOON);
        orders.resilience.breaker = Some(Breaker { failures, rest });
        config.outbound = outbound(vec![orders]);
    });
    let mut workload = Caller::workload_http2(frontend.outbound()).await;
    for _ in 0..4 {
        let reply = send(&mut workload, "100m").await.unwrap();
        assert_eq!(reply.header("grpc-status"), "4", "{reply:?}");
    }
    let metrics = frontend.metrics().await;
    let none = "tipstaff_ejected_endpoints 0\n";
    assert!(metrics.contains(none), "{metrics}");
}
