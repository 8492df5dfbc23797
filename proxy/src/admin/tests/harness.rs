//! An admin side on free ports, and whoever asks it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{Svid, TrustBundle, TrustDomain};
use policy::yaml::{self, Problems};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::admin::{PolicyStatus, Running, State, bind};
use crate::discovery::Discovery;
use crate::drain::{Drain, Readiness};
use crate::handover::{Handover, Inherited};
use crate::metrics::Metrics;
use crate::{Config, IdentityFeed, IdentityState};

pub(super) const ID: &str = "spiffe://demo.test/ns/shop/sa/orders";

/// An admin listener on free ports and the other ends of what feeds it.
pub(super) struct Harness {
    pub(super) running: Option<Running>,
    pub(super) address: SocketAddr,
    pub(super) socket: PathBuf,
    pub(super) svid: watch::Sender<Option<Arc<Svid>>>,
    pub(super) identity: watch::Sender<IdentityState>,
    pub(super) policy: watch::Sender<PolicyStatus>,
    pub(super) renewals: mpsc::Receiver<oneshot::Sender<Result<(), String>>>,
    _bundle: watch::Sender<Arc<TrustBundle>>,
    pub(super) readiness: Readiness,
    pub(super) drain: Drain,
    pub(super) handover: Arc<Handover>,
    _folder: tempfile::TempDir,
}

impl Harness {
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        let text = format!(
            "admin: {{listen: '127.0.0.1:0', socket: '{}'}}\naccessLog: off\n",
            socket.display()
        );
        let problems = Problems::new();
        let node = yaml::parse_one("test.yaml", &text, &problems).unwrap();
        let config = yaml::map(&node, &problems, Config::read).unwrap();

        let root = Root::new();
        let (svid, svid_feed) = watch::channel(Some(root.svid(Duration::from_secs(3600))));
        let (identity, state_feed) = watch::channel(IdentityState::default());
        let (bundle, bundle_feed) = watch::channel(Arc::new(root.bundle()));
        let (renew, renewals) = mpsc::channel(1);
        let (policy, policy_feed) = watch::channel(PolicyStatus {
            generation: "4fa1".to_owned(),
            loaded_at: SystemTime::now(),
            last_error: None,
        });
        let (readiness, drain) = (Readiness::new(), Drain::new());
        let bound = bind(&config.admin, &mut Inherited::default()).unwrap();
        let (discovery, _) = Discovery::new(&config, Metrics::new()).unwrap();
        let address = bound.address();
        let handover = Handover::new(bound.listening().unwrap(), Arc::default(), false);
        let running = bound
            .spawn(State {
                config: Arc::new(crate::config::Live::new(config)),
                feed: IdentityFeed {
                    svid: svid_feed,
                    bundle: bundle_feed,
                    revocations: watch::channel(Arc::default()).1,
                    state: state_feed,
                    renew,
                },
                policy: policy_feed,
                discovery,
                overload: Arc::new(
                    crate::overload::Overload::new(Some(u64::MAX), Metrics::new()).unwrap(),
                ),
                metrics: Metrics::new(),
                readiness: readiness.clone(),
                interception: Readiness::new(),
                drain: drain.clone(),
                handover: Arc::clone(&handover),
            })
            .unwrap();
        Self {
            running: Some(running),
            address,
            socket,
            svid,
            identity,
            policy,
            renewals,
            _bundle: bundle,
            readiness,
            drain,
            handover,
            _folder: folder,
        }
    }

    pub(super) fn tcp(&self, head: &str) -> (u16, String) {
        exchange(TcpStream::connect(self.address).unwrap(), head)
    }

    pub(super) fn unix(&self, head: &str) -> (u16, String) {
        exchange(UnixStream::connect(&self.socket).unwrap(), head)
    }

    pub(super) fn ready(&self) -> (u16, Value) {
        let (status, body) = self.tcp("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
        (status, serde_json::from_str(&body).unwrap())
    }
}

/// Status and body.
pub(super) fn exchange(mut stream: impl Read + Write, head: &str) -> (u16, String) {
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

pub(super) struct Root {
    params: CertificateParams,
    key: KeyPair,
}

impl Root {
    pub(super) fn new() -> Self {
        let mut params = params("spiffe://demo.test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self {
            params,
            key: KeyPair::generate().unwrap(),
        }
    }

    fn bundle(&self) -> TrustBundle {
        let root = self.params.self_signed(&self.key).unwrap();
        TrustBundle::new(
            TrustDomain::parse("demo.test").unwrap(),
            vec![root.der().clone()],
            7,
        )
        .unwrap()
    }

    /// Valid from an hour ago for an hour and `left`.
    pub(super) fn svid(&self, left: Duration) -> Arc<Svid> {
        let mut params = params(ID);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_after = (SystemTime::now() + left).into();
        let key = KeyPair::generate().unwrap();
        let leaf = params
            .signed_by(&key, &Issuer::from_params(&self.params, &self.key))
            .unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Arc::new(Svid::new(vec![leaf.der().clone()], key).unwrap())
    }
}

fn params(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.not_before = (SystemTime::now() - Duration::from_secs(3600)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(3600)).into();
    params
}
