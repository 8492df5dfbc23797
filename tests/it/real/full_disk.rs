//! A CA whose disk is full: a file system of its own, in a mount namespace of its own, filled to the brim.

use super::run_ok;
use crate::harness::http::get;
use crate::harness::{Process, free_address, path, tipstaff_ok, wait_for};
use std::process::Command;
use tempfile::TempDir;

#[test]
fn a_ca_on_a_full_disk_is_not_ready_until_there_is_room_again() {
    let folder = TempDir::new().expect("a folder");
    let made = folder.path().join("ca");
    tipstaff_ok(&[
        "ca",
        "init",
        "--dir",
        path(&made),
        "--trust-domain",
        "test.example",
    ]);
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).expect("a folder");
    let (listen, admin) = (free_address(), free_address());
    let script = format!(
        "mount -t tmpfs -o size=8m none {disk} && cp -a {made} {disk}/ca && exec {tipstaff} ca serve --dir {disk}/ca --listen {listen} --admin-listen {admin}",
        disk = disk.display(),
        made = made.display(),
        tipstaff = env!("CARGO_BIN_EXE_tipstaff"),
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", &script]);
    let process = Process::start(command, folder.path().join("ca.log"));
    let ready = || get(admin, "/ready");
    let status = |wanted| {
        move |reply: crate::harness::http::Reply| (reply.status == wanted).then_some(reply.body)
    };
    wait_for("the CA to be ready", || ready().and_then(status(200)));

    // The namespace's files, seen from outside.
    let filler = format!("/proc/{}/root{}/filler", process.child.id(), disk.display());
    let fill = format!("cat /dev/zero > {filler} 2>/dev/null || true");
    run_ok("sh", &["-c", &fill]);
    let reason = wait_for("the CA not to be ready", || ready().and_then(status(503)));
    assert!(reason.contains("the ledger cannot be written"), "{reason}");
    assert!(reason.contains("full"), "{reason}");
    std::fs::remove_file(&filler).expect("it is ours");
    wait_for("the CA to be ready again", || ready().and_then(status(200)));
}
