use super::*;
use rcgen::{CertifiedIssuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::oid_registry as oid;

const ORDERS: &str = "spiffe://demo.test/ns/shop/sa/orders";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Root, intermediate and leaf.
fn chain() -> [CertificateDer<'static>; 3] {
    chain_naming(&BTreeSet::new())
}

fn chain_naming(names: &BTreeSet<DnsName>) -> [CertificateDer<'static>; 3] {
    let domain = TrustDomain::parse("demo.test").unwrap();
    let generate = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let now = SystemTime::now();
    let (root_key, intermediate_key) = (generate(), generate());
    let validity = Validity::of_ca(now, DAY);
    let params = root(&domain, &root_key, validity).unwrap();
    let root = CertifiedIssuer::self_signed(params, root_key).unwrap();
    let params = intermediate(&domain, &intermediate_key, validity).unwrap();
    let intermediate = params.signed_by(&intermediate_key, &root).unwrap();
    let issuer = CaCertificate::parse(intermediate.der()).unwrap();
    let issuer = issuer.issuer(CaKey::in_memory(intermediate_key)).unwrap();
    let key = PublicKey::from_spki(&generate().subject_public_key_info()).unwrap();
    let validity = Validity::of_leaf(now, DAY, validity);
    let leaf = leaf(&SpiffeId::parse(ORDERS).unwrap(), names, &key, validity).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    [root.der().clone(), intermediate.into(), leaf.into()]
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> X509Certificate<'a> {
    X509Certificate::from_der(der).unwrap().1
}

fn extension<'a>(certificate: &'a X509Certificate<'a>, id: &oid::Oid<'_>) -> &'a X509Extension<'a> {
    certificate.get_extension_unique(id).unwrap().unwrap()
}

#[test]
fn a_leaf_has_these_extensions_and_no_other() {
    let [_, _, leaf] = chain();
    let leaf = parse(&leaf);
    assert!(
        leaf.subject().as_raw() == [0x30, 0x00],
        "the subject is empty"
    );
    let expected = [
        (oid::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, false),
        (oid::OID_X509_EXT_SUBJECT_ALT_NAME, true),
        (oid::OID_X509_EXT_KEY_USAGE, true),
        (oid::OID_X509_EXT_EXTENDED_KEY_USAGE, false),
        (oid::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, false),
        (oid::OID_X509_EXT_BASIC_CONSTRAINTS, true),
    ];
    let found = leaf.extensions().iter();
    let found: Vec<_> = found
        .map(|extension| (extension.oid.clone(), extension.critical))
        .collect();
    assert_eq!(found, expected);

    let names = &leaf
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert_eq!(format!("{names:?}"), format!("[URI({ORDERS:?})]"));
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.to_string(), "Digital Signature");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && extended.other.is_empty());
    assert!(!leaf.is_ca());
}

#[test]
fn dns_names_stand_beside_the_only_uri_and_are_read_back() {
    let names = ["a.example", "b.example"].map(|name| name.parse().unwrap());
    let names = BTreeSet::from(names);
    let [_, _, leaf] = chain_naming(&names);
    let parsed = parse(&leaf);
    let found = parsed.subject_alternative_name().unwrap().unwrap();
    let expected = format!("[URI({ORDERS:?}), DNSName(\"a.example\"), DNSName(\"b.example\")]");
    assert_eq!(format!("{:?}", found.value.general_names), expected);
    assert_eq!(dns_names(&leaf), Some(names));
    let [_, _, plain] = chain();
    assert_eq!(dns_names(&plain), Some(BTreeSet::new()));
    assert_eq!(identity::Leaf::parse(&leaf).unwrap().id.as_str(), ORDERS);
}

