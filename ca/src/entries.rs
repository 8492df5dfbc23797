//! Registration entries: who has proven all of an entry's selectors may have its identity.

use crate::attest::selector::{Family, Kind};
use crate::attest::{Evidence, ParseSelectorError, Selector};
use crate::config::MAX_TTL;
use crate::dns::{DnsName, MAX_DNS_NAMES, ParseDnsNameError};
use crate::ledger::fingerprint;
use identity::{ParseIdError, SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// Selectors of one entry, and trust domains that it federates with.
pub const MAX_PARTS: usize = 16;
/// Entries for one identity; all of one store are [`MAX_ENTRIES`].
pub const MAX_ENTRIES_PER_ID: u32 = 64;
/// As many service accounts as a large company has.
pub const MAX_ENTRIES: u32 = 100_000;
/// Ten minutes less than the rows of expired certificates are kept, for the clocks of replicas that differ: as long as a
/// certificate may be recovered, it is known what came after it, and whether it was revoked.
pub const MAX_RECOVERY_GRACE: Duration =
    crate::store::EXPIRED_ROWS_KEPT.saturating_sub(Duration::from_secs(10 * 60));
const MAX_HINT_BYTES: usize = 64;
const NAME_DIGITS: usize = 16;

/// A checked entry: its selectors can be true of one caller, and name who establishes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    id: SpiffeId,
    selectors: BTreeSet<Selector>,
    ttl: Option<Duration>,
    hint: Option<String>,
    dns_names: BTreeSet<DnsName>,
    federates_with: BTreeSet<TrustDomain>,
    recovery_grace: Option<Duration>,
}

/// An entry as files, databases and calls write it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Written {
    /// The SPIFFE ID.
    pub id: String,
    pub selectors: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub federates_with: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_grace_seconds: Option<u64>,
}

impl Entry {
    /// 64 bits of a hash of identity and selectors: the same entry has the same name wherever it is made.
    pub fn name(&self) -> String {
        let mut text = self.id.to_string();
        for selector in &self.selectors {
            text.push('\0');
            text.push_str(&selector.to_string());
        }
        let mut name = fingerprint(text.as_bytes());
        name.truncate(NAME_DIGITS);
        name
    }

    /// The identity that it gives.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// What has to be proven, all of it. Never empty.
    pub fn selectors(&self) -> &BTreeSet<Selector> {
        &self.selectors
    }

    /// The longest life to give, and what to give when the caller asks for none.
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    /// What a workload with several identities is told of what this one is for.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Host names that its certificates have beside the identity.
    pub fn dns_names(&self) -> &BTreeSet<DnsName> {
        &self.dns_names
    }

    /// Whose bundles a workload has besides its own, of those that the CA has.
    pub fn federates_with(&self) -> &BTreeSet<TrustDomain> {
        &self.federates_with
    }

    /// How long after its end a certificate that this entry gave may still be renewed by whoever holds its key, and proves
    /// nothing else; `None` for not at all.
    pub fn recovery_grace(&self) -> Option<Duration> {
        self.recovery_grace
    }

    /// Whether whoever has proven `evidence` may have the identity.
    pub fn is_met_by(&self, evidence: &Evidence) -> bool {
        self.selectors.is_subset(&evidence.selectors)
    }

    pub fn to_written(&self) -> Written {
        Written {
            id: self.id.to_string(),
            selectors: texts(&self.selectors),
            ttl_seconds: self.ttl.map(|ttl| ttl.as_secs()),
            hint: self.hint.clone(),
            dns_names: texts(&self.dns_names),
            federates_with: texts(&self.federates_with),
            recovery_grace_seconds: self.recovery_grace.map(|grace| grace.as_secs()),
        }
    }
}

/// Whether `text` has the form of [`Entry::name`]. What has not is no text that every database takes.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() == NAME_DIGITS
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn texts<T: ToString>(values: &BTreeSet<T>) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

impl TryFrom<Written> for Entry {
    type Error = EntryError;

