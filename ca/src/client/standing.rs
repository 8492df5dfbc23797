//! How the identity stands, as the rest of the process sees it: the SVID, and whether all is well.

use super::ClientState;
use super::agent::LOOK;
use super::schedule::Schedule;
use identity::Svid;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::sleep;

/// An SVID this close to its end is not used to renew: it could expire in the handshake.
const MARGIN: Duration = Duration::from_millis(500);

/// What the outside sees of the identity.
#[derive(Debug)]
pub(super) struct Standing {
    svid: watch::Sender<Option<Arc<Svid>>>,
    state: watch::Sender<ClientState>,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            svid: watch::Sender::new(None),
            state: watch::Sender::new(ClientState::Enrolling),
        }
    }
}

impl Standing {
    pub(super) fn subscribe(
        &self,
    ) -> (
        watch::Receiver<Option<Arc<Svid>>>,
        watch::Receiver<ClientState>,
    ) {
        (self.svid.subscribe(), self.state.subscribe())
    }

    pub(super) fn publish(&self, svid: Svid) {
        let leaf = svid.leaf();
        tracing::info!(spiffe_id = %leaf.id, serial = %leaf.serial, "new certificate");
        self.svid.send_replace(Some(Arc::new(svid)));
    }

    /// The present SVID, unless it ends about now.
    pub(super) fn valid_svid(&self) -> Option<Arc<Svid>> {
        let svid = self.svid.borrow().clone()?;
        (svid.leaf().not_after > SystemTime::now() + MARGIN).then_some(svid)
    }

    /// The present SVID, if it has ended.
    pub(super) fn expired_svid(&self) -> Option<Arc<Svid>> {
        let svid = self.svid.borrow().clone()?;
        (svid.leaf().not_after <= SystemTime::now()).then_some(svid)
    }

    pub(super) fn succeeded(&self, schedule: &Schedule) {
        self.state.send_replace(ClientState::Valid {
            renew_at: schedule.renew_at(),
        });
    }

    /// `since` stays at the first failure of a row.
    pub(super) fn failed(&self, error: &str) {
        self.state.send_modify(|state| {
            let first = SystemTime::now();
            let error = error.to_owned();
            *state = match state {
                ClientState::Expired { since, .. } => ClientState::Expired {
                    error,
                    since: *since,
                },
                ClientState::Retrying { since, .. } => ClientState::Retrying {
                    error,
                    since: *since,
                },
                _ => ClientState::Retrying {
                    error,
                    since: first,
                },
            };
        });
        self.note_expiry();
    }

    /// Runs `work`, and tells the outside should the certificate expire meanwhile.
    pub(super) async fn noting_expiry<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                output = &mut work => return output,
                () = sleep(self.until_expiry().min(LOOK)) => self.note_expiry(),
            }
        }
    }

    fn until_expiry(&self) -> Duration {
        let ends = self
            .svid
            .borrow()
            .as_ref()
            .map(|svid| svid.leaf().not_after);
        ends.and_then(|ends| ends.duration_since(SystemTime::now()).ok())
            .filter(|left| !left.is_zero())
            .unwrap_or(LOOK)
    }

    fn note_expiry(&self) {
        let expired = |svid: &Arc<Svid>| svid.leaf().not_after <= SystemTime::now();
        if !self.svid.borrow().as_ref().is_some_and(expired) {
            return;
        }
        self.state.send_if_modified(|state| {
            let error = match state {
                ClientState::Expired { .. } => return false,
                ClientState::Retrying { error, .. } => std::mem::take(error),
                _ => "no attempt to renew it has ended yet".to_owned(),
            };
            tracing::error!(error, "the certificate has expired");
            *state = ClientState::Expired {
                error,
                since: SystemTime::now(),
            };
            true
        });
    }
}
