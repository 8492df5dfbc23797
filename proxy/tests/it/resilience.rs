mod attempts;
mod closing;
mod hashing;
mod leaving;
mod limits;

use crate::h2_frames::{DATA, GOAWAY, HEADERS, OPEN, RST_STREAM, SETTINGS, WHOLE, block, frame};
use crate::harness::{
    Authority, Caller, FRONTEND, Life, ORDERS, Sidecar, grant_all, head, outbound, service, sidecar,
};
use http::{Request, StatusCode};
use identity::tls::{ClientAuth, server_config};
use proxy::config::Service;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

const HOST: &str = "orders.shop.example";
const SOON: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(1);
/// An indexed `:status: 200` (RFC 7541 appendix A).
const OK: &[u8] = &[0x88];
/// A literal `:status: 502`.
const BAD_GATEWAY: &[u8] = b"\x08\x03502";
const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];

/// What an endpoint does with a request head.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Answers.
    Serves,
    /// Answers that nobody can, as a sidecar whose app is gone.
    Fails,
    /// Says so to a gRPC call.
    FailsCalls,
    /// Says that it has not looked at it.
    Refuses,
    /// Says so of this one and all that follow.
    GoesAway,
    /// Says so of all that follow, and goes on with this one.
    Leaves,
    /// Closes the connection.
    Cuts,
    /// Closes the connection after a part of the response.
    Truncates,
    /// Resets it there.
    Resets,
    /// Answers an octet at a time.
    Drips,
    /// Nothing, for ever.
    Hangs,
    /// Answers later.
    Dawdles,
    /// Fails so many requests, then serves.
    FailsFirst(usize),
}

impl Way {
    /// What it writes about `stream`, having `seen` so many requests before, and whether it closes then.
    fn answer(self, stream: u32, seen: usize) -> (Vec<u8>, bool) {
        match self {
            Self::FailsFirst(requests) if seen < requests => Self::Fails.answer(stream, seen),
            Self::Serves | Self::Dawdles | Self::Drips | Self::FailsFirst(_) => {
                (frame(HEADERS, WHOLE, stream, OK), false)
            }
            Self::Fails => (frame(HEADERS, WHOLE, stream, BAD_GATEWAY), false),
            Self::FailsCalls => {
                let head = [OK, &block(&[("grpc-status", "14")])].concat();
                (frame(HEADERS, WHOLE, stream, &head), false)
            }
            Self::Refuses => (frame(RST_STREAM, 0, stream, &REFUSED_STREAM), false),
            Self::GoesAway => (frame(GOAWAY, 0, 0, &[0; 8]), false),
            Self::Leaves => {
                let last = [stream.to_be_bytes(), [0; 4]].concat();
                let head = frame(HEADERS, OPEN, stream, OK);
                ([frame(GOAWAY, 0, 0, &last), head].concat(), false)
            }
            Self::Cuts => (Vec::new(), true),
            Self::Truncates | Self::Resets => {
                let head = frame(HEADERS, OPEN, stream, OK);
                ([head, frame(DATA, 0, stream, b"a part")].concat(), true)
            }
            Self::Hangs => (Vec::new(), false),
        }
    }
}

/// A sidecar of the orders that has one way with every request, and how many it got.
async fn orders(authority: &Authority, way: Way) -> (SocketAddr, Arc<AtomicUsize>) {
    let acceptor = acceptor(authority);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
            // Ends with the connection.
            tokio::spawn(async move { serve(acceptor, stream, way, &seen).await.ok() });
        }
    });
    (address, requests)
}

fn acceptor(authority: &Authority) -> TlsAcceptor {
    let svid = authority.svid(ORDERS, Life::Hour);
    let bundle = Arc::new(Arc::new(authority.bundle()));
    let config = server_config(&svid, bundle, ClientAuth::Required, &[b"h2"]);
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    way: Way,
    seen: &AtomicUsize,
) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let settings = [frame(SETTINGS, 0, 0, b""), frame(SETTINGS, 1, 0, b"")].concat();
    stream.write_all(&settings).await?;
    stream.read_exact(&mut [0; 24]).await?; // The preface.
    loop {
        let mut start = [0; 9];
        stream.read_exact(&mut start).await?;
        let [a, b, c, kind, _, of @ ..] = start;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await?;
        if kind == HEADERS {
            let before = seen.fetch_add(1, Ordering::SeqCst);
            if matches!(way, Way::Dawdles) {
                sleep(LIMIT / 3).await;
            }
            let (answer, closes) = way.answer(u32::from_be_bytes(of), before);
            let step = match way {
                Way::Drips => 1,
                _ => usize::MAX,
            };
            for part in answer.chunks(step) {
                stream.write_all(part).await?;
                stream.flush().await?;
            }
            if matches!(way, Way::Resets) {
                // So that what was said arrives before the reset.
                sleep(LIMIT / 20).await;
                return stream.get_ref().0.set_zero_linger();
            }
            if closes {
                return stream.shutdown().await;
            }
        }
    }
}

