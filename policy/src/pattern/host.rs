use std::{fmt, str::FromStr};

use super::PatternError;
use crate::target::{Reject, host::Host};

/// A host name, or `*.` and a name for names with one label more. Ports make no difference: which one a request came in
/// by is what `ports` is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPattern {
    name: String,
    wildcard: bool,
}

impl HostPattern {
    /// Whether a canonical host name matches.
    pub(crate) fn matches(&self, name: &str) -> bool {
        if !self.wildcard {
            return name == self.name;
        }
        matches!(name.split_once('.'), Some((label, rest)) if !label.is_empty() && rest == self.name)
    }
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (host, wildcard) = match text.strip_prefix("*.") {
            Some(host) => (host, true),
            None => (text, false),
        };
        let host = Host::parse(host.as_bytes()).map_err(PatternError::Host)?;
        if wildcard && host.name().starts_with('[') {
            return Err(PatternError::Host(Reject::BadHost));
        }
        if host.port().is_some() {
            return Err(PatternError::HostPort);
        }
        Ok(Self {
            name: host.name().to_owned(),
            wildcard,
        })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.wildcard { "*." } else { "" }, self.name)
    }
}
