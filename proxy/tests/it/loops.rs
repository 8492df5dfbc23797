//! Sidecars that lead to each other, which no configuration shows by itself.

use crate::harness::{
    App, Authority, Caller, FRONTEND, Life, ORDERS, Sidecar, document, grant_all, outbound,
    service, sidecar, tls,
};
use http::{Request, StatusCode};
use proxy::config::{self, Config, Destination, OutboundListen, Protocol, TcpService};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);

/// The orders' app is the front end's way out, and that leads to the orders.
struct Loop {
    authority: Authority,
    frontend: Sidecar,
    orders: Sidecar,
    _folder: TempDir,
}

impl Loop {
    fn new(
        documents: &str,
        change: impl FnOnce(&mut Config),
        way_out: impl FnOnce(&mut Config, &Path, SocketAddr),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("way-out");
        let authority = Authority::new();
        let nowhere = "127.0.0.1:9".parse().unwrap();
        let svid = authority.svid(ORDERS, Life::Hour);
        let orders = sidecar(&authority, svid, nowhere, documents, |config| {
            config.inbound[0].app = config::App::At(Destination::Unix(path.clone()));
            change(config);
        });
        let svid = authority.svid(FRONTEND, Life::Hour);
        let frontend = sidecar(&authority, svid, nowhere, "", |config| {
            way_out(config, &path, orders.inbound);
        });
        Self {
            authority,
            frontend,
            orders,
            _folder: folder,
        }
    }
}

fn unix(path: &Path) -> OutboundListen {
    OutboundListen::Unix {
        path: path.to_owned(),
        mode: 0o600,
    }
}

#[tokio::test]
async fn a_request_that_goes_round_ends_at_once() {
    let looped = Loop::new(
        &grant_all(),
        |_| (),
        |config, path, orders| {
            config.outbound = outbound(vec![service("orders", orders, ORDERS)]);
            config.outbound.as_mut().unwrap().listen = unix(path);
        },
    );
    let to = looped.orders.inbound;
    let svid = looped.authority.svid(FRONTEND, Life::Hour);
    let http1 = Caller::http1(to, &looped.authority, Some(&svid));
    for mut caller in [
        http1.await.unwrap(),
        Caller::http2(to, &looped.authority, &svid).await,
    ] {
        // What the caller says of itself does not make it longer.
        for hops in ["0", "-1", "nonsense"] {
            let request = Request::post("/round")
                .header("host", "orders")
                .header("tipstaff-hops", hops);
            let answer = timeout(SOON, caller.send_with(request, "body")).await;
            // It may find its connection closed by the refusal before it.
            if let Ok(reply) = answer.expect("an end") {
                assert_eq!(reply.status, StatusCode::LOOP_DETECTED);
            }
        }
    }
    let metrics = looped.frontend.metrics().await;
    assert!(metrics.contains("reason=\"loop\""), "{metrics}");
    let metrics = looped.orders.metrics().await;
    let rounds = metrics
        .lines()
        .filter(|line| line.starts_with("tipstaff_requests_total{direction=\"inbound\""))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap())
        .sum::<u32>();
    assert!(rounds <= 6 * 17, "{rounds} rounds");
}

#[tokio::test]
async fn apps_that_pass_headers_on_make_no_loop() {
    let app = App::start().await;
    let authority = Authority::new();
    let svid = authority.svid(ORDERS, Life::Hour);
    let orders = sidecar(&authority, svid, app.address, &grant_all(), |_| ());
    let svid = authority.svid(FRONTEND, Life::Hour);
    let frontend = sidecar(&authority, svid, app.address, "", |config| {
        config.outbound = outbound(vec![service("orders", orders.inbound, ORDERS)]);
    });
    let mut workload = Caller::workload(frontend.outbound()).await;
    for (told, seen) in [(None, "1"), (Some("1"), "2"), (Some("15"), "16")] {
        let mut request = Request::get("/").header("host", "orders");
        if let Some(told) = told {
            request = request.header("tipstaff-hops", told);
        }
        let reply = workload.send(request).await.unwrap();
        assert_eq!(reply.seen("tipstaff-hops"), [seen]);
    }
}

fn may_connect() -> String {
    let text = format!(
        "from: [\"{FRONTEND}\", \"{ORDERS}\"], validity: {{notAfter: never, because: test}}, allow: [{{tcp: true}}]"
    );
    document("Grant", "round", &text)
}

fn opaque(listen: OutboundListen, to: SocketAddr) -> TcpService {
    TcpService {
        listen: Some(listen),
        destinations: Vec::new(),
        endpoints: crate::harness::endpoints([to]),
        identity: ORDERS.parse().unwrap(),
    }
}

