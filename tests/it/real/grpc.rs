//! A gRPC call with stock grpcio on both ends, through both sidecars.

use super::{Session, python};
use crate::harness::{
    Mesh, ORDERS, Options, Process, STOREFRONT, free_address, grant, path, wait_for,
};
use std::path::Path;

/// A server and a client with all four kinds of call.
pub(super) const STREAMS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/real/grpc_streams.py");

/// What the client says of all its calls when they pass as they should.
pub(super) const OUTCOMES: [&str; 8] = [
    "unary True the front, the front, True, OK",
    "server True the front, the front, True, OK",
    "client True the front, the front, True, OK",
    "both True the front, the front, True, OK",
    "turns ['one', 'two', 'enough'] the front, the front, True, OK",
    "none [] the front, the front, True, OK",
    "failed nicht heute, 100 % sicher: ✗ the front, the front, True, FAILED_PRECONDITION",
    "cancelled CANCELLED",
];

/// Unary and server-streaming methods that need no generated code: messages are raw bytes.
const SERVER: &str = r#"
import sys, grpc, threading
from concurrent import futures
ended = threading.Event()
def wait(request, context):
    ended.clear()
    context.add_callback(ended.set)
    for _ in range(int(request)):
        yield b"one"
    ended.wait(10)
class Handler(grpc.GenericRpcHandler):
    def service(self, call):
        if call.method == "/shop.v1.Orders/Get":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"order " + request)
        if call.method == "/shop.v1.Orders/Left":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"%f" % context.time_remaining())
        if call.method == "/shop.v1.Orders/Wait":
            return grpc.unary_stream_rpc_method_handler(wait)
        if call.method == "/shop.v1.Orders/Ended":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"cancelled" if ended.wait(10) else b"no")
        if call.method == "/shop.v1.Orders/List":
            return grpc.unary_stream_rpc_method_handler(lambda request, context: (b"%d" % n for n in range(100)))
server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Handler()])
assert server.add_insecure_port(sys.argv[1])
server.start()
threading.Event().wait(120)
"#;

/// Prints the outcome of each call on a line.
const CLIENT: &str = r#"
import sys, grpc
channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.default_authority", "orders")])
def attempt(call):
    try:
        print(call())
    except grpc.RpcError as error:
        print(error.code().name)
        print(error.details(), file=sys.stderr)
attempt(lambda: channel.unary_unary("/shop.v1.Orders/Get")(b"42", timeout=20).decode())
attempt(lambda: len(list(channel.unary_stream("/shop.v1.Orders/List")(b"", timeout=20))))
attempt(lambda: channel.unary_unary("/shop.v1.Orders/Delete")(b"42", timeout=20))
def left(timeout):
    left = float(channel.unary_unary("/shop.v1.Orders/Left")(b"", timeout=timeout))
    # grpcio's server rounds up by a tenth of a second.
    return "%s of %s" % ("most" if timeout - 10 < left < timeout + 0.5 else left, timeout)
attempt(lambda: left(20))
for messages in (b"0", b"3"):
    attempt(lambda: list(channel.unary_stream("/shop.v1.Orders/Wait")(messages, timeout=0.5)))
    attempt(lambda: channel.unary_unary("/shop.v1.Orders/Ended")(b"", timeout=20).decode())
for _ in range(3):
    attempt(lambda: channel.unary_unary("/shop.v1.Orders/Charge")(b"42", timeout=20))
"#;

