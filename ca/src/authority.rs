//! The only code that signs leaves.

use crate::config::{DEFAULT_TTL, MAX_TTL, OpenOptions, TtlFloor};
use crate::csr::{KeyHash, PublicKey};
use crate::lineage::LineageError;
use crate::profile::{self, Validity};
use crate::revoke::crl::Crl;
use crate::signer::CaKey;
use crate::store::{CertificateRecord, Store, StoreError};
use aws_lc_rs::hmac;
use identity::{Leaf, Revocations, SpiffeId, Svid, TrustBundle, TrustDomain, Usage};
use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, watch};

mod directory;
mod external;
mod follow;
mod health;
mod tokens;

#[cfg(test)]
mod tests;

pub use directory::{InitError, OpenError, init};
pub(crate) use directory::{in_new_directory, read_certificate};
pub use external::{FinishError, ForecastError, finish, request_intermediate};
pub(crate) use external::{Forecast, forecast};
pub use follow::CrlError;
pub use health::Fault;

/// An open CA: the issuing key ready to sign, the root's not even read.
pub struct Authority {
    trust_domain: TrustDomain,
    signer: Arc<Signer>,
    store: Store,
    bundle: watch::Sender<Arc<TrustBundle>>,
    revocations: watch::Sender<Arc<Revocations>>,
    /// The last that was signed. Held while the next is.
    crl: tokio::sync::Mutex<Option<Crl>>,
    /// The CA's own root, which the bundle must contain.
    root: CertificateDer<'static>,
    /// As many as the key serves at once: more tasks would only make all of them late.
    signing: Semaphore,
    directory: std::path::PathBuf,
    /// For reading the directory again.
    options: OpenOptions,
    on_disk: health::OnDisk,
    behind: std::sync::Mutex<Option<std::time::Instant>>,
}

