use crate::harness::{
    App, Authority, CART, FRONTEND, Life, Minted, ORDERS, Sidecar, grant_all, leaf, sidecar,
};
use identity::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const HOUR: Duration = Duration::from_secs(3600);

/// What a client shows in the handshake.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl From<Minted> for Shown {
    fn from(minted: Minted) -> Self {
        Self {
            chain: vec![minted.der],
            key: minted.key,
        }
    }
}

/// Every certificate that must let nobody in, with the reason that is counted for it.
fn strangers(authority: &Authority) -> Vec<(&'static str, &'static str, Shown)> {
    let changed = |change: &dyn Fn(&mut CertificateParams)| -> Shown {
        let mut params = leaf(FRONTEND, Life::Hour);
        change(&mut params);
        authority.sign(&params).into()
    };
    let named = |uris: &[&str]| {
        changed(&|params| {
            let uri = |text: &&str| SanType::URI((*text).try_into().unwrap());
            params.subject_alt_names = uris.iter().map(uri).collect();
        })
    };
    let used_for = |usages: &[ExtendedKeyUsagePurpose]| {
        changed(&|params| params.extended_key_usages = usages.to_vec())
    };
    let with_usages =
        |usages: &[KeyUsagePurpose]| changed(&|params| params.key_usages = usages.to_vec());
    let mut all = vec![
        (
            "expired",
            "expired",
            changed(&|params| params.not_after = (SystemTime::now() - HOUR / 60).into()),
        ),
        (
            "not yet valid",
            "not_yet_valid",
            changed(&|params| params.not_before = (SystemTime::now() + HOUR / 2).into()),
        ),
        (
            "another CA",
            "bad_signature",
            Authority::new().sign(&leaf(FRONTEND, Life::Hour)).into(),
        ),
        (
            "self-signed",
            "bad_signature",
            Minted::self_signed(&leaf(FRONTEND, Life::Hour)).into(),
        ),
        ("no URI name", "no_spiffe_id", named(&[])),
        (
            "a DNS name alone",
            "no_spiffe_id",
            changed(&|params| {
                params.subject_alt_names =
                    vec![SanType::DnsName("frontend.shop".try_into().unwrap())];
            }),
        ),
        (
            "two URI names",
            "several_spiffe_ids",
            named(&[FRONTEND, CART]),
        ),
        (
            "the same URI name twice",
            "several_spiffe_ids",
            named(&[FRONTEND, FRONTEND]),
        ),
        (
            "a URI of another scheme",
            "no_spiffe_id",
            named(&["https://prod.example/ns/shop/sa/frontend"]),
        ),
        (
            "capitals in the trust domain",
            "no_spiffe_id",
            named(&["spiffe://Prod.example/ns/shop/sa/frontend"]),
        ),
        (
            "an empty segment",
            "no_spiffe_id",
            named(&["spiffe://prod.example/ns//sa/frontend"]),
        ),
        (
            "a dot segment",
            "no_spiffe_id",
            named(&["spiffe://prod.example/ns/shop/../frontend"]),
        ),
        (
            "an escape",
            "no_spiffe_id",
            named(&["spiffe://prod.example/ns/shop/sa/front%65nd"]),
        ),
        (
            "a query",
            "no_spiffe_id",
            named(&["spiffe://prod.example/ns/shop/sa/frontend?a"]),
        ),
        (
            "a fragment",
            "no_spiffe_id",
            named(&["spiffe://prod.example/ns/shop/sa/frontend#a"]),
        ),
        (
            "a port",
            "no_spiffe_id",
            named(&["spiffe://prod.example:1/ns/shop/sa/frontend"]),
        ),
        (
            "a user",
            "no_spiffe_id",
            named(&["spiffe://a@prod.example/ns/shop/sa/frontend"]),
        ),
        (
            "a final slash",
            "no_spiffe_id",
            named(&["spiffe://prod.example/ns/shop/sa/frontend/"]),
        ),
        (
            "the trust domain's own ID",
            "leaf_profile",
            named(&["spiffe://prod.example"]),
        ),
        (
            "another trust domain",
            "foreign_trust_domain",
            named(&["spiffe://other.example/ns/shop/sa/frontend"]),
        ),
        (
            "a trust domain with ours as its end",
            "foreign_trust_domain",
            named(&["spiffe://evil.prod.example/ns/shop/sa/frontend"]),
        ),
        (
            "only serverAuth",
            "leaf_profile",
            used_for(&[ExtendedKeyUsagePurpose::ServerAuth]),
        ),
        (
            "only clientAuth",
            "leaf_profile",
            used_for(&[ExtendedKeyUsagePurpose::ClientAuth]),
        ),
        (
            "another usage",
            "leaf_profile",
            used_for(&[ExtendedKeyUsagePurpose::CodeSigning]),
        ),
        (
            "any usage",
            "leaf_profile",
            used_for(&[ExtendedKeyUsagePurpose::Any]),
        ),
        ("no key usage", "leaf_profile", with_usages(&[])),
        (
            "no digitalSignature",
            "leaf_profile",
            with_usages(&[KeyUsagePurpose::KeyAgreement]),
        ),
        (
            "keyCertSign",
            "leaf_profile",
            with_usages(&[
                KeyUsagePurpose::DigitalSignature,
                KeyUsagePurpose::KeyCertSign,
            ]),
        ),
        (
            "cRLSign",
            "leaf_profile",
            with_usages(&[KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign]),
        ),
        (
            "no basic constraints",
            "leaf_profile",
            changed(&|params| params.is_ca = IsCa::NoCa),
        ),
        (
            "a CA",
            "leaf_profile",
            changed(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        (
            "an unknown critical extension",
            "leaf_profile",
            changed(&|params| {
                let mut unknown =
                    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
                unknown.set_criticality(true);
                params.custom_extensions = vec![unknown];
            }),
        ),
        (
            "no certificate in its place",
            "malformed",
            Shown {
                chain: vec![CertificateDer::from(vec![0x30, 0x03, 0x02, 0x01, 0x05])],
                key: authority.sign(&leaf(FRONTEND, Life::Hour)).key,
            },
        ),
        (
            "the key of another",
            "bad_certificate",
            Shown {
                chain: vec![authority.sign(&leaf(FRONTEND, Life::Hour)).der],
                key: authority.sign(&leaf(CART, Life::Hour)).key,
            },
        ),
    ];
    all.push((
        "issued by a workload",
        "signer_profile",
        issued_by_a_workload(authority),
    ));
    all
}

/// What a workload could do with its certificate, were it taken for an issuer.
fn issued_by_a_workload(authority: &Authority) -> Shown {
    let (params, workload) = (
        leaf(CART, Life::Hour),
        authority.sign(&leaf(CART, Life::Hour)),
    );
    let key = KeyPair::try_from(workload.key.secret_der()).unwrap();
    let forged = Minted::new(&leaf(FRONTEND, Life::Hour), &params, &key);
    Shown {
        chain: vec![forged.der, workload.der],
        key: forged.key,
    }
}

#[tokio::test]
async fn every_stranger_is_refused_in_the_handshake_and_counted_with_the_reason() {
    let authority = Authority::new();
    let app = App::start().await;
    let orders = authority.svid(ORDERS, Life::Hour);
    let sidecar = sidecar(&authority, orders, app.address, &grant_all(), |_| ());
    let good = authority.sign(&leaf(FRONTEND, Life::Hour)).into();
    assert!(is_answered(&authority, &sidecar, good).await);
    for (stranger, reason, shown) in strangers(&authority) {
        let before = failures(&sidecar, reason).await;
        assert!(
            !is_answered(&authority, &sidecar, shown).await,
            "{stranger}"
        );
        let counted = async {
            while failures(&sidecar, reason).await != before + 1 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let counted = timeout(Duration::from_secs(5), counted).await;
        let all = sidecar.metrics().await;
        assert!(
            counted.is_ok(),
            "{stranger}: {reason} not counted once: {all}"
        );
    }
    // The good one's: no other has come as far as a request, or as a connection to the app.
    assert_eq!((app.requests(), app.connections()), (1, 1));
    assert!(
        sidecar
            .metrics()
            .await
            .contains("tipstaff_tls_handshakes_total{direction=\"inbound\"} 1\n")
    );
}

/// Whether a request under this certificate gets any answer: with TLS 1.3 a client learns of a refusal after its handshake.
async fn is_answered(authority: &Authority, sidecar: &Sidecar, shown: Shown) -> bool {
    let bundle = Arc::new(Arc::new(authority.bundle()));
    let orders = SpiffeId::parse(ORDERS).unwrap();
    let mut config = identity::tls::client_config(None, bundle, orders, &[b"http/1.1"]);
    if !shown.chain.is_empty() {
        let provider = config.crypto_provider();
        let key = provider.key_provider.load_private_key(shown.key).unwrap();
        let certified = CertifiedKey::new(shown.chain, key);
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
    }
    let stream = TcpStream::connect(sidecar.inbound).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let server = identity::tls::server_name();
    let Ok(mut stream) = connector.connect(server, stream).await else {
        return false;
    };
    let request = b"GET / HTTP/1.1\r\nHost: orders.shop.example\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    !answer.is_empty()
}

/// How many handshakes have been counted as failed for `reason`.
async fn failures(sidecar: &Sidecar, reason: &str) -> u64 {
    let series = format!(
        "tipstaff_tls_handshake_failures_total{{direction=\"inbound\",reason=\"{reason}\"}} "
    );
    let text = sidecar.metrics().await;
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix(series.as_str()));
    count.map_or(0, |count| count.parse().unwrap())
}
