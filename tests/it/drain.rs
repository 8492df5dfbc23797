//! SIGTERM: what is in flight ends well, nothing new is taken, the process leaves with 0.

mod in_flight; // In every protocol at once.
mod raw_http2;

use crate::harness::http::{connect, exchange};
use crate::harness::{Mesh, Options, load, wait_for};
use rustix::process::Signal;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// An app that says when a request has arrived and answers half a second later.
fn slow_app() -> (SocketAddr, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (arrived, arrivals) = channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let arrived = arrived.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                    arrived.send(()).ok();
                    std::thread::sleep(Duration::from_millis(500));
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow")
                        .ok();
                }
            });
        }
    });
    (address, arrivals)
}

#[test]
fn a_sidecar_told_to_stop_finishes_the_request_in_flight_takes_no_new_one_and_exits_with_0() {
    let (app, arrivals) = slow_app();
    let mut mesh = Mesh::with(&Options {
        app: Some(app.to_string()),
        ..Options::default()
    });
    let outbound = mesh.storefront.outbound;
    let request = "GET /api/v1/orders/1 HTTP/1.1\r\nhost: orders\r\n\r\n";

    let caller = std::thread::spawn(move || exchange(connect(outbound), request.as_bytes()));
    arrivals
        .recv_timeout(Duration::from_secs(10))
        .expect("the request reaches the app");
    // Both have the request in flight when they are told to stop.
    mesh.orders.process.signal(Signal::TERM);
    mesh.storefront.process.signal(Signal::TERM);
    let reply = caller.join().expect("no panic").expect("an answer");
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (200, "slow"),
        "{reply:?}"
    );
    let status = wait_for("the callee's exit", || {
        mesh.orders.process.child.try_wait().expect("our child")
    });
    assert!(
        status.success(),
        "{status}: {}",
        mesh.orders.process.log_text()
    );
    let status = wait_for("the caller's exit", || {
        mesh.storefront.process.child.try_wait().expect("our child")
    });
    assert!(
        status.success(),
        "{status}: {}",
        mesh.storefront.process.log_text()
    );
    assert!(
        TcpStream::connect(outbound).is_err(),
        "nobody listens any more"
    );
}

/// Connections between two requests used to be closed at once, under the request that was on its way.
#[test]
fn connections_in_use_hear_that_they_end_and_none_is_closed_under_a_request() {
    let mut mesh = Mesh::start();
    let outbound = mesh.storefront.outbound;
    let request = "GET /api/v1/orders/1 HTTP/1.1\r\nhost: orders\r\n\r\n";
    let clients: Vec<_> = (0..16)
        .map(|_| {
            std::thread::spawn(move || {
                let mut stream = BufReader::new(connect(outbound));
                while load::exchange(&mut stream, request)? {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok::<_, String>(())
            })
        })
        .collect();
    wait_for("all of them to be in use", || {
        (mesh.app.heads().len() > 160).then_some(())
    });
    mesh.storefront.process.signal(Signal::TERM);
    for client in clients {
        client
            .join()
            .expect("no panic")
            .expect("answers to the last");
    }
    let status = wait_for("the exit", || {
        mesh.storefront.process.child.try_wait().expect("our child")
    });
    assert!(
        status.success(),
        "{status}: {}",
        mesh.storefront.process.log_text()
    );
}
