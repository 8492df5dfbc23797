use crate::harness::{
    App, Authority, CART, Caller, FRONTEND, Life, ORDERS, Sidecar, endpoints, grant_all, outbound,
    service, sidecar,
};
use http::{Request, StatusCode};
use proxy::ReloadError;
use proxy::config::OutboundListen;
use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);
const HOST: &str = "orders.shop.example";

/// The front end's sidecar calls the orders' sidecar, before an app.
struct Pair {
    authority: Authority,
    app: App,
    frontend: Sidecar,
    orders: Sidecar,
}

impl Pair {
    async fn new() -> Self {
        Self::expecting(ORDERS).await
    }

    async fn expecting(identity: &str) -> Self {
        let authority = Authority::new();
        let app = App::start().await;
        let svid = authority.svid(ORDERS, Life::Hour);
        let orders = sidecar(&authority, svid, app.address, &grant_all(), |_| ());
        let to = orders.inbound;
        let svid = authority.svid(FRONTEND, Life::Hour);
        let frontend = sidecar(&authority, svid, app.address, "", |config| {
            config.outbound = outbound(vec![service(HOST, to, identity)]);
        });
        Self {
            authority,
            app,
            frontend,
            orders,
        }
    }

    async fn workload(&self) -> Caller {
        Caller::workload(self.frontend.outbound()).await
    }
}

#[tokio::test]
async fn a_call_arrives_with_the_workloads_identity() {
    let pair = Pair::new().await;
    let to = pair.frontend.outbound();
    for mut workload in [Caller::workload(to).await, Caller::workload_http2(to).await] {
        let request = Request::post("/a?q")
            .header("host", HOST)
            .header("tipstaff-peer", "evil");
        let reply = workload.send_with(request, "a body").await.unwrap();
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        assert_eq!(reply.target(), "/a?q");
        assert_eq!(reply.seen("tipstaff-peer"), [FRONTEND]);
        assert_eq!(reply.seen("host"), [HOST]);
        assert!(reply.body.ends_with("\na body"), "{}", reply.body);
    }
}

#[tokio::test]
async fn a_workload_may_come_over_a_unix_socket() {
    let pair = Pair::new().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("outbound");
    let svid = pair.authority.svid(FRONTEND, Life::Hour);
    let _sidecar = sidecar(&pair.authority, svid, pair.app.address, "", |config| {
        config.outbound = outbound(vec![service(HOST, pair.orders.inbound, ORDERS)]);
        config.outbound.as_mut().unwrap().listen = OutboundListen::Unix {
            path: path.clone(),
            mode: 0o600,
        };
    });
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let reply = Caller::workload_over(&path).await.get(HOST, "/a").await;
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test]
async fn another_users_process_gets_no_answer() {
    let pair = Pair::new().await;
    let svid = pair.authority.svid(FRONTEND, Life::Hour);
    let sidecar = sidecar(&pair.authority, svid, pair.app.address, "", |config| {
        config.outbound = outbound(vec![service(HOST, pair.orders.inbound, ORDERS)]);
        config.outbound.as_mut().unwrap().uids[0] += 1;
    });
    let mut workload = Caller::workload(sidecar.outbound()).await;
    let request = Request::get("/a").header("host", HOST);
    assert!(workload.send(request).await.is_err());
    assert_eq!(pair.app.requests(), 0);
}

/// Both directions used to share one cap.
#[tokio::test]
async fn callers_at_the_cap_do_not_keep_the_workload_from_calling() {
    let pair = Pair::new().await;
    let svid = pair.authority.svid(FRONTEND, Life::Hour);
    let sidecar = sidecar(&pair.authority, svid, pair.app.address, "", |config| {
        config.outbound = outbound(vec![service(HOST, pair.orders.inbound, ORDERS)]);
        config.sizes.max_connections = 2;
    });
    let mut callers = Vec::new();
    for _ in 0..8 {
        callers.push(TcpStream::connect(sidecar.inbound).await.unwrap());
    }
    let mut workload = Caller::workload(sidecar.outbound()).await;
    let reply = timeout(SOON, workload.get(HOST, "/a")).await;
    assert_eq!(reply.expect("served beside them").status, StatusCode::OK);
}

#[tokio::test]
async fn a_destination_that_no_service_names_is_refused() {
    let pair = Pair::new().await;
    let reply = pair.workload().await.get("elsewhere.example", "/a").await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert!(reply.body.contains("unknown_destination"), "{}", reply.body);
    assert_eq!(reply.header("tipstaff-decision-id").len(), 16);
    assert_eq!(pair.app.requests(), 0);
}

