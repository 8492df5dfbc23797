use crate::attest::{clusters, patient};
use crate::harness::{CART, Ca, LeafKey, id};
use crate::issuer::{Published, Signer, attestation, claims, request};
use crate::renew::life;
use ca::attest::kubernetes::Identities;
use ca::entries::{Entry, Written};
use ca::metrics::Reason;
use ca::proto::{
    self, CreateEntryRequest, DeleteEntryRequest, IssueRequest, ListEntriesRequest, RenewRequest,
};
use ca::store::Author;
use std::time::SystemTime;
use tonic::{Code, Status};

const ALICE: &str = "spiffe://demo.test/ns/ops/sa/alice";
const FRONT: &str = "spiffe://demo.test/web/front";

pub(crate) fn entry(id: &str, selectors: &[&str]) -> Entry {
    let written = Written {
        id: id.to_owned(),
        selectors: selectors.iter().map(|text| (*text).to_owned()).collect(),
        ttl_seconds: Some(120),
        ..Written::default()
    };
    Entry::try_from(written).unwrap()
}

fn front() -> Entry {
    entry(FRONT, &["k8s:cluster:prod", "k8s:ns:shop", "k8s:sa:cart"])
}

/// A cluster whose pods have what entries say and nothing else.
async fn ca(published: &Published, listed: Vec<Entry>) -> Ca {
    let cluster = published.cluster("prod", Identities::Entries);
    let attestors = clusters(vec![cluster]).await;
    Ca::start_as(patient(), |server| {
        server
            .believing(attestors)
            .with_entries(listed)
            .administered_by([id(ALICE)].into())
    })
    .await
}

/// The life that was given.
async fn ask(ca: &Ca, id: &str, token: &str) -> Result<u64, Status> {
    let request = request(id, &LeafKey::new(), token);
    let reply = ca.connect(None).await.issue(request).await?.into_inner();
    let ends = reply.certificate.unwrap().not_after_unix_ms;
    let life = ends.abs_diff(reply.server_time_unix_ms);
    Ok(life.div_ceil(1000))
}

#[tokio::test]
async fn an_entry_gives_its_identity_and_life_to_whoever_meets_it_until_it_is_deleted() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = ca(&published, Vec::new()).await;
    let token = signer.token(&claims());
    let refused = ask(&ca, FRONT, &token).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    let store = ca.authority.store();
    let create = || store.create_entry(front(), Author::Operator, SystemTime::now());
    assert_eq!(create().await.unwrap(), Ok(true));
    assert_eq!(create().await.unwrap(), Ok(false), "it is there");
    assert_eq!(ask(&ca, FRONT, &token).await.unwrap(), 120);
    let natural = ask(&ca, CART, &token).await.unwrap_err();
    assert_eq!(natural.code(), Code::PermissionDenied, "entries alone say");

    let name = front().name();
    let delete = || store.delete_entry(name.clone(), Author::Operator, SystemTime::now());
    assert!(delete().await.unwrap());
    assert!(!delete().await.unwrap());
    ask(&ca, FRONT, &token).await.unwrap_err();
    ca.audit();
}

#[tokio::test]
async fn the_refusal_of_somebody_without_an_id_of_its_own_is_on_record() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = ca(&published, Vec::new()).await;
    ask(&ca, FRONT, &signer.token(&claims())).await.unwrap_err();
    let records = ca::ledger::records(&ca.directory(), 1, 100).unwrap();
    let last = records.last().unwrap();
    assert_eq!(last.kind, "refused");
    let caller = last.fields["caller"].as_str().unwrap();
    assert!(
        caller.starts_with("kubernetes/prod: namespace shop"),
        "{caller}"
    );
    assert!(last.fields["reason"].as_str().unwrap().contains(FRONT));
}

#[tokio::test]
async fn an_entry_for_others_gives_nothing() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let listed = vec![
        entry(FRONT, &["k8s:cluster:other", "k8s:ns:shop"]),
        entry(FRONT, &["k8s:cluster:prod", "k8s:ns:bank"]),
        entry(FRONT, &["k8s:cluster:prod", "k8s:ns:shop", "k8s:sa:orders"]),
        entry(FRONT, &["unix:uid:0"]),
    ];
    let ca = ca(&published, listed).await;
    let token = signer.token(&claims());
    let refused = ask(&ca, FRONT, &token).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn an_entry_of_a_file_gives_its_identity_too() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = ca(&published, vec![front()]).await;
    assert_eq!(
        ask(&ca, FRONT, &signer.token(&claims())).await.unwrap(),
        120
    );
}

#[tokio::test]
async fn the_life_of_an_entry_is_the_longest_that_can_be_asked_for() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = ca(&published, vec![front()]).await;
    let token = signer.token(&claims());
    for (asked, given) in [(60, 60), (3600, 120)] {
        let leaf = LeafKey::new();
        let issue = IssueRequest {
            ttl_seconds: asked,
            ..request(FRONT, &leaf, &token)
        };
        let reply = ca.connect(None).await.issue(issue).await.unwrap();
        let svid = leaf.svid(reply.into_inner().certificate.unwrap().chain);
        assert_eq!(life(&svid).as_secs(), given);
        let next = LeafKey::new();
        let renew = RenewRequest {
            ledger_head: None,
            csr: next.csr.clone(),
            ttl_seconds: 3600,
            attestation: attestation(&token),
        };
        let reply = ca.connect(Some(&svid)).await.renew(renew).await.unwrap();
        let svid = next.svid(reply.into_inner().certificate.unwrap().chain);
        assert_eq!(life(&svid).as_secs(), 120, "vouched for anew");
    }
}

