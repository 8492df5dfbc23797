//! Keys that callers of the CA bring: a request (PKCS#10) proves its key, a SubjectPublicKeyInfo names one.
#![no_main]

use ca::csr::{MAX_CSR_BYTES, PublicKey};
use fuzz::assert_one_line;

fuzz::target!(|der: &[u8]| {
    laws(der, PublicKey::from_csr);
    laws(der, PublicKey::from_spki);
});

fn laws<E: std::fmt::Display>(der: &[u8], read: fn(&[u8]) -> Result<PublicKey, E>) {
    let key = match read(der) {
        Ok(key) => key,
        Err(error) => return assert_one_line(&error),
    };
    assert!(der.len() <= MAX_CSR_BYTES);
    // One DER value, all of it, and nothing behind it.
    assert!(read(&[der, b"\0"].concat()).is_err());
    assert!(read(&der[..der.len() - 1]).is_err());
    // What is kept is the key: it reads back, is told apart by its hash, and verifies nothing it has not signed.
    let again = PublicKey::from_spki(&key.to_spki());
    assert_eq!(again.as_ref().ok(), Some(&key));
    assert_eq!(again.ok().map(|key| key.hash()), Some(key.hash()));
    assert!(!key.verify(der, der));
}
