use super::*;
use crate::mint::{self, Minted, WORKLOAD};
use crate::vectors;
use crate::{Usage, VerifyError};
use serde_json::{Value, json};

fn parse_json(document: &Value) -> Result<TrustBundle, BundleError> {
    TrustBundle::from_spiffe_json(mint::trust_domain(), document.to_string().as_bytes())
}

/// An entry for an authority that every implementation accepts.
fn good_entry() -> Value {
    json!({ "use": "x509-svid", "kty": "EC", "x5c": [STANDARD.encode(Minted::root().der)] })
}

#[test]
fn every_spiffe_bundle_vector_gives_its_spec_reading() {
    // Where a vector has no reading of its own, go-spiffe's verdict is the specification's, but for this one:
    // go-spiffe refuses a second certificate in `x5c`, and X509-SVID section 6.2 has it ignored.
    const GO_DEVIATES: &str = "spiffebundle_multiple_x509.json";
    // A bundle is never empty, so a document that trusts nobody is an error of its own, which trusts nobody as well.
    const NO_AUTHORITY: [&str; 2] = ["empty keys array", "sequence beyond 2^53"];

    let mut failures = Vec::new();
    for case in vectors::read("spiffe_bundle") {
        let name = vectors::text(&case, "name");
        let reading = case["spec_reading"].as_str().or(case["go_spiffe"].as_str());
        let found = parse_json(&case["doc"]);
        let as_expected = match reading.expect("a reading or a verdict") {
            _ if NO_AUTHORITY.contains(&name) => matches!(found, Err(BundleError::Empty)),
            "accept" => found.is_ok(),
            "reject" if name == GO_DEVIATES => found
                .as_ref()
                .is_ok_and(|bundle| bundle.authorities().len() == 1),
            "reject" => !matches!(found, Ok(_) | Err(BundleError::Empty)),
            // Beside an entry that counts, the ignored one leaves no trace.
            "ignore-entry" => {
                let mut document = case["doc"].clone();
                document["keys"].as_array_mut().unwrap().push(good_entry());
                matches!(found, Err(BundleError::Empty))
                    && parse_json(&document).is_ok_and(|bundle| bundle.authorities().len() == 1)
            }
            other => panic!("expected a known reading, found {other:?}"),
        };
        if !as_expected {
            failures.push(format!("{name}: {found:?}"));
        }
    }
    vectors::report(&failures);
}

#[test]
fn a_sequence_keeps_all_of_its_64_bits() {
    let document = json!({ "spiffe_sequence": u64::MAX, "keys": [good_entry()] });
    assert_eq!(parse_json(&document).unwrap().sequence(), u64::MAX);
    let document = json!({ "spiffe_sequence": -1, "keys": [good_entry()] });
    assert!(matches!(parse_json(&document), Err(BundleError::Json(_))));
}

#[test]
fn damaged_entries_are_refused_by_their_place() {
    let entry = |x5c: &str| json!({ "use": "x509-svid", "kty": "EC", "x5c": [x5c] });
    let found = parse_json(&json!({ "keys": [good_entry(), entry("not base64!")] }));
    assert!(
        matches!(found, Err(BundleError::Base64 { index: 1, .. })),
        "{found:?}"
    );
    let found = parse_json(&json!({ "keys": [good_entry(), entry("AAAA")] }));
    assert!(
        matches!(found, Err(BundleError::Authority { index: 1, .. })),
        "{found:?}"
    );
}

#[test]
fn every_x509_bundle_vector_gives_its_expectation() {
    let mut failures = Vec::new();
    for case in vectors::read("x509_bundle") {
        let name = vectors::text(&case, "name");
        let data = vectors::bytes(&case, "data_b64");
        let found = if name.ends_with(".der") || name == "corrupted" {
            TrustBundle::from_der(mint::trust_domain(), &data, 0)
        } else {
            TrustBundle::from_pem(mint::trust_domain(), &data, 0)
        };
        let as_expected = match vectors::text(&case, "expect") {
            "accept" => found.is_ok(),
            "reject" => found.is_err(),
            // go-spiffe makes an empty bundle. Here none is empty.
            "accept-empty-in-go" => matches!(found, Err(BundleError::Empty)),
            other => panic!("expected a known expectation, found {other:?}"),
        };
        if !as_expected {
            failures.push(format!("{name}: {found:?}"));
        }
    }
    vectors::report(&failures);
}

#[test]
fn pem_and_der_give_back_the_same_bundle() {
    let authorities = vec![Minted::root().der, Minted::root().der];
    let bundle = TrustBundle::new(mint::trust_domain(), authorities.clone(), 7).unwrap();
    let pem = bundle.to_pem();
    assert!(pem.lines().all(|line| line.len() <= 64), "{pem}");
    let from_pem = TrustBundle::from_pem(mint::trust_domain(), pem.as_bytes(), 7).unwrap();
    let der: Vec<u8> = authorities.iter().flat_map(|der| der.to_vec()).collect();
    let from_der = TrustBundle::from_der(mint::trust_domain(), &der, 7).unwrap();
    assert_eq!(from_pem, bundle);
    assert_eq!(from_der, bundle);
}

#[test]
fn a_bundle_never_goes_back_and_never_changes_in_place() {
    let (old, new) = (Minted::root().der, Minted::root().der);
    let bundle = |trust_domain: &str, authority: &CertificateDer<'static>, sequence| {
        let trust_domain = TrustDomain::parse(trust_domain).unwrap();
        TrustBundle::new(trust_domain, vec![authority.clone()], sequence).unwrap()
    };
    let held = bundle("domain.test", &old, 5);
    let cases = [
        (bundle("domain.test", &new, 6), Ok(())),
        (bundle("domain.test", &old, 6), Ok(())),
        (bundle("domain.test", &old, 5), Ok(())),
        (
            bundle("domain.test", &new, 5),
            Err(SuccessorError::ChangedInPlace { sequence: 5 }),
        ),
        (
            bundle("domain.test", &new, 4),
            Err(SuccessorError::SequenceWentBack { held: 5, found: 4 }),
        ),
        (
            bundle("other.test", &new, 6),
            Err(SuccessorError::OtherTrustDomain {
                expected: TrustDomain::parse("domain.test").unwrap(),
                found: TrustDomain::parse("other.test").unwrap(),
            }),
        ),
    ];
    for (next, expected) in cases {
        assert_eq!(held.check_successor(&next), expected, "{next:?}");
    }
}

/// A bundle keeps such certificates, as the vectors want, and trusts none of them.
#[test]
fn an_authority_that_may_not_sign_is_kept_and_not_trusted() {
    let leaf = Minted::self_signed(mint::leaf(WORKLOAD));
    let mut params = mint::signer("foreign");
    params.subject_alt_names = vec![mint::uri("spiffe://other.test")];
    let foreign = Minted::self_signed(params);
    let mut params = mint::signer("expired");
    params.not_after = mint::NOW - time::Duration::SECOND;
    let expired = Minted::self_signed(params);
    let mut params = mint::signer("no keyCertSign");
    params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
    let not_signing = Minted::self_signed(params);
    for authority in [leaf, foreign, expired, not_signing] {
        let bundle = authority.bundle();
        assert_eq!(bundle.authorities().len(), 1);
        let chain = [authority.sign(mint::leaf(WORKLOAD)).der];
        let found = bundle.verify(&chain, Usage::Client, mint::now());
        assert_eq!(found, Err(VerifyError::NoAuthority));
    }
}
