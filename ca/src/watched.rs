//! The present trust bundle and what is revoked, as handshakes read them.

use identity::tls::BundleSource;
use identity::{Revocations, TrustBundle, Usage, VerifiedChain, VerifiedChains, VerifyError};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;

/// Reads the newest of both at every handshake, so that a change takes effect without a restart.
#[derive(Debug)]
pub(crate) struct WatchedBundle {
    bundle: watch::Receiver<Arc<TrustBundle>>,
    revocations: watch::Receiver<Arc<Revocations>>,
    verified: VerifiedChains,
}

impl WatchedBundle {
    pub(crate) fn new(
        bundle: watch::Receiver<Arc<TrustBundle>>,
        revocations: watch::Receiver<Arc<Revocations>>,
    ) -> Self {
        Self {
            bundle,
            revocations,
            verified: VerifiedChains::default(),
        }
    }
}

impl BundleSource for WatchedBundle {
    fn bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.bundle.borrow())
    }

    fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: SystemTime,
    ) -> Result<Arc<VerifiedChain>, VerifyError> {
        let verified = self.verified.verify(&self.bundle(), chain, usage, now)?;
        self.revocations.borrow().check(&verified)?;
        Ok(verified)
    }
}
