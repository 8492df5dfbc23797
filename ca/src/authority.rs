//! The only code that signs certificates.

use crate::config::{InitOptions, OpenOptions};
use crate::csr::{KeyHash, PublicKey};
use crate::store::{Store, StoreError};
use identity::{SpiffeId, Svid, TrustBundle, TrustDomain};
use rustls_pki_types::CertificateDer;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// Makes a new CA in `directory`, which must not exist: a root, an issuing intermediate, a database, and
/// `ca-bundle.pem` for the clients. All of it or nothing appears.
///
/// # Errors
/// When the directory exists, a file cannot be written, or a key cannot be made.
pub fn init(directory: &Path, options: &InitOptions) -> Result<(), InitError> {
    unimplemented!("{directory:?} {options:?}")
}

/// An open CA: the issuing key in memory, the root's not even read.
#[derive(Debug)]
pub struct Authority {}

impl Authority {
    /// Opens a directory made by [`init`].
    ///
    /// Does not take the [`crate::store::ServeLock`]: issuing beside a server is safe, as serials and the audit chain
    /// are settled inside database transactions.
    ///
    /// # Errors
    /// When a file is missing or damaged, the passphrase is missing or wrong, or the parts do not belong together.
    pub fn open(directory: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        unimplemented!("{directory:?} {options:?}")
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        unimplemented!()
    }

    /// Tokens, enrolments and refusals.
    pub fn store(&self) -> &Store {
        unimplemented!()
    }

    /// The trust bundle, and every later one. Its sequence never goes back, not over restarts either.
    pub fn bundle(&self) -> watch::Receiver<Arc<TrustBundle>> {
        unimplemented!()
    }

    /// Replaces the authorities of the trust bundle and raises its sequence; durable and audited before it is
    /// published. The CA's own root has to stay among them.
    pub async fn publish_authorities(
        &self,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<(), PublishError> {
        unimplemented!("{authorities:?}")
    }

    /// Issues a certificate for a workload.
    ///
    /// When this returns `Ok`, the certificate satisfies the X.509-SVID profile, validates to the trust bundle as
    /// client and server, and its audit record is on disk. Whether the caller may have `request.id` was decided
    /// before; what no caller may have (foreign trust domains, reserved IDs) is refused here once more.
    ///
    /// Cancel safe: a dropped call may leave a recorded certificate that nobody received, never the reverse.
    pub async fn issue(&self, request: Request) -> Result<Issued, IssueError> {
        unimplemented!("{request:?}")
    }

    /// Issues the CA's own server certificate, `spiffe://<trust domain>/tipstaff/ca`, for a key made here.
    /// [`DEFAULT_TTL`](crate::config::DEFAULT_TTL); ask again at `renew_at`.
    pub async fn issue_server(&self) -> Result<ServerIdentity, IssueError> {
        unimplemented!()
    }
}

/// Whether a workload may have `id` in `trust_domain`.
///
/// # Errors
/// [`IssueError::ForeignTrustDomain`], [`IssueError::Reserved`] or [`IssueError::NotAWorkload`].
pub fn check_workload_id(id: &SpiffeId, trust_domain: &TrustDomain) -> Result<(), IssueError> {
    unimplemented!("{id} {trust_domain}")
}

/// What to issue, decided by the caller's attestation.
#[derive(Debug, Clone)]
pub struct Request {
    pub id: SpiffeId,
    pub public_key: PublicKey,
    /// Clamped to what the CA allows; `None` is the default.
    pub ttl: Option<Duration>,
    pub requester: Requester,
}

/// On what ground a certificate was asked for; goes into the audit record.
#[derive(Debug, Clone)]
pub enum Requester {
    /// An enrolment key, first registered now or earlier.
    Enrolment(KeyHash),
    /// A renewal over mTLS with the SVID that has this serial.
    Svid { serial: String },
    /// `tipstaff ca issue`.
    Operator,
    /// The CA itself, for its server certificate.
    Ca,
}

/// A certificate that is recorded and may be handed out.
#[derive(Debug, Clone)]
pub struct Issued {
    pub id: SpiffeId,
    /// Leaf first, then the intermediate; the root is left out.
    pub chain: Vec<CertificateDer<'static>>,
    /// As in [`identity::Leaf`].
    pub serial: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// When to ask for the next one: a draw from the serial, uniform in 50 to 70 % of the life.
    pub renew_at: SystemTime,
}

/// The CA's own certificate and key.
#[derive(Debug)]
pub struct ServerIdentity {
    pub svid: Svid,
    pub renew_at: SystemTime,
}

/// Why nothing was issued. The first three are the caller's fault and safe to show; the others are ours.
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
    #[error("the issuing certificate ends too soon to issue a certificate of {ttl:?}")]
    IssuerExpires { ttl: Duration },
    #[error("could not sign the certificate")]
    Sign(#[source] rcgen::Error),
    #[error("the signed certificate is no X.509-SVID for {id}")]
    Profile {
        id: SpiffeId,
        #[source]
        source: Option<identity::CertError>,
    },
    #[error("the signed certificate does not validate to the trust bundle")]
    Path(#[source] identity::VerifyError),
    #[error("the certificate is withheld, as its audit record is not durable")]
    Record(#[source] StoreError),
    #[error("the signing task ended early")]
    Interrupted,
}

/// Why no CA was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("expected {0} not to exist yet")]
    Exists(std::path::PathBuf),
}

/// Why a CA directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot use the CA's database")]
    Store(#[from] StoreError),
}

/// Why a new set of authorities was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("the CA's own root has to stay in the trust bundle")]
    RootMissing,
    #[error("the new trust bundle is not durable")]
    Record(#[source] StoreError),
}
