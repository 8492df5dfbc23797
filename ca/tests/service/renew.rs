use crate::harness::{CART, Ca, LeafKey, Workload, id, within};
use ca::metrics::Reason;
use ca::profile::BACKDATE;
use ca::proto::{RenewRequest, WatchBundleRequest};
use ca::store::TokenGrant;
use ca::token::JoinToken;
use futures_util::{Stream, StreamExt, stream};
use identity::Svid;
use rustls_pki_types::CertificateDer;
use std::time::{Duration, SystemTime};
use tonic::Code;

pub(crate) async fn enrol(ca: &Ca, ttl_seconds: u32) -> Svid {
    let workload = Workload::new();
    let mut request = workload.request(CART, &ca.token(CART).await);
    request.ttl_seconds = ttl_seconds;
    let reply = ca.connect(None).await.issue(request).await.unwrap();
    workload.svid(reply.into_inner())
}

/// Without what its begin was dated back.
pub(crate) fn life(svid: &Svid) -> Duration {
    let leaf = svid.leaf();
    leaf.not_after.duration_since(leaf.not_before).unwrap() - BACKDATE
}

pub(crate) fn renewal(leaf: &LeafKey) -> RenewRequest {
    RenewRequest {
        csr: leaf.csr.clone(),
        ..RenewRequest::default()
    }
}

/// A caller that has said which bundle it has, and has more to say, some day.
pub(crate) fn watching() -> impl Stream<Item = WatchBundleRequest> + Send + 'static {
    let request = WatchBundleRequest { bundle_sequence: 1 };
    stream::iter([request]).chain(stream::pending())
}

#[tokio::test]
async fn an_svid_is_renewed_with_a_new_key_and_the_same_life() {
    let ca = Ca::start().await;
    let svid = enrol(&ca, 600).await;
    let leaf = LeafKey::new();
    let reply = ca
        .connect(Some(&svid))
        .await
        .renew(renewal(&leaf))
        .await
        .unwrap();
    let renewed = leaf.svid(reply.into_inner().certificate.unwrap().chain);
    assert_eq!(renewed.id(), &id(CART));
    assert_ne!(renewed.leaf().serial, svid.leaf().serial);
    assert_eq!(life(&renewed), life(&svid));
}

#[tokio::test]
async fn neither_a_token_nor_a_certificate_is_good_for_a_longer_life_than_its_own() {
    let ca = Ca::start().await;
    let token = JoinToken::generate();
    let now = SystemTime::now();
    let grant = TokenGrant {
        spiffe_id: id(CART),
        created_at: now,
        expires_at: now + Duration::from_secs(60),
        ttl: Some(Duration::from_secs(600)),
    };
    let store = ca.authority.store();
    store.create_token(&token, grant).await.unwrap();
    let workload = Workload::new();
    let mut request = workload.request(CART, token.reveal().as_ref());
    request.ttl_seconds = 3600;
    let reply = ca.connect(None).await.issue(request).await.unwrap();
    let svid = workload.svid(reply.into_inner());
    assert_eq!(life(&svid).as_secs(), 600);
    for (asked, given) in [(300, 300), (3600, 600)] {
        let leaf = LeafKey::new();
        let svid = enrol(&ca, 600).await;
        let longer = RenewRequest {
            ttl_seconds: asked,
            ..renewal(&leaf)
        };
        let reply = ca.connect(Some(&svid)).await.renew(longer).await.unwrap();
        let renewed = leaf.svid(reply.into_inner().certificate.unwrap().chain);
        assert_eq!(life(&renewed).as_secs(), given);
    }
}

#[tokio::test]
async fn without_a_client_certificate_nothing_is_renewed_and_no_bundle_watched() {
    let ca = Ca::start().await;
    let mut nobody = ca.connect(None).await;
    let renewed = nobody.renew(renewal(&LeafKey::new())).await.map(drop);
    let watched = nobody.watch_bundle(watching()).await.map(drop);
    for outcome in [renewed, watched] {
        let status = outcome.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(
            status.message().contains("expected a client certificate"),
            "{status:?}"
        );
    }
    assert_eq!(ca.metrics.refused(Reason::ClientCertificate), 2);
}

#[tokio::test]
async fn a_bad_renewal_is_refused_and_audited() {
    let ca = Ca::start().await;
    let svid = enrol(&ca, 600).await;
    let before = ca.audit();
    let bad = RenewRequest {
        csr: b"no request".to_vec(),
        ..RenewRequest::default()
    };
    let status = ca.connect(Some(&svid)).await.renew(bad).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("csr: expected"), "{status:?}");
    let after = ca.audit();
    assert_eq!(after.records, before.records + 1);
    assert_eq!(after.certificates, before.certificates);
}

#[tokio::test]
async fn an_oversized_renewal_is_refused_and_audited() {
    let ca = Ca::start().await;
    let svid = enrol(&ca, 600).await;
    let before = ca.audit();
    let large = RenewRequest {
        csr: vec![0; 17_000],
        ..RenewRequest::default()
    };
    let status = ca
        .connect(Some(&svid))
        .await
        .renew(large)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(ca.audit().records, before.records + 1);
}

#[tokio::test]
async fn a_watcher_gets_the_bundle_at_once_and_each_change_of_it() {
    let ca = Ca::start().await;
    let svid = enrol(&ca, 600).await;
    let mut calls = ca.connect(Some(&svid)).await;
    let reply = within(calls.watch_bundle(watching())).await.unwrap();
    let mut bundles = reply.into_inner();
    let first = within(bundles.message())
        .await
        .unwrap()
        .unwrap()
        .bundle
        .unwrap();
    assert_eq!(first.sequence, ca.bundle().sequence());
    assert_eq!(first.authorities.len(), 1);

    add_root(&ca).await;
    let second = within(bundles.message())
        .await
        .unwrap()
        .unwrap()
        .bundle
        .unwrap();
    assert!(second.sequence > first.sequence);
    assert_eq!(second.authorities.len(), 2);

    ca.stop().await;
    let ended = within(bundles.message()).await;
    assert!(matches!(ended, Ok(None) | Err(_)), "{ended:?}");
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_it_was_opened_with() {
    let ca = Ca::start().await;
    let svid = enrol(&ca, 5).await;
    let mut calls = ca.connect(Some(&svid)).await;
    let reply = within(calls.watch_bundle(watching())).await.unwrap();
    let mut bundles = reply.into_inner();
    while let Ok(Some(_)) = within(bundles.message()).await {}
    let renewed = within(calls.renew(renewal(&LeafKey::new()))).await;
    renewed.expect_err("the connection was told to go away");
}

/// Publishes a second root beside the CA's own.
pub(crate) async fn add_root(ca: &Ca) {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let domain = format!("spiffe://{}", ca.authority.trust_domain());
    params.subject_alt_names = vec![rcgen::SanType::URI(domain.try_into().unwrap())];
    let root = params
        .self_signed(&rcgen::KeyPair::generate().unwrap())
        .unwrap();
    let mut authorities = ca.bundle().authorities().to_vec();
    authorities.push(CertificateDer::from(root.der().to_vec()));
    ca.authority.publish_authorities(authorities).await.unwrap();
}
