//! Everything that a sidecar carries is in flight at once when it is told to stop: requests over HTTP/1.1 and HTTP/2, a
//! WebSocket and a gRPC call, under load.

use super::raw_http2::{GOAWAY, PING, Raw};
use crate::harness::http::{connect, get};
use crate::harness::{Mesh, Options, Process, grant, grpc, load, wait_for};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const PROFILE: &str = "---
apiVersion: tipstaff.dev/v1alpha1
kind: HttpProfile
metadata: {name: websockets, namespace: shop}
spec: {to: [\"spiffe://test.example/ns/shop/sa/orders\"], upgrade: [websocket]}
";
const QUICK: &str = "GET /quick HTTP/1.1\r\nhost: orders\r\n\r\n";
const HELD: &str = "GET /held HTTP/1.1\r\nhost: orders\r\n\r\n";
const CHAT: &str = "GET /chat HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// An app that answers at once, when it is let go, or by agreeing to an upgrade and saying back what it hears.
#[derive(Default)]
struct App {
    lets_go: AtomicBool,
    /// Requests that were held.
    held: AtomicU32,
}

impl App {
    fn start() -> (Arc<Self>, SocketAddr) {
        let app = Arc::<Self>::default();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let served = Arc::clone(&app);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let app = Arc::clone(&served);
                // Ends with the connection.
                std::thread::spawn(move || app.serve(stream));
            }
        });
        (app, address)
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head)? == 0 {
                    return Ok(());
                }
            }
            if head.starts_with("GET /chat ") {
                stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")?;
                std::io::copy(&mut reader, &mut stream)?;
                return Ok(());
            }
            if head.starts_with("GET /held ") {
                self.held.fetch_add(1, Ordering::Relaxed);
                while !self.lets_go.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
        }
    }
}

/// One of each kind, in the hands of the callers.
struct InFlight {
    http1: BufReader<TcpStream>,
    http2: Raw,
    websocket: BufReader<TcpStream>,
    call: grpc::Talk,
}

impl InFlight {
    /// The requests are held by the app.
    async fn new(mesh: &Mesh, app: &App) -> Self {
        let outbound = mesh.storefront.outbound;
        let mut http1 = BufReader::new(connect(outbound));
        http1.get_mut().write_all(HELD.as_bytes()).expect("writing");
        let mut http2 = Raw::connect(outbound);
        http2.ask(1, "/held");
        let mut websocket = BufReader::new(connect(outbound));
        websocket
            .get_mut()
            .write_all(CHAT.as_bytes())
            .expect("writing");
        assert!(head(&mut websocket).starts_with("HTTP/1.1 101 "));
        let mut caller = grpc::Caller::connect(outbound, "orders-0").await;
        let call = caller.talk().await.expect("a call");
        wait_for("the requests to reach the app", || {
            (app.held.load(Ordering::Relaxed) == 2).then_some(())
        });
        Self {
            http1,
            http2,
            websocket,
            call,
        }
    }

    /// Both streams carry what they are given.
    async fn turn(&mut self) {
        let heard = self.call.turn("hello").await.expect("an answer");
        assert_eq!(heard.as_deref(), Some("hello"));
        self.websocket
            .get_mut()
            .write_all(b"hello")
            .expect("writing");
        let mut heard = [0; 5];
        self.websocket.read_exact(&mut heard).expect("an echo");
        assert_eq!(&heard, b"hello");
    }
}

