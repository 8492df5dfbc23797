//! Certificates end, connections go on: lanes are replaced before, while what is in flight on the old ones ends there.

use super::{Connected, Lanes};
use crate::tls::LiveIdentity;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

/// Between attempts to replace a lane that still works.
const REPLACE_AGAIN: Duration = Duration::from_secs(1);

/// When a lane has to be replaced, from the certificates at its two ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Validity {
    /// From here on a replacement is made in the background.
    replace_at: SystemTime,
    /// From here on it takes no request.
    pub(super) retire_at: SystemTime,
}

impl Validity {
    pub(super) fn new(now: SystemTime, not_after: SystemTime) -> Self {
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
        let Some(wait) = lanes.upgrade().map(|lanes| lanes.until_replacement()) else {
            return;
        };
        tokio::select! {
            changed = svid.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
        let Some(lanes) = lanes.upgrade() else { return };
        lanes.http1.clear();
        if lanes.lock().is_empty() {
            continue;
        }
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

impl Lanes {
    /// How long until the first of the lanes has to be replaced.
    fn until_replacement(&self) -> Duration {
        let open = self.lock();
        open.iter()
            .filter_map(|lane| lane.validity)
            .map(|validity| {
                validity
                    .replace_at
                    .duration_since(SystemTime::now())
                    .unwrap_or_default()
            })
            .min()
            // A lane opened meanwhile cannot need it sooner: half of what is left of a certificate is more than this.
            .unwrap_or(REPLACE_AGAIN)
    }
}
