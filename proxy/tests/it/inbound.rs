use crate::harness::{
    App, Authority, CART, Caller, FRONTEND, Life, ORDERS, Sidecar, compile, document, endpoint,
    grant, grant_all, head, sidecar, tls, unix_app,
};
use http::{Request, StatusCode};
use identity::Svid;
use proxy::config::Destination;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How connections end, or never come to be.
mod ends;

const HOST: &str = "orders.shop.example";

struct Fixture {
    authority: Authority,
    frontend: Svid,
    app: App,
    sidecar: Sidecar,
}

impl Fixture {
    async fn new(documents: &str) -> Self {
        Self::with(documents, |_| ()).await
    }

    async fn with(documents: &str, change: impl FnOnce(&mut proxy::Config)) -> Self {
        let authority = Authority::new();
        let app = App::start().await;
        let orders = authority.svid(ORDERS, Life::Hour);
        let sidecar = sidecar(&authority, orders, app.address, documents, change);
        Self {
            frontend: authority.svid(FRONTEND, Life::Hour),
            authority,
            app,
            sidecar,
        }
    }

    async fn http1(&self) -> Caller {
        self.caller(&self.frontend).await.unwrap()
    }

    async fn http2(&self) -> Caller {
        Caller::http2(self.sidecar.inbound, &self.authority, &self.frontend).await
    }

    async fn caller(&self, svid: &Svid) -> std::io::Result<Caller> {
        Caller::http1(self.sidecar.inbound, &self.authority, Some(svid)).await
    }

    /// Whether a caller with this certificate gets any answer: with TLS 1.3 it learns of a refusal after its handshake.
    async fn is_served(&self, svid: Option<&Svid>) -> bool {
        match Caller::http1(self.sidecar.inbound, &self.authority, svid).await {
            Ok(mut caller) => caller
                .send(Request::get("/").header("host", HOST))
                .await
                .is_ok(),
            Err(_) => false,
        }
    }
}

#[tokio::test]
async fn a_granted_request_reaches_the_app_with_the_callers_identity() {
    let mesh = Fixture::new(&grant_all()).await;
    for mut caller in [mesh.http1().await, mesh.http2().await] {
        let reply = caller.get(HOST, "/a/%7Eb?q=%2F").await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.target(), "/a/~b?q=%2F");
        assert_eq!(reply.seen("host"), [HOST]);
        assert_eq!(reply.seen("tipstaff-peer"), [FRONTEND]);
        let [forwarded] = reply.seen("x-forwarded-client-cert")[..] else {
            panic!("{}", reply.body);
        };
        assert!(
            forwarded.starts_with(&format!("By={ORDERS};Hash=")),
            "{forwarded}"
        );
        assert!(
            forwarded.ends_with(&format!(";URI={FRONTEND}")),
            "{forwarded}"
        );
    }
}

#[tokio::test]
async fn bodies_pass_both_ways() {
    let mesh = Fixture::new(&grant_all()).await;
    for mut caller in [mesh.http1().await, mesh.http2().await] {
        let request = Request::post("/a").header("host", HOST);
        let reply = caller.send_with(request, "a body").await.unwrap();
        assert!(reply.body.ends_with("\na body"), "{}", reply.body);
    }
}

#[tokio::test]
async fn what_no_grant_names_is_denied_and_names_no_rule() {
    let mesh = Fixture::new(&grant("allow: [{methods: [GET], path: \"/orders/{id}\"}]")).await;
    let mut caller = mesh.http1().await;
    assert_eq!(caller.get(HOST, "/orders/1").await.status, StatusCode::OK);
    for request in [Request::delete("/orders/1"), Request::get("/admin")] {
        let reply = caller.send(request.header("host", HOST)).await.unwrap();
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
        assert_eq!(reply.header("tipstaff-decision-id").len(), 16);
        assert!(!reply.body.contains("front"), "{}", reply.body);
    }
    assert_eq!(mesh.app.requests(), 1);
}

#[tokio::test]
async fn another_identity_has_no_part_in_the_grant() {
    let mesh = Fixture::new(&grant_all()).await;
    let cart = mesh.authority.svid(CART, Life::Hour);
    let mut caller = mesh.caller(&cart).await.unwrap();
    assert_eq!(caller.get(HOST, "/a").await.status, StatusCode::FORBIDDEN);
}

