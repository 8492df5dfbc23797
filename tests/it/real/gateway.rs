//! curl and openssl get a certificate and renew it, by the commands that the documentation shows.

use super::{python, run_ok};
use crate::harness::{Ca, Process, free_address, path, tipstaff_ok, wait_for};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

const DOCUMENT: &str = include_str!("../../../docs/enrolling-with-curl.md");
pub(super) const NAME: &str = "ca.demo.test";
const ORDERS: &str = "spiffe://demo.test/ns/shop/sa/orders";

fn serve(folder: &Path) -> Ca {
    serve_with(folder, "")
}

/// With more sections in its configuration.
pub(super) fn serve_with(folder: &Path, more: &str) -> Ca {
    let (dir, listen) = (folder.join("ca"), free_address());
    let init = [
        "ca",
        "init",
        "--dir",
        path(&dir),
        "--trust-domain",
        "demo.test",
    ];
    tipstaff_ok(&init);
    let config = folder.join("ca.yaml");
    let text = format!(
        "dir: \"{}\"\nlisten: \"{listen}\"\nserverNames: [{NAME}]\n{more}",
        dir.display()
    );
    std::fs::write(&config, text).expect("a configuration");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tipstaff"));
    command.args(["ca", "serve", "--config", path(&config)]);
    let process = Process::start(command, dir.with_extension("log"));
    wait_for("the CA to listen", || {
        std::net::TcpStream::connect(listen).ok()
    });
    Ca::of(dir, listen, process)
}

/// A workload's directory: the bundle, and where the CA's name leads.
pub(super) fn workload(ca: &Ca) -> TempDir {
    workload_of(ca, ORDERS)
}

fn workload_of(ca: &Ca, id: &str) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let bundle = folder.path().join("ca-bundle.pem");
    std::fs::copy(ca.bundle(), bundle).expect("a bundle");
    let connect = format!("connect-to = \"{NAME}:8443:{}\"\n", ca.listen);
    std::fs::write(folder.path().join(".curlrc"), connect).expect("a file");
    std::fs::write(folder.path().join("token"), ca.token(id)).expect("a file");
    folder
}

/// The document's commands as one script.
fn documented() -> String {
    format!("set -eu\n{}", blocks().concat())
}

fn blocks() -> Vec<&'static str> {
    let blocks = DOCUMENT.split("```sh\n").skip(1);
    let blocks: Vec<_> = blocks
        .map(|block| block.split("```").next().expect("a block"))
        .collect();
    assert_eq!(blocks.len(), 6, "{blocks:?}");
    blocks
}

pub(super) fn sh(folder: &Path, script: &str) -> Output {
    Command::new("sh")
        .args(["-c", script])
        .current_dir(folder)
        .env("CURL_HOME", folder)
        .output()
        .expect("a shell")
}

fn sans(folder: &Path) -> String {
    let chain = folder.join("chain.pem");
    let arguments = [
        "x509",
        "-noout",
        "-ext",
        "subjectAltName",
        "-in",
        path(&chain),
    ];
    run_ok("openssl", &arguments)
}

