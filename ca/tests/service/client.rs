use crate::harness::{CART, Ca, id, svid, within};
use crate::relay::Relay;
use crate::renew::add_root;
use ca::client::{self, ClientState, Handles};
use ca::metrics::{Call, Reason};
use identity::Svid;
use identity::tls::{ClientAuth, server_config};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

pub(crate) async fn renew(handles: &Handles) -> Result<(), String> {
    let (asker, answer) = oneshot::channel();
    handles.renew.send(asker).await.unwrap();
    within(answer).await.unwrap()
}

async fn state(handles: &Handles, wanted: impl FnMut(&ClientState) -> bool) -> ClientState {
    let mut states = handles.state.clone();
    within(states.wait_for(wanted)).await.unwrap().clone()
}

fn error(state: &ClientState) -> &str {
    match state {
        ClientState::Retrying { error, .. } | ClientState::Expired { error, .. } => error,
        _ => "",
    }
}

#[tokio::test]
async fn a_client_enrols_with_its_token_and_has_an_identity() {
    let ca = Ca::start().await;
    let dir = tempfile::tempdir().unwrap();
    let handles = ca.enrolled(CART, &dir.path().join("key")).await;
    assert_eq!(svid(&handles).await.id(), &id(CART));
    let valid = state(&handles, |state| matches!(state, ClientState::Valid { .. })).await;
    assert!(matches!(valid, ClientState::Valid { renew_at } if renew_at > SystemTime::now()));
    let only_the_key = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(
        only_the_key, 1,
        "nothing but the enrolment key rests on disk"
    );
}

#[tokio::test]
async fn a_restarted_client_needs_no_token_and_minds_no_used_one() {
    let ca = Ca::start().await;
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let token = ca.token(CART).await;
    for token in [Some(token.clone()), None, Some(token)] {
        let handles = client::start(ca.client_config(CART, token, &key)).unwrap();
        svid(&handles).await;
    }
    assert_eq!(ca.metrics.issued(Call::Issue), 3);
}

#[tokio::test]
async fn a_copied_token_brings_no_identity_to_its_thief() {
    let ca = Ca::start().await;
    let dir = tempfile::tempdir().unwrap();
    let token = ca.token(CART).await;
    let start = |key: &str| {
        let key = dir.path().join(key);
        client::start(ca.client_config(CART, Some(token.clone()), &key)).unwrap()
    };
    let owner = start("owner");
    svid(&owner).await;
    let thief = start("thief");
    let refused = state(&thief, |state| !error(state).is_empty()).await;
    assert!(
        error(&refused).contains("another enrolment key has used"),
        "{refused:?}"
    );
    assert!(thief.svid.borrow().is_none());
}

#[tokio::test]
async fn a_client_whose_first_reply_was_lost_enrols_all_the_same() {
    let ca = Ca::start().await;
    let relay = Relay::start(ca.address).await;
    relay.lose_replies(true);
    let dir = tempfile::tempdir().unwrap();
    let token = ca.token(CART).await;
    let mut config = ca.client_config(CART, Some(token), &dir.path().join("key"));
    config.endpoint = format!("https://{}", relay.address);
    let handles = client::start(config).unwrap();
    let failed = state(&handles, |state| !error(state).is_empty()).await;
    assert!(error(&failed).contains("was cut off"), "{failed:?}");
    assert!(handles.svid.borrow().is_none());
    assert!(ca.metrics.issued(Call::Issue) > 0, "the CA had answered");

    relay.lose_replies(false);
    assert_eq!(svid(&handles).await.id(), &id(CART));
    let records = ca::ledger::records(&ca.directory(), 1, 100).unwrap();
    let enrolled = records.iter().filter(|record| record.kind == "enrolled");
    assert_eq!(enrolled.count(), 1);
}

