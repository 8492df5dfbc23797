//! Signs where the ledger ends, now and then, for the sidecars to remember.

use crate::authority::Authority;
use identity::Svid;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Never returns.
pub(super) async fn keep(
    authority: &Authority,
    server: watch::Receiver<Arc<Svid>>,
    every: Duration,
) {
    loop {
        tokio::time::sleep(every).await;
        let present = Arc::clone(&server.borrow());
        sign(authority, &present).await;
    }
}

/// What fails is tried again with the next.
pub(super) async fn sign(authority: &Authority, server: &Svid) {
    if let Err(error) = authority.publish_head(server).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "where the ledger ends is not signed");
    }
}
