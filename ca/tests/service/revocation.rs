use crate::harness::{CART, Ca, LeafKey, Workload, id, svid, within};
use crate::lineage::{enrol, renew};
use crate::renew::{add_root, watching};
use ca::inspect::certificate;
use ca::lineage::LineageName;
use ca::metrics::Reason as Refusal;
use ca::revoke::{MAX_NAMES_BYTES, MAX_SERIALS, Reason, RevokeError, Target};
use ca::store::Store;
use identity::{Svid, TrustBundle, Usage};
use std::time::SystemTime;
use tonic::Code;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

/// Revokes from beside the server, as the command line does.
async fn revoke(ca: &Ca, target: Target) -> Result<u64, RevokeError> {
    let store = Store::open(&ca.directory()).unwrap();
    let revoked = store.revoke(target, Reason::KeyCompromise, SystemTime::now());
    revoked.await.unwrap()
}

/// The server has read a list that is newer than `held`. Sequences are seconds of the clock, or more.
async fn told(ca: &Ca, held: u64) {
    let mut revocations = ca.authority.revocations();
    let told = revocations.wait_for(|list| list.sequence > held);
    within(told).await.unwrap();
}

fn held(ca: &Ca) -> u64 {
    ca.authority.revocations().borrow().sequence
}

/// What a sidecar makes of a certificate by the list that the server sends.
fn is_revoked(ca: &Ca, svid: &Svid) -> bool {
    let now = SystemTime::now();
    let chain = TrustBundle::verify_chain(&ca.bundle(), svid.chain(), Usage::Client, now);
    let list = ca.authority.revocations().borrow().clone();
    list.check(&chain.unwrap()).is_err()
}

async fn reinstate(ca: &Ca) {
    let target = Target::Identity(id(CART));
    let store = ca.authority.store();
    let lifted = store.lift(target, "a drill".to_owned(), SystemTime::now());
    lifted.await.unwrap().unwrap();
}

fn serial(svid: &Svid) -> Target {
    Target::Serial(svid.leaf().serial.clone())
}

async fn watch(ca: &Ca, svid: &Svid) -> tonic::Streaming<ca::proto::WatchBundleResponse> {
    let mut calls = ca.connect(Some(svid)).await;
    let stream = within(calls.watch_bundle(watching())).await.unwrap();
    stream.into_inner()
}

#[tokio::test]
async fn a_revoked_certificate_is_not_renewed_and_its_enrolment_key_gets_another() {
    let ca = Ca::start().await;
    let workload = Workload::new();
    let (first, other) = (
        enrol(&ca, &workload).await,
        enrol(&ca, &Workload::new()).await,
    );
    let mut open = ca.connect(Some(&first)).await;
    assert_eq!(revoke(&ca, serial(&first)).await, Ok(1));
    // Before the server has read it: the record of a certificate is where it counts.
    let renewal = crate::renew::renewal(&LeafKey::new());
    let refused = open.renew(renewal).await.unwrap_err();
    assert!(refused.message().contains("revoked"), "{refused:?}");
    told(&ca, 0).await;
    // A handshake of TLS 1.3 fails for the client when it first reads.
    if let Ok(mut calls) = ca.try_connect(Some(&first)).await {
        let renewal = crate::renew::renewal(&LeafKey::new());
        calls.renew(renewal).await.unwrap_err();
    }
    renew(&ca, &other, &LeafKey::new()).await.unwrap();
    let mut calls = ca.connect(None).await;
    calls.issue(workload.request(CART, "")).await.unwrap();
    ca.audit();
}