fn mesh(app: SocketAddr, calls: &grpc::App, extra: &str) -> Mesh {
    let policy = [
        grant("asks", r#"{methods: [GET], path: "/**"}"#, "[]"),
        grant("calls", "{grpc: shop.v1.Orders, methods: [Talk]}", "[]"),
    ];
    Mesh::with(&Options {
        app: Some(app.to_string()),
        beside: vec![("http", calls.address.to_string())],
        policy: policy.join("---\n") + PROFILE,
        extra: extra.to_owned(),
        ..Options::default()
    })
}

/// Callers that ask again and again on connections they keep, until they are told that no answer follows.
fn load(outbound: SocketAddr) -> Vec<JoinHandle<Result<u32, String>>> {
    let client = move || {
        let mut stream = BufReader::new(connect(outbound));
        let mut answered = 1;
        while load::exchange(&mut stream, QUICK)? {
            answered += 1;
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(answered)
    };
    (0..16).map(|_| std::thread::spawn(client)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_is_told_to_stop_says_so_in_each_protocol_and_loses_nothing() {
    let (app, address) = App::start();
    let calls = grpc::App::start();
    let mut mesh = mesh(address, &calls, "");
    let (outbound, admin) = (mesh.storefront.outbound, mesh.storefront.admin);
    let mut flight = InFlight::new(&mesh, &app).await;
    flight.turn().await;
    let clients = load(outbound);
    std::thread::sleep(Duration::from_millis(200));

    mesh.storefront.process.signal(Signal::TERM);
    // Readiness first, while everything goes on.
    wait_for("readiness to be off", || {
        let ready = get(admin, "/ready").expect("the admin side answers to the end");
        (ready.status == 503).then(|| assert!(ready.body.contains("\"draining\": true")))
    });
    wait_for("new connections to be refused", || {
        TcpStream::connect(outbound).err()
    });
    flight.turn().await;
    // The first GOAWAY names no stream: what is on its way when it comes is answered. The second, when the caller has heard
    // the first, names the last.
    let going = flight.http2.until(GOAWAY);
    assert_eq!(going.payload[..8], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    flight.http2.ask(3, "/quick");
    assert_eq!(flight.http2.answer(3), b"ok");
    let ping = flight.http2.until(PING);
    flight.http2.acknowledge(&ping);
    let gone = flight.http2.until(GOAWAY);
    assert_eq!(gone.payload[..8], [0, 0, 0, 3, 0, 0, 0, 0]);
    for client in clients {
        let answered = client
            .join()
            .expect("no panic")
            .expect("answers to the last");
        assert!(answered > 1, "{answered}");
    }

    app.lets_go.store(true, Ordering::Relaxed);
    assert_eq!(flight.http2.answer(1), b"ok");
    let answer = head(&mut flight.http1).to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 200 "), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    let mut rest = String::new();
    flight.http1.read_to_string(&mut rest).expect("an end");
    assert_eq!(rest, "ok");
    flight.turn().await;
    assert_eq!(
        flight
            .call
            .turn("enough")
            .await
            .expect("an answer")
            .as_deref(),
        Some("enough")
    );
    assert_eq!(flight.call.hear().await.expect("a good end"), None);
    drop(flight.websocket);
    ends_well(&mut mesh.storefront.process, |cut| cut == 0);
}

/// The other side of the mesh: callers of the app have nothing to do with the one that is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_survives_the_end_of_the_callees_sidecar() {
    let (app, address) = App::start();
    let calls = grpc::App::start();
    let mut mesh = mesh(address, &calls, "");
    let mut flight = InFlight::new(&mesh, &app).await;
    mesh.orders.process.signal(Signal::TERM);
    let (inbound, admin) = (mesh.orders.inbound, mesh.orders.admin);
    wait_for("readiness to be off", || {
        let ready = get(admin, "/ready").expect("the admin side answers to the end");
        (ready.status == 503).then_some(())
    });
    wait_for("new connections to be refused", || {
        TcpStream::connect(inbound).err()
    });
    flight.turn().await;
    app.lets_go.store(true, Ordering::Relaxed);
    assert_eq!(flight.http2.answer(1), b"ok");
    let answer = head(&mut flight.http1);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    flight.turn().await;
    drop((flight.websocket, flight.call));
    ends_well(&mut mesh.orders.process, |cut| cut == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_end_is_cut_by_the_sidecar_itself_when_the_time_for_the_drain_is_over() {
    let (app, address) = App::start();
    let calls = grpc::App::start();
    let mut mesh = mesh(address, &calls, "timeouts: {drain: 2s}\n");
    let mut flight = InFlight::new(&mesh, &app).await;
    mesh.storefront.process.signal(Signal::TERM);
    // Nobody lets go: the process ends all the same, and in order.
    ends_well(&mut mesh.storefront.process, |cut| cut >= 4);
    assert!(flight.call.hear().await.is_err());
    for mut stream in [flight.http1, flight.websocket] {
        // A reset is an end, too.
        assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
}

/// The process exits with 0, having cut off as many as it should.
fn ends_well(process: &mut Process, is_right: impl Fn(u64) -> bool) {
    let status = wait_for("the exit", || process.child.try_wait().expect("our child"));
    let log = process.log_text();
    assert!(status.success(), "{status}: {log}");
    let line = log.lines().find(|line| line.contains("\"drained\""));
    let line = line.unwrap_or_else(|| panic!("expected it to say that it has drained: {log}"));
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let cut = line.pointer("/cut").or(line.pointer("/fields/cut"));
    let cut = cut.and_then(serde_json::Value::as_u64).expect("a number");
    assert!(is_right(cut), "cut off {cut}: {log}");
}

fn head(stream: &mut BufReader<TcpStream>) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).expect("reading") > 0, "{head}");
    }
    head
}
