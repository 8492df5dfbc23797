//! A mesh in one process: a CA, sidecars with an app behind them, and callers.

mod app;
mod caller;
mod certs;
mod nameserver;
mod recorder;

pub(crate) use app::{App, raw_app, unix_app};
pub(crate) use caller::{Caller, Reply, head, tls};
pub(crate) use certs::{Authority, Life, Minted, leaf};
pub(crate) use nameserver::{Mood, Nameserver};
pub(crate) use recorder::{Evidence, Recorder};

use identity::{Revocations, SpiffeId, Svid};
use policy::{Options, Policy, Source};
use proxy::admin::PolicyStatus;
use proxy::config::{
    AccessLog, Admin, Dns, Endpoint, Endpoints, Inbound, Mtls, Outbound, OutboundListen, Protocol,
    Resilience, Service, Sizes, Timeouts,
};
use proxy::drain::{Drain, Readiness};
use proxy::{
    Address, Config, IdentityFeed, IdentityState, PolicyFeed, Proxy, ReloadHandle, config,
};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub(crate) const FRONTEND: &str = "spiffe://prod.example/ns/shop/sa/frontend";
pub(crate) const ORDERS: &str = "spiffe://prod.example/ns/shop/sa/orders";
pub(crate) const CART: &str = "spiffe://prod.example/ns/shop/sa/cart";

/// A running sidecar. Dropping it drains and forgets it.
pub(crate) struct Sidecar {
    pub(crate) inbound: SocketAddr,
    pub(crate) admin: SocketAddr,
    outbound: Option<Address>,
    pub(crate) tcp: Vec<Address>,
    pub(crate) svid: watch::Sender<Option<Arc<Svid>>>,
    pub(crate) revocations: watch::Sender<Arc<Revocations>>,
    pub(crate) policy: watch::Sender<Arc<Policy>>,
    pub(crate) reload: ReloadHandle,
    pub(crate) config: Config,
    pub(crate) drain: Drain,
    pub(crate) running: JoinHandle<()>,
    _keep: Box<dyn std::any::Any + Send + Sync>,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.drain.cut();
    }
}

impl Sidecar {
    pub(crate) fn outbound(&self) -> SocketAddr {
        match &self.outbound {
            Some(Address::Tcp(address)) => *address,
            other => panic!("expected an outbound listener on TCP, found {other:?}"),
        }
    }

    /// What `/metrics` says.
    pub(crate) async fn metrics(&self) -> String {
        self.tells("/metrics").await
    }

    /// What the admin side answers to a GET, head and body.
    pub(crate) async fn tells(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

/// A sidecar of `svid`'s identity for `app`, with `policy`; `change` has the last word on the configuration.
pub(crate) fn sidecar(
    authority: &Authority,
    svid: Svid,
    app: SocketAddr,
    documents: &str,
    change: impl FnOnce(&mut Config),
) -> Sidecar {
    let mut config = config(app);
    change(&mut config);
    let (svid, svid_watch) = watch::channel(Some(Arc::new(svid)));
    let (bundle, bundle_watch) = watch::channel(Arc::new(authority.bundle()));
    let (revocations, revocations_watch) = watch::channel(Arc::default());
    let (state, state_watch) = watch::channel(IdentityState::default());
    let (renew, renewals) = mpsc::channel(1);
    let (policy, policy_watch) = watch::channel(Arc::new(compile(documents)));
    let (status, status_watch) = watch::channel(PolicyStatus {
        generation: String::new(),
        loaded_at: SystemTime::now(),
        last_error: None,
    });
    let identity = IdentityFeed {
        svid: svid_watch,
        bundle: bundle_watch,
        revocations: revocations_watch,
        state: state_watch,
        renew,
    };
    let policies = PolicyFeed {
        policy: policy_watch,
        status: status_watch,
    };
    let bound = Proxy::build(config.clone(), identity, policies, Readiness::new()).unwrap();
    let addresses = bound.addresses().clone();
    let reload = bound.reload_handle();
    let drain = Drain::new();
    let running = tokio::spawn({
        let drain = drain.clone();
        async move { bound.run(drain).await.unwrap() }
    });
    Sidecar {
        inbound: addresses.inbound[0],
        admin: addresses.admin,
        outbound: addresses.outbound,
        tcp: addresses.tcp,
        svid,
        revocations,
        policy,
        reload,
        config,
        drain,
        running,
        _keep: Box::new((bundle, state, renewals, status)),
    }
}

fn config(app: SocketAddr) -> Config {
    let any = "127.0.0.1:0".parse().unwrap();
    Config {
        inbound: vec![Inbound {
            listen: any,
            app: endpoint(app).into(),
            protocol: Protocol::Http,
            mtls: Mtls::Strict,
            tcp_ports: Vec::new(),
        }],
        outbound: None,
        timeouts: Timeouts::default(),
        sizes: Sizes::default(),
        admin: Admin {
            listen: any,
            socket: None,
        },
        access_log: AccessLog::Off,
        workers: NonZeroUsize::MIN,
    }
}

pub(crate) fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint {
        host: address.ip().to_string(),
        port: address.port(),
    }
}

pub(crate) fn endpoints(addresses: impl IntoIterator<Item = SocketAddr>) -> Endpoints {
    Endpoints::Listed(addresses.into_iter().map(config::Source::Address).collect())
}

/// An outbound listener for this test's own processes.
pub(crate) fn outbound(services: Vec<Service>) -> Option<Outbound> {
    let uid = std::fs::metadata("/proc/self").unwrap().uid();
    Some(Outbound {
        listen: OutboundListen::Tcp("127.0.0.1:0".parse().unwrap()),
        uids: vec![uid],
        redirected: false,
        dns: Dns::default(),
        services,
        tcp: Vec::new(),
        external: Vec::new(),
    })
}

pub(crate) fn service(host: &str, at: SocketAddr, identity: &str) -> Service {
    Service {
        hosts: vec![host.to_owned()],
        endpoints: endpoints([at]),
        identity: SpiffeId::parse(identity).unwrap(),
        timeout: Duration::from_secs(10),
        resilience: Resilience::default(),
    }
}

pub(crate) fn compile(documents: &str) -> Policy {
    if documents.is_empty() {
        return Policy::deny_all();
    }
    let source = Source {
        name: "policy.yaml".to_owned(),
        text: documents.to_owned(),
    };
    policy::compile(&[source], &Options::default())
        .unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// A document of the shop about the orders service.
pub(crate) fn document(kind: &str, name: &str, spec: &str) -> String {
    let purpose = if kind == "HttpProfile" || kind == "Limit" {
        ""
    } else {
        "purpose: {id: p, owner: o}, "
    };
    format!(
        "---\napiVersion: tipstaff.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{to: [\"{ORDERS}\"], {purpose}{spec}}}\n"
    )
}

/// A grant for the front end that never ends.
pub(crate) fn grant(spec: &str) -> String {
    let spec =
        format!("from: [\"{FRONTEND}\"], validity: {{notAfter: never, because: test}}, {spec}");
    document("Grant", "front", &spec)
}

/// The front end may read and write everything.
pub(crate) fn grant_all() -> String {
    grant("allow: [{methods: [GET, POST], path: \"/**\"}]")
}
