use crate::harness::{CART, Ca, LeafKey, Workload, id};
use crate::issuer::{Published, Signer, attestation, claims, encoded, now, request, with, without};
use ca::attest::fetch;
use ca::attest::keyring::KeySource;
use ca::attest::kubernetes::{self, Identities};
use ca::attest::{Attestors, Options};
use ca::metrics::Reason;
use ca::proto::IssueRequest;
use ca::server;
use serde_json::{Value, json};
use tonic::{Code, Status};

/// Refusals are what most of this is about.
pub(crate) fn patient() -> server::Options {
    server::Options {
        refusals_per_minute: 1000,
        ..server::Options::default()
    }
}

pub(crate) async fn clusters(kubernetes: Vec<kubernetes::Options>) -> Attestors {
    let options = Options {
        kubernetes,
        ..Options::default()
    };
    Attestors::open(options).await.unwrap()
}

pub(crate) async fn believing(published: &Published) -> Ca {
    Ca::start_believing(published.attestors().await, patient()).await
}

async fn ask(ca: &Ca, id: &str, token: &str) -> Result<(), Status> {
    let request = request(id, &LeafKey::new(), token);
    ca.connect(None).await.issue(request).await.map(drop)
}

/// Expects a refusal before anybody is known, with these words.
async fn refused(ca: &Ca, token: &str, words: &str) {
    let status = ask(ca, CART, token).await.expect_err("nothing is issued");
    assert_eq!(status.code(), Code::Unauthenticated, "{words}: {status:?}");
    let reason = status.metadata().get("tipstaff-reason").unwrap();
    assert_eq!(reason, Reason::InvalidAttestation.as_str());
    let said = status.message();
    assert!(said.contains(words), "{words:?} in {said:?}");
}

#[tokio::test]
async fn a_pods_token_brings_the_identity_of_its_service_account() {
    for signer in [Signer::p256("a"), Signer::rsa("a")] {
        let published = Published::new(&[&signer]);
        let ca = believing(&published).await;
        let leaf = LeafKey::new();
        let asked = request(CART, &leaf, &signer.token(&claims()));
        let reply = ca.connect(None).await.issue(asked).await.unwrap();
        let svid = leaf.svid(reply.into_inner().certificate.unwrap().chain);
        assert_eq!(svid.id(), &id(CART));
        ca.audit();
    }
}

#[tokio::test]
async fn a_token_is_good_for_its_own_service_account_alone() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = believing(&published).await;
    let token = signer.token(&claims());
    for (asked, reason) in [
        ("spiffe://demo.test/ns/shop/sa/orders", Reason::NotEntitled),
        ("spiffe://demo.test/ns/bank/sa/cart", Reason::NotEntitled),
        ("spiffe://demo.test/ns/shop/sa/cart/x", Reason::NotEntitled),
        ("spiffe://demo.test/tipstaff/ca", Reason::ReservedId),
        (
            "spiffe://other.test/ns/shop/sa/cart",
            Reason::ForeignTrustDomain,
        ),
    ] {
        let status = ask(&ca, asked, &token).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{asked}");
        let said = status.metadata().get("tipstaff-reason").unwrap();
        assert_eq!(said, reason.as_str(), "{asked}");
    }
}

#[tokio::test]
async fn a_token_that_is_not_for_us_or_not_now_is_refused() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = believing(&published).await;
    let audience = "for the audience \"tipstaff.demo.test\" and for no other";
    let seconds = "in whole seconds";
    for (claims, words) in [
        (with("/aud", json!([])), audience),
        (with("/aud", json!("")), audience),
        (
            with("/aud", json!("https://kubernetes.default.svc")),
            audience,
        ),
        (
            with("/aud", json!(["tipstaff.demo.test", "vault"])),
            audience,
        ),
        (
            with("/aud", json!(["tipstaff.demo.test", "tipstaff.demo.test"])),
            audience,
        ),
        (with("/aud", json!([["tipstaff.demo.test"]])), audience),
        (with("/aud", json!("tipstaff.demo.test.")), audience),
        (without("aud"), audience),
        (
            with("/iss", json!("https://kubernetes.default.svc/")),
            "configured issuer",
        ),
        (
            with("/iss", json!(["https://kubernetes.default.svc"])),
            "configured issuer",
        ),
        (without("iss"), "configured issuer"),
        (with("/exp", json!(now() - 31)), "has expired"),
        (with("/exp", json!(0)), "has expired"),
        (with("/exp", json!(1e300)), seconds),
        (with("/exp", json!(u64::MAX)), seconds),
        (with("/exp", json!("9999999999")), seconds),
        (with("/exp", json!(-1)), seconds),
        (without("exp"), "claim `exp`"),
        (without("iat"), "claim `iat`"),
        (with("/nbf", json!(now() + 120)), "valid already"),
        (with("/iat", json!(now() + 120)), "valid already"),
        (without("kubernetes.io"), "bound to a pod"),
        (with("/kubernetes.io/pod", Value::Null), "bound to a pod"),
        (
            with("/kubernetes.io/namespace", json!("bank")),
            "bound to a pod",
        ),
        (
            with("/sub", json!("system:serviceaccount:shop:orders")),
            "bound to a pod",
        ),
    ] {
        refused(&ca, &signer.token(&claims), words).await;
    }
}

