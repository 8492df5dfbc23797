//! curl reads the CA's bundle under a host name (https_web), and under the CA's SPIFFE ID (https_spiffe), which it cannot check
//! and whose host name it can.

use super::gateway::{NAME, serve_with, sh, workload};
use super::run_ok;
use crate::harness::{free_address, path, wait_for};
use serde_json::Value;
use std::path::Path;
use std::process::Output;
use tempfile::TempDir;

/// A certificate for `localhost` by nobody but itself, and its key.
fn web(folder: &Path) -> [String; 2] {
    let file = |name: &str| path(&folder.join(name)).to_owned();
    let [certificate, key] = [file("web.pem"), file("web.key")];
    let mut request = vec!["req", "-x509", "-newkey", "ec", "-pkeyopt"];
    request.extend(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]);
    request.extend([
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]);
    request.extend(["-keyout", &key, "-out", &certificate]);
    run_ok("openssl", &request);
    [certificate, key]
}

fn document(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn curl_reads_the_same_bundle_under_a_host_name_and_from_the_ca_itself() {
    let folder = TempDir::new().expect("a folder");
    let [certificate, key] = web(folder.path());
    let port = free_address().port();
    let endpoint = format!(
        "bundleEndpoint: {{listen: \"127.0.0.1:{port}\", certificateFile: \"{certificate}\", keyFile: \"{key}\"}}\n"
    );
    let ca = serve_with(folder.path(), &endpoint);
    wait_for("the endpoint to listen", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let workload = workload(&ca);
    let ask = |arguments: &str| {
        let script = format!("curl --silent --show-error {arguments}");
        sh(workload.path(), &script)
    };
    let web = format!("https://localhost:{port}/bundle");
    let by_name = document(&ask(&format!("--cacert {certificate} {web}")));
    let own = format!("--cacert ca-bundle.pem https://{NAME}:8443/bundle");
    assert_eq!(document(&ask(&own)), by_name);
    assert!(by_name["spiffe_sequence"].as_u64() > Some(0), "{by_name}");
    let keys = by_name["keys"].as_array().expect("keys");
    let is_of = |key: &Value| key["use"] == "x509-svid" && key["x5c"].is_array();
    assert!(keys.iter().any(is_of), "{by_name}");

    // One answer to a connection, in whatever version of HTTP it is asked.
    let twice = ask(&format!(
        "--http2 --cacert {certificate} --output /dev/null --output /dev/null --write-out '%{{http_version}} %{{num_connects}}\\n' {web} {web}"
    ));
    assert_eq!(String::from_utf8_lossy(&twice.stdout), "1.1 1\n1.1 1\n");
    for (arguments, status) in [
        (format!("{web}/"), "404"),
        (format!("--data x {web}"), "405"),
        (format!("--request DELETE {web}"), "405"),
    ] {
        let said = ask(&format!(
            "--cacert {certificate} --output /dev/null --write-out '%{{http_code}}' {arguments}"
        ));
        assert_eq!(String::from_utf8_lossy(&said.stdout), status, "{arguments}");
    }
    // 60: the certificate is not one to trust. The CA's authorities say nothing for a host name, nor the other way round.
    for bad in [
        web.clone(),
        format!("--cacert ca-bundle.pem {web}"),
        format!("--cacert {certificate} https://127.0.0.1:{port}/bundle"),
        format!("--cacert {certificate} https://{NAME}:8443/bundle"),
    ] {
        assert_eq!(ask(&bad).status.code(), Some(60), "{bad}");
    }
}
