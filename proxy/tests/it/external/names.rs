//! What names outside stand for, as a name server has it.

use super::server::Server;
use super::{Workload, entry, listening};
use crate::harness::{App, Caller, Mood, Nameserver};
use http::StatusCode;
use proxy::Address;
use proxy::config::external::{External, Tls};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

const NAME: &str = "api.example.com";
const ZONE: &str = "api.example.com.";
/// Longer than a time to live of a second and some retries.
const SOON: Duration = Duration::from_secs(15);
const FAILURES: &str = "tipstaff_discovery_failures_total{source=\"external\"}";

/// In plain text, at whatever the name stands for.
fn named(host: &str, port: u16) -> External {
    let mut entry = entry(host, SocketAddr::from(([127, 0, 0, 1], port)), Tls::None);
    entry.endpoints.clear();
    entry.ports = vec![port];
    entry
}

fn workload(nameserver: &Nameserver, external: External) -> Workload {
    Workload::with(vec![external], |config| {
        config.outbound.as_mut().unwrap().dns.servers = vec![nameserver.address];
        config.timeouts.upstream_connect = Duration::from_secs(2);
    })
}

fn loopback(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

#[tokio::test]
async fn a_name_is_followed_and_what_it_stood_for_last_stays_in_use() {
    let (app, nameserver) = (App::start().await, Nameserver::start().await);
    nameserver.addresses(ZONE, 1, &[loopback(1)]);
    let workload = workload(&nameserver, named(NAME, app.address.port()));
    let mut caller = workload.caller().await;
    for mood in [Mood::Fails, Mood::NoName, Mood::Silent] {
        assert_eq!(caller.get(NAME, "/").await.status, StatusCode::OK);
        nameserver.is(mood);
        let (failures, start) = (workload.counted(FAILURES).await, Instant::now());
        while workload.counted(FAILURES).await == failures {
            let reply = caller.get(NAME, "/").await;
            assert_eq!(reply.status, StatusCode::OK, "{mood:?}: {reply:?}");
            assert!(start.elapsed() < SOON, "nobody has asked again");
            sleep(Duration::from_millis(20)).await;
        }
        nameserver.is(Mood::Well);
    }
    // Nobody is at the new address: calls fail once it is followed.
    nameserver.addresses(ZONE, 1, &[loopback(9)]);
    let start = Instant::now();
    while Caller::workload(workload.sidecar.outbound())
        .await
        .get(NAME, "/")
        .await
        .status
        == StatusCode::OK
    {
        assert!(start.elapsed() < SOON, "the name is not followed");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_address_that_fails_is_passed_over_for_another_of_the_name() {
    let (app, nameserver) = (App::start().await, Nameserver::start().await);
    let both = [loopback(1), loopback(9)];
    nameserver.addresses(ZONE, 60, &both);
    let workload = workload(&nameserver, named(NAME, app.address.port()));
    let mut caller = workload.caller().await;
    for _ in 0..20 {
        assert_eq!(caller.get(NAME, "/").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn what_nobody_knows_is_said_at_once_and_names_no_series() {
    let nameserver = Nameserver::start().await;
    let workload = workload(&nameserver, named("*.example.com", 443));
    let mut caller = workload.caller().await;
    for host in ["a.example.com", "b.example.com"] {
        let reply = caller.get(host, "/").await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{reply:?}");
        assert!(reply.body.contains("unresolved"), "{reply:?}");
    }
    let metrics = workload.sidecar.metrics().await;
    assert!(!metrics.contains("a.example.com"), "{metrics}");
    assert_ne!(workload.counted(FAILURES).await, 0);
}

/// One that leads to the sidecar itself is found out whatever the name stands for.
#[tokio::test]
async fn a_name_that_comes_to_stand_for_the_sidecar_itself_leads_nowhere() {
    let nameserver = Nameserver::start().await;
    nameserver.addresses(ZONE, 60, &[loopback(1)]);
    let first = workload(&nameserver, named(NAME, 1));
    let own = first.sidecar.outbound().port();
    let mut config = first.sidecar.config.clone();
    config.outbound.as_mut().unwrap().external = vec![named(NAME, own)];
    first.sidecar.reload.apply(config).unwrap();
    let reply = first.caller().await.get(NAME, "/").await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    assert!(reply.body.contains("loop_to_self"), "{reply:?}");
}

/// Bytes that pass unread are led by the same resolver.
#[tokio::test]
async fn a_listener_leads_to_what_a_name_stands_for() {
    let (server, nameserver) = (Server::plain().await, Nameserver::start().await);
    nameserver.addresses(ZONE, 1, &[loopback(9), loopback(1)]);
    let external = listening(named(NAME, server.address.port()));
    let workload = workload(&nameserver, external);
    let [Address::Tcp(listener)] = workload.sidecar.tcp[..] else {
        panic!("expected one listener");
    };
    for turn in 0..4 {
        let mut stream = TcpStream::connect(listener).await.unwrap();
        stream.write_all(b"SELECT 1").await.unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK", "turn {turn}");
        assert_eq!(server.seen(), "SELECT 1");
        nameserver.is(Mood::Silent);
    }
}
