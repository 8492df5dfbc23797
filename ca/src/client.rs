//! The sidecar's side of the CA: enrols, renews in the background, follows the trust bundle.
//!
//! Leaf keys are made in memory, one per certificate, and never touch disk. What rests on disk is the enrolment key,
//! which proves at the next start that this is the same workload. The CA is known by its SPIFFE ID alone: whoever
//! answers at the endpoint with another certificate is not talked to.

mod agent;
mod bundles;
mod connect;
mod enrolment_key;
mod prover;
mod recover;
mod registration;
mod revoked;
pub(crate) mod schedule;
mod standing;
mod tokens;

pub use bundles::newest;
pub use enrolment_key::EnrolmentKeyError;
pub use registration::Registration;
pub use tokens::Ask as TokenAsk;

use crate::token::ParseTokenError;
use agent::Agent;
use bundles::Bundles;
use connect::{Connector, Endpoint};
use identity::{CaTime, PortableSvid, Revocations, SpiffeId, Svid, TrustBundle};
use prover::Prover;
use standing::Standing;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

/// Requests for a renewal that may wait: they are answered together, by the next attempt.
const WAITING_RENEWALS: usize = 16;
/// Those who ask for tokens beyond this wait to be let in.
const WAITING_TOKENS: usize = 64;

/// What a sidecar needs to obtain its identity.
pub struct ClientConfig {
    /// `https://host:port` of the CA. It only says where to connect: the server is known by its SPIFFE ID.
    pub endpoint: String,
    /// The bundle to start with; its trust domain names the CA's identity.
    pub bundle: TrustBundle,
    /// The identity asked for.
    pub spiffe_id: SpiffeId,
    pub proof: Proof,
    /// The life to ask for; `None` takes the CA's default.
    pub ttl: Option<Duration>,
    /// What becomes of the private keys.
    pub keys: Keys,
}

/// What becomes of the private keys that certificates are issued for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// They are used here and cannot be read.
    Kept,
    /// They are for a workload that speaks TLS itself: [`Handles::portable`] has them.
    HandedOut,
}

/// How a workload proves who it is when it has no certificate.
pub enum Proof {
    /// By a key that a join token has registered.
    Enrolment {
        /// Where the key rests. Made with mode 0600 when missing, never overwritten.
        key_path: PathBuf,
        /// Needed until the key is registered, harmless afterwards. Forgotten at the first success.
        join_token: Option<Zeroizing<String>>,
    },
    /// By the projected service-account token in this file, read at each call. Renewals bring it, too.
    ServiceAccountToken(PathBuf),
}

/// What the background tasks publish. Dropping it ends them.
#[derive(Debug)]
pub struct Handles {
    /// The present identity: `None` until the first certificate. An expired one stays, as its users check expiry.
    pub svid: watch::Receiver<Option<Arc<Svid>>>,
    /// The same with its private key; always `None` with [`Keys::Kept`].
    pub portable: watch::Receiver<Option<Arc<PortableSvid>>>,
    /// Never goes back in sequence, never empty.
    pub bundle: watch::Receiver<Arc<TrustBundle>>,
    /// Never goes back in sequence. Known before the first certificate is.
    pub revocations: watch::Receiver<Arc<Revocations>>,
    /// Bundles of the trust domains that the CA federates with, each on its own.
    pub federated: watch::Receiver<Arc<Vec<Arc<TrustBundle>>>>,
    /// What the CA's entries say of the identity; the default until the first certificate.
    pub registration: watch::Receiver<Registration>,
    pub state: watch::Receiver<ClientState>,
    /// The time that the CA last told; `None` before its first answer.
    pub ca_time: watch::Receiver<Option<CaTime>>,
    /// Asks for a renewal at once. The answer is `Ok` when the new identity is in `svid`.
    pub renew: mpsc::Sender<oneshot::Sender<Result<(), String>>>,
    /// Asks for JWT-SVIDs.
    pub tokens: mpsc::Sender<TokenAsk>,
    _tasks: JoinSet<()>,
}

/// How the identity stands, for readiness and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientState {
    /// No certificate yet and no failure yet.
    Enrolling,
    /// The last attempt succeeded.
    Valid { renew_at: SystemTime },
    /// Attempts have failed since `since`; a certificate obtained earlier, if any, is still valid.
    Retrying { error: String, since: SystemTime },
    /// The certificate has expired and no new one was obtained.
    Expired { error: String, since: SystemTime },
}

/// Reads or makes the enrolment key and starts the background tasks on the current tokio runtime.
///
/// # Errors
/// When the configuration cannot work. An unreachable CA is no error: it is retried.
///
/// # Panics
/// Outside a tokio runtime.
pub fn start(config: ClientConfig) -> Result<Handles, StartError> {
    let endpoint = Endpoint::parse(&config.endpoint)
        .ok_or_else(|| StartError::Endpoint(config.endpoint.clone()))?;
    if !config.spiffe_id.is_member_of(config.bundle.trust_domain()) {
        return Err(StartError::ForeignId {
            id: config.spiffe_id,
            bundle: config.bundle.trust_domain().to_string(),
        });
    }
    let prover = Prover::open(config.proof)?;

    let bundles = Arc::new(Bundles::new(config.bundle));
    let connector = Connector::new(endpoint, &bundles);
    let standing = Arc::new(Standing::default());
    let (renew, asks) = mpsc::channel(WAITING_RENEWALS);
    let (svid, state) = standing.subscribe();
    let (bundle, revocations) = (bundles.subscribe(), bundles.revocations());
    let (federated, ca_time) = (bundles.subscribe_federated(), bundles.ca_time());
    let (hand_out, portable) = watch::channel(None);
    let (registered, registration) = watch::channel(Registration::default());
    let agent = Agent {
        connector: connector.clone(),
        bundles: Arc::clone(&bundles),
        standing,
        prover,
        id: config.spiffe_id,
        ttl: config.ttl,
        svid_refused: false,
        unanswered: None,
        unrecoverable: None,
        registered,
        hand_out: (config.keys == Keys::HandedOut).then_some(hand_out),
    };

    let (tokens, token_asks) = mpsc::channel(WAITING_TOKENS);
    let mut tasks = JoinSet::new();
    tasks.spawn(tokens::answer(
        connector.clone(),
        Arc::clone(&bundles),
        svid.clone(),
        token_asks,
    ));
    tasks.spawn(agent.run(asks));
    tasks.spawn(bundles::follow(connector, bundles, svid.clone()));
    Ok(Handles {
        svid,
        portable,
        bundle,
        revocations,
        federated,
        registration,
        state,
        ca_time,
        renew,
        tokens,
        _tasks: tasks,
    })
}

/// Why a client could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("expected a CA endpoint such as https://ca.example:8443, found {0:?}")]
    Endpoint(String),
    #[error("expected an identity in the trust domain of the bundle, {bundle}, found {id}")]
    ForeignId { id: SpiffeId, bundle: String },
    #[error("the join token cannot be used")]
    Token(#[from] ParseTokenError),
    #[error("the enrolment key cannot be used")]
    EnrolmentKey(#[from] EnrolmentKeyError),
}

impl std::fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientConfig")
            .field("endpoint", &self.endpoint)
            .field("spiffe_id", &self.spiffe_id)
            .field("proof", &self.proof)
            .field("ttl", &self.ttl)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Enrolment { key_path, .. } => f
                .debug_struct("Enrolment")
                .field("key_path", key_path)
                .finish_non_exhaustive(),
            Self::ServiceAccountToken(path) => {
                f.debug_tuple("ServiceAccountToken").field(path).finish()
            }
        }
    }
}
