//! A server in a temporary folder, and connections to it.

use http::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::{PortableSvid, SpiffeId, TrustBundle, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::metadata::{Ascii, MetadataValue};
use workload::proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use workload::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use workload::{Admits, Config, Entitled, FederatesWith, Holdings, Identity, Predecessor, Server};
use zeroize::Zeroizing;

pub(crate) const WEB: &str = "spiffe://domain.test/web";
pub(crate) const JOBS: &str = "spiffe://domain.test/jobs";
/// How long anything may take that should be quick.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A trust domain's authority.
pub(crate) struct Root {
    pub(crate) bundle: Arc<TrustBundle>,
    params: CertificateParams,
    key: KeyPair,
}

impl Root {
    pub(crate) fn new(trust_domain: &str, sequence: u64) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = around_now(time::Duration::DAY);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let der = params.self_signed(&key).unwrap().der().clone();
        let trust_domain = TrustDomain::parse(trust_domain).unwrap();
        Self {
            bundle: Arc::new(TrustBundle::new(trust_domain, vec![der], sequence).unwrap()),
            params,
            key,
        }
    }

    pub(crate) fn svid(&self, id: &str) -> Arc<PortableSvid> {
        self.svid_for(id, time::Duration::HOUR)
    }

    pub(crate) fn svid_for(&self, id: &str, life: time::Duration) -> Arc<PortableSvid> {
        let key = KeyPair::generate().unwrap();
        let mut params = around_now(life);
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let issuer = Issuer::from_params(&self.params, &self.key);
        let der = params.signed_by(&key, &issuer).unwrap().der().clone();
        let key = Zeroizing::new(key.serialize_der());
        Arc::new(PortableSvid::new(vec![der], key).unwrap())
    }
}

fn around_now(life: time::Duration) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = now - time::Duration::DAY;
    params.not_after = now + life;
    params
}

/// An identity for whoever the socket admits. Nobody answers when it asks for tokens.
pub(crate) fn identity(id: &str, svid: Option<Arc<PortableSvid>>) -> Identity {
    Identity {
        id: SpiffeId::parse(id).unwrap(),
        svid,
        hint: String::new(),
        tokens: tokio::sync::mpsc::channel(1).0,
        entitled: Entitled::Admitted,
        federates_with: FederatesWith::All,
    }
}

pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A server that runs.
pub(crate) struct Served {
    folder: TempDir,
    pub(crate) root: Root,
    holdings: watch::Sender<Arc<Holdings>>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<std::io::Result<()>>,
}

impl Served {
    /// With one identity, [`WEB`].
    pub(crate) fn start() -> Self {
        let root = Root::new("domain.test", 1);
        let web = identity(WEB, Some(root.svid(WEB)));
        Self::with(root, vec![web], own_config)
    }

    pub(crate) fn with(
        root: Root,
        identities: Vec<Identity>,
        config: impl FnOnce(PathBuf) -> Config,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (holdings, receiver) = watch::channel(Arc::new(Holdings {
            identities,
            own: Arc::clone(&root.bundle),
            federated: Vec::new(),
        }));
        let config = config(folder.path().join("socket"));
        let server = Server::bind(config, receiver, Predecessor::None).unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async move {
            let _ = stopped.await;
        }));
        Self {
            folder,
            root,
            holdings,
            stop: Some(stop),
            running,
        }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Holdings)) {
        self.holdings.send_modify(|present| {
            let mut next = Holdings::clone(present);
            change(&mut next);
            *present = Arc::new(next);
        });
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub(crate) async fn api(&self) -> SpiffeWorkloadApiClient<Calls> {
        SpiffeWorkloadApiClient::with_origin(connect(&self.socket()).await, origin())
    }

    pub(crate) async fn sds(&self) -> SecretDiscoveryServiceClient<Calls> {
        SecretDiscoveryServiceClient::with_origin(connect(&self.socket()).await, origin())
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        soon(self.running).await.unwrap().unwrap();
    }
}

/// For our own user.
pub(crate) fn own_config(socket: PathBuf) -> Config {
    Config {
        socket,
        mode: workload::MODE,
        admits: Admits::Listed {
            uids: vec![own_uid()],
            gids: Vec::new(),
        },
        max_connections: workload::MAX_CONNECTIONS,
    }
}

fn origin() -> Uri {
    Uri::from_static("http://localhost")
}

/// `future`, which has to be ready soon.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it takes too long")
}

/// A call with the metadata that the Workload API wants.
pub(crate) fn asked<T>(message: T) -> tonic::Request<T> {
    asked_with(message, &["true"])
}

pub(crate) fn asked_with<T>(message: T, values: &[&'static str]) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    for value in values {
        let value = MetadataValue::<Ascii>::from_static(value);
        request.metadata_mut().append("workload.spiffe.io", value);
    }
    request
}

pub(crate) async fn connect(socket: &Path) -> Calls {
    let stream = UnixStream::connect(socket).await.unwrap();
    let (requests, driver) = http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(driver);
    Calls(requests)
}

/// hyper's sender in the form that generated clients take.
#[derive(Debug, Clone)]
pub(crate) struct Calls(SendRequest<Body>);

impl Calls {
    pub(crate) async fn send(&mut self, request: http::Request<Body>) -> http::Response<Incoming> {
        soon(self.0.send_request(request)).await.unwrap()
    }

    /// Ready once the server has closed the connection.
    pub(crate) async fn closed(&self) {
        soon(async {
            while !self.0.is_closed() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// A body of which nothing ever comes.
struct Never;

impl hyper::body::Body for Never {
    type Data = hyper::body::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, tonic::Status>>> {
        Poll::Pending
    }
}

/// A call of `path` that has begun and never sends its message.
pub(crate) fn unfinished(path: &str) -> http::Request<Body> {
    http::Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("workload.spiffe.io", "true")
        .body(Body::new(Never))
        .unwrap()
}

impl tower_service::Service<http::Request<Body>> for Calls {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
