use super::*;
use crate::authority::{Authority, Request, Requester, init};
use crate::config::{InitOptions, KeyProtection};
use crate::csr::PublicKey;
use identity::{SpiffeId, TrustDomain};
use rcgen::{KeyPair, PublicKeyData};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

fn new_ca(change: impl FnOnce(&mut InitOptions)) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    let domain = TrustDomain::parse("demo.test").unwrap();
    let mut options = InitOptions::new(domain, KeyProtection::InsecurePlaintext);
    change(&mut options);
    init(&dir, &options).unwrap();
    (folder, dir)
}

async fn issue(authority: &Authority, name: &str, minutes: u64) {
    let key = KeyPair::generate().unwrap();
    let request = Request {
        id: SpiffeId::parse(&format!("spiffe://demo.test/{name}")).unwrap(),
        dns_names: Default::default(),
        public_key: PublicKey::from_spki(&key.subject_public_key_info()).unwrap(),
        ttl: Some(Duration::from_secs(minutes * 60)),
        until: None,
        requester: Requester::Operator,
    };
    authority.issue(request).await.unwrap();
}

fn run(dir: &Path, backup: Option<&BackupToTry<'_>>) -> Report {
    drill(dir, &OpenOptions::default(), backup, SystemTime::now())
}

fn only_problem(report: &Report) -> &str {
    match &report.problems[..] {
        [problem] => problem,
        problems => panic!("{problems:?}"),
    }
}

#[tokio::test]
async fn identities_fail_in_the_order_of_their_last_certificates() {
    let (_folder, dir) = new_ca(|_| {});
    let authority = Authority::open(&dir, &OpenOptions::default()).unwrap();
    for (name, minutes) in [
        ("long", 600),
        ("renewed", 5),
        ("short", 10),
        ("renewed", 50),
    ] {
        issue(&authority, name, minutes).await;
    }
    let before = fs::read(dir.join("ca.db")).unwrap();
    let report = run(&dir, None);
    assert!(report.is_well(), "{:?}", report.problems);
    let names: Vec<_> = report
        .first_to_fail
        .iter()
        .map(|first| first.spiffe_id.as_str())
        .collect();
    let all = [
        "spiffe://demo.test/short",
        "spiffe://demo.test/renewed",
        "spiffe://demo.test/long",
    ];
    assert_eq!(names, all);
    let counts: Vec<_> = report
        .failed_after
        .iter()
        .map(|after| after.identities)
        .collect();
    assert_eq!(counts, [1, 2, 2, 3]);
    assert_eq!((report.identities, report.audit_records), (3, 5));
    assert_eq!(
        fs::read(dir.join("ca.db")).unwrap(),
        before,
        "nothing is changed"
    );
}

#[test]
fn what_is_wrong_is_named() {
    let (_folder, dir) = new_ca(|options| options.intermediate_life = Duration::from_secs(3600));
    assert!(only_problem(&run(&dir, None)).starts_with("issuer: it ends sooner"));

    let (_folder, dir) = new_ca(|_| {});
    fs::write(dir.join("intermediate.key"), "no key").unwrap();
    assert!(only_problem(&run(&dir, None)).starts_with("issuing key: "));

    let (_folder, dir) = new_ca(|_| {});
    let database = rusqlite::Connection::open(dir.join("ca.db")).unwrap();
    database
        .execute_batch("UPDATE audit SET time_ms = time_ms + 1")
        .unwrap();
    assert!(only_problem(&run(&dir, None)).starts_with("ledger: "));
}

#[tokio::test]
async fn a_backup_is_opened_and_held_against_the_ca() {
    let (folder, dir) = new_ca(|_| {});
    let authority = Authority::open(&dir, &OpenOptions::default()).unwrap();
    let file = folder.path().join("backup.age");
    let passphrase = |text: &str| Passphrase::new(text.as_bytes().to_vec()).unwrap();
    let older = folder.path().join("older");
    backup::backup(&dir, &Database::from(&dir), &file, &passphrase("right")).unwrap();
    let options = backup::RestoreOptions::default();
    backup::restore(&file, &older, &passphrase("right"), &options).unwrap();
    issue(&authority, "orders", 10).await;
    let try_with = |file, text| BackupToTry {
        file,
        passphrase: passphrase(text),
    };

    let report = run(&dir, Some(&try_with(&file, "right")));
    assert!(report.is_well(), "{:?}", report.problems);
    assert_eq!(report.backup.unwrap().records_behind, 1);
    assert!(only_problem(&run(&dir, Some(&try_with(&file, "wrong")))).starts_with("backup: "));

    // What was restored from the first backup is older than the second.
    let second = folder.path().join("second.age");
    backup::backup(&dir, &Database::from(&dir), &second, &passphrase("right")).unwrap();
    let report = run(&older, Some(&try_with(&second, "right")));
    assert!(
        only_problem(&report).contains("older state of itself"),
        "{report:?}"
    );
    assert!(!folder.path().join("second.drill").exists());
}
