use crate::client::renew as renew_client;
use crate::harness::{CART, Ca, LeafKey, StoppedCa, Workload, id, svid, within};
use crate::renew::{renewal, watching};
use ca::authority::Fault;
use ca::client;
use ca::metrics::{Brought, Reason};
use ca::proto::{LedgerHead, RenewRequest};
use identity::Svid;
use rustls::SignatureScheme;
use std::path::PathBuf;
use std::time::SystemTime;
use tonic::{Code, Status};

/// The records of a CA at one moment.
struct Copy(tempfile::TempDir);

impl Copy {
    fn of(ca: &StoppedCa) -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        std::fs::copy(ca.directory().join("ca.db"), copy.file()).unwrap();
        copy
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("ca.db")
    }

    fn put_back(&self, ca: &StoppedCa) {
        std::fs::copy(self.file(), ca.directory().join("ca.db")).unwrap();
    }
}

/// What a sidecar is told first.
async fn head(ca: &Ca, svid: &Svid) -> LedgerHead {
    let mut calls = ca.connect(Some(svid)).await;
    let stream = within(calls.watch_bundle(watching())).await.unwrap();
    let told = within(stream.into_inner().message()).await.unwrap();
    told.unwrap().ledger_head.unwrap()
}

fn bringing(head: &LedgerHead) -> RenewRequest {
    RenewRequest {
        ledger_head: Some(head.clone()),
        ..renewal(&LeafKey::new())
    }
}

async fn renew(ca: &Ca, svid: &Svid, head: &LedgerHead) -> Result<(), Status> {
    let mut calls = ca.connect(Some(svid)).await;
    calls.renew(bringing(head)).await.map(drop)
}

async fn accept(ca: &Ca) {
    let store = ca.authority.store();
    let lost = store.rolled_back().await.unwrap().unwrap();
    let accepted = store.accept_rollback(lost.seq, SystemTime::now()).await;
    assert_eq!(accepted.unwrap(), Ok(Some(lost)));
}

/// A CA that was set back to when it had issued `Svid`s, and the head that it had come to.
async fn set_back(svids: usize) -> (Ca, Vec<Svid>, LedgerHead) {
    let ca = Ca::start().await;
    let mut had = Vec::new();
    for _ in 0..svids {
        had.push(ca.identity(CART).await);
    }
    let stopped = ca.stop().await;
    let copy = Copy::of(&stopped);
    let ca = stopped.start_again().await;
    let lost = head(&ca, &had[0]).await;
    let stopped = ca.stop().await;
    copy.put_back(&stopped);
    (stopped.start_again().await, had, lost)
}

#[tokio::test]
async fn a_sidecar_tells_a_ca_that_was_set_back_and_keeps_its_certificate_until_that_is_accepted() {
    let ca = Ca::start().await;
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    drop(ca.enrolled(CART, &key).await);
    let stopped = ca.stop().await;
    let copy = Copy::of(&stopped);
    let ca = stopped.start_again().await;
    // All that it knows of, it knows of what is to be forgotten.
    let sidecar = client::start(ca.client_config(CART, None, &key)).unwrap();
    for _ in 0..100 {
        renew_client(&sidecar).await.unwrap();
        if ca.metrics.heads(Brought::Known) > 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(ca.metrics.heads(Brought::Known) > 0);
    let held = svid(&sidecar).await;
    let stopped = ca.stop().await;
    copy.put_back(&stopped);

    let ca = stopped.start_again().await;
    assert_eq!(
        ca.authority.faults().await,
        [],
        "the records alone cannot tell"
    );
    let refused = renew_client(&sidecar).await.unwrap_err();
    assert!(refused.contains("set back to an older state"), "{refused}");
    assert_eq!(svid(&sidecar).await.leaf().serial, held.leaf().serial);
    assert!(ca.metrics.heads(Brought::Lost) > 0);
    let faults = ca.authority.faults().await;
    assert!(matches!(&faults[..], [Fault::RolledBack(_)]), "{faults:?}");
    // Not even to those who know nothing of it, nor after a restart.
    let ca = ca.stop().await.start_again().await;
    let workload = Workload::new();
    let request = workload.request(CART, &ca.token(CART).await);
    let refused = ca.connect(None).await.issue(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(ca.metrics.refused(Reason::RolledBack) > 0);

    accept(&ca).await;
    assert_eq!(ca.authority.faults().await, []);
    // Its certificate is none that this CA knows of, and its enrolment key is.
    renew_client(&sidecar).await.unwrap_err();
    renew_client(&sidecar).await.unwrap();
    assert_ne!(svid(&sidecar).await.leaf().serial, held.leaf().serial);
    ca.audit();
}

#[tokio::test]
async fn nothing_that_the_holder_of_an_identity_can_make_up_stops_issuance() {
    let ca = Ca::start().await;
    let mine = ca.identity(CART).await;
    let genuine = head(&ca, &mine).await;
    let other = Ca::start().await;
    let of_another_ca = head(&other, &other.identity(CART).await).await;

    let changed = |change: fn(&mut LedgerHead)| {
        let mut head = genuine.clone();
        change(&mut head);
        head
    };
    let mut invented = vec![
        changed(|head| head.seq += 1000),
        changed(|head| head.hash[0] ^= 1),
        changed(|head| head.hash.clear()),
        changed(|head| (head.signed_unix_ms, head.hash[0]) = (i64::MAX, 1)),
        changed(|head| (head.signed_unix_ms, head.hash[0]) = (i64::MIN, 1)),
        changed(|head| (head.accepted_unix_ms, head.hash[0]) = (i64::MAX, 1)),
        changed(|head| (head.chain, head.hash[0]) = (Vec::new(), 1)),
        changed(|head| (head.chain, head.hash[0]) = (vec![head.chain[0].clone(); 8], 1)),
        LedgerHead::default(),
        of_another_ca,
    ];
    // Signed as it should be, by somebody who may not.
    let mut signed = changed(|head| (head.seq, head.hash[0]) = (i64::MAX, 1));
    signed.chain = mine.chain().iter().map(|der| der.to_vec()).collect();
    let key = &mine.certified_key().key;
    let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]);
    signed.signature = signer.unwrap().sign(&statement(&signed)).unwrap();
    invented.push(signed);
    let count = invented.len() as u64;
    for head in &invented {
        let svid = ca.identity(CART).await;
        renew(&ca, &svid, head).await.unwrap();
    }
    assert_eq!(ca.metrics.heads(Brought::Unproven), count);
    assert_eq!(ca.authority.faults().await, []);
}