#[test]
fn the_documented_commands_enrol_renew_and_fetch_the_bundle() {
    let folder = TempDir::new().expect("a folder");
    let ca = serve(folder.path());
    let workload = workload(&ca);
    let place = workload.path();
    let output = sh(place, &documented());
    assert!(output.status.success(), "{output:?}");
    let renew_at = String::from_utf8(output.stdout).expect("text");
    assert!(renew_at.trim().parse::<u64>().is_ok(), "{renew_at:?}");

    let names = sans(place);
    assert!(names.contains(&format!("URI:{ORDERS}")), "{names}");
    assert!(!names.contains("DNS"), "{names}");
    let (chain, bundle) = (place.join("chain.pem"), place.join("ca-bundle.pem"));
    let verify = [
        "verify",
        "-x509_strict",
        "-CAfile",
        path(&bundle),
        "-untrusted",
    ];
    run_ok(
        "openssl",
        &[&verify[..], &[path(&chain), path(&chain)]].concat(),
    );
    // The key belongs to it, and enrolment and renewal are on record.
    run_ok(
        "openssl",
        &[
            "pkey",
            "-check",
            "-noout",
            "-in",
            path(&place.join("leaf.key")),
        ],
    );
    let listed = tipstaff_ok(&["ca", "list", "--dir", path(&ca.dir)]);
    assert_eq!(listed.matches(ORDERS).count(), 2, "{listed}");

    // A second start: the token is used up, the registered key is enough.
    std::fs::write(place.join("token"), "").expect("a file");
    let first = "openssl ecparam -name prime256v1 -genkey -noout -out enrolment.key\n";
    let script = documented();
    assert!(script.contains(first));
    let output = sh(place, &script.replace(first, ""));
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn curl_does_not_talk_to_whoever_is_not_the_ca() {
    let folder = TempDir::new().expect("a folder");
    let ca = serve(folder.path());
    let workload = workload(&ca);
    let SocketAddr::V4(_) = ca.listen else {
        panic!("{}", ca.listen)
    };
    let ask = |arguments: &str| {
        let script = format!("curl --silent --show-error {arguments}");
        sh(workload.path(), &script)
    };
    let good = format!("--cacert ca-bundle.pem https://{NAME}:8443/bundle");
    for version in ["--http1.1", "--http2"] {
        let output = ask(&format!("{version} {good}"));
        assert!(output.status.success(), "{output:?}");
    }
    // 60: the certificate is not one to trust.
    for bad in [
        format!("https://{NAME}:8443/bundle"),
        format!("--cacert ca-bundle.pem https://{}/bundle", ca.listen),
        format!(
            "--cacert ca-bundle.pem --connect-to other.demo.test:8443:{} https://other.demo.test:8443/bundle",
            ca.listen
        ),
    ] {
        assert_eq!(ask(&bad).status.code(), Some(60), "{bad}");
    }
}

#[test]
fn refusals_tell_a_shell_what_was_expected() {
    let folder = TempDir::new().expect("a folder");
    let ca = serve(folder.path());
    let workload = workload(&ca);
    std::fs::write(workload.path().join("token"), "not-a-token").expect("a file");
    let output = sh(workload.path(), &documented());
    assert_eq!(output.status.code(), Some(22), "{output:?}");
    let headers = std::fs::read_to_string(workload.path().join("headers")).expect("headers");
    assert!(headers.contains("400"), "{headers}");
    assert!(
        headers.contains("tipstaff-reason: malformed_token"),
        "{headers}"
    );
    // Somebody else's certificate renews somebody else's identity: there is none here at all.
    let renewal = "printf '{\"csr\": \"\"}' | curl --silent --cacert ca-bundle.pem --write-out '%{http_code}' \
        --header 'Content-Type: application/json' --data-binary @- https://ca.demo.test:8443/v1/renew";
    let output = sh(workload.path(), renewal);
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(
        said.ends_with("401") && said.contains("client_certificate"),
        "{said}"
    );
}

#[test]
fn the_description_that_is_served_is_openapi() {
    let folder = TempDir::new().expect("a folder");
    let ca = serve(folder.path());
    let workload = workload(&ca);
    let fetch = "curl --silent --fail --cacert ca-bundle.pem --output openapi.json https://ca.demo.test:8443/v1/openapi.json";
    assert!(sh(workload.path(), fetch).status.success());
    let file = workload.path().join("openapi.json");
    let validate = |file: &Path| {
        let arguments = [
            "-m",
            "openapi_spec_validator",
            "--schema",
            "3.1",
            path(file),
        ];
        python()
            .args(arguments)
            .output()
            .expect("the validator runs")
    };
    let output = validate(&file);
    assert!(output.status.success(), "{output:?}");
    // It would say so if it were not.
    let spoilt = std::fs::read_to_string(&file).expect("a file");
    let spoilt = spoilt.replace("\"operationId\": \"renew\"", "\"operationId\": \"issue\"");
    let other = workload.path().join("spoilt.json");
    std::fs::write(&other, spoilt).expect("a file");
    assert!(!validate(&other).status.success());
}

#[test]
fn a_third_certificate_in_a_window_for_two_is_refused_and_another_identity_gets_its_own() {
    let folder = TempDir::new().expect("a folder");
    let ca = serve_with(folder.path(), "limits: {certificatesPerMinute: 2}\n");
    let first = workload(&ca);
    let output = sh(first.path(), &documented());
    assert!(output.status.success(), "{output:?}");
    let again = format!("set -eu\n{}{}", blocks()[0], blocks()[4]);
    let output = sh(first.path(), &again);
    assert_eq!(output.status.code(), Some(22), "{output:?}");
    let headers = std::fs::read_to_string(first.path().join("headers")).expect("headers");
    let headers = headers.to_lowercase();
    assert!(headers.contains("429"), "{headers}");
    assert!(
        headers.contains("tipstaff-reason: rate_limited"),
        "{headers}"
    );
    let wait = headers.split("retry-after: ").nth(1).expect("a time");
    let wait: u64 = wait.lines().next().expect("it").parse().expect("seconds");
    assert!((1..=30).contains(&wait), "two a minute: {headers}");

    let other = "spiffe://demo.test/ns/shop/sa/payments";
    let second = workload_of(&ca, other);
    let output = sh(second.path(), &documented().replace(ORDERS, other));
    assert!(output.status.success(), "{output:?}");
}
