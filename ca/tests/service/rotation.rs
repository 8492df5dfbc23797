use crate::harness::{CART, Ca, LeafKey, svid, within};
use crate::renew::{enrol, renewal};
use ca::Authority;
use ca::client;
use ca::config::OpenOptions;
use ca::proto::{WatchBundleRequest, WatchBundleResponse};
use ca::rotation::{self, Blocker, By, Lives, Prepared, Refused, Role, Step};
use ca::store::{Store, Terms};
use futures_util::{Stream, StreamExt, stream};
use identity::{Svid, TrustBundle, Usage, VerifyError};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use std::time::SystemTime;
use tonic::Streaming;

const PATIENT: Terms = Terms {
    percent: 100,
    published_for: std::time::Duration::ZERO,
    force: false,
};
const FORCED: Terms = Terms {
    percent: 100,
    published_for: std::time::Duration::ZERO,
    force: true,
};

/// Beside the server, as the command line does it.
pub(crate) async fn prepare(ca: &Ca, role: Role) -> String {
    let (directory, options) = (ca.directory(), OpenOptions::default());
    let store = Store::open(&directory).unwrap();
    let lives = Lives::default();
    let prepared = rotation::prepare(&directory, &options, &store, role, lives, By::Operator);
    match prepared.await.unwrap() {
        Prepared::Ready(name) => name,
        Prepared::Requested(_) => panic!("the root's key is here"),
    }
}

async fn activate(ca: &Ca, role: Role, terms: Terms) -> Result<Step, Refused> {
    let store = Store::open(&ca.directory()).unwrap();
    let done = store.activate_authority(role, terms, By::Operator, SystemTime::now());
    done.await.unwrap()
}

async fn retire(ca: &Ca, role: Role, terms: Terms) -> Result<Step, Refused> {
    let store = Store::open(&ca.directory()).unwrap();
    let done = store.retire_authority(role, terms, By::Operator, SystemTime::now());
    done.await.unwrap()
}

/// The server has a bundle with so many roots.
async fn roots(ca: &Ca, number: usize) {
    let mut bundles = ca.authority.bundle();
    let published = bundles.wait_for(|bundle| bundle.authorities().len() == number);
    within(published).await.unwrap();
}

/// What signs the certificates that the server issues.
async fn intermediate(ca: &Ca) -> CertificateDer<'static> {
    enrol(ca, 600).await.chain()[1].clone()
}

