//! A CA whose database is reached over TLS: only the server that the configured authority vouches for is talked to.

use super::postgres::Postgres;
use super::run_ok;
use crate::harness::{path, tipstaff};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// An authority of databases.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "DBA");
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("an authority")
}

/// Puts a certificate for `name` where PostgreSQL takes it, and gives the settings that say so.
fn certified(
    by: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
) -> impl FnOnce(&Path) -> Vec<String> {
    let params = CertificateParams::new([name.to_owned()]).expect("parameters");
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, by).expect("a certificate").pem();
    move |folder| {
        let files = ["server.crt", "server.key"].map(|name| folder.join(name));
        std::fs::write(&files[0], certificate).expect("a file");
        std::fs::write(&files[1], key.serialize_pem()).expect("a file");
        // PostgreSQL takes no key that others could read.
        run_ok("chmod", &["600", path(&files[1])]);
        if rustix::process::geteuid().is_root() {
            run_ok("chown", &["postgres", path(&files[0]), path(&files[1])]);
        }
        let [certificate, key] = files;
        vec![
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", certificate.display()),
            format!("ssl_key_file={}", key.display()),
        ]
    }
}

/// Makes a CA that believes `believed` about the database at `host`, and gives the outcome.
fn init(
    folder: &TempDir,
    database: &Postgres,
    believed: &CertifiedIssuer<'static, KeyPair>,
) -> (PathBuf, std::process::Output) {
    let file = |name: &str| folder.path().join(name);
    let url = format!(
        "postgres://postgres@localhost:{}/postgres?hostaddr=127.0.0.1",
        database.address.port()
    );
    std::fs::write(file("url"), url).expect("a file");
    std::fs::write(file("authorities.pem"), believed.pem()).expect("a file");
    let text = format!(
        "dir: {0}/ca\nstore: {{postgres: {{urlFile: {0}/url, authorities: {0}/authorities.pem}}}}\n",
        folder.path().display()
    );
    std::fs::write(file("ca.yaml"), text).expect("a file");
    let config = file("ca.yaml");
    let arguments = ["ca", "init", "--trust-domain", "test.example", "--config"];
    let output = tipstaff(&[&arguments[..], &[path(&config)]].concat());
    (config, output)
}

#[test]
fn a_database_with_the_right_certificate_is_used_over_tls() {
    let (by, folder) = (authority(), TempDir::new().expect("a folder"));
    let database = Postgres::start_with(certified(&by, "localhost"));
    let (config, made) = init(&folder, &database, &by);
    assert!(made.status.success(), "{made:?}");
    let open = ca::store::ServerTrust::Authorities(vec![by.der().clone()]);
    let url = std::fs::read_to_string(folder.path().join("url")).expect("a file");
    let server = ca::store::Postgres::new(&url, &open).expect("a database");
    let store = ca::store::Store::open(ca::store::Database::Postgres(server)).expect("a store");
    let over =
        "select count(*) > 0 and bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid)
         where application_name = 'tipstaff-ca'";
    assert_eq!(database.ask(over), "t\n");
    drop(store);
    let verified = tipstaff(&["ca", "audit", "verify", "--config", path(&config)]);
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn a_database_that_its_authority_does_not_vouch_for_is_not_talked_to() {
    let by = authority();
    for (name, believed, why) in [
        ("localhost", &authority(), "an authority of the same name"),
        ("db.example", &by, "another host"),
    ] {
        let folder = TempDir::new().expect("a folder");
        let database = Postgres::start_with(certified(&by, name));
        let (_, refused) = init(&folder, &database, believed);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains("invalid peer certificate"), "{why}: {said}");
        let tables = "select count(*) from information_schema.tables where table_schema = 'public'";
        assert_eq!(database.ask(tables), "0\n", "{why}");
        assert!(!folder.path().join("ca").exists(), "{why}");
    }
}

#[test]
fn a_database_without_tls_is_not_talked_to_when_tls_was_asked_for() {
    let (by, folder) = (authority(), TempDir::new().expect("a folder"));
    let database = Postgres::start();
    let (_, refused) = init(&folder, &database, &by);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(!folder.path().join("ca").exists());
}