/// The refusal crosses HTTP/2, which has no connection to close; the workload's used to stay open.
#[tokio::test]
async fn what_the_callees_sidecar_rejects_ends_the_workloads_connection() {
    let pair = Pair::new().await;
    for target in ["/a//b", "/a%2fb", "/a;x=1", "/a/../b"] {
        let mut stream = TcpStream::connect(pair.frontend.outbound()).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = timeout(SOON, stream.read_to_string(&mut answer)).await;
        assert!(read.is_ok(), "{target}: still open after {answer}");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{target}: {answer}");
        assert!(answer.contains("connection: close"), "{target}: {answer}");
        assert!(!answer.contains("tipstaff-rejected"), "{target}: {answer}");
    }
    assert_eq!(pair.app.requests(), 0);
}

#[tokio::test]
async fn a_server_with_another_identity_gets_no_request() {
    let pair = Pair::expecting(CART).await;
    let reply = pair.workload().await.get(HOST, "/a").await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    assert!(reply.body.contains("handshake_failed"), "{}", reply.body);
    assert_eq!(pair.app.requests(), 0);
}

#[tokio::test]
async fn an_expired_identity_fails_closed_with_the_reason() {
    let pair = Pair::new().await;
    let over = pair
        .authority
        .svid(FRONTEND, Life::OverSince(Duration::from_secs(1)));
    pair.frontend.svid.send_replace(Some(Arc::new(over)));
    let reply = pair.workload().await.get(HOST, "/a").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.body.contains("identity_expired"), "{}", reply.body);

    let fresh = pair.authority.svid(FRONTEND, Life::Hour);
    pair.frontend.svid.send_replace(Some(Arc::new(fresh)));
    tokio::time::sleep(Duration::from_millis(150)).await; // Longer than a failure holds.
    assert_eq!(
        pair.workload().await.get(HOST, "/a").await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn the_next_endpoint_is_taken_when_one_is_down() {
    let pair = Pair::new().await;
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let mut config = pair.frontend.config.clone();
    let services = &mut config.outbound.as_mut().unwrap().services;
    services[0].endpoints = endpoints([gone, pair.orders.inbound]);
    pair.frontend.reload.apply(config).unwrap();
    let mut workload = pair.workload().await;
    for _ in 0..4 {
        assert_eq!(workload.get(HOST, "/a").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_reload_adds_services_and_moves_no_listener() {
    let pair = Pair::new().await;
    let mut workload = pair.workload().await;
    let mut config = pair.frontend.config.clone();
    let services = &mut config.outbound.as_mut().unwrap().services;
    services.push(service("more.example", pair.orders.inbound, ORDERS));
    pair.frontend.reload.apply(config.clone()).unwrap();
    assert_eq!(
        workload.get("more.example", "/a").await.status,
        StatusCode::OK
    );

    config.inbound[0].listen.set_port(1);
    let refused = pair.frontend.reload.apply(config).unwrap_err();
    let keys = vec!["inbound"];
    assert_eq!(refused, ReloadError::Restart { keys });
}

/// With certificates of 2 s a machine that stood still for longer lost what was in flight when they ended, as it should.
#[tokio::test]
async fn rotation_moves_connections_and_loses_no_request() {
    const LIFE: Life = Life::For(Duration::from_secs(30));
    let pair = Pair::new().await;
    let seen = Arc::<Mutex<HashSet<String>>>::default();
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let (mut workload, seen) = (pair.workload().await, Arc::clone(&seen));
        callers.spawn(async move {
            while seen.lock().unwrap().len() < 6 {
                let reply = workload.get(HOST, "/a").await;
                assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
                let certificate = reply.seen("x-forwarded-client-cert")[0];
                seen.lock().unwrap().insert(certificate.to_owned());
            }
        });
    }
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        for (sidecar, id) in [(&pair.frontend, FRONTEND), (&pair.orders, ORDERS)] {
            let svid = pair.authority.svid(id, LIFE);
            sidecar.svid.send_replace(Some(Arc::new(svid)));
        }
        match timeout(Duration::from_millis(500), callers.join_next()).await {
            Ok(Some(ended)) => ended.unwrap(),
            Ok(None) => return,
            Err(_) => assert!(Instant::now() < end, "{:?}", seen.lock().unwrap()),
        }
    }
}
