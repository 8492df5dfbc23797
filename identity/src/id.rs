//! `SpiffeId` and `TrustDomain` (SPIFFE-ID section 2).
use std::sync::Arc;

/// A trust domain name, such as `prod.example`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a bare name (`prod.example`) or takes it from a SPIFFE ID.
    pub fn parse(input: &str) -> Result<Self, ParseIdError> {
        todo!("{input}")
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A SPIFFE ID that is valid by the specification. Compared as bytes; cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
}

impl SpiffeId {
    pub fn parse(input: &str) -> Result<Self, ParseIdError> {
        todo!("{input}")
    }
    /// The reserved identity of a trust domain's CA: `spiffe://<td>/tipstaff/ca`. No workload can get it.
    pub fn ca_server(trust_domain: &TrustDomain) -> Self {
        todo!("{trust_domain:?}")
    }
    pub fn as_str(&self) -> &str {
        &self.uri
    }
    pub fn trust_domain(&self) -> TrustDomain {
        todo!()
    }
    /// The path with its leading slash, or "" for the ID of the trust domain itself.
    pub fn path(&self) -> &str {
        todo!()
    }
    /// `n` of `/ns/<n>/sa/<s>`, when the path has exactly that shape.
    pub fn namespace(&self) -> Option<&str> {
        todo!()
    }
    /// `s` of `/ns/<n>/sa/<s>`, when the path has exactly that shape.
    pub fn service_account(&self) -> Option<&str> {
        todo!()
    }
    /// Whether the path is `/tipstaff` or lies below it: never issued to a workload.
    pub fn is_reserved(&self) -> bool {
        todo!()
    }
}

/// Why a text is not a SPIFFE ID or trust domain (to be refined: one variant per rule).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    #[error("expected a SPIFFE ID, found an empty text")]
    Empty,
}

impl std::fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.uri)
    }
}
impl std::fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.uri)
    }
}
impl std::str::FromStr for SpiffeId {
    type Err = ParseIdError;
    fn from_str(s: &str) -> Result<Self, ParseIdError> {
        Self::parse(s)
    }
}
impl std::str::FromStr for TrustDomain {
    type Err = ParseIdError;
    fn from_str(s: &str) -> Result<Self, ParseIdError> {
        Self::parse(s)
    }
}
