use crate::authority::{Authority, Fault, init};
use crate::config::{InitOptions, KeyProtection, OpenOptions};
use crate::keys::Passphrase;
use identity::TrustDomain;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

struct Ca {
    _folder: TempDir,
    dir: PathBuf,
    authority: Arc<Authority>,
}

fn options() -> InitOptions {
    let domain = TrustDomain::parse("demo.test").unwrap();
    InitOptions::new(domain, KeyProtection::InsecurePlaintext)
}

fn ca(options: &InitOptions, open: &OpenOptions) -> Ca {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    init(&dir, options).unwrap();
    let authority = Arc::new(Authority::open(&dir, open).unwrap());
    Ca {
        _folder: folder,
        dir,
        authority,
    }
}

impl Ca {
    fn of(options: &InitOptions) -> Self {
        ca(options, &OpenOptions::default())
    }
}

#[tokio::test]
async fn a_ca_that_can_work_has_no_faults_and_looking_leaves_no_record() {
    let ca = Ca::of(&options());
    for _ in 0..2 {
        assert_eq!(ca.authority.faults().await, []);
    }
    let report = crate::ledger::verify(&ca.dir).unwrap();
    assert!(report.is_intact() && report.records == 1, "{report}");
}

#[tokio::test]
async fn another_cas_key_on_disk_is_a_fault_until_the_own_is_back() {
    let (ca, other) = (Ca::of(&options()), Ca::of(&options()));
    let own = fs::read(ca.dir.join("intermediate.key")).unwrap();
    fs::copy(
        other.dir.join("intermediate.key"),
        ca.dir.join("intermediate.key"),
    )
    .unwrap();
    let faults = ca.authority.faults().await;
    assert!(
        matches!(&faults[..], [Fault::Disk(text)] if text.contains("another key")),
        "{faults:?}"
    );
    // With its certificate it makes a CA, but not this one.
    for file in ["intermediate.pem", "root.pem", "ca.db"] {
        let (from, to) = (other.dir.join(file), ca.dir.join(file));
        if file != "ca.db" {
            fs::copy(from, to).unwrap();
        }
    }
    let faults = ca.authority.faults().await;
    assert!(matches!(&faults[..], [Fault::Disk(_)]), "{faults:?}");
    for file in ["intermediate.pem", "root.pem"] {
        fs::write(ca.dir.join(file), b"").unwrap();
    }
    fs::write(ca.dir.join("intermediate.key"), own).unwrap();
    let faults = ca.authority.faults().await;
    assert!(matches!(&faults[..], [Fault::Disk(_)]), "{faults:?}");
}

#[tokio::test]
async fn a_key_that_was_encrypted_anew_is_the_same_key() {
    let passphrase = Passphrase::new(b"right".to_vec()).unwrap();
    let mut init = options();
    init.key_protection = KeyProtection::Encrypted(passphrase.clone());
    let open = OpenOptions {
        passphrase: Some(passphrase.clone()),
        ..OpenOptions::default()
    };
    let ca = ca(&init, &open);
    let text = fs::read_to_string(ca.dir.join("intermediate.key")).unwrap();
    let again = crate::keys::resealed(&text, &passphrase);
    assert_ne!(text, again);
    fs::write(ca.dir.join("intermediate.key"), again).unwrap();
    assert_eq!(ca.authority.faults().await, []);

    fs::remove_file(ca.dir.join("intermediate.key")).unwrap();
    let faults = ca.authority.faults().await;
    assert!(matches!(&faults[..], [Fault::Disk(_)]), "{faults:?}");
    fs::write(ca.dir.join("intermediate.key"), text).unwrap();
    assert_eq!(ca.authority.faults().await, []);
}

#[tokio::test]
async fn an_issuer_that_ends_before_the_longest_leaf_is_a_fault() {
    let mut short = options();
    short.intermediate_life = Duration::from_secs(23 * 60 * 60);
    let faults = Ca::of(&short).authority.faults().await;
    assert!(
        matches!(&faults[..], [Fault::IssuerEnds { .. }]),
        "{faults:?}"
    );
}

#[tokio::test]
async fn a_database_file_that_was_replaced_is_a_fault() {
    let ca = Ca::of(&options());
    let file = ca.dir.join("ca.db");
    fs::rename(&file, ca.dir.join("old.db")).unwrap();
    assert!(ca.authority.faults().await.contains(&Fault::LedgerMoved));
    fs::copy(ca.dir.join("old.db"), &file).unwrap();
    assert!(ca.authority.faults().await.contains(&Fault::LedgerMoved));
    fs::rename(ca.dir.join("old.db"), &file).unwrap();
    assert_eq!(ca.authority.faults().await, []);
}

#[tokio::test]
async fn a_ledger_that_takes_no_records_is_a_fault_while_it_lasts() {
    let ca = Ca::of(&options());
    let change = |sql| {
        rusqlite::Connection::open(ca.dir.join("ca.db"))
            .unwrap()
            .execute_batch(sql)
    };
    change("ALTER TABLE change RENAME TO away").unwrap();
    let faults = ca.authority.faults().await;
    let is_ledger = |fault: &Fault| matches!(fault, Fault::Ledger(_));
    assert!(faults.iter().any(is_ledger), "{faults:?}");
    change("ALTER TABLE away RENAME TO change").unwrap();
    assert_eq!(ca.authority.faults().await, []);
}
