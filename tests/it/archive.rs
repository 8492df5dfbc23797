//! A CA that serves moves old audit records to files, and the chain holds through both.

use crate::harness::{Process, free_address, path, tipstaff, tipstaff_ok, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;

/// Records from before the first start, which nothing depends on: the beginning, and the tokens.
const OLD: u64 = 4;

struct Ca {
    folder: TempDir,
    config: PathBuf,
}

impl Ca {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let ca = Self {
            config: folder.path().join("ca.yaml"),
            folder,
        };
        std::fs::create_dir(ca.archive()).expect("a folder");
        ca.configure(&ca.archive());
        ca.run(&["init", "--trust-domain", "test.example"]);
        for name in ["one", "two", "three"] {
            let id = format!("spiffe://test.example/ns/shop/sa/{name}");
            ca.run(&["token", "create", "--id", &id]);
        }
        ca
    }

    fn archive(&self) -> PathBuf {
        self.folder.path().join("audit")
    }

    fn configure(&self, archive: &Path) {
        let text = format!(
            "dir: {}/ca\nlisten: {}\naudit: {{archive: {{folder: {}, olderThan: 1ms}}}}\n",
            self.folder.path().display(),
            free_address(),
            archive.display()
        );
        std::fs::write(&self.config, text).expect("a file");
    }

    fn run(&self, arguments: &[&str]) -> String {
        let place = ["--config", path(&self.config)];
        tipstaff_ok(&[&["ca"], arguments, &place].concat())
    }

    /// Serves until it has said `what`.
    fn serve_until(&self, what: &str) {
        let log = self.folder.path().join("ca.log");
        let serve = ["ca", "serve", "--config", path(&self.config)];
        let process = Process::tipstaff(&serve, log);
        wait_for(what, || process.log_text().contains(what).then_some(()));
    }

    fn verify(&self, archive: Option<&Path>) -> (Output, Value) {
        let verify = ["ca", "audit", "verify", "--config", path(&self.config)];
        let more = archive.map(|folder| ["--archive", path(folder)]);
        let more = more.as_ref().map_or(&[][..], |more| &more[..]);
        let output = tipstaff(&[&verify[..], more, &["--output", "json"]].concat());
        let report = serde_json::from_slice(&output.stdout).expect("JSON");
        (output, report)
    }

    /// Whether all records are there and hold together.
    fn is_whole(&self) {
        let (output, report) = self.verify(Some(&self.archive()));
        assert!(output.status.success(), "{output:?}");
        let files = report["archived"].as_u64().expect("a number");
        assert_eq!(files, OLD, "{report}");
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.archive()).expect("a folder");
        files.map(|file| file.expect("a file").path()).collect()
    }

    /// The numbers of the records in the database.
    fn records(&self) -> Vec<u64> {
        let records = self.run(&["audit", "list", "--output", "json"]);
        let records: Vec<Value> = serde_json::from_str(&records).expect("JSON");
        let numbers = records.iter().map(|record| record["seq"].as_u64());
        numbers.map(|seq| seq.expect("a number")).collect()
    }
}

#[test]
fn old_records_go_to_files_and_the_chain_through_both_holds_until_one_is_changed_or_gone() {
    let ca = Ca::new();
    ca.serve_until("audit records archived");
    let files = ca.files();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(ca.records()[0], OLD + 1);
    ca.is_whole();
    let (output, report) = ca.verify(None);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(report["archived"], 0, "{report}");

    let text = std::fs::read_to_string(&files[0]).expect("a file");
    let without_the_last: String = text.split_inclusive('\n').take(3).collect();
    for (case, changed) in [
        ("changed", text.replacen("/sa/two", "/sa/eve", 1)),
        ("cut", without_the_last),
        ("empty", String::new()),
    ] {
        assert_ne!(changed, text);
        std::fs::write(&files[0], changed).expect("a file");
        let (output, report) = ca.verify(Some(&ca.archive()));
        assert_eq!(output.status.code(), Some(1), "{case}: {report}");
        assert_ne!(report["problems"], serde_json::json!([]), "{case}");
    }
    std::fs::write(&files[0], text).expect("a file");
    ca.is_whole();
}

#[test]
fn while_the_archive_cannot_be_written_every_record_stays_and_goes_there_later() {
    let ca = Ca::new();
    // A folder in which nobody, root included, makes a file.
    ca.configure(Path::new("/proc"));
    ca.serve_until("audit records are not archived, and stay in the database");
    let (output, _) = ca.verify(None);
    assert!(output.status.success(), "{output:?}");
    let records = ca.records();
    let all: Vec<_> = (1..=records.len() as u64).collect();
    assert!(records.len() as u64 > OLD && records == all, "{records:?}");

    ca.configure(&ca.archive());
    ca.serve_until("audit records archived");
    ca.is_whole();
    assert_eq!(ca.records()[0], OLD + 1);
}