#[tokio::test]
async fn clocks_may_differ_by_some_seconds() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = believing(&published).await;
    for claims in [
        with("/exp", json!(now() - 5)),
        with("/nbf", json!(now() + 10)),
        with("/aud", json!("tipstaff.demo.test")),
        without("nbf"),
    ] {
        ask(&ca, CART, &signer.token(&claims)).await.unwrap();
    }
}

#[tokio::test]
async fn nothing_in_a_token_chooses_how_it_is_judged() {
    let (ec, rsa) = (Signer::p256("ec"), Signer::rsa("rsa"));
    let published = Published::new(&[&ec, &rsa]);
    let ca = believing(&published).await;
    let good = claims().to_string();
    let public = rsa.jwk()["n"].as_str().unwrap().to_owned();
    let header = |alg: &str, kid: &str| json!({"alg": alg, "kid": kid}).to_string();

    // No algorithm, in all its spellings, and a MAC for which the public key would be the secret.
    for alg in [
        "none", "None", "", "HS256", "PS256", "RS512", "EdDSA", "es256",
    ] {
        refused(&ca, &ec.sign(&header(alg, "ec"), &good), "RS256 or ES256").await;
    }
    let unsigned = format!("{}.{}.", encoded(header("none", "ec")), encoded(&good));
    refused(&ca, &unsigned, "RS256 or ES256").await;
    let signed = format!("{}.{}", encoded(header("HS256", "rsa")), encoded(&good));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, public.as_bytes());
    let mac = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
    refused(&ca, &format!("{signed}.{}", encoded(mac)), "RS256 or ES256").await;

    // The algorithm is the key's, and the key is the one that is named.
    refused(
        &ca,
        &ec.sign(&header("RS256", "ec"), &good),
        "the signature of its issuer",
    )
    .await;
    refused(
        &ca,
        &ec.sign(&header("ES256", "rsa"), &good),
        "the signature of its issuer",
    )
    .await;
    refused(
        &ca,
        &rsa.sign(&header("RS256", "ec"), &good),
        "the signature of its issuer",
    )
    .await;
    refused(
        &ca,
        &ec.sign(&header("ES256", "../ec"), &good),
        "its issuer has published",
    )
    .await;
    let unnamed = json!({"alg": "ES256"}).to_string();
    refused(&ca, &ec.sign(&unnamed, &good), "a `kid`").await;

    // A key of the token's own.
    let thief = Signer::p256("thief");
    for extra in [
        json!({"alg": "ES256", "kid": "thief", "jwk": thief.jwk()}),
        json!({"alg": "ES256", "kid": "thief", "jku": "https://127.0.0.1:1/jwks"}),
    ] {
        refused(
            &ca,
            &thief.sign(&extra.to_string(), &good),
            "its issuer has published",
        )
        .await;
    }
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("typ", json!("dpop+jwt")),
    ] {
        let mut header = ec.header();
        header[name] = value;
        refused(&ca, &ec.sign(&header.to_string(), &good), "token header").await;
    }
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_not_read_at_all() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = believing(&published).await;
    let good = signer.token(&claims());
    let header = signer.header().to_string();
    let twice = |claim: &str| {
        let text = claims().to_string();
        signer.sign(&header, &format!("{{{claim},{}", &text[1..]))
    };
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let padded = format!("{signed}.{signature}=");
    let three_dots = format!("{good}.{signature}");
    let doubled = r#"{"alg":"ES256","kid":"a","alg":"ES256"}"#;
    for token in [
        twice(r#""aud":"vault""#),
        twice(r#""sub":"system:serviceaccount:bank:vault""#),
        twice(r#""exp":1"#),
        signer.sign(doubled, &claims().to_string()),
        signer.sign(&header, "[]"),
        signer.sign(&header, "null"),
        padded,
        three_dots,
        format!(" {good}"),
        format!("{good}\n"),
        String::new(),
        "..".to_owned(),
    ] {
        refused(&ca, &token, "expected a ").await;
    }
    let huge = with("/sub", json!("x".repeat(9000)));
    refused(&ca, &signer.token(&huge), "at most 8192 bytes").await;

    let tampered = with("/kubernetes.io/namespace", json!("bank")).to_string();
    let (_, signature) = good.rsplit_once('.').unwrap();
    let forged = format!("{}.{}.{signature}", encoded(&header), encoded(tampered));
    refused(&ca, &forged, "the signature of its issuer").await;
}

#[tokio::test]
async fn strangers_tokens_leave_no_record() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = believing(&published).await;
    let before = ca.audit().records;
    refused(&ca, &Signer::p256("a").token(&claims()), "the signature").await;
    refused(&ca, "x.y.z", "compact form").await;
    assert_eq!(ca.audit().records, before);
}

#[tokio::test]
async fn clusters_with_issuers_of_one_name_and_keys_of_one_name_are_told_apart() {
    let (ours, theirs) = (Signer::p256("same"), Signer::p256("same"));
    let (here, there) = (Published::new(&[&ours]), Published::new(&[&theirs]));
    let kubernetes = vec![
        there.cluster("there", Identities::Entries),
        here.cluster("here", Identities::ServiceAccount),
    ];
    let attestors = clusters(kubernetes).await;
    let ca = Ca::start_believing(attestors, patient()).await;
    ask(&ca, CART, &ours.token(&claims())).await.unwrap();
    let status = ask(&ca, CART, &theirs.token(&claims())).await.unwrap_err();
    let reason = status.metadata().get("tipstaff-reason").unwrap();
    assert_eq!(reason, Reason::NotEntitled.as_str(), "{status:?}");
}

#[tokio::test]
async fn two_proofs_are_one_too_many_and_evidence_of_no_kind_is_none() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let ca = believing(&published).await;
    let both = IssueRequest {
        attestation: attestation(&signer.token(&claims())),
        ..Workload::new().request(CART, &ca.token(CART).await)
    };
    let status = ca.connect(None).await.issue(both).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");

    let empty = IssueRequest {
        attestation: Some(ca::proto::Attestation { evidence: None }),
        ..request(CART, &LeafKey::new(), "")
    };
    let status = ca.connect(None).await.issue(empty).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
}

