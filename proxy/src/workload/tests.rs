use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::*;

/// Any user but ours; only root can become another, so without it the allowed uid is the one that differs.
const OTHER_UID: u32 = 65_534;

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn admit(listener: &TcpListener, workload: &Workload) -> Result<Hops, Stranger> {
    let (accepted, peer) = listener.accept().unwrap();
    workload.admit_tcp(peer, accepted.local_addr().unwrap())
}

#[test]
fn own_user_is_admitted_over_both_address_families() {
    for address in ["127.0.0.1:0", "127.0.0.9:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).unwrap();
        let _caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(
            admit(&listener, &Workload::new(vec![own_uid()])).is_ok(),
            "{address}"
        );
    }
}

/// Programs that use one IPv6 socket for every peer were once refused: the kernel reports their addresses as mapped ones.
#[test]
fn own_user_is_admitted_from_a_dual_stack_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let _caller = TcpStream::connect(format!("[::ffff:127.0.0.1]:{port}")).unwrap();
    assert!(admit(&listener, &Workload::new(vec![own_uid()])).is_ok());
}

/// By any process of this machine: it used to be remembered by the one that had connected.
#[tokio::test]
async fn a_connection_of_a_sidecar_says_over_both_address_families_how_far_it_has_come() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).unwrap();
        let to = listener.local_addr().unwrap();
        let workload = Workload::new(vec![own_uid()]);
        for hops in [1, 3, 16] {
            let connected = crate::hops::connect(&to.into(), Hops::of(hops)).await;
            let admitted = admit(&listener, &workload);
            assert_eq!(admitted.unwrap(), Hops::of(hops), "{address}");
            drop(connected.unwrap());
        }
        let _caller = TcpStream::connect(to).unwrap();
        let admitted = admit(&listener, &workload);
        assert_eq!(admitted.unwrap(), Hops::default(), "{address}");
    }
}

#[test]
fn user_that_is_not_listed_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let refused = admit(&listener, &Workload::new(vec![OTHER_UID]));
    assert!(
        matches!(refused, Err(Stranger::Uid { found, .. }) if found == own_uid()),
        "{refused:?}"
    );
}

#[test]
fn process_of_another_user_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; read -r _");
    // Without root nobody can become another user; then the process is one of ours, and that is told as well.
    let caller_uid = if own_uid() == 0 { OTHER_UID } else { own_uid() };
    let mut command = Command::new("bash");
    command
        .args(["-c", &connect])
        .uid(caller_uid)
        .stdin(Stdio::piped());
    let mut caller = command.spawn().unwrap();
    let (accepted, peer) = listener.accept().unwrap();
    let owner = sock_diag::owner(peer, accepted.local_addr().unwrap());
    drop(caller.stdin.take());
    caller.wait().unwrap();
    let owner = owner.unwrap().expect("it is open");
    assert_eq!((owner.uid, owner.traffic_class), (caller_uid, 0));
}

#[test]
fn caller_that_has_closed_its_socket_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    // Uid 0 is what the kernel says of a socket that nobody owns.
    let refused = admit(&listener, &Workload::new(vec![own_uid(), 0]));
    assert!(matches!(refused, Err(Stranger::Unknown(_))), "{refused:?}");
}

#[test]
fn listener_on_the_callers_port_does_not_answer_for_it() {
    let ours = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = "127.0.0.1:9".parse().unwrap();
    assert_eq!(
        sock_diag::owner(ours.local_addr().unwrap(), nobody).unwrap(),
        None
    );
}

#[tokio::test]
async fn unix_caller_is_admitted_by_uid() {
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let ours = UnixStream::from_std(ours).unwrap();
    assert!(Workload::new(vec![own_uid()]).admit_unix(&ours).is_ok());
    assert!(matches!(
        Workload::new(vec![OTHER_UID]).admit_unix(&ours),
        Err(Stranger::Uid { .. })
    ));
    drop(theirs);
}
