use crate::attest::believing;
use crate::harness::{CART, Ca, svid, within};
use crate::issuer::{Published, Signer, claims};
use ca::client::{self, ClientState, Handles, Proof};
use ca::entries::{Entry, Written};
use ca::metrics::Call;
use ca::store::Author;
use std::path::Path;
use std::time::{Duration, SystemTime};

async fn grace(ca: &Ca, recovery_grace_seconds: Option<u64>) {
    let selectors = ["k8s:cluster:prod", "k8s:ns:shop", "k8s:sa:cart"];
    let entry = Entry::try_from(Written {
        id: CART.to_owned(),
        selectors: selectors.map(str::to_owned).to_vec(),
        recovery_grace_seconds,
        ..Written::default()
    });
    let (store, now) = (ca.authority.store(), SystemTime::now());
    let created = store.create_entry(entry.unwrap(), Author::Operator, now);
    assert!(created.await.unwrap().unwrap());
}

/// A sidecar with certificates of five seconds, whose cluster vouches for it no more once it has the first.
async fn forsaken(ca: &Ca, signer: &Signer, file: &Path) -> Handles {
    std::fs::write(file, signer.token(&claims())).unwrap();
    let config = client::ClientConfig {
        proof: Proof::ServiceAccountToken(file.to_owned()),
        ttl: Some(Duration::from_secs(5)),
        ..ca.client_config(CART, None, Path::new("unused"))
    };
    let handles = client::start(config).unwrap();
    svid(&handles).await;
    std::fs::write(file, "no token").unwrap();
    handles
}

#[tokio::test]
async fn a_sidecar_whose_certificate_has_expired_comes_back_by_itself_where_its_entry_allows_it() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = believing(&published).await;
    grace(&ca, Some(60)).await;
    let dir = tempfile::tempdir().unwrap();
    let handles = forsaken(&ca, &signer, &dir.path().join("token")).await;
    let first = svid(&handles).await.leaf().serial.clone();
    let mut watched = handles.svid.clone();
    let next = watched.wait_for(|svid| {
        let serial = svid.as_ref().map(|svid| &svid.leaf().serial);
        serial != Some(&first)
    });
    within(next).await.unwrap();
    assert_eq!(ca.metrics.issued(Call::Recover), 1);
    let records = ca::ledger::records(&ca.directory(), 1, 100).unwrap();
    let issued = records.iter().rfind(|record| record.kind == "issued");
    let requester = issued.unwrap().fields["requester"].as_str().unwrap();
    assert_eq!(requester, format!("recovery of expired svid {first}"));
}

#[tokio::test]
async fn without_a_grace_it_stays_without_an_identity_and_asks_for_none_again_and_again() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = believing(&published).await;
    grace(&ca, None).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let handles = forsaken(&ca, &signer, &file).await;
    let mut states = handles.state.clone();
    let expired = states.wait_for(|state| matches!(state, ClientState::Expired { .. }));
    within(expired).await.unwrap();
    let asked = || {
        let records = ca::ledger::records(&ca.directory(), 1, 100).unwrap();
        let refused = records.iter().filter(|record| record.kind == "refused");
        refused
            .filter(|record| record.fields["operation"] == "recover")
            .count()
    };
    for _ in 0..3 {
        let (asker, answer) = tokio::sync::oneshot::channel();
        handles.renew.send(asker).await.unwrap();
        let error = within(answer).await.unwrap().unwrap_err();
        assert!(error.contains("attestation"), "{error}");
    }
    assert_eq!(asked(), 1);
    // The ordinary way stays open.
    std::fs::write(&file, signer.token(&claims())).unwrap();
    let valid = states.wait_for(|state| matches!(state, ClientState::Valid { .. }));
    within(valid).await.unwrap();
    assert_eq!(ca.metrics.issued(Call::Recover), 0);
}