#[tokio::test]
async fn a_revoked_identity_gets_nothing_by_any_way_until_it_is_reinstated_and_its_old_certificates_stay_revoked()
 {
    let ca = Ca::start().await;
    let workload = Workload::new();
    let first = enrol(&ca, &workload).await;
    let mut open = ca.connect(Some(&first)).await;
    assert_eq!(revoke(&ca, Target::Identity(id(CART))).await, Ok(1));
    let renewal = crate::renew::renewal(&LeafKey::new());
    open.renew(renewal).await.unwrap_err();
    let refused = ca
        .connect(None)
        .await
        .issue(workload.request(CART, ""))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let fresh = Workload::new().request(CART, &ca.token(CART).await);
    ca.connect(None).await.issue(fresh).await.unwrap_err();
    assert!(ca.metrics.refused(Refusal::Revoked) >= 2);

    let ca = ca.stop().await.start_again().await;
    ca.connect(None)
        .await
        .issue(workload.request(CART, ""))
        .await
        .unwrap_err();
    let barred = held(&ca);
    reinstate(&ca).await;
    let reply = ca
        .connect(None)
        .await
        .issue(workload.request(CART, ""))
        .await
        .unwrap();
    told(&ca, barred).await;
    let again = workload.svid(reply.into_inner());
    assert!(is_revoked(&ca, &first) && !is_revoked(&ca, &again));
    if let Ok(mut calls) = ca.try_connect(Some(&first)).await {
        let renewal = crate::renew::renewal(&LeafKey::new());
        calls.renew(renewal).await.unwrap_err();
    }
}

#[tokio::test]
async fn what_an_identity_got_once_it_was_reinstated_is_revoked_by_serial_and_by_lineage_as_any_other()
 {
    let ca = Ca::start().await;
    let old = enrol(&ca, &Workload::new()).await;
    revoke(&ca, Target::Identity(id(CART))).await.unwrap();
    reinstate(&ca).await;
    let (one, other) = (
        enrol(&ca, &Workload::new()).await,
        enrol(&ca, &Workload::new()).await,
    );
    let (listed, _) = certificate(&ca.directory(), &other.leaf().serial)
        .unwrap()
        .unwrap();
    let lineage = Target::Lineage(LineageName::new(listed.lineage.unwrap()));
    for (svid, target) in [(&one, serial(&one)), (&other, lineage)] {
        assert!(!is_revoked(&ca, svid));
        let before = held(&ca);
        assert_eq!(revoke(&ca, target).await, Ok(1));
        told(&ca, before).await;
        assert!(is_revoked(&ca, svid));
    }
    assert!(is_revoked(&ca, &old));
}

#[tokio::test]
async fn the_list_stays_as_short_as_sidecars_take_it_and_what_is_on_it_counts_once() {
    let ca = Ca::start().await;
    let workload = Workload::new();
    let first = enrol(&ca, &workload).await;
    assert_eq!(revoke(&ca, serial(&first)).await, Ok(1));
    let database = rusqlite::Connection::open(ca.directory().join("ca.db")).unwrap();
    let fill = |table: &str, row: &str, rows: u64| {
        let sql = format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO {table} SELECT {row} FROM n"
        );
        database.execute(&sql, [rows]).unwrap();
    };
    let row = "'serial ' || i, 'x', 4000000000, 0, 'unspecified'";
    fill("revocation", row, MAX_SERIALS - 1);
    let other = enrol(&ca, &Workload::new()).await;
    assert!(matches!(
        revoke(&ca, serial(&other)).await,
        Err(RevokeError::TooMany { .. })
    ));
    assert_eq!(
        revoke(&ca, serial(&first)).await,
        Ok(1),
        "it is on the list"
    );

    let row = "'identity', 'spiffe://demo.test/many/' || i, 0, NULL, 'unspecified'";
    fill("barred", row, MAX_NAMES_BYTES / 48);
    let identity = || Target::Identity(id(CART));
    assert!(matches!(
        revoke(&ca, identity()).await,
        Err(RevokeError::TooManyNames { .. })
    ));
    database
        .execute("DELETE FROM barred WHERE name LIKE '%/many/1%'", [])
        .unwrap();
    for _ in 0..2 {
        assert_eq!(revoke(&ca, identity()).await, Ok(2));
    }
}

#[tokio::test]
async fn a_revoked_lineage_takes_all_its_certificates_along_and_no_other() {
    let ca = Ca::start().await;
    let workload = Workload::new();
    let first = enrol(&ca, &workload).await;
    let second = renew(&ca, &first, &LeafKey::new()).await.unwrap();
    let other = enrol(&ca, &Workload::new()).await;
    let (listed, _) = certificate(&ca.directory(), &first.leaf().serial)
        .unwrap()
        .unwrap();
    let lineage = Target::Lineage(LineageName::new(listed.lineage.unwrap()));
    assert_eq!(revoke(&ca, lineage).await, Ok(2));
    told(&ca, 0).await;
    let list = ca.authority.revocations().borrow().clone();
    for svid in [&first, &second] {
        assert!(list.serials.contains(&svid.leaf().serial));
    }
    ca.connect(None)
        .await
        .issue(workload.request(CART, ""))
        .await
        .unwrap_err();
    renew(&ca, &other, &LeafKey::new()).await.unwrap();
}

