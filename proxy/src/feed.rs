//! What the rest of the process publishes, and the data plane reads.

use crate::admin::PolicyStatus;
use identity::{CaTime, ClockSkew, Revocations, Svid, TrustBundle};
use policy::Policy;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};

/// Where identities come from: whoever talks to the CA publishes, the data plane reads.
#[derive(Debug, Clone)]
pub struct IdentityFeed {
    /// The present SVID; `None` until the first arrives.
    pub svid: watch::Receiver<Option<Arc<Svid>>>,
    /// The present roots; read at every handshake.
    pub bundle: watch::Receiver<Arc<TrustBundle>>,
    /// What was revoked: read at every handshake, and again and again for connections that are open.
    pub revocations: watch::Receiver<Arc<Revocations>>,
    /// How the exchange with the CA goes; shown by the admin listener.
    pub state: watch::Receiver<IdentityState>,
    /// Asks for a renewal now; the reply says how it went.
    pub renew: mpsc::Sender<oneshot::Sender<Result<(), String>>>,
}

/// How the exchange with the CA goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdentityState {
    /// When the next renewal is due.
    pub renew_at: Option<SystemTime>,
    /// Why the last attempt failed and since when they fail; `None` while all is well.
    pub failing: Option<Failing>,
    /// The time that the CA last told; `None` before its first answer.
    pub ca_time: Option<CaTime>,
}

impl IdentityState {
    /// How far this machine's clock is from the CA's now, if the CA has ever answered.
    pub(crate) fn skew(&self) -> Option<ClockSkew> {
        let now = (Instant::now(), SystemTime::now());
        self.ca_time.map(|time| time.skew(now))
    }
}

/// Attempts to obtain or renew an identity have been failing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    pub since: SystemTime,
    pub error: String,
}

/// Where policies come from: whoever loads them publishes, the data plane reads.
#[derive(Debug, Clone)]
pub struct PolicyFeed {
    /// The policy in force; [`Policy::deny_all`] until the first good one.
    pub policy: watch::Receiver<Arc<Policy>>,
    /// How it came about; shown by the admin listener.
    pub status: watch::Receiver<PolicyStatus>,
}
