//! What `ca drill` says of a backup before that is needed.

use crate::harness::{path, tipstaff, tipstaff_ok};
use serde_json::Value;
use std::path::PathBuf;
use tempfile::TempDir;

struct Ca {
    folder: TempDir,
    dir: PathBuf,
}

impl Ca {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let ca = Self {
            dir: folder.path().join("ca"),
            folder,
        };
        for passphrase in ["right", "wrong"] {
            std::fs::write(ca.at(passphrase), format!("{passphrase}\n")).expect("a file");
        }
        ca.run(&["init", "--trust-domain", "test.example"]);
        ca
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> String {
        tipstaff_ok(&[&["ca"], arguments, &["--dir", path(&self.dir)]].concat())
    }

    fn backup(&self, name: &str) -> PathBuf {
        let (file, secret) = (self.at(name), self.at("right"));
        let to = ["backup", "--to", path(&file)];
        self.run(&[&to[..], &["--backup-passphrase-file", path(&secret)]].concat());
        file
    }

    /// What it says of a backup with a passphrase; exit code 1 if there is a problem.
    fn drill(&self, backup: &str, passphrase: &str) -> Value {
        let (file, secret) = (self.at(backup), self.at(passphrase));
        let drill = ["ca", "drill", "--dir", path(&self.dir)];
        let backup = ["--backup", path(&file)];
        let secret = ["--backup-passphrase-file", path(&secret)];
        let output = tipstaff(&[&drill[..], &backup, &secret, &["--output", "json"]].concat());
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let is_well = report["problems"] == serde_json::json!([]);
        assert_eq!(output.status.code(), Some(i32::from(!is_well)), "{report}");
        report
    }

    fn problem(&self, backup: &str, passphrase: &str) -> String {
        let report = self.drill(backup, passphrase);
        match report["problems"].as_array().map(Vec::as_slice) {
            Some([Value::String(problem)]) => problem.clone(),
            _ => panic!("expected one problem: {report}"),
        }
    }
}

#[test]
fn a_backup_that_can_be_used_is_said_to_be_so_far_behind() {
    let ca = Ca::new();
    ca.backup("first");
    let report = ca.drill("first", "right");
    assert_eq!(report["problems"], serde_json::json!([]), "{report}");
    assert_eq!(report["backup"]["records_behind"], 0, "{report}");
    let version = report["backup"]["database_version"].as_u64();
    assert!(version.is_some_and(|version| version >= 8), "{report}");
    ca.run(&["token", "create", "--id", "spiffe://test.example/orders"]);
    let report = ca.drill("first", "right");
    assert_eq!(report["problems"], serde_json::json!([]), "{report}");
    assert_eq!(report["backup"]["records_behind"], 1, "{report}");
}

#[test]
fn a_backup_that_is_cut_or_has_another_passphrase_is_a_problem() {
    let ca = Ca::new();
    let file = ca.backup("first");
    let said = ca.problem("first", "wrong");
    assert!(
        said.starts_with("backup: ") && said.contains("passphrase"),
        "{said}"
    );
    let whole = std::fs::read(&file).expect("a backup");
    std::fs::write(&file, &whole[..whole.len() - 1]).expect("a file");
    let said = ca.problem("first", "right");
    assert!(said.starts_with("backup: "), "{said}");
}

#[test]
fn a_backup_of_another_ca_or_without_the_root_that_signs_now_is_a_problem() {
    let (ca, other) = (Ca::new(), Ca::new());
    let file = other.backup("first");
    std::fs::copy(&file, ca.at("other")).expect("a copy");
    let said = ca.drill("other", "right")["problems"].to_string();
    assert!(said.contains("is not in the CA's ledger"), "{said}");

    ca.backup("first");
    ca.run(&["rotate", "prepare", "--root"]);
    // No other trust domain has to hear of it.
    ca.run(&["rotate", "activate", "--root", "--published-for", "0s"]);
    let said = ca.problem("first", "right");
    assert!(
        said.contains("does not know the root that signs now"),
        "{said}"
    );
    ca.backup("second");
    assert_eq!(
        ca.drill("second", "right")["problems"],
        serde_json::json!([])
    );
}
