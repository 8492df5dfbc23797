//! WebSockets of wsproto, a second implementation beside `websockets`, on both ends and against the other.

use super::python;
use super::websocket::{CLIENT, PROFILE, SERVER};
use crate::harness::{Mesh, Options, Process, free_address, grant, wait_for};
use std::net::TcpStream;
use std::process::Command;
use tempfile::TempDir;

const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/real/wsproto_peer.py");

const ECHOES: [&str; 12] = [
    "accepted chat []",
    "1 MiB in fragments True",
    "texts hällo '' True",
    "pong one two [b'between']",
    "closed by us 1000",
    "accepted chat ['permessage-deflate']",
    "1 MiB in fragments True",
    "texts hällo '' True",
    "closed by us 1000",
    "closed by us 1001",
    "closed by us 3000",
    "closed by us 4999",
];

/// A server before which both sidecars stand.
struct Setting {
    _server: Process,
    mesh: Mesh,
    _folder: TempDir,
}

impl Setting {
    fn new(server: &[&str], policy: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let app = free_address();
        let mut command = python();
        command.args(server).arg(app.port().to_string());
        let server = Process::start(command, folder.path().join("server.log"));
        wait_for("the server", || TcpStream::connect(app).ok());
        let mesh = Mesh::with(&Options {
            app: Some(app.to_string()),
            policy: policy.to_owned(),
            ..Options::default()
        });
        Self {
            _server: server,
            mesh,
            _folder: folder,
        }
    }

    /// What a client says that comes to its end.
    fn says(&self, client: &[&str]) -> Vec<String> {
        let (program, rest) = client.split_first().expect("a client");
        let mut command: Command = python();
        command.arg(program);
        let outbound = self.mesh.storefront.outbound.to_string();
        // Where the address stands differs between the two.
        match *program {
            PEER => command.arg(rest[0]).arg(outbound).args(&rest[1..]),
            _ => command.arg(outbound).args(rest),
        };
        let output = command.output().expect("Python runs");
        assert!(output.status.success(), "{client:?}: {output:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        said.lines().map(str::to_owned).collect()
    }
}

fn policy() -> String {
    grant("chats", r#"{methods: [GET], path: "/ws/**"}"#, "[]") + PROFILE
}

#[test]
fn wsproto_on_both_ends_says_and_hears_everything_as_it_was_sent() {
    let setting = Setting::new(&[PEER, "serve"], &policy());
    assert_eq!(setting.says(&[PEER, "echo"]), ECHOES);
    let expected = [
        "fragments ['a', '', 'bb', '']",
        "the server heard our pong: are you there",
        "closed by the server 1000 as asked",
        "closed by the server 1011 as asked",
        "closed by the server 4321 as asked",
        // Sent right behind the request, delivered right behind the app's 101.
        "early AcceptConnection quiet too soon",
        "rejected 403 b'asked for' b'no'",
        "rejected 426 b'asked for' b'no'",
        "rejected 503 b'asked for' b'no'",
    ];
    assert_eq!(setting.says(&[PEER, "call"]), expected);
}

#[test]
fn wsproto_and_websockets_understand_each_other_whichever_serves() {
    let setting = Setting::new(&[SERVER], &policy());
    assert_eq!(setting.says(&[PEER, "echo"]), ECHOES);
    let setting = Setting::new(&[PEER, "serve"], &policy());
    let frames = setting.says(&[CLIENT, "sizes"]);
    assert_eq!(frames.len(), 10);
    assert!(
        frames.iter().all(|said| said.ends_with(" True")),
        "{frames:?}"
    );
}

#[test]
fn an_upgrade_without_a_grant_or_a_profile_is_refused_to_wsproto_before_the_app_sees_it() {
    let setting = Setting::new(&[PEER, "serve"], &policy());
    assert_eq!(setting.says(&[PEER, "attempt", "/ws/echo"]), ["open"]);
    assert_eq!(setting.says(&[PEER, "attempt", "/other"]), ["403"]);
    let other = grant("more", r#"{methods: [POST], path: "/ws/**"}"#, "[]") + PROFILE;
    let setting = Setting::new(&[PEER, "serve"], &other);
    assert_eq!(setting.says(&[PEER, "attempt", "/ws/echo"]), ["403"]);
    let without = grant("chats", r#"{methods: [GET], path: "/ws/**"}"#, "[]");
    let setting = Setting::new(&[PEER, "serve"], &without);
    assert_eq!(setting.says(&[PEER, "attempt", "/ws/echo"]), ["400"]);
}