/// A front end whose service has these endpoints.
fn frontend(authority: &Authority, endpoints: &[SocketAddr]) -> Sidecar {
    with(authority, endpoints, |_| ())
}

fn with(
    authority: &Authority,
    endpoints: &[SocketAddr],
    change: impl FnOnce(&mut Service),
) -> Sidecar {
    let svid = authority.svid(FRONTEND, Life::Hour);
    sidecar(authority, svid, endpoints[0], "", |config| {
        let mut orders = service(HOST, endpoints[0], ORDERS);
        orders.endpoints = crate::harness::endpoints(endpoints.iter().copied());
        orders.timeout = LIMIT;
        change(&mut orders);
        config.outbound = outbound(vec![orders]);
        config.timeouts.upstream_connect = LIMIT;
    })
}

fn post() -> http::request::Builder {
    Request::post("/a").header("host", HOST)
}

#[tokio::test]
async fn a_request_that_was_not_looked_at_goes_to_another_endpoint() {
    for way in [Way::Refuses, Way::GoesAway] {
        for body in ["", "a body"] {
            let authority = Authority::new();
            let (refusing, refused) = orders(&authority, way).await;
            let (serving, served) = orders(&authority, Way::Serves).await;
            let frontend = frontend(&authority, &[refusing, serving]);
            let to = frontend.outbound();
            for mut workload in [Caller::workload(to).await, Caller::workload_http2(to).await] {
                for _ in 0..10 {
                    let reply = workload.send_with(post(), body).await.unwrap();
                    assert_eq!(reply.status, StatusCode::OK, "{way:?}: {reply:?}");
                }
            }
            assert_eq!(served.load(Ordering::SeqCst), 20, "{way:?}");
            assert!(refused.load(Ordering::SeqCst) > 0, "{way:?} was not asked");
            let retries = r#"tipstaff_retries_total{direction="outbound",outcome="answered"}"#;
            assert!(frontend.metrics().await.contains(retries), "{way:?}");
        }
    }
}

#[tokio::test]
async fn a_service_that_refuses_everything_is_asked_no_more_than_the_budget_allows() {
    let authority = Authority::new();
    let (refusing, asked) = orders(&authority, Way::Refuses).await;
    let frontend = with(&authority, &[refusing], |service| {
        service.resilience.breaker = None;
    });
    let mut workload = Caller::workload(frontend.outbound()).await;
    for _ in 0..20 {
        let reply = workload.send(post()).await.unwrap();
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    }
    // A fifth, and three that are there from the start.
    assert_eq!(asked.load(Ordering::SeqCst), 20 + 20 / 5 + 3);
    let exhausted = r#"tipstaff_retries_total{direction="outbound",outcome="budget_exhausted"}"#;
    assert!(frontend.metrics().await.contains(exhausted));
}

#[tokio::test]
async fn a_lost_connection_is_made_good_once_for_what_may_be_repeated() {
    for (method, times) in [
        ("GET", 2),
        ("PUT", 2),
        ("DELETE", 2),
        ("POST", 1),
        ("PATCH", 1),
    ] {
        let authority = Authority::new();
        let (cutting, asked) = orders(&authority, Way::Cuts).await;
        let frontend = frontend(&authority, &[cutting]);
        let mut workload = Caller::workload(frontend.outbound()).await;
        let request = Request::builder().method(method).uri("/a");
        let reply = workload.send(request.header("host", HOST)).await.unwrap();
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{method}");
        assert_eq!(asked.load(Ordering::SeqCst), times, "{method}");
    }
}

