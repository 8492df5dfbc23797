use crate::harness::{CART, Ca, LeafKey, Workload, id, within};
use ca::metrics::{Call, Reason};
use ca::proto::{IssueRequest, IssueResponse};
use ca::server::Options;
use identity::Usage;
use rustls_pki_types::CertificateDer;
use std::time::{Duration, SystemTime};
use tonic::{Code, Status};

async fn issue(ca: &Ca, request: IssueRequest) -> Result<IssueResponse, Status> {
    let reply = ca.connect(None).await.issue(request).await?;
    Ok(reply.into_inner())
}

/// Expects a refusal with this code, a sentence with these words, and the counter of this reason.
#[track_caller]
fn refused(ca: &Ca, reply: Result<IssueResponse, Status>, expected: (Code, &str, Reason)) {
    let (code, words, reason) = expected;
    let status = reply.expect_err("nothing must be issued");
    assert_eq!(status.code(), code, "{status:?}");
    assert!(
        status.message().contains(words),
        "{words:?} in {:?}",
        status.message()
    );
    let word = status.metadata().get("tipstaff-reason").unwrap();
    assert_eq!(word, reason.as_str());
    assert_eq!(ca.metrics.refused(reason), 1, "{reason:?}");
}

#[tokio::test]
async fn a_join_token_brings_a_certificate_that_verifies() {
    let ca = Ca::start().await;
    let token = ca.token(CART).await;
    let workload = Workload::new();
    let reply = issue(&ca, workload.request(CART, &token)).await.unwrap();

    let certificate = reply.certificate.clone().unwrap();
    let chain: Vec<_> = certificate
        .chain
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    let leaf = ca
        .bundle()
        .verify(&chain, Usage::Client, SystemTime::now())
        .unwrap();
    assert_eq!(leaf.id, id(CART));
    assert!(reply.server_time_unix_ms < certificate.renew_at_unix_ms);
    assert!(certificate.renew_at_unix_ms < certificate.not_after_unix_ms);
    assert_eq!(
        reply.bundle.as_ref().unwrap().sequence,
        ca.bundle().sequence()
    );
    assert_eq!(workload.svid(reply).id(), &id(CART));
    assert_eq!(ca.metrics.issued(Call::Issue), 1);
}

#[tokio::test]
async fn each_bad_request_gets_its_code_and_a_sentence_that_says_what_was_expected() {
    let ca = Ca::start().await;
    let token = ca.token(CART).await;
    let workload = Workload::new();
    let good = workload.request(CART, &token);
    let with_csr = |csr| Workload::new().request_with(CART, "", csr);
    let before = ca.audit();

    let mut spoilt_proof = good.clone();
    spoilt_proof.csr = LeafKey::new().csr;
    let mut wrong_enrolment_key = good.clone();
    wrong_enrolment_key.enrolment_key = vec![0x30; 91];
    let mut bad_id = good.clone();
    bad_id.spiffe_id = "https://demo.test/cart".to_owned();
    let mut other_form = good.clone();
    other_form.join_token = "secret".to_owned();
    let mut unknown_token = good.clone();
    unknown_token.join_token = ca::token::JoinToken::generate().reveal().to_string();

    use Code::{InvalidArgument, Unauthenticated};
    for (request, expected) in [
        (bad_id, (InvalidArgument, "spiffe_id: ", Reason::InvalidId)),
        (
            wrong_enrolment_key,
            (
                InvalidArgument,
                "enrolment_key: expected",
                Reason::InvalidEnrolmentKey,
            ),
        ),
        (
            spoilt_proof,
            (
                InvalidArgument,
                "expected enrolment_proof to be",
                Reason::WrongProof,
            ),
        ),
        (
            other_form,
            (
                InvalidArgument,
                "join_token: expected",
                Reason::MalformedToken,
            ),
        ),
        (
            unknown_token,
            (
                Unauthenticated,
                "expected a join token of this CA",
                Reason::UnknownToken,
            ),
        ),
        (
            with_csr(LeafKey::new().csr),
            (
                Unauthenticated,
                "expected an enrolment key that is registered",
                Reason::NotEnrolled,
            ),
        ),
    ] {
        refused(&ca, issue(&ca, request).await, expected);
    }
    assert_eq!(
        ca.audit().records,
        before.records,
        "strangers leave no record"
    );
    assert_eq!(
        ca.audit().certificates,
        before.certificates,
        "nothing was issued"
    );

    issue(&ca, good)
        .await
        .expect("the token was not spent by any of this");
}

