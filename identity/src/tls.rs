//! rustls verifiers and the TLS parameters of the mesh: TLS 1.3, X25519MLKEM768 first, no resumption.
//!
//! Both verifiers ask [`BundleSource::verify`] and nothing else, with the handshake's own time. The name in the TLS
//! handshake is not looked at and not sent: identities are SPIFFE IDs. No session is ever resumed, because rustls
//! resumes without asking the verifier; a peer that lost its identity would come back in.
//!
//! After a handshake, [`BundleSource::verify`] or [`Leaf::parse`](crate::Leaf::parse) on its `peer_certificates()` tells who the peer is.

use crate::verify::{Usage, VerifyError, moment};
use crate::{SpiffeId, Svid, TrustBundle, VerifiedChain};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName, UnixTime};
use std::sync::Arc;
use std::time::SystemTime;

/// The present bundle, read at every handshake so that a changed bundle takes effect without a restart.
pub trait BundleSource: std::fmt::Debug + Send + Sync + 'static {
    /// The bundle to verify the next peer with.
    fn bundle(&self) -> Arc<TrustBundle>;

    /// [`TrustBundle::verify_chain`] with that bundle; whoever knows of revocations asks for them here, too. Whoever expects the same peers again asks
    /// [`VerifiedChains`](crate::VerifiedChains) instead, which answers alike.
    ///
    /// # Errors
    /// The first rule that the chain breaks.
    fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: SystemTime,
    ) -> Result<Arc<VerifiedChain>, VerifyError> {
        TrustBundle::verify_chain(&self.bundle(), chain, usage, now).map(Arc::new)
    }
}

impl BundleSource for Arc<TrustBundle> {
    fn bundle(&self) -> Arc<TrustBundle> {
        Self::clone(self)
    }
}

/// Application data in a record that we send, at most. With the 22 bytes that TLS 1.3 adds (RFC 8446 section 5.2) that is
/// 16 KiB: what is larger, the allocator does not hand out again while it is still in the cache.
pub const RECORD_BYTES: usize = 16 * 1024 - 22;
/// What rustls calls a fragment includes the five bytes of a record's head.
const FRAGMENT_BYTES: usize = RECORD_BYTES + 5;

/// Whether a client may come without a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// The handshake fails without one.
    Required,
    /// A client without one passes and is nobody (a first request to the CA); one that is sent must verify.
    Optional,
}

/// A client's side of a connection to exactly `expected`, under `svid` if there is one yet.
///
/// `alpn` is in order of preference. The configuration is for one SVID: make a new one when it is renewed.
pub fn client_config(
    svid: Option<&Svid>,
    bundles: Arc<dyn BundleSource>,
    expected: SpiffeId,
    alpn: &[&[u8]],
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3 suites and key exchanges")
        .dangerous()
        .with_custom_certificate_verifier(server_verifier(bundles, expected));
    let mut config = match svid {
        Some(svid) => builder.with_client_cert_resolver(Arc::new(single(svid))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.max_fragment_size = Some(FRAGMENT_BYTES);
    config
}

/// A server's side of connections under `svid`.
///
/// `alpn` is in order of preference. The configuration is for one SVID: make a new one when it is renewed, or use
/// [`server_config_resolving`].
pub fn server_config(
    svid: &Svid,
    bundles: Arc<dyn BundleSource>,
    client_auth: ClientAuth,
    alpn: &[&[u8]],
) -> ServerConfig {
    server_config_resolving(Arc::new(single(svid)), bundles, client_auth, alpn)
}

/// A server's side of connections under the SVID that `own` finds at each handshake.
pub fn server_config_resolving(
    own: Arc<dyn ResolvesServerCert>,
    bundles: Arc<dyn BundleSource>,
    client_auth: ClientAuth,
    alpn: &[&[u8]],
) -> ServerConfig {
    let required = client_auth == ClientAuth::Required;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3 suites and key exchanges")
        .with_client_cert_verifier(client_verifier(bundles, required))
        .with_cert_resolver(own);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.max_fragment_size = Some(FRAGMENT_BYTES);
    config
}

/// What to hand to a connector that wants a server name: one that is neither sent nor looked at.
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])))
}

/// The verifier's own words for a failed handshake; `None` when it failed for another reason.
///
/// rustls carries them inside [`CertificateError::Other`], for which the peer gets the alert `certificate_unknown`.
pub fn refusal(error: &Error) -> Option<&VerifyError> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref()
        }
        _ => None,
    }
}

/// aws-lc-rs with X25519MLKEM768 first; TLS 1.3 suites only, and first the one that RFC 8446 section 9.1 asks of everybody:
/// as strong as P-256 leaves, and its SHA-256 is in the processors where SHA-384 is not, which is a tenth of a handshake.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ],
        ..default_provider()
    })
}

/// Accepts a server whose chain verifies to the bundle and whose SPIFFE ID is exactly `expected`. The TLS server name is
/// not looked at.
pub fn server_verifier(
    bundles: Arc<dyn BundleSource>,
    expected: SpiffeId,
) -> Arc<dyn ServerCertVerifier> {
    Arc::new(SpiffeServerVerifier {
        bundles,
        expected,
        algorithms: provider().signature_verification_algorithms,
    })
}

/// Asks for a client certificate, which must verify to the bundle. With `required` false a client without one passes.
pub fn client_verifier(
    bundles: Arc<dyn BundleSource>,
    required: bool,
) -> Arc<dyn ClientCertVerifier> {
    Arc::new(SpiffeClientVerifier {
        bundles,
        required,
        algorithms: provider().signature_verification_algorithms,
    })
}

#[derive(Debug)]
struct SpiffeServerVerifier {
    bundles: Arc<dyn BundleSource>,
    expected: SpiffeId,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for SpiffeServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = whole_chain(end_entity, intermediates);
        let verified = self
            .bundles
            .verify(&chain, Usage::Server, moment(now))
            .map_err(refused)?;
        let leaf = &verified.leaf;
        if leaf.id != self.expected {
            return Err(refused(VerifyError::UnexpectedIdentity {
                expected: self.expected.clone(),
                found: leaf.id.clone(),
            }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_is_not_spoken())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURE_SCHEMES.to_vec()
    }
}

#[derive(Debug)]
struct SpiffeClientVerifier {
    bundles: Arc<dyn BundleSource>,
    required: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for SpiffeClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    /// No hints: they would tell every stranger the names of the authorities, and clients have one certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = whole_chain(end_entity, intermediates);
        self.bundles
            .verify(&chain, Usage::Client, moment(now))
            .map_err(refused)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_is_not_spoken())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURE_SCHEMES.to_vec()
    }
}

/// What a peer may sign a TLS 1.3 handshake with (RFC 8446 section 4.2.3), ours first.
const SIGNATURE_SCHEMES: [SignatureScheme; 6] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

fn single(svid: &Svid) -> SingleCertAndKey {
    SingleCertAndKey::from(svid.certified_key().clone())
}

fn whole_chain<'a>(
    end_entity: &'a CertificateDer<'_>,
    intermediates: &'a [CertificateDer<'_>],
) -> Vec<CertificateDer<'a>> {
    std::iter::once(end_entity)
        .chain(intermediates)
        .map(|cert| CertificateDer::from(cert.as_ref()))
        .collect()
}

fn tls12_is_not_spoken() -> Error {
    Error::General("expected a TLS 1.3 handshake, found TLS 1.2".into())
}

fn refused(error: VerifyError) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

#[cfg(test)]
mod tests;