/// After a lost reply the enrolment key speaks. When the CA no longer knows that, the SVID has to have another turn.
#[tokio::test]
async fn a_lost_renewal_is_repeated_even_without_an_enrolment() {
    let ca = Ca::start().await;
    let relay = Relay::start(ca.address).await;
    let dir = tempfile::tempdir().unwrap();
    let token = ca.token(CART).await;
    let mut config = ca.client_config(CART, Some(token), &dir.path().join("key"));
    config.endpoint = format!("https://{}", relay.address);
    let handles = client::start(config).unwrap();
    let first = svid(&handles).await;
    let database = rusqlite::Connection::open(ca.directory().join("ca.db")).unwrap();
    database
        .execute_batch("UPDATE join_token SET enrolled_key = NULL; DELETE FROM enrolment")
        .unwrap();

    relay.lose_replies(true);
    let lost = renew(&handles).await.unwrap_err();
    assert!(lost.contains("was cut off"), "{lost}");
    relay.lose_replies(false);
    let mut watched = handles.svid.clone();
    let newer = within(watched.wait_for(|svid| {
        let serial = svid.as_ref().map(|svid| &svid.leaf().serial);
        serial != Some(&first.leaf().serial)
    }));
    newer.await.unwrap();
    assert_eq!(ca.metrics.issued(Call::Issue), 1);
    assert_eq!(ca.metrics.issued(Call::Renew), 2, "the lost one and this");
}

#[tokio::test]
async fn a_renewal_that_is_asked_for_happens_at_once_over_the_present_identity() {
    let ca = Ca::start().await;
    let dir = tempfile::tempdir().unwrap();
    let handles = ca.enrolled(CART, &dir.path().join("key")).await;
    let first = svid(&handles).await;
    renew(&handles).await.unwrap();
    let second = svid(&handles).await;
    assert_ne!(first.leaf().serial, second.leaf().serial);
    assert_eq!(ca.metrics.issued(Call::Renew), 1);
}

#[tokio::test]
async fn a_short_lived_identity_is_renewed_by_itself_in_time() {
    let ca = Ca::start().await;
    let dir = tempfile::tempdir().unwrap();
    let token = ca.token(CART).await;
    let mut config = ca.client_config(CART, Some(token), &dir.path().join("key"));
    config.ttl = Some(Duration::from_secs(5));
    let handles = client::start(config).unwrap();
    let first = svid(&handles).await;
    let mut watched = handles.svid.clone();
    let newer = |svid: &Option<Arc<Svid>>| {
        svid.as_ref()
            .is_some_and(|svid| svid.leaf().serial != first.leaf().serial)
    };
    let second = within(watched.wait_for(newer))
        .await
        .unwrap()
        .clone()
        .unwrap();
    let issued = second.leaf().not_before + ca::profile::BACKDATE;
    assert!(
        issued < first.leaf().not_after,
        "while the first was still valid"
    );
    assert_eq!(ca.metrics.issued(Call::Renew), 1);
}

#[tokio::test]
async fn a_ca_that_comes_back_after_expiry_is_used_again_without_a_token() {
    let ca = Ca::start().await;
    let dir = tempfile::tempdir().unwrap();
    let token = ca.token(CART).await;
    let mut config = ca.client_config(CART, Some(token), &dir.path().join("key"));
    config.ttl = Some(Duration::from_secs(5));
    let handles = client::start(config).unwrap();
    let first = svid(&handles).await;

    let ca = ca.stop().await;
    let failed = renew(&handles).await.unwrap_err();
    assert!(failed.contains("the CA cannot be reached"), "{failed}");
    let retrying = handles.state.borrow().clone();
    assert!(
        matches!(retrying, ClientState::Retrying { .. }),
        "{retrying:?}"
    );
    assert!(
        error(&retrying).contains("the CA cannot be reached"),
        "{retrying:?}"
    );
    let expired = state(&handles, |state| {
        matches!(state, ClientState::Expired { .. })
    })
    .await;
    assert!(
        error(&expired).contains("the CA cannot be reached"),
        "{expired:?}"
    );
    let kept = handles.svid.borrow().clone().unwrap();
    assert_eq!(
        kept.leaf().serial,
        first.leaf().serial,
        "users see the expired one and refuse by it"
    );

    let ca = ca.start_again().await;
    state(&handles, |state| matches!(state, ClientState::Valid { .. })).await;
    assert!(svid(&handles).await.leaf().not_after > SystemTime::now());
    assert_eq!(ca.metrics.issued(Call::Issue), 1, "by the enrolment key");
}

