//! x509-limbo: certificate paths with the verdict of the web's PKI, and ours for each of them in a committed list.
//!
//! None of its leaves has a SPIFFE ID, so none of them is let in. What its cases are about are paths, so the list says for
//! each what becomes of the path alone, too, and wherever that is not limbo's verdict it says why.

use super::*;
use crate::vectors;
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;
use time::macros::datetime;

/// For cases that name no time: all their certificates are valid in it.
const SOME_DAY: OffsetDateTime = datetime!(2024-06-01 0:00 UTC);

#[test]
fn every_limbo_case_has_the_verdict_on_the_list() {
    let (cases, listed) = (
        vectors::read_from("x509", "limbo"),
        vectors::read_from("x509", "limbo_verdicts"),
    );
    assert_eq!(cases.len(), listed.len());
    let mut failures = Vec::new();
    for (case, listed) in cases.iter().zip(&listed) {
        let id = vectors::text(case, "id");
        assert_eq!(id, vectors::text(listed, "id"));
        let found = (verdict(case), path_verdict(case));
        let expected = (
            vectors::text(listed, "verdict").to_owned(),
            vectors::text(listed, "path").to_owned(),
        );
        if found != expected {
            failures.push(format!("{id}: expected {expected:?}, found {found:?}"));
        }
    }
    vectors::report(&failures);
}

#[test]
fn every_deviation_from_limbo_has_a_reason_and_none_lets_a_peer_in() {
    let cases = vectors::read_from("x509", "limbo");
    let listed = vectors::read_from("x509", "limbo_verdicts");
    let mut failures = Vec::new();
    for (case, listed) in cases.iter().zip(&listed) {
        let is_accepted = vectors::text(case, "expected_result") == "SUCCESS";
        let deviates = (vectors::text(listed, "path") == "accepted") != is_accepted;
        let has_reason = listed["why"].as_str().is_some_and(|why| !why.is_empty());
        if deviates != has_reason || vectors::text(listed, "verdict") == "accepted" {
            failures.push(format!("{listed}, limbo: {}", case["expected_result"]));
        }
    }
    vectors::report(&failures);
}

/// Of the whole validation.
fn verdict(case: &Value) -> String {
    word(bundle(case).and_then(|bundle| {
        let chain: Vec<_> = leaf(case).into_iter().chain(intermediates(case)).collect();
        bundle.verify(&chain, usage(case), at(case)).map(|_| ())
    }))
}

/// Of everything but the leaf's profile.
fn path_verdict(case: &Value) -> String {
    word(bundle(case).and_then(|bundle| {
        let leaf = leaf(case).ok_or(VerifyError::NoCertificate)?;
        bundle
            .check_path(&leaf, &intermediates(case), usage(case), at(case))
            .map(|_| ())
    }))
}

/// The reason for a refusal; for one that webpki found, also webpki's word for it.
fn word(found: Result<(), VerifyError>) -> String {
    match found {
        Ok(()) => "accepted".to_owned(),
        Err(VerifyError::Path(error)) => {
            let text = format!("{error:?}");
            let end = text.find(|c: char| !c.is_alphanumeric());
            format!("invalid_path: {}", &text[..end.unwrap_or(text.len())])
        }
        Err(error) => error.reason().to_owned(),
    }
}

/// A bundle that holds what cannot be read as a certificate is no bundle, so nobody is an authority in it.
fn bundle(case: &Value) -> Result<TrustBundle, VerifyError> {
    let domain = TrustDomain::parse("domain.test").unwrap();
    TrustBundle::new(domain, certificates(&case["trusted_certs"]), 1)
        .map_err(|_| VerifyError::NoAuthority)
}

fn leaf(case: &Value) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(vectors::text(case, "peer_certificate").as_bytes()).ok()
}

fn intermediates(case: &Value) -> Vec<CertificateDer<'static>> {
    certificates(&case["untrusted_intermediates"])
}

fn certificates(list: &Value) -> Vec<CertificateDer<'static>> {
    let pem = list
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap().as_bytes());
    pem.map(|pem| CertificateDer::from_pem_slice(pem).unwrap())
        .collect()
}

fn usage(case: &Value) -> Usage {
    match vectors::text(case, "validation_kind") {
        "CLIENT" => Usage::Client,
        "SERVER" => Usage::Server,
        other => panic!("expected CLIENT or SERVER, found {other:?}"),
    }
}

fn at(case: &Value) -> SystemTime {
    case["validation_time"]
        .as_str()
        .map_or(SOME_DAY, |text| {
            OffsetDateTime::parse(text, &Rfc3339).unwrap()
        })
        .into()
}