/// The server issues under another intermediate than `before`.
async fn follows(ca: &Ca, before: &CertificateDer<'static>) -> CertificateDer<'static> {
    within(async {
        loop {
            let now = intermediate(ca).await;
            if now != *before {
                return now;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Whether somebody who knows `bundle` alone finds the CA behind its address.
async fn is_known_to(ca: &Ca, bundle: &TrustBundle) -> bool {
    let key = tempfile::tempdir().unwrap();
    let mut config = ca.client_config(CART, Some(ca.token(CART).await), &key.path().join("key"));
    config.bundle = bundle.clone();
    let handles = client::start(config).unwrap();
    let mut obtained = handles.svid.clone();
    let patience = std::time::Duration::from_secs(3);
    let obtained = tokio::time::timeout(patience, obtained.wait_for(Option::is_some)).await;
    obtained.is_ok()
}

fn verify(bundle: &TrustBundle, svid: &Svid) -> Result<(), VerifyError> {
    let now = SystemTime::now();
    bundle
        .verify_chain(svid.chain(), Usage::Client, now)
        .map(drop)
}

fn saying(sequences: &[u64]) -> impl Stream<Item = WatchBundleRequest> + Send + 'static {
    let said: Vec<_> = sequences
        .iter()
        .map(|sequence| WatchBundleRequest {
            bundle_sequence: *sequence,
        })
        .collect();
    stream::iter(said).chain(stream::pending())
}

/// A sidecar that says it has the bundles up to one of a sequence, and waits for what the CA says.
async fn sidecar(ca: &Ca, svid: &Svid, sequence: u64) -> Streaming<WatchBundleResponse> {
    let mut calls = ca.connect(Some(svid)).await;
    let opened = within(calls.watch_bundle(saying(&[sequence]))).await;
    opened.unwrap().into_inner()
}

/// What the CA knows of live sidecars: how many, and how many have the present bundle.
fn acknowledged(ca: &Ca) -> (u64, u64) {
    let directory = ca.directory();
    let status = rotation::status(&directory, &(&directory).into(), SystemTime::now()).unwrap();
    (status.live_sidecars, status.acknowledged)
}

async fn until_acknowledged(ca: &Ca, expected: (u64, u64)) {
    within(async {
        while acknowledged(ca) != expected {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_intermediate_is_replaced_and_the_certificates_of_the_old_one_still_count() {
    let ca = Ca::start().await;
    let old = enrol(&ca, 600).await;
    let name = prepare(&ca, Role::Intermediate).await;
    assert_eq!(
        prepare(&ca, Role::Intermediate).await,
        name,
        "taken twice it is taken once"
    );
    assert_eq!(
        intermediate(&ca).await,
        old.chain()[1],
        "prepared is not active"
    );

    let step = activate(&ca, Role::Intermediate, PATIENT).await.unwrap();
    assert_eq!(step.authorities, [name]);
    let new = follows(&ca, &old.chain()[1]).await;
    assert_eq!(
        activate(&ca, Role::Intermediate, PATIENT).await,
        Ok(Step::default())
    );
    assert_eq!(ca.bundle().sequence(), 1, "it comes with each certificate");
    let leaf = LeafKey::new();
    let renewed = ca
        .connect(Some(&old))
        .await
        .renew(renewal(&leaf))
        .await
        .unwrap();
    let renewed = leaf.svid(renewed.into_inner().certificate.unwrap().chain);
    assert_eq!(renewed.chain()[1], new);

    let refused = retire(&ca, Role::Intermediate, PATIENT).await.unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("certificates under the old intermediate are valid"),
        "{text}"
    );
    let forced = retire(&ca, Role::Intermediate, FORCED).await.unwrap();
    assert_eq!(forced.despite.len(), 1);
    assert_eq!(verify(&ca.bundle(), &old), Ok(()));

    let ca = ca.stop().await.start_again().await;
    assert_eq!(intermediate(&ca).await, new, "over a restart");
    ca.audit();
}

#[tokio::test]
async fn another_process_on_the_same_database_follows() {
    let ca = Ca::start().await;
    let before = intermediate(&ca).await;
    prepare(&ca, Role::Intermediate).await;
    activate(&ca, Role::Intermediate, PATIENT).await.unwrap();
    let new = follows(&ca, &before).await;
    let opened = Authority::open(&ca.directory(), &OpenOptions::default()).unwrap();
    let issued = opened.issue_server().await.unwrap();
    assert_eq!(issued.svid.chain()[1], new);
}

#[tokio::test]
async fn a_root_waits_for_the_sidecars_and_names_who_is_missing() {
    let ca = Ca::start().await;
    let (fast, slow) = (enrol(&ca, 600).await, enrol(&ca, 600).await);
    let (_fast, _slow) = (sidecar(&ca, &fast, 1).await, sidecar(&ca, &slow, 1).await);
    until_acknowledged(&ca, (2, 2)).await;
    // Issued, and never heard of again: nobody waits for it.
    enrol(&ca, 600).await;

    prepare(&ca, Role::Root).await;
    roots(&ca, 2).await;
    assert_eq!(acknowledged(&ca), (2, 0));
    let _fast = sidecar(&ca, &fast, 2).await;
    until_acknowledged(&ca, (2, 1)).await;
    let Err(Refused::Blocked(blockers)) = activate(&ca, Role::Root, PATIENT).await else {
        panic!("a sidecar does not have the root");
    };
    let [
        Blocker::NotAcknowledged {
            laggards,
            acknowledged: 1,
            alive: 2,
            ..
        },
    ] = &blockers[..]
    else {
        panic!("{blockers:?}");
    };
    assert_eq!(laggards.len(), 1);
    assert_eq!(
        (&laggards[0].serial, laggards[0].sequence),
        (&slow.leaf().serial, 1)
    );

    let half = Terms {
        percent: 50,
        published_for: std::time::Duration::ZERO,
        force: false,
    };
    assert_eq!(
        activate(&ca, Role::Root, half)
            .await
            .unwrap()
            .authorities
            .len(),
        2
    );
    let text = retire(&ca, Role::Root, PATIENT)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains(&slow.leaf().serial) && text.contains("certificates under the old root"),
        "{text}"
    );
}

#[tokio::test]
async fn who_renews_has_the_bundle_that_it_had_before() {
    let ca = Ca::start().await;
    let first = enrol(&ca, 600).await;
    let _stream = sidecar(&ca, &first, 1).await;
    until_acknowledged(&ca, (1, 1)).await;
    let leaf = LeafKey::new();
    ca.connect(Some(&first))
        .await
        .renew(renewal(&leaf))
        .await
        .unwrap();
    assert_eq!(acknowledged(&ca), (1, 1), "one sidecar, not two");
}

#[tokio::test]
async fn a_bundle_that_another_replica_published_first_counts_once_this_one_has_it() {
    let ca = Ca::start().await;
    let svid = enrol(&ca, 600).await;
    let mut stream = sidecar(&ca, &svid, 2).await;
    within(stream.message()).await.unwrap();
    assert_eq!(acknowledged(&ca), (0, 0), "nobody has published it");
    crate::renew::add_root(&ca).await;
    until_acknowledged(&ca, (1, 1)).await;
}

#[tokio::test]
async fn the_old_root_finds_the_ca_until_it_is_retired_and_nothing_under_it_counts_afterwards() {
    let ca = Ca::start().await;
    let (old, old_bundle) = (enrol(&ca, 600).await, ca.bundle());
    prepare(&ca, Role::Root).await;
    roots(&ca, 2).await;
    activate(&ca, Role::Root, PATIENT).await.unwrap();
    let new = follows(&ca, &old.chain()[1]).await;
    let young = enrol(&ca, 600).await;
    assert_eq!(young.chain()[1], new);
    assert!(
        verify(&old_bundle, &young).is_err(),
        "it is under the new root"
    );
    assert!(verify(&ca.bundle(), &young).is_ok() && verify(&ca.bundle(), &old).is_ok());
    assert!(is_known_to(&ca, &old_bundle).await);

    let refused = retire(&ca, Role::Root, PATIENT).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("certificates under the old root"),
        "{refused}"
    );
    let forced = retire(&ca, Role::Root, FORCED).await.unwrap();
    assert_eq!(forced.authorities.len(), 2, "the root and its intermediate");
    roots(&ca, 1).await;
    assert!(verify(&ca.bundle(), &old).is_err() && verify(&ca.bundle(), &young).is_ok());
    // A handshake of TLS 1.3 fails for the client when it first reads.
    if let Ok(mut calls) = ca.try_connect(Some(&old)).await {
        calls.renew(renewal(&LeafKey::new())).await.unwrap_err();
    }
    within(async { while !is_known_to(&ca, &ca.bundle()).await {} }).await;
    assert!(!is_known_to(&ca, &old_bundle).await);
    assert_eq!(
        retire(&ca, Role::Root, PATIENT).await,
        Ok(Step::default()),
        "once"
    );
    ca.audit();
}

#[tokio::test]
async fn a_sidecar_lives_through_the_rotation_of_the_root_by_itself() {
    let ca = Ca::start().await;
    let key = tempfile::tempdir().unwrap();
    let handles = ca.enrolled(CART, &key.path().join("key")).await;
    let first = svid(&handles).await;
    until_acknowledged(&ca, (1, 1)).await;
    prepare(&ca, Role::Root).await;
    within(async {
        while activate(&ca, Role::Root, PATIENT).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    follows(&ca, &first.chain()[1]).await;
    let mut bundle = handles.bundle.clone();
    let both = bundle.wait_for(|bundle| bundle.authorities().len() == 2);
    let both: Arc<TrustBundle> = Arc::clone(&within(both).await.unwrap());
    assert_eq!(both.sequence(), ca.bundle().sequence());
    let serial = first.leaf().serial.clone();
    let (done, renewed) = tokio::sync::oneshot::channel();
    handles.renew.send(done).await.unwrap();
    within(renewed).await.unwrap().unwrap();
    let mut svids = handles.svid.clone();
    let second = within(svids.wait_for(|svid| {
        svid.as_ref()
            .is_some_and(|svid| svid.leaf().serial != serial)
    }));
    let second = second.await.unwrap().clone().unwrap();
    assert_ne!(second.chain()[1], first.chain()[1]);
}

#[tokio::test]
async fn the_only_root_is_not_retired_and_nothing_unprepared_becomes_active() {
    let ca = Ca::start().await;
    for role in [Role::Root, Role::Intermediate] {
        assert_eq!(
            activate(&ca, role, FORCED).await,
            Err(Refused::NothingPrepared(role))
        );
        assert_eq!(
            retire(&ca, role, FORCED).await,
            Err(Refused::NothingRetiring(role))
        );
    }
    prepare(&ca, Role::Root).await;
    assert_eq!(
        retire(&ca, Role::Root, FORCED).await,
        Err(Refused::NothingRetiring(Role::Root))
    );
    roots(&ca, 2).await;
    let report = ca.audit();
    assert_eq!(report.certificates, 1, "the server's own");
}
