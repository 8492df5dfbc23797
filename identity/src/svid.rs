//! An X.509-SVID with its private key.

use crate::cert::Signer;
use crate::{CertError, Leaf, SpiffeId};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::sync::Arc;

/// A leaf, its intermediates (leaf first, root left out) and the private key, which match.
///
/// The key can be used and not read back: its encoding is zeroed by [`Svid::new`], the loaded key by aws-lc when the
/// last user drops it, and neither is ever printed.
pub struct Svid {
    certified: Arc<CertifiedKey>,
    leaf: Leaf,
}

impl Svid {
    /// Holds the certificates to their profiles and the key to the leaf. Signatures and validity are not looked at; that
    /// is [`TrustBundle::verify`](crate::TrustBundle::verify).
    ///
    /// # Errors
    /// When the chain is empty, a certificate breaks its profile, or the key is not the leaf's.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, SvidError> {
        // The provider zeroes the encoding once it has loaded it. This comes first, so that no early return skips it.
        let key = crate::tls::provider()
            .key_provider
            .load_private_key(key)
            .map_err(SvidError::Key)?;
        let (first, intermediates) = chain.split_first().ok_or(SvidError::NoCertificate)?;
        let leaf = Leaf::parse(first).map_err(SvidError::Leaf)?;
        for (index, intermediate) in (1..).zip(intermediates) {
            Signer::parse_intermediate(intermediate)
                .map_err(|source| SvidError::Intermediate { index, source })?;
        }
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| SvidError::KeyMismatch)?;
        Ok(Self {
            certified: Arc::new(certified),
            leaf,
        })
    }

    /// Who it speaks for.
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// What the leaf says.
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// Leaf first, then intermediates.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Chain and key as rustls takes them. [`crate::tls`] builds whole configurations from an SVID.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("leaf", &self.leaf)
            .finish_non_exhaustive()
    }
}

/// Why chain and key make no SVID.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// The chain is empty.
    #[error("expected at least one certificate, found none")]
    NoCertificate,
    /// The first certificate breaks the leaf profile.
    #[error("expected the first certificate to be an X.509-SVID leaf")]
    Leaf(#[source] CertError),
    /// Another certificate breaks the signing profile.
    #[error("expected certificate {index} of the chain to be a signing certificate")]
    Intermediate {
        /// Its place; the leaf has 0.
        index: usize,
        /// The rule it breaks.
        source: CertError,
    },
    /// Not a key, or of a kind that is not supported.
    #[error("expected a private key for ECDSA, Ed25519 or RSA")]
    Key(#[source] rustls::Error),
    /// The key is another certificate's.
    #[error("expected the private key to be the leaf's")]
    KeyMismatch,
}

#[cfg(test)]
mod tests;
