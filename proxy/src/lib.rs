//! The data plane: terminates and originates mTLS, and lets through what policy grants to the caller's identity.
//!
//! Read the modules in the order below; it is the order in which a request meets them. Inbound: `listener` accepts,
//! `tls` shakes hands and makes the `Peer`, `connection` speaks HTTP/1.1 or HTTP/2, and `inbound` is the one function per
//! request: normalise, decide, limit, forward, record. `outbound` is its mirror for the workload's own calls: route by
//! authority, then forward over a pooled HTTP/2 connection to exactly the identity that the service names.
//!
//! This crate cannot name the CA: identities and bundles arrive through [`IdentityFeed`], policies through [`PolicyFeed`].

// The configuration, checked before anything is bound; threads, each with listeners and pools of its own.
pub mod config;

pub mod files;

mod feed;

mod worker;

mod descriptors;

mod overload;

// The life of a request. Blank lines keep rustfmt from sorting it.
mod listener;

mod address;

mod workload;

mod redirect;

mod socket;

mod detect;

mod tls;

mod peer;

mod proof;

mod connection;

pub mod h1;

mod h2;

mod downstream;

mod body;

mod inbound;

mod normalize;

mod hops;

mod upgrade;

mod authorize;

mod limit;

mod forward;

mod relay;

mod progress;

mod upstream;

mod discovery;

mod outbound;

mod tcp;

// Public for its fuzz target: what the workload sends is read here.
#[doc(hidden)]
pub mod external;

mod error;

mod respond;

mod date;

mod exchange;

pub mod access_log;

// Beside it: what the operator sees and how it ends.
pub mod metrics;

mod plaintext;

pub mod admin;

pub mod drain;

pub mod handover;

#[doc(hidden)]
pub mod bench;

pub use address::{Address, Addresses};
pub use config::Config;
pub use descriptors::raise as raise_open_files;
pub use discovery::EndpointsError;
pub use feed::{Failing, IdentityFeed, IdentityState, PolicyFeed};
pub use workload::loopback_owner;

use access_log::AccessLog;
use discovery::{Discovery, Finder};
use drain::{Drain, Readiness, Unready};
use handover::{Handover, Inherited, RelieveError};
use metrics::Metrics;
use overload::Overload;
use proof::Held;
use redirect::OwnPorts;
use std::sync::Arc;
use std::time::Duration;
use worker::Admission;

/// How long the access log may take to write its last lines; a pipe that nobody reads must not keep the process alive.
const LOG_FLUSH: Duration = Duration::from_secs(2);

/// The data plane of one sidecar.
#[derive(Debug)]
pub struct Proxy;

impl Proxy {
    /// Binds every listener that `config` names; nothing is accepted before [`Bound::run`]. `readiness` is what `/ready`
    /// waits for beyond an identity.
    ///
    /// # Errors
    /// When an address cannot be bound or the access log cannot be opened; nothing stays bound then.
    pub fn build(
        config: Config,
        identity: IdentityFeed,
        policy: PolicyFeed,
        readiness: Readiness,
    ) -> Result<Bound, BuildError> {
        Self::build_on(None, config, identity, policy, readiness)
    }

    /// The same on the sockets of another process; with those, [`Bound::run_after`] has to follow. What of them `config` does not
    /// name is closed here.
    ///
    /// # Errors
    /// As above.
    pub fn build_on(
        inherited: Option<Inherited>,
        config: Config,
        identity: IdentityFeed,
        policy: PolicyFeed,
        readiness: Readiness,
    ) -> Result<Bound, BuildError> {
        descriptors::raise();
        let metrics = Metrics::new();
        let (discovery, finder) =
            Discovery::new(&config, Arc::clone(&metrics)).map_err(BuildError::Endpoints)?;
        let is_heir = inherited.is_some();
        let mut inherited = inherited.unwrap_or_default();
        let sockets = listener::bind(&config, &mut inherited)?;
        if !is_heir {
            sockets.listen().map_err(BuildError::Listen)?;
        }
        let admin = admin::bind(&config.admin, &mut inherited).map_err(BuildError::Admin)?;
        drop(inherited);
        let held = Arc::<Held>::default();
        let handover = Handover::of(&sockets, &admin, Arc::clone(&held), is_heir)
            .map_err(BuildError::Admin)?;
        let (access_log, log_writer) = AccessLog::open(&config.access_log, Arc::clone(&metrics))
            .map_err(BuildError::AccessLog)?;
        let overload = Overload::new(config.sizes.max_memory, Arc::clone(&metrics))
            .map_err(BuildError::Memory)?;
        let admission =
            Admission::new(&config, Arc::new(overload)).map_err(BuildError::Descriptors)?;
        Ok(Bound {
            addresses: Addresses {
                inbound: sockets.inbound.clone(),
                outbound: sockets.outbound.clone(),
                tcp: sockets.tcp.clone(),
                admin: admin.address(),
            },
            config: Arc::new(config::Live::new(config)),
            identity,
            policy,
            readiness,
            sockets,
            admin,
            handover,
            held,
            metrics,
            discovery,
            finder,
            admission,
            access_log,
            log_writer,
        })
    }
}

/// Every listener bound, nothing accepted yet.
#[derive(Debug)]
pub struct Bound {
    config: Arc<config::Live>,
    identity: IdentityFeed,
    policy: PolicyFeed,
    readiness: Readiness,
    sockets: listener::Sockets,
    admin: admin::Bound,
    handover: Arc<Handover>,
    held: Arc<Held>,
    metrics: Arc<Metrics>,
    discovery: Arc<Discovery>,
    finder: Finder,
    admission: Admission,
    access_log: AccessLog,
    log_writer: access_log::Writer,
    addresses: Addresses,
}

