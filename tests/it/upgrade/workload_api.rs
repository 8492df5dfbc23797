use super::broken_off::waiting;
use super::ends_well;
use crate::harness::{Mesh, wait_for};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Tells the sockets of two processes at the same path apart.
fn file(socket: &Path) -> Option<u64> {
    UnixStream::connect(socket).ok()?;
    Some(std::fs::metadata(socket).ok()?.ino())
}

/// The new process took the socket when it started, and answered `Unavailable` for as long as it had no certificate.
#[test]
fn workloads_find_the_old_process_until_the_new_one_has_a_certificate_for_them() {
    let mut mesh = Mesh::start();
    let socket = mesh.folder.path().join("workload/api.sock");
    let config = std::fs::read_to_string(&mesh.orders.config).expect("a configuration");
    let text = format!(
        "{config}workloadApi: {{socket: \"{}\"}}\n",
        socket.display()
    );
    std::fs::write(&mesh.orders.config, text).expect("writing");
    ends_well(mesh.orders.upgrade("with-api"));
    let before = file(&socket).expect("it is bound before the old process lets go");

    let successor = waiting(&mut mesh, "waits");
    // It is bound within the same moment in which the process says that it listens, if it is bound at once.
    let looks = std::iter::repeat_with(|| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        file(&socket)
    });
    for found in looks.take(25) {
        assert_eq!(found, Some(before), "{}", successor.log_text());
    }
    mesh.ca.serve();
    wait_for("the new process to have taken over", || {
        let log = successor.log_text();
        log.contains("taken over from").then_some(())
    });
    let after = file(&socket).expect("a socket");
    assert_ne!(after, before, "it is the new one's");
    ends_well(std::mem::replace(&mut mesh.orders.process, successor));
    assert_eq!(file(&socket), Some(after), "and stays");
}