#[tokio::test]
async fn a_bad_csr_of_a_known_caller_is_refused_and_audited() {
    let ca = Ca::start().await;
    let token = ca.token(CART).await;
    let workload = Workload::new();
    issue(&ca, workload.request(CART, &token)).await.unwrap();
    let before = ca.audit();

    let mut wrong_signature = LeafKey::new().csr;
    *wrong_signature.last_mut().unwrap() ^= 1;
    let p384 = LeafKey::of(&rcgen::PKCS_ECDSA_P384_SHA384).csr;
    for (csr, words) in [
        (b"no request".to_vec(), "csr: expected exactly one DER"),
        (
            wrong_signature,
            "csr: expected the request to be signed with the key it contains",
        ),
        (p384, "csr: expected an ECDSA key on curve P-256"),
    ] {
        let status = issue(&ca, workload.request_with(CART, "", csr))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(
            status.message().contains(words),
            "{words:?} in {:?}",
            status.message()
        );
    }
    let after = ca.audit();
    assert_eq!(after.records, before.records + 3);
    assert_eq!(
        after.certificates, before.certificates,
        "nothing was issued"
    );
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let ca = Ca::start().await;
    let expired = SystemTime::now() - Duration::from_secs(1);
    let token = ca.token_that_expires(CART, expired).await;
    let reply = issue(&ca, Workload::new().request(CART, &token)).await;
    let expected = (
        Code::Unauthenticated,
        "expected a join token that is still valid",
        Reason::ExpiredToken,
    );
    refused(&ca, reply, expected);
}

#[tokio::test]
async fn a_copied_token_is_refused_and_audited_once_another_key_has_used_it() {
    let ca = Ca::start().await;
    let token = ca.token(CART).await;
    issue(&ca, Workload::new().request(CART, &token))
        .await
        .unwrap();
    let before = ca.audit();
    let reply = issue(&ca, Workload::new().request(CART, &token)).await;
    let expected = (
        Code::PermissionDenied,
        "expected an unused join token",
        Reason::ReplayedToken,
    );
    refused(&ca, reply, expected);
    assert_eq!(ca.audit().records, before.records + 1);
}

#[tokio::test]
async fn after_a_lost_reply_the_same_key_may_retry() {
    let ca = Ca::start().await;
    let token = ca.token(CART).await;
    let workload = Workload::new();
    let request = workload.request(CART, &token);
    issue(&ca, request.clone()).await.unwrap();
    let again = issue(&ca, request).await.unwrap();
    assert_eq!(workload.svid(again).id(), &id(CART));
}

#[tokio::test]
async fn a_registered_key_needs_no_token_for_its_identity_and_gets_no_other() {
    let ca = Ca::start().await;
    let token = ca.token(CART).await;
    let workload = Workload::new();
    issue(&ca, workload.request(CART, &token)).await.unwrap();
    issue(&ca, workload.request(CART, "")).await.unwrap();

    let before = ca.audit();
    let other = "spiffe://demo.test/ns/shop/sa/orders";
    let token = ca.token(other).await;
    let reply = issue(&ca, workload.request(other, &token)).await;
    let expected = (
        Code::PermissionDenied,
        "expected spiffe_id to be spiffe://demo.test/ns/shop/sa/cart",
        Reason::OtherId,
    );
    refused(&ca, reply, expected);
    let after = ca.audit();
    assert_eq!(after.certificates, before.certificates);
    assert_eq!(
        after.records,
        before.records + 2,
        "the new token and the refusal"
    );
}

#[tokio::test]
async fn an_identity_that_no_workload_may_have_is_refused() {
    let ca = Ca::start().await;
    for (asked, words, reason) in [
        (
            "spiffe://other.test/cart",
            "expected an ID in trust domain demo.test",
            Reason::ForeignTrustDomain,
        ),
        (
            "spiffe://demo.test/tipstaff/ca",
            "reserved",
            Reason::ReservedId,
        ),
    ] {
        let token = ca.token(CART).await;
        let reply = issue(&ca, Workload::new().request(asked, &token)).await;
        refused(&ca, reply, (Code::PermissionDenied, words, reason));
    }
    let token = ca.token("spiffe://demo.test/ns/shop/sa/orders").await;
    let reply = issue(&ca, Workload::new().request(CART, &token)).await;
    refused(
        &ca,
        reply,
        (
            Code::PermissionDenied,
            "for another SPIFFE ID",
            Reason::OtherId,
        ),
    );
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_issued_and_can_be_asked_for_again() {
    let ca = Ca::start().await;
    let workload = Workload::new();
    let token = ca.token(CART).await;
    issue(&ca, workload.request(CART, &token)).await.unwrap();
    let before = ca.audit();

    let other = rusqlite::Connection::open(ca.directory().join("ca.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let reply = issue(&ca, workload.request(CART, "")).await;
    let expected = (Code::Unavailable, "nothing was issued", Reason::Unavailable);
    refused(&ca, reply, expected);
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(ca.audit().certificates, before.certificates);
    issue(&ca, workload.request(CART, "")).await.unwrap();
}

#[tokio::test]
async fn a_slow_database_is_not_held_against_the_callers() {
    let ca = Ca::start_with(Options {
        request_timeout: Duration::from_millis(100),
        refusals_per_minute: 1,
        ..Options::default()
    })
    .await;
    let workload = Workload::new();
    let token = ca.token(CART).await;
    let other = rusqlite::Connection::open(ca.directory().join("ca.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..3 {
        let status = issue(&ca, workload.request(CART, &token))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    }
    other.execute_batch("ROLLBACK").unwrap();
    let issued = async {
        while let Err(status) = issue(&ca, workload.request(CART, &token)).await {
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        }
    };
    within(issued).await;
}