impl Bound {
    /// What was bound; with port 0 in the configuration, the port that the system chose.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Swaps the configuration while this runs.
    pub fn reload_handle(&self) -> ReloadHandle {
        ReloadHandle {
            config: Arc::clone(&self.config),
            discovery: Arc::clone(&self.discovery),
        }
    }

    /// What `/metrics` shows, for the parts of the process that live outside this crate.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// The log of requests, to be reopened after its file was moved away.
    pub fn access_log(&self) -> AccessLog {
        self.access_log.clone()
    }

    /// Serves until `drain` starts, then lets requests in flight end within the configured drain timeout and returns; within
    /// a longer one if another process serves in its place.
    ///
    /// # Errors
    /// When a thread cannot be started or ends before its time.
    pub async fn run(self, drain: Drain) -> Result<(), RunError> {
        let unready = self.readiness.wait_for("workers");
        self.serve(drain, unready).await
    }

    /// `unready` is dropped when all workers accept.
    async fn serve(self, drain: Drain, unready: Unready) -> Result<(), RunError> {
        let overload = Arc::clone(&self.admission.overload);
        let shared = Arc::new(worker::Shared::new(
            Arc::clone(&self.config),
            (&self.identity, &self.policy),
            Arc::clone(&self.metrics),
            self.admission,
            self.access_log,
            Arc::clone(&self.discovery),
            (drain.clone(), self.held),
        ));
        let own = OwnPorts::new(&self.config.load(), &self.sockets);
        // Apart from the other: that nothing is led here does not keep a new process from taking over.
        let interception = Readiness::new();
        // What led to the process before leads here: only that it does not any more has to be seen. Until that process lets go,
        // it is the one that some of the probes reach.
        let unproven = match self.handover.is_owner() {
            true => own.probe().unready(&interception),
            false => None,
        };
        // The admin listener outlives the workers, so that `/ready` tells of the drain to its end.
        let _admin = self
            .admin
            .spawn(admin::State {
                config: self.config,
                feed: self.identity,
                policy: self.policy.status,
                metrics: self.metrics,
                discovery: self.discovery,
                overload: Arc::clone(&overload),
                readiness: self.readiness,
                interception: interception.clone(),
                drain: drain.clone(),
                handover: Arc::clone(&self.handover),
            })
            .map_err(RunError::Spawn)?;
        let draining = async {
            drain.started().await;
            self.handover.close();
            let limit = || shared.config.load().timeouts.clone();
            drain.rest(limit().upgrade_drain).await;
            let cut = drain.run(limit().drain).await;
            tracing::info!(cut, "drained");
        };
        let serving = async {
            let served = worker::run(&shared, self.sockets, &own, unready).await;
            // Also when a worker was lost: half a sidecar is none.
            drain.cut();
            served
        };
        let (served, ()) = tokio::select! {
            ended = async { tokio::join!(serving, draining) } => ended,
            never = overload.watch() => match never {},
            never = own.probe().watch(&interception, unproven) => match never {},
            never = self.finder.run() => match never {},
        };
        if !self.log_writer.close(LOG_FLUSH) {
            tracing::warn!("the access log did not take its last lines in time");
        }
        served
    }
}

/// Swaps the configuration of a running proxy; see [`Bound::reload_handle`].
#[derive(Debug, Clone)]
pub struct ReloadHandle {
    config: Arc<config::Live>,
    discovery: Arc<Discovery>,
}

impl ReloadHandle {
    /// Makes `config` the one that new requests see; connections and limiter state stay as they are.
    ///
    /// # Errors
    /// When `config` changes what is bound at start, or names a file of endpoints that cannot be used; the present
    /// configuration goes on serving then.
    pub fn apply(&self, config: Config) -> Result<(), ReloadError> {
        let keys = self.config.load().restart_needed(&config);
        if !keys.is_empty() {
            return Err(ReloadError::Restart { keys });
        }
        self.discovery.check(&config)?;
        let config = Arc::new(config);
        self.config.replace(Arc::clone(&config));
        self.discovery.keep(&config);
        Ok(())
    }
}

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot listen on {address}")]
    Bind {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot listen on what is bound")]
    Listen(#[source] std::io::Error),
    #[error("cannot use the endpoints that services name")]
    Endpoints(#[source] EndpointsError),
    #[error("cannot open the admin listener")]
    Admin(#[source] std::io::Error),
    #[error("cannot open the access log")]
    AccessLog(#[source] std::io::Error),
    #[error("cannot watch the use of memory")]
    Memory(#[source] std::io::Error),
    #[error("cannot share out open files")]
    Descriptors(#[source] std::io::Error),
}

/// Why the proxy stopped before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot listen on what is bound")]
    Listen(#[source] std::io::Error),
    #[error("cannot start a thread")]
    Spawn(#[source] std::io::Error),
    #[error("a worker thread ended before the drain; its panic is on stderr")]
    WorkerLost,
    #[error("the process before this one goes on serving")]
    NotRelieved(#[from] RelieveError),
}

/// Why a configuration was not taken into use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    #[error("expected settings bound at start to stay as they are, found changes in {}", keys.join(", "))]
    Restart {
        /// Their key paths.
        keys: Vec<&'static str>,
    },
    #[error("cannot use the endpoints that services name")]
    Endpoints(#[from] EndpointsError),
}
