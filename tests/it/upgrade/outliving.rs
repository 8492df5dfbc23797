//! What lasts outlives both the process that carries it, as far as callers can tell, and the certificates that it began with.

use super::{PROFILE, ask, ends_well, line, streaming_app};
use crate::harness::{Mesh, Options, Sidecar, grant, grpc, wait_for};
use std::collections::BTreeSet;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Long enough for an upgrade on a busy machine, and short enough to wait for.
const TTL: Duration = Duration::from_secs(8);
const CHAT: &str = "GET /streams/chat HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A WebSocket and a gRPC call that goes on.
struct Streams {
    websocket: BufReader<TcpStream>,
    call: grpc::Talk,
}

impl Streams {
    async fn open(mesh: &Mesh) -> Self {
        let outbound = mesh.storefront.outbound;
        let websocket = ask(outbound, CHAT, "HTTP/1.1 101 ");
        let mut caller = grpc::Caller::connect(outbound, "orders-0").await;
        let call = caller.talk().await.expect("a call");
        Self { websocket, call }
    }

    async fn turn(&mut self) {
        let heard = self.call.turn("hello").await.expect("the call goes on");
        assert_eq!(heard.as_deref(), Some("hello"));
        let socket = self.websocket.get_mut();
        socket.write_all(b"hello\n").expect("writing");
        assert_eq!(line(&mut self.websocket), "hello\n");
    }

    /// Until each sidecar has renewed so often that the certificates of now are no longer those of before.
    async fn outlive(&mut self, sidecars: [&Sidecar; 2]) {
        let mut serials = [BTreeSet::new(), BTreeSet::new()];
        while serials.iter().any(|seen| seen.len() <= 3) {
            self.turn().await;
            for (seen, sidecar) in serials.iter_mut().zip(sidecars) {
                seen.insert(sidecar.serial());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn mesh(calls: &grpc::App) -> Mesh {
    let grants = [
        grant("streams", r#"{methods: [GET], path: "/streams/**"}"#, "[]"),
        grant("calls", "{grpc: shop.v1.Orders, methods: [Talk]}", "[]"),
    ];
    Mesh::with(&Options {
        policy: grants.join("---\n") + PROFILE,
        app: Some(streaming_app().to_string()),
        beside: vec![("http", calls.address.to_string())],
        ttl: TTL,
        ..Options::default()
    })
}

/// A proof came to the new process, which did not know the connection: each stream ended with its first certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_in_replaced_processes_outlive_the_certificates_they_began_with() {
    let calls = grpc::App::start();
    let mut mesh = mesh(&calls);
    let mut streams = Streams::open(&mesh).await;
    streams.turn().await;
    // The one that carries them is not the one that the newest asks first, or has its sockets from.
    let mut old = vec![mesh.orders.upgrade("1"), mesh.storefront.upgrade("1")];
    streams.turn().await;
    old.push(mesh.orders.upgrade("2"));
    streams.outlive([&mesh.storefront, &mesh.orders]).await;
    drop(streams);
    for old in old {
        ends_well(old);
    }
}

/// Nobody else can let the streams of the old process go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_process_that_has_its_sockets_streams_of_the_old_one_end_with_their_certificates()
 {
    let calls = grpc::App::start();
    let mut mesh = mesh(&calls);
    let mut streams = Streams::open(&mesh).await;
    let old = mesh.orders.upgrade("1");
    streams.turn().await;
    mesh.orders.restart();
    wait_for("the WebSocket to end", || {
        // A reset is an end, too.
        let ended = matches!(streams.websocket.read(&mut [0; 64]), Ok(0) | Err(_));
        ended.then_some(())
    });
    assert!(streams.call.turn("hello").await.is_err());
    ends_well(old);
}
