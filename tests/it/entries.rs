//! `tipstaff ca entry`: from the command line to the store and back, and by way of a file.

use crate::harness::{path, tipstaff, tipstaff_ok};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const FRONT: &str = "spiffe://test.example/web/front";

fn ca(folder: &Path, name: &str) -> PathBuf {
    let dir = folder.join(name);
    let init = ["ca", "init", "--dir", path(&dir)];
    tipstaff_ok(&[&init[..], &["--trust-domain", "test.example"]].concat());
    dir
}

fn entry<'a>(dir: &'a Path, command: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    [&["ca", "entry", command, "--dir", path(dir)], arguments].concat()
}

fn list(dir: &Path) -> Value {
    let listed = tipstaff_ok(&entry(dir, "list", &["--output", "json"]));
    serde_json::from_str(&listed).expect("JSON")
}

const CREATE: [&str; 12] = [
    "--id",
    FRONT,
    "--selector",
    "k8s:cluster:prod",
    "--selector",
    "k8s:ns:shop",
    "--ttl",
    "10m",
    "--federates-with",
    "partner.example",
    "--recovery-grace",
    "20m",
];

#[test]
fn entries_go_to_another_ca_by_a_file_and_all_of_it_is_on_record() {
    let folder = TempDir::new().expect("a folder");
    let (one, two) = (ca(folder.path(), "one"), ca(folder.path(), "two"));
    let name = tipstaff_ok(&entry(&one, "create", &CREATE));
    let again = tipstaff_ok(&entry(&one, "create", &CREATE));
    assert_eq!(name, again, "the same entry has the same name");

    let file = folder.path().join("entries.yaml");
    std::fs::write(&file, tipstaff_ok(&entry(&one, "export", &[]))).expect("a file");
    tipstaff_ok(&entry(&two, "import", &[path(&file)]));
    assert_eq!(list(&two), list(&one));
    assert_eq!(list(&two)[0]["ttlSeconds"], 600);
    assert_eq!(list(&two)[0]["recoveryGraceSeconds"], 1200);

    let named = ["--name", name.trim()];
    tipstaff_ok(&entry(&two, "delete", &named));
    assert_eq!(list(&two), serde_json::json!([]));
    let gone = tipstaff(&entry(&two, "delete", &named));
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    let record = tipstaff_ok(&["ca", "audit", "list", "--dir", path(&two)]);
    for kind in ["entry_created", "entry_deleted"] {
        assert!(record.contains(kind), "{record}");
    }
    tipstaff_ok(&["ca", "audit", "verify", "--dir", path(&two)]);
}

#[test]
fn an_entry_that_cannot_be_is_refused_with_its_place_in_the_file() {
    let folder = TempDir::new().expect("a folder");
    let dir = ca(folder.path(), "ca");
    let file = folder.path().join("entries.yaml");
    let text = "entries:\n  - {id: 'spiffe://test.example/a', selectors: ['k8s:ns:shop']}\n  - {id: 'spiffe://test.example/b', selectors: ['unix:uid:root'], tll: 1h}\n";
    std::fs::write(&file, text).expect("a file");
    let refused = tipstaff(&entry(&dir, "import", &[path(&file)]));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    for words in [
        "entries.yaml:2:",
        "k8s:cluster:<name>",
        "entries.yaml:3:",
        "did you mean `ttl`?",
        "a value of its form",
    ] {
        assert!(said.contains(words), "{words:?} in {said}");
    }
    let foreign = [
        "--id",
        "spiffe://other.example/a",
        "--selector",
        "unix:uid:0",
    ];
    let refused = tipstaff(&entry(&dir, "create", &foreign));
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert_eq!(list(&dir), serde_json::json!([]));
}
