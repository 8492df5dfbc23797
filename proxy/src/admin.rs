//! The operator's side door.
//!
//! | call | where | answer |
//! |---|---|---|
//! | `GET /live` | loopback TCP | 200 while the process runs |
//! | `GET /ready` | loopback TCP | 200 or 503, with the state of identity, CA, policy and drain as JSON |
//! | `GET /metrics` | loopback TCP | OpenMetrics text |
//! | `GET /config` | loopback TCP | the configuration in effect as JSON, secrets left out |
//! | `GET /identity` | loopback TCP | id, serial, validity, chain and bundle sequence as JSON; never the key |
//! | `POST /rotate` | Unix socket | renews the identity now and says how it went |
//!
//! What changes state is on the Unix socket alone (mode 0600, peer uid checked): a web page, a container with the host's
//! network or a forgotten port-forward can reach a loopback port. On TCP the Host has to be a loopback name, against DNS
//! rebinding. It runs on a thread of its own, so that a busy worker and a scrape do not starve each other.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use policy::Policy;
use tokio::sync::watch;

use crate::drain::{Drain, Readiness};
use crate::metrics::Metrics;
use crate::{Config, IdentityFeed, config};

/// What the answers are made from.
#[derive(Debug)]
pub struct State {
    pub config: Arc<ArcSwap<Config>>,
    pub feed: IdentityFeed,
    pub policy: watch::Receiver<Arc<Policy>>,
    pub metrics: Arc<Metrics>,
    pub readiness: Readiness,
    pub drain: Drain,
}

/// The admin listeners, bound, not yet answering.
#[derive(Debug)]
pub struct Bound {}

/// Binds both listeners. A socket file left by a dead process is replaced.
///
/// # Errors
/// When an address is taken, or the socket cannot be made with mode 0600.
pub fn bind(config: &config::Admin) -> io::Result<Bound> {
    todo!()
}

impl Bound {
    /// The address of the TCP listener; with port 0 in the configuration, the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        todo!()
    }

    /// Starts answering, on a thread that ends when [`Running`] is dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn spawn(self, state: State) -> io::Result<Running> {
        todo!()
    }
}

/// The admin thread. It stops and is awaited on drop, so keep it until the workers have drained.
#[derive(Debug)]
pub struct Running {}
