//! rustls verifiers and the shared TLS parameters: TLS 1.3, X25519MLKEM768 first, ECDSA P-256 leaves, no resumption.
use crate::{SpiffeId, TrustBundle};
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use std::sync::Arc;

/// The present bundle, read at every handshake so that a changed bundle takes effect without a restart.
pub trait BundleSource: std::fmt::Debug + Send + Sync + 'static {
    fn bundle(&self) -> Arc<TrustBundle>;
}
impl BundleSource for Arc<TrustBundle> {
    fn bundle(&self) -> Arc<TrustBundle> {
        Self::clone(self)
    }
}

/// aws-lc-rs with X25519MLKEM768 first; TLS 1.3 suites only.
pub fn provider() -> Arc<CryptoProvider> {
    todo!()
}
/// Accepts a server whose chain verifies to the bundle and whose SPIFFE ID is exactly `expected`. The TLS server name is not looked at.
pub fn server_verifier(
    bundles: Arc<dyn BundleSource>,
    expected: SpiffeId,
) -> Arc<dyn ServerCertVerifier> {
    todo!("{bundles:?} {expected}")
}
/// Asks for a client certificate, which must verify to the bundle. With `required` false a client without one passes (the CA's Issue).
pub fn client_verifier(
    bundles: Arc<dyn BundleSource>,
    required: bool,
) -> Arc<dyn ClientCertVerifier> {
    todo!("{bundles:?} {required}")
}