/// Connects to an opaque port of the orders, and hears what comes before the end.
async fn connects_and_hears(to: SocketAddr, authority: &Authority) -> Vec<u8> {
    let svid = authority.svid(FRONTEND, Life::Hour);
    let mut caller = tls(to, authority, Some(&svid), b"tipstaff-tcp")
        .await
        .unwrap();
    let mut bytes = Vec::new();
    // However it ends.
    let _: std::io::Result<usize> = timeout(SOON, caller.read_to_end(&mut bytes))
        .await
        .expect("an end");
    bytes
}

/// It went round until connections ran out.
#[tokio::test]
async fn opaque_bytes_that_go_round_through_a_unix_socket_end_at_once() {
    let looped = Loop::new(
        &may_connect(),
        |config| config.inbound[0].protocol = Protocol::Tcp,
        |config, path, orders| {
            config.outbound = outbound(vec![]);
            let services = &mut config.outbound.as_mut().unwrap().tcp;
            services.push(opaque(unix(path), orders));
        },
    );
    let heard = connects_and_hears(looped.orders.inbound, &looped.authority).await;
    assert!(heard.is_empty());
    let metrics = looped.frontend.metrics().await;
    assert!(metrics.contains("reason=\"loop\""), "{metrics}");
    assert_eq!(handshakes(&looped.orders).await, 16);
}

/// The front end's way out is another process's, for all that the orders can tell.
#[tokio::test]
async fn opaque_bytes_that_go_round_through_the_loopback_port_of_another_sidecar_end_at_once() {
    let way_out = free();
    let looped = Loop::new(
        &may_connect(),
        |config| {
            config.inbound[0].protocol = Protocol::Tcp;
            config.inbound[0].app = config::App::At(way_out.into());
        },
        |config, _, orders| {
            config.outbound = outbound(vec![]);
            let services = &mut config.outbound.as_mut().unwrap().tcp;
            services.push(opaque(OutboundListen::Tcp(way_out), orders));
        },
    );
    let heard = connects_and_hears(looped.orders.inbound, &looped.authority).await;
    assert!(heard.is_empty());
    let metrics = looped.frontend.metrics().await;
    assert!(metrics.contains("reason=\"loop\""), "{metrics}");
    assert_eq!(handshakes(&looped.orders).await, 16);
}

/// How many callers have shaken hands.
async fn handshakes(sidecar: &Sidecar) -> u32 {
    let metrics = sidecar.metrics().await;
    let series = "tipstaff_tls_handshakes_total{direction=\"inbound\"} ";
    let count = metrics.lines().find_map(|line| line.strip_prefix(series));
    count
        .unwrap_or_else(|| panic!("{metrics}"))
        .parse()
        .unwrap()
}

fn free() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A sidecar in whose opaque app's place its own way to `to` stands.
fn gateway(authority: &Authority, at: SocketAddr, to: SocketAddr) -> Sidecar {
    let way_out = free();
    let svid = authority.svid(ORDERS, Life::Hour);
    sidecar(authority, svid, way_out, &may_connect(), |config| {
        config.inbound[0].listen = at;
        config.inbound[0].protocol = Protocol::Tcp;
        config.outbound = outbound(vec![]);
        let services = &mut config.outbound.as_mut().unwrap().tcp;
        services.push(opaque(OutboundListen::Tcp(way_out), to));
    })
}

#[tokio::test]
async fn two_sidecars_that_lead_opaque_bytes_to_each_other_end_them_at_once() {
    let authority = Authority::new();
    let (first, second) = (free(), free());
    let one = gateway(&authority, first, second);
    let other = gateway(&authority, second, first);
    let heard = connects_and_hears(first, &authority).await;
    assert!(heard.is_empty());
    // What came through sixteen is refused on its way out of the last of them.
    assert_eq!(handshakes(&one).await + handshakes(&other).await, 16);
    let metrics = other.metrics().await;
    assert!(metrics.contains("reason=\"loop\""), "{metrics}");
}

#[tokio::test]
async fn opaque_bytes_pass_through_a_row_of_sidecars() {
    let authority = Authority::new();
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = app.local_addr().unwrap();
    let speaking = tokio::spawn(async move {
        let (mut stream, _) = app.accept().await.unwrap();
        stream.write_all(b"220 at your service").await.unwrap();
    });
    let svid = authority.svid(ORDERS, Life::Hour);
    let last = sidecar(&authority, svid, at, &may_connect(), |config| {
        config.inbound[0].protocol = Protocol::Tcp;
    });
    let second = free();
    let (first, ends) = (free(), last.inbound);
    let _second = gateway(&authority, second, ends);
    let _first = gateway(&authority, first, second);
    let heard = connects_and_hears(first, &authority).await;
    assert_eq!(heard, b"220 at your service");
    speaking.await.unwrap();
}
