//! What rules are made of: patterns for identities, paths, hosts, methods and header fields.
//!
//! Patterns are data, never regular expressions: every character is itself except for the few whole-segment wildcards,
//! so that two policies can be compared exactly. A pattern that could never match a canonical request is an error.

mod header;
mod host;
mod id;
mod path;
mod sequence;

use std::borrow::Cow;

use identity::ParseIdError;
use smallvec::SmallVec;

pub(crate) use header::{HeaderRule, HeaderTest, elements};
pub(crate) use host::HostPattern;
pub(crate) use id::IdPattern;
pub(crate) use path::{PathPattern, segments};
pub(crate) use sequence::Segment;

use crate::target::Reject;

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatternError {
    #[error("it does not start with `spiffe://`")]
    NotSpiffe,
    #[error("the trust domain has to be written out (a wildcard would trust every federated CA)")]
    WildcardTrustDomain,
    #[error("`*` stands for one whole segment of an identity")]
    PartialStar,
    #[error(transparent)]
    Id(#[from] ParseIdError),
    #[error("`**` is allowed only as the last segment")]
    RestInside,
    #[error(
        "`*` is no wildcard in a path; write `{{name}}` for one segment, a final `/**` for the rest"
    )]
    StarInPath,
    #[error("braces stand for one whole segment, as in `/orders/{{id}}`")]
    PartialBraces,
    #[error("a pattern has at most {} segments", sequence::MAX_SEGMENTS)]
    TooManySegments,
    #[error("a query string is no part of the path")]
    Query,
    #[error("no request can have this path: {0}")]
    NeverCanonical(Reject),
    #[error("requests are matched in canonical form, which is `{0}`")]
    NotCanonical(String),
    #[error("{0}")]
    Host(Reject),
    #[error("a host is matched without its port; use `ports`")]
    HostPort,
    #[error("methods are tokens of letters, digits and -_.!#$%&'*+^`|~")]
    Method,
    #[error("methods are case-sensitive; did you mean `{0}`?")]
    MethodCase(String),
}

/// A set of methods, compared case-sensitively (RFC 9110, section 9.1). HEAD is not implied by GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Methods {
    Any,
    /// Side by side and mostly without text of their own: each decision reads them.
    Listed(SmallVec<[Method; 2]>),
}

impl Methods {
    /// Whether a grant or limit with these methods speaks of `method`.
    pub(crate) fn contains(&self, method: &str) -> bool {
        match self {
            Methods::Any => true,
            Methods::Listed(listed) => listed.iter().any(|m| m.0 == method),
        }
    }

    /// The methods as a set of [`Methods::bit`]s; `None` if one of them has none.
    pub(crate) fn bits(&self) -> Option<u8> {
        match self {
            Methods::Any => None,
            Methods::Listed(listed) => listed.iter().try_fold(0, |set, method| {
                let bit = Self::bit(&method.0);
                (bit != 0).then_some(set | bit)
            }),
        }
    }

    /// One bit for each method in wide use, none for any other.
    pub(crate) fn bit(method: &str) -> u8 {
        let place = KNOWN.iter().position(|known| *known == method);
        place.map_or(0, |place| 1 << place)
    }

    /// As a guard reads it: a server that folds case must not be reached by `get`.
    pub(crate) fn contains_folded(&self, method: &[u8]) -> bool {
        match self {
            Methods::Any => true,
            Methods::Listed(listed) => listed
                .iter()
                .any(|m| m.0.as_bytes().eq_ignore_ascii_case(method)),
        }
    }
}

/// The methods in wide use. Nobody means another when writing one of these in lower case.
const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// One method name. `*` is not one; it is read into [`Methods::Any`] before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Method(Cow<'static, str>);

impl std::str::FromStr for Method {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let upper = text.to_ascii_uppercase();
        if text != upper && KNOWN.contains(&upper.as_str()) {
            return Err(PatternError::MethodCase(upper));
        }
        if !is_token(text) {
            return Err(PatternError::Method);
        }
        let known = KNOWN.into_iter().find(|known| *known == text);
        Ok(Self(
            known.map_or_else(|| text.to_owned().into(), Cow::Borrowed),
        ))
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// RFC 9110, section 5.6.2.
pub(crate) fn is_token(text: &str) -> bool {
    let tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(tchar)
}

#[cfg(test)]
mod tests;
