//! The command line: exit codes, texts and JSON that people and programs rely on.

use crate::harness::{ORDERS, POLICY, STOREFRONT, grant, path, tipstaff, tipstaff_ok};
use std::path::Path;
use tempfile::TempDir;

fn policy_dir(text: &str) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("policy.yaml"), text).expect("a policy");
    folder
}

fn explain(dir: &Path, method: &str, target: &str) -> (Option<i32>, serde_json::Value) {
    let arguments = [
        "policy",
        "explain",
        "--policy",
        path(dir),
        "--from",
        STOREFRONT,
        "--to",
        ORDERS,
        "--method",
        method,
        "--path",
        target,
        "--output",
        "json",
    ];
    let output = tipstaff(&arguments);
    let said = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), said)
}

#[test]
fn explain_answers_as_the_proxy_decides_and_the_exit_code_says_yes_or_no() {
    let dir = policy_dir(POLICY);
    let (code, said) = explain(dir.path(), "GET", "/api/v1/orders/%7e42?x=1");
    assert_eq!(
        (code, &said["decision"]),
        (Some(0), &"allow".into()),
        "{said}"
    );
    assert_eq!(said["canonical_path"], "/api/v1/orders/~42");
    let (code, said) = explain(dir.path(), "DELETE", "/api/v1/orders/42");
    assert_eq!(
        (code, &said["decision"]),
        (Some(1), &"deny".into()),
        "{said}"
    );
    assert!(
        said["nearest"]
            .to_string()
            .contains("storefront-reads-orders"),
        "{said}"
    );
    let (code, said) = explain(dir.path(), "GET", "/api/../42");
    assert_eq!(
        (code, &said["decision"]),
        (Some(1), &"reject".into()),
        "{said}"
    );
}

