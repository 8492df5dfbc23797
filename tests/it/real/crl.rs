//! What is revoked as others learn it: the CRL fetched over HTTP, openssl and GnuTLS as the judges.

use super::linters::lint_crl;
use super::{Credentials, run, run_ok};
use crate::harness::{Ca, ORDERS, Process, STOREFRONT, free_address, path, tipstaff_ok, wait_for};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A CA with a CRL, and where that is.
fn start(folder: &Path) -> (Ca, SocketAddr) {
    let (dir, listen, crl) = (folder.join("ca"), free_address(), free_address());
    let config = folder.join("ca.yaml");
    let text = format!(
        "dir: {}\nlisten: {listen}\ncrl: {{listen: {crl}}}\n",
        dir.display()
    );
    std::fs::write(&config, text).expect("a file");
    let config = ["--config", path(&config)];
    let init = ["ca", "init", "--trust-domain", "test.example"];
    tipstaff_ok(&[&init[..], &config].concat());
    let serve = [&["ca", "serve"][..], &config].concat();
    let process = Process::tipstaff(&serve, folder.join("ca.log"));
    wait_for("the CA to listen", || {
        std::net::TcpStream::connect(listen).ok()
    });
    (Ca::of(dir, listen, process), crl)
}

/// The present list as PEM.
fn fetch(folder: &Path, from: SocketAddr) -> PathBuf {
    let (der, pem) = (folder.join("crl.der"), folder.join("crl.pem"));
    let url = format!("http://{from}/crl");
    run_ok("curl", &["-sSf", "-o", path(&der), &url]);
    let files = ["-in", path(&der), "-out", path(&pem)];
    run_ok(
        "openssl",
        &[&["crl", "-inform", "DER"], &files[..]].concat(),
    );
    pem
}

fn serial(chain: &Path) -> String {
    let printed = run_ok(
        "openssl",
        &["x509", "-noout", "-serial", "-in", path(chain)],
    );
    let serial = printed.trim().strip_prefix("serial=");
    serial.expect("a serial").to_lowercase()
}

#[test]
fn openssl_refuses_what_our_list_revokes_and_passes_the_rest() {
    let folder = TempDir::new().expect("a folder");
    let (ca, from) = start(folder.path());
    let of = |name, id| Credentials::issue(&ca, folder.path(), name, id).chain;
    let (kept, gone) = (of("kept", STOREFRONT), of("gone", ORDERS));
    let verify = |list: &Path, chain: &Path| {
        let bundle = ca.bundle();
        let (trusted, given) = (["-CAfile", path(&bundle)], ["-untrusted", path(chain)]);
        let checks = ["-x509_strict", "-crl_check", "-CRLfile", path(list)];
        let verify = ["verify"];
        let all = [&verify[..], &checks, &trusted, &given, &[path(chain)]];
        run("openssl", &all.concat())
    };
    // An empty list is one, too.
    let list = fetch(folder.path(), from);
    for chain in [&kept, &gone] {
        let verdict = verify(&list, chain);
        assert!(verdict.status.success(), "{verdict:?}");
    }

    let serial = serial(&gone);
    let dir = ["--dir", path(&ca.dir)];
    let revoke = ["ca", "revoke", "--serial", &serial];
    tipstaff_ok(&[&revoke[..], &dir, &["--reason", "key-compromise"]].concat());
    let list = wait_for("the certificate to be on the list", || {
        let list = fetch(folder.path(), from);
        let text = run_ok("openssl", &["crl", "-noout", "-text", "-in", path(&list)]);
        text.contains(&serial.to_uppercase()).then_some(list)
    });
    let verdict = verify(&list, &kept);
    assert!(verdict.status.success(), "{verdict:?}");
    let verdict = verify(&list, &gone);
    assert!(!verdict.status.success(), "{verdict:?}");
    let said = String::from_utf8_lossy(&verdict.stderr);
    assert!(said.contains("certificate revoked"), "{said}");
    assert_eq!(lint_crl(&list), [""; 0]);

    // The list is the intermediate's word and nobody else's.
    let signer = ca.dir.join("intermediate.pem");
    let of = |signer: &Path| {
        let check = ["crl", "-verify", "-noout", "-in", path(&list)];
        let output = run(
            "openssl",
            &[&check[..], &["-CAfile", path(signer)]].concat(),
        );
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(of(&signer).contains("verify OK"), "{}", of(&signer));
    assert!(!of(&ca.bundle()).contains("verify OK"));
}
