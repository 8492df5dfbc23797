//! A CA that is restored from an older backup is told so by its sidecars, and goes on only by the operator's word.

use crate::harness::http::get;
use crate::harness::{Mesh, STRANGER, free_address, path, tipstaff, tipstaff_ok, wait_for};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;

const REFUSED: &str = "the CA's records were set back to an older state";

/// The file with the passphrase, and the backup that it opens.
struct Backup {
    secret: String,
    file: String,
}

impl Backup {
    fn make(mesh: &Mesh) -> Self {
        let at = |name| path(&mesh.folder.path().join(name)).to_owned();
        let backup = Self {
            secret: at("pass"),
            file: at("ca.age"),
        };
        std::fs::write(&backup.secret, "tell nobody\n").expect("a file");
        let made = ["ca", "backup", "--dir", path(&mesh.ca.dir)];
        backup.with(&made, &["--to", &backup.file]);
        backup
    }

    /// In the place of the CA, with what was revoked since.
    fn restore(&self, dir: &Path, was: &Path) {
        let restore = ["ca", "restore", "--dir", path(dir)];
        let more = ["--from", &self.file, "--revocations", path(was)];
        self.with(&restore, &more);
    }

    fn with(&self, command: &[&str], more: &[&str]) {
        let secret = ["--backup-passphrase-file", &self.secret];
        tipstaff_ok(&[command, more, &secret].concat());
    }
}

fn metric(admin: SocketAddr, name: &str) -> u64 {
    let metrics = get(admin, "/metrics").map(|reply| reply.body);
    let metrics = metrics.unwrap_or_default();
    let found = metrics.lines().find_map(|line| line.strip_prefix(name));
    found.map_or(0, |value| value.trim().parse().expect("a number"))
}

/// The record that is lost, once the CA says so.
fn lost(admin: SocketAddr) -> i64 {
    let said = wait_for("the CA to say that it was set back", || {
        let reply = get(admin, "/ready")?;
        (reply.status == 503 && reply.body.contains("--accept-rollback")).then_some(reply.body)
    });
    let (_, rest) = said
        .split_once("--accept-rollback ")
        .expect("what to accept");
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

/// Serves anew, and says so or not of the rollback.
fn serve(mesh: &mut Mesh, admin: SocketAddr, accepted: Option<i64>) {
    mesh.ca.kill();
    mesh.ca.more = vec!["--admin-listen".to_owned(), admin.to_string()];
    if let Some(seq) = accepted {
        mesh.ca.more.push("--accept-rollback".to_owned());
        mesh.ca.more.push(seq.to_string());
    }
    mesh.ca.serve();
}

fn is_refused(mesh: &Mesh) {
    wait_for("the CA to refuse, and why", || {
        let reply = mesh.storefront.rotate();
        assert_ne!(reply.status, 200, "{}", reply.body);
        reply.body.contains(REFUSED).then_some(())
    });
}

fn is_renewed(mesh: &Mesh) {
    wait_for("a certificate", || {
        (mesh.storefront.rotate().status == 200).then_some(())
    });
}

/// What the audit records of a kind say.
fn of(mesh: &Mesh, kind: &str) -> Vec<Value> {
    let list = ["ca", "audit", "list", "--dir", path(&mesh.ca.dir)];
    let records = tipstaff_ok(&[&list[..], &["--output", "json"]].concat());
    let records: Vec<Value> = serde_json::from_str(&records).expect("JSON");
    let of_kind = records.into_iter().filter(|record| record["kind"] == kind);
    of_kind.map(|record| record["fields"].clone()).collect()
}

#[test]
fn a_ca_restored_from_an_older_backup_issues_nothing_until_the_lost_record_is_named() {
    let mut mesh = Mesh::start();
    let admin = free_address();
    let backup = Backup::make(&mesh);
    // A start records the server's certificate and signs where the ledger ends; a sidecar that has just started knows no other
    // end than that.
    serve(&mut mesh, admin, None);
    mesh.storefront.restart();
    wait_for("it to be ready", || mesh.storefront.ready().then_some(()));
    wait_for("a sidecar to have brought what it remembers", || {
        mesh.storefront.rotate();
        let known = "tipstaff_ca_ledger_heads_total{head=\"known\"}";
        (metric(admin, known) > 0).then_some(())
    });
    let dir = mesh.ca.dir.clone();
    tipstaff_ok(&["ca", "revoke", "--dir", path(&dir), "--id", STRANGER]);

    mesh.ca.kill();
    let was = dir.with_extension("was");
    std::fs::rename(&dir, &was).expect("renaming");
    backup.restore(&dir, &was);
    mesh.ca.serve();
    is_refused(&mesh);
    let seq = lost(admin);
    let refusals = "tipstaff_ca_refusals_total{reason=\"rolled_back\"}";
    assert!(metric(admin, refusals) > 0);
    assert!(
        mesh.ca.log_text().contains("the ledger was set back"),
        "{}",
        mesh.ca.log_text()
    );
    let csr = mesh.folder.path().join("by-hand.csr");
    let key = rcgen::KeyPair::generate().expect("a key");
    let request = rcgen::CertificateParams::default().serialize_request(&key);
    std::fs::write(&csr, request.expect("a request").der()).expect("a file");
    let issue = ["ca", "issue", "--dir", path(&dir), "--id", STRANGER];
    let output = tipstaff(&[&issue[..], &["--csr", path(&csr)]].concat());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("--accept-rollback {seq}")), "{said}");

    for (times, wrong) in [seq - 1, seq + 1].into_iter().enumerate() {
        serve(&mut mesh, admin, Some(wrong));
        is_refused(&mesh);
        assert_eq!(lost(admin), seq);
        let said = "nothing is accepted, and nothing issued";
        assert_eq!(mesh.ca.log_text().matches(said).count(), times + 1);
    }
    assert!(of(&mesh, "rollback_accepted").is_empty());

    serve(&mut mesh, admin, Some(seq));
    is_renewed(&mesh);
    wait_for("the CA to be ready", || {
        (get(admin, "/ready")?.status == 200).then_some(())
    });
    for kind in ["rollback_found", "rollback_accepted"] {
        let of_kind = of(&mesh, kind);
        assert_eq!(of_kind.len(), 1, "{kind}: {of_kind:?}");
        assert_eq!(of_kind[0]["seq"], seq, "{kind}");
    }
    let restored = of(&mesh, "restored");
    assert_eq!(restored[0]["revocations"], 1, "{restored:?}");
    let revoked = tipstaff_ok(&["ca", "list", "--dir", path(&dir), "--revoked"]);
    assert!(revoked.contains(STRANGER), "{revoked}");

    // What is accepted stays so, with the option left in place and without it.
    for accepted in [Some(seq), None] {
        serve(&mut mesh, admin, accepted);
        is_renewed(&mesh);
    }
    let verified = tipstaff(&["ca", "audit", "verify", "--dir", path(&dir)]);
    assert!(verified.status.success(), "{verified:?}");
    assert_eq!(mesh.storefront.call("GET", "/api/v1/orders/7").status, 200);
}
