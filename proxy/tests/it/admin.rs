use crate::harness::{
    Authority, Caller, FRONTEND, Life, ORDERS, Recorder, Sidecar, grant, grant_all, outbound,
    service, sidecar, tls,
};
use http::Request;
use identity::Svid;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SERVICE: &str = "orders.shop.example";

/// What an operator may ask, and what tools of other kinds would answer under these names.
const CALLS: [(&str, &str); 9] = [
    ("GET", "/metrics"),
    ("GET", "/config"),
    ("GET", "/endpoints"),
    ("GET", "/identity"),
    ("GET", "/ready"),
    ("GET", "/live"),
    ("POST", "/rotate"),
    ("GET", "/debug/pprof/"),
    ("POST", "/quitquitquit"),
];

/// Ways to write this machine's own address, with a port behind; only the plainest unless `all` are wanted.
fn own_addresses(port: u16, all: bool) -> Vec<String> {
    let names = [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "127.0.1",
        "127.255.255.254",
        "0",
        "0.0.0.0",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.1",
        "127.000.000.001",
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[fe80::1%25lo]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "localhost.localdomain",
        "ip6-localhost",
        "127.0.0.1.nip.io",
        "orders.shop.example@127.0.0.1",
        "127.0.0.1#orders.shop.example",
        "127.0.0.1%00.shop.example",
        "127.0.0.1\\.shop.example",
        "%31%32%37.0.0.1",
        "\u{ff11}27.0.0.1",
        "127。0。0。1",
    ];
    let wanted = if all { names.len() } else { 1 };
    let with_port = names.iter().map(|name| format!("{name}:{port}"));
    with_port.take(wanted).collect()
}

/// Every way to ask one thing of the port at `address`, as a whole HTTP/1.1 message.
fn messages(method: &str, path: &str, address: &str) -> Vec<String> {
    let end = "Content-Length: 0\r\nConnection: close\r\n\r\n";
    vec![
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{end}"),
        format!("{method} http://{address}{path} HTTP/1.1\r\nHost: {address}\r\n{end}"),
        format!("{method} http://{address}{path} HTTP/1.1\r\nHost: {SERVICE}\r\n{end}"),
        format!("{method} http://{SERVICE}@{address}{path} HTTP/1.1\r\nHost: {SERVICE}\r\n{end}"),
        format!("{method} http://{SERVICE}{path} HTTP/1.1\r\nHost: {address}\r\n{end}"),
        format!("{method} //{address}{path} HTTP/1.1\r\nHost: {SERVICE}\r\n{end}"),
        format!("{method} /http://{address}{path} HTTP/1.1\r\nHost: {SERVICE}\r\n{end}"),
        format!("{method} {path} HTTP/1.1\r\nHost: {SERVICE}\r\nHost: {address}\r\n{end}"),
        format!("{method} {path} HTTP/1.1\r\nHost: {SERVICE}, {address}\r\n{end}"),
        format!(
            "CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n{method} {path} HTTP/1.1\r\nHost: {address}\r\n{end}"
        ),
        format!("CONNECT http://{address}{path} HTTP/1.1\r\nHost: {address}\r\n\r\n"),
    ]
}

struct Mesh {
    authority: Authority,
    frontend: Svid,
    recorder: Recorder,
    /// Stands for whatever else listens on this machine. Nothing has business there.
    canary: TcpListener,
    inbound: Sidecar,
    outbound: Sidecar,
}

impl Mesh {
    async fn new(grants: &str) -> Self {
        let authority = Authority::new();
        let recorder = Recorder::start().await;
        let orders = authority.svid(ORDERS, Life::Hour);
        let app = recorder.address;
        let inbound = sidecar(&authority, orders, app, grants, |_| ());
        let own = authority.svid(FRONTEND, Life::Hour);
        let outbound = sidecar(&authority, own, app, grants, |config| {
            config.outbound = outbound(vec![service(SERVICE, inbound.inbound, ORDERS)]);
        });
        Self {
            frontend: authority.svid(FRONTEND, Life::Hour),
            authority,
            recorder,
            canary: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            inbound,
            outbound,
        }
    }

    /// The admin ports of both sidecars, and the one of the canary.
    fn ports(&self) -> [u16; 3] {
        let canary = self.canary.local_addr().unwrap();
        [self.inbound.admin, self.outbound.admin, canary].map(|address: SocketAddr| address.port())
    }

    async fn call_inbound(&self, message: &str) -> String {
        let (to, svid) = (self.inbound.inbound, Some(&self.frontend));
        answer(
            tls(to, &self.authority, svid, b"http/1.1").await.unwrap(),
            message,
        )
        .await
    }

