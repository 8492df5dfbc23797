//! Whether a CA that serves is ready: looks for faults now and then, and tells whoever watches. How many lineages wait for an
//! operator is looked up with them: it may be another replica that froze them.

use crate::authority::{Authority, Fault};
use crate::metrics::Metrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Between one look and the next. A look costs a signature and a record's worth of disk.
const LOOK: Duration = Duration::from_secs(5);

/// What is wrong; nothing of it is in the way when the CA is ready.
pub type Faults = Arc<[Fault]>;

/// Looks for faults of one authority.
#[derive(Debug)]
pub struct Monitor {
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
    faults: watch::Sender<Faults>,
}

impl Monitor {
    /// Looks once, so that nobody takes a CA for ready that is not.
    pub async fn start(authority: Arc<Authority>, metrics: Arc<Metrics>) -> Self {
        let monitor = Self {
            authority,
            metrics,
            faults: watch::Sender::new(Faults::default()),
        };
        monitor.look().await;
        monitor
    }

    pub fn subscribe(&self) -> watch::Receiver<Faults> {
        self.faults.subscribe()
    }

    /// Never returns.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.look().await;
        }
    }

    async fn look(&self) {
        let found: Faults = self.authority.faults().await.into();
        let frozen = tokio::time::timeout(LOOK, self.authority.store().frozen_lineages());
        // What cannot be read now is a fault above, and the last number stays.
        if let Ok(Ok(frozen)) = frozen.await {
            self.metrics.lineages_are_frozen(frozen);
        }
        let is_prepared = |fault: &Fault| matches!(fault, Fault::Prepared(_));
        self.metrics
            .prepared_is_unusable(found.iter().any(is_prepared));
        self.faults.send_if_modified(|present| {
            if *present == found {
                return false;
            }
            let is_new = |fault: &&Fault| fault.is_in_the_way() && !present.contains(fault);
            for fault in found.iter().filter(is_new) {
                tracing::error!(%fault, "the CA is not ready");
            }
            let is_ready = |faults: &Faults| !faults.iter().any(Fault::is_in_the_way);
            if is_ready(&found) && !is_ready(present) {
                tracing::info!("the CA is ready again");
            }
            *present = found;
            true
        });
    }
}
