use crate::attest::patient;
use crate::entries::entry;
use crate::harness::{Ca, LeafKey, id};
use crate::issuer::{AUDIENCE, Published, Signer, now};
use ca::attest::keyring::{IssuerOptions, KeySource};
use ca::attest::{Attestors, Options, Renewals, oidc, x509pop};
use ca::proto::attestation::Evidence;
use ca::proto::{Attestation, IssueRequest, X509Possession};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SigningKey,
};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};
use tonic::{Code, Status};

const BUILD: &str = "spiffe://demo.test/ci/build";
const PROVIDER: &str = "https://ci.example";

async fn ask(ca: &Ca, evidence: Evidence, leaf: &LeafKey) -> Result<(), Status> {
    let request = IssueRequest {
        spiffe_id: BUILD.to_owned(),
        csr: leaf.csr.clone(),
        attestation: Some(Attestation {
            evidence: Some(evidence),
        }),
        ..IssueRequest::default()
    };
    ca.connect(None).await.issue(request).await.map(drop)
}

#[tokio::test]
async fn a_build_job_gets_what_an_entry_says_of_its_claims() {
    let signer = Signer::rsa("ci");
    let published = Published::new(&[&signer]);
    let options = Options {
        oidc: vec![oidc::Options {
            name: "ci".to_owned(),
            token: IssuerOptions {
                issuer: PROVIDER.to_owned(),
                audience: AUDIENCE.to_owned(),
                keys: KeySource::File(published.path()),
            },
            renewals: Renewals::Attest,
        }],
        ..Options::default()
    };
    let attestors = Attestors::open(options).await.unwrap();
    let selectors = ["oidc:issuer:ci", "oidc:claim:ref=refs/heads/main"];
    let listed = vec![entry(BUILD, &selectors)];
    let ca = Ca::start_as(patient(), |server| {
        server.believing(attestors).with_entries(listed)
    })
    .await;
    let claims = |reference: Value| {
        json!({"iss": PROVIDER, "aud": AUDIENCE, "sub": "repo:acme/shop", "ref": reference,
            "iat": now(), "exp": now() + 60})
    };
    let job = |claims: Value| {
        let token = signer.token(&claims);
        let ca = &ca;
        async move { ask(ca, Evidence::OidcToken(token), &LeafKey::new()).await }
    };
    job(claims(json!("refs/heads/main"))).await.unwrap();
    for reference in [
        json!("refs/heads/mine"),
        json!("refs/heads/main "),
        json!(null),
    ] {
        let status = job(claims(reference)).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    }
    for (claim, value) in [
        ("aud", json!("npm")),
        ("sub", json!("")),
        ("exp", json!(now() - 60)),
    ] {
        let mut claims = claims(json!("refs/heads/main"));
        claims[claim] = value;
        let status = job(claims).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    }
    // A provider is not a cluster.
    let token = signer.token(&claims(json!("refs/heads/main")));
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
        let statement = ca::attest::statement(&id(asked), csr);
        Evidence::X509pop(X509Possession {
            chain: vec![self.der.clone()],
            signature: self.key.sign(&statement).unwrap(),
        })
    }
}

async fn ca_beside(corp: &Corp) -> (Ca, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("corp.pem");
    std::fs::write(&ca_file, corp.ca.pem()).unwrap();
    let options = Options {
        x509pop: vec![x509pop::Options {
            name: "corp".to_owned(),
            ca_file,
            renewals: Renewals::Certificate,
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
            chain: vec![held.der.clone()],
            signature: Vec::new(),
        }),
    ] {
        let status = ask(&ca, evidence, &leaf).await.unwrap_err();
        assert!(status.message().contains("statement signed"), "{status:?}");
    }
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
        let evidence = Evidence::X509pop(X509Possession { chain, signature });
        ask(&ca, evidence, &leaf).await.unwrap_err();
    }
}
