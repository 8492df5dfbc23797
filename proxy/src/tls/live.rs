//! What handshakes go by: this sidecar's identity, and whom it trusts, as they are at that moment.

use crate::error::ConnectError;
use crate::{IdentityFeed, IdentityState};
use identity::tls::BundleSource;
use identity::{Revocations, Svid, TrustBundle, Usage, VerifiedChain, VerifiedChains, VerifyError};
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;

/// The present SVID and bundle, as rustls asks for them at each handshake.
pub(crate) struct LiveIdentity {
    svid: watch::Receiver<Option<Arc<Svid>>>,
    bundle: watch::Receiver<Arc<TrustBundle>>,
    revocations: watch::Receiver<Arc<Revocations>>,
    state: watch::Receiver<IdentityState>,
    /// Peers come again and again: for new connections, and with each of ours.
    verified: VerifiedChains,
}

impl LiveIdentity {
    pub(crate) fn new(feed: &IdentityFeed) -> Arc<Self> {
        Arc::new(Self {
            svid: feed.svid.clone(),
            bundle: feed.bundle.clone(),
            revocations: feed.revocations.clone(),
            state: feed.state.clone(),
            verified: VerifiedChains::default(),
        })
    }

    /// The present SVID, if it is there and has not expired.
    pub(crate) fn present(&self) -> Result<Arc<Svid>, ConnectError> {
        let svid = self.svid.borrow().clone().ok_or(ConnectError::NoIdentity)?;
        if svid.leaf().not_after <= SystemTime::now() {
            return Err(ConnectError::IdentityExpired);
        }
        Ok(svid)
    }

    /// Whether a chain that was verified has been revoked since.
    pub(crate) fn is_revoked(&self, chain: &VerifiedChain) -> bool {
        self.revocations.borrow().check(chain).is_err()
    }

    /// Resolves when the SVID is another than at the last call with this receiver.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Arc<Svid>>> {
        self.svid.clone()
    }
}

impl BundleSource for LiveIdentity {
    fn bundle(&self) -> Arc<TrustBundle> {
        self.bundle.borrow().clone()
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
            .map_err(|error| error.by_clock(self.state.borrow().skew()))?;
        self.revocations.borrow().check(&verified)?;
        Ok(verified)
    }
}

impl ResolvesServerCert for LiveIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.present().ok()?.certified_key()))
    }
}

impl std::fmt::Debug for LiveIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveIdentity").finish_non_exhaustive()
    }
}
