use crate::harness::{Ca, svid, within};
use ca::client::Handles;
use ca::proto::IssueJwtRequest;
use ca::server::Options;
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;
use tonic::Code;

const CART: &str = "spiffe://demo.test/ns/shop/sa/cart";

async fn ask(handles: &Handles, audience: &[&str]) -> Result<String, String> {
    let audience = audience.iter().map(ToString::to_string).collect();
    let (sender, answer) = oneshot::channel();
    handles.tokens.send((audience, sender)).await.unwrap();
    let answer = within(answer).await.unwrap();
    answer.map_err(|refusal| refusal.message().to_owned())
}

/// The records of a kind.
fn records(ca: &Ca, kind: &str) -> Vec<ca::ledger::Record> {
    let all = ca::ledger::records(&ca.directory(), 1, 1000).unwrap();
    all.into_iter()
        .filter(|record| record.kind == kind)
        .collect()
}

#[tokio::test]
async fn the_holder_of_a_certificate_gets_a_token_that_the_bundle_vouches_for_and_a_record() {
    let ca = Ca::start_with_tokens().await;
    let folder = tempfile::tempdir().unwrap();
    let handles = ca.enrolled(CART, &folder.path().join("key")).await;
    let token = ask(&handles, &["api"]).await.unwrap();
    let bundle = handles.bundle.borrow().clone();
    let now = SystemTime::now();
    let verify = |audience| {
        let domain = bundle.trust_domain();
        bundle.jwt_keys().verify(domain, &token, audience, now)
    };
    let claims = verify("api").unwrap();
    assert_eq!(claims.subject.as_str(), CART);
    assert!(claims.expires <= now + ca::jwt::DEFAULT_TTL + Duration::from_secs(1));
    assert!(verify("other").is_err());

    // Asked for again it is the same, and leaves no second record; for another audience it is another.
    assert_eq!(ask(&handles, &["api"]).await.as_ref(), Ok(&token));
    let issued = records(&ca, "token_issued");
    let [record] = issued.as_slice() else {
        panic!("expected one, found {issued:?}");
    };
    assert_eq!(record.fields["name"], claims.all["jti"]);
    assert_eq!(record.fields["audience"], serde_json::json!(["api"]));
    assert_ne!(ask(&handles, &["api", "more"]).await, Ok(token));
    assert_eq!(records(&ca, "token_issued").len(), 2);
    assert_eq!(records(&ca, "token_key_published").len(), 1);
    let report = ca::ledger::verify(&ca.directory()).unwrap();
    assert!(report.is_intact(), "{report}");
}

#[tokio::test]
async fn without_an_audience_or_a_ca_that_issues_them_there_is_no_token() {
    let ca = Ca::start_with_tokens().await;
    let folder = tempfile::tempdir().unwrap();
    let handles = ca.enrolled(CART, &folder.path().join("key")).await;
    let long = "a".repeat(257);
    for audience in [&[][..], &[""], &["api", ""], &[&long], &["api"; 17]] {
        let refused = ask(&handles, audience).await.unwrap_err();
        assert!(refused.contains("audiences"), "{refused}");
    }
    assert_eq!(records(&ca, "token_issued").len(), 0);

    let ca = Ca::start().await;
    let handles = ca.enrolled(CART, &folder.path().join("other")).await;
    assert!(handles.bundle.borrow().jwt_keys().is_empty());
    let refused = ask(&handles, &["api"]).await.unwrap_err();
    assert!(refused.contains("not configured"), "{refused}");
}

#[tokio::test]
async fn a_workload_that_asks_in_vain_keeps_no_sidecar_from_renewing_and_leaves_no_record() {
    let ca = Ca::start_with(Options {
        refusals_per_minute: 4,
        ..Options::default()
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let handles = ca.enrolled(CART, &folder.path().join("key")).await;
    let present = svid(&handles).await;
    let mut calls = ca.connect(Some(&present)).await;
    for _ in 0..20 {
        let refused = calls.issue_jwt(IssueJwtRequest::default()).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
    }
    // Nothing bounds how often it may ask, so nothing of it may stay.
    assert_eq!(records(&ca, "refused").len(), 0);
    let (asker, renewed) = oneshot::channel();
    handles.renew.send(asker).await.unwrap();
    assert_eq!(within(renewed).await.unwrap(), Ok(()));
}

#[tokio::test]
async fn each_start_of_the_ca_brings_a_key_and_the_tokens_of_the_one_before_stay_good() {
    let ca = Ca::start_with_tokens().await;
    let folder = tempfile::tempdir().unwrap();
    let handles = ca.enrolled(CART, &folder.path().join("key")).await;
    svid(&handles).await;
    let token = ask(&handles, &["api"]).await.unwrap();
    let first = handles.bundle.borrow().clone();
    let ca = ca.stop().await.start_again().await;
    let bundle = ca.bundle();
    assert!(first.check_successor(&bundle).is_ok());
    let domain = bundle.trust_domain();
    let now = SystemTime::now();
    assert!(bundle.jwt_keys().verify(domain, &token, "api", now).is_ok());
}
