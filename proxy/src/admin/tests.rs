mod harness;
mod upgrade;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use harness::{Harness, ID, Root, exchange};
use serde_json::Value;

use super::*;
use crate::drain::Unready;
use crate::{Failing, IdentityState};

#[test]
fn ready_while_the_identity_is_valid_and_nothing_is_waited_for() {
    let admin = Harness::start();
    let (status, detail) = admin.ready();
    assert_eq!((status, &detail["ready"]), (200, &true.into()), "{detail}");
    assert_eq!(detail["identity"]["state"], "valid");
    assert_eq!(detail["policy"]["generation"], "4fa1");
}

#[test]
fn not_ready_without_a_valid_identity() {
    let admin = Harness::start();
    admin.svid.send(None).unwrap();
    let (status, detail) = admin.ready();
    assert_eq!(
        (status, &detail["identity"]["state"]),
        (503, &"missing".into())
    );
    admin
        .svid
        .send(Some(Root::new().svid(Duration::ZERO)))
        .unwrap();
    let (status, detail) = admin.ready();
    assert_eq!(
        (status, &detail["identity"]["state"]),
        (503, &"expired".into())
    );
}

#[test]
fn not_ready_while_something_is_waited_for_or_draining() {
    let admin = Harness::start();
    let guard: Unready = admin.readiness.wait_for("listeners");
    let (status, detail) = admin.ready();
    assert_eq!(
        (status, &detail["waiting_for"][0]),
        (503, &"listeners".into())
    );
    drop(guard);
    assert_eq!(admin.ready().0, 200);
    admin.drain.start();
    let (status, detail) = admin.ready();
    assert_eq!((status, &detail["draining"]), (503, &true.into()));
}

#[test]
fn refused_reload_and_absent_ca_show_and_leave_it_ready() {
    let admin = Harness::start();
    admin
        .policy
        .send_modify(|policy| policy.last_error = Some("grants.yaml:3: unknown key".to_owned()));
    let failing = Failing {
        since: SystemTime::now(),
        error: "connection refused".to_owned(),
    };
    admin
        .identity
        .send(IdentityState {
            failing: Some(failing),
            ..IdentityState::default()
        })
        .unwrap();
    let (status, detail) = admin.ready();
    assert_eq!(status, 200);
    assert_eq!(detail["policy"]["last_error"], "grants.yaml:3: unknown key");
    assert_eq!(
        (&detail["ca"]["state"], &detail["ca"]["last_error"]),
        (&"failing".into(), &"connection refused".into())
    );
}

#[test]
fn calls_are_routed_by_path_method_and_listener() {
    let admin = Harness::start();
    for (head, expected) in [
        ("GET /live", 200),
        ("HEAD /live", 200),
        ("GET /metrics", 200),
        ("GET /config", 200),
        ("GET /identity", 200),
        ("POST /live", 405),
        ("DELETE /config", 405),
        ("POST /rotate", 403),
        ("GET /rotate", 403),
        ("GET /", 404),
        ("GET /live/", 404),
    ] {
        let (status, body) =
            admin.tcp(&format!("{head} HTTP/1.1\r\nHost: 127.0.0.1:15000\r\n\r\n"));
        assert_eq!(status, expected, "{head}: {body}");
    }
    assert_eq!(admin.unix("GET /rotate HTTP/1.1\r\nHost: x\r\n\r\n").0, 405);
}

#[test]
fn hosts_other_than_loopback_are_refused() {
    let admin = Harness::start();
    for (host, expected) in [
        ("Host: localhost:9", 200),
        ("Host: LOCALHOST.", 200),
        ("Host: 127.8.8.8", 200),
        ("Host: [::1]:15000", 200),
        ("Host: evil.test", 403),
        ("Host: 127.0.0.1.evil.test", 403),
        ("Host: localhost.evil.test", 403),
        ("Host: localhost@evil.test", 403),
        ("Host: 10.0.0.1", 403),
        ("Host: 0.0.0.0", 403),
        ("Host: localhost\r\nHost: evil.test", 403),
        ("Host:", 403),
        ("X: y", 403),
    ] {
        let (status, body) = admin.tcp(&format!("GET /live HTTP/1.1\r\n{host}\r\n\r\n"));
        assert_eq!(status, expected, "{host}: {body}");
    }
    let absolute = "GET http://evil.test/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(admin.tcp(absolute).0, 403);
}