    async fn call_outbound(&self, message: &str) -> String {
        answer(
            TcpStream::connect(self.outbound.outbound()).await.unwrap(),
            message,
        )
        .await
    }

    async fn nothing_has_called_the_canary(&self) -> bool {
        let accept = self.canary.accept();
        tokio::time::timeout(Duration::from_millis(50), accept)
            .await
            .is_err()
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, message: &str) -> String {
    // Refused before all of it was read.
    stream.write_all(message.as_bytes()).await.ok();
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), end)
        .await
        .expect("an end")
        .ok();
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> u16 {
    answer
        .get(9..12)
        .and_then(|code| code.parse().ok())
        .unwrap_or_default()
}

#[tokio::test]
async fn no_request_to_the_outbound_port_reaches_an_admin_port() {
    let mesh = Mesh::new(&grant_all()).await;
    let mut asked = 0;
    for (ports, port) in mesh.ports().into_iter().enumerate() {
        for address in own_addresses(port, ports == 0) {
            // One call for each way of writing the address, and all calls for the plainest.
            let calls = if address.starts_with("127.0.0.1:") {
                &CALLS[..]
            } else {
                &CALLS[..1]
            };
            for (method, path) in calls {
                for message in messages(method, path, &address) {
                    let answer = mesh.call_outbound(&message).await;
                    asked += 1;
                    let is_refused = (400..500).contains(&status(&answer));
                    assert!(is_refused, "{message}: {answer}");
                    assert!(!answer.contains("tipstaff_"), "{message}: {answer}");
                }
            }
        }
    }
    assert_eq!(asked, 11 * (32 + 8) + 2 * 11 * 9);
    assert!(mesh.nothing_has_called_the_canary().await);
    assert!(mesh.recorder.take().octets.is_empty());
}

#[tokio::test]
async fn no_request_to_the_inbound_port_reaches_an_admin_port() {
    let mesh = Mesh::new(&grant("allow: [{methods: [GET], path: \"/api/**\"}]")).await;
    for (ports, port) in mesh.ports().into_iter().enumerate() {
        for address in own_addresses(port, ports == 0) {
            for (method, path) in CALLS {
                // The host is no destination here; what is not granted is refused under every one.
                let message = &messages(method, path, &address)[0];
                let answer = mesh.call_inbound(message).await;
                assert!((400..500).contains(&status(&answer)), "{message}: {answer}");
                assert!(!answer.contains("tipstaff_"), "{message}: {answer}");
            }
        }
        for message in messages("GET", "/metrics", &format!("127.0.0.1:{port}")) {
            let answer = mesh.call_inbound(&message).await;
            assert!((400..500).contains(&status(&answer)), "{message}: {answer}");
        }
    }
    assert!(mesh.nothing_has_called_the_canary().await);
    assert!(mesh.recorder.take().octets.is_empty());
}

/// Whoever may ask the app everything still asks the app, and not this machine.
#[tokio::test]
async fn a_grant_of_everything_opens_the_app_and_no_other_port() {
    let mesh = Mesh::new(&grant_all()).await;
    for port in mesh.ports() {
        for (method, path) in CALLS {
            let message = &messages(method, path, &format!("127.0.0.1:{port}"))[0];
            let answer = mesh.call_inbound(message).await;
            assert_eq!(status(&answer), 200, "{message}: {answer}");
            let evidence = mesh.recorder.take();
            assert_eq!(evidence.whole, [format!("{method} {path} HTTP/1.1")]);
            assert!(!answer.contains("tipstaff_"), "{message}: {answer}");
        }
    }
    assert!(mesh.nothing_has_called_the_canary().await);
}

#[tokio::test]
async fn no_authority_of_http2_leads_to_an_admin_port() {
    let mesh = Mesh::new(&grant("allow: [{methods: [GET], path: \"/api/**\"}]")).await;
    for port in mesh.ports() {
        for name in [
            "127.0.0.1",
            "localhost",
            "[::1]",
            "0.0.0.0",
            "2130706433",
            "127.1",
        ] {
            for path in ["/metrics", "/identity"] {
                let inbound = Caller::http2(mesh.inbound.inbound, &mesh.authority, &mesh.frontend);
                let outbound = Caller::workload_http2(mesh.outbound.outbound());
                for mut caller in [inbound.await, outbound.await] {
                    let request = Request::get(format!("http://{name}:{port}{path}"));
                    let reply = caller.send(request).await.unwrap();
                    assert!(reply.status.is_client_error(), "{name}: {reply:?}");
                    assert!(!reply.body.contains("tipstaff_"), "{name}: {reply:?}");
                }
            }
        }
    }
    assert!(mesh.nothing_has_called_the_canary().await);
    assert!(mesh.recorder.take().octets.is_empty());
}
