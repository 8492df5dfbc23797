use super::super::RestoreOptions;
use super::super::tests::{Ca, ORDERS, issue, list, request, revoke, taking};
use super::*;
use crate::authority::Authority;
use crate::config::OpenOptions;
use crate::revoke::Target;
use crate::rotation::{self, By, Lives, Role};
use crate::store::Terms;
use identity::SpiffeId;
use rustls_pki_types::CertificateDer;
use std::time::{Duration, SystemTime};

#[tokio::test]
async fn what_was_revoked_after_a_backup_is_taken_from_the_directory_as_it_was() {
    let ca = Ca::new();
    let before = ca.issue().await;
    ca.backup().unwrap();
    let (after, cart) = (
        ca.issue().await,
        SpiffeId::parse("spiffe://demo.test/cart").unwrap(),
    );
    let store = ca.authority.store();
    for serial in [&before, &after] {
        revoke(store, Target::Serial(serial.clone())).await;
    }
    revoke(store, Target::Identity(SpiffeId::parse(ORDERS).unwrap())).await;
    // One that may have certificates again keeps that, too.
    revoke(store, Target::Identity(cart.clone())).await;
    let lifted = store.lift(
        Target::Identity(cart.clone()),
        "a drill".to_owned(),
        SystemTime::now(),
    );
    lifted.await.unwrap().unwrap();
    let told = store.revocations().await.unwrap();

    let (restored, authority) = ca.restore_and_open(&taking(ca.dir.clone())).unwrap();
    assert_eq!(restored.settled.revocations, 4);
    let list = list(&authority);
    assert!(list.sequence > told.sequence, "sidecars take it");
    assert_eq!(
        (&list.serials, &list.identities),
        (&told.serials, &told.identities)
    );
    assert_eq!(list.identities.len(), 2);
    let certificates = authority.store().revoked_certificates().await.unwrap().1;
    assert_eq!(certificates.len(), 2);
    let refused = authority.issue(request()).await.unwrap_err();
    assert!(refused.to_string().contains("revoked"), "{refused}");
}

#[tokio::test]
async fn an_older_directory_brings_back_nothing() {
    let ca = Ca::new();
    let serial = ca.issue().await;
    revoke(ca.authority.store(), Target::Serial(serial)).await;
    ca.backup().unwrap();
    let (restored, _) = ca.restore_and_open(&taking(ca.dir.clone())).unwrap();
    assert_eq!(restored.settled.revocations, 0);
}

#[tokio::test]
async fn certificates_revoked_after_a_backup_are_taken_from_a_crl() {
    let ca = Ca::new();
    let before = ca.issue().await;
    ca.backup().unwrap();
    let after = ca.issue().await;
    for serial in [&before, &after] {
        revoke(ca.authority.store(), Target::Serial(serial.clone())).await;
    }
    // As one that has served meanwhile.
    let again = Authority::open(&ca.dir, &OpenOptions::default()).unwrap();
    let der = again.crl().await.unwrap();
    let file = ca.folder.path().join("last.crl");
    std::fs::write(&file, &der).unwrap();
    let (restored, authority) = ca.restore_and_open(&taking(file.clone())).unwrap();
    assert_eq!(restored.settled.revocations, 2);
    let [read] = &restored.settled.crls[..] else {
        panic!("{restored:?}");
    };
    let made_at = &rfc3339(listed_at(&der))[..];
    assert_eq!((&read.path, &read.made_at[..]), (&file, made_at));
    let list = list(&authority);
    assert!(
        list.serials.contains(&before) && list.serials.contains(&after),
        "{list:?}"
    );
    // The end of one that only the CRL knows is no earlier than it can be.
    let (_, entries) = authority.store().revoked_certificates().await.unwrap();
    assert!(
        entries
            .iter()
            .all(|entry| entry.reason == Reason::KeyCompromise)
    );

    std::fs::remove_dir_all(ca.folder.path().join("restored")).unwrap();
    let mut forged = der.clone();
    let serial = der
        .windows(4)
        .rposition(|window| window == &octets(&after)[..4])
        .unwrap();
    forged[serial] ^= 1;
    let other = Ca::new();
    let of_another = Authority::open(&other.dir, &OpenOptions::default())
        .unwrap()
        .crl()
        .await
        .unwrap();
    for bytes in [
        forged,
        of_another,
        der[..der.len() - 1].to_vec(),
        Vec::new(),
    ] {
        std::fs::write(&file, &bytes).unwrap();
        assert!(ca.restore_and_open(&taking(file.clone())).is_err());
    }
    assert!(
        ca.restore_and_open(&taking(other.dir.clone())).is_err(),
        "another CA's directory"
    );
    assert!(!ca.folder.path().join("restored").exists());
}

#[tokio::test]
async fn the_crl_of_an_intermediate_that_has_replaced_the_first_counts_as_well() {
    let ca = Ca::new();
    prepare(&ca).await;
    ca.backup().unwrap();
    activate(&ca).await;
    let options = OpenOptions::default();
    let again = Authority::open(&ca.dir, &options).unwrap();
    let serial = issue(&again).await;
    revoke(again.store(), Target::Serial(serial)).await;
    // As one that has served meanwhile.
    let again = Authority::open(&ca.dir, &options).unwrap();
    let file = ca.folder.path().join("last.crl");
    std::fs::write(&file, again.crl().await.unwrap()).unwrap();
    let (restored, _) = ca.restore_and_open(&taking(file)).unwrap();
    assert_eq!(restored.settled.revocations, 1);
}

