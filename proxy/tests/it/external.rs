mod http2; // Servers that offer HTTP/2.
mod names; // What names stand for.
mod passthrough; // Connections that go where their TLS handshake says.
mod server; // A server outside that keeps what it is told.

use crate::harness::{Authority, Caller, FRONTEND, Life, Sidecar, endpoint, outbound, sidecar};
use http::{Request, StatusCode};
use proxy::config::external::{External, Roots, Tls};
use proxy::config::{Config, Endpoint, OutboundListen};
use server::{Certificate, Server};
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::NamedTempFile;

/// A workload with a way out.
struct Workload {
    sidecar: Sidecar,
}

impl Workload {
    fn new(external: Vec<External>) -> Self {
        Self::with(external, |_| ())
    }

    fn with(external: Vec<External>, change: impl FnOnce(&mut Config)) -> Self {
        let authority = Authority::new();
        let svid = authority.svid(FRONTEND, Life::Hour);
        let nowhere = "127.0.0.1:9".parse().unwrap();
        let sidecar = sidecar(&authority, svid, nowhere, "", |config| {
            config.outbound = outbound(vec![]);
            config.outbound.as_mut().unwrap().external = external;
            config.timeouts.tls_hello = Duration::from_millis(500);
            change(config);
        });
        Self { sidecar }
    }

    async fn caller(&self) -> Caller {
        Caller::workload(self.sidecar.outbound()).await
    }

    /// How often what starts with `series` was counted.
    async fn counted(&self, series: &str) -> u64 {
        let metrics = self.sidecar.metrics().await;
        let mut values = metrics.lines().filter_map(|line| line.strip_prefix(series));
        values
            .next()
            .map_or(0, |value| value.trim().parse().unwrap())
    }

    async fn refused(&self, destination: &str) -> u64 {
        self.counted(&format!(
            "tipstaff_refused_destinations_total{{destination=\"{destination}\"}}"
        ))
        .await
    }
}

fn entry(host: &str, at: SocketAddr, tls: Tls) -> External {
    External {
        hosts: vec![host.parse().unwrap()],
        destinations: Vec::new(),
        ports: vec![443, 8443],
        endpoints: vec![endpoint(at)],
        tls,
        listen: None,
        timeout: Duration::from_secs(10),
    }
}

/// We speak TLS, and believe those for whom `authority` vouches.
fn originate(authority: &Authority) -> Tls {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), identity::pem::encode(&[authority.root()])).unwrap();
    Tls::Originate(Roots::read(file.path()).unwrap())
}

#[tokio::test]
async fn a_request_leaves_over_tls_and_tells_nothing_of_the_mesh() {
    let world = Authority::new();
    let server = Server::start(&world, Certificate::Good("api.example.com")).await;
    let workload = Workload::new(vec![entry(
        "api.example.com",
        server.address,
        originate(&world),
    )]);
    let to = workload.sidecar.outbound();
    for mut caller in [Caller::workload(to).await, Caller::workload_http2(to).await] {
        let request = Request::post("/v1/a?q")
            .header("host", "API.example.com")
            .header("te", "trailers")
            .header("tipstaff-peer", FRONTEND)
            .header("tipstaff_peer", FRONTEND)
            .header("x-forwarded-client-cert", format!("URI={FRONTEND}"));
        let reply = caller.send_with(request, "a body").await.unwrap();
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        // What only sidecars say is not believed of a stranger.
        assert!(
            !reply
                .headers
                .keys()
                .any(|name| name.as_str().starts_with("tipstaff"))
        );

        let seen = server.seen();
        assert!(
            seen.starts_with("POST /v1/a?q HTTP/1.1\r\n")
                && seen.contains("\r\nhost: api.example.com\r\n"),
            "{seen}"
        );
        assert!(seen.ends_with("\r\n\r\na body"), "{seen}");
        let seen = seen.to_lowercase();
        for ours in [
            "tipstaff",
            "spiffe",
            "client-cert",
            "prod.example",
            "\r\nte:",
        ] {
            assert!(!seen.contains(ours), "{ours} in {seen}");
        }
    }
    // It asks for certificates, and gets none. One connection was enough.
    assert_eq!((server.certificates(), server.connections()), (0, 1));
}

#[tokio::test]
async fn a_server_that_does_not_prove_its_name_gets_no_request() {
    let world = Authority::new();
    let bad = [
        (
            Certificate::Good("other.example.com"),
            "certificate_of_another_name",
        ),
        (Certificate::Good("*.com"), "certificate_of_another_name"),
        (Certificate::Spiffe, "certificate_of_another_name"),
        (
            Certificate::Expired("api.example.com"),
            "certificate_expired",
        ),
        (
            Certificate::Strange("api.example.com"),
            "certificate_of_unknown_issuer",
        ),
        (
            Certificate::SelfSigned("api.example.com"),
            "certificate_of_unknown_issuer",
        ),
        (Certificate::Forged("api.example.com"), "bad_certificate"),
    ];
    for (certificate, reason) in bad {
        let server = Server::start(&world, certificate).await;
        let workload = Workload::new(vec![entry(
            "api.example.com",
            server.address,
            originate(&world),
        )]);
        let reply = workload
            .caller()
            .await
            .get("api.example.com", "/secret")
            .await;
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{reply:?}");
        assert!(
            reply.body.contains(&format!("\"reason\":\"{reason}\"")),
            "{reason}: {reply:?}"
        );
        assert_eq!(server.seen(), "");
        let series = format!(
            "tipstaff_tls_handshake_failures_total{{direction=\"outbound\",reason=\"{reason}\"}}"
        );
        assert_eq!(workload.counted(&series).await, 1, "{reason}");
    }
}