#[tokio::test]
async fn a_new_bundle_arrives_by_the_watch_and_an_older_one_never_does() {
    let ca = Ca::start().await;
    let dir = tempfile::tempdir().unwrap();
    let handles = ca.enrolled(CART, &dir.path().join("key")).await;
    let first = handles.bundle.borrow().sequence();
    add_root(&ca).await;
    let mut bundles = handles.bundle.clone();
    let newer = within(bundles.wait_for(|bundle| bundle.sequence() > first)).await;
    assert_eq!(newer.unwrap().authorities().len(), 2);

    // A client that has seen a later bundle keeps it, whatever the CA says.
    let key = dir.path().join("later");
    let mut config = ca.client_config(CART, Some(ca.token(CART).await), &key);
    let authorities = ca.bundle().authorities().to_vec();
    let trust_domain = ca.authority.trust_domain().clone();
    config.bundle = identity::TrustBundle::new(trust_domain, authorities, 1_000_000).unwrap();
    let handles = client::start(config).unwrap();
    svid(&handles).await;
    renew(&handles).await.unwrap();
    assert_eq!(handles.bundle.borrow().sequence(), 1_000_000);
}

/// Anybody with an SVID of the trust domain can listen where clients expect the CA.
#[tokio::test]
async fn a_workload_that_poses_as_the_ca_is_refused() {
    let ca = Ca::start().await;
    let dir = tempfile::tempdir().unwrap();
    let impostor = ca
        .enrolled("spiffe://demo.test/ns/evil/sa/ca", &dir.path().join("evil"))
        .await;
    let config = server_config(
        &*svid(&impostor).await,
        Arc::new(ca.bundle()),
        ClientAuth::Optional,
        &[b"h2"],
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let handshakes = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            acceptor
                .accept(socket)
                .await
                .map(drop)
                .expect_err("the victim must leave");
        }
    });

    let mut config = ca.client_config(CART, Some(ca.token(CART).await), &dir.path().join("key"));
    config.endpoint = format!("https://{address}");
    let victim = client::start(config).unwrap();
    let refused = state(&victim, |state| !error(state).is_empty()).await;
    assert!(
        error(&refused).contains("is not the CA of this trust domain"),
        "{refused:?}"
    );
    assert!(
        error(&refused).contains("spiffe://demo.test/ns/evil/sa/ca"),
        "{refused:?}"
    );
    assert!(victim.svid.borrow().is_none());
    assert!(
        !handshakes.is_finished(),
        "every handshake failed, as it should"
    );
    handshakes.abort();
}

#[tokio::test]
async fn what_cannot_work_is_said_at_the_start() {
    let ca = Ca::start().await;
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let start = |endpoint: Option<&str>, id: &str, token: Option<&str>, key: &Path| {
        let mut config = ca.client_config(id, token.map(str::to_owned), key);
        if let Some(endpoint) = endpoint {
            config.endpoint = endpoint.to_owned();
        }
        client::start(config).map(drop).unwrap_err().to_string()
    };
    let missing = dir.path().join("missing/key");
    for (message, expected) in [
        (
            start(Some("http://ca:1"), CART, None, &key),
            "expected a CA endpoint such as",
        ),
        (
            start(None, "spiffe://other.test/a", None, &key),
            "expected an identity in the trust domain of the bundle",
        ),
        (
            start(None, CART, Some("secret"), &key),
            "the join token cannot be used",
        ),
        (
            start(None, CART, None, &missing),
            "the enrolment key cannot be used",
        ),
    ] {
        assert!(message.contains(expected), "{expected:?} in {message:?}");
    }
    assert_eq!(ca.metrics.refused(Reason::NotEnrolled), 0);
}
