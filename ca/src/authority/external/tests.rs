use super::*;
use crate::authority::{Authority, Requester};
use crate::config::KeyProtection;
use crate::csr::PublicKey;
use identity::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData,
};
use std::time::Duration;
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ORDERS: &str = "spiffe://demo.test/ns/shop/sa/orders";

/// A CA that waits for its certificate, and the root it waits for: of another make, on another curve.
struct Waiting {
    _folder: TempDir,
    dir: PathBuf,
    root: CertifiedIssuer<'static, KeyPair>,
}

impl Waiting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ca");
        let domain = TrustDomain::parse("demo.test").unwrap();
        let options = InitOptions::new(domain, KeyProtection::InsecurePlaintext);
        let request = request_intermediate(&dir, &options).unwrap();
        assert_eq!(
            fs::read_to_string(dir.join("intermediate.csr")).unwrap(),
            request
        );
        Self {
            _folder: folder,
            dir,
            root: root(|_| {}),
        }
    }

    /// The certificate as asked for, but for what `change` does.
    fn sign(&self, change: impl FnOnce(&mut CertificateParams)) -> String {
        let pem = fs::read_to_string(self.dir.join("intermediate.csr")).unwrap();
        let csr = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
        let key = RequestedIssuer::parse(&csr).unwrap().key;
        let validity = Validity::of_ca(SystemTime::now(), 30 * DAY);
        let domain = TrustDomain::parse("demo.test").unwrap();
        let mut params = profile::intermediate(&domain, &key, validity).unwrap();
        change(&mut params);
        params.signed_by(&key, &self.root).unwrap().pem()
    }

    fn finish(&self, chain: &str) -> Result<(), FinishError> {
        finish(&self.dir, chain.as_bytes(), &OpenOptions::default())
    }

    fn chain(&self, change: impl FnOnce(&mut CertificateParams)) -> String {
        self.sign(change) + &self.root.pem()
    }
}

fn root(change: impl FnOnce(&mut CertificateParams)) -> CertifiedIssuer<'static, KeyPair> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "Example Root R7");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Example Ltd");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    change(&mut params);
    CertifiedIssuer::self_signed(params, key).unwrap()
}

#[tokio::test]
async fn a_signed_chain_makes_a_ca_that_issues() {
    let waiting = Waiting::new();
    let open = || Authority::open(&waiting.dir, &OpenOptions::default());
    assert!(matches!(open(), Err(OpenError::Unfinished)));
    // What an attempt that was cut off left behind.
    fs::create_dir(waiting.dir.join(UNFINISHED)).unwrap();
    fs::write(waiting.dir.join(UNFINISHED).join("root.pem"), "half").unwrap();

    waiting.finish(&waiting.chain(|_| {})).unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let request = Request {
        id: SpiffeId::parse(ORDERS).unwrap(),
        dns_names: Default::default(),
        public_key: PublicKey::from_spki(&key.subject_public_key_info()).unwrap(),
        ttl: None,
        until: None,
        requester: Requester::Operator,
    };
    let issued = open().unwrap().issue(request).await.unwrap();
    assert_eq!(issued.chain.len(), 2);
    let mut left: Vec<_> = fs::read_dir(&waiting.dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("ca.db"))
        .collect();
    left.sort();
    let expected = [
        "ca-bundle.pem",
        "intermediate.key",
        "intermediate.pem",
        "root.pem",
    ];
    assert_eq!(left, expected);
    let again = waiting.finish("");
    assert!(
        matches!(again, Err(FinishError::NothingToFinish(_))),
        "{again:?}"
    );
}

#[test]
fn a_certificate_that_is_not_what_was_asked_for_is_refused_with_the_reason() {
    let waiting = Waiting::new();
    let uri = |text: &str| vec![rcgen::SanType::URI(text.try_into().unwrap())];
    let long_ago = SystemTime::now() - 60 * DAY;
    type Change<'a> = Box<dyn FnOnce(&mut CertificateParams) + 'a>;
    let cases: Vec<(&str, Change<'_>)> = vec![
        ("found no CA", Box::new(|p| p.is_ca = IsCa::ExplicitNoCa)),
        (
            "path length 1",
            Box::new(|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(1))),
        ),
        (
            "without a path length",
            Box::new(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        (
            "keyCertSign and cRLSign",
            Box::new(|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
        ),
        (
            "keyCertSign and cRLSign",
            Box::new(|p| p.key_usages = vec![]),
        ),
        (
            "no extended key usage",
            Box::new(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ),
        (
            "subject of the request",
            Box::new(|p| {
                p.distinguished_name
                    .push(DnType::OrganizationName, "Example Ltd")
            }),
        ),
        (
            "valid now and for another",
            Box::new(|p| p.not_after = (SystemTime::now() + DAY / 2).into()),
        ),
        (
            "valid now and for another",
            Box::new(|p| p.not_before = (SystemTime::now() + DAY).into()),
        ),
        (
            "valid now and for another",
            Box::new(move |p| {
                p.not_before = long_ago.into();
                p.not_after = (long_ago + DAY).into();
            }),
        ),
        (
            "does not hold",
            Box::new(|p| p.subject_alt_names = uri("spiffe://other.test")),
        ),
        (
            "does not hold",
            Box::new(|p| p.subject_alt_names = uri("spiffe://demo.test/ns/shop")),
        ),
    ];
    for (expected, change) in cases {
        let error = waiting.finish(&waiting.chain(change)).unwrap_err();
        let text = crate::causes::in_full(&error);
        assert!(text.contains(expected), "{expected} not in {text}");
    }
    assert!(!waiting.dir.join("ca.db").exists());
    waiting.finish(&waiting.chain(|_| {})).unwrap();
}

#[test]
fn a_chain_that_does_not_lead_to_its_root_is_refused() {
    let waiting = Waiting::new();
    let (signed, stranger) = (waiting.sign(|_| {}), root(|_| {}));
    let leaf_root = root(|params| params.is_ca = IsCa::ExplicitNoCa);
    let short = root(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let own = waiting.root.pem();
    for (chain, expected) in [
        (signed.clone(), "found 1"),
        (format!("{signed}{own}{own}"), "found 3"),
        (String::new(), "found 0"),
        (format!("{own}{signed}"), "subject of the request"),
        (signed.clone() + &stranger.pem(), "does not hold"),
        (signed.clone() + &leaf_root.pem(), "root to be a CA"),
        (
            format!("{signed}-----BEGIN CERTIFICATE-----\nAAAA\n"),
            "PEM",
        ),
    ] {
        let error = waiting.finish(&chain).unwrap_err();
        let text = crate::causes::in_full(&error);
        assert!(text.contains(expected), "{expected} not in {text}");
    }
    // A root that may sign leaves only.
    let waiting = Waiting {
        root: short,
        ..waiting
    };
    let error = waiting.finish(&waiting.chain(|_| {})).unwrap_err();
    assert!(matches!(error, FinishError::Root), "{error:?}");
}

#[test]
fn the_certificate_of_another_request_is_refused() {
    let (waiting, other) = (Waiting::new(), Waiting::new());
    let chain = other.sign(|_| {}) + &other.root.pem();
    assert!(matches!(
        waiting.finish(&chain),
        Err(FinishError::Issued(_))
    ));
    // The request goes with the certificate, but the key does not.
    fs::copy(
        other.dir.join("intermediate.csr"),
        waiting.dir.join("intermediate.csr"),
    )
    .unwrap();
    assert!(matches!(
        waiting.finish(&chain),
        Err(FinishError::OtherKeyOnDisk)
    ));
}
