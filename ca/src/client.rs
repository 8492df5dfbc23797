//! The sidecar's side of the CA: enrols, renews in the background, follows the trust bundle.
//!
//! Leaf keys are made in memory, one per certificate, and never touch disk. What rests on disk is the enrolment key,
//! which proves at the next start that this is the same workload.

use identity::{SpiffeId, Svid, TrustBundle};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};
use zeroize::Zeroizing;

/// What a sidecar needs to obtain its identity.
pub struct ClientConfig {
    /// `https://host:port` of the CA. The host only says where to connect: the server is known by its SPIFFE ID.
    pub endpoint: String,
    /// The bundle to start with; its trust domain names the CA's identity.
    pub bundle: TrustBundle,
    /// The identity asked for.
    pub spiffe_id: SpiffeId,
    /// Needed until the enrolment key is registered, harmless afterwards.
    pub join_token: Option<Zeroizing<String>>,
    /// Where the enrolment key rests. Made with mode 0600 when missing, never overwritten.
    pub enrolment_key_path: PathBuf,
    /// The life to ask for; `None` takes the CA's default.
    pub ttl: Option<Duration>,
}

/// What the background tasks publish. Dropping it ends them.
#[derive(Debug)]
pub struct Handles {
    /// The present identity: `None` until the first certificate. An expired one stays here, as users check expiry anyway.
    pub svid: watch::Receiver<Option<Arc<Svid>>>,
    /// Never goes back in sequence, never empty.
    pub bundle: watch::Receiver<Arc<TrustBundle>>,
    pub state: watch::Receiver<ClientState>,
    /// Asks for a renewal at once. The answer is `Ok` when the new identity is in `svid`.
    pub renew: mpsc::Sender<oneshot::Sender<Result<(), String>>>,
}

/// How the identity stands, for readiness and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientState {
    /// No certificate yet and no failure yet.
    Enrolling,
    Valid {
        renew_at: SystemTime,
    },
    /// The last attempt failed; a certificate obtained earlier, if any, is still valid.
    Retrying {
        error: String,
        since: SystemTime,
    },
    /// The certificate has expired and attempts go on failing.
    Expired {
        error: String,
        since: SystemTime,
    },
}

/// Reads or makes the enrolment key and starts the background tasks on the current tokio runtime.
///
/// # Errors
/// When the endpoint cannot be read as one, the identity lies outside the bundle's trust domain, or the enrolment key
/// cannot be used. An unreachable CA is no error: it is retried.
pub fn start(config: ClientConfig) -> Result<Handles, StartError> {
    let _ = config;
    unimplemented!()
}

/// Why a client could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("expected a CA endpoint such as https://ca.example:8443, found {0:?}")]
    Endpoint(String),
}

impl std::fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientConfig")
            .field("endpoint", &self.endpoint)
            .field("spiffe_id", &self.spiffe_id)
            .field("enrolment_key_path", &self.enrolment_key_path)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}
