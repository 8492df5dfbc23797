use super::MAX_LAG;
use crate::authority::{Authority, Fault, init};
use crate::config::{InitOptions, KeyProtection, OpenOptions};
use crate::keys::Passphrase;
use identity::TrustDomain;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
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

/// The module does not exist: whoever loads it to log in, fails.
#[tokio::test]
async fn a_key_in_a_token_is_recognised_without_the_token() {
    let token = crate::signer::pkcs11::Token {
        module: "/nonexistent/module.so".into(),
        label: "ca".to_owned(),
        pin: Passphrase::new(b"wrong".to_vec()).unwrap(),
    };
    let open = OpenOptions {
        token: Some(token),
        ..OpenOptions::default()
    };
    let (ca, other) = (ca(&options(), &open), Ca::of(&options()));
    let reference = |of: &Ca| {
        let public = of.authority.signer().issuer.key().public().clone();
        let id = vec![1];
        crate::signer::pkcs11::Reference { id, public }.to_text("intermediate")
    };
    let file = ca.dir.join("intermediate.key");
    fs::write(&file, reference(&ca)).unwrap();
    assert_eq!(ca.authority.faults().await, []);
    fs::write(&file, reference(&other)).unwrap();
    let faults = ca.authority.faults().await;
    assert!(
        matches!(&faults[..], [Fault::Disk(text)] if text.contains("another key")),
        "{faults:?}"
    );
}

#[tokio::test]
async fn changes_that_nobody_can_ask_for_or_read_are_a_fault() {
    let ca = Ca::of(&options());
    let (authority, now) = (&ca.authority, Instant::now());
    assert_eq!(authority.lag_fault(now), None);
    // The counters have not been read since.
    assert_eq!(authority.lag_fault(now + 2 * MAX_LAG), Some(Fault::Behind));

    let change = |sql| {
        let connection = rusqlite::Connection::open(ca.dir.join("ca.db")).unwrap();
        connection.execute_batch(sql).unwrap();
    };
    let until = async |behind: bool| {
        while authority.behind().is_some() != behind {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let steps = async {
        change("ALTER TABLE bundle RENAME TO away; INSERT INTO change VALUES ('bundle', 1000)");
        until(true).await;
        *authority.behind() = now.checked_sub(2 * MAX_LAG);
        assert_eq!(authority.lag_fault(now), Some(Fault::Behind));
        change("ALTER TABLE away RENAME TO bundle");
        until(false).await;
        assert_eq!(authority.lag_fault(now), None);
    };
    tokio::select! {
        () = authority.follow() => {}
        done = tokio::time::timeout(Duration::from_secs(60), steps) => done.expect("it is noticed"),
    }
}

#[tokio::test]
async fn a_look_that_does_not_end_is_a_fault_and_not_joined_by_others() {
    let ca = Ca::of(&options());
    let stuck = ca.authority.on_disk.looking.lock().unwrap();
    assert_eq!(ca.authority.look(), [Fault::LookSlow]);
    drop(stuck);
    assert_eq!(ca.authority.look(), []);
}