#[test]
fn explain_speaks_of_connections_too() {
    let database = grant("db", "{tcp: true}", "[]");
    let dir = policy_dir(&database.replace("  allow:", "  ports: [5432]\n  allow:"));
    let ask = |more: &[&str]| {
        let common = [
            "policy",
            "explain",
            "--policy",
            path(dir.path()),
            "--from",
            STOREFRONT,
            "--to",
            ORDERS,
        ];
        let output = tipstaff(&[&common[..], more].concat());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = ask(&["--tcp", "--port", "5432"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = ask(&["--tcp", "--port", "5433"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("ports: expected 5432, found 5433"), "{said}");
    for unclear in [
        &[][..],
        &["--method", "GET"],
        &["--tcp", "--method", "GET", "--path", "/"],
    ] {
        assert_eq!(ask(unclear).0, Some(2), "{unclear:?}");
    }
}

#[test]
fn policy_check_reports_every_problem_with_file_and_line() {
    let dir = policy_dir(
        &POLICY
            .replace("methods: [GET, HEAD]", "methodz: [GET]")
            .replace("owner: team-shop", ""),
    );
    let output = tipstaff(&["policy", "check", path(dir.path())]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("policy.yaml:7") && said.contains("methodz"),
        "{said}"
    );
    assert!(
        said.contains("policy.yaml:8") && said.contains("owner"),
        "{said}"
    );
}

#[test]
fn policy_test_exits_1_when_a_test_fails() {
    let tests = |expect: &str| {
        format!(
            "{POLICY}  tests:\n    - {{from: ns/shop/sa/storefront, get: \"/api/v1/orders/1\", expect: {expect}}}\n"
        )
    };
    let good = policy_dir(&tests("allow"));
    let output = tipstaff(&["policy", "test", path(good.path())]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let bad = policy_dir(&tests("deny"));
    let output = tipstaff(&["policy", "test", path(bad.path())]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn ca_init_wants_a_passphrase_or_the_flag_that_asks_for_plaintext() {
    let folder = TempDir::new().expect("a folder");
    let dir = folder.path().join("ca");
    let bare = |more: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_tipstaff"))
            .args([
                "ca",
                "init",
                "--dir",
                path(&dir),
                "--trust-domain",
                "test.example",
            ])
            .args(more)
            .env_remove("TIPSTAFF_CA_PASSPHRASE")
            .output()
            .expect("the binary runs")
    };
    let refused = bare(&[]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(!dir.exists());
    assert!(bare(&["--insecure-plaintext-keys"]).status.success());
    // A directory that exists is never overwritten.
    assert_eq!(bare(&["--insecure-plaintext-keys"]).status.code(), Some(2));
}

#[test]
fn ca_keys_rest_encrypted_and_the_wrong_passphrase_opens_nothing() {
    let folder = TempDir::new().expect("a folder");
    let dir = folder.path().join("ca");
    tipstaff_ok(&[
        "ca",
        "init",
        "--dir",
        path(&dir),
        "--trust-domain",
        "test.example",
    ]);
    for entry in walk(&dir) {
        let bytes = std::fs::read(&entry).expect("a file");
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            !text.contains("PRIVATE KEY-----") || text.contains("ENCRYPTED"),
            "{}",
            entry.display()
        );
    }
    let wrong = folder.path().join("wrong");
    std::fs::write(&wrong, "not it\n").expect("a file");
    let output = tipstaff(&[
        "ca",
        "serve",
        "--dir",
        path(&dir),
        "--passphrase-file",
        path(&wrong),
        "--listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("passphrase"),
        "{output:?}"
    );
}

#[test]
fn redirect_prints_every_rule_that_it_would_load() {
    let said = tipstaff_ok(&[
        "redirect",
        "print",
        "--proxy-uid",
        "15001",
        "--inbound-ports",
        "8080,9090",
        "--exclude-inbound-ports",
        "22",
        "--exclude-cidrs",
        "169.254.169.254,10.9.0.0/16,fd00:9::/32",
    ]);
    insta::assert_snapshot!(said);
    let brief = tipstaff_ok(&["redirect", "print", "--proxy-uid", "0", "--udp", "pass"]);
    insta::assert_snapshot!("redirect_with_defaults_and_udp_left_alone", brief);
    for injected in ["10.0.0.0/8 accept", "10.0.0.0/8\nflush ruleset", "host"] {
        let arguments = ["redirect", "print", "--proxy-uid", "1", "--exclude-cidrs"];
        let output = tipstaff(&[&arguments[..], &[injected]].concat());
        assert_eq!(output.status.code(), Some(2), "{injected:?}");
    }
}

#[test]
fn redirect_says_what_is_missing_where_there_is_no_nft() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tipstaff"))
        .args(["redirect", "remove"])
        .env("PATH", "/nowhere")
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("expected nft in PATH"), "{said}");
}

#[test]
fn usage_errors_exit_with_2_and_help_with_0() {
    assert_eq!(tipstaff(&["proxy"]).status.code(), Some(2));
    assert_eq!(tipstaff(&["nonsense"]).status.code(), Some(2));
    for arguments in [
        &["--help"][..],
        &["ca", "--help"],
        &["ca", "serve", "--help"],
        &["policy", "explain", "--help"],
    ] {
        assert_eq!(tipstaff(arguments).status.code(), Some(0), "{arguments:?}");
    }
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn no_lineage_of_a_new_ca_is_frozen_and_none_can_be_thawed() {
    let folder = TempDir::new().expect("a temporary folder");
    let dir = folder.path().join("ca");
    tipstaff_ok(&[
        "ca",
        "init",
        "--dir",
        path(&dir),
        "--trust-domain",
        "a.test",
    ]);
    let frozen = tipstaff_ok(&[
        "ca",
        "list",
        "--dir",
        path(&dir),
        "--frozen",
        "--output",
        "json",
    ]);
    assert_eq!(frozen.trim(), "[]");
    let thaw = [
        "ca",
        "thaw",
        "--dir",
        path(&dir),
        "--lineage",
        "00",
        "--reason",
        "a test",
    ];
    let output = tipstaff(&thaw);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
