//! The CA's private keys in use: in this process's memory, or in a device that signs for it.
//!
//! How a key rests is in [`crate::keys`]; the device is in [`pkcs11`]. A cloud KMS would be a third `Custody`: the
//! authority knows no more of a key than that it signs, after a while, or says why not.

use crate::csr::{KeyHash, PublicKey};
use rcgen::PublicKeyData;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub mod pkcs11;

#[cfg(test)]
mod tests;

/// Begins what [`CaKey::prove`] signs: no certificate, list or request starts so (they are DER sequences).
const PROOF: &[u8] = b"tipstaff key proof v1\0";

/// A P-256 private key of the CA, wherever it is held. Clones are the same key.
#[derive(Clone)]
pub(crate) struct CaKey {
    public: PublicKey,
    custody: Arc<dyn Custody>,
}

/// Who holds a private key and signs with it.
pub(crate) trait Custody: Send + Sync {
    /// ECDSA with SHA-256 (ASN.1) over `message`. Blocks, but never without a deadline.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;

    /// How many signatures may be asked for at once before one waits for another.
    fn width(&self) -> usize;
}

/// Why there is no signature. Contains nothing of the key or of what opens it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    #[error("the key in memory does not sign")]
    Memory,
    #[error("the key was looked at and not opened")]
    Unopened,
    #[error("no signature within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("the token {token:?} cannot be used: {fault}")]
    Token { token: String, fault: String },
    /// The token itself is there, and answers.
    #[error("the token {token:?} lacks the key: {fault}")]
    Missing { token: String, fault: String },
    #[error(
        "the PIN of token {token:?} is refused ({fault}); it is not tried again, as that would lock the token"
    )]
    Pin { token: String, fault: String },
    #[error("the key that signs is another than the one expected")]
    OtherKey,
}

impl CaKey {
    pub(crate) fn new(public: PublicKey, custody: impl Custody + 'static) -> Self {
        Self {
            public,
            custody: Arc::new(custody),
        }
    }

    /// A key in this process's memory.
    pub(crate) fn in_memory(key: rcgen::KeyPair) -> Self {
        let public = PublicKey::from_spki(&key.subject_public_key_info())
            .expect("only P-256 keys are made and read");
        Self::new(public, Memory(key))
    }

    /// A key of which no more is known than its public half: it does not sign.
    pub(crate) fn unopened(public: PublicKey) -> Self {
        Self::new(public, Unopened)
    }

    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Names the key.
    pub(crate) fn hash(&self) -> KeyHash {
        self.public.hash()
    }

    /// See [`Custody::width`].
    pub(crate) fn width(&self) -> usize {
        self.custody.width()
    }

    /// Signs a statement of no use to anybody, and checks the signature. Blocks like a signature.
    ///
    /// # Errors
    /// When there is no signature, or it is another key's.
    pub(crate) fn prove(&self) -> Result<(), SignError> {
        prove(&self.public, |message| self.custody.sign(message))
    }
}

/// Whether `sign` signs with the private half of `public`.
fn prove(
    public: &PublicKey,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, SignError>,
) -> Result<(), SignError> {
    let mut statement = PROOF.to_vec();
    statement.resize(PROOF.len() + 32, 0);
    aws_lc_rs::rand::fill(&mut statement[PROOF.len()..])
        .expect("AWS-LC's generator aborts rather than fail");
    let signature = sign(&statement)?;
    if public.verify(&statement, &signature) {
        Ok(())
    } else {
        Err(SignError::OtherKey)
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.public.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.public.algorithm()
    }
}

impl rcgen::SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.custody.sign(message).map_err(|error| {
            // rcgen's error has no room for the reason.
            tracing::warn!(%error, "no signature by the CA's key");
            rcgen::Error::RemoteKeyError
        })
    }
}

impl fmt::Debug for CaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaKey({})", self.hash())
    }
}

struct Unopened;

impl Custody for Unopened {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, SignError> {
        Err(SignError::Unopened)
    }

    fn width(&self) -> usize {
        1
    }
}

struct Memory(rcgen::KeyPair);

impl Custody for Memory {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        rcgen::SigningKey::sign(&self.0, message).map_err(|_| SignError::Memory)
    }

    /// Signing is CPU work: more tasks than cores would only make all of them late.
    fn width(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }
}
