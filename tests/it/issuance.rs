//! The CA as a process: enrolment over restarts, stolen tokens, and a CA that is killed while it issues.

use crate::harness::{
    Ca, Mesh, Options, Process, STOREFRONT, free_address, path, tipstaff, tipstaff_ok, wait_for,
};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

#[test]
fn a_killed_sidecar_starts_again_without_a_new_token_and_a_copied_token_is_refused() {
    let mesh = Mesh::start();
    let mut first = mesh.caller("reader", STOREFRONT, &Options::default());
    let before = first.serial();
    first.process.kill();

    let again = Process::tipstaff(
        &["proxy", "--config", path(&first.config)],
        mesh.folder.path().join("reader.log"),
    );
    wait_for("the restarted sidecar", || first.ready().then_some(()));
    assert_ne!(
        first.serial(),
        before,
        "a new key and a new certificate at each start"
    );
    drop(again);

    // A thief has the token and the configuration, but not the enrolment key.
    let refusals = || {
        let records = tipstaff_ok(&["ca", "audit", "list", "--dir", path(&mesh.ca.dir)]);
        records
            .lines()
            .filter(|line| line.contains("refused"))
            .count()
    };
    assert_eq!(refusals(), 0);
    let config = std::fs::read_to_string(&first.config).expect("the configuration");
    let stolen = config
        .replace("reader.key", "thief.key")
        .replace("reader.sock", "thief.sock");
    let file = mesh.folder.path().join("thief.yaml");
    std::fs::write(&file, stolen).expect("a file");
    let thief = Process::tipstaff(
        &["proxy", "--config", path(&file)],
        mesh.folder.path().join("thief.log"),
    );
    wait_for("the refusal in the thief's log", || {
        thief
            .log_text()
            .contains("another enrolment key")
            .then_some(())
    });
    assert!(!first.ready(), "the thief's sidecar has no identity");
    assert!(refusals() > 0, "the attempt is on record");
}

#[test]
fn killed_fifty_times_while_issuing_the_ca_leaves_no_duplicate_serial_and_no_certificate_without_record()
 {
    let folder = tempfile::TempDir::new().expect("a folder");
    let mut ca = Ca::start(folder.path());
    let policy = folder.path().join("policy");
    std::fs::create_dir(&policy).expect("a folder");
    std::fs::write(policy.join("policy.yaml"), crate::harness::POLICY).expect("a policy");
    // Four sidecars with the shortest life keep asking; each also renews whenever it is told to.
    let mut sidecars = Vec::new();
    for number in 0..4 {
        let name = format!("w{number}");
        let id = format!("spiffe://test.example/ns/load/sa/{name}");
        std::fs::write(folder.path().join(format!("{name}.token")), ca.token(&id))
            .expect("a token");
        let admin = free_address();
        let at = folder.path().display();
        let text = format!(
            "identity:\n  ca: {{endpoint: \"https://{}\", bundle: \"{}\"}}\n  attest: {{joinTokenFile: \"{at}/{name}.token\"}}\n  enrolmentKey: \"{at}/{name}.key\"\n  id: {id}\n  ttl: 5s\npolicy: {{dir: \"{at}/policy\"}}\nadmin: {{listen: \"{admin}\", socket: \"{at}/{name}.sock\"}}\n",
            ca.listen,
            ca.bundle().display(),
        );
        let config = folder.path().join(format!("{name}.yaml"));
        std::fs::write(&config, text).expect("a configuration");
        let process = Process::tipstaff(
            &["proxy", "--config", path(&config)],
            folder.path().join(format!("{name}.log")),
        );
        sidecars.push((process, admin, folder.path().join(format!("{name}.sock"))));
    }
    let mut seen = BTreeSet::new();
    for round in 0..50_u64 {
        // Not always at the same point of an issuance.
        let moment = Duration::from_millis(20 + (round * 37) % 180);
        let deadline = std::time::Instant::now() + moment;
        while std::time::Instant::now() < deadline {
            for (_, _, socket) in &sidecars {
                if let Ok(stream) = std::os::unix::net::UnixStream::connect(socket) {
                    stream
                        .set_read_timeout(Some(Duration::from_millis(200)))
                        .expect("a timeout");
                    crate::harness::http::exchange(
                        stream,
                        b"POST /rotate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                    );
                }
            }
        }
        ca.kill();
        for (_, admin, _) in &sidecars {
            let said = crate::harness::http::get(*admin, "/identity")
                .and_then(|reply| serde_json::from_str(&reply.body).ok());
            let said: serde_json::Value = said.unwrap_or_default();
            seen.extend(said["serial"].as_str().map(str::to_owned));
        }
        ca.serve();
    }
    drop(sidecars);
    // `audit verify` fails on a broken chain, a duplicate serial, and a certificate without record.
    let verified = tipstaff(&["ca", "audit", "verify", "--dir", path(&ca.dir)]);
    assert!(verified.status.success(), "{verified:?}");
    assert!(
        seen.len() >= 20,
        "too few certificates to say anything: {}",
        seen.len()
    );
    for serial in &seen {
        // Exit code 1 when the CA does not know it.
        tipstaff_ok(&["ca", "inspect", "--dir", path(&ca.dir), "--serial", serial]);
    }
}

/// It may have 8192 connections, and had as many as a shell's soft limit left it.
#[test]
fn a_low_soft_limit_on_open_files_does_not_keep_sidecars_from_the_ca() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut ca = Ca::start(folder.path());
    ca.kill();
    let listen = ca.listen.to_string();
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "ulimit -Sn 128; exec \"$0\" ca serve --dir \"$1\" --listen \"$2\"",
    ]);
    command.args([env!("CARGO_BIN_EXE_tipstaff"), path(&ca.dir), &listen]);
    let process = Process::start(command, ca.dir.with_extension("again.log"));
    wait_for("the CA to listen", || {
        std::net::TcpStream::connect(ca.listen).ok()
    });
    let [soft, hard] = process.limits_on_open_files();
    assert_eq!(soft, hard);
}
