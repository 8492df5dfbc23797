//! The one path validation used by the proxy's handshakes, the CA before it releases a certificate, and CA clients.
use crate::{CertError, Leaf, TrustBundle};
use rustls_pki_types::CertificateDer;
use std::time::SystemTime;

/// What the certificate is used for in the handshake being checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
}

impl TrustBundle {
    /// Validates `chain` (leaf first) to one of the authorities at `now`, and the leaf against the SVID profile;
    /// the leaf's trust domain must be the bundle's.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: SystemTime,
    ) -> Result<Leaf, VerifyError> {
        todo!("{chain:?} {usage:?} {now:?}")
    }
}

/// Why a chain was refused (to be refined; `reason()` is the metric label: a closed set).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("the leaf is not an X.509-SVID")]
    Leaf(#[from] CertError),
}
impl VerifyError {
    /// A closed set of words for metrics: `expired`, `not_yet_valid`, `unknown_issuer`, `no_spiffe_id`, `foreign_trust_domain`, ...
    pub fn reason(&self) -> &'static str {
        todo!()
    }
}