#[tokio::test]
async fn hosts_and_ports_that_no_entry_has_are_refused_and_counted() {
    let world = Authority::new();
    let server = Server::start(&world, Certificate::Good("*.example.com")).await;
    let workload = Workload::new(vec![entry(
        "*.example.com",
        server.address,
        originate(&world),
    )]);
    let mut caller = workload.caller().await;
    for (host, seen) in [
        ("a.example.com", "a.example.com"),
        ("b.example.com:443", "b.example.com"),
        ("b.example.com:8443", "b.example.com:8443"),
    ] {
        assert_eq!(caller.get(host, "/").await.status, StatusCode::OK, "{host}");
        assert!(
            server.seen().contains(&format!("\r\nhost: {seen}\r\n")),
            "{host}"
        );
    }
    for host in [
        "example.com",
        "a.b.example.com",
        "example.com.evil.example",
        "a.example.com:444",
        "127.0.0.1",
    ] {
        let reply = caller.get(host, "/").await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{host}");
        assert!(reply.body.contains("unknown_destination"), "{reply:?}");
        assert_eq!(workload.refused(host).await, 1, "{host}");
    }
    assert_eq!(server.seen(), "");
}

#[tokio::test]
async fn plain_text_leaves_only_where_it_is_written_out() {
    let world = Authority::new();
    let server = Server::plain().await;
    let workload = Workload::new(vec![
        entry("plain.example", server.address, Tls::None),
        entry("tls.example", server.address, originate(&world)),
    ]);
    let mut caller = workload.caller().await;
    assert_eq!(
        caller.get("plain.example:8443", "/a").await.status,
        StatusCode::OK
    );
    assert!(server.seen().contains("\r\nhost: plain.example:8443\r\n"));
    let reply = caller.get("tls.example", "/a").await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{reply:?}");
    assert!(!server.seen().contains("HTTP/1.1"));
}

/// A name outside can stand for any address, ours among them.
#[tokio::test]
async fn a_server_that_is_the_sidecar_itself_is_not_called() {
    let workload = Workload::new(vec![]);
    let own = workload.sidecar.outbound();
    let mut config = workload.sidecar.config.clone();
    let name = "127.0.0.1".to_owned();
    let mut looping = entry("loop.example", own, Tls::None);
    looping.endpoints = vec![Endpoint {
        host: name,
        port: own.port(),
    }];
    config.outbound.as_mut().unwrap().external = vec![looping];
    workload.sidecar.reload.apply(config).unwrap();
    let reply = workload.caller().await.get("loop.example", "/").await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    assert!(reply.body.contains("loop_to_self"), "{reply:?}");
}

#[tokio::test]
async fn entries_come_and_go_while_it_runs() {
    let world = Authority::new();
    let server = Server::start(&world, Certificate::Good("api.example.com")).await;
    let workload = Workload::new(vec![]);
    let mut caller = workload.caller().await;
    let known = entry("api.example.com", server.address, originate(&world));
    let mut other_roots = known.clone();
    other_roots.tls = originate(&Authority::new());
    for (external, status) in [
        (vec![], StatusCode::FORBIDDEN),
        (vec![known.clone()], StatusCode::OK),
        // A connection to somebody who is no longer believed is not used.
        (vec![other_roots], StatusCode::BAD_GATEWAY),
        (vec![known], StatusCode::OK),
        (vec![], StatusCode::FORBIDDEN),
    ] {
        let mut config = workload.sidecar.config.clone();
        config.outbound.as_mut().unwrap().external = external;
        workload.sidecar.reload.apply(config).unwrap();
        assert_eq!(caller.get("api.example.com", "/").await.status, status);
    }
}

/// A wildcard lets the workload make up names.
#[tokio::test]
async fn hosts_that_the_workload_makes_up_keep_few_connections() {
    let server = Server::plain().await;
    let workload = Workload::new(vec![entry("*.example.com", server.address, Tls::None)]);
    let mut caller = workload.caller().await;
    for n in 0..400 {
        let reply = caller.get(&format!("h{n}.example.com"), "/").await;
        assert_eq!(reply.status, StatusCode::OK, "{n}");
        assert!(server.open() <= 300, "{} connections", server.open());
    }
}

fn listening(mut external: External) -> External {
    external.listen = Some(OutboundListen::Tcp("127.0.0.1:0".parse().unwrap()));
    external.ports.truncate(1);
    external
}
