use crate::harness::{
    App, Authority, Caller, FRONTEND, Life, ORDERS, Sidecar, grant_all, head, sidecar, tls,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

const HOST: &str = "orders.shop.example";
const SOON: Duration = Duration::from_secs(10);

async fn orders(limit: Duration) -> (Authority, App, Sidecar) {
    let authority = Authority::new();
    let app = App::start().await;
    let svid = authority.svid(ORDERS, Life::Hour);
    let sidecar = sidecar(&authority, svid, app.address, &grant_all(), |config| {
        config.timeouts.drain = limit;
    });
    (authority, app, sidecar)
}

#[tokio::test]
async fn what_is_in_flight_ends_and_nothing_new_begins() {
    let (authority, app, mut sidecar) = orders(SOON).await;
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let http1 = Caller::http1(sidecar.inbound, &authority, Some(&frontend))
        .await
        .unwrap();
    let http2 = Caller::http2(sidecar.inbound, &authority, &frontend).await;
    let mut slow = Vec::new();
    for mut caller in [http1, http2] {
        slow.push(tokio::spawn(
            async move { caller.get(HOST, "/slow/500").await },
        ));
    }
    while app.requests() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sidecar.drain.start();
    for caller in slow {
        assert_eq!(caller.await.unwrap().status, StatusCode::OK);
    }
    timeout(SOON, &mut sidecar.running)
        .await
        .expect("ends with the last request")
        .unwrap();
    assert!(TcpStream::connect(sidecar.inbound).await.is_err());
}

/// A caller that is not told sends its next request on a connection that is closed under it.
#[tokio::test]
async fn an_answer_on_http1_says_that_no_other_follows() {
    let (authority, app, sidecar) = orders(SOON).await;
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let mut stream = tls(sidecar.inbound, &authority, Some(&frontend), b"http/1.1")
        .await
        .unwrap();
    let request = format!("GET /slow/300 HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    while app.requests() < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sidecar.drain.start();
    let answer = head(&mut stream).await;
    assert!(answer.contains("connection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn what_hangs_is_cut_at_the_limit() {
    let (authority, app, mut sidecar) = orders(Duration::from_millis(200)).await;
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let mut caller = Caller::http2(sidecar.inbound, &authority, &frontend).await;
    let hanging = tokio::spawn(async move {
        caller
            .send(Request::get("/slow/60000").header("host", HOST))
            .await
    });
    while app.requests() < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sidecar.drain.start();
    timeout(SOON, &mut sidecar.running)
        .await
        .expect("cut at the limit")
        .unwrap();
    assert!(hanging.await.unwrap().is_err());
}

/// An upload that never ends: on HTTP/1.1 and HTTP/2, at the hard end of the drain and of the caller's certificate.
#[tokio::test]
async fn uploads_in_flight_are_cut_with_what_carries_them() {
    for ends_by_drain in [true, false] {
        let (app, mut received) = app_that_only_reads().await;
        let authority = Authority::new();
        let svid = authority.svid(ORDERS, Life::Hour);
        let sidecar = sidecar(&authority, svid, app, &grant_all(), |config| {
            config.timeouts.drain = Duration::from_millis(300);
        });
        let life = Life::For(Duration::from_secs(if ends_by_drain { 3600 } else { 3 }));
        let frontend = authority.svid(FRONTEND, life);
        let mut http1 = tls(sidecar.inbound, &authority, Some(&frontend), b"http/1.1")
            .await
            .unwrap();
        let post = format!("POST /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 99999\r\n\r\nx");
        http1.write_all(post.as_bytes()).await.unwrap();
        let http2 = tls(sidecar.inbound, &authority, Some(&frontend), b"h2")
            .await
            .unwrap();
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(http2))
            .await
            .unwrap();
        tokio::spawn(connection);
        let first = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x")));
        let body = StreamBody::new(stream::iter([first]).chain(stream::pending()));
        let request = Request::post(format!("https://{HOST}/a"))
            .body(body)
            .unwrap();
        let response = tokio::spawn(sender.send_request(request));
        for _ in 0..2 {
            assert_eq!(received.recv().await, Some(Event::Begun));
        }
        if ends_by_drain {
            sidecar.drain.start();
        }
        for _ in 0..2 {
            let event = timeout(SOON, received.recv()).await;
            assert_eq!(event.expect("cut"), Some(Event::Ended));
        }
        assert!(response.await.unwrap().is_err());
        let mut rest = Vec::new();
        timeout(SOON, http1.read_to_end(&mut rest))
            .await
            .expect("closed")
            .ok();
        if !ends_by_drain {
            let cut =
                "tipstaff_upstream_failures_total{direction=\"inbound\",reason=\"cut_off\"} 1\n";
            assert!(sidecar.metrics().await.contains(cut), "not on record");
        }
    }
}

#[derive(Debug, PartialEq)]
enum Event {
    Begun,
    Ended,
}

/// Tells of the head and the end of each of its connections, and never answers.
async fn app_that_only_reads() -> (SocketAddr, mpsc::Receiver<Event>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (events, receiver) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let events = events.clone();
            tokio::spawn(async move {
                head(&mut stream).await;
                events.send(Event::Begun).await.unwrap();
                stream.read_to_end(&mut Vec::new()).await.ok();
                events.send(Event::Ended).await.ok();
            });
        }
    });
    (address, receiver)
}
