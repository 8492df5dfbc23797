use super::*;
use crate::config::{InitOptions, KeyProtection, OpenOptions};
use crate::csr::PublicKey;
use crate::token::JoinToken;
use crate::{Authority, Request, Requester, ledger};
use identity::{SpiffeId, TrustDomain};
use rcgen::{KeyPair, PublicKeyData};
use rusqlite::Connection;
use std::time::Duration;
use tempfile::TempDir;

pub(super) const ORDERS: &str = "spiffe://demo.test/ns/shop/sa/orders";
pub(super) const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn new_ca() -> (TempDir, Authority) {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("ca");
    let domain = TrustDomain::parse("demo.test").unwrap();
    let options = InitOptions::new(domain, KeyProtection::InsecurePlaintext);
    crate::init(&directory, &options).unwrap();
    let ca = Authority::open(&directory, &OpenOptions::default()).unwrap();
    (temporary, ca)
}

pub(super) fn key() -> PublicKey {
    let key = KeyPair::generate().unwrap();
    PublicKey::from_spki(&key.subject_public_key_info()).unwrap()
}

pub(super) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

pub(super) async fn token(store: &Store, spiffe_id: &str) -> JoinToken {
    let token = JoinToken::generate();
    let created_at = SystemTime::now();
    let grant = TokenGrant {
        spiffe_id: id(spiffe_id),
        created_at,
        expires_at: created_at + HOUR,
        ttl: Some(HOUR / 2),
    };
    store.create_token(&token, grant).await.unwrap();
    token
}

pub(super) fn audit(temporary: &TempDir) -> ledger::Report {
    ledger::verify(&temporary.path().join("ca")).unwrap()
}

pub(super) async fn issue(ca: &Authority) -> Result<crate::Issued, crate::authority::IssueError> {
    ca.issue(order(ORDERS, Requester::Operator)).await
}

pub(super) fn order(spiffe_id: &str, requester: Requester) -> Request {
    Request {
        id: id(spiffe_id),
        dns_names: Default::default(),
        public_key: key(),
        ttl: None,
        until: None,
        requester,
    }
}

#[tokio::test]
async fn a_token_enrols_one_key_which_may_retry() {
    let (temporary, ca) = new_ca();
    let (store, now) = (ca.store(), SystemTime::now());
    let token = token(store, ORDERS).await;
    let (first, second) = (key(), key());
    let redeem = |key, now| {
        let token = &token;
        async move { store.redeem(token, &id(ORDERS), key, now).await.unwrap() }
    };

    let enrolment = redeem(&first, now).await.unwrap();
    assert_eq!(enrolment.ttl, Some(HOUR / 2));
    assert_eq!(redeem(&first, now + 2 * HOUR).await, Ok(enrolment.clone()));
    assert_eq!(
        redeem(&second, now).await,
        Err(RedeemError::UsedByAnotherKey)
    );
    assert_eq!(
        store.enrolment(&first.hash()).await.unwrap(),
        Some(enrolment)
    );
    assert_eq!(store.enrolment(&second.hash()).await.unwrap(), None);
    // init, token, enrolment, one refusal; the retry left nothing.
    assert_eq!(audit(&temporary).records, 4);
}

#[tokio::test]
async fn tokens_that_give_nothing() {
    let (temporary, ca) = new_ca();
    let (store, now) = (ca.store(), SystemTime::now());
    let other = "spiffe://demo.test/ns/shop/sa/front";
    let orders = token(store, ORDERS).await;
    let front = token(store, other).await;
    let enrolled = key();
    store
        .redeem(&front, &id(other), &enrolled, now)
        .await
        .unwrap()
        .unwrap();
    let before = audit(&temporary).records;

    let unknown = JoinToken::generate();
    let asked = id(other);
    for (token, asked, key, now, expected, audited) in [
        (&unknown, id(ORDERS), &key(), now, RedeemError::Unknown, 0),
        (
            &orders,
            id(ORDERS),
            &key(),
            now + 2 * HOUR,
            RedeemError::Expired,
            1,
        ),
        (
            &orders,
            asked.clone(),
            &key(),
            now,
            RedeemError::OtherId { asked },
            1,
        ),
        (
            &orders,
            id(ORDERS),
            &enrolled,
            now,
            RedeemError::KeyOfAnotherId,
            1,
        ),
    ] {
        let records = audit(&temporary).records;
        let refused = store.redeem(token, &asked, key, now).await.unwrap();
        assert_eq!(refused, Err(expected.clone()));
        assert_eq!(audit(&temporary).records, records + audited, "{expected}");
    }
    assert_eq!(audit(&temporary).records, before + 3);
    assert!(
        store
            .redeem(&orders, &id(ORDERS), &key(), now)
            .await
            .unwrap()
            .is_ok()
    );
}

