//! openssl as the client and as the judge of our chains.

use super::{Credentials, run, run_ok};
use crate::harness::{Mesh, STOREFRONT, path};
use std::path::Path;
use std::process::{Command, Stdio};

fn s_client(mesh: &Mesh, credentials: Option<&Credentials>, more: &[&str]) -> String {
    let address = mesh.orders.inbound.to_string();
    let mut command = Command::new("openssl");
    command
        .args([
            "s_client",
            "-connect",
            &address,
            "-CAfile",
            path(&mesh.ca.bundle()),
        ])
        .args(more);
    if let Some(Credentials { key, chain }) = credentials {
        command.args([
            "-cert",
            path(chain),
            "-key",
            path(key),
            "-cert_chain",
            path(chain),
        ]);
    }
    let output = command.stdin(Stdio::null()).output().expect("openssl runs");
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn s_client_completes_tls_1_3_and_gets_no_session_ticket() {
    let mesh = Mesh::start();
    let credentials = Credentials::issue(&mesh.ca, mesh.folder.path(), "client", STOREFRONT);
    let said = s_client(&mesh, Some(&credentials), &["-tls1_3", "-alpn", "h2"]);
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    assert!(said.contains("ALPN protocol: h2"), "{said}");
    assert!(!said.contains("TLS session ticket:"), "{said}");
}

#[test]
fn s_client_with_an_older_tls_is_refused() {
    let mesh = Mesh::start();
    let credentials = Credentials::issue(&mesh.ca, mesh.folder.path(), "client", STOREFRONT);
    let said = s_client(&mesh, Some(&credentials), &["-tls1_2"]);
    assert!(
        said.contains("alert protocol version") || said.contains("handshake failure"),
        "{said}"
    );
}

#[test]
fn chains_pass_the_strict_verification() {
    let mesh = Mesh::start();
    let credentials = Credentials::issue(&mesh.ca, mesh.folder.path(), "client", STOREFRONT);
    let (bundle, chain) = (mesh.ca.bundle(), path(&credentials.chain));
    for purpose in ["sslclient", "sslserver"] {
        let arguments = [
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            path(&bundle),
            "-untrusted",
            chain,
            chain,
        ];
        assert!(run_ok("openssl", &arguments).contains("OK"), "{purpose}");
    }
    let gnutls = |root: &Path| {
        let files = ["--load-ca-certificate", path(root), "--infile", chain];
        run(
            "certtool",
            &[&["--verify", "--verify-profile", "high"], &files[..]].concat(),
        )
    };
    assert!(gnutls(&bundle).status.success(), "{:?}", gnutls(&bundle));
    // And an unrelated root does not verify it: the check can fail.
    let other = mesh.folder.path().join("other");
    crate::harness::tipstaff_ok(&[
        "ca",
        "init",
        "--dir",
        path(&other),
        "--trust-domain",
        "test.example",
    ]);
    let foreign = other.join("ca-bundle.pem");
    let arguments = [
        "verify",
        "-x509_strict",
        "-CAfile",
        path(&foreign),
        "-untrusted",
        chain,
        chain,
    ];
    assert!(!run("openssl", &arguments).status.success());
    assert!(!gnutls(&foreign).status.success());
}
