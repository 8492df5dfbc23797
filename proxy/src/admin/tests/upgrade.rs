//! What another process gets when it asks for the listening sockets.

use super::harness::Harness;
use crate::handover::{AskError, Predecessor, RelieveError};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
const ASK: &str = "POST /upgrade HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: tipstaff-listeners-2\r\n\r\n";
const LIVE: &str = "GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The sockets are free again a moment after whoever asked before has gone.
fn ask_again(admin: &Harness) -> Predecessor {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Predecessor::ask(&admin.socket) {
            Ok((predecessor, _)) => return predecessor,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
    }
}

#[test]
fn a_process_that_is_ready_gets_everything_and_is_answered_by_nobody_else() {
    let mut admin = Harness::start();
    let (predecessor, mut sockets) = Predecessor::ask(&admin.socket).unwrap();
    predecessor.relieve().unwrap();
    // It says so first, and then stops.
    let deadline = Instant::now() + PATIENCE;
    while !admin.drain.is_started() {
        assert!(Instant::now() < deadline, "the old side goes on");
        std::thread::yield_now();
    }
    let tcp = sockets.tcp(admin.address).pop().unwrap();
    let unix = sockets.unix(&admin.socket).unwrap();
    // The old side takes nothing any more once it has said so; what it had accepted before is not ours to see.
    let _ = (tcp.set_nonblocking(false), unix.set_nonblocking(false));
    drop(admin.running.take());
    let mut client = UnixStream::connect(&admin.socket).unwrap();
    client.write_all(b"x").unwrap();
    unix.accept().unwrap().0.read_exact(&mut [0]).unwrap();
    let mut client = TcpStream::connect(admin.address).unwrap();
    client.write_all(b"x").unwrap();
    tcp.accept().unwrap().0.read_exact(&mut [0]).unwrap();
}

#[test]
fn of_two_that_ask_the_second_is_told_why_not() {
    let admin = Harness::start();
    let (first, _sockets) = Predecessor::ask(&admin.socket).unwrap();
    match Predecessor::ask(&admin.socket) {
        Err(AskError::Refused(reason)) => {
            assert_eq!(reason, "another process is taking over already");
        }
        other => panic!("{other:?}"),
    }
    first.relieve().unwrap();
}

#[test]
fn whoever_says_something_else_or_leaves_changes_nothing() {
    let admin = Harness::start();
    for (name, said) in [
        ("nothing", &b""[..]),
        ("garbage", b"\xFF\xFF\xFF\xFF"),
        ("the other side's word", b"d"),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n"),
    ] {
        let predecessor = ask_again(&admin);
        (&predecessor.stream).write_all(said).unwrap();
        drop(predecessor);
        assert_eq!(admin.tcp(LIVE).0, 200, "{name}");
        assert!(!admin.drain.is_started(), "{name}");
    }
    // Before it was asked to speak.
    let mut hasty = UnixStream::connect(&admin.socket).unwrap();
    hasty.write_all(format!("{ASK}r").as_bytes()).unwrap();
    hasty.set_read_timeout(Some(PATIENCE)).unwrap();
    hasty.read_to_end(&mut Vec::new()).unwrap();
    assert!(!admin.drain.is_started());
    ask_again(&admin).relieve().unwrap();
}

#[test]
fn a_process_told_to_stop_keeps_its_sockets_and_says_so() {
    let admin = Harness::start();
    let (predecessor, _sockets) = Predecessor::ask(&admin.socket).unwrap();
    admin.drain.start();
    assert!(matches!(predecessor.relieve(), Err(RelieveError::Kept)));
    assert!(admin.handover.is_owner());
    assert!(matches!(
        Predecessor::ask(&admin.socket),
        Err(AskError::Refused(reason)) if reason == "this process is about to stop"
    ));
}

#[test]
fn a_request_for_another_conversation_or_from_a_port_is_refused() {
    let admin = Harness::start();
    let other = ASK.replace("listeners-2", "listeners-1");
    let (status, body) = admin.unix(&other);
    assert_eq!(status, 409);
    assert!(body.contains("tipstaff-listeners-2"), "{body}");
    let from_port = ASK.replace("Host: x", "Host: localhost");
    assert_eq!(admin.tcp(&from_port).0, 403);
    assert!(matches!(
        Predecessor::ask(&admin.socket.with_extension("none")),
        Err(AskError::Nobody { .. })
    ));
}
