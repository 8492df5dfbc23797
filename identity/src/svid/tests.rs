use super::*;
use crate::mint::{self, Minted, WORKLOAD};
use crate::vectors;
use crate::{TrustBundle, Usage};
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;
use std::error::Error;
use std::time::Duration;

#[test]
fn every_x509_svid_vector_gives_its_expectation() {
    let mut failures = Vec::new();
    for case in vectors::read("x509_svid") {
        let expected = match vectors::text(&case, "expect") {
            "accept" => true,
            "reject" | "reject-as-leaf" => false,
            // Self-signed leaves with their keys, each good by the profile; nothing here asks who signed them.
            "see-source" => true,
            other => panic!("expected a known expectation, found {other:?}"),
        };
        let found = read(&case);
        if found.is_ok() != expected {
            failures.push(format!("{}: {found:?}", vectors::text(&case, "name")));
        }
    }
    vectors::report(&failures);
}

/// Makes an SVID where the vector has a key, and otherwise verifies its leaf against the vector's authorities.
fn read(case: &Value) -> Result<SpiffeId, Box<dyn Error>> {
    let certs = vectors::bytes(case, "certs_b64");
    let pem = case["format"] == "pem";
    let chain: Vec<_> = if pem {
        CertificateDer::pem_slice_iter(&certs).collect::<Result<_, _>>()?
    } else {
        split_der(&certs)
    };
    if case["key_b64"].is_string() {
        let key = vectors::bytes(case, "key_b64");
        let key = if pem {
            PrivateKeyDer::from_pem_slice(&key)?
        } else {
            PrivateKeyDer::try_from(key)?
        };
        return Ok(Svid::new(chain, key)?.id().clone());
    }
    let leaf = Leaf::parse(&chain[0])?;
    let authorities = split_der(&vectors::decode(&case["anchors_b64"][0]));
    let bundle = TrustBundle::new(leaf.id.trust_domain(), authorities, 0)?;
    // The fixtures expire; a second after the leaf's beginning they are all valid.
    let now = leaf.not_before + Duration::from_secs(1);
    Ok(bundle.verify(&chain, Usage::Server, now)?.id)
}

/// Concatenated DER; what is no certificate stays in one piece for the parser to refuse.
fn split_der(mut der: &[u8]) -> Vec<CertificateDer<'static>> {
    let mut certs = Vec::new();
    while !der.is_empty() {
        let length = crate::cert::encoded_length(der).unwrap_or(der.len());
        certs.push(CertificateDer::from(der[..length].to_vec()));
        der = &der[length..];
    }
    certs
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let root = Minted::root();
    let (leaf, other) = (
        root.sign(mint::leaf(WORKLOAD)),
        root.sign(mint::leaf(WORKLOAD)),
    );
    let found = Svid::new(vec![leaf.der], other.private_key());
    assert!(matches!(found, Err(SvidError::KeyMismatch)), "{found:?}");
}

#[test]
fn a_leaf_in_place_of_an_intermediate_is_refused() {
    let root = Minted::root();
    let (leaf, other) = (
        root.sign(mint::leaf(WORKLOAD)),
        root.sign(mint::leaf(WORKLOAD)),
    );
    let found = Svid::new(vec![leaf.der.clone(), other.der], leaf.private_key());
    assert!(
        matches!(found, Err(SvidError::Intermediate { index: 1, .. })),
        "{found:?}"
    );
}

#[test]
fn an_empty_chain_is_refused() {
    let key = Minted::root().private_key();
    let found = Svid::new(Vec::new(), key);
    assert!(matches!(found, Err(SvidError::NoCertificate)), "{found:?}");
}

#[test]
fn debug_output_names_the_identity_and_nothing_of_the_key() {
    let text = format!("{:?}", Minted::root().svid(WORKLOAD));
    assert!(text.starts_with("Svid { leaf: Leaf { id: spiffe://domain.test/workload"));
    assert!(text.ends_with(".. }") && !text.contains("key"), "{text}");
}