#[test]
fn a_certificate_with_any_other_name_is_not_one_of_ours() {
    let uri = || SanType::URI(ORDERS.try_into().unwrap());
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    for names in [
        vec![uri(), uri()],
        vec![uri(), dns("a.example"), dns("a.example")],
        vec![uri(), dns("*.example")],
        vec![uri(), dns("127.0.0.1")],
        vec![uri(), SanType::IpAddress([127, 0, 0, 1].into())],
        vec![
            uri(),
            SanType::Rfc822Name("a@b.example".try_into().unwrap()),
        ],
    ] {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.clone();
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(dns_names(certificate.der()), None, "{names:?}");
    }
}

#[test]
fn ca_certificates_name_the_trust_domain_and_limit_the_path() {
    let [root, intermediate, _] = chain();
    for (der, path_len) in [(root, 1), (intermediate, 0)] {
        let certificate = parse(&der);
        let names = &certificate
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names;
        assert_eq!(format!("{names:?}"), "[URI(\"spiffe://demo.test\")]");
        let basic = certificate.basic_constraints().unwrap().unwrap();
        assert!(basic.critical && basic.value.ca);
        assert_eq!(basic.value.path_len_constraint, Some(path_len));
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
        assert!(!usage.value.digital_signature());
        assert!(certificate.extended_key_usage().unwrap().is_none());
    }
}

#[test]
fn key_identifiers_link_the_chain() {
    let [root, intermediate, leaf] = chain();
    for (issuer, subject) in [
        (&root, &root),
        (&root, &intermediate),
        (&intermediate, &leaf),
    ] {
        let (issuer, subject) = (parse(issuer), parse(subject));
        let id = extension(&issuer, &oid::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER).parsed_extension();
        let aki =
            extension(&subject, &oid::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER).parsed_extension();
        let (
            ParsedExtension::SubjectKeyIdentifier(id),
            ParsedExtension::AuthorityKeyIdentifier(aki),
        ) = (id, aki)
        else {
            panic!("expected key identifiers, found {id:?} and {aki:?}");
        };
        assert_eq!(aki.key_identifier.as_ref(), Some(id));
        assert_eq!(issuer.subject(), subject.issuer());
    }
}

#[test]
fn serials_have_128_bits_and_are_positive() {
    for _ in 0..100 {
        let serial = random_serial();
        assert_eq!(serial.len(), 16);
        assert_ne!(serial.to_bytes()[0], 0);
    }
    for der in chain() {
        let certificate = parse(&der);
        let raw = certificate.raw_serial();
        assert!(raw[0] < 0x80, "negative: {raw:?}");
        assert!(raw.len() <= 20);
    }
}

#[test]
fn dates_are_cut_to_the_issuer_at_both_ends() {
    let now = UNIX_EPOCH + 20_000 * DAY + Duration::from_millis(700);
    let second = Duration::from_secs(1);
    let start = UNIX_EPOCH + 20_000 * DAY;
    let issuer = Validity {
        not_before: start - 10 * second,
        not_after: start + 100 * second,
    };
    assert_eq!(Validity::of_leaf(now, DAY, issuer), issuer);
    let wide = Validity::of_ca(now, 2 * DAY);
    let leaf = Validity::of_leaf(now, DAY, wide);
    assert_eq!(
        (leaf.not_before, leaf.not_after),
        (start - BACKDATE, start + DAY)
    );
}

#[test]
fn an_issuer_takes_no_other_key() {
    let [_, intermediate, leaf] = chain();
    let certificate = CaCertificate::parse(&intermediate).unwrap();
    let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    assert!(certificate.issuer(CaKey::in_memory(other)).is_none());
    assert!(CaCertificate::parse(&leaf).is_none());
    assert!(CaCertificate::parse(b"no certificate").is_none());
}

#[test]
fn a_certificate_that_restricts_its_leaves_is_no_issuer() {
    let domain = TrustDomain::parse("demo.test").unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let validity = Validity::of_ca(SystemTime::now(), DAY);
    let mut params = intermediate(&domain, &key, validity).unwrap();
    let parse = |params: &CertificateParams| {
        let der = params.clone().self_signed(&key).unwrap();
        CaCertificate::parse(der.der())
    };
    assert!(parse(&params).is_some());
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    assert!(parse(&params).is_none());
}
