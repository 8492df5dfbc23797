//! Records on PostgreSQL that its own means bring back to an older state: what was revoked and frozen since is kept by one command.

use super::postgres::{Postgres, psql_command};
use super::run_ok;
use crate::harness::{path, tipstaff, tipstaff_ok};
use identity::Svid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;

const ORDERS: &str = "spiffe://test.example/ns/shop/sa/orders";
const CART: &str = "spiffe://test.example/ns/shop/sa/cart";
const FREEZE: &str =
    "insert into frozen_lineage (lineage, spiffe_id, serial, successor, key_hash, frozen_at)
    values ('copied', 'spiffe://test.example/ns/shop/sa/orders', '0a', '0b', 'cc', 1)";

struct Ca {
    server: Postgres,
    folder: TempDir,
}

impl Ca {
    fn new() -> Self {
        let ca = Self {
            server: Postgres::start(),
            folder: TempDir::new().expect("a folder"),
        };
        ca.make("ca");
        ca
    }

    /// A CA with a database and a directory of this name.
    fn make(&self, name: &str) {
        self.server.ask(&format!("create database {name}"));
        self.configure(name, name);
        self.run(name, &["init", "--trust-domain", "test.example"]);
    }

    /// The configuration `database` of the CA in `dir`.
    fn configure(&self, database: &str, dir: &str) -> PathBuf {
        let (at, config) = (self.folder.path(), self.config(database));
        let (address, url) = (self.server.address, at.join(format!("{database}.url")));
        std::fs::write(&url, format!("postgres://postgres@{address}/{database}")).expect("a file");
        let store = format!("{{postgres: {{urlFile: {}}}}}", url.display());
        let text = format!("dir: {}/{dir}\nstore: {store}\n", at.display());
        std::fs::write(&config, text).expect("a file");
        config
    }

    fn config(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.yaml"))
    }

    fn run(&self, name: &str, arguments: &[&str]) -> String {
        let config = self.config(name);
        let place = ["--config", path(&config)];
        tipstaff_ok(&[&["ca"], arguments, &place].concat())
    }

    fn restore(&self, more: &[&str]) -> Output {
        let config = self.config("ca");
        tipstaff(&[&["ca", "restore", "--config", path(&config)], more].concat())
    }

    /// Gives the serial.
    fn issue(&self, id: &str) -> String {
        let csr = self.folder.path().join("csr");
        let key = rcgen::KeyPair::generate().expect("a key");
        let request = rcgen::CertificateParams::default().serialize_request(&key);
        std::fs::write(&csr, request.expect("a request").der()).expect("a file");
        let pem = self.run("ca", &["issue", "--id", id, "--csr", path(&csr)]);
        let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>();
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let svid = Svid::new(chain.expect("certificates"), key).expect("an identity");
        svid.leaf().serial.clone()
    }

    fn dump(&self) -> PathBuf {
        let (file, port) = (
            self.folder.path().join("ca.sql"),
            self.server.address.port().to_string(),
        );
        let from = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres"];
        run_ok(
            "pg_dump",
            &[&from[..], &["-d", "ca", "-f", path(&file)]].concat(),
        );
        file
    }

    /// The database is what it was, and what it has become is kept under another name.
    fn bring_back(&self, dump: &Path) {
        self.server.ask("alter database ca rename to was");
        self.server.ask("create database ca");
        let port = self.server.address.port();
        let mut psql = psql_command("127.0.0.1", port, 60, &["-d", "ca", "-f", path(dump)]);
        let output = psql.output().expect("psql runs");
        assert!(output.status.success(), "{output:?}");
    }

    fn revoked(&self) -> String {
        self.run("ca", &["list", "--revoked"])
    }
}

/// As the release before rotation left it.
const SET_BACK: &str = "alter table certificate drop column issuer; drop table authority;
    delete from schema_version where version >= 8";

