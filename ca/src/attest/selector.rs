//! What can be asked of a caller: one fact that an attestor has established.

use super::kubernetes::{is_label, is_name};
use std::fmt;
use std::str::FromStr;

/// One fact, written `kind:value`. Ordered, so that sets of them read the same everywhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// `k8s:cluster:<name>`, as the configuration calls it.
    KubernetesCluster(String),
    /// `k8s:ns:<namespace>`.
    KubernetesNamespace(String),
    /// `k8s:sa:<service account>`.
    KubernetesServiceAccount(String),
}

impl FromStr for Selector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, ParseSelectorError> {
        let checked = |value: &str, is: fn(&str) -> bool, make: fn(String) -> Self| match is(value)
        {
            true => Ok(make(value.to_owned())),
            false => Err(ParseSelectorError::Value(text.to_owned())),
        };
        if let Some(value) = text.strip_prefix("k8s:cluster:") {
            checked(value, is_label, Self::KubernetesCluster)
        } else if let Some(value) = text.strip_prefix("k8s:ns:") {
            checked(value, is_label, Self::KubernetesNamespace)
        } else if let Some(value) = text.strip_prefix("k8s:sa:") {
            checked(value, is_name, Self::KubernetesServiceAccount)
        } else {
            Err(ParseSelectorError::Kind(text.to_owned()))
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KubernetesCluster(name) => write!(f, "k8s:cluster:{name}"),
            Self::KubernetesNamespace(name) => write!(f, "k8s:ns:{name}"),
            Self::KubernetesServiceAccount(name) => write!(f, "k8s:sa:{name}"),
        }
    }
}

/// The text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseSelectorError {
    #[error(
        "expected a selector such as k8s:ns:shop, k8s:sa:cart or k8s:cluster:prod, found {0:?}"
    )]
    Kind(String),
    #[error("expected a selector with a well-formed value, found {0:?}")]
    Value(String),
}
