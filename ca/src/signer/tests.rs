use super::*;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

#[test]
fn a_key_proves_to_be_itself() {
    assert_eq!(CaKey::in_memory(key()).prove(), Ok(()));
}

#[test]
fn a_custodian_that_signs_with_another_key_is_found_out() {
    let (claimed, held) = (CaKey::in_memory(key()), key());
    let key = CaKey::new(claimed.public, Memory(held));
    assert_eq!(key.prove(), Err(SignError::OtherKey));
}

#[test]
fn what_is_signed_as_a_proof_is_no_der() {
    // A SEQUENCE, with which everything that a CA signs begins.
    assert_ne!(PROOF[0], 0x30);
}
