//! WatchBundle: the trust bundle, what is revoked and where the ledger ends, at once and at every change; and what the caller
//! has of these.

use super::replies::{bundle_message, unix_ms};
use super::{Api, Peer, Refused};
use crate::authority::{Authority, Verdict};
use crate::federation::Federated;
use crate::metrics::Brought;
use crate::proto::{
    LedgerHead, Revocations, RevokedIdentity, WatchBundleRequest, WatchBundleResponse,
};
use crate::revoke::octets;
use futures_util::stream::{self, Stream};
use identity::{SpiffeId, TrustBundle, VerifiedChain};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tonic::{Status, Streaming};

/// Until what could not be written down is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// What the caller reads.
pub(crate) type Replies = Pin<Box<dyn Stream<Item = Result<WatchBundleResponse, Status>> + Send>>;

/// One stream.
struct Watch {
    authority: Arc<Authority>,
    peer: Peer,
    svid: Arc<VerifiedChain>,
    bundles: watch::Receiver<Arc<TrustBundle>>,
    revocations: watch::Receiver<Arc<identity::Revocations>>,
    federated: watch::Receiver<Federated>,
    heads: watch::Receiver<Option<Arc<LedgerHead>>>,
    /// `None` once the caller has nothing more to say.
    said: Option<Streaming<WatchBundleRequest>>,
    /// The sequence of the bundle that the caller last said it has, and the last that is written down.
    stated: u64,
    acknowledged: u64,
    /// The caller is revoked and has been told.
    is_over: bool,
}

impl Api {
    /// Ends with the connection, with the caller's certificate, or with the update that revokes the caller.
    pub(super) fn watch(
        &self,
        peer: Peer,
        svid: Arc<VerifiedChain>,
        said: Streaming<WatchBundleRequest>,
    ) -> Replies {
        let mut watch = Watch {
            bundles: self.authority.bundle(),
            revocations: self.authority.revocations(),
            federated: self.federated.clone(),
            heads: self.authority.ledger_head(),
            authority: Arc::clone(&self.authority),
            peer,
            svid,
            said: Some(said),
            stated: 0,
            acknowledged: 0,
            is_over: false,
        };
        watch.bundles.mark_changed();
        Box::pin(stream::unfold(watch, |mut watch| async {
            watch.next().await.map(|reply| (Ok(reply), watch))
        }))
    }

    /// What the caller remembers of the ledger. Nothing that it can make up changes anything: a CA that was set up anew is
    /// brought heads of the one before.
    pub(super) async fn hear_of(
        &self,
        head: &LedgerHead,
        caller: &SpiffeId,
    ) -> Result<(), Refused> {
        match self.authority.hear_of(head).await.map_err(Refused::Store)? {
            Verdict::Known => self.metrics.count_head(Brought::Known),
            Verdict::Lost(_) => self.metrics.count_head(Brought::Lost),
            Verdict::Unproven => {
                self.metrics.count_head(Brought::Unproven);
                tracing::warn!(peer.id = %caller, "a ledger head that this CA has not signed is ignored");
            }
        }
        Ok(())
    }
}

impl Watch {
    async fn next(&mut self) -> Option<WatchBundleResponse> {
        let leaving = self.peer.leaving.clone();
        loop {
            if self.is_over {
                return None;
            }
            self.acknowledge().await;
            tokio::select! {
                () = leaving.cancelled() => return None,
                changed = self.bundles.changed() => {
                    changed.ok()?;
                    return Some(self.reply());
                }
                changed = self.revocations.changed() => {
                    changed.ok()?;
                    return Some(self.reply());
                }
                // Without federation nobody publishes.
                Ok(()) = self.federated.changed() => return Some(self.reply()),
                Ok(()) = self.heads.changed() => return Some(self.head_alone()),
                said = hear(&mut self.said) => self.stated = said.bundle_sequence,
                () = tokio::time::sleep(AGAIN), if self.owes() => {}
            }
        }
    }

    fn reply(&mut self) -> WatchBundleResponse {
        let revocations = Arc::clone(&self.revocations.borrow_and_update());
        let federated = Arc::clone(&self.federated.borrow_and_update());
        let ledger_head = self.head();
        self.is_over = revocations.check(&self.svid).is_err();
        WatchBundleResponse {
            bundle: Some(bundle_message(&self.bundles.borrow_and_update())),
            server_time_unix_ms: unix_ms(SystemTime::now()),
            revocations: Some(revocations_message(&revocations)),
            federated: federated
                .iter()
                .map(|bundle| bundle_message(bundle))
                .collect(),
            ledger_head,
        }
    }

    fn head_alone(&mut self) -> WatchBundleResponse {
        WatchBundleResponse {
            server_time_unix_ms: unix_ms(SystemTime::now()),
            ledger_head: self.head(),
            ..WatchBundleResponse::default()
        }
    }

    fn head(&mut self) -> Option<LedgerHead> {
        self.heads.borrow_and_update().as_deref().cloned()
    }

    /// Whether what the caller has is to be written down. Not when it is later than the CA's own: that is of another replica that
    /// is ahead, and is looked at again with the next change, or of records that were set back since, and says nothing.
    fn owes(&self) -> bool {
        self.acknowledged < self.stated && self.stated <= self.bundles.borrow().sequence()
    }

    /// Writes down what the caller has: once for each bundle, whatever it says.
    async fn acknowledge(&mut self) {
        if !self.owes() {
            return;
        }
        let (serial, sequence) = (self.svid.leaf.serial.clone(), self.stated);
        match self.authority.store().acknowledge(serial, sequence).await {
            Ok(()) => self.acknowledged = sequence,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "which bundle a sidecar has is not recorded yet");
            }
        }
    }
}

/// The next message; waits for ever when there is none to come.
async fn hear(said: &mut Option<Streaming<WatchBundleRequest>>) -> WatchBundleRequest {
    if let Some(stream) = said
        && let Ok(Some(message)) = stream.message().await
    {
        return message;
    }
    *said = None;
    std::future::pending().await
}

/// The list as sidecars are sent it.
pub(super) fn revocations_message(list: &identity::Revocations) -> Revocations {
    let identities = list.identities.iter().map(|(id, again)| RevokedIdentity {
        spiffe_id: id.to_string(),
        not_before_unix: again.map_or(0, seconds),
    });
    Revocations {
        sequence: list.sequence,
        serials: list.serials.iter().filter_map(|hex| octets(hex)).collect(),
        identities: identities.collect(),
        authorities: list.signers.iter().map(|key| key.to_vec()).collect(),
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