#[tokio::test]
async fn without_attestors_no_token_is_believed() {
    let ca = Ca::start().await;
    refused(
        &ca,
        &Signer::p256("a").token(&claims()),
        "configured issuer",
    )
    .await;
}

/// Keys of a server that is away.
fn nowhere(published: &Published) -> KeySource {
    KeySource::Url(fetch::Server {
        // Nobody listens on port 1.
        url: "https://127.0.0.1:1/jwks".parse().unwrap(),
        ca_file: published.path(),
        token_file: None,
    })
}

#[tokio::test]
async fn keys_that_cannot_be_read_are_nobodys_fault_but_ours() {
    let signer = Signer::p256("a");
    let published = Published::new(&[&signer]);
    let mut cluster = published.cluster("prod", Identities::ServiceAccount);
    cluster.token.keys = nowhere(&published);
    let kubernetes = vec![cluster];
    let attestors = clusters(kubernetes).await;
    let ca = Ca::start_believing(attestors, patient()).await;
    let status = ask(&ca, CART, &signer.token(&claims())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[tokio::test]
async fn a_cluster_that_is_away_does_not_keep_pods_of_another_with_the_same_issuer_waiting() {
    let (ours, nobodys) = (Signer::p256("a"), Signer::p256("b"));
    let published = Published::new(&[&ours]);
    let here = published.cluster("here", Identities::ServiceAccount);
    let mut away = published.cluster("away", Identities::Entries);
    away.token.keys = nowhere(&published);
    for kubernetes in [
        vec![away.clone(), here.clone()],
        vec![here.clone(), away.clone()],
    ] {
        let ca = Ca::start_believing(clusters(kubernetes).await, patient()).await;
        ask(&ca, CART, &ours.token(&claims())).await.unwrap();
        // It could be of the one that is away.
        let status = ask(&ca, CART, &nobodys.token(&claims())).await;
        assert_eq!(status.unwrap_err().code(), Code::Unavailable);
    }
}
