//! Certificate DER -> exactly one SPIFFE ID, or the reason why not (X509-SVID sections 2 to 5).
use crate::SpiffeId;
use std::time::SystemTime;

/// What a leaf certificate says, once it satisfies the X.509-SVID leaf profile. Not yet path-validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    pub id: SpiffeId,
    /// Lower-case hexadecimal, no separators, as in logs and `x-forwarded-client-cert`.
    pub serial: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Leaf {
    pub fn parse(der: &[u8]) -> Result<Self, CertError> {
        todo!("{der:?}")
    }
}

/// Which rule of the X.509-SVID profile a certificate breaks (to be refined: one variant per rule).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertError {
    #[error("expected a DER certificate")]
    Malformed,
}
