//! The operator's side door.
//!
//! | call | where | answer |
//! |---|---|---|
//! | `GET /live` | both | 200 while the process runs |
//! | `GET /ready` | both | 200 or 503, with the state of identity, CA, policy, memory and drain as JSON |
//! | `GET /metrics` | both | OpenMetrics text |
//! | `GET /config` | both | the configuration in effect as JSON |
//! | `GET /endpoints` | both | where the endpoints of each service are, since when that is known, and what cannot be found |
//! | `GET /identity` | both | id, serial, validity, chain and bundle sequence as JSON; never the key |
//! | `GET /plaintext` | both | who still comes in plain text to each permissive listener, and whether it could be strict, as JSON |
//! | `POST /rotate` | Unix socket | renews the identity now and says how it went |
//! | `POST /upgrade` | Unix socket | hands over the listening sockets to a new process: see `handover.rs` |
//!
//! What changes state is on the Unix socket alone (mode 0600, peer uid checked): a web page, a container with the host's
//! network or a forgotten port-forward can reach a loopback port. On TCP the Host has to be a loopback name, against DNS
//! rebinding. All of it runs on a thread of its own, so that busy workers and a scrape do not starve each other.
//!
//! `admin/server.rs` accepts and routes, `admin/answer.rs` makes the answers.

mod answer;
mod server;

pub(crate) use server::is_operator;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::SOCKET_MODE;
use crate::discovery::Discovery;
use crate::drain::{Drain, Readiness};
use crate::handover::{Handover, Inherited, Listening};
use crate::metrics::Metrics;
use crate::overload::Overload;
use crate::{IdentityFeed, config, listener};

/// What the answers are made from.
#[derive(Debug)]
pub struct State {
    pub config: Arc<config::Live>,
    pub feed: IdentityFeed,
    pub policy: watch::Receiver<PolicyStatus>,
    pub metrics: Arc<Metrics>,
    pub(crate) overload: Arc<Overload>,
    pub(crate) discovery: Arc<Discovery>,
    pub readiness: Readiness,
    /// Given while redirected connections are seen to arrive.
    pub interception: Readiness,
    pub drain: Drain,
    pub(crate) handover: Arc<Handover>,
}

/// How the policy in effect came about. Published by whoever loads policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyStatus {
    /// Fingerprint of the documents that serve.
    pub generation: String,
    pub loaded_at: SystemTime,
    /// Why the last reload was refused; None when the newest documents serve.
    pub last_error: Option<String>,
}

/// The admin listeners, bound, not yet answering.
#[derive(Debug)]
pub struct Bound {
    address: SocketAddr,
    tcp: TcpListener,
    unix: Option<(PathBuf, UnixListener)>,
}

/// Binds both listeners, unless they are `inherited`. A socket file that a dead process left is replaced.
///
/// # Errors
/// When an address is taken or the socket cannot be made.
pub fn bind(config: &config::Admin, inherited: &mut Inherited) -> io::Result<Bound> {
    let tcp = match inherited.tcp(config.listen).pop() {
        Some(listener) => listener,
        None => TcpListener::bind(config.listen)?,
    };
    tcp.set_nonblocking(true)?;
    let unix = match &config.socket {
        Some(path) => {
            let listener = listener::bind_unix(path, SOCKET_MODE, inherited)?;
            Some((path.clone(), listener))
        }
        None => None,
    };
    Ok(Bound {
        address: tcp.local_addr()?,
        tcp,
        unix,
    })
}

impl Bound {
    /// The address of the TCP listener; with port 0 in the configuration, the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Second handles of both, for a process to come; none without a socket on which it could ask.
    pub(crate) fn listening(&self) -> io::Result<Vec<Listening>> {
        let Some((_, unix)) = &self.unix else {
            return Ok(Vec::new());
        };
        Ok(vec![
            Listening::of_tcp(&self.tcp)?,
            Listening::of_unix(unix)?,
        ])
    }

    /// Starts answering, on a thread that ends when [`Running`] is dropped.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be started.
    pub fn spawn(self, state: State) -> io::Result<Running> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = CancellationToken::new();
        let socket = self.unix.as_ref().map(|(path, _)| path.clone());
        let (stopped, handover) = (stop.clone(), Arc::clone(&state.handover));
        let thread = thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || {
                let served = runtime
                    .block_on(stopped.run_until_cancelled(server::serve(self, Arc::new(state))));
                if let Some(Err(error)) = served {
                    tracing::error!(%error, "admin listener lost");
                }
            })?;
        Ok(Running {
            stop,
            thread: Some(thread),
            socket,
            handover,
        })
    }
}

/// The admin thread. It is stopped and awaited on drop: keep it until the workers have drained.
#[derive(Debug)]
pub struct Running {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    socket: Option<PathBuf>,
    handover: Arc<Handover>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the admin thread panicked; its panic is on stderr");
        }
        if let Some(socket) = &self.socket
            && self.handover.is_owner()
            && let Err(error) = std::fs::remove_file(socket)
        {
            tracing::warn!(%error, path = %socket.display(), "admin socket not removed");
        }
    }
}

#[cfg(test)]
mod tests;
