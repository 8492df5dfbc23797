//! How what is handed out stands, for `/ready` and metrics.

use ca::client::ClientState;
use identity::SpiffeId;
use proxy::drain::{Readiness, Unready};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use workload::{Entitled, Holdings, Identity};

/// Clocks that jump are noticed this soon.
const LOOK: Duration = Duration::from_secs(5);

/// What callers get of one identity. In the order of how bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// A certificate that is valid now.
    Valid,
    /// None yet.
    Missing,
    /// None any more.
    Expired,
    /// A refusal.
    Revoked,
}

impl State {
    pub(crate) const ALL: [Self; 4] = [Self::Valid, Self::Missing, Self::Expired, Self::Revoked];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Missing => "missing",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }

    fn of(identity: &Identity, now: SystemTime) -> Self {
        match &identity.svid {
            Some(svid) if svid.leaf().not_after > now => Self::Valid,
            Some(_) => Self::Expired,
            // No configuration entitles nobody.
            None if identity.entitled == Entitled::Nobody => Self::Revoked,
            None => Self::Missing,
        }
    }

    /// What a sidecar waits for, as `/ready` says it.
    fn wanted(self) -> Option<&'static str> {
        match self {
            Self::Valid => None,
            Self::Missing => Some("the workload's certificate"),
            Self::Expired => Some("the workload's certificate, which has expired"),
            Self::Revoked => Some("the workload's certificate, which is revoked"),
        }
    }
}

/// One identity at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) id: SpiffeId,
    pub(crate) state: State,
    pub(crate) not_after: Option<SystemTime>,
    /// Since when renewals have failed, and why the last one did.
    pub(crate) failing: Option<(SystemTime, String)>,
}

/// All that one process hands out.
#[derive(Debug, Clone)]
pub(crate) struct Standings {
    pub(super) holdings: watch::Receiver<Arc<Holdings>>,
    /// In the order of the holdings.
    pub(super) clients: Vec<watch::Receiver<ClientState>>,
}

impl Standings {
    /// How each identity stands at `now`.
    pub(crate) fn at(&self, now: SystemTime) -> Vec<Standing> {
        let holdings = Arc::clone(&self.holdings.borrow());
        let pairs = holdings.identities.iter().zip(&self.clients);
        let standing = |(identity, client): (&Identity, &watch::Receiver<ClientState>)| Standing {
            id: identity.id.clone(),
            state: State::of(identity, now),
            not_after: identity.svid.as_ref().map(|svid| svid.leaf().not_after),
            failing: failing(&client.borrow()),
        };
        pairs.map(standing).collect()
    }

    /// Keeps a sidecar from being ready while its workload has no valid certificate. A CA that is away does not: the certificate
    /// that is there is as good as before. Ends when nothing is published any more.
    pub(crate) async fn hold_back(mut self, readiness: Readiness) {
        let mut held: Option<(State, Unready)> = None;
        loop {
            self.holdings.mark_unchanged();
            let now = SystemTime::now();
            let standings = self.at(now);
            let worst = standings.iter().map(|one| one.state).max();
            let worst = worst.unwrap_or(State::Valid);
            if held.as_ref().map_or(State::Valid, |(state, _)| *state) != worst {
                // The next is taken before the last is given back.
                held = worst.wanted().map(|what| (worst, readiness.wait_for(what)));
            }
            let ends = standings.iter().filter_map(|one| one.not_after);
            let left = ends.filter_map(|end| end.duration_since(now).ok()).min();
            tokio::select! {
                changed = self.holdings.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(left.map_or(LOOK, |left| left.min(LOOK))) => {}
            }
        }
    }
}

fn failing(state: &ClientState) -> Option<(SystemTime, String)> {
    match state {
        ClientState::Retrying { error, since } | ClientState::Expired { error, since } => {
            Some((*since, error.clone()))
        }
        ClientState::Enrolling | ClientState::Valid { .. } => None,
    }
}

#[cfg(test)]
mod tests;
