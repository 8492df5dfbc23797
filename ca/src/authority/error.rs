//! Why nothing was issued or published.

use crate::dns::{DnsName, MAX_DNS_NAMES};
use crate::lineage::LineageError;
use crate::store::StoreError;
use identity::{SpiffeId, TrustDomain};
use std::time::Duration;

/// Why nothing was issued. The first five are the caller's fault and safe to show; the others are ours.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("expected an ID in trust domain {expected}, found {found}")]
    ForeignTrustDomain {
        expected: TrustDomain,
        found: SpiffeId,
    },
    #[error("{0} is reserved and never issued to a workload")]
    Reserved(SpiffeId),
    #[error("expected the ID of a workload, found {0}, which has no path")]
    NotAWorkload(SpiffeId),
    #[error("expected at most {MAX_DNS_NAMES} host names, found {found}")]
    TooManyDnsNames { found: usize },
    #[error("expected a host name of a workload, found {0}, which is the CA's own")]
    OwnDnsName(DnsName),
    #[error(transparent)]
    Lineage(#[from] LineageError),
    #[error(
        "expected evidence that lasts for the shortest certificate, {} s, found one that ends sooner", .floor.as_secs()
    )]
    EvidenceEnds { floor: Duration },
    #[error("the issuing certificate ends too soon to issue a certificate of {ttl:?}")]
    IssuerExpires { ttl: Duration },
    #[error("could not sign the certificate")]
    Sign(#[source] rcgen::Error),
    #[error("the signed certificate is not an X.509-SVID")]
    Profile(#[source] identity::CertError),
    #[error("the signed certificate does not have the names or the validity intended for {0}")]
    NotAsIntended(SpiffeId),
    #[error("the signed certificate does not validate to the trust bundle")]
    Path(#[source] identity::VerifyError),
    #[error("the CA's own certificate and key do not make an identity")]
    Svid(#[source] identity::SvidError),
    #[error("the certificate is withheld, as its audit record is not durable")]
    Record(#[source] StoreError),
    #[error("the signing task ended early")]
    Interrupted,
}

/// Why a new set of authorities was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("the CA's own root has to stay in the trust bundle")]
    RootMissing,
    #[error("the authorities do not make a trust bundle")]
    Bundle(#[source] identity::BundleError),
    #[error("the new trust bundle is not durable")]
    Record(#[source] StoreError),
    #[error("the new trust bundle is published, but its copy for new clients could not be written")]
    Copy(#[source] std::io::Error),
}
