//! A root that openssl holds, offline as far as we are concerned.

use super::linters::judge;
use super::{Credentials, run_ok};
use crate::harness::{
    Ca, Mesh, Options, Process, STOREFRONT, free_address, path, tipstaff, tipstaff_ok, wait_for,
};
use std::path::PathBuf;
use tempfile::TempDir;

/// A root, and a CA whose request it has signed.
struct Offline {
    folder: TempDir,
}

impl Offline {
    /// The root constrains what it signs by `extensions` in openssl's words.
    fn new(extensions: &str) -> Self {
        let offline = Self {
            folder: TempDir::new().expect("a folder"),
        };
        let dir = offline.file("ca");
        let request = tipstaff_ok(&[
            "ca",
            "init",
            "--dir",
            path(&dir),
            "--trust-domain",
            "test.example",
            "--external-root",
        ]);
        std::fs::write(offline.file("request.pem"), request).expect("a file");
        let settings = format!(
            "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n\
             subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\nsubjectAltName=URI:spiffe://test.example\n{extensions}\n"
        );
        std::fs::write(offline.file("signed.ext"), settings).expect("a file");
        offline.sign();
        offline
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn sign(&self) {
        let [key, root, request, settings, signed] = [
            "root.key",
            "root.pem",
            "request.pem",
            "signed.ext",
            "signed.pem",
        ]
        .map(|name| self.file(name));
        let subject = "/O=Example Ltd/CN=Example Offline Root";
        let made = [
            "req", "-x509", "-newkey", "rsa:3072", "-nodes", "-days", "3650",
        ];
        let named = ["-subj", subject, "-keyout", path(&key), "-out", path(&root)];
        let uses = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"];
        run_ok("openssl", &[&made[..], &named, &uses].concat());
        let by = ["-CA", path(&root), "-CAkey", path(&key), "-days", "365"];
        let what = ["x509", "-req", "-in", path(&request), "-out", path(&signed)];
        let how = ["-extfile", path(&settings), "-sha256"];
        run_ok("openssl", &[&what[..], &by, &how].concat());
    }

    fn chain(&self) -> PathBuf {
        let read = |name| std::fs::read_to_string(self.file(name)).expect("a certificate");
        let chain = self.file("chain.pem");
        std::fs::write(&chain, read("signed.pem") + &read("root.pem")).expect("a file");
        chain
    }

    fn finish(&self) -> std::process::Output {
        let (dir, chain) = (self.file("ca"), self.chain());
        tipstaff(&["ca", "init", "--dir", path(&dir), "--finish", path(&chain)])
    }
}

#[test]
fn a_mesh_runs_under_a_root_that_openssl_holds() {
    let offline = Offline::new("");
    // Before the chain is back there is nothing to serve.
    let dir = offline.file("ca");
    let early = tipstaff(&["ca", "serve", "--dir", path(&dir)]);
    assert_eq!(early.status.code(), Some(2), "{early:?}");
    assert!(
        String::from_utf8_lossy(&early.stderr).contains("--finish"),
        "{early:?}"
    );

    let finished = offline.finish();
    assert!(finished.status.success(), "{finished:?}");
    assert!(!dir.join("root.key").exists());
    let listen = free_address();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tipstaff"));
    command.args([
        "ca",
        "serve",
        "--dir",
        path(&dir),
        "--listen",
        &listen.to_string(),
    ]);
    let process = Process::start(command, offline.file("ca.log"));
    wait_for("the CA to listen", || {
        std::net::TcpStream::connect(listen).ok()
    });
    let folder = TempDir::new().expect("a folder");
    let mesh = Mesh::under(Ca::of(dir, listen, process), folder, &Options::default());
    assert_eq!(mesh.storefront.call("GET", "/api/v1/orders/7").status, 200);

    // And others follow the whole path. The root and the intermediate are openssl's work.
    let leaf = Credentials::issue(&mesh.ca, mesh.folder.path(), "leaf", STOREFRONT);
    let (root, signed) = (offline.file("root.pem"), offline.file("signed.pem"));
    judge(mesh.folder.path(), &root, &leaf.chain, &[&root, &signed]);
}

/// Path validation here and in every sidecar cannot judge constraints on URIs, and takes no certificate under one.
#[test]
fn a_chain_that_constrains_uris_is_refused_before_a_sidecar_does() {
    for domain in ["test.example", "other.example"] {
        let offline = Offline::new(&format!("nameConstraints=critical,permitted;URI:{domain}"));
        let refused = offline.finish();
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(text.contains("NameConstraintViolation"), "{text}");
    }
}

#[test]
fn a_chain_that_constrains_other_kinds_of_names_is_taken() {
    let offline = Offline::new("nameConstraints=critical,permitted;DNS:test.example");
    let finished = offline.finish();
    assert!(finished.status.success(), "{finished:?}");
}