#[test]
fn identity_shows_the_chain_and_no_key() {
    let admin = Harness::start();
    let (_, body) = admin.tcp("GET /identity HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let read: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&read["id"], &read["bundle"]["sequence"]),
        (&ID.into(), &7.into())
    );
    assert!(
        read["chain"]
            .as_str()
            .unwrap()
            .starts_with("-----BEGIN CERTIFICATE-----\nMII")
    );
    assert!(!body.contains("PRIVATE"), "{body}");
}

#[test]
fn config_shows_values_as_the_file_writes_them() {
    let admin = Harness::start();
    let (_, body) = admin.tcp("GET /config HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let read: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(read["timeouts"]["tlsHello"], "10000ms");
    assert_eq!(
        (&read["accessLog"], &read["admin"]["listen"]),
        (&"off".into(), &"127.0.0.1:0".into())
    );
}

#[test]
fn rotation_on_the_socket_reports_its_outcome() {
    let mut admin = Harness::start();
    assert_eq!(
        std::fs::metadata(&admin.socket)
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    for (outcome, expected, told) in [
        (Ok(()), 200, ID),
        (Err("CA is away".to_owned()), 502, "CA is away"),
    ] {
        let socket = admin.socket.clone();
        let asked = thread::spawn(move || {
            let stream = UnixStream::connect(socket).unwrap();
            exchange(
                stream,
                "POST /rotate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
            )
        });
        admin
            .renewals
            .blocking_recv()
            .unwrap()
            .send(outcome)
            .unwrap();
        let (status, body) = asked.join().unwrap();
        assert_eq!(status, expected, "{body}");
        assert!(body.contains(told), "{body}");
    }
}

#[test]
fn only_the_own_user_and_root_may_change_state() {
    for (peer, own, expected) in [
        (1000, 1000, true),
        (0, 1000, true),
        (0, 0, true),
        (1001, 1000, false),
        (1000, 0, false),
        (65_534, 1000, false),
    ] {
        assert_eq!(
            server::may_change_state(peer, own),
            expected,
            "{peer} {own}"
        );
    }
}

#[test]
fn idle_connections_take_no_more_than_their_places() {
    let admin = Harness::start();
    let idle: Vec<TcpStream> = (0..16)
        .map(|_| TcpStream::connect(admin.address).unwrap())
        .collect();
    let mut refused = TcpStream::connect(admin.address).unwrap();
    assert_eq!(refused.read(&mut [0; 1]).unwrap_or(0), 0);
    assert_eq!(admin.unix("GET /live HTTP/1.1\r\nHost: x\r\n\r\n").0, 200);
    drop(idle);
    let deadline = Instant::now() + Duration::from_secs(10);
    let alive = || {
        let mut stream = TcpStream::connect(admin.address).unwrap();
        let asked = stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n");
        asked
            .and_then(|()| stream.read(&mut [0; 1]))
            .is_ok_and(|read| read > 0)
    };
    while !alive() {
        assert!(Instant::now() < deadline, "places not given back");
    }
}

#[test]
fn socket_of_a_living_process_is_not_taken_over() {
    let admin = Harness::start();
    let config = config::Admin {
        listen: "127.0.0.1:0".parse().unwrap(),
        socket: Some(admin.socket.clone()),
    };
    assert!(bind(&config, &mut Inherited::default()).is_err());
    assert_eq!(admin.unix("GET /live HTTP/1.1\r\nHost: x\r\n\r\n").0, 200);
}
