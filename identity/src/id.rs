//! [`SpiffeId`] and [`TrustDomain`]: the names of the mesh (SPIFFE-ID section 2).
//!
//! Parsing accepts only what the specification lets one write and repairs nothing. The specification compares scheme and
//! trust domain without regard to case and has them written in lower case; this parser takes lower case alone, so that
//! equal identities are equal byte strings and a policy can compare them as such.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

const SCHEME: &str = "spiffe://";
/// SPIFFE-ID section 2.3: implementations must support this many bytes and should not make longer ones.
const MAX_ID_BYTES: usize = 2048;
/// SPIFFE-ID section 2.3, after the host limit of RFC 3986.
const MAX_TRUST_DOMAIN_BYTES: usize = 255;
/// Paths of the mesh's own servers. Attestation never gives one of them to a workload.
const RESERVED_PATH: &str = "/tipstaff";

/// A trust domain name, such as `prod.example`: 1 to 255 of `a-z`, `0-9`, `.`, `-` and `_`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a bare name (`prod.example`), or takes the name from a whole SPIFFE ID.
    ///
    /// # Errors
    /// The first rule that the text breaks.
    pub fn parse(input: &str) -> Result<Self, ParseIdError> {
        if input.starts_with(SCHEME) {
            return SpiffeId::parse(input).map(|id| id.trust_domain());
        }
        check_trust_domain(input)?;
        Ok(Self(input.into()))
    }

    /// The name, without a scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = ParseIdError;
    fn from_str(input: &str) -> Result<Self, ParseIdError> {
        Self::parse(input)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SPIFFE ID that is valid by the specification. Compared as bytes; cheap to clone.
///
/// ```
/// use identity::SpiffeId;
///
/// let id = SpiffeId::parse("spiffe://prod.example/ns/shop/sa/front")?;
/// assert_eq!(id.path(), "/ns/shop/sa/front");
/// assert_eq!(id.namespace(), Some("shop"));
/// assert!(SpiffeId::parse("spiffe://prod.example/ns/../sa/front").is_err());
/// # Ok::<(), identity::ParseIdError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    /// Where the trust domain ends and the path, if any, begins: a function of `uri`.
    path_at: usize,
}

impl SpiffeId {
    /// Parses the whole URI.
    ///
    /// # Errors
    /// The first rule that the text breaks.
    pub fn parse(input: &str) -> Result<Self, ParseIdError> {
        if input.is_empty() {
            return Err(ParseIdError::Empty);
        }
        if input.len() > MAX_ID_BYTES {
            return Err(ParseIdError::TooLong { bytes: input.len() });
        }
        let rest = input.strip_prefix(SCHEME).ok_or(ParseIdError::Scheme)?;
        let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        check_trust_domain(trust_domain)?;
        check_path(path)?;
        Ok(Self {
            uri: input.into(),
            path_at: SCHEME.len() + trust_domain.len(),
        })
    }

    /// The reserved identity of a trust domain's CA: `spiffe://<trust domain>/tipstaff/ca`. No workload can get it.
    pub fn ca_server(trust_domain: &TrustDomain) -> Self {
        Self {
            uri: format!("{SCHEME}{trust_domain}{RESERVED_PATH}/ca").into(),
            path_at: SCHEME.len() + trust_domain.0.len(),
        }
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain. Allocates; to ask about membership use [`SpiffeId::is_member_of`].
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.uri[SCHEME.len()..self.path_at].into())
    }

    /// Whether this identity belongs to `trust_domain`.
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.uri[SCHEME.len()..self.path_at] == *trust_domain.0
    }

    /// The path with its leading slash, or `""` for the ID of the trust domain itself.
    pub fn path(&self) -> &str {
        &self.uri[self.path_at..]
    }

    /// `n` of `/ns/<n>/sa/<s>`, when the path has exactly that shape.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace_and_service_account().map(|pair| pair.0)
    }

    /// `s` of `/ns/<n>/sa/<s>`, when the path has exactly that shape.
    pub fn service_account(&self) -> Option<&str> {
        self.namespace_and_service_account().map(|pair| pair.1)
    }

    /// Whether the path is `/tipstaff` or lies below it: never issued to a workload.
    pub fn is_reserved(&self) -> bool {
        self.path()
            .strip_prefix(RESERVED_PATH)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn namespace_and_service_account(&self) -> Option<(&str, &str)> {
        let (namespace, rest) = self.path().strip_prefix("/ns/")?.split_once('/')?;
        let service_account = rest.strip_prefix("sa/")?;
        (!service_account.contains('/')).then_some((namespace, service_account))
    }
}

impl FromStr for SpiffeId {
    type Err = ParseIdError;
    fn from_str(input: &str) -> Result<Self, ParseIdError> {
        Self::parse(input)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

/// Which rule of SPIFFE-ID section 2 a text breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// There is nothing to parse.
    #[error("expected a SPIFFE ID, found an empty text")]
    Empty,
    /// The whole ID is over the limit.
    #[error("expected a SPIFFE ID of at most {MAX_ID_BYTES} bytes, found {bytes}")]
    TooLong {
        /// Length found.
        bytes: usize,
    },
    /// Another scheme, none, or one in upper case.
    #[error("expected an ID that begins with {SCHEME:?}, in lower case")]
    Scheme,
    /// Nothing stands between the scheme and the path.
    #[error("expected a trust domain, found none")]
    NoTrustDomain,
    /// The trust domain is over the limit.
    #[error("expected a trust domain of at most {MAX_TRUST_DOMAIN_BYTES} bytes, found {bytes}")]
    TrustDomainTooLong {
        /// Length found.
        bytes: usize,
    },
    /// User information, a port, an escape, upper case and the like.
    #[error("expected a trust domain of a-z, 0-9, '.', '-' and '_', found {found:?}")]
    TrustDomainCharacter {
        /// The first offending character.
        found: char,
    },
    /// The path ends in a slash, or is only a slash.
    #[error("expected a path without a trailing slash")]
    TrailingSlash,
    /// Two slashes meet.
    #[error("expected path segments that are not empty")]
    EmptySegment,
    /// A segment is `.` or `..`.
    #[error("expected no relative path segment, found {found:?}")]
    DotSegment {
        /// The segment.
        found: &'static str,
    },
    /// A query, a fragment, an escape and the like.
    #[error("expected path segments of a-z, A-Z, 0-9, '.', '-' and '_', found {found:?}")]
    PathCharacter {
        /// The first offending character.
        found: char,
    },
}

fn check_trust_domain(name: &str) -> Result<(), ParseIdError> {
    if name.is_empty() {
        return Err(ParseIdError::NoTrustDomain);
    }
    if name.len() > MAX_TRUST_DOMAIN_BYTES {
        return Err(ParseIdError::TrustDomainTooLong { bytes: name.len() });
    }
    let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
    match name.chars().find(|c| !allowed(*c)) {
        Some(found) => Err(ParseIdError::TrustDomainCharacter { found }),
        None => Ok(()),
    }
}

/// `path` is empty or begins with a slash.
fn check_path(path: &str) -> Result<(), ParseIdError> {
    if path.ends_with('/') {
        return Err(ParseIdError::TrailingSlash);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    for segment in path.split('/').skip(1) {
        match segment {
            "" => return Err(ParseIdError::EmptySegment),
            "." => return Err(ParseIdError::DotSegment { found: "." }),
            ".." => return Err(ParseIdError::DotSegment { found: ".." }),
            _ => {}
        }
        if let Some(found) = segment.chars().find(|c| !allowed(*c)) {
            return Err(ParseIdError::PathCharacter { found });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
