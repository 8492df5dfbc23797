//! The only code that signs leaves.

use crate::config::OpenOptions;
use crate::csr::{KeyHash, PublicKey};
use crate::dns::{DnsName, MAX_DNS_NAMES};
use crate::revoke::crl::Crl;
use crate::store::{CertificateRecord, Store};
use identity::{Leaf, Revocations, SpiffeId, Svid, TrustBundle, TrustDomain};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::{Semaphore, watch};

mod directory;
mod error;
mod external;
mod follow;
mod health;
mod init;
mod order;
mod sign;
mod signers;
pub(crate) mod slots;
mod tokens;
mod witness;

#[cfg(test)]
mod tests;

pub use directory::OpenError;
pub(crate) use directory::{ISSUING, ROOT, read_certificate};
pub use error::{IssueError, PublishError};
pub use external::{FinishError, ForecastError, finish, request_intermediate};
pub(crate) use external::{Forecast, Signed, forecast};
pub use follow::CrlError;
pub use health::Fault;
pub(crate) use init::in_new_directory;
pub use init::{InitError, init};
pub use order::{Attested, Issued, Request, Requester, ServerIdentity};
pub(crate) use signers::Issuing;
use signers::{Signers, Unusable};
use slots::Slots;
pub(crate) use witness::Verdict;
use witness::Witness;

/// An open CA: the issuing key ready to sign, the root's not even read.
pub struct Authority {
    trust_domain: TrustDomain,
    signers: watch::Sender<Arc<Signers>>,
    store: Store,
    bundle: watch::Sender<Arc<TrustBundle>>,
    revocations: watch::Sender<Arc<Revocations>>,
    /// The last that was signed. Held while the next is.
    crl: tokio::sync::Mutex<Option<Crl>>,
    /// As many as the key serves at once: more tasks would only make all of them late.
    signing: Semaphore,
    directory: std::path::PathBuf,
    /// For reading the directory again.
    options: OpenOptions,
    on_disk: health::OnDisk,
    behind: std::sync::Mutex<Option<std::time::Instant>>,
    witness: Witness,
    server_issuer: watch::Sender<KeyHash>,
    unusable: std::sync::Mutex<Unusable>,
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
        directory::check_finished(directory)?;
        // First, as it brings an older database up to date.
        let store = Store::open(options.database_in(directory))?;
        let parts = directory::read(directory, options)?;
        let slots = Slots::new(&parts.renewal_secret);
        let signers = Signers::open(parts.issuing, &parts.generations, options, slots)?;
        let width = signers.workloads.issuer.key().width();
        Ok(Self {
            trust_domain: parts.bundle.trust_domain().clone(),
            server_issuer: watch::Sender::new(signers.server(SystemTime::now()).name()),
            signers: watch::Sender::new(Arc::new(signers)),
            store,
            bundle: watch::Sender::new(Arc::new(parts.bundle)),
            revocations: watch::Sender::new(Arc::new(parts.revocations)),
            crl: tokio::sync::Mutex::default(),
            signing: Semaphore::new(width),
            directory: directory.to_owned(),
            options: options.clone(),
            on_disk: health::OnDisk::new(directory),
            behind: std::sync::Mutex::default(),
            witness: Witness::default(),
            unusable: std::sync::Mutex::default(),
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
        if !authorities.contains(&self.signer().root) {
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
        check_dns_names(&request.dns_names, &self.options.server_names)?;
        self.issue_checked(request).await
    }

    /// Issues the CA's own server certificate, `spiffe://<trust domain>/tipstaff/ca`, for a key made here.
    /// [`crate::config::DEFAULT_TTL`]; ask again at `renew_at`.
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
                dns_names: self.options.server_names.clone(),
                public_key,
                ttl: None,
                until: None,
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
        let dns_names = request.dns_names.clone();
        let (issued, issuer) = self.sign(request, now).await?;
        let record = CertificateRecord {
            leaf: Leaf {
                id: issued.id.clone(),
                serial: issued.serial.clone(),
                not_before: issued.not_before,
                not_after: issued.not_after,
            },
            renew_at: issued.renew_at,
            der: issued.chain[0].clone(),
            dns_names,
            requester,
            key,
            issuer,
        };
        // Nothing above has left this function: without the record the certificate does not exist.
        self.store
            .record_issuance(record, now)
            .await
            .map_err(IssueError::Record)??;
        Ok(issued)
    }

    /// Signs and checks on a blocking thread, so that a burst does not hold up the connections of the runtime.
    async fn sign(
        &self,
        request: Request,
        now: SystemTime,
    ) -> Result<(Issued, KeyHash), IssueError> {
        let _permit = self
            .signing
            .acquire()
            .await
            .map_err(|_| IssueError::Interrupted)?;
        let signer = match request.requester {
            Requester::Ca => self.server_signer(now),
            _ => self.signer(),
        };
        let (issuer, bundle) = (signer.name(), Arc::clone(&self.bundle.borrow()));
        let signing = tokio::task::spawn_blocking(move || signer.sign(&request, &bundle, now));
        let issued = signing.await.map_err(|_| IssueError::Interrupted)??;
        Ok((issued, issuer))
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

/// Host names are for workloads but for the CA's own: a client that goes by those would take another for it.
fn check_dns_names(names: &BTreeSet<DnsName>, own: &BTreeSet<DnsName>) -> Result<(), IssueError> {
    if names.len() > MAX_DNS_NAMES {
        return Err(IssueError::TooManyDnsNames { found: names.len() });
    }
    match names.intersection(own).next() {
        Some(name) => Err(IssueError::OwnDnsName(name.clone())),
        None => Ok(()),
    }
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
