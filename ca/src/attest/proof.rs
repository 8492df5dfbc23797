//! The proofs by which a workload shows that it holds its enrolment key, that of a certificate of an outside CA, or that of a
//! certificate which has expired.
//!
//! What is signed is defined once, for the client that signs it and the server that checks it. Which key may speak for
//! which identity is the store's knowledge; this module knows only keys and signatures.

use crate::csr::PublicKey;
use aws_lc_rs::digest::{SHA256, digest};
use identity::SpiffeId;

/// Names the purpose and the version of the signed text, so that no signature made for anything else counts here.
const ENROL: &str = "tipstaff.ca.v1/enrol";
/// The same for [`possession_statement`].
const POSSESSION: &str = "tipstaff.ca.v1/x509pop";
/// And for [`recovery_statement`].
const RECOVER: &str = "tipstaff.ca.v1/recover";

/// What an enrolment key signs to ask for `id` with `csr`: a proof is good for this identity and this leaf key alone.
///
/// Fields are separated by NUL, which no trust domain and no SPIFFE ID can contain; the others have fixed lengths.
pub fn statement(id: &SpiffeId, csr: &[u8]) -> Vec<u8> {
    text(ENROL, id, &[digest(&SHA256, csr).as_ref()])
}

/// What the key of an outside certificate signs: the same, and when. Such a key may rest where nobody can copy it, and what it
/// has signed once must not be as good as the key.
///
/// Fields are separated as in [`statement`].
pub fn possession_statement(id: &SpiffeId, csr: &[u8], signed_unix_seconds: i64) -> Vec<u8> {
    let signed = signed_unix_seconds.to_string();
    text(
        POSSESSION,
        id,
        &[signed.as_bytes(), digest(&SHA256, csr).as_ref()],
    )
}

/// What the key of the expired `certificate` of `id` signs to have it renewed with `csr`, asked for at a time.
pub fn recovery_statement(
    id: &SpiffeId,
    certificate: &[u8],
    csr: &[u8],
    asked_at_unix_ms: i64,
) -> Vec<u8> {
    let hashes = [digest(&SHA256, certificate), digest(&SHA256, csr)];
    let asked_at = asked_at_unix_ms.to_be_bytes();
    let parts = [hashes[0].as_ref(), hashes[1].as_ref(), &asked_at];
    text(RECOVER, id, &parts)
}

fn text(purpose: &str, id: &SpiffeId, parts: &[&[u8]]) -> Vec<u8> {
    let trust_domain = id.trust_domain();
    let names = [purpose, trust_domain.as_str(), id.as_str()].map(str::as_bytes);
    [&names, parts].concat().join(&0)
}

/// Checks that the holder of `key` asks for `id` with `csr`.
///
/// # Errors
/// When `proof` is not an ECDSA-P256-SHA256 signature (ASN.1) by `key` over [`statement`].
pub fn check_proof(
    key: &PublicKey,
    proof: &[u8],
    id: &SpiffeId,
    csr: &[u8],
) -> Result<(), ProofError> {
    if key.verify(&statement(id, csr), proof) {
        Ok(())
    } else {
        Err(ProofError::Enrolment)
    }
}

/// A proof does not count. Safe to show to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    #[error(
        "expected enrolment_proof to be an ECDSA-P256-SHA256 signature by enrolment_key over this spiffe_id and csr"
    )]
    Enrolment,
    #[error(
        "expected proof to be an ECDSA-P256-SHA256 signature by the expired certificate's key over that certificate, this csr and this time"
    )]
    Recovery,
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

    fn id(uri: &str) -> SpiffeId {
        SpiffeId::parse(uri).unwrap()
    }

    fn key() -> (EcdsaKeyPair, PublicKey) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let spki = AsDer::as_der(pair.public_key()).unwrap();
        (pair, PublicKey::from_spki(spki.as_ref()).unwrap())
    }

    #[test]
    fn a_proof_counts_for_its_key_identity_and_csr_alone() {
        let (pair, public) = key();
        let (_, other) = key();
        let asked = id("spiffe://demo.test/a");
        let proof = pair
            .sign(&SystemRandom::new(), &statement(&asked, b"csr"))
            .unwrap();
        let check = |key, id: &str, csr: &[u8]| {
            check_proof(key, proof.as_ref(), &SpiffeId::parse(id).unwrap(), csr)
        };
        assert_eq!(check(&public, "spiffe://demo.test/a", b"csr"), Ok(()));
        assert_eq!(
            check(&other, "spiffe://demo.test/a", b"csr"),
            Err(ProofError::Enrolment)
        );
        assert_eq!(
            check(&public, "spiffe://demo.test/b", b"csr"),
            Err(ProofError::Enrolment)
        );
        assert_eq!(
            check(&public, "spiffe://other.test/a", b"csr"),
            Err(ProofError::Enrolment)
        );
        assert_eq!(
            check(&public, "spiffe://demo.test/a", b"other"),
            Err(ProofError::Enrolment)
        );
    }

    #[test]
    fn a_recovery_says_what_the_contract_says() {
        let expected = [
            b"tipstaff.ca.v1/recover\0demo.test\0spiffe://demo.test/a\0".as_slice(),
            digest(&SHA256, b"leaf").as_ref(),
            b"\0",
            digest(&SHA256, b"csr").as_ref(),
            b"\0\0\0\0\0\0\0\x02\x01",
        ]
        .concat();
        let found = recovery_statement(&id("spiffe://demo.test/a"), b"leaf", b"csr", 513);
        assert_eq!(found, expected);
    }

    #[test]
    fn the_statement_says_what_the_contract_says() {
        let expected = [
            b"tipstaff.ca.v1/enrol\0demo.test\0spiffe://demo.test/a\0".as_slice(),
            digest(&SHA256, b"csr").as_ref(),
        ]
        .concat();
        assert_eq!(statement(&id("spiffe://demo.test/a"), b"csr"), expected);
        let expected = [
            b"tipstaff.ca.v1/x509pop\0demo.test\0spiffe://demo.test/a\x001790000000\0".as_slice(),
            digest(&SHA256, b"csr").as_ref(),
        ]
        .concat();
        let signed = possession_statement(&id("spiffe://demo.test/a"), b"csr", 1_790_000_000);
        assert_eq!(signed, expected);
    }
}
