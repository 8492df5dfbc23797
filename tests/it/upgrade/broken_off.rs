use super::ends_well;
use crate::harness::{Mesh, POLICY, Process, Sidecar, wait_for};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// A process that ends by itself, and what it says.
fn refused(sidecar: &Sidecar, name: &str) -> String {
    let mut process = sidecar.successor(name);
    let status = wait_for("the new process to give up", || {
        process.child.try_wait().expect("our child")
    });
    assert_eq!(status.code(), Some(2), "{}", process.log_text());
    process.log_text()
}

fn serves(mesh: &Mesh) {
    let reply = mesh.storefront.call("GET", "/api/v1/orders/1");
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(mesh.orders.ready());
}

/// Started while there is no CA: it has the sockets and waits for an identity.
pub(super) fn waiting(mesh: &mut Mesh, name: &str) -> Process {
    mesh.ca.kill();
    let process = mesh.orders.successor(name);
    wait_for("the new process to have the sockets", || {
        process.log_text().contains("\"listening\"").then_some(())
    });
    process
}

#[test]
fn a_new_process_that_cannot_serve_says_why_and_the_old_one_goes_on() {
    let mesh = Mesh::start();
    let good = std::fs::read_to_string(&mesh.orders.config).expect("a configuration");
    let write = |text: &str| std::fs::write(&mesh.orders.config, text).expect("writing");

    write("nonsense: true\n");
    assert!(refused(&mesh.orders, "config").contains("unknown key"));
    // It has been given the sockets when it finds that it cannot have all.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let more = format!("inbound:\n  - {{listen: \"{address}\", app: \"127.0.0.1:1\"}}\n");
    write(&good.replace("inbound:\n", &more));
    assert!(refused(&mesh.orders, "taken").contains(&address));
    let socket = mesh.orders.socket.display().to_string();
    write(&good.replace(&socket, "/nowhere/admin.sock"));
    assert!(refused(&mesh.orders, "nobody").contains("/nowhere/admin.sock"));
    write(&good);
    mesh.set_policy("nonsense");
    assert!(refused(&mesh.orders, "policy").contains("policy"));
    mesh.set_policy(POLICY);
    wait_for("the policy to be good again", || {
        mesh.orders.ready().then_some(())
    });
    serves(&mesh);
}

#[test]
fn of_two_upgrades_at_once_the_second_is_refused_and_when_the_first_is_killed_nothing_has_changed()
{
    let mut mesh = Mesh::start();
    let mut first = waiting(&mut mesh, "first");
    assert!(refused(&mesh.orders, "second").contains("another process is taking over already"));
    serves(&mesh);
    first.kill();
    serves(&mesh);
    mesh.ca.serve();
    wait_for("the sockets to be free again", || {
        let log = mesh.orders.process.log_text();
        log.contains("no new process has taken over").then_some(())
    });
    ends_well(mesh.orders.upgrade("third"));
    serves(&mesh);
}

#[test]
fn when_the_old_process_dies_meanwhile_the_new_one_goes_on_alone_and_answers_those_who_waited() {
    let mut mesh = Mesh::start();
    let successor = waiting(&mut mesh, "heir");
    mesh.orders.process.kill();
    // Nobody accepts, and nobody is refused.
    let mut waiting = TcpStream::connect(mesh.orders.inbound).expect("a socket that listens");
    mesh.ca.serve();
    wait_for("the new process to go on", || {
        successor
            .log_text()
            .contains("going on without it")
            .then_some(())
    });
    mesh.orders.process = successor;
    serves(&mesh);
    waiting.write_all(b"no TLS").expect("writing");
    waiting.read_to_end(&mut Vec::new()).expect("an end");
    ends_well(mesh.orders.upgrade("next"));
}

#[test]
fn an_old_process_told_to_stop_meanwhile_takes_the_new_one_along() {
    let mut mesh = Mesh::start();
    let mut successor = waiting(&mut mesh, "late");
    mesh.orders.process.signal(Signal::TERM);
    let status = wait_for("the old process to end", || {
        mesh.orders.process.child.try_wait().expect("our child")
    });
    assert!(status.success(), "{status}");
    mesh.ca.serve();
    let status = wait_for("the new process to end", || {
        successor.child.try_wait().expect("our child")
    });
    assert_eq!(status.code(), Some(2), "{}", successor.log_text());
    assert!(successor.log_text().contains("keeps its sockets"));
}
