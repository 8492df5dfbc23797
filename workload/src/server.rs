//! The listener: who may connect, and how many.
//!
//! Everything counted per user is bounded, and every wait on a caller that has not asked for anything has a deadline. What
//! happens on one connection is in `server/connection.rs`.

mod arriving;
mod authority;
mod connection;
mod places;

pub(crate) use places::Shared;

use crate::caller::{Digests, Peer};
use crate::holdings::Holdings;
use crate::sampler::Sampler;
use crate::socket::{self, BindError, Bound, Predecessor};
use places::Places;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Only the owner of the socket: whoever connects may get a private key.
pub const MODE: u32 = 0o600;
/// A workload holds a stream or two; half of these are for one user. About 40 KiB each.
pub const MAX_CONNECTIONS: usize = 2048;

/// How long accepting rests after an error such as too many open files, which a retry at once would repeat.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the file of the socket is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long calls may take to end after a shutdown. A stream is told to end, and ends at once.
const DRAIN: Duration = Duration::from_secs(2);

/// Where to serve, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The socket's path, absolute.
    pub socket: PathBuf,
    /// Its permissions, which decide who can connect at all.
    pub mode: u32,
    /// Who is listened to.
    pub admits: Admits,
    /// Open connections; more are closed at once. One user has half of them.
    pub max_connections: usize,
}

/// Whose processes are listened to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admits {
    /// Whoever the permissions of the socket let through: what they get is decided by what they are.
    Anyone,
    /// Processes of these users, or with one of these primary groups. Two empty lists admit nobody.
    Listed {
        /// Users.
        uids: Vec<u32>,
        /// Groups.
        gids: Vec<u32>,
    },
}

impl Admits {
    fn includes(&self, peer: &Peer) -> bool {
        match self {
            Self::Anyone => true,
            Self::Listed { uids, gids } => uids.contains(&peer.uid) || gids.contains(&peer.gid),
        }
    }
}

/// A Workload API that is bound and not yet serving.
#[derive(Debug)]
pub struct Server {
    bound: Bound,
    admits: Admits,
    places: Arc<Places>,
    service: Service,
}

/// What all connections share.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) holdings: watch::Receiver<Arc<Holdings>>,
    pub(crate) digests: Arc<Digests>,
    pub(crate) tasks: Tasks,
    /// For all lines that a caller can cause without being entitled to anything.
    pub(crate) lines: Arc<Sampler>,
}

impl Server {
    /// Binds the socket. What is handed out is read from `holdings` at each call, and again when it changes.
    ///
    /// # Errors
    /// When the socket cannot be where the configuration says; see [`BindError`].
    pub fn bind(
        config: Config,
        holdings: watch::Receiver<Arc<Holdings>>,
        predecessor: Predecessor,
    ) -> Result<Self, BindError> {
        Ok(Self {
            bound: socket::bind(&config.socket, config.mode, predecessor)?,
            admits: config.admits,
            places: Places::new(config.max_connections),
            service: Service {
                holdings,
                digests: Arc::default(),
                tasks: Tasks::default(),
                lines: Arc::default(),
            },
        })
    }

    /// Serves until `shutdown` is ready; then ends every stream and lets calls end for a moment.
    ///
    /// Owns every task it starts: all have ended when it returns, and are told to end when it is dropped.
    ///
    /// # Errors
    /// When the socket cannot be used.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> std::io::Result<()> {
        let Self {
            mut bound,
            admits,
            places,
            service,
        } = self;
        let tasks = service.tasks.clone();
        let _end = tasks.end.clone().drop_guard();
        let mut listener = listener(&bound)?;
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                () = accept(&listener, &admits, &places, &service) => {}
                restored = restored(&bound) => {
                    tracing::warn!("the socket of the Workload API was gone, and is there again");
                    listener = self::listener(&restored)?;
                    bound = restored;
                }
            }
        }
        drop((listener, bound));
        tasks.drain.cancel();
        tasks.tracker.close();
        let _ = tokio::time::timeout(DRAIN, tasks.tracker.wait()).await;
        tasks.end.cancel();
        tasks.tracker.wait().await;
        Ok(())
    }
}

fn listener(bound: &Bound) -> std::io::Result<UnixListener> {
    UnixListener::from_std(bound.listener.try_clone()?)
}

/// Hands each connection to a task of its own. Never returns.
async fn accept(listener: &UnixListener, admits: &Admits, places: &Arc<Places>, service: &Service) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the Workload API");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let peer = match Peer::of(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!(%error, "the kernel does not say who connected to the Workload API");
                continue;
            }
        };
        let Some(place) = places.take(peer.uid) else {
            if let Some(left_out) = service.lines.admit() {
                tracing::warn!(
                    peer.uid,
                    left_out,
                    "too many connections to the Workload API"
                );
            }
            continue;
        };
        let is_admitted = admits.includes(&peer);
        if !is_admitted && let Some(left_out) = service.lines.admit() {
            tracing::warn!(
                peer.uid,
                peer.gid,
                peer.pid,
                left_out,
                "the Workload API refuses a process"
            );
        }
        let connection = connection::serve(
            service.clone(),
            stream,
            (peer, place.shared.clone()),
            is_admitted,
        );
        service.tasks.spawn(async move {
            connection.await;
            drop(place);
        });
    }
}

/// Ready once the socket had to be bound again.
async fn restored(bound: &Bound) -> Bound {
    loop {
        tokio::time::sleep(LOOK).await;
        match bound.restore() {
            Some(Ok(restored)) => return restored,
            Some(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the socket of the Workload API is gone");
            }
            None => {}
        }
    }
}

/// The tasks of one server: a connection each, and one for each call on it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    /// Streams end, and connections are told to go away.
    pub(crate) drain: CancellationToken,
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
