//! Worker threads: each a current-thread runtime with listeners and pools of its own. Nothing on the request path wakes
//! another thread.

mod admission;

pub(crate) use admission::{Admission, Tunnel};

use crate::access_log::AccessLog;
use crate::config::{self, Config};
use crate::discovery::Discovery;
use crate::drain::{Drain, Unready};
use crate::external::{Came, External};
use crate::hops::{Hops, hops_of_unix};
use crate::inbound::Inbound;
use crate::listener::{Accept, OutboundSocket, Slot, Sockets, WorkerSockets, accept};
use crate::metrics::{Direction, Metrics};
use crate::outbound::Outbound;
use crate::proof::Held;
use crate::redirect::{self, Apps, Misled, OwnPorts};
use crate::socket::Socket;
use crate::tls::{Acceptors, LiveIdentity};
use crate::workload::{Stranger, Workload};
use crate::{IdentityFeed, PolicyFeed, RunError, tcp};
use policy::Policy;
use policy::limit::Limits;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Cells of the limiter store. One is some 100 bytes with its key: 65 536 callers and routes in 6 MiB.
const LIMITER_CELLS: usize = 65_536;
/// How often idle connections to the app are looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// How often the log tells of strangers at the outbound listener.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) config: Arc<config::Live>,
    pub(crate) policy: watch::Receiver<Arc<Policy>>,
    pub(crate) identity: Arc<LiveIdentity>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access_log: AccessLog,
    pub(crate) drain: Drain,
    /// Whether somebody reads what is gathered for the access log alone.
    pub(crate) logs_requests: bool,
    pub(crate) admission: Admission,
    /// Connections of callers whose end a proof may put off.
    pub(crate) held: Arc<Held>,
    pub(crate) discovery: Arc<Discovery>,
    start: Instant,
}

impl Shared {
    pub(crate) fn new(
        config: Arc<config::Live>,
        (feed, policy): (&IdentityFeed, &PolicyFeed),
        metrics: Arc<Metrics>,
        admission: Admission,
        access_log: AccessLog,
        discovery: Arc<Discovery>,
        (drain, held): (Drain, Arc<Held>),
    ) -> Self {
        Self {
            logs_requests: config.load().access_log != config::AccessLog::Off,
            config,
            policy: policy.policy.clone(),
            identity: LiveIdentity::new(feed),
            limits: Limits::new(LIMITER_CELLS),
            metrics,
            access_log,
            drain,
            admission,
            held,
            discovery,
            start: Instant::now(),
        }
    }

    /// The limiters' clock at a moment: monotonic, since this process began to serve.
    pub(crate) fn uptime(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.start)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Runs the workers until the drain has cut off what was left. `unready` is dropped when all of them accept.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    sockets: Sockets,
    own: &OwnPorts,
    unready: Unready,
) -> Result<(), RunError> {
    let unready = Arc::new(unready);
    let mut ends = JoinSet::new();
    for (number, sockets) in sockets.per_worker.into_iter().enumerate() {
        let (ended, end) = oneshot::channel();
        let (shared, own) = (Arc::clone(shared), own.clone());
        let unready = Arc::clone(&unready);
        let runtime = runtime().map_err(RunError::Spawn)?;
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                let served = runtime.block_on(serve(&shared, sockets, &own, unready));
                // The receiver is gone only when `run` was dropped: nobody is left to be told.
                let _ = ended.send(served);
            })
            .map_err(RunError::Spawn)?;
        ends.spawn(end);
    }
    drop(unready);
    while let Some(end) = ends.join_next().await {
        // The task only waits for the channel; either ends without a result when the thread panicked.
        end.map_err(|_| RunError::WorkerLost)?
            .map_err(|_| RunError::WorkerLost)?
            .map_err(RunError::Spawn)?;
    }
    Ok(())
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// One worker's life: accept until the drain starts, then wait until it cuts. Connections end with the runtime.
async fn serve(
    shared: &Arc<Shared>,
    sockets: WorkerSockets,
    own: &OwnPorts,
    unready: Arc<Unready>,
) -> io::Result<()> {
    let config = shared.config.load_full();
    let apps = serve_callers(shared, &config, sockets.inbound, own)?;
    let calls = match &config.outbound {
        Some(config) => Some(serve_workload(
            shared,
            config,
            (sockets.outbound, sockets.tcp),
            own,
        )?),
        None => None,
    };
    drop(unready);
    tokio::select! {
        () = sweep(shared, &apps, calls.as_deref()) => {}
        () = shared.drain.cut_off() => {}
    }
    Ok(())
}

/// Accepts callers until the drain starts. Answers with what is behind each listener.
fn serve_callers(
    shared: &Arc<Shared>,
    config: &Config,
    sockets: Vec<Vec<std::net::TcpListener>>,
    own: &OwnPorts,
) -> io::Result<Vec<Arc<Apps>>> {
    let acceptors = Acceptors::new(&shared.identity);
    let mut all_apps = Vec::new();
    for (listeners, inbound) in sockets.into_iter().zip(&config.inbound) {
        let apps = Arc::new(Apps::new(inbound, own, &shared.metrics));
        all_apps.push(Arc::clone(&apps));
        let inbound = Inbound::new(shared, &acceptors, inbound, apps);
        for listener in listeners {
            let listener = TcpListener::from_std(listener)?;
            let (accepting, inbound) = (Arc::clone(shared), Arc::clone(&inbound));
            tokio::spawn(async move {
                accept(
                    listener,
                    accepting.admission.connections(Direction::Inbound),
                    &accepting.admission.overload,
                    &accepting.drain,
                    |stream, slot| {
                        tokio::spawn(Arc::clone(&inbound).serve(stream, slot));
                    },
                )
                .await;
            });
        }
    }
    Ok(all_apps)
}

