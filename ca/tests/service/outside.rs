use crate::attest::patient;
use crate::entries::entry;
use crate::harness::{Ca, LeafKey, id};
use crate::issuer::{AUDIENCE, Published, Signer, now};
use ca::attest::keyring::{IssuerOptions, KeySource};
use ca::attest::{Attestors, Options, Renewals, oidc, possession_statement, statement, x509pop};
use ca::proto::attestation::Evidence;
use ca::proto::{Attestation, IssueRequest, RenewRequest, X509Possession};
use identity::Svid;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SigningKey,
};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::{Code, Status};

const BUILD: &str = "spiffe://demo.test/ci/build";
const PROVIDER: &str = "https://ci.example";

/// What `evidence` brings, for a life of an hour if it can be had.
async fn ask(ca: &Ca, evidence: Evidence, leaf: &LeafKey) -> Result<Svid, Status> {
    let request = IssueRequest {
        spiffe_id: BUILD.to_owned(),
        csr: leaf.csr.clone(),
        ttl_seconds: 3600,
        attestation: attestation(Some(evidence)),
        ..IssueRequest::default()
    };
    let reply = ca.connect(None).await.issue(request).await?.into_inner();
    Ok(leaf.svid(reply.certificate.unwrap().chain))
}

/// The same for the successor of `svid`.
async fn ask_again(
    ca: &Ca,
    svid: &Svid,
    evidence: Option<Evidence>,
    leaf: &LeafKey,
) -> Result<Svid, Status> {
    let request = RenewRequest {
        csr: leaf.csr.clone(),
        ttl_seconds: 3600,
        attestation: attestation(evidence),
        ..RenewRequest::default()
    };
    let reply = ca.connect(Some(svid)).await.renew(request).await?;
    Ok(leaf.svid(reply.into_inner().certificate.unwrap().chain))
}

