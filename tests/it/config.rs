//! The reference configuration cannot rot, and a bad one shows all its problems at once.

use crate::harness::{path, tipstaff, tipstaff_ok};
use std::process::Command;
use tempfile::TempDir;

#[test]
fn the_reference_configurations_load() {
    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy");
    for (folder, file) in [
        ("", "sidecar.yaml"),
        ("", "agent.yaml"),
        ("", "ca.yaml"),
        ("redirect", "caller.yaml"),
        ("redirect", "orders.yaml"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_tipstaff"))
            .args(["check", "--config", file])
            .current_dir(format!("{deploy}/{folder}"))
            .output()
            .expect("the binary runs");
        assert!(output.status.success(), "{file}: {output:?}");
    }
}

#[test]
fn the_reference_configuration_of_the_ca_loads_and_is_explained() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/ca.yaml");
    let said = tipstaff_ok(&["ca", "check", "--config", file, "--output", "json"]);
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said["listen"], "0.0.0.0:8443");
    assert_eq!(said["passphrase"], "/etc/tipstaff/ca.pass");
}

/// What it left out looked like what there was not.
#[test]
fn what_a_ca_is_asked_for_and_how_it_rotates_is_told_with_its_defaults() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("ca.yaml");
    let text = r#"dir: ca
limits: {waiting: 7, longestWait: 500ms}
rotation: {rootLife: 30d}
jwt: {}
federation:
  - {trustDomain: partner.example, url: "https://ca.partner.example/bundle", spiffeId: "spiffe://partner.example/ca", bundleFile: partner.json}
"#;
    std::fs::write(&file, text).expect("a file");
    let said = tipstaff_ok(&["check", "--config", path(&file), "--output", "json"]);
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said["limits"]["waiting"], 7);
    assert_eq!(said["limits"]["longestWait"], "500ms");
    assert_eq!(said["limits"]["refusalsPerMinute"], 60);
    assert_eq!(said["rotation"]["rootLife"], "2592000s");
    assert_eq!(said["rotation"]["automatic"], true);
    assert_eq!(said["jwt"]["ttl"], "300s");
    assert_eq!(said["federation"], serde_json::json!(["partner.example"]));
}

#[test]
fn a_flag_beside_the_file_that_has_a_key_for_it_is_refused() {
    for flag in [
        "--dir=ca",
        "--listen=127.0.0.1:1",
        "--admin-listen=127.0.0.1:1",
        "--passphrase-file=pass",
        "--allow-short-ttl-for-tests",
    ] {
        let output = tipstaff(&["ca", "serve", "--config", "ca.yaml", flag]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flag}: {said}");
        assert!(said.contains("cannot be used with"), "{flag}: {said}");
    }
    let neither = tipstaff(&["ca", "serve"]);
    assert_eq!(neither.status.code(), Some(2), "{neither:?}");
}

#[test]
fn every_problem_of_an_agents_file_is_reported_in_one_run_with_its_line() {
    let text = r#"ca: {endpoint: "https://127.0.0.1:8443", bundel: ca-bundle.pem}
workloadApi: {socket: /run/api.sock, mode: "0999", maxConnections: 1}
admin: {listen: "0.0.0.0:15000"}
entries:
  - {id: "spiffe://Test.example/one", enrolmentKey: key, selectors: ["unix:uid:root"]}
  - {id: "spiffe://test.example/two", enrolmentKey: key, selectors: []}
  - {id: "spiffe://test.example/three", selectors: ["unix:uid:1"]}
"#;
    insta::assert_snapshot!(problems_of("agent.yaml", text));
}

#[test]
fn every_problem_of_the_cas_file_and_its_entries_is_reported_in_one_run() {
    let folder = TempDir::new().expect("a folder");
    let config = folder.path().join("ca.yaml");
    let entries = folder.path().join("entries");
    std::fs::create_dir(&entries).expect("a folder");
    for name in ["a.yaml", "b.yaml"] {
        std::fs::write(
            entries.join(name),
            "entries: [{id: nobody, selectors: []}]\n",
        )
        .expect("a file");
    }
    let text = format!("dir: ca\nentries: {{dir: \"{}\"}}\n", path(&entries));
    std::fs::write(&config, text).expect("a file");
    let output = tipstaff(&["check", "--config", path(&config)]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("a.yaml:1:") && said.contains("b.yaml:1:"),
        "{said}"
    );
    std::fs::write(&config, "dir: ca\nlisten: nowhere\nentires: {}\n").expect("a file");
    let output = tipstaff(&["check", "--config", path(&config)]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("ca.yaml:2:") && said.contains("ca.yaml:3:"),
        "{said}"
    );
}

/// What `check` says of a configuration.
fn problems_of(name: &str, text: &str) -> String {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join(name);
    std::fs::write(&file, text).expect("a file");
    let output = tipstaff(&["check", "--config", path(&file)]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8_lossy(&output.stderr).replace(path(folder.path()), "")
}

#[test]
fn every_problem_of_a_file_is_reported_in_one_run_with_its_line() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("sidecar.yaml");
    let text = r#"identity:
  ca: {endpoint: "https://127.0.0.1:8443", bundel: ca-bundle.pem}
  id: spiffe://Test.example/ns/shop/sa/orders
  enrolmentKey: key
inbound:
  - {listen: "127.0.0.1:99999", app: "127.0.0.1:8080"}
outbound:
  listen: 0.0.0.0:15001
  services:
    - {hosts: [orders], endpoints: ["127.0.0.1:15006"], identity: "not an id", timeout: 5 parsecs}
policy: {dir: policy}
admin: {listen: 0.0.0.0:15000}
nonsense: true
"#;
    std::fs::write(&file, text).expect("a file");
    let output = tipstaff(&["proxy", "--config", path(&file)]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).replace(path(folder.path()), "");
    insta::assert_snapshot!(said);
}