/// Apps that merge trailers into the fields would have believed these.
#[tokio::test]
async fn identity_fields_in_trailers_never_reach_the_app() {
    let grants = grant("allow: [{methods: [POST], path: \"/**\"}, {grpc: a.B, methods: [C]}]");
    let mesh = Fixture::new(&grants).await;
    let svid = Some(&mesh.frontend);
    let mut stream = tls(mesh.sidecar.inbound, &mesh.authority, svid, b"http/1.1")
        .await
        .unwrap();
    for (path, kind) in [("/a", "text/plain"), ("/a.B/C", "application/grpc")] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\
             Trailer: tipstaff-peer, x_forwarded_client_cert, x-sum\r\n\r\n1\r\nx\r\n0\r\n\
             tipstaff-peer: evil\r\nx_forwarded_client_cert: evil\r\nhost: evil\r\nx-sum: 1\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = head(&mut stream).await;
        while !answer.ends_with("\nx") {
            let mut more = [0; 1024];
            let read = stream.read(&mut more).await.unwrap();
            assert!(read > 0, "{path}: {answer}");
            answer += std::str::from_utf8(&more[..read]).unwrap();
        }
        assert!(!answer.contains("evil"), "{path}: {answer}");
        assert!(answer.contains("\nx-sum: 1\n"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_connection_field_cannot_take_out_ours() {
    let mesh = Fixture::new(&grant_all()).await;
    let request = Request::get("/a")
        .header("host", HOST)
        .header(
            "connection",
            "tipstaff-peer, x-forwarded-client-cert, x-hop",
        )
        .header("x-hop", "1");
    let reply = mesh.http1().await.send(request).await.unwrap();
    assert_eq!(reply.seen("tipstaff-peer"), [FRONTEND]);
    assert_eq!(reply.seen("x-forwarded-client-cert").len(), 1);
    assert!(reply.seen("x-hop").is_empty());
}

#[tokio::test]
async fn an_ambiguous_request_is_rejected_and_ends_the_connection() {
    let mesh = Fixture::new(&grant_all()).await;
    let svid = Some(&mesh.frontend);
    let mut stream = tls(mesh.sidecar.inbound, &mesh.authority, svid, b"http/1.1")
        .await
        .unwrap();
    stream
        .write_all(b"GET /a/../b HTTP/1.1\r\nHost: x.example\r\n\r\n")
        .await
        .unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let mut rest = Vec::new();
    // The close may come without close_notify; what counts is that it comes.
    stream.read_to_end(&mut rest).await.ok();
    assert_eq!(mesh.app.requests(), 0);
}

/// The refusal of HTTP/1.0 used to leave the connection open, so that what followed was read as a second request.
#[tokio::test]
async fn nothing_is_read_after_a_rejected_head() {
    let mesh = Fixture::new(&grant_all()).await;
    let svid = Some(&mesh.frontend);
    let mut stream = tls(mesh.sidecar.inbound, &mesh.authority, svid, b"http/1.1")
        .await
        .unwrap();
    let two = b"POST / HTTP/1.0\r\nHost: x.example\r\nConnection: keep-alive\r\n\r\n\
                GET /second HTTP/1.1\r\nHost: x.example\r\n\r\n";
    stream.write_all(two).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    assert!(answer.starts_with(b"HTTP/1.1 505"), "{answer:?}");
    assert_eq!(mesh.app.requests(), 0);
}

#[tokio::test]
async fn a_limited_caller_learns_when_to_come_back() {
    let limited = grant(
        "allow: [{methods: [GET], path: \"/**\"}, {grpc: shop.Orders, methods: [Get]}], \
         limits: [{name: per-caller, key: [identity], rate: 1/m, burst: 2}]",
    );
    let mesh = Fixture::new(&limited).await;
    let mut caller = mesh.http2().await;
    for _ in 0..2 {
        assert_eq!(caller.get(HOST, "/a").await.status, StatusCode::OK);
    }
    let reply = caller.get(HOST, "/a").await;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(reply.header("retry-after").parse::<u64>().unwrap() <= 60);
    assert!(
        reply.header("ratelimit-policy").contains(";q=2;w="),
        "{reply:?}"
    );
    assert!(reply.header("ratelimit").contains(";r=0;t="), "{reply:?}");
    assert_eq!(reply.header("content-type"), "application/problem+json");
    assert_eq!(reply.header("tipstaff-decision-id").len(), 16);

    let reply = caller.send(grpc("/shop.Orders/Get")).await.unwrap();
    assert_eq!(
        (reply.status, reply.header("grpc-status")),
        (StatusCode::OK, "8")
    );
    assert!(
        reply
            .header("grpc-retry-pushback-ms")
            .parse::<u64>()
            .unwrap()
            <= 60_000
    );
}

#[tokio::test]
async fn grpc_refusals_are_trailers_only_responses() {
    let mesh = Fixture::new(&grant("allow: [{grpc: shop.Orders, methods: [Get]}]")).await;
    let mut caller = mesh.http2().await;
    for (path, status) in [
        ("/shop.Orders/Get", "0"),
        ("/shop.Orders/Delete", "7"),
        ("/shop.Orders//Get", "3"),
    ] {
        let reply = caller.send(grpc(path)).await.unwrap();
        let found = (reply.status, reply.header("grpc-status"));
        assert_eq!(found, (StatusCode::OK, status), "{path}");
    }
}

fn grpc(path: &str) -> http::request::Builder {
    Request::post(path)
        .header("host", HOST)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

#[tokio::test]
async fn a_policy_change_counts_on_open_connections() {
    let mesh = Fixture::new(&grant_all()).await;
    let mut caller = mesh.http1().await;
    assert_eq!(caller.get(HOST, "/a").await.status, StatusCode::OK);
    let narrow = document("Guard", "none", "deny: [{path: \"/a\"}]");
    mesh.sidecar
        .policy
        .send_replace(Arc::new(compile(&(grant_all() + &narrow))));
    assert_eq!(caller.get(HOST, "/a").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn an_app_that_is_down_gives_502_and_a_slow_one_504() {
    // Bound and never listening: nobody else can take the port meanwhile.
    let gone = tokio::net::TcpSocket::new_v4().unwrap();
    gone.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mesh = Fixture::with(&grant_all(), |config| {
        config.inbound[0].app = endpoint(gone.local_addr().unwrap()).into();
    })
    .await;
    assert_eq!(
        mesh.http1().await.get(HOST, "/a").await.status,
        StatusCode::BAD_GATEWAY
    );

    let mesh = Fixture::with(&grant_all(), |config| {
        config.timeouts.response = Duration::from_millis(100);
    })
    .await;
    let reply = mesh.http1().await.get(HOST, "/slow/60000").await;
    assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn an_app_on_a_unix_socket_is_served_and_its_port_is_the_listeners() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let mesh = Fixture::with(&grant_all(), |config| {
        config.inbound[0].app = Destination::Unix(path.clone()).into();
        assert_eq!(
            config.inbound[0].port(),
            Some(config.inbound[0].listen.port())
        );
    })
    .await;
    let mut caller = mesh.http1().await;
    let absent = caller.get(HOST, "/a").await;
    assert_eq!(absent.status, StatusCode::BAD_GATEWAY);

    unix_app(&path, mesh.app.address);
    for mut caller in [mesh.http1().await, mesh.http2().await] {
        let request = Request::post("/a").header("host", HOST);
        let reply = caller.send_with(request, "a body").await.unwrap();
        assert_eq!(reply.status, StatusCode::OK);
        assert!(reply.body.ends_with("a body"), "{}", reply.body);
    }
    let call = Request::post("/pay.v1.Payments/Charge")
        .header("host", HOST)
        .header("content-type", "application/grpc");
    let reply = mesh.http2().await.send_with(call, "a message").await;
    assert!(reply.unwrap().body.ends_with("a message"));
}

#[tokio::test]
async fn a_connection_to_the_app_serves_many_requests() {
    let mesh = Fixture::new(&grant_all()).await;
    for mut caller in [mesh.http1().await, mesh.http2().await] {
        for _ in 0..20 {
            assert_eq!(caller.get(HOST, "/a").await.status, StatusCode::OK);
            let request = Request::post("/a").header("host", HOST);
            let reply = caller.send_with(request, "a body").await.unwrap();
            assert_eq!(reply.status, StatusCode::OK);
        }
    }
    assert_eq!((mesh.app.requests(), mesh.app.connections()), (80, 1));
}

#[tokio::test]
async fn an_app_that_closes_an_idle_connection_costs_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    // Answers once per connection and closes it without having said so.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            head(&mut stream).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
        }
    });
    let mesh = Fixture::with(&grant_all(), |config| {
        config.inbound[0].app = endpoint(app).into();
    })
    .await;
    let mut caller = mesh.http1().await;
    for _ in 0..10 {
        assert_eq!(caller.get(HOST, "/a").await.status, StatusCode::OK);
        tokio::time::sleep(Duration::from_millis(20)).await; // The close has to arrive.
    }
}
