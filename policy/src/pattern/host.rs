use std::str::FromStr;

use super::PatternError;
use crate::target::{Reject, host::Host};

/// A host name, or `*.` and a name for names with one label more. A port that is not the default one has to be equal
/// in a grant and makes no difference to a guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPattern {
    name: String,
    port: Option<u16>,
    wildcard: bool,
}

impl HostPattern {
    /// Whether a canonical name and the port written with it match.
    pub(crate) fn matches(&self, name: &str, port: Option<u16>) -> bool {
        explicit(port) == self.port && self.matches_name(name)
    }

    /// The same without looking at the port.
    pub(crate) fn matches_name(&self, name: &str) -> bool {
        if !self.wildcard {
            return name == self.name;
        }
        matches!(name.split_once('.'), Some((label, rest)) if !label.is_empty() && rest == self.name)
    }
}

/// Clients write or leave out the default ports as they like.
fn explicit(port: Option<u16>) -> Option<u16> {
    port.filter(|port| !matches!(port, 80 | 443))
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
        Ok(Self {
            name: host.name().to_owned(),
            port: explicit(host.port()),
            wildcard,
        })
    }
}
