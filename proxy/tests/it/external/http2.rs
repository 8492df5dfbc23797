//! Servers outside that offer HTTP/2.

use super::server::{Certificate, mint, server_config};
use super::{Workload, entry, originate};
use crate::harness::{App, Authority, Caller, raw_app};
use http::{Request, StatusCode};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const NAME: &str = "api.example.com";

/// TLS before two apps: what is spoken says which.
async fn front(world: &Authority, http2: SocketAddr, http1: SocketAddr) -> SocketAddr {
    let mut config = server_config(mint(world, Certificate::Good(NAME)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut tls = acceptor.accept(stream).await.unwrap();
                let app = match tls.get_ref().1.alpn_protocol() {
                    Some(b"h2") => http2,
                    _ => http1,
                };
                let mut app = TcpStream::connect(app).await.unwrap();
                // Ends with whichever side goes first.
                let _ = copy_bidirectional(&mut tls, &mut app).await;
            });
        }
    });
    address
}

/// An app behind such a front, and a workload with a way to it.
struct Outside {
    app: App,
    workload: Workload,
}

impl Outside {
    async fn new() -> Self {
        let world = Authority::new();
        let app = App::start().await;
        let (upgrading, _) = raw_app(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .await;
        let front = front(&world, app.address, upgrading).await;
        let workload = Workload::new(vec![entry(NAME, front, originate(&world))]);
        Self { app, workload }
    }
}

#[tokio::test]
async fn a_server_that_offers_http2_is_spoken_to_in_it_over_one_connection() {
    let Outside { app, workload } = Outside::new().await;
    let to = workload.sidecar.outbound();
    for mut caller in [Caller::workload(to).await, Caller::workload_http2(to).await] {
        for _ in 0..5 {
            let request = Request::post("/v1/a?q")
                .header("host", "API.example.com")
                .header("tipstaff-peer", "spiffe://prod.example/a")
                .header("tipstaff-hops", "3");
            let reply = caller.send_with(request, "a body").await.unwrap();
            assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
            let seen = &reply.body;
            assert!(seen.starts_with("/v1/a?q\nPOST HTTP/2.0\n"), "{seen}");
            assert!(seen.ends_with("\na body"), "{seen}");
            for ours in ["tipstaff", "spiffe", "client-cert", "prod.example"] {
                assert!(!seen.contains(ours), "{ours} in {seen}");
            }
        }
    }
    assert_eq!((app.requests(), app.connections()), (10, 1));
}

#[tokio::test]
async fn a_grpc_call_leaves_the_mesh_as_one() {
    let Outside {
        app: _app,
        workload,
    } = Outside::new().await;
    let mut caller = Caller::workload_http2(workload.sidecar.outbound()).await;
    let request = Request::post("/orders.Orders/List")
        .header("host", NAME)
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "10S")
        .header("te", "trailers");
    let reply = caller.send_with(request, "a message").await.unwrap();
    assert_eq!(reply.header("grpc-status"), "0", "{reply:?}");
    assert_eq!(reply.seen("te"), ["trailers"]);
    assert_eq!(reply.seen("grpc-timeout").len(), 1);
}

/// Requests go over HTTP/2 before it and after it all the same.
#[tokio::test]
async fn an_upgrade_goes_to_such_a_server_over_http1() {
    let Outside { app, workload } = Outside::new().await;
    let mut caller = workload.caller().await;
    assert_eq!(caller.get(NAME, "/").await.status, StatusCode::OK);
    let mut stream = TcpStream::connect(workload.sidecar.outbound())
        .await
        .unwrap();
    let request = format!(
        "GET /chat HTTP/1.1\r\nhost: {NAME}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    let reply = caller.get(NAME, "/").await;
    assert!(reply.body.contains("HTTP/2.0"), "{reply:?}");
    assert_eq!(app.connections(), 1);
}

/// A connection that takes what it is sent for nothing, and says `said` over and over.
async fn flooding(world: &Authority, said: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let said = said.clone();
            tokio::spawn(async move {
                // Empty settings, as every server begins.
                stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
                let (mut heard, mut stream) = stream.split();
                let mut nowhere = tokio::io::sink();
                let deaf = tokio::io::copy(&mut heard, &mut nowhere);
                let talks = async { while stream.write_all(&said).await.is_ok() {} };
                tokio::select! { _ = deaf => {}, () = talks => {} }
                Ok::<_, std::io::Error>(())
            });
        }
    });
    front(world, address, address).await
}

/// Nothing of it was counted: the sidecar answered PING after PING for as long as it was asked to.
#[tokio::test]
async fn a_server_whose_frames_lead_nowhere_is_left_and_counted() {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
        frame.extend(payload);
        frame.repeat(100)
    };
    let world = Authority::new();
    for (name, said) in [
        ("PING", frame(6, 0, 0, &[0; 8])),
        ("SETTINGS", frame(4, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("unknown frames", frame(0xbb, 0, 0, &[0; 8])),
        // `:status: 103`, as a literal that refers to the name in the static table.
        ("early hints", frame(1, 4, 1, b"\x08\x03103")),
    ] {
        let at = flooding(&world, said).await;
        let workload = Workload::new(vec![entry(NAME, at, originate(&world))]);
        let reply = workload.caller().await.get(NAME, "/").await;
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{name}: {reply:?}");
        let series = "tipstaff_ended_upstream_connections_total{direction=\"outbound\",reason=\"frame_flood\"}";
        assert!(workload.counted(series).await >= 1, "{name}");
    }
}