#[test]
fn a_dump_of_an_earlier_release_goes_on_and_takes_what_was_revoked_from_a_database_of_one() {
    let ca = Ca::new();
    let serial = ca.issue(ORDERS);
    let dump = ca.dump();
    ca.run("ca", &["revoke", "--serial", &serial]);
    ca.bring_back(&dump);
    let was = ca.configure("was", "ca");
    let port = ca.server.address.port();
    for database in ["ca", "was"] {
        let mut psql = psql_command("127.0.0.1", port, 60, &["-d", database, "-c", SET_BACK]);
        assert!(psql.status().expect("psql runs").success(), "{database}");
    }
    let version = "select max(version) from schema_version";
    let settled = ca.restore(&["--revocations-config", path(&was), "--output", "json"]);
    assert!(settled.status.success(), "{settled:?}");
    let report: serde_json::Value = serde_json::from_slice(&settled.stdout).expect("JSON");
    assert_eq!(report["revocations"], 1, "{report}");
    assert!(ca.revoked().contains(&serial), "{}", ca.revoked());
    let mut psql = psql_command("127.0.0.1", port, 60, &["-d", "was", "-c", version]);
    let left = psql.output().expect("psql runs").stdout;
    assert_eq!(String::from_utf8_lossy(&left).trim(), "7");
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_was_revoked_and_frozen_since_the_dump_is_taken_from_the_database_as_it_was() {
    let ca = Ca::new();
    let serial = ca.issue(ORDERS);
    ca.run("ca", &["token", "create", "--id", ORDERS]);
    let dump = ca.dump();
    let later = ca.issue(ORDERS);
    for serial in [&serial, &later] {
        ca.run("ca", &["revoke", "--serial", serial]);
    }
    ca.run("ca", &["revoke", "--id", CART]);
    let port = ca.server.address.port();
    let mut freeze = psql_command("127.0.0.1", port, 60, &["-d", "ca", "-c", FREEZE]);
    assert!(freeze.status().expect("psql runs").success());
    ca.bring_back(&dump);
    assert!(!ca.revoked().contains(&serial), "{}", ca.revoked());

    let was = ca.configure("was", "ca");
    let settled = ca.restore(&["--revocations-config", path(&was), "--output", "json"]);
    assert!(settled.status.success(), "{settled:?}");
    let report: serde_json::Value = serde_json::from_slice(&settled.stdout).expect("JSON");
    assert_eq!(report["revocations"], 3, "{report}");
    assert_eq!(report["frozen_lineages"], 1, "{report}");
    assert_eq!(report["void_tokens"], 1, "{report}");
    let revoked = ca.revoked();
    for name in [&serial, &later, CART] {
        assert!(revoked.contains(name), "{name}: {revoked}");
    }
    let frozen = ca.run("ca", &["list", "--frozen"]);
    assert!(frozen.contains("copied"), "{frozen}");
    let records = ca.run("ca", &["audit", "list"]);
    assert!(records.contains("restored"), "{records}");
    let verified = ca.run("ca", &["audit", "verify"]);
    assert!(verified.contains("audit chain intact"), "{verified}");

    // Once more, there is nothing left to take.
    let again = ca.restore(&["--revocations-config", path(&was), "--output", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_eq!(
        (&report["revocations"], &report["frozen_lineages"]),
        (&0.into(), &0.into())
    );
}

#[test]
fn records_of_another_ca_its_own_and_a_backup_file_are_refused_and_change_nothing() {
    let ca = Ca::new();
    let serial = ca.issue(ORDERS);
    ca.make("other");
    let before = ca.run("ca", &["audit", "list"]);
    let other = ca.restore(&["--revocations-config", path(&ca.config("other"))]);
    assert_eq!(other.status.code(), Some(2), "{other:?}");
    assert!(
        said(&other).contains("found records of another"),
        "{other:?}"
    );
    // However it is named.
    let own = ca.configure("ca", "ca").with_file_name("own.yaml");
    let url = ca.folder.path().join("own.url");
    let port = ca.server.address.port();
    let other_name =
        format!("postgres://postgres@localhost:{port}/ca?options=-ctimezone%3DAsia/Tokyo");
    std::fs::write(&url, other_name).expect("a file");
    let text = std::fs::read_to_string(ca.config("ca")).expect("a file");
    std::fs::write(&own, text.replace("ca.url", "own.url")).expect("a file");
    let own = ca.restore(&["--revocations-config", path(&own)]);
    assert_eq!(own.status.code(), Some(2), "{own:?}");
    assert!(said(&own).contains("that are to go on"), "{own:?}");
    let file = ca.restore(&["--from", "ca.age"]);
    assert_eq!(file.status.code(), Some(2), "{file:?}");
    assert!(said(&file).contains("by its own means"), "{file:?}");
    assert_eq!(ca.run("ca", &["audit", "list"]), before);
    assert!(!ca.revoked().contains(&serial));
}