fn message(entry: &Entry) -> proto::Entry {
    let written = entry.to_written();
    proto::Entry {
        name: "ignored".to_owned(),
        spiffe_id: written.id,
        selectors: written.selectors,
        ttl_seconds: written.ttl_seconds.unwrap_or_default(),
        ..proto::Entry::default()
    }
}

fn create(entry: &Entry) -> CreateEntryRequest {
    CreateEntryRequest {
        entry: Some(message(entry)),
    }
}

#[tokio::test]
async fn an_administrator_changes_entries_under_its_own_name() {
    let published = Published::new(&[&Signer::p256("a")]);
    let ca = ca(&published, Vec::new()).await;
    let alice = ca.identity(ALICE).await;
    let mut calls = ca.administer(Some(&alice)).await;
    let made = calls.create_entry(create(&front())).await.unwrap();
    assert!(made.into_inner().created);
    let mut other = message(&front());
    other.ttl_seconds = 60;
    let other = CreateEntryRequest { entry: Some(other) };
    let status = calls.create_entry(other).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");

    let list = calls.list_entries(ListEntriesRequest::default()).await;
    let list = list.unwrap().into_inner();
    assert_eq!(list.next_after, "");
    let names: Vec<_> = list.entries.into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [front().name()]);

    let name = front().name();
    let deleted = calls.delete_entry(DeleteEntryRequest { name }).await;
    assert!(deleted.unwrap().into_inner().deleted);
    let records = ca::ledger::records(&ca.directory(), 1, 100).unwrap();
    let by: Vec<_> = records
        .iter()
        .filter(|record| record.kind.starts_with("entry_"))
        .map(|record| (record.kind.as_str(), record.fields["by"].as_str().unwrap()))
        .collect();
    assert_eq!(by, [("entry_created", ALICE), ("entry_deleted", ALICE)]);
}

#[tokio::test]
async fn what_is_no_name_of_an_entry_does_not_get_to_the_database() {
    let published = Published::new(&[&Signer::p256("a")]);
    let ca = ca(&published, Vec::new()).await;
    let alice = ca.identity(ALICE).await;
    let mut calls = ca.administer(Some(&alice)).await;
    for name in ["0123456789abcde\0", "0123456789ABCDEF", "' OR 1=1 --"] {
        let name = name.to_owned();
        let after = name.clone();
        let listed = calls.list_entries(ListEntriesRequest { after }).await;
        let deleted = calls.delete_entry(DeleteEntryRequest { name }).await;
        assert_eq!(listed.unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(deleted.unwrap_err().code(), Code::InvalidArgument);
    }
    let name = String::new();
    calls
        .delete_entry(DeleteEntryRequest { name })
        .await
        .unwrap_err();
}

#[tokio::test]
async fn nobody_else_sees_or_changes_entries() {
    let published = Published::new(&[&Signer::p256("a")]);
    let ca = ca(&published, Vec::new()).await;
    let store = ca.authority.store();
    let kept = store.create_entry(front(), Author::Operator, SystemTime::now());
    kept.await.unwrap().unwrap();
    let cart = ca.identity(CART).await;
    for (svid, code) in [
        (None, Code::Unauthenticated),
        (Some(&cart), Code::PermissionDenied),
    ] {
        let mut calls = ca.administer(svid).await;
        let name = front().name();
        let statuses = [
            calls.create_entry(create(&front())).await.map(drop),
            calls
                .delete_entry(DeleteEntryRequest { name })
                .await
                .map(drop),
            calls
                .list_entries(ListEntriesRequest::default())
                .await
                .map(drop),
        ];
        for status in statuses {
            assert_eq!(status.unwrap_err().code(), code);
        }
    }
    let entries = store.entries(String::new(), 10).await.unwrap();
    assert_eq!(entries, [front()]);
    assert_eq!(ca.metrics.refused(Reason::NotAnAdministrator), 3);
}

#[tokio::test]
async fn an_administrator_cannot_make_an_entry_that_no_workload_may_have() {
    let published = Published::new(&[&Signer::p256("a")]);
    let ca = ca(&published, Vec::new()).await;
    let alice = ca.identity(ALICE).await;
    let mut calls = ca.administer(Some(&alice)).await;
    for (spiffe_id, selectors) in [
        ("spiffe://demo.test/tipstaff/ca", vec!["unix:uid:0"]),
        ("spiffe://other.test/web", vec!["unix:uid:0"]),
        ("spiffe://demo.test/web", vec![]),
        ("spiffe://demo.test/web", vec!["k8s:ns:shop"]),
    ] {
        let entry = proto::Entry {
            spiffe_id: spiffe_id.to_owned(),
            selectors: selectors.into_iter().map(str::to_owned).collect(),
            ..proto::Entry::default()
        };
        let request = CreateEntryRequest { entry: Some(entry) };
        let status = calls.create_entry(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    let nothing = CreateEntryRequest { entry: None };
    calls.create_entry(nothing).await.unwrap_err();
}

#[tokio::test]
async fn entries_are_listed_in_pages() {
    let ca = Ca::start().await;
    let store = ca.authority.store();
    for number in 0..7 {
        let entry = entry(FRONT, &[&format!("unix:uid:{number}")]);
        let made = store.create_entry(entry, Author::Operator, SystemTime::now());
        assert_eq!(made.await.unwrap(), Ok(true));
    }
    let (mut after, mut seen) = (String::new(), 0);
    loop {
        let page = store.entries(after.clone(), 3).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.iter().all(|entry| entry.name() > after));
        (after, seen) = (last.name(), seen + page.len());
    }
    assert_eq!(seen, 7);
}
