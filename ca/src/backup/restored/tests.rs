use super::super::tests::{Ca, issue};
use super::super::{RestoreOptions, Restored};
use super::*;
use crate::authority::Authority;
use crate::config::OpenOptions;
use crate::revoke::Target;
use crate::rotation::{self, By, Lives, Role};
use crate::store::{Store, Terms, TokenGrant};
use crate::token::JoinToken;
use identity::{Revocations, SpiffeId};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const ORDERS: &str = "spiffe://demo.test/ns/shop/sa/orders";

async fn revoke(store: &Store, target: Target) {
    let revoked = store.revoke(target, Reason::KeyCompromise, SystemTime::now());
    revoked.await.unwrap().unwrap();
}

fn from(source: PathBuf) -> RestoreOptions {
    RestoreOptions {
        revocations: vec![source],
        ..RestoreOptions::default()
    }
}

fn restore(ca: &Ca, options: &RestoreOptions) -> Result<(Restored, Authority), BackupError> {
    let restored = ca.restore_with("restored", options)?;
    let place = ca.folder.path().join("restored");
    Ok((
        restored,
        Authority::open(&place, &OpenOptions::default()).unwrap(),
    ))
}

fn list(authority: &Authority) -> Arc<Revocations> {
    authority.revocations().borrow().clone()
}

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

    let (restored, authority) = restore(&ca, &from(ca.dir.clone())).unwrap();
    assert_eq!(restored.revocations, 4);
    let list = list(&authority);
    assert!(list.sequence > told.sequence, "sidecars take it");
    assert_eq!(
        (&list.serials, &list.identities),
        (&told.serials, &told.identities)
    );
    assert_eq!(list.identities.len(), 2);
    let certificates = authority.store().revoked_certificates().await.unwrap().1;
    assert_eq!(certificates.len(), 2);
    let refused = authority
        .issue(super::super::tests::request())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("revoked"), "{refused}");
}

#[tokio::test]
async fn an_older_directory_brings_back_nothing() {
    let ca = Ca::new();
    let serial = ca.issue().await;
    revoke(ca.authority.store(), Target::Serial(serial)).await;
    ca.backup().unwrap();
    let (restored, _) = restore(&ca, &from(ca.dir.clone())).unwrap();
    assert_eq!(restored.revocations, 0);
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
    let (restored, authority) = restore(&ca, &from(file.clone())).unwrap();
    assert_eq!(restored.revocations, 2);
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
        assert!(restore(&ca, &from(file.clone())).is_err());
    }
    assert!(
        restore(&ca, &from(other.dir.clone())).is_err(),
        "another CA's directory"
    );
    assert!(!ca.folder.path().join("restored").exists());
}

#[tokio::test]
async fn the_crl_of_an_intermediate_that_has_replaced_the_first_counts_as_well() {
    let ca = Ca::new();
    let options = OpenOptions::default();
    let (store, role, lives) = (ca.authority.store(), Role::Intermediate, Lives::default());
    rotation::prepare(&ca.dir, &options, store, role, lives, By::Operator)
        .await
        .unwrap();
    ca.backup().unwrap();
    let terms = Terms {
        percent: 100,
        force: false,
    };
    let activated = store.activate_authority(role, terms, By::Operator, SystemTime::now());
    activated.await.unwrap().unwrap();
    let again = Authority::open(&ca.dir, &options).unwrap();
    let serial = issue(&again).await;
    revoke(again.store(), Target::Serial(serial)).await;
    // As one that has served meanwhile.
    let again = Authority::open(&ca.dir, &options).unwrap();
    let file = ca.folder.path().join("last.crl");
    std::fs::write(&file, again.crl().await.unwrap()).unwrap();
    let (restored, _) = restore(&ca, &from(file)).unwrap();
    assert_eq!(restored.revocations, 1);
}

fn octets(serial: &str) -> Vec<u8> {
    crate::revoke::octets(serial).unwrap()
}

#[tokio::test]
async fn unused_tokens_are_void_and_what_came_after_may_be_given_up_at_once() {
    let ca = Ca::new();
    let token = JoinToken::generate();
    let now = SystemTime::now();
    let grant = TokenGrant {
        spiffe_id: SpiffeId::parse(ORDERS).unwrap(),
        created_at: now,
        expires_at: now + Duration::from_secs(3600),
        ttl: None,
    };
    ca.authority
        .store()
        .create_token(&token, grant)
        .await
        .unwrap();
    ca.backup().unwrap();
    ca.issue().await;
    let lost = ca.authority.store().mark(SystemTime::now()).await.unwrap();

    let (restored, authority) = restore(&ca, &RestoreOptions::default()).unwrap();
    assert_eq!(restored.void_tokens, 1);
    let heard = authority
        .store()
        .examine(lost, SystemTime::now())
        .await
        .unwrap();
    assert!(matches!(heard, store::Heard::Lost(_)), "{heard:?}");
    drop(authority);
    std::fs::remove_dir_all(ca.folder.path().join("restored")).unwrap();

    let options = RestoreOptions {
        accept_rollback: true,
        ..RestoreOptions::default()
    };
    let (_, authority) = restore(&ca, &options).unwrap();
    let heard = authority
        .store()
        .examine(lost, SystemTime::now())
        .await
        .unwrap();
    assert_eq!(heard, store::Heard::GivenUp);
    issue(&authority).await;
    let place = ca.folder.path().join("restored");
    let records = crate::ledger::records(&place, 1, 100).unwrap();
    let record = records
        .iter()
        .find(|record| record.kind == "restored")
        .unwrap();
    assert_eq!(record.fields["accepted"], true);
}
