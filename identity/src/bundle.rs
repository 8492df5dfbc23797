//! The roots of one trust domain.
use crate::TrustDomain;
use rustls_pki_types::CertificateDer;

/// The authorities of one trust domain. Never empty. `sequence` only grows; whoever holds a bundle refuses an older one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    authorities: Vec<CertificateDer<'static>>,
    sequence: u64,
}

impl TrustBundle {
    pub fn new(
        trust_domain: TrustDomain,
        authorities: Vec<CertificateDer<'static>>,
        sequence: u64,
    ) -> Result<Self, BundleError> {
        todo!("{trust_domain} {authorities:?} {sequence}")
    }
    /// Concatenated PEM certificates.
    pub fn from_pem(
        trust_domain: TrustDomain,
        pem: &[u8],
        sequence: u64,
    ) -> Result<Self, BundleError> {
        todo!("{trust_domain} {pem:?} {sequence}")
    }
    /// A SPIFFE bundle document (SPIFFE Trust Domain and Bundle section 4).
    pub fn from_spiffe_json(trust_domain: TrustDomain, json: &[u8]) -> Result<Self, BundleError> {
        todo!("{trust_domain} {json:?}")
    }
    pub fn to_pem(&self) -> String {
        todo!()
    }
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("expected at least one authority, found none")]
    Empty,
}
