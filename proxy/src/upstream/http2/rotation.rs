//! Certificates end, connections go on: lanes are replaced before, while what is in flight on the old ones ends there. What
//! does not end, a WebSocket or a gRPC stream, has its lane proven again (see `proof.rs`).

use super::lane::{Lane, Standing};
use super::{Connected, Lanes, Remote};
use crate::proof::{Ends, Name, prove};
use crate::tls::LiveIdentity;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, SystemTime};
use tokio::time::timeout;

/// Between attempts to replace a lane that still works, and between two proofs of one.
const REPLACE_AGAIN: Duration = Duration::from_secs(1);

/// When a lane has to be replaced, from the certificates at its two ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Validity {
    /// From here on a replacement is made in the background.
    pub(crate) replace_at: SystemTime,
    /// From here on it takes no request.
    pub(super) retire_at: SystemTime,
}

impl Validity {
    pub(crate) fn new(now: SystemTime, not_after: SystemTime) -> Self {
        let left = not_after.duration_since(now).unwrap_or_default();
        // Well before the server side sends us away, and early enough for a second attempt.
        Self {
            replace_at: not_after - (left / 2).min(Duration::from_secs(60)),
            retire_at: not_after - (left / 4).min(Duration::from_secs(20)),
        }
    }
}

/// Keeps the lanes of one sidecar endpoint fresh: replaces them when the SVID is renewed and before a certificate ends.
/// Ends with the lanes themselves.
pub(crate) async fn keep_fresh(lanes: Weak<Lanes>, live: Arc<LiveIdentity>, limit: Duration) {
    let mut svid = live.watch();
    svid.mark_unchanged();
    loop {
        let Some(wait) = lanes.upgrade().map(|lanes| lanes.until_due()) else {
            return;
        };
        let is_renewed = tokio::select! {
            changed = svid.changed() => match changed {
                Ok(()) => true,
                Err(_) => return,
            },
            () = tokio::time::sleep(wait) => false,
        };
        let Some(lanes) = lanes.upgrade() else { return };
        if is_renewed {
            lanes.http1.clear();
        }
        if lanes.need_replacement(is_renewed) {
            match lanes.connect(limit).await {
                Ok(Connected::Lane(lane)) => *lanes.lock() = vec![lane],
                // Whatever is there now speaks HTTP/1.1, as the next request learns. What is in flight goes on.
                Ok(Connected::Http1(_)) => lanes.lock().clear(),
                Err(error) => {
                    tracing::warn!(%error, endpoint = %lanes.destination, "cannot replace a connection whose certificate is renewed or ends");
                    tokio::time::sleep(REPLACE_AGAIN).await;
                }
            }
        }
        lanes.prove_again(limit).await;
    }
}

impl Lanes {
    /// Whether there is a lane that was made with another SVID, or one whose time has come.
    fn need_replacement(&self, is_renewed: bool) -> bool {
        let now = SystemTime::now();
        let is_due = |lane: &Lane| {
            is_renewed
                || lane
                    .validity
                    .is_some_and(|validity| validity.replace_at <= now)
        };
        self.lock().iter().any(is_due)
    }

    /// How long until the first of the lanes has to be replaced or proven.
    fn until_due(&self) -> Duration {
        let now = SystemTime::now();
        let open = self.lock();
        let replacements = open
            .iter()
            .filter_map(|lane| {
                Some(
                    lane.validity?
                        .replace_at
                        .duration_since(now)
                        .unwrap_or_default(),
                )
            })
            .min();
        drop(open);
        let until_proof = |(_, standing): (Name, Arc<Standing>)| {
            let ends = standing.ends.as_ref().map(Ends::moment)?;
            let due = Validity::new(now, ends).replace_at;
            // A proof that was refused is not asked for at once again.
            Some(
                due.duration_since(now)
                    .unwrap_or_default()
                    .max(REPLACE_AGAIN),
            )
        };
        let proofs = self.outlived().into_iter().filter_map(until_proof).min();
        // A lane opened meanwhile cannot need it sooner: half of what is left of a certificate is more than this.
        let soonest = replacements.into_iter().chain(proofs).min();
        soonest.unwrap_or(REPLACE_AGAIN)
    }

    pub(super) fn note(&self, name: Name, lane: &Lane) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.retain(|(_, standing)| standing.strong_count() > 0);
        made.push((name, Arc::downgrade(&lane.standing)));
    }

    /// Lanes that take no request any more and still carry some.
    fn outlived(&self) -> Vec<(Name, Arc<Standing>)> {
        let open = self.lock();
        let is_open = |standing: &Arc<Standing>| {
            open.iter()
                .any(|lane| Arc::ptr_eq(&lane.standing, standing))
        };
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.iter()
            .filter_map(|(name, standing)| Some((*name, standing.upgrade()?)))
            .filter(|(_, standing)| {
                let is_used = standing.streams.load(Ordering::Relaxed) > 0;
                is_used && !standing.is_closed.load(Ordering::Relaxed) && !is_open(standing)
            })
            .collect()
    }

    /// Has them go on, now that both sides may have certificates of more life.
    async fn prove_again(&self, limit: Duration) {
        let Remote::Sidecar { prover, .. } = &self.remote else {
            return;
        };
        let outlived = self.outlived();
        if outlived.is_empty() {
            return;
        }
        let names: Vec<Name> = outlived.iter().map(|(name, _)| *name).collect();
        match timeout(limit, prove(prover, &self.destination, &names)).await {
            Ok(Ok(answers)) => {
                for ((_, standing), until) in outlived.iter().zip(answers) {
                    if let (Some(ends), Some(until)) = (&standing.ends, until) {
                        ends.put_off(until);
                    }
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, endpoint = %self.destination, "cannot prove again who we are for connections in use");
            }
            Err(_) => tracing::warn!(endpoint = %self.destination, "no answer to a proof"),
        }
    }
}
