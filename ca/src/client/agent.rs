//! Keeps the identity valid: obtain, wait until it is due or asked for, renew, and try again when that fails.

use super::bundles::{Bundles, OfferError};
use super::connect::{ConnectError, Connector};
use super::prover::{ProveError, Prover};
use super::recover::Unrecoverable;
use super::registration::Registration;
use super::schedule::{Backoff, Schedule, not_before, now};
use super::standing::Standing;
use crate::api::refused::{REASON_METADATA, RETRY_METADATA};
use crate::causes::in_full;
use crate::proto::{
    self, Certificate, IssueRequest, IssueResponse, RenewRequest, RenewResponse, TrustBundle,
};
use identity::{PortableSvid, Revocations, SpiffeId, Svid, SvidError, Usage, VerifyError};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use zeroize::Zeroizing;

type Asker = oneshot::Sender<Result<(), String>>;

/// For one attempt, connection and all.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// The clocks are looked at this often while waiting, so that a jump is noticed soon after.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// The task behind [`super::start`].
pub(super) struct Agent {
    pub(super) connector: Connector,
    pub(super) bundles: Arc<Bundles>,
    pub(super) standing: Arc<Standing>,
    pub(super) prover: Prover,
    pub(super) id: SpiffeId,
    pub(super) ttl: Option<Duration>,
    /// The CA did not take the present SVID: the enrolment key speaks next time.
    pub(super) svid_refused: bool,
    /// The leaf key that was last asked with in vain. A call whose reply was lost is repeated with it: to the CA a renewal
    /// with a second key is a thief's.
    pub(super) unanswered: Option<Arc<KeyPair>>,
    /// The SVID that has ended and that the CA gave no successor for.
    pub(super) unrecoverable: Option<Unrecoverable>,
    /// What the CA last said of the identity.
    pub(super) registered: watch::Sender<Registration>,
    /// Where certificates go with their keys, if they are for a workload.
    pub(super) hand_out: Option<watch::Sender<Option<Arc<PortableSvid>>>>,
}

impl Agent {
    /// Never returns; ends with its [`super::Handles`].
    pub(super) async fn run(mut self, mut asks: mpsc::Receiver<Asker>) {
        let (standing, bundles) = (Arc::clone(&self.standing), Arc::clone(&self.bundles));
        let mut revocations = bundles.revocations();
        let mut backoff = Backoff::default();
        let mut schedule = None;
        let mut askers = Vec::new();
        loop {
            let mut told = None;
            let outcome = standing.noting_expiry(self.attempt()).await;
            // Whoever asked while the attempt ran gets its outcome too.
            askers.extend(std::iter::from_fn(|| asks.try_recv().ok()));
            let answer = match outcome {
                Ok(next) => {
                    standing.succeeded(&next);
                    backoff = Backoff::default();
                    schedule = Some(next);
                    Ok(())
                }
                Err(error) => {
                    told = error.retry_after();
                    let error = in_full(&error);
                    tracing::warn!(error, "no new certificate");
                    standing.failed(&error);
                    Err(error)
                }
            };
            askers.drain(..).for_each(|asker| {
                let _ = asker.send(answer.clone());
            });
            let waiting = async {
                match (&answer, &schedule) {
                    (Ok(()), Some(schedule)) => wait_until_due(schedule).await,
                    (_, schedule) => {
                        let life = schedule.as_ref().map(Schedule::life);
                        let pause = backoff.next(life, standing.valid_svid().is_some());
                        sleep(told.map_or(pause, |told| not_before(told, pause))).await;
                    }
                }
            };
            tokio::select! {
                () = standing.noting_expiry(waiting) => {}
                Some(asker) = asks.recv() => askers.push(asker),
                () = revoked(&mut revocations, &bundles, &standing) => {
                    tracing::error!("the present certificate is revoked");
                }
            }
        }
    }

    /// Obtains one certificate and publishes it once it holds up to every check.
    async fn attempt(&mut self) -> Result<Schedule, AttemptError> {
        timeout(ATTEMPT_TIMEOUT, self.obtain())
            .await
            .map_err(|_| AttemptError::Timeout)?
    }

