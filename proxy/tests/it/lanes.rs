use crate::harness::{
    Authority, Caller, FRONTEND, Life, ORDERS, grant, outbound, service, sidecar,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::tls::{ClientAuth, server_config};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

const HOST: &str = "orders.shop.example";

/// Its lane used to be replaced by a connection that is none, without a pause and for ever.
#[tokio::test]
async fn a_callee_that_turns_to_http1_is_not_asked_again_and_again() {
    let authority = Authority::new();
    let orders = authority.svid(ORDERS, Life::For(Duration::from_secs(3)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let bundle = Arc::new(authority.bundle());
    let handshakes = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&handshakes);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let is_first = seen.fetch_add(1, Ordering::SeqCst) == 0;
            let alpn: &[u8] = if is_first { b"h2" } else { b"http/1.1" };
            let bundle = Arc::new(Arc::clone(&bundle));
            let config = server_config(&orders, bundle, ClientAuth::Required, &[alpn]);
            tokio::spawn(async move {
                let acceptor = TlsAcceptor::from(Arc::new(config));
                let mut stream = acceptor.accept(stream).await.unwrap();
                if is_first {
                    let answer = service_fn(async |_: Request<Incoming>| empty());
                    let server = http2::Builder::new(TokioExecutor::new());
                    let io = TokioIo::new(stream);
                    server.serve_connection(io, answer).await.ok();
                } else {
                    stream.read_to_end(&mut Vec::new()).await.ok();
                }
            });
        }
    });
    let svid = authority.svid(FRONTEND, Life::Hour);
    let frontend = sidecar(&authority, svid, to, "", |config| {
        config.outbound = outbound(vec![service(HOST, to, ORDERS)]);
    });
    let mut workload = Caller::workload(frontend.outbound()).await;
    assert_eq!(workload.get(HOST, "/a").await.status, StatusCode::OK);
    // More than half of the callee's certificate, when the lane is replaced.
    tokio::time::sleep(Duration::from_millis(2000)).await;
    assert_eq!(handshakes.load(Ordering::SeqCst), 2);
}

/// The second call used to wait for the first to end, in the queue of its connection.
#[tokio::test]
async fn a_grpc_app_that_takes_one_call_at_a_time_gets_more_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    let begun = Arc::new(Barrier::new(2));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let begun = Arc::clone(&begun);
            let answer = service_fn(move |request: Request<Incoming>| {
                let begun = Arc::clone(&begun);
                async move {
                    if request.uri().path() == "/a.B/Both" {
                        begun.wait().await;
                    }
                    empty()
                }
            });
            let mut server = http2::Builder::new(TokioExecutor::new());
            server.max_concurrent_streams(1);
            tokio::spawn(server.serve_connection(TokioIo::new(stream), answer));
        }
    });
    let authority = Authority::new();
    let orders = authority.svid(ORDERS, Life::Hour);
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let grants = grant("allow: [{grpc: a.B, methods: [First, Both]}]");
    let sidecar = sidecar(&authority, orders, app, &grants, |config| {
        config.timeouts.response = Duration::from_secs(2);
    });
    let mut one = Caller::http2(sidecar.inbound, &authority, &frontend).await;
    let mut other = Caller::http2(sidecar.inbound, &authority, &frontend).await;
    // By its end the app has said how much it takes.
    let first = one.send(grpc("/a.B/First")).await.unwrap();
    let both = tokio::join!(one.send(grpc("/a.B/Both")), other.send(grpc("/a.B/Both")));
    for reply in [first, both.0.unwrap(), both.1.unwrap()] {
        assert_eq!(reply.header("grpc-status"), "", "answered by the sidecar");
    }
}

/// Eight connections were all there were: when each carried as many calls as the app takes, every other waited for one to end.
#[tokio::test]
async fn calls_that_do_not_end_leave_connections_for_others() {
    const CALLS: usize = 12;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let all = Arc::new(Barrier::new(CALLS));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (arrived, all) = (arrived.clone(), Arc::clone(&all));
            let answer = service_fn(move |_: Request<Incoming>| {
                let (arrived, all) = (arrived.clone(), Arc::clone(&all));
                async move {
                    arrived.send(()).ok();
                    all.wait().await;
                    empty()
                }
            });
            let mut server = http2::Builder::new(TokioExecutor::new());
            server.max_concurrent_streams(1);
            tokio::spawn(server.serve_connection(TokioIo::new(stream), answer));
        }
    });
    let authority = Authority::new();
    let orders = authority.svid(ORDERS, Life::Hour);
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let grants = grant("allow: [{grpc: a.B, methods: [All]}]");
    let sidecar = sidecar(&authority, orders, app, &grants, |_| {});
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..CALLS {
        let mut caller = Caller::http2(sidecar.inbound, &authority, &frontend).await;
        calls.spawn(async move { caller.send(grpc("/a.B/All")).await.unwrap() });
        // By then the app has said how much it takes on that connection.
        let arrival = timeout(Duration::from_secs(20), arrivals.recv()).await;
        arrival.expect("it does not wait for the others").unwrap();
    }
    while let Some(reply) = calls.join_next().await {
        let status = reply.unwrap().header("grpc-status").to_owned();
        assert_eq!(status, "", "answered by the sidecar");
    }
}

/// Each call was given a connection of its own, on which it waited all the same.
#[tokio::test]
async fn a_server_that_takes_no_calls_for_now_costs_no_connection_for_each() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    let connections = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            seen.fetch_add(1, Ordering::SeqCst);
            let answer = service_fn(async |_: Request<Incoming>| empty());
            let mut server = http2::Builder::new(TokioExecutor::new());
            server.max_concurrent_streams(0);
            tokio::spawn(server.serve_connection(TokioIo::new(stream), answer));
        }
    });
    let authority = Authority::new();
    let orders = authority.svid(ORDERS, Life::Hour);
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let grants = grant("allow: [{grpc: a.B, methods: [First]}]");
    let sidecar = sidecar(&authority, orders, app, &grants, |config| {
        config.timeouts.response = Duration::from_millis(300);
    });
    let mut caller = Caller::http2(sidecar.inbound, &authority, &frontend).await;
    for _ in 0..5 {
        let reply = caller.send(grpc("/a.B/First")).await.unwrap();
        assert_ne!(reply.header("grpc-status"), "0", "{reply:?}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

fn grpc(path: &str) -> http::request::Builder {
    Request::post(path)
        .header("host", HOST)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

#[expect(clippy::unnecessary_wraps, reason = "services answer results")]
fn empty() -> Result<Response<Empty<Bytes>>, Infallible> {
    Ok(Response::new(Empty::new()))
}
