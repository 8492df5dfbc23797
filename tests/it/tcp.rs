//! Opaque TCP as a configuration file says it.

use crate::harness::{Mesh, Options, PATIENCE, grant, http};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

#[test]
fn what_is_said_to_a_tcp_service_or_to_its_unix_socket_reaches_the_app_as_it_was_said() {
    let mesh = Mesh::with(&Options {
        policy: grant("connects", "{tcp: true}", "[]"),
        tcp: Some("tcp.sock"),
        ..Options::default()
    });
    // As HTTP it would be refused. The app says back what it hears, until it hears no more.
    let said = "GET /a/../b HTTP/1.1\r\nhost: any\r\nhost: other\r\n\r\n";
    let mut answers = [String::new(), String::new()];

    let mut stream = http::connect(mesh.storefront.tcp);
    stream.write_all(said.as_bytes()).expect("writing");
    stream.shutdown(Shutdown::Write).expect("an end");
    stream.read_to_string(&mut answers[0]).expect("reading");

    let mut stream = UnixStream::connect(&mesh.storefront.tcp_socket).expect("the socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(said.as_bytes()).expect("writing");
    stream.shutdown(Shutdown::Write).expect("an end");
    stream.read_to_string(&mut answers[1]).expect("reading");

    for answer in answers {
        assert!(answer.ends_with(said), "{answer}");
    }
}
