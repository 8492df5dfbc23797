//! Identities that are vouched for again at each renewal.

use crate::attest::{believing, clusters, patient};
use crate::entries::entry;
use crate::harness::{CART, Ca, LeafKey, id, svid};
use crate::issuer::{Published, Signer, attestation, claims, now, request, with};
use crate::outside;
use ca::attest::kubernetes::Identities;
use ca::attest::{self, Attestors, Renewals};
use ca::client::{self, Proof};
use ca::proto::attestation::Evidence;
use ca::proto::{Attestation, IssueRequest, RenewRequest};
use identity::Svid;
use serde_json::{Value, json};
use tonic::Code;

/// What a pod's token brings.
async fn attested(ca: &Ca, signer: &Signer) -> Svid {
    let leaf = LeafKey::new();
    let asked = request(CART, &leaf, &signer.token(&claims()));
    let reply = ca.connect(None).await.issue(asked).await.unwrap();
    leaf.svid(reply.into_inner().certificate.unwrap().chain)
}

/// For a key that nobody keeps.
fn renewal(attestation: Option<Attestation>) -> RenewRequest {
    RenewRequest {
        csr: LeafKey::new().csr,
        attestation,
        ..RenewRequest::default()
    }
}

#[tokio::test]
async fn evidence_beside_a_renewal_has_to_be_for_the_same_identity() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = believing(&published).await;
    let svid = attested(&ca, &signer).await;
    let renew = |claims: Value| renewal(attestation(&signer.token(&claims)));
    let mut orders = with("/sub", json!("system:serviceaccount:shop:orders"));
    orders["kubernetes.io"]["serviceaccount"]["name"] = json!("orders");
    let mut calls = ca.connect(Some(&svid)).await;
    let status = calls.renew(renew(orders)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    calls.renew(renew(claims())).await.unwrap();
}

#[tokio::test]
async fn a_lineage_is_renewed_with_evidence_of_its_own_pod_alone() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = believing(&published).await;
    let svid = attested(&ca, &signer).await;
    let renew = |claims: Value| renewal(attestation(&signer.token(&claims)));
    let replica = with(
        "/kubernetes.io/pod",
        json!({"name": "cart-1", "uid": "81c7"}),
    );
    let mut calls = ca.connect(Some(&svid)).await;
    let status = calls.renew(renew(replica)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(status.message().contains("pod cart-1"), "{status:?}");
    calls.renew(renew(claims())).await.unwrap();
    let records = ca::ledger::records(&ca.directory(), 1, 100).unwrap();
    let issued = records.iter().rfind(|record| record.kind == "issued");
    let requester = issued.unwrap().fields["requester"].as_str().unwrap();
    assert!(requester.starts_with("svid "), "{requester}");
    assert!(requester.contains("pod cart-0"), "{requester}");
}

/// A token of the build system says nothing of a pod: both may be entitled to the identity, each to certificates of its own.
#[tokio::test]
async fn what_one_attestor_has_vouched_for_is_not_renewed_on_the_word_of_another() {
    let (cluster, ci) = (Signer::p256("a"), Signer::rsa("ci"));
    let published = [Published::new(&[&cluster]), Published::new(&[&ci])];
    let options = attest::Options {
        kubernetes: vec![published[0].cluster("prod", Identities::ServiceAccount)],
        oidc: vec![outside::provider(&published[1])],
        ..attest::Options::default()
    };
    let attestors = Attestors::open(options).await.unwrap();
    let selectors = ["oidc:issuer:ci", "oidc:claim:ref=main"];
    let listed = vec![entry(CART, &selectors)];
    let ca = Ca::start_as(patient(), |server| {
        server.believing(attestors).with_entries(listed)
    })
    .await;
    let job = || {
        let token = ci.token(&outside::claims(&json!("main")));
        outside::attestation(Some(Evidence::OidcToken(token)))
    };
    let leaf = LeafKey::new();
    let issue = IssueRequest {
        spiffe_id: CART.to_owned(),
        csr: leaf.csr.clone(),
        attestation: job(),
        ..IssueRequest::default()
    };
    let reply = ca.connect(None).await.issue(issue).await.unwrap();
    let jobs = leaf.svid(reply.into_inner().certificate.unwrap().chain);
    let pods = attested(&ca, &cluster).await;
    let pod = || attestation(&cluster.token(&claims()));
    for (svid, foreign, own) in [(pods, job(), pod()), (jobs, pod(), job())] {
        let mut calls = ca.connect(Some(&svid)).await;
        let status = calls.renew(renewal(foreign)).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        assert!(status.message().contains("whom the certificate's lineage"));
        calls.renew(renewal(own)).await.unwrap();
    }
}

#[tokio::test]
async fn an_identity_that_was_vouched_for_is_vouched_for_at_each_renewal() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = believing(&published).await;
    let mut svid = attested(&ca, &signer).await;
    // The rule goes with the lineage, not with the first certificate alone.
    for _ in 0..2 {
        let next = LeafKey::new();
        let mut calls = ca.connect(Some(&svid)).await;
        let renew = |attestation| RenewRequest {
            csr: next.csr.clone(),
            ..renewal(attestation)
        };
        let status = calls.renew(renew(None)).await.unwrap_err();
        assert!(status.message().contains("fresh evidence"), "{status:?}");
        let expired = signer.token(&with("/exp", json!(now() - 60)));
        calls.renew(renew(attestation(&expired))).await.unwrap_err();
        let fresh = attestation(&signer.token(&claims()));
        let reply = calls.renew(renew(fresh)).await.unwrap().into_inner();
        svid = next.svid(reply.certificate.unwrap().chain);
    }
}

#[tokio::test]
async fn renewals_of_a_cluster_that_says_so_take_the_certificate_alone() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let mut cluster = published.cluster("prod", Identities::ServiceAccount);
    cluster.renewals = Renewals::Certificate;
    let kubernetes = vec![cluster];
    let attestors = clusters(kubernetes).await;
    let ca = Ca::start_believing(attestors, patient()).await;
    let svid = attested(&ca, &signer).await;
    let mut calls = ca.connect(Some(&svid)).await;
    calls.renew(renewal(None)).await.unwrap();
}

#[tokio::test]
async fn a_sidecar_reads_its_token_file_anew_at_each_call() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = believing(&published).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{}\n", signer.token(&claims()))).unwrap();
    let config = client::ClientConfig {
        proof: Proof::ServiceAccountToken(file.clone()),
        ..ca.client_config(CART, None, &dir.path().join("unused"))
    };
    let handles = client::start(config).unwrap();
    let first = svid(&handles).await;
    assert_eq!(first.id(), &id(CART));
    assert!(!dir.path().join("unused").exists(), "no key rests");

    let renew = || async {
        let (sender, answer) = tokio::sync::oneshot::channel();
        handles.renew.send(sender).await.unwrap();
        answer.await.unwrap()
    };
    std::fs::write(&file, signer.token(&with("/exp", json!(now() - 60)))).unwrap();
    let said = renew().await.unwrap_err();
    assert!(said.contains("has expired"), "{said}");
    std::fs::remove_file(&file).unwrap();
    let said = renew().await.unwrap_err();
    assert!(said.contains("token cannot be read"), "{said}");
    std::fs::write(&file, signer.token(&claims())).unwrap();
    renew().await.unwrap();
}
