//! The CA's listener: TLS 1.3, HTTP/2 or HTTP/1.1, the gRPC service on top, and the same calls as JSON.
//!
//! Every wait on a client has a deadline and everything counted per client is bounded. What happens on one connection
//! is in `server/connection.rs`, what is not gRPC in `server/gateway.rs`; the server's own certificate is in `server/tls.rs`.

mod connection;
mod gateway;
mod handshakes;
mod heads;
mod options;
mod shares;
mod tls;

pub use options::Options;
pub use shares::{Share, Shares};

use crate::admission::{Admission, Source};
use crate::api::Api;
use crate::attest::Attestors;
use crate::authority::{Authority, IssueError};
use crate::entries::Entry;
use crate::federation::Federation;
use crate::jwt::{self, TokenError, Tokens};
use crate::listener;
use crate::metrics::{Metrics, Reason};
use crate::rotation;
use crate::watched::WatchedBundle;
use handshakes::Handshakes;
use identity::SpiffeId;
use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The largest message taken. An Issue request has about 600 bytes, and 10 KiB when all its parts are as long as can be.
pub(crate) const MAX_MESSAGE_BYTES: usize = 16 * 1024;
/// How long the accept loop rests after an error such as too many open files, which a retry at once would repeat.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A CA that is bound and not yet serving.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    service: Service,
    identity: tls::ServerCertificate,
    authority: Arc<Authority>,
    tokens: Option<Arc<Tokens>>,
    rotation: rotation::Options,
}

/// What every connection shares.
#[derive(Debug, Clone)]
struct Service {
    api: Api,
    tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    handshakes: Arc<Handshakes>,
    peers: Arc<WatchedBundle>,
    admission: Arc<Admission>,
    /// Of the bundle, by whoever has no certificate.
    reads: Arc<Admission>,
    identities: Arc<Shares>,
    certificates: Arc<Shares>,
    metrics: Arc<Metrics>,
    options: Arc<Options>,
    tasks: Tasks,
}

impl Server {
    /// Binds `listen` and issues the server's own certificate.
    ///
    /// # Errors
    /// When the address cannot be bound, or the authority issues no certificate for itself.
    pub async fn bind(
        authority: Arc<Authority>,
        listen: SocketAddr,
        options: Options,
    ) -> Result<Self, ServeError> {
        let bind = |source| ServeError::Bind {
            address: listen,
            source,
        };
        // Before anything is issued, as each certificate leaves a record: a server in a restart loop would add to them.
        let listener = listener::bind(listen).map_err(bind)?;
        let metrics = Arc::new(Metrics::default());
        let identity =
            tls::ServerCertificate::issue(Arc::clone(&authority), Arc::clone(&metrics)).await?;
        let server = Arc::clone(&identity.svid().borrow());
        heads::sign(&authority, &server).await;
        let now = Instant::now();
        Ok(Self {
            address: listener.local_addr().map_err(bind)?,
            listener,
            service: Service {
                tls: identity.subscribe(),
                handshakes: Arc::new(Handshakes::new(&options, now)),
                peers: identity.peers(),
                api: Api::new(
                    Arc::clone(&authority),
                    Arc::clone(&metrics),
                    options.limits(),
                ),
                admission: Arc::new(Admission::bounding_strangers(
                    options.refusals_per_minute,
                    now,
                )),
                reads: Arc::new(Admission::new(options.reads_per_minute_per_address, now)),
                identities: Shares::new(options.max_connections_per_identity),
                certificates: Shares::new(options.max_connections_per_certificate),
                metrics,
                options: Arc::new(options),
                tasks: Tasks::default(),
            },
            identity,
            authority,
            tokens: None,
            rotation: rotation::Options::default(),
        })
    }

    /// Believes these, too, about who a caller is; without them enrolment keys alone.
    #[must_use]
    pub fn believing(mut self, attestors: Attestors) -> Self {
        self.service.api = self.service.api.believing(attestors);
        self
    }

    /// Takes these entries, besides those of the store.
    #[must_use]
    pub fn with_entries(mut self, entries: Vec<Entry>) -> Self {
        self.service.api = self.service.api.with_entries(entries);
        self
    }