const NOW: Terms = Terms {
    percent: 100,
    published_for: Duration::ZERO,
    force: true,
};

async fn prepare(ca: &Ca) {
    let (store, role, lives) = (ca.authority.store(), Role::Intermediate, Lives::default());
    let options = OpenOptions::default();
    rotation::prepare(&ca.dir, &options, store, role, lives, By::Operator)
        .await
        .unwrap();
}

async fn activate(ca: &Ca) {
    let store = ca.authority.store();
    let activated =
        store.activate_authority(Role::Intermediate, NOW, By::Operator, SystemTime::now());
    activated.await.unwrap().unwrap();
}

/// Has the next intermediate take the place of the present one.
async fn rotate(ca: &Ca) {
    prepare(ca).await;
    activate(ca).await;
}

#[tokio::test]
async fn the_crl_of_a_former_intermediate_counts_unless_that_is_revoked() {
    let ca = Ca::new();
    let serial = ca.issue().await;
    revoke(ca.authority.store(), Target::Serial(serial)).await;
    let former = std::fs::read(ca.dir.join(INTERMEDIATE_CERTIFICATE)).unwrap();
    let former = CertificateDer::from_pem_slice(&former).unwrap();
    let again = Authority::open(&ca.dir, &OpenOptions::default()).unwrap();
    let file = ca.folder.path().join("former.crl");
    std::fs::write(&file, again.crl().await.unwrap()).unwrap();
    drop(again);
    // As if that had come after the backup.
    ca.edit("DELETE FROM revocation");
    rotate(&ca).await;
    let store = ca.authority.store();
    let restore = || {
        ca.backup().unwrap();
        let restored = ca.restore_with("restored", &taking(file.clone()));
        std::fs::remove_file(ca.file()).unwrap();
        std::fs::remove_dir_all(ca.folder.path().join("restored")).ok();
        restored.map(|restored| restored.settled.revocations)
    };
    assert_eq!(restore().unwrap(), 1, "while it is being replaced");
    let retired = store.retire_authority(Role::Intermediate, NOW, By::Operator, SystemTime::now());
    retired.await.unwrap().unwrap();
    assert_eq!(restore().unwrap(), 1, "once it is retired");

    revoke(store, Target::authority(&former).unwrap()).await;
    let refused = restore().unwrap_err();
    assert!(matches!(refused, BackupError::Revocations(_)), "{refused}");
}

#[tokio::test]
async fn the_crl_of_an_intermediate_below_a_revoked_root_does_not_count() {
    let ca = Ca::new();
    rotate(&ca).await;
    let again = Authority::open(&ca.dir, &OpenOptions::default()).unwrap();
    let file = ca.folder.path().join("last.crl");
    std::fs::write(&file, again.crl().await.unwrap()).unwrap();
    drop(again);
    let root = std::fs::read(ca.dir.join("root.pem")).unwrap();
    let root = CertificateDer::from_pem_slice(&root).unwrap();
    revoke(ca.authority.store(), Target::authority(&root).unwrap()).await;
    ca.backup().unwrap();
    let refused = ca.restore_with("restored", &taking(file)).unwrap_err();
    assert!(matches!(refused, BackupError::Revocations(_)), "{refused}");
}

/// Whoever has the key of an authority that was revoked after the backup may have written the list.
#[tokio::test]
async fn a_crl_beside_records_that_have_revoked_its_authority_does_not_count() {
    let ca = Ca::new();
    let again = Authority::open(&ca.dir, &OpenOptions::default()).unwrap();
    let file = ca.folder.path().join("last.crl");
    std::fs::write(&file, again.crl().await.unwrap()).unwrap();
    drop(again);
    ca.backup().unwrap();
    let both = [file, ca.dir.clone()].map(Source::Path);
    let both = RestoreOptions {
        revocations: both.to_vec(),
        ..RestoreOptions::default()
    };
    let (restored, authority) = ca.restore_and_open(&both).unwrap();
    assert_eq!(restored.settled.crls.len(), 1);
    drop(authority);
    std::fs::remove_dir_all(ca.folder.path().join("restored")).unwrap();

    for name in [ROOT_CERTIFICATE, INTERMEDIATE_CERTIFICATE] {
        ca.edit("DELETE FROM barred");
        let pem = std::fs::read(ca.dir.join(name)).unwrap();
        let der = CertificateDer::from_pem_slice(&pem).unwrap();
        revoke(ca.authority.store(), Target::authority(&der).unwrap()).await;
        let refused = ca.restore_with("restored", &both).unwrap_err();
        assert!(
            matches!(refused, BackupError::Revocations(_)),
            "{name}: {refused}"
        );
    }
}

fn listed_at(der: &[u8]) -> i64 {
    let (_, list) = CertificateRevocationList::from_der(der).unwrap();
    list.tbs_cert_list.this_update.timestamp()
}

fn octets(serial: &str) -> Vec<u8> {
    crate::revoke::octets(serial).unwrap()
}
