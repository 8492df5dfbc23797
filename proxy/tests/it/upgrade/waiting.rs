use super::{ASK, HOST, SOON, SWITCH, app, profile, said};
use crate::harness::{
    Authority, FRONTEND, Life, Mood, Nameserver, ORDERS, grant_all, head, outbound, service,
    sidecar,
};
use proxy::config::{Dns, Endpoints};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const NAME: &str = "orders.example.";

#[tokio::test]
async fn an_upgrade_that_comes_before_the_endpoints_are_known_waits_for_them() {
    let authority = Authority::new();
    let (app, _told) = app(SWITCH).await;
    let svid = authority.svid(ORDERS, Life::Hour);
    let orders = sidecar(&authority, svid, app, &(grant_all() + &profile()), |_| ());
    let nameserver = Nameserver::start().await;
    nameserver.addresses(NAME, 1, &[orders.inbound.ip()]);
    nameserver.is(Mood::Silent);
    let svid = authority.svid(FRONTEND, Life::Hour);
    let frontend = sidecar(&authority, svid, app, "", |config| {
        let mut to = service(HOST, orders.inbound, ORDERS);
        let name = format!("{NAME}:{}", orders.inbound.port());
        to.endpoints = Endpoints::Listed(vec![name.parse().unwrap()]);
        let mut outbound = outbound(vec![to]).unwrap();
        outbound.dns = Dns {
            servers: vec![nameserver.address],
        };
        config.outbound = Some(outbound);
        config.timeouts.upstream_connect = 4 * SOON;
    });
    let mut stream = TcpStream::connect(frontend.outbound()).await.unwrap();
    stream.write_all(ASK.as_bytes()).await.unwrap();
    let early = timeout(Duration::from_millis(300), stream.read_u8()).await;
    assert!(early.is_err(), "nobody knows yet where to: {early:?}");
    nameserver.is(Mood::Well);
    // The query that was lost is repeated.
    let answer = timeout(4 * SOON, head(&mut stream)).await;
    let answer = answer.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    stream.write_all(b"hello").await.unwrap();
    said(&mut stream, "hello").await;
}
