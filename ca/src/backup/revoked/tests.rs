use super::super::tests::{Ca, issue};
use super::super::{RestoreOptions, Restored, settle};
use super::*;
use crate::authority::Authority;
use crate::config::OpenOptions;
use crate::revoke::{MAX_SERIALS, Target};
use crate::rotation::{self, By, Lives, Role};
use crate::store::{Store, Terms, TokenGrant};
use crate::token::JoinToken;
use identity::{Revocations, SpiffeId};
use rustls_pki_types::CertificateDer;
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
        revocations: vec![Source::Path(source)],
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
    let (restored, authority) = restore(&ca, &from(file.clone())).unwrap();
    assert_eq!(restored.settled.revocations, 2);
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
        published_for: Duration::ZERO,
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
    assert_eq!(restored.settled.revocations, 1);
}

/// Has the next intermediate take the place of the present one.
async fn rotate(ca: &Ca) {
    let options = OpenOptions::default();
    let (store, role, lives) = (ca.authority.store(), Role::Intermediate, Lives::default());
    rotation::prepare(&ca.dir, &options, store, role, lives, By::Operator)
        .await
        .unwrap();
    let terms = Terms {
        percent: 100,
        published_for: Duration::ZERO,
        force: true,
    };
    let activated = store.activate_authority(role, terms, By::Operator, SystemTime::now());
    activated.await.unwrap().unwrap();
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
        let restored = ca.restore_with("restored", &from(file.clone()));
        std::fs::remove_file(ca.file()).unwrap();
        std::fs::remove_dir_all(ca.folder.path().join("restored")).ok();
        restored.map(|restored| restored.settled.revocations)
    };
    assert_eq!(restore().unwrap(), 1, "while it is being replaced");
    let terms = Terms {
        percent: 100,
        published_for: Duration::ZERO,
        force: true,
    };
    let retired =
        store.retire_authority(Role::Intermediate, terms, By::Operator, SystemTime::now());
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
    let refused = ca.restore_with("restored", &from(file)).unwrap_err();
    assert!(matches!(refused, BackupError::Revocations(_)), "{refused}");
}

const FREEZE: &str =
    "INSERT INTO frozen_lineage (lineage, spiffe_id, serial, successor, key_hash, frozen_at)
    VALUES ('copied', 'spiffe://demo.test/ns/shop/sa/orders', '0a', '0b', 'cc', 1)";

#[tokio::test]
async fn lineages_that_were_frozen_after_a_backup_are_frozen_again_and_on_record() {
    let ca = Ca::new();
    ca.backup().unwrap();
    ca.edit(FREEZE);
    let (restored, _authority) = restore(&ca, &from(ca.dir.clone())).unwrap();
    assert_eq!(restored.settled.frozen_lineages, 1);
    let place = ca.folder.path().join("restored");
    let frozen = crate::inspect::frozen_lineages(&place, 10).unwrap();
    assert_eq!(frozen[0].lineage, "copied");
    let records = crate::ledger::records(&place, 1, 100).unwrap();
    assert_eq!(records.last().unwrap().fields["frozen"], 1);
}

#[tokio::test]
async fn more_certificates_than_sidecars_can_be_told_are_refused_and_restore_nothing() {
    let ca = Ca::new();
    ca.backup().unwrap();
    let revoke = |count: u64| {
        format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT OR IGNORE INTO revocation (serial, spiffe_id, not_after, revoked_at, reason)
             SELECT printf('%08x', i), '', 99999999999, 1, 'unspecified' FROM n"
        )
    };
    ca.edit(&revoke(MAX_SERIALS + 1));
    let refused = ca.restore_with("restored", &from(ca.dir.clone()));
    let said = crate::causes::in_full(&refused.unwrap_err());
    assert!(said.contains("expected at most 65536 revoked"), "{said}");
    assert!(!ca.folder.path().join("restored").exists());

    ca.edit(&format!("DELETE FROM revocation; {}", revoke(MAX_SERIALS)));
    let (restored, _authority) = restore(&ca, &from(ca.dir.clone())).unwrap();
    assert_eq!(restored.settled.revocations, MAX_SERIALS);
}

/// Records that the database's own means have brought back may have been served from before anybody settles them.
#[tokio::test]
async fn what_was_revoked_meanwhile_hides_nothing_of_what_was_revoked_before() {
    let ca = Ca::new();
    let before = ca.issue().await;
    ca.backup().unwrap();
    revoke(ca.authority.store(), Target::Serial(before.clone())).await;
    let (cart, orders) = (
        SpiffeId::parse("spiffe://demo.test/cart").unwrap(),
        SpiffeId::parse(ORDERS).unwrap(),
    );
    revoke(ca.authority.store(), Target::Identity(orders.clone())).await;

    let (_, authority) = restore(&ca, &RestoreOptions::default()).unwrap();
    // The list here is later than that of the directory as it was, by any clock.
    revoke(authority.store(), Target::Identity(cart.clone())).await;
    let later = SystemTime::now() + Duration::from_secs(3600);
    let more = Target::Identity(SpiffeId::parse("spiffe://demo.test/more").unwrap());
    let revoked = authority.store().revoke(more, Reason::Unspecified, later);
    revoked.await.unwrap().unwrap();
    let sequence = authority.store().revocations().await.unwrap().sequence;
    let place = ca.folder.path().join("restored");
    let settled = settle(&place, &Database::from(&place), &from(ca.dir.clone())).unwrap();
    assert_eq!(settled.revocations, 2);
    let list = authority.store().revocations().await.unwrap();
    assert!(list.sequence > sequence);
    assert_eq!(list.identities.len(), 3);
    assert!(list.identities.contains_key(&orders) && list.identities.contains_key(&cart));
}

#[tokio::test]
async fn of_an_identity_the_last_word_counts_whichever_state_has_it() {
    let ca = Ca::new();
    let row = |since: i64, lifted: &str| {
        format!(
            "DELETE FROM barred; INSERT INTO barred (kind, name, since, lifted_at, reason)
             VALUES ('identity', '{ORDERS}', {since}, {lifted}, 'unspecified')"
        )
    };
    for (case, ours, theirs, barred) in [
        ("lifted there since", row(10, "NULL"), row(10, "20"), false),
        ("lifted here since", row(10, "20"), row(10, "NULL"), false),
        ("revoked there again", row(10, "20"), row(30, "NULL"), true),
        ("revoked here again", row(30, "NULL"), row(10, "20"), true),
        ("both in one second", row(10, "10"), row(10, "NULL"), true),
        ("the same here", row(10, "NULL"), row(10, "10"), true),
    ] {
        ca.edit(&ours);
        ca.backup().unwrap();
        ca.edit(&theirs);
        let (_, authority) = restore(&ca, &from(ca.dir.clone())).unwrap();
        let list = list(&authority);
        let again = list.identities.values().next().unwrap();
        assert_eq!(again.is_none(), barred, "{case}");
        drop(authority);
        std::fs::remove_file(ca.file()).unwrap();
        std::fs::remove_dir_all(ca.folder.path().join("restored")).unwrap();
    }
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
    assert_eq!(restored.settled.void_tokens, 1);
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
