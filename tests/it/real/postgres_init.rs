//! A CA on PostgreSQL whose `init` was cut off when the database was there and the directory was not.

use super::postgres::{Postgres, psql_command};
use crate::harness::{path, tipstaff, tipstaff_ok, wait_for};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tempfile::TempDir;

/// A CA whose directory is about to be made by `init`, with its records in `database`.
fn unmade(database: &Postgres, folder: &TempDir) -> (String, PathBuf) {
    let at = folder.path();
    std::fs::write(
        at.join("url"),
        format!("postgres://postgres@{}/postgres", database.address),
    )
    .expect("a file");
    let config = at.join("ca.yaml");
    let text = format!(
        "dir: {0}/ca\nstore: {{postgres: {{urlFile: {0}/url}}}}\n",
        at.display()
    );
    std::fs::write(&config, text).expect("a file");
    (path(&config).to_owned(), at.join("ca"))
}

#[test]
fn an_init_that_was_cut_off_after_the_database_was_made_says_how_to_complete_it() {
    let (database, folder) = (Postgres::start(), TempDir::new().expect("a folder"));
    let (config, dir) = unmade(&database, &folder);
    let init = [
        "ca",
        "init",
        "--config",
        &config,
        "--trust-domain",
        "test.example",
    ];
    tipstaff_ok(&init);
    // As it is just before the directory gets its name.
    let left = dir.with_file_name("ca.new-4711");
    std::fs::rename(&dir, &left).expect("a rename");
    let again = tipstaff(&init);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    let advice = format!("rename {} to {}", left.display(), dir.display());
    assert!(!again.status.success() && said.contains(&advice), "{said}");
    std::fs::rename(&left, &dir).expect("a rename");
    tipstaff_ok(&["ca", "audit", "verify", "--config", &config]);
    // And without anything left of it.
    std::fs::remove_dir_all(&dir).expect("a folder");
    let again = tipstaff(&init);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        said.contains("a database without a CA") && !said.contains("rename"),
        "{said}"
    );
}

/// The database has the CA by then, so its keys must not go with the directory that they were made in.
#[test]
fn an_init_whose_directory_was_taken_meanwhile_keeps_its_keys_and_says_where() {
    let (database, folder) = (Postgres::start(), TempDir::new().expect("a folder"));
    let (config, dir) = unmade(&database, &folder);
    // As those who write lock one another out.
    let hold = "select pg_advisory_lock(8388359422130349670); select pg_sleep(60)";
    let (host, port) = (database.address.ip().to_string(), database.address.port());
    let mut holder = psql_command(&host, port, 60, &["-c", hold]);
    // It is cut off in the end, and would say so.
    let mut holder = holder.stderr(Stdio::null()).spawn().expect("psql");
    let locks = |granted: bool| {
        let locks =
            format!("select pid from pg_locks where locktype = 'advisory' and granted = {granted}");
        let pid = database.ask(&locks);
        (!pid.is_empty()).then(|| pid.trim().to_owned())
    };
    let holds = wait_for("the lock", || locks(true));
    let init = ["ca", "init", "--config", &config];
    let init = [&init[..], &["--trust-domain", "test.example"]].concat();
    let said = std::thread::scope(|scope| {
        let begun = scope.spawn(|| tipstaff(&init));
        wait_for("the database to be waited for", || locks(false));
        std::fs::create_dir_all(dir.join("in the way")).expect("a folder");
        database.ask(&format!("select pg_terminate_backend({holds})"));
        let done = begun.join().expect("it ends");
        assert!(!done.status.success(), "{done:?}");
        String::from_utf8(done.stderr).expect("text")
    });
    holder.wait().expect("it ends");
    let beside = std::fs::read_dir(folder.path()).expect("a folder");
    let mut beside = beside.map(|entry| entry.expect("an entry").path());
    let left = beside.find(|found| path(found).contains("ca.new-"));
    let left = left.expect("the directory that was made");
    let advice = format!("rename {} to {}", left.display(), dir.display());
    assert!(said.contains(&advice), "{said}");
    std::fs::remove_dir_all(&dir).expect("a folder");
    std::fs::rename(&left, &dir).expect("a rename");
    tipstaff_ok(&["ca", "audit", "verify", "--config", &config]);
    tipstaff_ok(&["ca", "drill", "--config", &config]);
}

#[test]
fn a_finish_that_was_cut_off_after_the_database_was_made_is_done_again() {
    let (database, folder) = (Postgres::start(), TempDir::new().expect("a folder"));
    let (config, dir) = unmade(&database, &folder);
    let init = ["ca", "init", "--config", &config];
    let external = ["--trust-domain", "test.example", "--external-root"];
    tipstaff_ok(&[&init[..], &external].concat());
    let request = std::fs::read(dir.join("intermediate.csr")).expect("a file");
    let [chain, other] = ["chain.pem", "other.pem"].map(|name| folder.path().join(name));
    for chain in [&chain, &other] {
        sign(&dir.join("intermediate.csr"), chain);
    }
    let finish = |chain: &PathBuf| tipstaff(&[&init[..], &["--finish", path(chain)]].concat());
    let finished = finish(&chain);
    assert!(finished.status.success(), "{finished:?}");
    let names = ["root.pem", "intermediate.pem", "ca-bundle.pem"];
    for name in names {
        std::fs::remove_file(dir.join(name)).expect("a file");
    }
    std::fs::write(dir.join("intermediate.csr"), request).expect("a file");

    let refused = finish(&other);
    assert!(!refused.status.success(), "the database is another CA's");
    let finished = finish(&chain);
    assert!(finished.status.success(), "{finished:?}");
    tipstaff_ok(&["ca", "audit", "verify", "--config", &config]);
    tipstaff_ok(&["ca", "drill", "--config", &config]);
}

/// Another root each time.
fn sign(request: &Path, chain: &Path) {
    let [key, root, settings, signed] =
        ["key", "root", "ext", "pem"].map(|end| chain.with_extension(end));
    let text = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n\
                subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\nsubjectAltName=URI:spiffe://test.example\n";
    std::fs::write(&settings, text).expect("a file");
    let made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -addext keyUsage=critical,keyCertSign,cRLSign -subj";
    let made = made.split(' ').chain([
        "/CN=Example Root",
        "-keyout",
        path(&key),
        "-out",
        path(&root),
    ]);
    super::run_ok("openssl", &made.collect::<Vec<_>>());
    let ca = ["-CA", path(&root), "-CAkey", path(&key), "-CAcreateserial"];
    let out = [
        "-in",
        path(request),
        "-extfile",
        path(&settings),
        "-out",
        path(&signed),
    ];
    super::run_ok(
        "openssl",
        &[&["x509", "-req", "-days", "365"][..], &ca, &out].concat(),
    );
    let both = [&signed, &root].map(|file| std::fs::read_to_string(file).expect("a file"));
    std::fs::write(chain, both.concat()).expect("a file");
}
