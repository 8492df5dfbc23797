//! Certificates end, connections go on: lanes are replaced before, while what is in flight on the old ones ends there. What
//! does not end, a WebSocket or a gRPC stream, has its lane proven again (see `proof.rs`).

use super::Lanes;
use super::connect::Connected;
use super::lane::Lane;
use crate::authorize::LOOK_AGAIN;
use crate::tls::LiveIdentity;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

/// Between attempts to replace a lane that still works.
const REPLACE_AGAIN: Duration = Duration::from_secs(1);

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

    /// How long until the first of the lanes has to be replaced.
    fn until_due(&self) -> Duration {
        let now = SystemTime::now();
        let left = |lane: &Lane| {
            let due = lane.validity?.replace_at;
            Some(due.duration_since(now).unwrap_or_default())
        };
        let soonest = self.lock().iter().filter_map(left).min();
        // A lane opened meanwhile cannot need it sooner: half of what is left of a certificate is more than this.
        // It may be sooner than it looks by a clock that is wrong now.
        soonest.unwrap_or(REPLACE_AGAIN).min(LOOK_AGAIN)
    }
}
