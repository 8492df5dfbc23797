//! The CA's listener: TLS 1.3, one hyper HTTP/2 connection per client, the gRPC service on top.
//!
//! Everything that waits on a client has a deadline, and everything counted per client is bounded.

use crate::authority::Authority;
use crate::metrics::Metrics;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Limits of the listener. `Default` is what production runs with.
#[derive(Debug, Clone)]
pub struct Options {
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the head of an Issue or Renew call to its reply.
    pub request_timeout: Duration,
    /// Connections above this number are closed at once.
    pub max_connections: usize,
    /// A connection is told to go away at this age, or when its client certificate expires if that is sooner.
    pub max_connection_age: Duration,
    /// How long open calls may take to end after a shutdown, or after a connection was told to go away.
    pub drain: Duration,
    /// Refusals before authentication that one source address may cause per minute (with bursts of the same size).
    pub refusals_per_minute: u32,
}

/// A CA that is bound and not yet serving.
#[derive(Debug)]
pub struct Server {}

impl Server {
    /// Issues the server's own certificate and binds `listen`.
    ///
    /// # Errors
    /// When the address cannot be bound or the authority issues no certificate for itself.
    pub async fn bind(
        authority: Arc<Authority>,
        listen: SocketAddr,
        options: Options,
    ) -> Result<Self, ServeError> {
        unimplemented!("{authority:?} {listen} {options:?}")
    }

    /// The bound address (the port is known after a bind to port 0).
    pub fn address(&self) -> SocketAddr {
        unimplemented!()
    }

    pub fn metrics(&self) -> Arc<Metrics> {
        unimplemented!()
    }

    /// Serves until `shutdown` is ready, then lets open calls end for at most `Options::drain`.
    /// Owns every task it starts: none outlives the returned future.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        shutdown.await;
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("could not listen on {address}")]
    Bind {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
}
