use crate::harness::{CART, Ca, LeafKey, Workload, svid, within};
use crate::relay::Relay;
use crate::renew::renewal;
use ca::client;
use ca::inspect::frozen_lineages;
use ca::lineage::LineageName;
use ca::metrics::{Call, Reason};
use ca::proto::IssueJwtRequest;
use ca::readiness::Monitor;
use ca::server::Options;
use identity::Svid;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tonic::{Code, Status};

/// Asks for the successor of `svid`, for `leaf`.
pub(crate) async fn renew(ca: &Ca, svid: &Svid, leaf: &LeafKey) -> Result<Svid, Status> {
    let reply = ca.connect(Some(svid)).await.renew(renewal(leaf)).await?;
    Ok(leaf.svid(reply.into_inner().certificate.unwrap().chain))
}

pub(crate) async fn enrol(ca: &Ca, workload: &Workload) -> Svid {
    let request = workload.request(CART, &ca.token(CART).await);
    let reply = ca.connect(None).await.issue(request).await.unwrap();
    workload.svid(reply.into_inner())
}

/// A lineage that a thief of its first certificate's key has renewed before its owner did.
struct Stolen {
    owner: Workload,
    first: Svid,
    thief: Svid,
}

impl Stolen {
    async fn from(ca: &Ca) -> Self {
        let owner = Workload::new();
        let first = enrol(ca, &owner).await;
        let thief = renew(ca, &first, &LeafKey::new()).await.unwrap();
        let refused = renew(ca, &first, &LeafKey::new()).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(
            refused
                .message()
                .contains("renewed with another key before")
        );
        Self {
            owner,
            first,
            thief,
        }
    }
}

#[tokio::test]
async fn a_renewal_whose_reply_was_lost_is_answered_again_for_the_same_key() {
    let ca = Ca::start().await;
    let first = enrol(&ca, &Workload::new()).await;
    let leaf = LeafKey::new();
    let lost = renew(&ca, &first, &leaf).await.unwrap();
    let repeated = renew(&ca, &first, &leaf).await.unwrap();
    assert_eq!(lost.id(), repeated.id());
    for successor in [&lost, &repeated] {
        renew(&ca, successor, &LeafKey::new()).await.unwrap();
    }
    assert!(frozen_lineages(&ca.directory(), 10).unwrap().is_empty());
    ca.audit();
}

#[tokio::test]
async fn a_second_successor_with_another_key_freezes_the_lineage_for_both_and_for_the_enrolment_key()
 {
    let ca = Ca::start().await;
    let stolen = Stolen::from(&ca).await;
    for svid in [&stolen.first, &stolen.thief] {
        let refused = renew(&ca, svid, &LeafKey::new()).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains("is frozen"), "{refused:?}");
    }
    let again = stolen.owner.request(CART, "");
    let refused = ca.connect(None).await.issue(again).await.unwrap_err();
    assert!(refused.message().contains("is frozen"), "{refused:?}");

    let frozen = frozen_lineages(&ca.directory(), 10).unwrap();
    assert_eq!(frozen.len(), 1, "{frozen:?}");
    assert_eq!(frozen[0].serial, stolen.first.leaf().serial);
    assert_eq!(frozen[0].successor, stolen.thief.leaf().serial);
    let listed = ca::inspect::certificates(&ca.directory(), SystemTime::now(), 10).unwrap();
    assert_eq!(listed.iter().filter(|one| one.frozen).count(), 2);
    assert_eq!(ca.metrics.refused(Reason::SecondSuccessor), 1);
    assert_eq!(ca.metrics.refused(Reason::FrozenLineage), 3);
    let records = ca::ledger::records(&ca.directory(), 1, 100).unwrap();
    assert!(records.iter().any(|record| record.kind == "lineage_frozen"));
    ca.audit();
}

