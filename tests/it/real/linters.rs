//! The verdict of pkilint, openssl and GnuTLS on every kind of certificate we make.

use super::{Credentials, python, run, run_ok};
use crate::harness::{Ca, Mesh, Process, STOREFRONT, free_address, path, tipstaff_ok, wait_for};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// pkilint does not know that a URI without a port or dots may be `spiffe:`; this is its one expected finding.
const EXPECTED: &str = "spiffe";

const END: &str = "-----END CERTIFICATE-----\n";

/// Has all three judge the leaf in `chain`, which leads to `root`; pkilint every certificate of both but the foreign ones.
pub(super) fn judge(folder: &Path, root: &Path, chain: &Path, foreign: &[&Path]) {
    for purpose in ["sslclient", "sslserver"] {
        let verify = ["verify", "-x509_strict", "-purpose", purpose];
        let files = [
            "-CAfile",
            path(root),
            "-untrusted",
            path(chain),
            path(chain),
        ];
        let said = run_ok("openssl", &[&verify[..], &files].concat());
        assert!(said.contains("OK"), "{said}");
    }
    let trusted = ["--verify", "--load-ca-certificate", path(root)];
    let said = run_ok(
        "certtool",
        &[&trusted[..], &["--infile", path(chain)]].concat(),
    );
    let verdict = "Chain verification output: Verified. The certificate is trusted.";
    assert!(said.contains(verdict), "{said}");

    let read = |file: &Path| std::fs::read_to_string(file).expect("certificates");
    let foreign: Vec<String> = foreign.iter().map(|file| read(file)).collect();
    let all = read(chain) + &read(root);
    let ours = all
        .split_inclusive(END)
        .filter(|pem| !foreign.iter().any(|one| one.contains(pem.trim())));
    for (number, pem) in ours.enumerate() {
        let file = folder.join(format!("lint-{number}.pem"));
        std::fs::write(&file, pem).expect("a file");
        let unexpected: Vec<_> = lint(&file)
            .into_iter()
            .filter(|finding| !finding.contains(EXPECTED))
            .collect();
        assert!(unexpected.is_empty(), "{pem}: {unexpected:?}");
    }
}

/// How many certificates are in a file.
fn count(file: &Path) -> usize {
    let text = std::fs::read_to_string(file).expect("certificates");
    text.matches(END).count()
}

/// What a TLS server sends of itself.
fn sent_by(folder: &Path, address: &str, more: &[&str]) -> PathBuf {
    let connect = ["s_client", "-showcerts", "-connect", address];
    let output = run("openssl", &[&connect[..], more].concat());
    let said = String::from_utf8_lossy(&output.stdout);
    let mut chain = String::new();
    for part in said.split_inclusive(END) {
        if let Some(begin) = part.find("-----BEGIN CERTIFICATE-----") {
            chain += &part[begin..];
        }
    }
    // s_client repeats none of them.
    let file = folder.join("sent.pem");
    std::fs::write(&file, chain).expect("a file");
    file
}

#[test]
fn root_intermediate_and_what_an_operator_is_issued_pass() {
    let mesh = Mesh::start();
    let leaf = Credentials::issue(&mesh.ca, mesh.folder.path(), "leaf", STOREFRONT);
    assert_eq!(count(&leaf.chain), 2, "leaf and intermediate");
    judge(mesh.folder.path(), &mesh.ca.bundle(), &leaf.chain, &[]);
}

#[test]
fn what_has_host_names_passes_and_is_good_for_those() {
    let mesh = Mesh::start();
    let folder = mesh.folder.path();
    let names = ["storefront.shop", "www.shop.example"];
    let leaf = Credentials::issue_naming(&mesh.ca, folder, ("named", STOREFRONT), &names);
    let (bundle, chain) = (mesh.ca.bundle(), path(&leaf.chain));
    judge(folder, &bundle, &leaf.chain, &[]);
    for name in names {
        let strict = ["verify", "-x509_strict", "-verify_hostname", name];
        let files = ["-CAfile", path(&bundle), "-untrusted", chain, chain];
        run_ok("openssl", &[&strict[..], &files].concat());
    }
    let shown = ["x509", "-noout", "-ext", "subjectAltName", "-in", chain];
    let shown = run_ok("openssl", &shown);
    let expected = format!("URI:{STOREFRONT}, DNS:storefront.shop, DNS:www.shop.example\n");
    assert!(shown.ends_with(&expected), "{shown}");
}

#[test]
fn what_a_sidecar_enrolled_for_and_the_cas_own_certificate_pass() {
    let mesh = Mesh::start();
    let folder = mesh.folder.path();
    let client = Credentials::issue(&mesh.ca, folder, "client", STOREFRONT);
    let (key, chain) = (path(&client.key), path(&client.chain));
    let shown = ["-cert", chain, "-key", key, "-cert_chain", chain];
    let listeners = [mesh.orders.inbound, mesh.ca.listen].map(|address| address.to_string());
    for address in listeners {
        let sent = sent_by(folder, &address, &shown);
        assert_eq!(count(&sent), 2, "leaf and intermediate of {address}");
        judge(folder, &mesh.ca.bundle(), &sent, &[]);
    }
}

#[test]
fn what_a_root_without_an_intermediate_signs_passes() {
    let folder = TempDir::new().expect("a folder");
    let (dir, listen) = (folder.path().join("ca"), free_address());
    let init = ["ca", "init", "--dir", path(&dir), "--trust-domain"];
    tipstaff_ok(&[&init[..], &["test.example", "--no-intermediate"]].concat());
    let address = listen.to_string();
    let serve = ["ca", "serve", "--dir", path(&dir), "--listen", &address];
    let process = Process::tipstaff(&serve, folder.path().join("ca.log"));
    wait_for("the CA to listen", || {
        std::net::TcpStream::connect(listen).ok()
    });
    let ca = Ca::of(dir, listen, process);
    let leaf = Credentials::issue(&ca, folder.path(), "leaf", STOREFRONT);
    assert_eq!(count(&leaf.chain), 1);
    judge(folder.path(), &ca.bundle(), &leaf.chain, &[]);
}

/// One line a finding of severity NOTICE or above on a certificate.
fn lint(file: &Path) -> Vec<String> {
    findings("pkilint.bin.lint_pkix_cert", &[], file)
}

/// The same on a CRL.
pub(super) fn lint_crl(file: &Path) -> Vec<String> {
    findings("pkilint.bin.lint_crl", &["-t", "CRL", "-p", "PKIX"], file)
}

fn findings(linter: &str, of: &[&str], file: &Path) -> Vec<String> {
    let output = python()
        .args(["-m", linter, "lint", "-s", "NOTICE", "-f", "CSV"])
        .args(of)
        .arg(file)
        .output()
        .expect("pkilint runs");
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines()
        .skip(1)
        .filter(|line| !line.trim().is_empty())
        .map(str::to_owned)
        .collect()
}