    fn try_from(written: Written) -> Result<Self, EntryError> {
        let names = written.dns_names.len();
        if names > MAX_DNS_NAMES {
            return Err(EntryError::TooManyDnsNames { found: names });
        }
        for found in [written.selectors.len(), written.federates_with.len()] {
            if found > MAX_PARTS {
                return Err(EntryError::TooMany { found });
            }
        }
        let id = SpiffeId::parse(&written.id).map_err(EntryError::Id)?;
        if id.is_reserved() || id.path().is_empty() {
            return Err(EntryError::Reserved(id));
        }
        let selectors: Result<BTreeSet<Selector>, _> =
            written.selectors.iter().map(|text| text.parse()).collect();
        let selectors = selectors?;
        let family = check_together(&selectors)?;
        let ttl = written.ttl_seconds.map(Duration::from_secs);
        if ttl.is_some_and(|ttl| ttl.is_zero() || ttl > MAX_TTL) {
            return Err(EntryError::Ttl);
        }
        let recovery_grace = written.recovery_grace_seconds.map(Duration::from_secs);
        if recovery_grace.is_some_and(|grace| grace.is_zero() || grace > MAX_RECOVERY_GRACE) {
            return Err(EntryError::RecoveryGrace);
        }
        if recovery_grace.is_some() && matches!(family, Family::Oidc | Family::X509) {
            return Err(EntryError::EvidenceEnds);
        }
        let printable = |hint: &String| {
            (1..=MAX_HINT_BYTES).contains(&hint.len()) && !hint.chars().any(char::is_control)
        };
        if !written.hint.iter().all(printable) {
            return Err(EntryError::Hint);
        }
        let names = written.dns_names.iter();
        let dns_names: Result<BTreeSet<_>, _> = names.map(|name| name.parse()).collect();
        let federated = written.federates_with.iter();
        let federates_with: Result<BTreeSet<_>, _> =
            federated.map(|name| TrustDomain::parse(name)).collect();
        Ok(Self {
            id,
            selectors,
            ttl,
            hint: written.hint,
            dns_names: dns_names?,
            federates_with: federates_with.map_err(EntryError::Federated)?,
            recovery_grace,
        })
    }
}

/// All selectors have to be of one family, and say whose word they are: a namespace of another cluster, or a name in a
/// certificate of another CA, is somebody else's. The same goes for a service account of another namespace.
fn check_together(selectors: &BTreeSet<Selector>) -> Result<Family, EntryError> {
    let mut kinds = selectors.iter().map(Selector::kind);
    let family = kinds.next().ok_or(EntryError::NoSelectors)?.family();
    if kinds.any(|kind| kind.family() != family) {
        return Err(EntryError::Mixed);
    }
    let (whose, example) = match family {
        Family::Kubernetes => (Kind::KubernetesCluster, "k8s:cluster:<name>"),
        Family::Oidc => (Kind::OidcIssuer, "oidc:issuer:<name>"),
        Family::X509 => (Kind::X509Authority, "x509pop:ca:<name>"),
        Family::Unix => return Ok(family),
    };
    let has = |kind| selectors.iter().any(|selector| selector.kind() == kind);
    if !has(whose) || !selectors.iter().any(Selector::narrows) {
        return Err(EntryError::Whose { example });
    }
    if has(Kind::KubernetesServiceAccount) && !has(Kind::KubernetesNamespace) {
        return Err(EntryError::Namespace);
    }
    Ok(family)
}

/// Why there is no such entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("expected a SPIFFE ID: {0}")]
    Id(ParseIdError),
    #[error("expected the ID of a workload, found {0}")]
    Reserved(SpiffeId),
    #[error("expected an ID of trust domain {expected}, found {found}")]
    Foreign {
        expected: TrustDomain,
        found: SpiffeId,
    },
    #[error("expected at most {MAX_PARTS} selectors, and trust domains, found {found}")]
    TooMany { found: usize },
    #[error("expected a selector: an entry without one would be for everybody")]
    NoSelectors,
    #[error(transparent)]
    Selector(#[from] ParseSelectorError),
    #[error(
        "expected selectors of one kind of attestor: those of several are never true of one caller"
    )]
    Mixed,
    #[error(
        "expected {example}, which says whose word the other selectors are, and at least one other that is not true of all whom that one vouches for, as a claim iss, aud, exp, iat, nbf or jti is"
    )]
    Whose { example: &'static str },
    #[error(
        "expected k8s:ns:<namespace> with k8s:sa: a service account of that name can be made in any namespace"
    )]
    Namespace,
    #[error("expected a life of at least a second and at most {MAX_TTL:?}")]
    Ttl,
    #[error("expected a recovery grace of at least a second and at most {MAX_RECOVERY_GRACE:?}")]
    RecoveryGrace,
    #[error(
        "expected no recovery grace: oidc: and x509pop: evidence ends at a time of its own, and nobody would vouch for what a recovered certificate has beyond that"
    )]
    EvidenceEnds,
    #[error("expected a hint of 1 to {MAX_HINT_BYTES} bytes without control characters")]
    Hint,
    #[error("expected at most {MAX_DNS_NAMES} host names, found {found}")]
    TooManyDnsNames { found: usize },
    #[error(transparent)]
    DnsName(#[from] ParseDnsNameError),
    #[error("expected the names of trust domains to federate with: {0}")]
    Federated(ParseIdError),
}

#[cfg(test)]
mod tests;
