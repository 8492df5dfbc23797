//! Backups beside a running CA, opened by `age` and `tar` as well as by ourselves.

use super::run_ok;
use crate::harness::{Ca, Mesh, Options, Process, free_address, path, tipstaff_ok, wait_for};
use std::path::Path;
use tempfile::TempDir;

/// Types a passphrase into a program that asks for one on its terminal, and ends as it does.
const TYPE_PASSPHRASE: &str = "
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
asked = b''
while b':' not in asked:
    asked += os.read(terminal, 1024)
os.write(terminal, sys.argv[1].encode() + b'\\n')
try:
    while os.read(terminal, 1024):
        pass
except OSError:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

fn serve(dir: &Path) -> Ca {
    let listen = free_address();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tipstaff"));
    command.args([
        "ca",
        "serve",
        "--dir",
        path(dir),
        "--listen",
        &listen.to_string(),
    ]);
    let process = Process::start(command, dir.with_extension("log"));
    wait_for("the CA to listen", || {
        std::net::TcpStream::connect(listen).ok()
    });
    Ca::of(dir.to_owned(), listen, process)
}

#[test]
fn a_backup_made_beside_a_running_ca_opens_with_age_and_tar_and_serves_when_restored() {
    let mesh = Mesh::start();
    let folder = TempDir::new().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("pass"), "tell nobody\n").expect("a file");
    let (backup, pass) = (file("ca.age"), file("pass"));
    let secret = ["--backup-passphrase-file", path(&pass)];
    let made = [
        "ca",
        "backup",
        "--dir",
        path(&mesh.ca.dir),
        "--to",
        path(&backup),
    ];
    tipstaff_ok(&[&made[..], &secret].concat());

    let tar = file("ca.tar");
    let typed = [
        "-c",
        TYPE_PASSPHRASE,
        "tell nobody",
        "age",
        "-d",
        "-o",
        path(&tar),
        path(&backup),
    ];
    run_ok("python3", &typed);
    let listed = run_ok("tar", &["--list", "--verbose", "--file", path(&tar)]);
    for name in ["backup.json", "ca.db", "intermediate.key", "root.pem"] {
        assert!(listed.contains(name), "{listed}");
    }
    let keys = run_ok(
        "tar",
        &[
            "--extract",
            "--to-stdout",
            "--file",
            path(&tar),
            "intermediate.key",
        ],
    );
    assert!(
        keys.contains("cipher: aes-256-gcm-siv"),
        "keys stay sealed: {keys}"
    );

    // A file that age made is read as well.
    let again = file("again.age");
    let sealed = "import sys, pty, os\npid, t = pty.fork()\nif pid == 0: os.execvp('age', ['age', '-p', '-o', sys.argv[2], sys.argv[3]])\nseen = b''\nfor n in (1, 2):\n    while seen.count(b':') < n: seen += os.read(t, 1024)\n    os.write(t, sys.argv[1].encode() + b'\\n')\ntry:\n    while os.read(t, 1024): pass\nexcept OSError: pass\nsys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n";
    run_ok(
        "python3",
        &["-c", sealed, "tell nobody", path(&again), path(&tar)],
    );
    let restored = file("restored");
    let arguments = [
        "ca",
        "restore",
        "--dir",
        path(&restored),
        "--from",
        path(&again),
    ];
    tipstaff_ok(&[&arguments[..], &secret].concat());

    let other = TempDir::new().expect("a folder");
    let mesh = Mesh::under(serve(&restored), other, &Options::default());
    assert_eq!(mesh.storefront.call("GET", "/api/v1/orders/7").status, 200);
}