#[tokio::test]
async fn the_certificates_of_a_frozen_lineage_bring_no_tokens() {
    let ca = Ca::start_with_tokens().await;
    let asked = IssueJwtRequest {
        audience: vec!["api".to_owned()],
        ..IssueJwtRequest::default()
    };
    let stolen = Stolen::from(&ca).await;
    for svid in [&stolen.first, &stolen.thief] {
        let mut calls = ca.connect(Some(svid)).await;
        let refused = calls.issue_jwt(asked.clone()).await.unwrap_err();
        assert!(refused.message().contains("is frozen"), "{refused:?}");
    }
}

#[tokio::test]
async fn frozen_lineages_are_a_gauge_until_they_are_thawed() {
    let ca = Ca::start().await;
    let shown = async |count: u32| {
        let _monitor = Monitor::start(Arc::clone(&ca.authority), Arc::clone(&ca.metrics)).await;
        let row = format!("tipstaff_ca_frozen_lineages {count}\n");
        assert!(ca.metrics.render().contains(&row), "{row}");
    };
    shown(0).await;
    Stolen::from(&ca).await;
    Stolen::from(&ca).await;
    shown(2).await;
    let frozen = frozen_lineages(&ca.directory(), 10).unwrap();
    let lineage = LineageName::new(&*frozen[0].lineage);
    let store = ca.authority.store();
    let thawed = store.thaw(lineage, "a test".to_owned(), SystemTime::now());
    assert!(thawed.await.unwrap());
    shown(1).await;
}

#[tokio::test]
async fn another_enrolment_of_the_same_identity_is_not_frozen_with_it() {
    let ca = Ca::start().await;
    let other = enrol(&ca, &Workload::new()).await;
    Stolen::from(&ca).await;
    renew(&ca, &other, &LeafKey::new()).await.unwrap();
}

/// A restarted sidecar proves anew who it is, and nobody renews what it had before; nor what a thief has made of that.
#[tokio::test]
async fn a_key_that_was_copied_before_a_restart_is_of_no_use_after_it() {
    let ca = Ca::start().await;
    let owner = Workload::new();
    let issue_again = async |leaf: &LeafKey| {
        let request = owner.request_with(CART, "", leaf.csr.clone());
        let reply = ca.connect(None).await.issue(request).await.unwrap();
        leaf.svid(reply.into_inner().certificate.unwrap().chain)
    };
    let first = enrol(&ca, &owner).await;
    let copied = renew(&ca, &first, &LeafKey::new()).await.unwrap();
    let restarted = issue_again(&LeafKey::new()).await;
    for _ in 0..2 {
        let refused = renew(&ca, &copied, &LeafKey::new()).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains("issued anew"), "{refused:?}");
    }
    assert_eq!(ca.metrics.refused(Reason::Superseded), 2);
    let new = renew(&ca, &restarted, &LeafKey::new()).await.unwrap();

    // Two processes beside each other, as in an upgrade, are no thieves: each goes on with the enrolment key.
    let old = issue_again(&LeafKey::new()).await;
    renew(&ca, &new, &LeafKey::new()).await.unwrap_err();
    renew(&ca, &old, &LeafKey::new()).await.unwrap();
    assert!(frozen_lineages(&ca.directory(), 10).unwrap().is_empty());
    ca.audit();
}

#[tokio::test]
async fn whoever_renews_a_frozen_certificate_time_and_again_holds_up_no_other_of_its_identity() {
    let ca = Ca::start_with(Options {
        refusals_per_minute: 5,
        certificates_per_minute: 5,
        ..Options::default()
    })
    .await;
    let other = enrol(&ca, &Workload::new()).await;
    let stolen = Stolen::from(&ca).await;
    let mut limited = 0;
    for _ in 0..10 {
        let refused = renew(&ca, &stolen.thief, &LeafKey::new()).await;
        limited += u32::from(refused.unwrap_err().code() == Code::ResourceExhausted);
    }
    assert_eq!(limited, 5);
    renew(&ca, &other, &LeafKey::new()).await.unwrap();
}

