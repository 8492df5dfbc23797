//! The present trust bundle and what is revoked, as handshakes read them.

use identity::tls::BundleSource;
use identity::{
    CaTime, ClockSkew, Revocations, TrustBundle, Usage, VerifiedChain, VerifiedChains, VerifyError,
};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::sync::watch;

/// Reads the newest of both at every handshake, so that a change takes effect without a restart.
#[derive(Debug)]
pub(crate) struct WatchedBundle {
    bundle: watch::Receiver<Arc<TrustBundle>>,
    revocations: watch::Receiver<Arc<Revocations>>,
    verified: VerifiedChains,
    ca_time: Option<watch::Receiver<Option<CaTime>>>,
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
            ca_time: None,
        }
    }

    /// Names, where a certificate is refused for the time, how far the clock here is from the CA's.
    pub(crate) fn knowing(self, ca_time: watch::Receiver<Option<CaTime>>) -> Self {
        Self {
            ca_time: Some(ca_time),
            ..self
        }
    }

    fn skew(&self) -> Option<ClockSkew> {
        let ca_time = *self.ca_time.as_ref()?.borrow();
        ca_time.map(|time| time.skew((Instant::now(), SystemTime::now())))
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
        let verified = self
            .verified
            .verify(&self.bundle(), chain, usage, now)
            .map_err(|error| error.by_clock(self.skew()))?;
        self.revocations.borrow().check(&verified)?;
        Ok(verified)
    }
}