#[tokio::test]
async fn of_two_keys_that_present_a_token_one_gets_it() {
    let (_temporary, ca) = new_ca();
    for _ in 0..20 {
        let token = token(ca.store(), ORDERS).await;
        let (a, b, orders, now) = (key(), key(), id(ORDERS), SystemTime::now());
        let (a, b) = tokio::join!(
            ca.store().redeem(&token, &orders, &a, now),
            ca.store().redeem(&token, &orders, &b, now)
        );
        assert_ne!(a.unwrap().is_ok(), b.unwrap().is_ok());
    }
}

#[tokio::test]
async fn a_used_token_cannot_fill_the_disk() {
    let (temporary, ca) = new_ca();
    let token = token(ca.store(), ORDERS).await;
    let now = SystemTime::now();
    ca.store()
        .redeem(&token, &id(ORDERS), &key(), now)
        .await
        .unwrap()
        .unwrap();
    let before = audit(&temporary).records;
    for _ in 0..3 * MAX_REFUSALS_PER_TOKEN {
        let refused = ca
            .store()
            .redeem(&token, &id(ORDERS), &key(), now)
            .await
            .unwrap();
        assert_eq!(refused, Err(RedeemError::UsedByAnotherKey));
    }
    assert_eq!(
        audit(&temporary).records,
        before + u64::from(MAX_REFUSALS_PER_TOKEN)
    );
}

#[tokio::test]
async fn the_secret_of_a_token_is_not_in_the_database() {
    let (temporary, ca) = new_ca();
    let token = token(ca.store(), ORDERS).await;
    drop(ca);
    let text = token.reveal();
    for entry in std::fs::read_dir(temporary.path().join("ca")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(
            !bytes
                .windows(43)
                .any(|window| window == &text.as_bytes()[4..])
        );
    }
}

#[tokio::test]
async fn a_full_disk_withholds_the_certificate_and_recovers() {
    let (temporary, ca) = new_ca();
    set_max_pages(&ca, 1).await;
    let mut refused = 0;
    // Free space in pages that exist already takes a few.
    for _ in 0..200 {
        if let Err(error) = issue(&ca).await {
            assert!(
                matches!(
                    error,
                    crate::authority::IssueError::Record(StoreError::CannotRecord(_))
                ),
                "{error}"
            );
            refused += 1;
        }
    }
    assert!(refused > 0);
    let report = audit(&temporary);
    assert!(report.is_intact(), "{report}");
    assert_eq!(report.certificates, 200 - refused);

    set_max_pages(&ca, 1_000_000).await;
    issue(&ca).await.unwrap();
}

#[tokio::test]
async fn room_is_kept_for_issuance_and_not_spent_on_refusals() {
    let (temporary, ca) = new_ca();
    let orders = token(ca.store(), ORDERS).await;
    issue(&ca).await.unwrap();
    let before = audit(&temporary).records;
    // No disk has so much room that none need be kept.
    let store = Store::open_with_reserve((&temporary.path().join("ca")).into(), u64::MAX).unwrap();
    let now = SystemTime::now();
    let refusal = Refusal {
        caller: ORDERS.to_owned(),
        operation: "renew",
        reason: "x".to_owned(),
    };
    store.record_refusal(refusal.clone(), now).await.unwrap();
    let redeemed = |key, at| {
        let (store, orders) = (&store, &orders);
        async move { store.redeem(orders, &id(ORDERS), &key, at).await.unwrap() }
    };
    assert_eq!(
        redeemed(key(), now + 2 * HOUR).await,
        Err(RedeemError::Expired)
    );
    assert_eq!(audit(&temporary).records, before);
    assert!(redeemed(key(), now).await.is_ok());
    assert_eq!(audit(&temporary).records, before + 1);

    ca.store().record_refusal(refusal, now).await.unwrap();
    assert_eq!(audit(&temporary).records, before + 2);
}

/// SQLite takes the present size for a smaller maximum.
async fn set_max_pages(ca: &Authority, pages: u32) {
    ca.store()
        .writer
        .write(move |batch| {
            let set = format!("PRAGMA max_page_count = {pages}");
            Ok(batch.sqlite().query_row(&set, [], |_| Ok(()))?)
        })
        .await
        .unwrap();
}

