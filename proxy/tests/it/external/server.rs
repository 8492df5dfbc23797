use crate::harness::{Authority, Life, Minted, ORDERS, leaf};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Answers each burst of bytes with the same response, which says what only sidecars say.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntipstaff-rejected: 1\r\ntipstaff-decision-id: x\r\ntipstaff-status: 200\r\n\r\nok";

/// What a server shows.
#[derive(Clone, Copy)]
pub(super) enum Certificate {
    Good(&'static str),
    Expired(&'static str),
    SelfSigned(&'static str),
    /// Of an authority that nobody knows.
    Strange(&'static str),
    /// Of one that has the name of the right one, and not its key.
    Forged(&'static str),
    /// Of the mesh, and of no name.
    Spiffe,
}

/// A server outside. It asks for a client's certificate and takes any.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    kept: Arc<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    octets: Mutex<Vec<u8>>,
    certificates: AtomicUsize,
    connections: AtomicUsize,
    open: AtomicUsize,
}

impl Server {
    pub(super) async fn start(authority: &Authority, certificate: Certificate) -> Self {
        let kept = Arc::<Kept>::default();
        let minted = mint(authority, certificate);
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(Arc::new(Curious(Arc::clone(&kept))))
            .with_single_cert(vec![minted.der], minted.key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self::listen(kept, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    /// Without TLS.
    pub(super) async fn plain() -> Self {
        Self::listen(Arc::default(), None).await
    }

    async fn listen(kept: Arc<Kept>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let keeping = Arc::clone(&kept);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, tls) = (Arc::clone(&keeping), tls.clone());
                tokio::spawn(async move {
                    kept.connections.fetch_add(1, Ordering::SeqCst);
                    kept.open.fetch_add(1, Ordering::SeqCst);
                    match tls {
                        None => answer(stream, &kept).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer(stream, &kept).await;
                            }
                        }
                    }
                    kept.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, kept }
    }

    /// What was said to it since the last call, without TLS around it.
    pub(super) fn seen(&self) -> String {
        let octets = std::mem::take(&mut *self.kept.octets.lock().unwrap());
        String::from_utf8_lossy(&octets).into_owned()
    }

    /// How many certificates clients have shown.
    pub(super) fn certificates(&self) -> usize {
        self.kept.certificates.load(Ordering::SeqCst)
    }

    pub(super) fn connections(&self) -> usize {
        self.kept.connections.load(Ordering::SeqCst)
    }

    pub(super) fn open(&self) -> usize {
        self.kept.open.load(Ordering::SeqCst)
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, kept: &Kept) {
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut piece).await {
        kept.octets.lock().unwrap().extend(&piece[..read]);
        // A head and its body may come apart; neither is longer than a moment.
        let whole = |kept: &Kept| {
            let octets = kept.octets.lock().unwrap();
            !octets.starts_with(b"POST")
                || octets.ends_with(b"a body")
                || octets.ends_with(b"0\r\n\r\n")
        };
        if whole(kept) && stream.write_all(RESPONSE).await.is_err() {
            return;
        }
    }
}

/// One that asks for nothing.
pub(super) fn server_config(minted: Minted) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![minted.der], minted.key)
        .unwrap()
}

pub(super) fn mint(authority: &Authority, certificate: Certificate) -> Minted {
    let named = |name: &str, life| {
        let mut params = leaf(ORDERS, life);
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        params
    };
    match certificate {
        Certificate::Good(name) => authority.sign(&named(name, Life::Hour)),
        Certificate::Expired(name) => {
            authority.sign(&named(name, Life::OverSince(Duration::from_secs(60))))
        }
        Certificate::SelfSigned(name) => {
            let mut params = named(name, Life::Hour);
            params.distinguished_name.push(DnType::CommonName, name);
            Minted::self_signed(&params)
        }
        Certificate::Strange(name) => {
            let mut issuer = CertificateParams::default();
            let key = KeyPair::generate().unwrap();
            issuer
                .distinguished_name
                .push(DnType::CommonName, "somebody");
            Minted::new(&named(name, Life::Hour), &issuer, &key)
        }
        Certificate::Forged(name) => Authority::new().sign(&named(name, Life::Hour)),
        Certificate::Spiffe => authority.sign(&leaf(ORDERS, Life::Hour)),
    }
}

/// Asks for a certificate, takes any, and counts them.
#[derive(Debug)]
struct Curious(Arc<Kept>);

impl ClientCertVerifier for Curious {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.certificates.fetch_add(1, Ordering::SeqCst);
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.verify_tls12_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
