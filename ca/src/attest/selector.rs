//! What can be asked of a caller: one fact that an attestor has established.

use super::kubernetes::{is_label, is_name};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// Claims of the token itself. All tokens have them, and an issuer's all have the same, or anybody's can come to have
/// any: they tell no subject from another.
const CLAIMS_OF_ALL: [&str; 6] = ["iss", "aud", "exp", "iat", "nbf", "jti"];

/// The longest value; longer facts give no selector.
pub const MAX_VALUE_BYTES: usize = 256;

/// One fact. Ordered, so that sets of them read the same everywhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    kind: Kind,
    /// Not empty, without control characters, at most [`MAX_VALUE_BYTES`].
    value: String,
}

/// What a fact is about. Attestors are named as the configuration names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `k8s:cluster:<attestor>`.
    KubernetesCluster,
    /// `k8s:ns:<namespace>`.
    KubernetesNamespace,
    /// `k8s:sa:<service account>`.
    KubernetesServiceAccount,
    /// `oidc:issuer:<attestor>`.
    OidcIssuer,
    /// `oidc:claim:<name>=<value>`.
    OidcClaim,
    /// `x509pop:ca:<attestor>`.
    X509Authority,
    /// `x509pop:cn:<common name>`.
    X509CommonName,
    /// `x509pop:dns:<DNS name>`.
    X509DnsName,
    /// `x509pop:uri:<URI>`.
    X509Uri,
    /// `x509pop:sha256:<of the certificate, in hexadecimal>`.
    X509Sha256,
    /// `unix:uid:<number>`.
    UnixUid,
    /// `unix:gid:<number>`.
    UnixGid,
    /// `unix:path:<of the executable>`.
    UnixPath,
    /// `unix:sha256:<of the executable, in hexadecimal>`.
    UnixSha256,
}

/// Who establishes facts of a kind. Those of different families are never true of one caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Kubernetes,
    Oidc,
    X509,
    Unix,
}

impl Kind {
    const ALL: [(Self, &'static str); 14] = [
        (Self::KubernetesCluster, "k8s:cluster:"),
        (Self::KubernetesNamespace, "k8s:ns:"),
        (Self::KubernetesServiceAccount, "k8s:sa:"),
        (Self::OidcIssuer, "oidc:issuer:"),
        (Self::OidcClaim, "oidc:claim:"),
        (Self::X509Authority, "x509pop:ca:"),
        (Self::X509CommonName, "x509pop:cn:"),
        (Self::X509DnsName, "x509pop:dns:"),
        (Self::X509Uri, "x509pop:uri:"),
        (Self::X509Sha256, "x509pop:sha256:"),
        (Self::UnixUid, "unix:uid:"),
        (Self::UnixGid, "unix:gid:"),
        (Self::UnixPath, "unix:path:"),
        (Self::UnixSha256, "unix:sha256:"),
    ];

    fn prefix(self) -> &'static str {
        let known = Self::ALL.iter().find(|(kind, _)| *kind == self);
        known.map_or("", |(_, prefix)| prefix)
    }

    pub(crate) fn family(self) -> Family {
        match self {
            Self::KubernetesCluster
            | Self::KubernetesNamespace
            | Self::KubernetesServiceAccount => Family::Kubernetes,
            Self::OidcIssuer | Self::OidcClaim => Family::Oidc,
            Self::X509Authority
            | Self::X509CommonName
            | Self::X509DnsName
            | Self::X509Uri
            | Self::X509Sha256 => Family::X509,
            Self::UnixUid | Self::UnixGid | Self::UnixPath | Self::UnixSha256 => Family::Unix,
        }
    }

    /// The form that a value of this kind has, as far as it has one: an operator's slip shows at once.
    fn takes(self, value: &str) -> bool {
        match self {
            Self::KubernetesCluster
            | Self::KubernetesNamespace
            | Self::OidcIssuer
            | Self::X509Authority => is_label(value),
            Self::KubernetesServiceAccount => is_name(value),
            Self::OidcClaim => {
                matches!(value.split_once('='), Some((name, value)) if !name.is_empty() && !value.is_empty())
            }
            Self::X509Sha256 | Self::UnixSha256 => {
                value.len() == 64
                    && value
                        .bytes()
                        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            }
            // One spelling for each number.
            Self::UnixUid | Self::UnixGid => value
                .parse::<u32>()
                .is_ok_and(|number| number.to_string() == value),
            Self::UnixPath => Path::new(value).is_absolute(),
            Self::X509CommonName | Self::X509DnsName | Self::X509Uri => true,
        }
    }
}

impl Selector {
    /// `None` when a fact of this kind cannot have this value.
    pub fn new(kind: Kind, value: impl Into<String>) -> Option<Self> {
        let value = value.into();
        let printable = !value.is_empty() && !value.chars().any(char::is_control);
        (printable && value.len() <= MAX_VALUE_BYTES && kind.takes(&value))
            .then_some(Self { kind, value })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether this is a fact of some of those that an attestor vouches for, and not of all.
    pub(crate) fn narrows(&self) -> bool {
        match self.kind {
            Kind::KubernetesCluster | Kind::OidcIssuer | Kind::X509Authority => false,
            Kind::OidcClaim => {
                let name = self.value.split_once('=').map_or("", |(name, _)| name);
                !CLAIMS_OF_ALL.contains(&name)
            }
            _ => true,
        }
    }
}

impl FromStr for Selector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, ParseSelectorError> {
        let known = Kind::ALL
            .iter()
            .find_map(|(kind, prefix)| Some((*kind, text.strip_prefix(prefix)?)));
        let shown = || text.chars().take(80).collect();
        let (kind, value) = known.ok_or_else(|| ParseSelectorError::Kind(shown()))?;
        Self::new(kind, value).ok_or_else(|| ParseSelectorError::Value(shown()))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind.prefix(), self.value)
    }
}

/// The text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseSelectorError {
    #[error(
        "expected a selector such as k8s:ns:shop, oidc:claim:sub=ci or unix:uid:1000, found {0:?}"
    )]
    Kind(String),
    #[error("expected a selector with a value of its form, at most 256 bytes, found {0:?}")]
    Value(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_reads_back_as_it_is_written() {
        for text in [
            "k8s:cluster:prod",
            "k8s:ns:shop",
            "k8s:sa:cart.v2",
            "oidc:issuer:github",
            "oidc:claim:sub=repo:acme/shop:ref=main",
            "x509pop:ca:corp",
            "x509pop:cn:Some One, Inc.",
            "x509pop:dns:a.example",
            "x509pop:uri:urn:a:b",
            "unix:uid:0",
            "unix:gid:4294967295",
            "unix:path:/usr/bin/cart",
            &format!("unix:sha256:{}", "a0".repeat(32)),
        ] {
            let read = text.parse::<Selector>().map(|read| read.to_string());
            assert_eq!(read.as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_no_caller_can_have_is_no_selector() {
        for text in [
            "",
            "k8s",
            "k8s:",
            "k8s:ns:",
            "k8s:ns:Shop",
            "k8s:ns:shop/cart",
            "k8s:pod-label:a",
            "K8S:ns:shop",
            " k8s:ns:shop",
            "oidc:claim:sub",
            "oidc:claim:=x",
            "oidc:claim:sub=",
            "unix:uid:-1",
            "unix:uid:01",
            "unix:uid:4294967296",
            "unix:path:cart",
            "unix:path:/a\nb",
            "x509pop:sha256:AB",
            "x509pop:cn:",
            &format!("x509pop:cn:{}", "x".repeat(257)),
        ] {
            assert!(text.parse::<Selector>().is_err(), "{text:?}");
        }
    }
}
