//! Callees that are no sidecars of ours: what they lack, and what becomes of the workload's streams.

use super::{ASK, LIFE, lasts};
use crate::harness::{
    Authority, Caller, FRONTEND, Life, ORDERS, Sidecar, endpoints, head, outbound, service, sidecar,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::tls::{ClientAuth, server_config};
use proxy::Address;
use proxy::config::{OutboundListen, TcpService};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const HOST: &str = "orders.shop.example";
type Protocols = &'static [&'static [u8]];

/// A callee that agrees to these protocols and no other, and tells what was agreed to for each connection.
async fn callee(
    authority: &Authority,
    life: Life,
    protocols: Protocols,
) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let svid = authority.svid(ORDERS, life);
    let bundle = Arc::new(Arc::new(authority.bundle()));
    let config = server_config(&svid, bundle, ClientAuth::Required, protocols);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, tell) = (acceptor.clone(), tell.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await?;
                let agreed = stream.get_ref().1.alpn_protocol().unwrap_or_default();
                let agreed = String::from_utf8(agreed.to_vec()).unwrap();
                // A test that has heard enough is gone.
                tell.send(agreed.clone()).ok();
                serve(stream, &agreed).await
            });
        }
    });
    (address, told)
}

async fn serve(mut stream: TlsStream<TcpStream>, protocol: &str) -> io::Result<()> {
    match protocol {
        "h2" => {
            let answer = service_fn(async |_: Request<Incoming>| {
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            });
            let server = http2::Builder::new(TokioExecutor::new());
            server
                .serve_connection(TokioIo::new(stream), answer)
                .await
                .ok();
            return Ok(());
        }
        "tipstaff-proof" => {
            // The first is granted an hour, the next is left to wait.
            stream.read_exact(&mut [0; 32]).await?;
            let until = SystemTime::now() + Duration::from_secs(3600);
            let until = until.duration_since(UNIX_EPOCH).unwrap().as_secs();
            stream.write_u64(until).await?;
            stream.flush().await?;
            return std::future::pending().await;
        }
        "http/1.1" => {
            head(&mut stream).await;
            let switch = b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(switch).await?;
        }
        _ => {}
    }
    let (mut read, mut write) = tokio::io::split(stream);
    tokio::io::copy(&mut read, &mut write).await?;
    Ok(())
}

fn caller(authority: &Authority, life: Life, to: SocketAddr) -> Sidecar {
    let svid = authority.svid(FRONTEND, life);
    sidecar(authority, svid, to, "", |config| {
        config.timeouts.upstream_connect = Duration::from_millis(500);
        config.outbound = outbound(vec![service(HOST, to, ORDERS)]);
        config.outbound.as_mut().unwrap().tcp.push(TcpService {
            listen: Some(OutboundListen::Tcp("127.0.0.1:0".parse().unwrap())),
            destinations: Vec::new(),
            endpoints: endpoints([to]),
            identity: ORDERS.parse().unwrap(),
        });
    })
}

async fn asked(sidecar: &Sidecar) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(sidecar.outbound()).await.unwrap();
    stream.write_all(ASK.as_bytes()).await.unwrap();
    let answer = head(&mut stream).await;
    (stream, answer)
}

/// Such an upgrade used to wait for a second and to be refused.
#[tokio::test]
async fn an_upgrade_that_the_callees_http2_does_not_carry_goes_over_http1() {
    let authority = Authority::new();
    let (to, mut told) = callee(&authority, Life::Hour, &[b"h2", b"http/1.1"]).await;
    let frontend = caller(&authority, Life::Hour, to);
    let reply = Caller::workload(frontend.outbound())
        .await
        .get(HOST, "/")
        .await;
    assert_eq!(reply.status, StatusCode::OK);
    let (mut stream, answer) = asked(&frontend).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    stream.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");
    // What is no upgrade stays where it was.
    let reply = Caller::workload(frontend.outbound())
        .await
        .get(HOST, "/")
        .await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(told.recv().await.unwrap(), "h2");
    assert_eq!(told.recv().await.unwrap(), "http/1.1");
    assert!(told.is_empty());
}

#[tokio::test]
async fn an_upgrade_that_the_callee_takes_in_no_way_is_refused_with_the_reason() {
    let authority = Authority::new();
    let (to, _told) = callee(&authority, Life::Hour, &[b"h2"]).await;
    let frontend = caller(&authority, Life::Hour, to);
    let (_, answer) = asked(&frontend).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

/// Nothing ended such a connection on the calling side.
#[tokio::test]
async fn a_stream_over_http1_ends_with_the_first_of_both_certificates() {
    for (ours, theirs) in [(LIFE, Life::Hour), (Life::Hour, LIFE)] {
        let authority = Authority::new();
        let (to, _told) = callee(&authority, theirs, &[b"http/1.1"]).await;
        let frontend = caller(&authority, ours, to);
        let (mut stream, answer) = asked(&frontend).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let renew = || {
            let svid = authority.svid(FRONTEND, Life::Hour);
            frontend.svid.send_replace(Some(Arc::new(svid)));
        };
        let lasted = lasts(&mut stream, Duration::from_secs(9), renew).await;
        assert!(lasted < Duration::from_secs(5), "{lasted:?}");
    }
}

/// The answers before a timeout used to be thrown away.
#[tokio::test]
async fn what_was_granted_before_a_proof_broke_off_counts() {
    let authority = Authority::new();
    let (to, _told) = callee(
        &authority,
        Life::Hour,
        &[b"tipstaff-tcp", b"tipstaff-proof"],
    )
    .await;
    let frontend = caller(&authority, LIFE, to);
    let [Address::Tcp(address)] = frontend.tcp[..] else {
        panic!("expected one TCP service");
    };
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Up to the other end, so that this one is the first.
        lasts(&mut stream, Duration::from_millis(1), || {}).await;
        streams.push(stream);
    }
    let renew = || {
        let svid = authority.svid(FRONTEND, LIFE);
        frontend.svid.send_replace(Some(Arc::new(svid)));
    };
    let lasted = lasts(&mut streams[0], Duration::from_secs(8), renew).await;
    assert!(lasted >= Duration::from_secs(8), "only {lasted:?}");
    let lasted = lasts(&mut streams[1], Duration::from_secs(1), || {}).await;
    assert!(lasted < Duration::from_secs(1), "it goes on");
}