    async fn obtain(&mut self) -> Result<Schedule, AttemptError> {
        let key = self.leaf_key()?;
        let csr = certificate_request(&key).map_err(AttemptError::Key)?;
        let is_good = |svid: &Arc<Svid>| !self.svid_refused && !self.bundles.revokes(svid);
        let present = self.standing.valid_svid().filter(is_good);
        let reply = match present {
            Some(svid) => {
                let renewed = self.renew(&svid, csr).await;
                self.svid_refused = renewed.as_ref().is_err_and(AttemptError::blames_svid);
                renewed?
            }
            None => {
                // Whatever comes of this, the SVID has its turn again: neither of the two ways blocks the other.
                self.svid_refused = false;
                match self.issue(csr.clone()).await {
                    Ok(issued) => {
                        self.prover.succeeded();
                        issued
                    }
                    // Why nobody vouches for this workload any more is what an operator has to know.
                    Err(error) if error.leaves_nobody_to_vouch() => {
                        self.recover(csr).await.ok_or(error)?
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let received = now();
        self.bundles.hear(reply.server_time_unix_ms, reply.asked);
        self.bundles.offer(reply.bundle, reply.revocations)?;
        let certificate = reply.certificate;
        let schedule = Schedule::new(
            reply.server_time_unix_ms,
            certificate.renew_at_unix_ms,
            certificate.not_after_unix_ms,
            received,
        );
        let chain = self.check(certificate.chain)?;
        if let Some(registration) = reply.registration {
            self.registered.send_replace(registration.into());
        }
        let key = Zeroizing::new(key.serialize_der());
        let svid = Svid::new(chain.clone(), PrivateKeyDer::Pkcs8(key.to_vec().into()))?;
        if let Some(hand_out) = &self.hand_out {
            hand_out.send_replace(Some(Arc::new(PortableSvid::new(chain, key)?)));
        }
        self.unanswered = None;
        self.standing.publish(svid);
        Ok(schedule)
    }

    /// A fresh key, or that of an attempt that brought no certificate.
    fn leaf_key(&mut self) -> Result<Arc<KeyPair>, AttemptError> {
        if let Some(key) = &self.unanswered {
            return Ok(Arc::clone(key));
        }
        let key = Arc::new(KeyPair::generate().map_err(AttemptError::Key)?);
        self.unanswered = Some(Arc::clone(&key));
        Ok(key)
    }

    async fn issue(&self, csr: Vec<u8>) -> Result<Reply, AttemptError> {
        let mut connection = self.connector.connect(None).await?;
        let request = IssueRequest {
            ttl_seconds: self.ttl_seconds(),
            ledger_head: self.bundles.head(),
            ..self.prover.request(&self.id, csr).await?
        };
        let asked = Instant::now();
        let reply = connection
            .calls
            .issue(request)
            .await
            .map_err(AttemptError::from_status)?
            .into_inner();
        Reply::new(reply.into(), asked)
    }

    async fn renew(&self, svid: &Svid, csr: Vec<u8>) -> Result<Reply, AttemptError> {
        let mut connection = self.connector.connect(Some(svid)).await?;
        let request = RenewRequest {
            csr,
            ttl_seconds: self.ttl_seconds(),
            attestation: self.prover.attestation().await?,
            ledger_head: self.bundles.head(),
        };
        let asked = Instant::now();
        let reply = connection
            .calls
            .renew(request)
            .await
            .map_err(AttemptError::from_status)?
            .into_inner();
        Reply::new(reply, asked)
    }

    /// The new chain, once it is what was asked for and validates to the present bundle.
    fn check(&self, chain: Vec<Vec<u8>>) -> Result<Vec<CertificateDer<'static>>, AttemptError> {
        let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
        let verify = |usage| {
            self.bundles
                .present()
                .verify(&chain, usage, SystemTime::now())
                .map_err(|error| error.by_clock(self.bundles.skew()))
        };
        let leaf = verify(Usage::Client)?;
        verify(Usage::Server)?;
        if leaf.id != self.id {
            return Err(AttemptError::OtherId(leaf.id));
        }
        Ok(chain)
    }

    /// Zero is the CA's default. Sub-second lives are asked for as the shortest there is.
    pub(super) fn ttl_seconds(&self) -> u32 {
        self.ttl.map_or(0, |ttl| {
            u32::try_from(ttl.as_secs().max(1)).unwrap_or(u32::MAX)
        })
    }
}

/// A request that carries the public key; nothing else of it is looked at.
fn certificate_request(key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// A complete answer to Issue or Renew.
pub(super) struct Reply {
    certificate: Certificate,
    bundle: TrustBundle,
    revocations: Option<proto::Revocations>,
    registration: Option<proto::Registration>,
    server_time_unix_ms: i64,
    /// When the call began. What came before it, connection and handshake, says nothing of the CA's clock.
    asked: Instant,
}

impl Reply {
    /// `asked` is when the call began.
    pub(super) fn new(response: RenewResponse, asked: Instant) -> Result<Self, AttemptError> {
        match (response.certificate, response.bundle) {
            (Some(certificate), Some(bundle)) => Ok(Self {
                certificate,
                bundle,
                revocations: response.revocations,
                registration: response.registration,
                server_time_unix_ms: response.server_time_unix_ms,
                asked,
            }),
            _ => Err(AttemptError::Incomplete),
        }
    }
}

impl From<IssueResponse> for RenewResponse {
    fn from(response: IssueResponse) -> Self {
        Self {
            certificate: response.certificate,
            bundle: response.bundle,
            server_time_unix_ms: response.server_time_unix_ms,
            revocations: response.revocations,
            registration: response.registration,
        }
    }
}

/// Until a new list has the present SVID on it.
async fn revoked(
    revocations: &mut watch::Receiver<Arc<Revocations>>,
    bundles: &Bundles,
    standing: &Standing,
) {
    while revocations.changed().await.is_ok() {
        let present = standing.valid_svid();
        if present.is_some_and(|svid| bundles.revokes(&svid)) {
            return;
        }
    }
    std::future::pending().await
}

/// What is no number, or negative, tells nothing.
fn retry_after(status: &Status) -> Option<Duration> {
    let told = status.metadata().get(RETRY_METADATA)?.to_str().ok()?;
    told.parse().ok().map(Duration::from_millis)
}

async fn wait_until_due(schedule: &Schedule) {
    while !schedule.is_due(now()) {
        sleep(schedule.wait(now()).min(LOOK)).await;
    }
}

/// Why an attempt brought no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttemptError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the workload cannot show who it is")]
    Prove(#[from] ProveError),
    #[error("the CA did not answer within {} s", ATTEMPT_TIMEOUT.as_secs())]
    Timeout,
    #[error("the CA refused ({code:?}): {sentence}")]
    Refused {
        code: Code,
        sentence: String,
        /// When the CA wants to be asked again.
        retry_after: Option<Duration>,
    },
    #[error("the call to the CA was cut off")]
    CutOff(#[source] Box<Status>),
    #[error("no leaf key could be made")]
    Key(#[source] rcgen::Error),
    #[error("the expired certificate's key is not one that the CA takes a proof of")]
    OtherKey,
    #[error("the expired certificate's key does not sign")]
    Sign(#[source] rustls::Error),
    #[error("the CA's reply lacks the certificate or the trust bundle")]
    Incomplete,
    #[error("the CA's reply cannot be used")]
    Offer(#[from] OfferError),
    #[error("the new certificate does not validate to the trust bundle")]
    Path(#[from] VerifyError),
    #[error("the new certificate is for {0}, which was not asked for")]
    OtherId(SpiffeId),
    #[error("the new certificate cannot be used")]
    Svid(#[from] SvidError),
}

impl AttemptError {
    /// A refusal of ours names its reason; any other status tells of the connection.
    pub(super) fn from_status(status: Status) -> Self {
        if status.metadata().contains_key(REASON_METADATA) {
            Self::Refused {
                code: status.code(),
                sentence: status.message().to_owned(),
                retry_after: retry_after(&status),
            }
        } else {
            Self::CutOff(Box::new(status))
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether nobody vouches for this workload now: it has nothing to show, or the CA does not take that, or cannot ask whom
    /// it has to. A CA that is only busy is not asked for the same in another way at once.
    fn leaves_nobody_to_vouch(&self) -> bool {
        match self {
            Self::Prove(_) => true,
            Self::Refused { code, .. } => matches!(
                code,
                Code::Unauthenticated | Code::PermissionDenied | Code::Unavailable
            ),
            _ => false,
        }
    }

    /// Whether the enrolment key might fare better than the present SVID.
    fn blames_svid(&self) -> bool {
        match self {
            Self::Refused { code, .. } => !matches!(
                code,
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded
            ),
            // With TLS 1.3 a client learns that its certificate was refused when it first reads.
            Self::CutOff(_) | Self::Connect(ConnectError::Tls(_) | ConnectError::Http(_)) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
