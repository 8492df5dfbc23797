use super::*;
use crate::authority::{Authority, Request, Requester, init};
use crate::config::{InitOptions, KeyProtection};
use crate::csr::PublicKey;
use crate::rotation::{self, By, Lives, Role};
use crate::store::Terms;
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

#[tokio::test]
async fn a_backup_from_before_the_root_was_replaced_is_a_problem() {
    let (folder, dir) = new_ca(|_| {});
    let options = OpenOptions::default();
    let authority = Authority::open(&dir, &options).unwrap();
    let passphrase = || Passphrase::new(b"right".to_vec()).unwrap();
    let problems = |name: &str| {
        let file = folder.path().join(name);
        if !file.exists() {
            backup::backup(&dir, &Database::from(&dir), &file, &passphrase()).unwrap();
        }
        let backup = BackupToTry {
            file: &file,
            passphrase: passphrase(),
        };
        run(&dir, Some(&backup)).problems
    };
    assert!(problems("before").is_empty());
    let (store, role) = (authority.store(), Role::Root);
    let lives = Lives::default();
    rotation::prepare(&dir, &options, store, role, lives, By::Operator)
        .await
        .unwrap();
    assert!(problems("before").is_empty() && problems("prepared").is_empty());
    let terms = Terms {
        percent: 100,
        published_for: Duration::ZERO,
        force: false,
    };
    let activated = store.activate_authority(role, terms, By::Operator, SystemTime::now());
    activated.await.unwrap().unwrap();
    let [problem] = &problems("before")[..] else {
        panic!("{:?}", problems("before"));
    };
    assert!(
        problem.contains("does not know the root that signs now"),
        "{problem}"
    );
    assert!(problems("prepared").is_empty() && problems("active").is_empty());
}
