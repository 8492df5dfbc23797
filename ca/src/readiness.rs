//! Whether a CA that serves is ready: looks for faults now and then, and tells whoever watches.

use crate::authority::{Authority, Fault};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Between one look and the next. A look costs a signature and a record's worth of disk.
const LOOK: Duration = Duration::from_secs(5);

/// What keeps the CA from its work; nothing when it is ready.
pub type Faults = Arc<[Fault]>;

/// Looks for faults of one authority.
#[derive(Debug)]
pub struct Monitor {
    authority: Arc<Authority>,
    faults: watch::Sender<Faults>,
}

impl Monitor {
    /// Looks once, so that nobody takes a CA for ready that is not.
    pub async fn start(authority: Arc<Authority>) -> Self {
        let monitor = Self {
            authority,
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
        self.faults.send_if_modified(|present| {
            if *present == found {
                return false;
            }
            for fault in found.iter().filter(|fault| !present.contains(fault)) {
                tracing::error!(%fault, "the CA is not ready");
            }
            if found.is_empty() {
                tracing::info!("the CA is ready again");
            }
            *present = found;
            true
        });
    }
}