#[tokio::test]
async fn every_watcher_is_told_and_the_revoked_one_hears_no_more() {
    let ca = Ca::start().await;
    let revoked = enrol(&ca, &Workload::new()).await;
    let other = enrol(&ca, &Workload::new()).await;
    let mut streams = [watch(&ca, &revoked).await, watch(&ca, &other).await];
    for stream in &mut streams {
        let first = within(stream.message()).await.unwrap().unwrap();
        assert_eq!(first.revocations.unwrap().sequence, 0);
    }
    revoke(&ca, serial(&revoked)).await.unwrap();
    for stream in &mut streams {
        let update = within(stream.message()).await.unwrap().unwrap();
        assert_eq!(update.revocations.unwrap().serials.len(), 1);
    }
    add_root(&ca).await;
    let [mut revoked, mut other] = streams;
    assert!(matches!(within(revoked.message()).await, Ok(None) | Err(_)));
    within(other.message()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_sidecar_whose_certificate_is_revoked_gets_another_with_its_enrolment_key_at_once() {
    let ca = Ca::start().await;
    let dir = tempfile::tempdir().unwrap();
    let handles = ca.enrolled(CART, &dir.path().join("key")).await;
    let first = svid(&handles).await;
    revoke(&ca, serial(&first)).await.unwrap();
    let mut watched = handles.svid.clone();
    let is_newer = |svid: &Option<std::sync::Arc<Svid>>| {
        svid.as_ref()
            .is_some_and(|svid| svid.leaf().serial != first.leaf().serial)
    };
    within(watched.wait_for(is_newer)).await.unwrap();
    assert!(
        handles
            .revocations
            .borrow()
            .serials
            .contains(&first.leaf().serial)
    );
}

#[tokio::test]
async fn nothing_unknown_is_revoked_and_nothing_that_was_not_revoked_is_lifted() {
    let ca = Ca::start().await;
    let unknown = Target::Serial("0badcafe".to_owned());
    assert_eq!(
        revoke(&ca, unknown).await,
        Err(RevokeError::UnknownSerial("0badcafe".to_owned()))
    );
    let store = ca.authority.store();
    let lifted = store.lift(Target::Identity(id(CART)), String::new(), SystemTime::now());
    assert!(matches!(
        lifted.await.unwrap(),
        Err(RevokeError::NotBarred(_))
    ));
    assert_eq!(ca.authority.revocations().borrow().sequence, 0);
}

#[tokio::test]
async fn the_crl_names_what_is_revoked_and_its_number_grows() {
    let ca = Ca::start().await;
    let revoked = enrol(&ca, &Workload::new()).await;
    let number = |der: &[u8]| {
        let (_, crl) = CertificateRevocationList::from_der(der).unwrap();
        let number = crl.crl_number().unwrap().clone();
        let next = crl.next_update().unwrap().timestamp() - crl.last_update().timestamp();
        assert!(next > 0);
        (number, crl.iter_revoked_certificates().count())
    };
    let empty = ca.authority.crl().await.unwrap();
    assert_eq!(
        ca.authority.crl().await.unwrap(),
        empty,
        "it is not signed anew each time"
    );
    revoke(&ca, serial(&revoked)).await.unwrap();
    told(&ca, 0).await;
    let full = ca.authority.crl().await.unwrap();
    assert_eq!((number(&empty).1, number(&full).1), (0, 1));
    assert!(number(&full).0 > number(&empty).0);
    let (_, crl) = CertificateRevocationList::from_der(&full).unwrap();
    let named = crl.iter_revoked_certificates().next().unwrap();
    let hex = named.raw_serial().iter().skip_while(|octet| **octet == 0);
    let hex: String = hex.map(|octet| format!("{octet:02x}")).collect();
    assert_eq!(hex, revoked.leaf().serial);
}