/// Accepts the workload's connections until the drain starts: for all services, and for each that is opaque.
fn serve_workload(
    shared: &Arc<Shared>,
    config: &config::Outbound,
    (http, opaque): (Vec<OutboundSocket>, Vec<Vec<OutboundSocket>>),
    own: &OwnPorts,
) -> io::Result<Arc<Outbound>> {
    let workload = Workload::new(config.uids.clone());
    let outbound = Outbound::new(shared, own);
    let calls = Arc::clone(&outbound);
    if config.redirected {
        let outbound = redirect::Outbound::new(shared, config, own.clone(), outbound);
        for socket in http {
            lend_redirected(shared, socket, &outbound)?;
        }
    } else {
        for socket in http {
            let outbound = Arc::clone(&outbound);
            lend(shared, socket, workload.clone(), move |stream, _, slot| {
                tokio::spawn(Arc::clone(&outbound).serve(stream, None, slot));
            })?;
        }
    }
    let listening = config.tcp.iter().filter(|service| service.listen.is_some());
    let mut opaque = opaque.into_iter();
    for (service, sockets) in listening.zip(opaque.by_ref()) {
        let service = tcp::Outbound::new(shared, service);
        for socket in sockets {
            let service = Arc::clone(&service);
            lend(
                shared,
                socket,
                workload.clone(),
                move |stream, hops, slot| {
                    tokio::spawn(Arc::clone(&service).serve(stream, hops, slot));
                },
            )?;
        }
    }
    let external = Arc::new(External::new(shared, own.clone()));
    for (place, sockets) in opaque.enumerate() {
        for socket in sockets {
            let external = Arc::clone(&external);
            lend(shared, socket, workload.clone(), move |stream, _, slot| {
                let came = Came::Listener(place);
                tokio::spawn(Arc::clone(&external).serve(came, stream, slot));
            })?;
        }
    }
    Ok(calls)
}

/// Lends this sidecar's identity to whoever is the workload, and says how far a connection has come. Ends with the drain.
fn lend(
    shared: &Arc<Shared>,
    socket: OutboundSocket,
    workload: Workload,
    serve: impl Fn(Box<dyn Socket>, Hops, Slot) + Send + Sync + 'static,
) -> io::Result<()> {
    let shared = Arc::clone(shared);
    match socket {
        OutboundSocket::Tcp(listener) => {
            let admit = move |stream: &TcpStream| admit_tcp(&workload, stream);
            let listener = TcpListener::from_std(listener)?;
            tokio::spawn(lend_to(shared, listener, admit, serve));
        }
        OutboundSocket::Unix(listener) => {
            let admit = move |stream: &UnixStream| {
                workload.admit_unix(stream)?;
                Ok(hops_of_unix(stream))
            };
            let listener = UnixListener::from_std(listener)?;
            tokio::spawn(lend_to(shared, listener, admit, serve));
        }
    }
    Ok(())
}

/// The same for connections that were going elsewhere.
fn lend_redirected(
    shared: &Arc<Shared>,
    socket: OutboundSocket,
    outbound: &Arc<redirect::Outbound>,
) -> io::Result<()> {
    let OutboundSocket::Tcp(listener) = socket else {
        return Ok(()); // No kernel redirects to a Unix socket, and no configuration says so.
    };
    let listener = TcpListener::from_std(listener)?;
    let (shared, gate) = (Arc::clone(shared), Arc::clone(outbound));
    let admit = move |stream: &TcpStream| gate.admit(stream);
    let outbound = Arc::clone(outbound);
    let serve = move |stream, destination, slot| {
        tokio::spawn(Arc::clone(&outbound).serve(stream, destination, slot));
    };
    tokio::spawn(lend_to(shared, listener, admit, serve));
    Ok(())
}

/// Serves whoever is admitted, with what that tells; all others get not even an answer.
async fn lend_to<L, T>(
    shared: Arc<Shared>,
    listener: L,
    admit: impl Fn(&L::Stream) -> Result<T, Stranger>,
    serve: impl Fn(Box<dyn Socket>, T, Slot),
) where
    L: Accept,
    L::Stream: Socket,
{
    let mut told: Option<Instant> = None;
    let serve = |stream: L::Stream, slot| {
        let stranger = match admit(&stream) {
            Ok(told) => return serve(Box::new(stream), told, slot),
            Err(Stranger::Misled(Misled::Probe)) => return,
            Err(stranger) => stranger,
        };
        let metrics = &shared.metrics;
        metrics.connection_refused(Direction::Outbound, stranger.reason());
        // Counted in full; a line each would let strangers fill the disk.
        if told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            told = Some(Instant::now());
            tracing::warn!(error = %stranger, "connection to the outbound listener refused");
        }
    };
    accept(
        listener,
        shared.admission.connections(Direction::Outbound),
        &shared.admission.overload,
        &shared.drain,
        serve,
    )
    .await;
}

fn admit_tcp(workload: &Workload, stream: &TcpStream) -> Result<Hops, Stranger> {
    let addresses = stream
        .peer_addr()
        .and_then(|peer| Ok((peer, stream.local_addr()?)));
    let (peer, local) = addresses.map_err(Stranger::Query)?;
    workload.admit_tcp(peer, local)
}

/// Closes pooled connections that the app, or a server outside, would soon close itself.
async fn sweep(shared: &Shared, apps: &[Arc<Apps>], calls: Option<&Outbound>) {
    let mut turn = tokio::time::interval(SWEEP);
    loop {
        turn.tick().await;
        let limit = shared.config.load().timeouts.app_idle;
        for app in apps {
            app.sweep(limit);
        }
        if let Some(calls) = calls {
            calls.sweep(limit);
        }
    }
}