#[test]
fn grpcio_calls_through_both_sidecars_and_is_refused_in_its_own_terms() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let app = free_address();
    let server = write(folder.path(), "server.py", SERVER);
    let mut command = python();
    command.args([path(&server), &app.to_string()]);
    let _server = Process::start(command, folder.path().join("server.log"));
    wait_for("the gRPC server", || std::net::TcpStream::connect(app).ok());

    let policy = format!(
        r#"apiVersion: tipstaff.dev/v1alpha1
kind: Grant
metadata: {{name: calls-orders, namespace: shop}}
spec:
  from: ["{STOREFRONT}"]
  to: ["{ORDERS}"]
  allow: [{{grpc: shop.v1.Orders, methods: [Get, List, Left, Wait, Ended]}}]
  purpose: {{id: orders, owner: team-shop}}
  validity: {{notAfter: never, because: "a test"}}
---
apiVersion: tipstaff.dev/v1alpha1
kind: Grant
metadata: {{name: charges, namespace: shop}}
spec:
  from: ["{STOREFRONT}"]
  to: ["{ORDERS}"]
  allow: [{{grpc: shop.v1.Orders, methods: [Charge]}}]
  limits: [{{name: charge, key: [identity, grpcMethod], rate: 1/h, burst: 1}}]
  purpose: {{id: orders, owner: team-shop}}
  validity: {{notAfter: never, because: "a test"}}
"#
    );
    let mesh = Mesh::with(&Options {
        app: Some(app.to_string()),
        policy,
        ..Options::default()
    });
    let client = write(folder.path(), "client.py", CLIENT);
    let output = python()
        .args([path(&client), &mesh.storefront.outbound.to_string()])
        .output()
        .expect("the client runs");
    let said = String::from_utf8_lossy(&output.stdout);
    // The app does not implement Charge; the first call reaches it and says so, the others are limited.
    let expected = [
        "order 42",
        "100",
        "PERMISSION_DENIED",
        "most of 20",
        "DEADLINE_EXCEEDED",
        "cancelled",
        "DEADLINE_EXCEEDED",
        "cancelled",
        "UNIMPLEMENTED",
        "RESOURCE_EXHAUSTED",
        "RESOURCE_EXHAUSTED",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{output:?}");
}

#[test]
fn all_four_kinds_of_call_pass_with_what_stands_before_and_after_their_messages() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let app = free_address();
    let mut command = python();
    command.args([STREAMS, "serve", &app.to_string()]);
    let _server = Process::start(command, folder.path().join("server.log"));
    wait_for("the gRPC server", || std::net::TcpStream::connect(app).ok());
    let mesh = Mesh::with(&Options {
        app: Some(app.to_string()),
        policy: grant(
            "streams",
            "{grpc: shop.v1.Streams, methods: [Get, Many, Total, Talk, Fail]}",
            "[]",
        ),
        ..Options::default()
    });
    let output = python()
        .args([
            STREAMS,
            "call",
            &mesh.storefront.outbound.to_string(),
            "orders",
        ])
        .output()
        .expect("the client runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.lines().collect::<Vec<_>>(), OUTCOMES, "{output:?}");
}

/// What a channel of grpcio does when its sidecar, or the one behind it, is replaced under open streams and calls.
#[test]
fn calls_and_open_streams_of_grpcio_notice_nothing_of_upgrades() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let app = free_address();
    let mut command = python();
    command.args([STREAMS, "serve", &app.to_string()]);
    let _server = Process::start(command, folder.path().join("server.log"));
    wait_for("the gRPC server", || std::net::TcpStream::connect(app).ok());
    let mut mesh = Mesh::with(&Options {
        app: Some(app.to_string()),
        policy: grant(
            "streams",
            "{grpc: shop.v1.Streams, methods: [Get, Talk]}",
            "[]",
        ),
        ..Options::default()
    });
    let mut command = python();
    let outbound = mesh.storefront.outbound.to_string();
    command.args([STREAMS, "load", &outbound, "orders"]);
    let mut load = Session::start(command);
    load.hear("going");
    let mut old = Vec::new();
    for turn in ["1", "2"] {
        old.push(mesh.orders.upgrade(turn));
        old.push(mesh.storefront.upgrade(turn));
    }
    for first in &mut old[..2] {
        let ended = first.child.try_wait().expect("our child");
        assert!(ended.is_none(), "it carries streams: {ended:?}");
    }
    load.say("enough");
    let counts = load.hear("calls ");
    assert_eq!(load.hear("failed "), "failed []", "{counts}");
    let (rest, status) = load.end();
    assert!(status.success(), "{rest:?}");
    for mut old in old {
        let status = wait_for("the old process to end", || {
            old.child.try_wait().expect("our child")
        });
        assert!(status.success(), "{status}: {}", old.log_text());
    }
}

fn write(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let file = folder.join(name);
    std::fs::write(&file, text).expect("a script");
    file
}
