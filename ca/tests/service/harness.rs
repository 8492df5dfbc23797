//! A CA in a temporary directory on a free port, and a caller that can say anything to it.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use ca::Authority;
use ca::attest::Attestors;
use ca::client::{self, ClientConfig, Handles, Keys, Proof};
use ca::config::{InitOptions, KeyProtection, OpenOptions, TtlFloor};
use ca::ledger::Report;
use ca::metrics::Metrics;
use ca::proto::administration_client::AdministrationClient;
use ca::proto::certificate_authority_client::CertificateAuthorityClient;
use ca::proto::{IssueRequest, IssueResponse};
use ca::server::{Options, Server};
use ca::store::TokenGrant;
use ca::token::JoinToken;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::tls::{client_config, server_name};
use identity::{SpiffeId, Svid, TrustBundle, TrustDomain};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::body::Body;
use zeroize::Zeroizing;

pub(crate) const CART: &str = "spiffe://demo.test/ns/shop/sa/cart";

/// Longer than anything here takes, so that a hanging test ends.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// A CA that is served until it is stopped or dropped.
pub(crate) struct Ca {
    pub(crate) authority: Arc<Authority>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) address: SocketAddr,
    stop: DropGuard,
    serving: JoinHandle<()>,
    dir: TempDir,
}

impl Ca {
    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub(crate) async fn start_with(options: Options) -> Self {
        Self::start_as(options, |server| server).await
    }

    pub(crate) async fn start_believing(attestors: Attestors, options: Options) -> Self {
        Self::start_as(options, |server| server.believing(attestors)).await
    }

    /// A server that `set_up` has told more than its limits.
    pub(crate) async fn start_as(options: Options, set_up: impl FnOnce(Server) -> Server) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let trust_domain = TrustDomain::parse("demo.test").unwrap();
        let init = InitOptions::new(trust_domain, KeyProtection::InsecurePlaintext);
        ca::init(&dir.path().join("ca"), &init).unwrap();
        Self::serve(dir, "127.0.0.1:0".parse().unwrap(), options, set_up).await
    }

    /// One that issues tokens.
    pub(crate) async fn start_with_tokens() -> Self {
        let ca = Self::start().await.stop().await;
        let (listen, options) = (ca.address, Options::default());
        let tokens = Some(ca::jwt::Options::default());
        Self::serve_with(ca.dir, listen, options, |server| server, tokens).await
    }

    async fn serve(
        dir: TempDir,
        listen: SocketAddr,
        options: Options,
        set_up: impl FnOnce(Server) -> Server,
    ) -> Self {
        Self::serve_with(dir, listen, options, set_up, None).await
    }

    async fn serve_with(
        dir: TempDir,
        listen: SocketAddr,
        options: Options,
        set_up: impl FnOnce(Server) -> Server,
        tokens: Option<ca::jwt::Options>,
    ) -> Self {
        let open = OpenOptions {
            ttl_floor: TtlFloor::AllowShortTtlForTests,
            ..OpenOptions::default()
        };
        let authority = Arc::new(Authority::open(&dir.path().join("ca"), &open).unwrap());
        let server = Server::bind(Arc::clone(&authority), listen, options);
        let mut server = set_up(server.await.unwrap());
        if let Some(tokens) = tokens {
            server = server.issuing_tokens(tokens).await.unwrap();
        }
        let stop = CancellationToken::new();
        Self {
            authority,
            metrics: server.metrics(),
            address: server.address(),
            serving: tokio::spawn(server.run(stop.clone().cancelled_owned())),
            stop: stop.drop_guard(),
            dir,
        }
    }

    /// Ends the server; its directory stays.
    pub(crate) async fn stop(self) -> StoppedCa {
        drop(self.stop);
        self.serving.await.unwrap();
        StoppedCa {
            dir: self.dir,
            address: self.address,
        }
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.dir.path().join("ca")
    }

    pub(crate) fn bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.authority.bundle().borrow())
    }

    /// A join token for `id` that expires in an hour.
    pub(crate) async fn token(&self, id: &str) -> String {
        self.token_that_expires(id, SystemTime::now() + Duration::from_secs(3600))
            .await
    }

    pub(crate) async fn token_that_expires(&self, id: &str, expires_at: SystemTime) -> String {
        let token = JoinToken::generate();
        let grant = TokenGrant {
            spiffe_id: SpiffeId::parse(id).unwrap(),
            created_at: expires_at - Duration::from_secs(3600),
            expires_at,
            ttl: None,
        };
        self.authority
            .store()
            .create_token(&token, grant)
            .await
            .unwrap();
        token.reveal().to_string()
    }

    /// The audit chain as an operator would verify it.
    pub(crate) fn audit(&self) -> Report {
        let report = ca::ledger::verify(&self.directory()).unwrap();
        assert!(report.is_intact(), "{report:?}");
        report
    }

    /// Connects as a client that checks the CA as it should.
    pub(crate) async fn connect(&self, svid: Option<&Svid>) -> Calls {
        self.try_connect(svid).await.unwrap()
    }

    pub(crate) async fn try_connect(&self, svid: Option<&Svid>) -> std::io::Result<Calls> {
        let transport = self.transport(svid).await?;
        Ok(CertificateAuthorityClient::with_origin(transport, origin()))
    }

    /// The calls of an administrator, or of somebody who would be one.
    pub(crate) async fn administer(&self, svid: Option<&Svid>) -> AdministrationClient<Transport> {
        let transport = self.transport(svid).await.unwrap();
        AdministrationClient::with_origin(transport, origin())
    }

    /// An identity that a join token has brought.
    pub(crate) async fn identity(&self, id: &str) -> Svid {
        let workload = Workload::new();
        let request = workload.request(id, &self.token(id).await);
        let reply = self.connect(None).await.issue(request).await.unwrap();
        workload.svid(reply.into_inner())
    }

    /// A connection for calls that the generated client does not offer.
    pub(crate) async fn transport(&self, svid: Option<&Svid>) -> std::io::Result<Transport> {
        let bundle = self.bundle();
        let ca = SpiffeId::ca_server(bundle.trust_domain());
        let config = Arc::new(client_config(svid, Arc::new(bundle), ca, &[b"h2"]));
        let socket = TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        let stream = tokio_rustls::TlsConnector::from(config)
            .connect(server_name(), socket)
            .await?;
        let http = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (requests, driver) = http.map_err(std::io::Error::other)?;
        tokio::spawn(driver);
        Ok(Transport(requests))
    }

    /// What a sidecar for `id` would be configured with.
    pub(crate) fn client_config(
        &self,
        id: &str,
        token: Option<String>,
        key: &Path,
    ) -> ClientConfig {
        ClientConfig {
            endpoint: format!("https://{}", self.address),
            bundle: (*self.bundle()).clone(),
            spiffe_id: SpiffeId::parse(id).unwrap(),
            proof: Proof::Enrolment {
                key_path: key.to_owned(),
                join_token: token.map(Zeroizing::new),
            },
            ttl: None,
            keys: Keys::Kept,
        }
    }

    /// A client that has just enrolled.
    pub(crate) async fn enrolled(&self, id: &str, key: &Path) -> Handles {
        let token = self.token(id).await;
        let handles = client::start(self.client_config(id, Some(token), key)).unwrap();
        svid(&handles).await;
        handles
    }
}

