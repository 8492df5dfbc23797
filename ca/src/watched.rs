//! The present trust bundle, as handshakes read it.

use identity::TrustBundle;
use identity::tls::BundleSource;
use std::sync::Arc;
use tokio::sync::watch;

/// Reads the newest bundle at every handshake, so that a change takes effect without a restart.
#[derive(Debug)]
pub(crate) struct WatchedBundle(pub(crate) watch::Receiver<Arc<TrustBundle>>);

impl BundleSource for WatchedBundle {
    fn bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.0.borrow())
    }
}