#[tokio::test]
async fn a_frozen_lineage_stays_frozen_over_a_restart_until_an_operator_thaws_it() {
    let ca = Ca::start().await;
    let stolen = Stolen::from(&ca).await;
    let ca = ca.stop().await.start_again().await;
    renew(&ca, &stolen.thief, &LeafKey::new())
        .await
        .unwrap_err();

    let name = LineageName::new(&*frozen_lineages(&ca.directory(), 1).unwrap()[0].lineage);
    let thaw = |name| {
        let store = ca.authority.store();
        store.thaw(name, "the copy was deleted".to_owned(), SystemTime::now())
    };
    assert!(thaw(name.clone()).await.unwrap());
    assert!(!thaw(name).await.unwrap(), "it is not frozen any more");
    let again = stolen.owner.request(CART, "");
    ca.connect(None).await.issue(again).await.unwrap();
    let records = ca::ledger::records(&ca.directory(), 1, 100).unwrap();
    let thawed = records
        .iter()
        .find(|record| record.kind == "lineage_thawed");
    assert_eq!(thawed.unwrap().fields["reason"], "the copy was deleted");
    // What had been renewed twice still has one successor.
    renew(&ca, &stolen.first, &LeafKey::new())
        .await
        .unwrap_err();
    assert_eq!(frozen_lineages(&ca.directory(), 10).unwrap().len(), 1);
}

#[tokio::test]
async fn of_many_renewals_at_the_same_moment_with_as_many_keys_one_is_answered() {
    let ca = Ca::start().await;
    let first = enrol(&ca, &Workload::new()).await;
    let mut renewals = JoinSet::new();
    for _ in 0..8 {
        let mut calls = ca.connect(Some(&first)).await;
        renewals.spawn(async move { calls.renew(renewal(&LeafKey::new())).await.is_ok() });
    }
    let answered = renewals.join_all().await;
    assert_eq!(answered.into_iter().filter(|answered| *answered).count(), 1);
    assert_eq!(ca.metrics.refused(Reason::SecondSuccessor), 1);
    assert_eq!(
        ca.audit().certificates,
        3,
        "of the CA, the first and its successor"
    );
}

#[tokio::test]
async fn a_certificate_that_the_ca_does_not_know_is_not_renewed() {
    let ca = Ca::start().await;
    let first = enrol(&ca, &Workload::new()).await;
    let database = rusqlite::Connection::open(ca.directory().join("ca.db")).unwrap();
    database.execute_batch("DELETE FROM descent").unwrap();
    let refused = renew(&ca, &first, &LeafKey::new()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("has on record"), "{refused:?}");
    assert_eq!(ca.metrics.refused(Reason::UnknownCertificate), 1);
}

/// Each attempt used to make a key of its own; with lineages that would freeze whoever loses a reply.
#[tokio::test]
async fn a_client_that_loses_replies_is_not_taken_for_a_thief() {
    let ca = Ca::start().await;
    let relay = Relay::start(ca.address).await;
    let dir = tempfile::tempdir().unwrap();
    let token = ca.token(CART).await;
    let mut config = ca.client_config(CART, Some(token), &dir.path().join("key"));
    config.endpoint = format!("https://{}", relay.address);
    let handles = client::start(config).unwrap();
    let first = svid(&handles).await;
    relay.lose_replies(true);
    // By SVID and by enrolment key in turn.
    for _ in 0..4 {
        let (asker, answer) = oneshot::channel();
        handles.renew.send(asker).await.unwrap();
        within(answer).await.unwrap().unwrap_err();
    }
    relay.lose_replies(false);
    let mut watched = handles.svid.clone();
    let is_newer = |svid: &Option<Arc<Svid>>| {
        svid.as_ref()
            .is_some_and(|svid| svid.leaf().serial != first.leaf().serial)
    };
    within(watched.wait_for(is_newer)).await.unwrap();
    assert!(
        ca.metrics.issued(Call::Renew) > 1,
        "replies of renewals were lost"
    );
    assert!(frozen_lineages(&ca.directory(), 10).unwrap().is_empty());
}