impl Authority {
    /// Opens a directory made by [`init`].
    ///
    /// Does not take the [`crate::directory::ServeLock`]: issuing beside a server is safe, as serials and the audit
    /// chain are settled inside database transactions.
    ///
    /// # Errors
    /// When a file is missing or damaged, the passphrase is missing or wrong, or the parts do not belong together.
    pub fn open(directory: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        let parts = directory::read(directory, options)?;
        let width = parts.issuer.key().width();
        Ok(Self {
            trust_domain: parts.bundle.trust_domain().clone(),
            signer: Arc::new(Signer {
                issuer: parts.issuer,
                intermediate: Some(parts.intermediate).filter(|issuer| *issuer != parts.root),
                issuer_validity: parts.issuer_validity,
                ttl_floor: options.ttl_floor,
                renewal_secret: hmac::Key::new(hmac::HMAC_SHA256, &parts.renewal_secret),
            }),
            store: Store::open(options.database_in(directory))?,
            bundle: watch::Sender::new(Arc::new(parts.bundle)),
            revocations: watch::Sender::new(Arc::new(parts.revocations)),
            crl: tokio::sync::Mutex::default(),
            root: parts.root,
            signing: Semaphore::new(width),
            directory: directory.to_owned(),
            options: options.clone(),
            on_disk: health::OnDisk::new(directory),
            behind: std::sync::Mutex::default(),
        })
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Tokens, enrolments and refusals.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The trust bundle, and every later one. Its sequence never goes back, not over restarts either.
    pub fn bundle(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.bundle.subscribe()
    }

    /// Replaces the authorities of the trust bundle and raises its sequence; durable and audited before it is
    /// published.
    ///
    /// # Errors
    /// When the CA's own root is not among them, or nothing could be recorded. When only the copy in `ca-bundle.pem`
    /// could not be written, the bundle is published all the same.
    pub async fn publish_authorities(
        &self,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<(), PublishError> {
        if !authorities.contains(&self.root) {
            return Err(PublishError::RootMissing);
        }
        let unnumbered = TrustBundle::new(self.trust_domain.clone(), authorities, 0)
            .map_err(PublishError::Bundle)?;
        let pem = unnumbered.to_pem();
        let published = async {
            let now = SystemTime::now();
            self.store.publish_bundle(unnumbered, now).await?;
            // With the keys for tokens that are published beside.
            self.store.bundle().await
        };
        self.take_over(published.await.map_err(PublishError::Record)?);
        crate::directory::replace(
            &self.directory.join(crate::directory::BUNDLE),
            pem.as_bytes(),
        )
        .map_err(PublishError::Copy)
    }

    /// Two publishers may pass each other here: the higher sequence stays.
    fn take_over(&self, bundle: TrustBundle) {
        self.bundle.send_if_modified(|present| {
            let newer = present.sequence() < bundle.sequence();
            if newer {
                *present = Arc::new(bundle);
            }
            newer
        });
    }

    /// Issues a certificate for a workload.
    ///
    /// When this returns `Ok`, the certificate satisfies the X.509-SVID profile, validates to the trust bundle as
    /// client and server, and its audit record is on disk. Whether the caller may have `request.id` was decided
    /// before; what no caller may have (foreign trust domains, reserved IDs) is refused here once more.
    ///
    /// Cancel safe: a dropped call may leave a recorded certificate that nobody received, never the reverse.
    ///
    /// # Errors
    /// See [`IssueError`]. Nothing was issued then.
    pub async fn issue(&self, request: Request) -> Result<Issued, IssueError> {
        check_workload_id(&request.id, &self.trust_domain)?;
        self.issue_checked(request).await
    }

    /// Issues the CA's own server certificate, `spiffe://<trust domain>/tipstaff/ca`, for a key made here.
    /// [`DEFAULT_TTL`]; ask again at `renew_at`.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub async fn issue_server(&self) -> Result<ServerIdentity, IssueError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IssueError::Sign)?;
        let public_key = PublicKey::from_spki(&key.subject_public_key_info())
            .expect("a generated P-256 key is a P-256 key");
        let issued = self
            .issue_checked(Request {
                id: SpiffeId::ca_server(&self.trust_domain),
                public_key,
                ttl: None,
                requester: Requester::Ca,
            })
            .await?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Ok(ServerIdentity {
            svid: Svid::new(issued.chain, key).map_err(IssueError::Svid)?,
            renew_at: issued.renew_at,
        })
    }

    async fn issue_checked(&self, request: Request) -> Result<Issued, IssueError> {
        let now = SystemTime::now();
        let (requester, key) = (request.requester.clone(), request.public_key.hash());
        let issued = self.sign(request, now).await?;
        let record = CertificateRecord {
            leaf: Leaf {
                id: issued.id.clone(),
                serial: issued.serial.clone(),
                not_before: issued.not_before,
                not_after: issued.not_after,
            },
            renew_at: issued.renew_at,
            der: issued.chain[0].clone(),
            requester,
            key,
        };
        // Nothing above has left this function: without the record the certificate does not exist.
        self.store
            .record_issuance(record, now)
            .await
            .map_err(IssueError::Record)??;
        Ok(issued)
    }

    /// Signs and checks on a blocking thread, so that a burst does not hold up the connections of the runtime.
    async fn sign(&self, request: Request, now: SystemTime) -> Result<Issued, IssueError> {
        let _permit = self
            .signing
            .acquire()
            .await
            .map_err(|_| IssueError::Interrupted)?;
        let signer = Arc::clone(&self.signer);
        let bundle = Arc::clone(&self.bundle.borrow());
        tokio::task::spawn_blocking(move || signer.sign(&request, &bundle, now))
            .await
            .map_err(|_| IssueError::Interrupted)?
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

/// The issuing key and what limits its use.
struct Signer {
    issuer: Issuer<'static, CaKey>,
    /// `None` when the root issues.
    intermediate: Option<CertificateDer<'static>>,
    /// Where the validity of all issuers overlaps.
    issuer_validity: Validity,
    ttl_floor: TtlFloor,
    renewal_secret: hmac::Key,
}

impl Signer {
    fn sign(
        &self,
        request: &Request,
        bundle: &TrustBundle,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        let ttl = request
            .ttl
            .unwrap_or(DEFAULT_TTL)
            .clamp(self.ttl_floor.duration(), MAX_TTL);
        let validity = Validity::of_leaf(now, ttl, self.issuer_validity);
        if self.issuer_validity.not_after < now + self.ttl_floor.duration() {
            return Err(IssueError::IssuerExpires { ttl });
        }
        let leaf = profile::leaf(&request.id, &request.public_key, validity)
            .and_then(|params| params.signed_by(&request.public_key, &self.issuer))
            .map_err(IssueError::Sign)?;

        let mut chain = vec![leaf.into()];
        // A root that issues itself is left out, as every root is.
        chain.extend(self.intermediate.clone());
        let leaf = check(&chain, request, validity, bundle, now)?;
        Ok(Issued {
            renew_at: self.renew_at(&leaf.serial, now, leaf.not_after),
            id: leaf.id,
            chain,
            serial: leaf.serial,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        })
    }

    /// A deterministic draw from the serial, uniform in 50 to 70 % of the time between issuance and expiry. A fleet
    /// that starts at once spreads out, and asking again gives the same answer.
    fn renew_at(&self, serial: &str, now: SystemTime, not_after: SystemTime) -> SystemTime {
        let tag = hmac::sign(&self.renewal_secret, serial.as_bytes());
        let (draw, _) = tag
            .as_ref()
            .split_first_chunk()
            .expect("a tag has 32 bytes");
        let draw = f64::from(u32::from_be_bytes(*draw)) / f64::from(u32::MAX);
        let life = not_after.duration_since(now).unwrap_or_default();
        now + life.mul_f64(0.5 + 0.2 * draw)
    }
}

/// Reads the signed certificate back as a peer would. A fault in the profile, in rcgen or in the CA's files stops here.
fn check(
    chain: &[CertificateDer<'static>],
    request: &Request,
    validity: Validity,
    bundle: &TrustBundle,
    now: SystemTime,
) -> Result<Leaf, IssueError> {
    let leaf = Leaf::parse(&chain[0]).map_err(IssueError::Profile)?;
    let intended = leaf.id == request.id
        && leaf.not_before == validity.not_before
        && leaf.not_after == validity.not_after;
    if !intended {
        return Err(IssueError::NotAsIntended(request.id.clone()));
    }
    // As a client is as a server: the leaf profile wants both uses or none, and no issuer of ours restricts its leaves.
    // A second validation would only check the same signatures again, which is most of what issuing costs.
    bundle
        .verify(chain, Usage::Client, now)
        .map_err(IssueError::Path)?;
    Ok(leaf)
}

/// Whether a workload may have `id` in `trust_domain`.
///
/// # Errors
/// [`IssueError::ForeignTrustDomain`], [`IssueError::Reserved`] or [`IssueError::NotAWorkload`].
pub fn check_workload_id(id: &SpiffeId, trust_domain: &TrustDomain) -> Result<(), IssueError> {
    if !id.is_member_of(trust_domain) {
        return Err(IssueError::ForeignTrustDomain {
            expected: trust_domain.clone(),
            found: id.clone(),
        });
    }
    if id.is_reserved() {
        return Err(IssueError::Reserved(id.clone()));
    }
    if id.path().is_empty() {
        return Err(IssueError::NotAWorkload(id.clone()));
    }
    Ok(())
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
    /// What an attestor vouches for.
    Attested(Attested),
    /// A renewal over mTLS with the SVID that has this serial, and what was attested beside it.
    Svid {
        serial: String,
        attested: Option<Attested>,
    },
    /// `tipstaff ca issue`.
    Operator,
    /// The CA itself, for its server certificate.
    Ca,
}

/// Who was vouched for, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// As in [`crate::attest::Evidence`], like the others.
    pub attestor: String,
    pub subject: String,
    pub holder: Option<String>,
}

impl std::fmt::Display for Attested {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.attestor, self.subject)
    }
}

impl std::fmt::Display for Requester {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Enrolment(key) => write!(f, "enrolment {key}"),
            Self::Attested(attested) => attested.fmt(f),
            Self::Svid {
                serial,
                attested: Some(attested),
            } => write!(f, "svid {serial}, {attested}"),
            Self::Svid { serial, .. } => write!(f, "svid {serial}"),
            Self::Operator => f.write_str("operator"),
            Self::Ca => f.write_str("ca"),
        }
    }
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

/// Why nothing was issued. The first four are the caller's fault and safe to show; the others are ours.
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
    #[error(transparent)]
    Lineage(#[from] LineageError),
    #[error("the issuing certificate ends too soon to issue a certificate of {ttl:?}")]
    IssuerExpires { ttl: Duration },
    #[error("could not sign the certificate")]
    Sign(#[source] rcgen::Error),
    #[error("the signed certificate is not an X.509-SVID")]
    Profile(#[source] identity::CertError),
    #[error("the signed certificate does not have the identity or the validity intended for {0}")]
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
