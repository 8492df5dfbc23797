//! The CA's listener: TLS 1.3, HTTP/2 or HTTP/1.1, the gRPC service on top, and the same calls as JSON.
//!
//! Every wait on a client has a deadline and everything counted per client is bounded. What happens on one connection
//! is in `server/connection.rs`, what is not gRPC in `server/gateway.rs`; the server's own certificate is in `server/tls.rs`.

mod connection;
mod gateway;
mod heads;
mod shares;
mod tls;

pub use shares::{Share, Shares};

use crate::admission::{Admission, Source};
use crate::api::{Api, Limits};
use crate::attest::Attestors;
use crate::authority::{Authority, IssueError};
use crate::entries::Entry;
use crate::federation::Federation;
use crate::jwt::{self, TokenError, Tokens};
use crate::metrics::{Metrics, Reason};
use crate::rotation;
use crate::turns::Bounds;
use crate::watched::WatchedBundle;
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

/// Limits of the listener. `Default` is what production runs with.
#[derive(Debug, Clone)]
pub struct Options {
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the head of an Issue or Renew call to its reply.
    pub request_timeout: Duration,
    /// Connections above this number are closed at once.
    pub max_connections: usize,
    /// Of these, how many one address may hold without having shown a client certificate.
    pub max_strangers_per_address: usize,
    /// Of these, how many one identity may hold, all its replicas together.
    pub max_connections_per_identity: usize,
    /// Of these, how many one certificate may hold: a stolen key leaves the identity's other replicas theirs.
    pub max_connections_per_certificate: usize,
    /// A connection without a client certificate is told to go away at this age: it is good for an Issue call, and
    /// must not be a cheap way to hold a place.
    pub max_anonymous_age: Duration,
    /// Any other connection is told to go away at this age, so that clients spread over replicas again.
    pub max_connection_age: Duration,
    /// How long open calls may take to end after a shutdown, or after a connection was told to go away.
    pub drain: Duration,
    /// Refusals that one source may cause per minute, in one burst or spread.
    pub refusals_per_minute: u32,
    /// Certificates that one identity may get per minute, in one burst or spread, all its replicas together.
    pub certificates_per_minute: u32,
    /// Certificates that one address may get per minute, whatever identities it asks for.
    pub certificates_per_minute_per_address: u32,
    /// Certificates that are signed and recorded at once.
    pub issued_at_once: usize,
    /// Calls that wait for one of these places; beyond it those that are due last are turned away.
    pub waiting: usize,
    /// How long one waits, less than `request_timeout`.
    pub longest_wait: Duration,
    /// How often the ledger's head is signed and sent to sidecars, if the ledger has grown.
    pub ledger_head_interval: Duration,
}

impl Options {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            certificates_per_minute: self.certificates_per_minute,
            certificates_per_minute_per_address: self.certificates_per_minute_per_address,
            turns: Bounds {
                places: self.issued_at_once,
                waiting: self.waiting,
                wait: self.longest_wait,
            },
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            // A handshake takes milliseconds; ten seconds allow for a lost packet or two.
            handshake_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            // One WatchBundle connection per sidecar, at some 40 KiB each.
            max_connections: 8192,
            // Leaves a fleet behind one address room to enrol, and everybody else room when that address floods.
            max_strangers_per_address: 512,
            // A large fleet fits; a stolen key leaves everybody else half of the places.
            max_connections_per_identity: 4096,
            // A sidecar has two, and for a moment as many again when one of them is told to go away.
            max_connections_per_certificate: 32,
            max_anonymous_age: Duration::from_secs(30),
            // Less than the server's certificate has left when it is replaced, so that none outlives that either.
            max_connection_age: Duration::from_secs(15 * 60),
            drain: Duration::from_secs(5),
            // A misconfigured sidecar that retries every few seconds stays below; a flood does not.
            refusals_per_minute: 60,
            // A workload of some hundred replicas starts at once; a thief of its key fills no disk within a day.
            certificates_per_minute: 600,
            // A fleet of some thousands behind one address starts within a minute.
            certificates_per_minute_per_address: 6000,
            // As many as fill a group commit; what is in work is not put in order any more.
            issued_at_once: 128,
            // Two seconds' worth of a database that does five hundred a second.
            waiting: 1024,
            longest_wait: Duration::from_secs(4),
            // What is issued in between is lost unnoticed if the records are set back to before it. A head has 1.5 KiB, and
            // goes to every sidecar.
            ledger_head_interval: Duration::from_secs(30),
        }
    }
}

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
    peers: Arc<WatchedBundle>,
    admission: Arc<Admission>,
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
        let listener = TcpListener::bind(listen).await.map_err(bind)?;
        let metrics = Arc::new(Metrics::default());
        let identity =
            tls::ServerCertificate::issue(Arc::clone(&authority), Arc::clone(&metrics)).await?;
        let server = Arc::clone(&identity.svid().borrow());
        heads::sign(&authority, &server).await;
        Ok(Self {
            address: listener.local_addr().map_err(bind)?,
            listener,
            service: Service {
                tls: identity.subscribe(),
                peers: identity.peers(),
                api: Api::new(
                    Arc::clone(&authority),
                    Arc::clone(&metrics),
                    options.limits(),
                ),
                admission: Arc::new(Admission::new(options.refusals_per_minute, Instant::now())),
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
    let places = Arc::new(Semaphore::new(service.options.max_connections));
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
        let place = Arc::clone(&places).try_acquire_owned();
        let share = strangers.admit(Source::address(address.ip()));
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