/// A CA that is down and can come back at the same address.
pub(crate) struct StoppedCa {
    dir: TempDir,
    address: SocketAddr,
}

impl StoppedCa {
    pub(crate) fn directory(&self) -> PathBuf {
        self.dir.path().join("ca")
    }

    pub(crate) async fn start_again(self) -> Ca {
        Ca::serve(self.dir, self.address, Options::default(), |server| server).await
    }
}

/// The first identity of a client.
pub(crate) async fn svid(handles: &Handles) -> Arc<Svid> {
    let mut watched = handles.svid.clone();
    let obtained = within(watched.wait_for(Option::is_some)).await;
    obtained.unwrap().clone().unwrap()
}

/// Waits for what has to come, and fails when it does not.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("nothing happened for too long")
}

/// HTTP/2 wants an authority; nothing is decided by it.
pub(crate) fn origin() -> http::Uri {
    http::Uri::from_static("https://ca.invalid")
}

pub(crate) type Calls = CertificateAuthorityClient<Transport>;

#[derive(Clone)]
pub(crate) struct Transport(SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Transport {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A leaf key and the request made with it.
pub(crate) struct LeafKey {
    key: rcgen::KeyPair,
    pub(crate) csr: Vec<u8>,
}

impl LeafKey {
    pub(crate) fn new() -> Self {
        Self::of(&rcgen::PKCS_ECDSA_P256_SHA256)
    }

    pub(crate) fn of(algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let csr = rcgen::CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        Self {
            csr: csr.der().to_vec(),
            key,
        }
    }

    pub(crate) fn svid(&self, chain: Vec<Vec<u8>>) -> Svid {
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        Svid::new(chain, PrivateKeyDer::Pkcs8(self.key.serialize_der().into())).unwrap()
    }
}

/// A workload with an enrolment key, asking by hand.
pub(crate) struct Workload {
    enrolment: EcdsaKeyPair,
    pub(crate) leaf: LeafKey,
}

impl Workload {
    pub(crate) fn new() -> Self {
        Self {
            enrolment: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap(),
            leaf: LeafKey::new(),
        }
    }

    /// A request that lacks nothing.
    pub(crate) fn request(&self, id: &str, token: &str) -> IssueRequest {
        self.request_with(id, token, self.leaf.csr.clone())
    }

    /// The same with another CSR, for which the proof is made.
    pub(crate) fn request_with(&self, id: &str, token: &str, csr: Vec<u8>) -> IssueRequest {
        let spki = AsDer::as_der(self.enrolment.public_key()).unwrap();
        let statement = ca::attest::statement(&SpiffeId::parse(id).unwrap(), &csr);
        let proof = self
            .enrolment
            .sign(&SystemRandom::new(), &statement)
            .unwrap();
        IssueRequest {
            spiffe_id: id.to_owned(),
            csr,
            enrolment_key: spki.as_ref().to_vec(),
            enrolment_proof: proof.as_ref().to_vec(),
            join_token: token.to_owned(),
            ..IssueRequest::default()
        }
    }

    pub(crate) fn svid(&self, reply: IssueResponse) -> Svid {
        self.leaf.svid(reply.certificate.unwrap().chain)
    }
}