/// As the contract says.
fn statement(head: &LedgerHead) -> Vec<u8> {
    [
        b"tipstaff.ca.v1/ledger-head\0demo.test\0".as_slice(),
        &head.seq.to_be_bytes(),
        &head.hash,
        &head.accepted_unix_ms.to_be_bytes(),
        &head.signed_unix_ms.to_be_bytes(),
    ]
    .concat()
}

#[tokio::test]
async fn what_a_sidecar_is_sent_is_signed_as_the_contract_says() {
    let ca = Ca::start().await;
    let head = head(&ca, &ca.identity(CART).await).await;
    let (_, leaf) = x509_parser::parse_x509_certificate(&head.chain[0]).unwrap();
    let key = ca::csr::PublicKey::from_spki(leaf.public_key().raw).unwrap();
    assert!(key.verify(&statement(&head), &head.signature));
    let server = identity::Leaf::parse(&head.chain[0]).unwrap();
    assert_eq!(server.id, id("spiffe://demo.test/tipstaff/ca"));
}

#[tokio::test]
async fn after_an_acceptance_the_heads_before_it_count_no_more_and_those_after_it_do() {
    let (ca, had, lost) = set_back(4).await;
    renew(&ca, &had[0], &lost).await.unwrap_err();
    accept(&ca).await;
    renew(&ca, &had[1], &lost).await.unwrap();

    // The new branch is watched as the old was.
    let stopped = ca.stop().await;
    let copy = Copy::of(&stopped);
    let ca = stopped.start_again().await;
    let newer = head(&ca, &had[2]).await;
    assert!(newer.accepted_unix_ms > lost.accepted_unix_ms);
    let stopped = ca.stop().await;
    copy.put_back(&stopped);
    let ca = stopped.start_again().await;
    let refused = renew(&ca, &had[2], &newer).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    accept(&ca).await;
    renew(&ca, &had[3], &newer).await.unwrap();
    ca.audit();
}

#[tokio::test]
async fn an_acceptance_voids_unused_tokens_and_gives_a_bundle_that_sidecars_take() {
    let ca = Ca::start().await;
    let svid = ca.identity(CART).await;
    let token = ca.token(CART).await;
    let stopped = ca.stop().await;
    let copy = Copy::of(&stopped);
    let ca = stopped.start_again().await;
    crate::renew::add_root(&ca).await;
    let held = ca.bundle().sequence();
    let owner = Workload::new().request(CART, &token);
    ca.connect(None).await.issue(owner).await.unwrap();
    let lost = head(&ca, &svid).await;
    let stopped = ca.stop().await;
    copy.put_back(&stopped);

    let ca = stopped.start_again().await;
    // Before anybody knows, and afterwards.
    renew(&ca, &svid, &lost).await.unwrap_err();
    let thief = Workload::new();
    let stolen = || thief.request(CART, &token);
    let refused = ca.connect(None).await.issue(stolen()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    accept(&ca).await;
    let refused = ca.connect(None).await.issue(stolen()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(ca.metrics.refused(Reason::ExpiredToken), 1);
    ca.identity(CART).await;
    let mut bundles = ca.authority.bundle();
    let newer = bundles.wait_for(|bundle| bundle.sequence() > held);
    within(newer).await.unwrap();
}
