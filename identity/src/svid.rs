//! An X.509-SVID with its private key.
use crate::{Leaf, SpiffeId};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A leaf, its intermediates (leaf first, root left out) and the private key, which match. The key is zeroed on drop and never printed.
pub struct Svid {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    leaf: Leaf,
}

impl Svid {
    /// # Errors
    /// When the chain is empty, a certificate breaks its profile, or the key is not the leaf's.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, SvidError> {
        todo!("{chain:?} {key:?}")
    }
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }
    pub fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    #[error("expected at least one certificate, found none")]
    NoCertificate,
}
impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Svid")
            .field("leaf", &self.leaf)
            .finish_non_exhaustive()
    }
}
