//! WebSockets of Python's `websockets` on both ends, through both sidecars.

use super::{Session, python, while_rotating};
use crate::harness::{Mesh, Options, PATIENCE, Process, free_address, grant, http, wait_for};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

pub(super) const SERVER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/it/real/websocket_server.py"
);
pub(super) const CLIENT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/it/real/websocket_client.py"
);
pub(super) const PROFILE: &str = "---
apiVersion: tipstaff.dev/v1alpha1
kind: HttpProfile
metadata: {name: upgrades, namespace: shop}
spec:
  to: [\"spiffe://test.example/ns/shop/sa/orders\"]
  upgrade: [websocket]
";
const ASK: &str = "GET /ws/echo HTTP/1.1\r\nhost: orders\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Whoever may GET below /ws, and whether the port takes WebSockets.
fn policy(profile: &str) -> String {
    let rule = r#"{methods: [GET], path: "/ws/**"}"#;
    grant("chats", rule, "[]") + profile
}

struct Setting {
    server: Process,
    mesh: Mesh,
    _folder: TempDir,
}

impl Setting {
    fn new(profile: &str, extra: &str) -> Self {
        Self::with(&options(profile, extra))
    }

    fn with(options: &Options) -> Self {
        let folder = TempDir::new().expect("a folder");
        let app = free_address();
        let mut command = python();
        command.args([SERVER, &app.port().to_string()]);
        let server = Process::start(command, folder.path().join("server.log"));
        wait_for("the server", || TcpStream::connect(app).ok());
        let mesh = Mesh::with(&Options {
            app: Some(app.to_string()),
            ..options.clone()
        });
        Self {
            server,
            mesh,
            _folder: folder,
        }
    }

    fn client(&self, arguments: &[&str]) -> Command {
        let mut command = python();
        let address = self.mesh.storefront.outbound.to_string();
        command.args([CLIENT, &address]).args(arguments);
        command
    }

    /// What an attempt to open a WebSocket comes to.
    fn attempt(&self, path: &str) -> String {
        let output = self.client(&[path]).output().expect("Python runs");
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{output:?}");
        said
    }

    fn opened(&self) -> usize {
        self.server.log_text().matches("opened ").count()
    }
}

fn options(profile: &str, extra: &str) -> Options {
    Options {
        policy: policy(profile),
        extra: extra.to_owned(),
        ..Options::default()
    }
}

#[test]
fn messages_pings_and_closes_pass_in_both_directions() {
    let setting = Setting::new(
        PROFILE,
        "timeouts: {idle: 1s, requestHead: 1s, response: 1s}\n",
    );
    let output = setting.client(&[]).output().expect("Python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = [
        "subprotocol chat",
        "extensions permessage-deflate",
        "text hällo",
        r"binary b'\x00\xff'",
        "2 MiB True",
        "2 MiB True",
        "1000 in order True",
        "pong True",
        "text rested",
        "closed by us 4001 enough",
        "fragments [1, 60000, 0, 1, 0]",
        "the server heard our pong: you are",
        "closed by the server 1000 done",
        "closed by the server 1011 trouble",
        "closed by the server 4321 own",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{output:?}");
}

/// The server answers for what it was sent: a sidecar looks at no frame.
#[test]
fn frames_of_each_length_and_those_that_break_the_protocol_arrive_as_they_were_sent() {
    let setting = Setting::new(PROFILE, "");
    let output = setting.client(&["frames"]).output().expect("Python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = [
        "0 True",
        "1 True",
        "125 True",
        "126 True",
        "127 True",
        "128 True",
        "65535 True",
        "65536 True",
        "65537 True",
        "1048576 True",
        "interleaved one two three",
        "text that is no UTF-8 1007",
        "text that ends within a character 1007",
        "an opcode that is none 1002",
        "a control opcode that is none 1002",
        "a bit of no extension 1002",
        "no mask 1002",
        "half a ping 1002",
        "a long ping 1002",
        "more of nothing 1002",
        "a message within a message 1002",
        "a close code that is none 1002",
        "half a close code 1002",
        "a message that is too long 1009",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{output:?}");
}

#[test]
fn an_answer_in_place_of_the_upgrade_arrives_as_the_app_gave_it() {
    let setting = Setting::new(PROFILE, "");
    for status in [200, 403, 426, 503] {
        assert_eq!(
            setting.attempt(&format!("/ws/answer/{status}")),
            format!("{status} asked for no WebSocket here")
        );
    }
}

#[test]
fn an_upgrade_that_no_profile_lists_or_no_grant_allows_never_reaches_the_app() {
    let setting = Setting::new(PROFILE, "");
    assert!(setting.attempt("/other").starts_with("403 - "));
    assert_eq!(setting.opened(), 0);

    let setting = Setting::new("", "");
    assert!(setting.attempt("/ws/echo").starts_with("400 - "));
    assert_eq!(setting.opened(), 0);
}

#[test]
fn a_websocket_outlives_the_certificates_it_began_with() {
    let setting = Setting::with(&Options {
        ttl: Duration::from_secs(5),
        ..options(PROFILE, "")
    });
    let mut client = Session::start(setting.client(&["/ws/echo", "talk"]));
    let mut said = 0;
    while_rotating(&setting.mesh, 5, || {
        said += 1;
        client.say(&format!("message {said}."));
        client.hear(&format!("heard message {said}."));
    });
    assert_eq!(setting.opened(), 1);
}

#[test]
fn an_open_websocket_ends_when_its_grant_is_withdrawn_and_not_before() {
    let setting = Setting::new(PROFILE, "");
    let client = Session::start(setting.client(&["/ws/echo"]));
    client.hear("open");
    let other = grant("more", r#"{methods: [GET], path: "/more"}"#, "[]");
    setting
        .mesh
        .set_policy(&format!("{}---\n{other}", policy(PROFILE)));
    wait_for("the grant to take effect", || {
        let reply = setting.mesh.storefront.call("GET", "/more");
        (reply.status != 403).then_some(())
    });
    assert_eq!(client.lines.try_recv().ok(), None);
    setting.mesh.set_policy(&other);
    // No close frame came: the connection broke.
    client.hear("ended 1006");
}

/// Bytes that a client sends early are kept back until the app has agreed.
#[test]
fn no_byte_of_another_protocol_reaches_the_app_before_its_101() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let app = listener.local_addr().expect("an address");
    let mesh = Mesh::with(&Options {
        app: Some(app.to_string()),
        ..options(PROFILE, "")
    });
    let smuggled = "GET /admin HTTP/1.1\r\nhost: orders\r\n\r\n";
    let mut client = http::connect(mesh.storefront.outbound);
    client
        .write_all(format!("{ASK}{smuggled}").as_bytes())
        .expect("writing");

    let (mut app, _) = listener.accept().expect("a connection");
    app.set_read_timeout(Some(Duration::from_millis(500)))
        .expect("a timeout");
    let mut asked = Vec::new();
    let end = app.read_to_end(&mut asked).expect_err("it stays open");
    assert!(matches!(
        end.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut
    ));
    let asked = String::from_utf8(asked).expect("text");
    assert!(asked.starts_with("GET /ws/echo HTTP/1.1\r\n"), "{asked}");
    assert!(asked.ends_with("\r\n\r\n"), "{asked}");
    assert!(!asked.contains("/admin"), "{asked}");

    app.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    app.write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    )
    .expect("writing");
    let mut early = vec![0; smuggled.len()];
    app.read_exact(&mut early).expect("the early bytes");
    assert_eq!(early, smuggled.as_bytes());
    let mut head = [0; 12];
    client.read_exact(&mut head).expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 101");
}

#[test]
fn an_offer_of_h2c_is_dropped_and_the_request_goes_on_without() {
    let mesh = Mesh::with(&options(PROFILE, ""));
    let offer = "GET /ws/echo HTTP/1.1\r\nhost: orders\r\nconnection: Upgrade, HTTP2-Settings, close\r\n\
         upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n";
    let reply = http::call(mesh.storefront.outbound, offer);
    assert_eq!(reply.status, 200, "{}", reply.head);
    let heads = mesh.app.heads();
    let [head] = &heads[..] else {
        panic!("one request, found {heads:?}");
    };
    let head = head.to_ascii_lowercase();
    assert!(
        !head.contains("upgrade") && !head.contains("http2-settings"),
        "{head}"
    );
}