/// What a crash or a failing disk at the commit does: the certificate was signed, and nobody gets it.
#[tokio::test]
async fn a_failed_commit_leaves_neither_certificate_nor_record() {
    let (temporary, ca) = new_ca();
    // A foreign key that is checked at the commit, and does not hold.
    let poison = |batch: &mut Batch<'_, '_>| {
        let connection = batch.sqlite();
        connection.pragma_update(None, "defer_foreign_keys", true)?;
        connection.execute(
            "INSERT INTO certificate (serial, spiffe_id, not_before, not_after, renew_at, der, audit_seq) VALUES ('1', 'x', 0, 0, 0, x'00', 4711)",
            [],
        )?;
        Ok(())
    };
    let (poisoned, issued) = tokio::join!(ca.store().writer.write(poison), issue_beside(&ca));
    assert!(matches!(poisoned, Err(StoreError::CannotRecord(_))));
    let report = audit(&temporary);
    assert!(report.is_intact(), "{report}");
    assert_eq!(report.certificates, issued);
    issue(&ca).await.unwrap();
    assert_eq!(audit(&temporary).certificates, issued + 1);
}

/// How many of several certificates, asked for at once, were given out.
async fn issue_beside(ca: &Authority) -> u64 {
    let (a, b, c) = tokio::join!(issue(ca), issue(ca), issue(ca));
    [a.is_ok(), b.is_ok(), c.is_ok()]
        .into_iter()
        .map(u64::from)
        .sum()
}

#[test]
fn a_missing_or_newer_database_does_not_open() {
    let temporary = tempfile::tempdir().unwrap();
    assert!(matches!(
        Store::open(temporary.path()),
        Err(StoreError::CannotRead(_))
    ));
    let (temporary, ca) = new_ca();
    drop(ca);
    let directory = temporary.path().join("ca");
    let connection = Connection::open(directory.join(directory::DATABASE)).unwrap();
    // A later release says with each migration which programs can go on.
    let migrated = |version, oldest| {
        let sql = "INSERT INTO schema_version (version, oldest) VALUES (?1, ?2)";
        connection.execute(sql, [version, oldest]).unwrap();
        Store::open(&directory).map(drop)
    };
    let next = schema::VERSION + 1;
    assert!(migrated(next, schema::VERSION).is_ok());
    assert!(crate::inspect::overview(&directory, &directory, SystemTime::now()).is_ok());
    let refused = migrated(next + 1, next);
    assert!(
        matches!(refused, Err(StoreError::Version { found, oldest }) if (found, oldest) == (next + 1, next)),
        "{refused:?}"
    );
    assert!(crate::inspect::overview(&directory, &directory, SystemTime::now()).is_err());

    connection
        .execute_batch("DROP TABLE schema_version")
        .unwrap();
    let foreign = Store::open(&directory).map(drop);
    assert!(
        matches!(foreign, Err(StoreError::Version { found: 0, .. })),
        "{foreign:?}"
    );
}

#[tokio::test]
async fn a_running_ca_writes_no_more_once_the_database_takes_a_newer_program() {
    let (temporary, ca) = new_ca();
    let database = temporary.path().join("ca").join(directory::DATABASE);
    let connection = Connection::open(database).unwrap();
    let migrated = |version, oldest| {
        let sql = "INSERT INTO schema_version (version, oldest) VALUES (?1, ?2)";
        connection.execute(sql, [version, oldest]).unwrap();
    };
    let next = schema::VERSION + 1;
    migrated(next, schema::VERSION);
    issue(&ca).await.unwrap();
    let before = audit(&temporary).records;

    migrated(next + 1, next);
    issue(&ca).await.unwrap_err();
    assert!(ca.store().bundle().await.is_err(), "what it knows is old");
    let records = "SELECT count(*) FROM audit";
    let after: u64 = connection.query_row(records, [], |row| row.get(0)).unwrap();
    assert_eq!(after, before);
}

/// What another process or replica changes is noticed by polling, what this one changes at once.
#[tokio::test]
async fn a_change_is_heard_of_by_every_open_store() {
    let (temporary, ca) = new_ca();
    let other = Store::open(&temporary.path().join("ca")).unwrap();
    let mut heard = [ca.store().state(), other.state()];
    assert_eq!(heard[1].borrow_and_update().versions.of(Topic::Bundle), 0);
    let bundle = TrustBundle::clone(&ca.bundle().borrow());
    ca.store()
        .publish_bundle(bundle, SystemTime::now())
        .await
        .unwrap();
    for heard in &mut heard {
        let changed = heard.wait_for(|state| state.versions.of(Topic::Bundle) == 1);
        tokio::time::timeout(Duration::from_secs(30), changed)
            .await
            .expect("it is heard of")
            .unwrap();
    }
}

#[tokio::test]
async fn commits_are_synced() {
    let (_temporary, ca) = new_ca();
    let (synchronous, journal): (i32, String) = ca
        .store()
        .writer
        .write(|batch| {
            let connection = batch.sqlite();
            let journal = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
            let synchronous =
                connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
            Ok((synchronous, journal))
        })
        .await
        .unwrap();
    assert_eq!((synchronous, journal.as_str()), (2, "wal"));
}