    /// Lets these change the entries of the store over the network; without them nobody.
    #[must_use]
    pub fn administered_by(mut self, administrators: BTreeSet<SpiffeId>) -> Self {
        self.service.api = self.service.api.administered_by(administrators);
        self
    }

    /// Issues tokens as well. Makes the key that signs them, and publishes it.
    ///
    /// # Errors
    /// When that key cannot be made or recorded.
    pub async fn issuing_tokens(mut self, options: jwt::Options) -> Result<Self, TokenError> {
        let tokens = Tokens::open(Arc::clone(&self.authority), options).await?;
        let tokens = Arc::new(tokens);
        self.service.api = self.service.api.issuing_tokens(Arc::clone(&tokens));
        self.tokens = Some(tokens);
        Ok(self)
    }

    /// Passes on the bundles of other trust domains.
    #[must_use]
    pub fn federating(mut self, federation: &Federation) -> Self {
        self.service.api = self.service.api.federating(federation.bundles());
        self
    }

    /// Replaces the CA's own certificates by these; without them by what is usual.
    #[must_use]
    pub fn rotating(mut self, options: rotation::Options) -> Self {
        self.rotation = options;
        self
    }

    /// The bound address: where the port is known after a bind to port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The counters, to be rendered wherever metrics are served.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.service.metrics)
    }

    /// Serves until `shutdown` is ready, then lets open calls end for at most [`Options::drain`].
    ///
    /// Owns every task it starts: all have ended when it returns, and are told to end when it is dropped.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let tasks = self.service.tasks.clone();
        let _end = tasks.end.clone().drop_guard();
        let every = self.service.options.ledger_head_interval;
        let server = self.identity.svid();
        tracing::info!(address = %self.address, "CA is serving");
        tokio::select! {
            () = shutdown => {}
            () = accept(&self.listener, &self.service) => {}
            () = self.identity.renew() => {}
            () = self.authority.follow() => {}
            () = heads::keep(&self.authority, server, every) => {}
            () = keep(self.tokens.as_deref()) => {}
            () = rotation::keep(&self.authority, &self.rotation, &self.service.metrics) => {}
        }
        drop(self.listener);
        tasks.drain.cancel();
        tasks.tracker.close();
        let _ = tokio::time::timeout(self.service.options.drain, tasks.tracker.wait()).await;
        tasks.end.cancel();
        tasks.tracker.wait().await;
        tracing::info!("CA has stopped");
    }
}

/// Never returns.
async fn keep(tokens: Option<&Tokens>) {
    match tokens {
        Some(tokens) => tokens.keep().await,
        None => std::future::pending().await,
    }
}

/// Hands each accepted socket to a task of its own. Never returns.
async fn accept(listener: &TcpListener, service: &Service) {
    let most = service.options.max_connections;
    let places = Arc::new(Semaphore::new(most));
    let strangers = Shares::new(service.options.max_strangers_per_address);
    loop {
        let (socket, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let source = Source::address(address.ip());
        let share = strangers.admit_while(places.available_permits(), most, source);
        let place = Arc::clone(&places).try_acquire_owned();
        let (Ok(place), Some(stranger)) = (place, share) else {
            service.metrics.count_refusal(Reason::ConnectionLimit);
            continue;
        };
        let connection = connection::serve(service.clone(), socket, address.ip(), stranger);
        service.tasks.spawn(async move {
            connection.await;
            drop(place);
        });
    }
}

/// The tasks of one server: a connection each, and one for each call on it.
#[derive(Debug, Clone, Default)]
struct Tasks {
    tracker: TaskTracker,
    /// Connections are told to go away.
    drain: CancellationToken,
    /// Tasks are ended wherever they are.
    end: CancellationToken,
}

impl Tasks {
    fn spawn<F>(&self, task: F)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let end = self.end.clone();
        self.tracker
            .spawn(async move { end.run_until_cancelled(task).await.map(drop) });
    }
}

/// hyper's calls run as tasks of the server too, so that none outlives it.
impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

/// Why the CA cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}")]
    Bind {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot issue the CA's own server certificate")]
    Certificate(#[from] IssueError),
}
