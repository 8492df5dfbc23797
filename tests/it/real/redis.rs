//! Redis as opaque TCP: redis-cli through two sidecars, over a port and over Unix sockets.

use super::{Session, run_ok};
use crate::harness::{
    Mesh, Options, Process, STRANGER, Sidecar, free_address, grant, path, wait_for,
};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A server in a folder of its own, on a port and on a Unix socket.
struct Redis {
    _process: Process,
    folder: TempDir,
    address: SocketAddr,
}

impl Redis {
    fn start() -> Self {
        let folder = TempDir::new().expect("a folder");
        let address = free_address();
        let mut command = Command::new("redis-server");
        command.args(["--port", &address.port().to_string(), "--bind", "127.0.0.1"]);
        command.args(["--unixsocket", path(&folder.path().join("redis.sock"))]);
        command.args(["--save", "", "--dir", path(folder.path())]);
        let process = Process::start(command, folder.path().join("redis.log"));
        wait_for("Redis", || std::net::TcpStream::connect(address).ok());
        Self {
            _process: process,
            folder,
            address,
        }
    }

    fn socket(&self) -> String {
        format!("unix:{}/redis.sock", self.folder.path().display())
    }

    /// How many connections it has taken, ours included.
    fn connections(&self) -> u64 {
        let port = self.address.port().to_string();
        let info = run_ok("redis-cli", &["-p", &port, "info", "stats"]);
        let count = info
            .lines()
            .find_map(|line| line.strip_prefix("total_connections_received:"));
        let count = count.expect("Redis counts").trim().parse();
        count.expect("a number")
    }
}

/// As the workload beside a sidecar connects: by the port, and by the Unix socket.
fn ways(caller: &Sidecar) -> [Vec<String>; 2] {
    let port = caller.tcp.port().to_string();
    let socket = path(&caller.tcp_socket).to_owned();
    [vec!["-p".to_owned(), port], vec!["-s".to_owned(), socket]]
}

fn cli(way: &[String], arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["60", "redis-cli"]).args(way).args(arguments);
    command
}

fn call(way: &[String], arguments: &[&str]) -> Output {
    let output = cli(way, arguments).output();
    output.expect("redis-cli runs")
}

fn said(way: &[String], arguments: &[&str]) -> String {
    let output = call(way, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn options(app: String) -> Options {
    Options {
        app: Some(app),
        policy: grant("uses-the-cache", "{tcp: true}", "[]"),
        tcp: Some("redis.sock"),
        ..Options::default()
    }
}

#[test]
fn redis_cli_sets_gets_and_pipelines_through_both_sidecars() {
    let server = Redis::start();
    for app in [server.address.to_string(), server.socket()] {
        let mesh = Mesh::with(&options(app));
        for way in ways(&mesh.storefront) {
            assert_eq!(said(&way, &["set", "greeting", "hello"]), "OK\n");
            assert_eq!(said(&way, &["get", "greeting"]), "hello\n");

            let mut commands = String::new();
            for number in 0..10_000 {
                write!(commands, "rpush list {number}\r\n").expect("memory");
            }
            let mut pipeline = cli(&way, &["--pipe"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("redis-cli runs");
            let mut input = pipeline.stdin.take().expect("it is piped");
            input.write_all(commands.as_bytes()).expect("it reads");
            drop(input);
            let output = pipeline.wait_with_output().expect("it is ours");
            let printed = String::from_utf8_lossy(&output.stdout);
            assert!(printed.contains("errors: 0, replies: 10000"), "{printed}");
            let list: String = (0..10_000).map(|number| format!("{number}\n")).collect();
            assert!(
                said(&way, &["lrange", "list", "0", "-1"]) == list,
                "{way:?}"
            );
            said(&way, &["del", "list"]);
        }
    }
}

#[test]
fn what_is_published_reaches_who_has_subscribed() {
    let server = Redis::start();
    let mesh = Mesh::with(&options(server.socket()));
    let [port, socket] = ways(&mesh.storefront);
    let subscriber = Session::start(cli(&port, &["subscribe", "news"]));
    subscriber.hear("subscribe");
    for number in 0..100 {
        let news = format!("news number {number}");
        assert_eq!(said(&socket, &["publish", "news", &news]), "1\n");
        subscriber.hear(&news);
    }
}

#[test]
fn a_caller_without_a_grant_gets_no_connection_to_the_server() {
    let server = Redis::start();
    let options = options(server.address.to_string());
    let mesh = Mesh::with(&options);
    let stranger = mesh.caller("stranger", STRANGER, &options);
    let before = server.connections();
    for way in ways(&stranger) {
        let output = call(&way, &["ping"]);
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(!printed.contains("PONG"), "{output:?}");
    }
    // The question itself is one.
    assert_eq!(server.connections(), before + 1);
    for way in ways(&mesh.storefront) {
        assert_eq!(said(&way, &["ping"]), "PONG\n");
    }
    assert_eq!(server.connections(), before + 4);
}