pub(crate) fn attestation(evidence: Option<Evidence>) -> Option<Attestation> {
    evidence.map(|evidence| Attestation {
        evidence: Some(evidence),
    })
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A provider of tokens for build jobs.
pub(crate) fn provider(published: &Published) -> oidc::Options {
    oidc::Options {
        name: "ci".to_owned(),
        token: IssuerOptions {
            issuer: PROVIDER.to_owned(),
            audience: AUDIENCE.to_owned(),
            keys: KeySource::File(published.path()),
        },
        renewals: Renewals::Attest,
    }
}

/// What the provider says of a job that builds `reference`.
pub(crate) fn claims(reference: &Value) -> Value {
    json!({"iss": PROVIDER, "aud": AUDIENCE, "sub": "repo:acme/shop", "ref": reference,
        "iat": now(), "exp": now() + 60})
}

async fn ca_for_jobs(published: &Published) -> Ca {
    let options = Options {
        oidc: vec![provider(published)],
        ..Options::default()
    };
    let attestors = Attestors::open(options).await.unwrap();
    let selectors = ["oidc:issuer:ci", "oidc:claim:ref=refs/heads/main"];
    let listed = vec![entry(BUILD, &selectors)];
    Ca::start_as(patient(), |server| {
        server.believing(attestors).with_entries(listed)
    })
    .await
}

#[tokio::test]
async fn a_build_job_gets_what_an_entry_says_of_its_claims() {
    let signer = Signer::rsa("ci");
    let published = Published::new(&[&signer]);
    let ca = ca_for_jobs(&published).await;
    let job = |claims: Value| {
        let token = signer.token(&claims);
        let ca = &ca;
        async move { ask(ca, Evidence::OidcToken(token), &LeafKey::new()).await }
    };
    job(claims(&json!("refs/heads/main"))).await.unwrap();
    for reference in [
        json!("refs/heads/mine"),
        json!("refs/heads/main "),
        json!(null),
    ] {
        let status = job(claims(&reference)).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    }
    for (claim, value) in [
        ("aud", json!("npm")),
        ("sub", json!("")),
        ("exp", json!(now() - 60)),
    ] {
        let mut claims = claims(&json!("refs/heads/main"));
        claims[claim] = value;
        let status = job(claims).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    }
    // A provider is not a cluster.
    let token = signer.token(&claims(&json!("refs/heads/main")));
    let status = ask(&ca, Evidence::KubernetesToken(token), &LeafKey::new()).await;
    assert_eq!(status.unwrap_err().code(), Code::Unauthenticated);
}

/// An outside CA, and what it has issued.
struct Corp {
    ca: CertifiedIssuer<'static, KeyPair>,
}

struct Held {
    der: Vec<u8>,
    key: KeyPair,
}

impl Corp {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Corp");
        let key = KeyPair::generate().unwrap();
        Self {
            ca: CertifiedIssuer::self_signed(params, key).unwrap(),
        }
    }

    fn issue(&self, usage: ExtendedKeyUsagePurpose, change: fn(&mut CertificateParams)) -> Held {
        let mut params = CertificateParams::new(["build.corp.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "build");
        params.extended_key_usages = vec![usage];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        let der = certificate.der().to_vec();
        Held { der, key }
    }
}

impl Held {
    fn evidence(&self, asked: &str, csr: &[u8]) -> Evidence {
        Evidence::X509pop(self.signed_at(asked, csr, now().cast_signed()))
    }

    fn signed_at(&self, asked: &str, csr: &[u8], signed_unix_seconds: i64) -> X509Possession {
        let statement = possession_statement(&id(asked), csr, signed_unix_seconds);
        X509Possession {
            chain: vec![self.der.clone()],
            signature: self.key.sign(&statement).unwrap(),
            signed_unix_seconds,
        }
    }
}

/// Renewals take fresh evidence.
async fn ca_beside(corp: &Corp) -> (Ca, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("corp.pem");
    std::fs::write(&ca_file, corp.ca.pem()).unwrap();
    let options = Options {
        x509pop: vec![x509pop::Options {
            name: "corp".to_owned(),
            ca_file,
            renewals: Renewals::Attest,
        }],
        ..Options::default()
    };
    let attestors = Attestors::open(options).await.unwrap();
    let listed = vec![entry(
        BUILD,
        &["x509pop:ca:corp", "x509pop:dns:build.corp.example"],
    )];
    let ca = Ca::start_as(patient(), |server| {
        server.believing(attestors).with_entries(listed)
    });
    (ca.await, dir)
}

#[tokio::test]
async fn whoever_holds_the_key_of_an_outside_certificate_gets_what_an_entry_says() {
    let corp = Corp::new();
    let (ca, _dir) = ca_beside(&corp).await;
    let held = corp.issue(ExtendedKeyUsagePurpose::ClientAuth, |_| ());
    let leaf = LeafKey::new();
    ask(&ca, held.evidence(BUILD, &leaf.csr), &leaf)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_signature_is_good_for_its_identity_csr_and_key_alone() {
    let corp = Corp::new();
    let (ca, _dir) = ca_beside(&corp).await;
    let held = corp.issue(ExtendedKeyUsagePurpose::ClientAuth, |_| ());
    let other = corp.issue(ExtendedKeyUsagePurpose::ClientAuth, |_| ());
    let leaf = LeafKey::new();
    let stolen = Held {
        der: held.der.clone(),
        key: other.key,
    };
    for evidence in [
        held.evidence("spiffe://demo.test/ci/other", &leaf.csr),
        held.evidence(BUILD, &LeafKey::new().csr),
        stolen.evidence(BUILD, &leaf.csr),
        Evidence::X509pop(X509Possession {
            signature: Vec::new(),
            ..held.signed_at(BUILD, &leaf.csr, now().cast_signed())
        }),
        // What the key has signed for an enrolment is no such statement.
        Evidence::X509pop(X509Possession {
            signature: held.key.sign(&statement(&id(BUILD), &leaf.csr)).unwrap(),
            ..held.signed_at(BUILD, &leaf.csr, now().cast_signed())
        }),
    ] {
        let status = ask(&ca, evidence, &leaf).await.unwrap_err();
        assert!(status.message().contains("statement signed"), "{status:?}");
    }
}

#[tokio::test]
async fn a_signature_that_was_recorded_is_soon_worth_nothing() {
    let corp = Corp::new();
    let (ca, _dir) = ca_beside(&corp).await;
    let held = corp.issue(ExtendedKeyUsagePurpose::ClientAuth, |_| ());
    let leaf = LeafKey::new();
    let (now, signed) = (now().cast_signed(), |at| {
        held.signed_at(BUILD, &leaf.csr, at)
    });
    for (presented, words) in [
        (signed(now - 70), "signed at most 60 s from now"),
        (signed(now + 70), "signed at most 60 s from now"),
        (signed(i64::MIN), "signed at most 60 s from now"),
        (signed(0), "signed at most 60 s from now"),
        // The time is signed with the rest.
        (
            X509Possession {
                signed_unix_seconds: now,
                ..signed(now - 70)
            },
            "statement signed with the key",
        ),
    ] {
        let status = ask(&ca, Evidence::X509pop(presented), &leaf).await;
        let status = status.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(status.message().contains(words), "{status:?}");
    }
    for at in [now - 40, now + 40] {
        ask(&ca, Evidence::X509pop(signed(at)), &leaf)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn what_an_outside_certificate_has_brought_is_renewed_with_that_certificate_alone() {
    let corp = Corp::new();
    let (ca, _dir) = ca_beside(&corp).await;
    let held = corp.issue(ExtendedKeyUsagePurpose::ClientAuth, |_| ());
    // Of the same name: what it would get by Issue is a lineage of its own.
    let other = corp.issue(ExtendedKeyUsagePurpose::ClientAuth, |_| ());
    let leaf = LeafKey::new();
    let evidence = held.evidence(BUILD, &leaf.csr);
    let svid = ask(&ca, evidence, &leaf).await.unwrap();
    let next = LeafKey::new();
    let again = |evidence| ask_again(&ca, &svid, evidence, &next);
    let status = again(None).await.unwrap_err();
    assert!(status.message().contains("fresh evidence"), "{status:?}");
    let foreign = other.evidence(BUILD, &next.csr);
    let status = again(Some(foreign)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(
        status
            .message()
            .contains("whom the certificate's lineage began with")
    );
    // One that was made for the certificate before is for another key.
    let before = held.evidence(BUILD, &leaf.csr);
    let status = again(Some(before)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    let own = held.evidence(BUILD, &next.csr);
    again(Some(own)).await.unwrap();
}

#[tokio::test]
async fn no_certificate_outlives_the_evidence_that_brought_it() {
    let signer = Signer::rsa("ci");
    let published = Published::new(&[&signer]);
    let ca = ca_for_jobs(&published).await;
    let job = |ends: u64| {
        let mut claims = claims(&json!("refs/heads/main"));
        claims["exp"] = json!(ends);
        Evidence::OidcToken(signer.token(&claims))
    };
    let leaf = LeafKey::new();
    let first = now() + 60;
    let svid = ask(&ca, job(first), &leaf).await.unwrap();
    assert_eq!(unix(svid.leaf().not_after), first);
    let (next, second) = (LeafKey::new(), now() + 90);
    let svid = ask_again(&ca, &svid, Some(job(second)), &next).await;
    assert_eq!(unix(svid.unwrap().leaf().not_after), second);
    // The entry says two minutes.
    let svid = ask(&ca, job(now() + 600), &LeafKey::new()).await.unwrap();
    assert!(unix(svid.leaf().not_after) <= now() + 120);
    // Nor is the shortest life there is rounded up to.
    for ends in [now() + 2, now() - 10] {
        let status = ask(&ca, job(ends), &LeafKey::new()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(status.message().contains("ends sooner"), "{status:?}");
    }

    let corp = Corp::new();
    let (ca, _dir) = ca_beside(&corp).await;
    let soon = |params: &mut CertificateParams| {
        params.not_after = (SystemTime::now() + Duration::from_secs(60)).into();
    };
    let held = corp.issue(ExtendedKeyUsagePurpose::ClientAuth, soon);
    let svid = ask(&ca, held.evidence(BUILD, &leaf.csr), &leaf).await;
    assert!(unix(svid.unwrap().leaf().not_after) <= now() + 60);
}

#[tokio::test]
async fn a_certificate_that_does_not_hold_up_is_nobodys() {
    let corp = Corp::new();
    let (ca, _dir) = ca_beside(&corp).await;
    let leaf = LeafKey::new();
    let past = |params: &mut CertificateParams| {
        params.not_after = (SystemTime::now() - Duration::from_secs(60)).into();
    };
    let future = |params: &mut CertificateParams| {
        params.not_before = (SystemTime::now() + Duration::from_secs(600)).into();
    };
    let authority = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    };
    let none = |params: &mut CertificateParams| params.extended_key_usages.clear();
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    for held in [
        Corp::new().issue(ClientAuth, |_| ()),
        corp.issue(ServerAuth, |_| ()),
        corp.issue(ClientAuth, past),
        corp.issue(ClientAuth, future),
        corp.issue(ClientAuth, authority),
        corp.issue(ClientAuth, none),
    ] {
        let evidence = held.evidence(BUILD, &leaf.csr);
        let status = ask(&ca, evidence, &leaf).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(
            status.message().contains("leads to a configured CA"),
            "{status:?}"
        );
    }
    let garbage = [Vec::new(), vec![Vec::new()], vec![vec![0x30; 40]; 20]];
    for chain in garbage {
        let signature = vec![0; 64];
        let evidence = Evidence::X509pop(X509Possession {
            chain,
            signature,
            signed_unix_seconds: now().cast_signed(),
        });
        ask(&ca, evidence, &leaf).await.unwrap_err();
    }
}
