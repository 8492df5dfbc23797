//! A WebSocket, a gRPC stream and a session of psql: each lives for as long as both sidecars renew, and not longer.

use super::postgres::{Postgres, psql_command};
use super::{Session, grpc, python, websocket};
use crate::harness::{Mesh, Options, Process, free_address, grant, wait_for};
use std::collections::BTreeSet;
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const TTL: Duration = Duration::from_secs(5);
const ROTATIONS: usize = 20;
/// Far more than as many rotations take, which is 70 s at most.
const DEADLINE: Duration = Duration::from_secs(150);

/// One of the three.
struct Stream {
    session: Session,
    ask: fn(usize) -> String,
    hears: fn(usize) -> String,
}

impl Stream {
    fn turn(&mut self, number: usize) {
        self.session.say(&(self.ask)(number));
        self.session.hear(&(self.hears)(number));
    }
}

#[test]
fn long_streams_live_through_twenty_rotations_and_end_when_nobody_renews() {
    let folder = TempDir::new().expect("a folder");
    let [chat, calls] = [(); 2].map(|()| free_address());
    let mut command = python();
    command.args([websocket::SERVER, &chat.port().to_string()]);
    let chat_server = Process::start(command, folder.path().join("websocket.log"));
    let mut command = python();
    command.args([grpc::STREAMS, "serve", &calls.to_string()]);
    let _call_server = Process::start(command, folder.path().join("grpc.log"));
    for server in [chat, calls] {
        wait_for("the server", || TcpStream::connect(server).ok());
    }
    let database = Postgres::start();

    let grants = [
        grant("chats", r#"{methods: [GET], path: "/ws/**"}"#, "[]"),
        grant("streams", "{grpc: shop.v1.Streams, methods: [Talk]}", "[]"),
        grant("queries", "{tcp: true}", "[]"),
    ];
    let mut mesh = Mesh::with(&Options {
        policy: grants.join("---\n") + websocket::PROFILE,
        ttl: TTL,
        app: Some(chat.to_string()),
        beside: vec![
            ("http", calls.to_string()),
            ("tcp", database.address.to_string()),
        ],
        ..Options::default()
    });
    let outbound = mesh.storefront.outbound.to_string();
    let mut chat = python();
    chat.args([websocket::CLIENT, &outbound, "/ws/echo", "talk"]);
    let mut calls = python();
    calls.args([grpc::STREAMS, "talk", &outbound, "orders-0"]);
    let queries = psql_command("127.0.0.1", mesh.storefront.tcp.port(), 400, &[]);
    let mut streams = [
        Stream {
            session: Session::start(chat),
            ask: |n| format!("message {n}."),
            hears: |n| format!("heard message {n}."),
        },
        Stream {
            session: Session::start(calls),
            ask: |n| format!("call {n}."),
            hears: |n| format!("heard call {n}."),
        },
        Stream {
            session: Session::start(queries),
            ask: |n| format!("insert into kept values ({n}) returning 'row ' || n || '.';"),
            hears: |n| format!("row {n}."),
        },
    ];
    // A temporary table is the session's own.
    streams[2]
        .session
        .say("create temporary table kept (n int);");

    let start = Instant::now();
    let mut serials = [BTreeSet::new(), BTreeSet::new()];
    let mut turns = 0;
    while serials.iter().any(|seen| seen.len() <= ROTATIONS) {
        assert!(start.elapsed() < DEADLINE, "only {serials:?}");
        turns += 1;
        for stream in &mut streams {
            stream.turn(turns);
        }
        serials[0].insert(mesh.storefront.serial());
        serials[1].insert(mesh.orders.serial());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(chat_server.log_text().matches("opened ").count(), 1);
    let rows = "select 'all ' || count(*) from kept;";
    streams[2].session.say(rows);
    streams[2].session.hear(&format!("all {turns}"));

    mesh.ca.kill();
    wait_for("both certificates to end", || {
        (!mesh.storefront.ready() && !mesh.orders.ready()).then_some(())
    });
    for Stream {
        mut session, ask, ..
    } in streams
    {
        // psql learns it when it next asks, and the others may have ended.
        session.try_say(&ask(0));
        let (said, status) = session.end();
        assert!(!status.success(), "{said:?}");
    }
}
