//! Who may have which identity: what a caller proves of itself, and what that is worth.
//!
//! A caller of Issue proves one of these: an enrolment key that a join token has registered ([`statement`]), or
//! something that others vouch for (tokens of a Kubernetes cluster). Of the latter comes [`Evidence`]; which identity it
//! is good for is said by the attestor, or by registration entries.

// In the order in which evidence meets them.
mod proof;

mod json;

pub mod jwt;

pub mod jwks;

pub mod fetch;

pub mod keyring;

pub mod kubernetes;

mod selector;

pub use proof::{ProofError, check_proof, statement};
pub use selector::{ParseSelectorError, Selector};

use identity::{SpiffeId, TrustDomain};
use jwt::{Token, TokenError};
use keyring::KeySourceError;
use kubernetes::Cluster;
use std::collections::BTreeSet;
use std::time::SystemTime;

/// Clusters, and other issuers, of one CA.
pub const MAX_ATTESTORS: usize = 64;

/// What the operator lets callers prove, besides enrolment keys. The default is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    pub kubernetes: Vec<kubernetes::Options>,
}

/// What a renewal takes, of an identity that was attested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewals {
    /// Fresh evidence beside the present certificate: a workload that is gone cannot renew.
    Attest,
    /// The present certificate alone.
    Certificate,
}

/// What a caller has proven of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Who vouches: `kubernetes/` and the name of the cluster.
    pub attestor: String,
    /// Whom for, in one line for records.
    pub subject: String,
    /// What has one lineage of certificates under this attestor, such as a pod.
    pub holder: Option<String>,
    /// What entries can ask for.
    pub selectors: BTreeSet<Selector>,
    /// The identity that this is good for without an entry.
    pub natural_id: Option<SpiffeId>,
    pub renewals: Renewals,
}

/// All attestors of a CA.
#[derive(Debug, Default)]
pub struct Attestors {
    clusters: Vec<Cluster>,
}

impl Attestors {
    /// Reads what the options name.
    ///
    /// # Errors
    /// When a file of keys cannot be used. A server that is away is asked again when it is needed.
    pub async fn open(options: Options) -> Result<Self, OpenAttestorError> {
        let mut clusters = Vec::new();
        for cluster in options.kubernetes {
            let name = cluster.name.clone();
            let open = Cluster::open(cluster).await;
            clusters.push(open.map_err(|source| OpenAttestorError { name, source })?);
        }
        Ok(Self { clusters })
    }

    /// What the pod that holds this token is.
    pub(crate) async fn kubernetes(
        &self,
        text: &str,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Evidence, AttestError> {
        let token = Token::parse(text)?;
        let mut refused = AttestError::Token(TokenError::Issuer);
        // Clusters may have an issuer of the same name, and then differ in their keys.
        for cluster in &self.clusters {
            if !cluster.has_made(&token) {
                continue;
            }
            match cluster.attest(&token, text, trust_domain, now).await {
                Err(error @ AttestError::Token(TokenError::UnknownKey | TokenError::Signature)) => {
                    refused = error;
                }
                outcome => return outcome,
            }
        }
        Err(refused)
    }

    /// What renewals take of identities that `attestor` has vouched for. One that is not there any more vouches for
    /// nobody.
    pub(crate) fn renewals(&self, attestor: &str) -> Renewals {
        let cluster = self.clusters.iter().find(|cluster| cluster.is(attestor));
        cluster.map_or(Renewals::Attest, Cluster::renewals)
    }
}

/// Why evidence does not count. Safe to show to the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttestError {
    #[error("expected evidence of a kind that this CA knows")]
    Nothing,
    #[error(
        "expected fresh evidence of {attestor}, which vouched for this identity: a renewal takes it, too"
    )]
    Again { attestor: String },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("expected a service-account token that is bound to a pod")]
    NotBound,
    #[error(
        "expected a token that its cluster confirms, found one of a pod or account that is gone"
    )]
    Disowned,
    /// Nobody's fault but ours and the cluster's: the caller may come again.
    #[error("the CA cannot reach whoever vouches for the caller at present; nothing was issued")]
    Unavailable,
}

/// Why an attestor cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the keys of attestor {name:?}")]
pub struct OpenAttestorError {
    pub name: String,
    #[source]
    pub source: KeySourceError,
}