#[tokio::test]
async fn a_response_that_is_cut_is_never_whole() {
    for way in [Way::Truncates, Way::Resets] {
        let authority = Authority::new();
        let (cutting, asked) = orders(&authority, way).await;
        let frontend = frontend(&authority, &[cutting]);
        let to = frontend.outbound();
        for mut workload in [Caller::workload(to).await, Caller::workload_http2(to).await] {
            let request = Request::get("/a").header("host", HOST);
            let reply = timeout(SOON, workload.send(request)).await.unwrap();
            assert!(reply.is_err(), "{way:?}: {reply:?}");
        }
        let asked = asked.load(Ordering::SeqCst);
        assert_eq!(asked, 2, "{way:?}: once each, as it had begun to answer");
    }
}

#[tokio::test]
async fn an_endpoint_that_answers_an_octet_at_a_time_is_understood() {
    let authority = Authority::new();
    let (dripping, asked) = orders(&authority, Way::Drips).await;
    let frontend = frontend(&authority, &[dripping]);
    let mut workload = Caller::workload(frontend.outbound()).await;
    for _ in 0..10 {
        assert_eq!(workload.send(post()).await.unwrap().status, StatusCode::OK);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 10);
}

#[tokio::test]
async fn one_endpoint_of_three_that_is_gone_costs_no_request() {
    let authority = Authority::new();
    let (one, served) = orders(&authority, Way::Serves).await;
    let (other, served_too) = orders(&authority, Way::Serves).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = gone.local_addr().unwrap(); // Closed by now.
    let frontend = frontend(&authority, &[gone, one, other]);
    let mut workload = Caller::workload(frontend.outbound()).await;
    for _ in 0..50 {
        assert_eq!(workload.send(post()).await.unwrap().status, StatusCode::OK);
    }
    let served = [&served, &served_too].map(|served| served.load(Ordering::SeqCst));
    assert_eq!(served.iter().sum::<usize>(), 50);
    assert!(!served.contains(&0), "{served:?}");
}

#[tokio::test]
async fn of_endpoints_that_all_fail_half_are_left_alone() {
    for way in [Way::Fails, Way::FailsCalls] {
        let authority = Authority::new();
        let (one, asked) = orders(&authority, way).await;
        let (other, asked_too) = orders(&authority, way).await;
        let frontend = frontend(&authority, &[one, other]);
        let mut workload = Caller::workload(frontend.outbound()).await;
        for _ in 0..30 {
            workload.send(post()).await.unwrap();
        }
        let asked = [&asked, &asked_too].map(|asked| asked.load(Ordering::SeqCst));
        assert_eq!(asked.iter().sum::<usize>(), 30, "{way:?}");
        assert!(asked.contains(&5), "{way:?}: {asked:?}");
        let metrics = frontend.metrics().await;
        assert!(
            metrics.contains("tipstaff_ejected_endpoints 1\n"),
            "{metrics}"
        );
    }
}

/// It takes the connection, as kernels do, and never says a word.
#[tokio::test]
async fn a_black_hole_is_given_up_in_time_and_is_not_in_the_way_of_others() {
    let authority = Authority::new();
    let hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let alone = frontend(&authority, &[hole.local_addr().unwrap()]);
    let mut workload = Caller::workload(alone.outbound()).await;
    let reply = timeout(SOON, workload.send(post())).await.unwrap().unwrap();
    assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT);
    assert!(reply.body.contains("connect_timeout"), "{}", reply.body);

    let (serving, served) = orders(&authority, Way::Serves).await;
    let both = frontend(&authority, &[hole.local_addr().unwrap(), serving]);
    let mut workload = Caller::workload(both.outbound()).await;
    for _ in 0..20 {
        assert_eq!(workload.send(post()).await.unwrap().status, StatusCode::OK);
    }
    assert_eq!(served.load(Ordering::SeqCst), 20);
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_neither_waited_for_nor_asked_twice() {
    let authority = Authority::new();
    let (silent, asked) = orders(&authority, Way::Hangs).await;
    let (serving, _) = orders(&authority, Way::Serves).await;
    let frontend = frontend(&authority, &[silent, serving]);
    let mut workload = Caller::workload(frontend.outbound()).await;
    let mut late = 0;
    for _ in 0..20 {
        let request = Request::get("/a").header("host", HOST);
        let reply = timeout(SOON, workload.send(request))
            .await
            .unwrap()
            .unwrap();
        match reply.status {
            StatusCode::OK => {}
            StatusCode::GATEWAY_TIMEOUT => late += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(asked.load(Ordering::SeqCst), late);
    assert!(late <= 1, "{late} of 20");
}
