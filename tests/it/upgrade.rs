//! A new process takes over while traffic flows, and nobody notices.

mod broken_off; // It does not, and nobody notices either.
mod outliving; // Streams outlive the processes and the certificates they began with.
mod signal; // SIGUSR2.
mod workload_api; // Who is found there meanwhile.

use crate::harness::http::{self, get};
use crate::harness::load::Load;
use crate::harness::{Mesh, Options, PATIENCE, POLICY, Process, free_address, grant, wait_for};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const REQUEST: &str = "GET /api/v1/orders/1 HTTP/1.1\r\nhost: orders\r\n\r\n";
const ALONE: &str = "GET /api/v1/orders/1 HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
const PROFILE: &str = "---
apiVersion: tipstaff.dev/v1alpha1
kind: HttpProfile
metadata: {name: websockets, namespace: shop}
spec: {to: [\"spiffe://test.example/ns/shop/sa/orders\"], upgrade: [websocket]}
";

#[test]
fn upgrades_of_both_sidecars_under_load_lose_no_request_and_are_ready_throughout() {
    let mut mesh = Mesh::start();
    let load = Load::start(mesh.storefront.outbound, REQUEST, 400);
    let probes = Probes::start(mesh.orders.admin);
    let mut replaced = Vec::new();
    for turn in ["1", "2", "3"] {
        replaced.push(mesh.orders.upgrade(turn));
        replaced.push(mesh.storefront.upgrade(turn));
    }
    let tally = load.stop();
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert!(tally.succeeded > 100, "{tally:?}");
    assert_eq!(probes.stop(), Vec::<String>::new(), "never not ready");
    for old in replaced {
        ends_well(old);
    }
}

/// What waits in a socket that belonged to a worker that is no more would never be answered.
#[test]
fn an_upgrade_to_another_number_of_workers_leaves_no_connection_waiting() {
    let mut mesh = Mesh::start();
    let load = Load::start(mesh.storefront.outbound, ALONE, 200);
    let config = std::fs::read_to_string(&mesh.storefront.config).expect("a configuration");
    for workers in [4, 2, 1, 3] {
        let text = format!("{config}workers: {workers}\n");
        std::fs::write(&mesh.storefront.config, text).expect("writing");
        ends_well(mesh.storefront.upgrade(&workers.to_string()));
    }
    let tally = load.stop();
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert!(tally.succeeded > 50, "{tally:?}");
}

#[test]
fn an_upgrade_may_add_listeners_and_take_some_away() {
    let mut mesh = Mesh::start();
    let (before, after) = (mesh.storefront.outbound, free_address());
    let config = std::fs::read_to_string(&mesh.storefront.config).expect("a configuration");
    let text = config.replace(&before.to_string(), &after.to_string());
    std::fs::write(&mesh.storefront.config, text).expect("writing");
    let old = mesh.storefront.upgrade("moved");
    mesh.storefront.outbound = after;
    assert_eq!(mesh.storefront.call("GET", "/api/v1/orders/1").status, 200);
    ends_well(old);
    assert!(TcpStream::connect(before).is_err(), "the old one is closed");
}

#[test]
fn streams_live_on_in_the_old_processes_and_end_with_their_grant() {
    let rules = r#"{methods: [GET], path: "/streams/**"}"#;
    let mut mesh = Mesh::with(&Options {
        policy: grant("streams", rules, "[]") + PROFILE,
        app: Some(streaming_app().to_string()),
        ..Options::default()
    });
    let mut websocket = ask(
        mesh.storefront.outbound,
        "GET /streams/chat HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        "HTTP/1.1 101 ",
    );
    let mut events = ask(
        mesh.storefront.outbound,
        "GET /streams/events HTTP/1.1\r\nhost: orders\r\n\r\n",
        "HTTP/1.1 200 ",
    );
    let mut old = vec![mesh.orders.upgrade("1"), mesh.storefront.upgrade("1")];
    old.push(mesh.orders.upgrade("2"));
    for turn in 0..10 {
        let said = format!("hello {turn}\n");
        websocket
            .get_mut()
            .write_all(said.as_bytes())
            .expect("writing");
        assert_eq!(line(&mut websocket), said);
        while !line(&mut events).contains("tick") {}
    }
    assert!(
        old.iter_mut()
            .take(2)
            .all(|old| old.child.try_wait().expect("ours").is_none()),
        "what carries streams goes on"
    );
    mesh.set_policy(POLICY);
    for mut stream in [websocket, events] {
        wait_for("the stream to end with its grant", || {
            // A reset is an end, too.
            matches!(stream.read(&mut [0; 4096]), Ok(0) | Err(_)).then_some(())
        });
    }
    for old in old {
        ends_well(old);
    }
}

#[test]
fn tcp_goes_on_in_the_old_processes_and_begins_in_the_new_ones() {
    let mut mesh = Mesh::with(&Options {
        policy: grant("connects", "{tcp: true}", "[]"),
        app: Some(streaming_app().to_string()),
        tcp: Some("tcp.sock"),
        ..Options::default()
    });
    let switch = "GET /streams/chat HTTP/1.1\r\nupgrade: websocket\r\n\r\n";
    let echoes = |stream: &mut BufReader<TcpStream>| {
        stream.get_mut().write_all(b"hello\n").expect("writing");
        assert_eq!(line(stream), "hello\n");
    };
    let mut before = ask(mesh.storefront.tcp, switch, "HTTP/1.1 101 ");
    let old = [mesh.orders.upgrade("1"), mesh.storefront.upgrade("1")];
    echoes(&mut before);
    echoes(&mut ask(mesh.storefront.tcp, switch, "HTTP/1.1 101 "));
    // The path of the Unix socket leads to the new process.
    let mut stream =
        std::os::unix::net::UnixStream::connect(&mesh.storefront.tcp_socket).expect("the socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(switch.as_bytes()).expect("writing");
    let mut begun = [0; 13];
    stream.read_exact(&mut begun).expect("an answer");
    assert_eq!(&begun, b"HTTP/1.1 101 ");
    drop(before);
    for old in old {
        ends_well(old);
    }
}

/// The process exits with 0.
fn ends_well(mut process: Process) {
    let status = wait_for("the old process to end", || {
        process.child.try_wait().expect("our child")
    });
    assert!(status.success(), "{status}: {}", process.log_text());
}

/// Asks whether a sidecar is ready, again and again, each time on a new connection.
struct Probes {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Probes {
    fn start(admin: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut failures = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                match get(admin, "/ready") {
                    Some(reply) if reply.status == 200 => {}
                    other => failures.push(format!("{other:?}")),
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            failures
        });
        Self { stop, thread }
    }

    fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic in a probe")
    }
}

/// An app that agrees to every upgrade and then says back what it hears; to other requests it answers with a line now and then.
fn streaming_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // Ends with the connection.
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    if head.to_ascii_lowercase().contains("upgrade: websocket") {
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")?;
        std::io::copy(&mut reader, &mut stream)?;
        return Ok(());
    }
    stream.write_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    )?;
    loop {
        stream.write_all(b"5\r\ntick\n\r\n")?;
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The stream behind an answer that begins as expected.
fn ask(to: SocketAddr, request: &str, expected: &str) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(http::connect(to));
    stream
        .get_mut()
        .write_all(request.as_bytes())
        .expect("writing");
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).expect("reading") > 0, "{head}");
    }
    assert!(head.starts_with(expected), "{head}");
    stream
}

fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).expect("reading");
    assert!(!line.is_empty(), "the stream has ended");
    line
}
