//! Who may have which identity: what a caller proves of itself, and what that is worth.
//!
//! A caller of Issue proves one of these: an enrolment key that a join token has registered ([`statement`]), or
//! something that others vouch for (tokens of a Kubernetes cluster or an OIDC provider, certificates of another CA). Of the
//! latter comes [`Evidence`]; which identity it
//! is good for is said by the attestor, or by registration entries.

// In the order in which evidence meets them.
mod proof;

mod json;

pub mod jwt;

pub mod jwks;

pub mod fetch;

pub mod keyring;

pub mod kubernetes;

pub mod oidc;

pub mod x509pop;

pub mod selector;

pub use proof::{ProofError, check_proof, possession_statement, recovery_statement, statement};
pub use selector::{ParseSelectorError, Selector};

use crate::proto::X509Possession;
use identity::{SpiffeId, TrustDomain};
use jwt::{Token, TokenError};
use keyring::KeySourceError;
use kubernetes::Cluster;
use oidc::Provider;
use std::collections::BTreeSet;
use std::time::SystemTime;
use x509pop::{Outside, Possession, WINDOW};

/// Clusters, and other issuers, of one CA.
pub const MAX_ATTESTORS: usize = 64;

/// What the operator lets callers prove, besides enrolment keys. The default is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    pub kubernetes: Vec<kubernetes::Options>,
    pub oidc: Vec<oidc::Options>,
    pub x509pop: Vec<x509pop::Options>,
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
    /// Who vouches: `kubernetes/`, `oidc/` or `x509pop/` and the attestor's name.
    pub attestor: String,
    /// Whom for, in one line for records.
    pub subject: String,
    /// What has one lineage of certificates under this attestor, such as a pod.
    pub holder: Option<String>,
    /// What entries can ask for.
    pub selectors: BTreeSet<Selector>,
    /// The identity that this is good for without an entry.
    pub natural_id: Option<SpiffeId>,
    /// When it ends, and with it what is issued for it.
    pub ends: Option<SystemTime>,
    pub renewals: Renewals,
}

/// All attestors of a CA.
#[derive(Debug, Default)]
pub struct Attestors {
    clusters: Vec<Cluster>,
    providers: Vec<Provider>,
    outside: Vec<Outside>,
}

impl Attestors {
    /// Reads what the options name.
    ///
    /// # Errors
    /// When a file of keys cannot be used. A server that is away is asked again when it is needed.
    pub async fn open(options: Options) -> Result<Self, OpenAttestorError> {
        let named = |name: &str| {
            let name = name.to_owned();
            |source| OpenAttestorError { name, source }
        };
        let mut attestors = Self::default();
        for cluster in options.kubernetes {
            let failed = named(&cluster.name);
            let open = Cluster::open(cluster).await;
            attestors.clusters.push(open.map_err(failed)?);
        }
        for provider in options.oidc {
            let failed = named(&provider.name);
            let open = Provider::open(provider).await;
            attestors.providers.push(open.map_err(failed)?);
        }
        for outside in options.x509pop {
            let failed = named(&outside.name);
            let open = Outside::open(outside).await.map_err(KeySourceError::Fetch);
            attestors.outside.push(open.map_err(failed)?);
        }
        Ok(attestors)
    }

    /// What the pod that holds this token is.
    pub(crate) async fn kubernetes(
        &self,
        text: &str,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Evidence, AttestError> {
        let token = Token::parse(text)?;
        let mut refused = TokenError::Issuer.into();
        for cluster in &self.clusters {
            if cluster.has_made(&token) {
                match cluster.attest(&token, text, trust_domain, now).await {
                    Err(error) if error.may_be_anothers() => refused = error.or_before(refused),
                    outcome => return outcome,
                }
            }
        }
        Err(refused)
    }

    /// What an OIDC provider says in this token.
    pub(crate) async fn oidc(&self, text: &str, now: SystemTime) -> Result<Evidence, AttestError> {
        let token = Token::parse(text)?;
        let mut refused = TokenError::Issuer.into();
        for provider in &self.providers {
            if provider.has_made(&token) {
                match provider.attest(&token, now).await {
                    Err(error) if error.may_be_anothers() => refused = error.or_before(refused),
                    outcome => return outcome,
                }
            }
        }
        Err(refused)
    }

    /// What an outside CA says of whoever asks for `id` with `csr`.
    pub(crate) fn x509(
        &self,
        presented: &X509Possession,
        id: &SpiffeId,
        csr: &[u8],
        now: SystemTime,
    ) -> Result<Evidence, AttestError> {
        let possession = Possession::read(presented, id, csr, now)?;
        self.outside
            .iter()
            .find_map(|outside| outside.attest(&possession, now))
            .unwrap_or(Err(AttestError::Certificate))
    }

    /// What renewals take of identities that `attestor` has vouched for. One that is not there any more vouches for
    /// nobody.
    pub(crate) fn renewals(&self, attestor: &str) -> Renewals {
        let found = match attestor.split_once('/') {
            Some(("kubernetes", name)) => {
                let mut clusters = self.clusters.iter();
                clusters
                    .find(|cluster| cluster.name == name)
                    .map(|cluster| cluster.renewals)
            }
            Some(("oidc", name)) => {
                let mut providers = self.providers.iter();
                providers
                    .find(|provider| provider.name == name)
                    .map(|provider| provider.renewals)
            }
            Some(("x509pop", name)) => {
                let mut outside = self.outside.iter();
                outside
                    .find(|outside| outside.name == name)
                    .map(|outside| outside.renewals)
            }
            _ => None,
        };
        found.unwrap_or(Renewals::Attest)
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
    #[error("expected a token with a subject")]
    NoSubject,
    #[error(
        "expected a certificate for client authentication that is valid now and leads to a configured CA"
    )]
    Certificate,
    #[error(
        "expected the statement signed with the key of the certificate, by ECDSA, Ed25519 or RSA-PSS"
    )]
    Possession,
    #[error(
        "expected a statement signed at most {} s from now, by the CA's clock", WINDOW.as_secs()
    )]
    Stale,
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

impl AttestError {
    /// Issuers may have one name, and then differ in their keys. While one is away, its keys may be any.
    fn may_be_anothers(&self) -> bool {
        matches!(
            self,
            Self::Token(TokenError::UnknownKey | TokenError::Signature) | Self::Unavailable
        )
    }

    /// What to say when several do not vouch: who could not be asked might have.
    fn or_before(self, before: Self) -> Self {
        match before {
            Self::Unavailable => before,
            _ => self,
        }
    }
}

/// Why an attestor cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the keys of attestor {name:?}")]
pub struct OpenAttestorError {
    pub name: String,
    #[source]
    pub source: KeySourceError,
}
