//! The way out of the mesh for what is not HTTP: to a server that the configuration names by host or address
//! (`outbound.external`). HTTP goes by `outbound.rs`, with `Server` from here.
//!
//! With `tls: passthrough` the name in the TLS handshake says where a connection goes, and we look that name up
//! ourselves (`discovery.rs`): where the workload meant to send it does not count. By address, nothing is read.

pub mod hello;

mod server;
mod way;

pub(crate) use server::Server;
pub(crate) use way::Came;

use crate::authorize::DecisionId;
use crate::config::external::Tls;
use crate::config::{Config, Endpoint};
use crate::error::{ConnectError, Failure};
use crate::exchange::{Exchange, Origin};
use crate::listener::Slot;
use crate::metrics::Direction;
use crate::normalize::Hosts;
use crate::redirect::OwnPorts;
use crate::socket::Socket;
use crate::tcp::{WITHDRAWN, carry, head_to};
use crate::tls::Wanted;
use crate::upstream::connect_outside;
use crate::upstream::reach::reach;
use crate::worker::Shared;
use bytes::BytesMut;
use hello::{Hello, HelloError};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use way::Way;

/// A fatal alert, `unrecognized_name` (RFC 6066 section 3): clients show it.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
/// It fits into any socket that was just opened.
const ALERT: Duration = Duration::from_secs(1);

/// What one worker carries out of the mesh unread.
#[derive(Debug)]
pub(crate) struct External {
    origin: Origin,
    own: OwnPorts,
    next: AtomicUsize,
}

impl External {
    pub(crate) fn new(shared: &Arc<Shared>, own: OwnPorts) -> Self {
        Self {
            origin: Origin {
                shared: Arc::clone(shared),
                direction: Direction::Outbound,
                who: None,
                hosts: Hosts::default(),
            },
            own,
            next: AtomicUsize::new(0),
        }
    }

    /// A connection to the listener of an entry, from accept to end. Whether it is the workload's was checked before.
    pub(crate) async fn serve(self: Arc<Self>, came: Came, stream: Box<dyn Socket>, slot: Slot) {
        let _slot = slot;
        let shared = &self.origin.shared;
        let _open = shared.metrics.connection(Direction::Outbound);
        let config = shared.config.load_full();
        match came.is_by_server_name(&config) {
            true => {
                self.by_server_name(stream, BytesMut::new(), came, &config)
                    .await;
            }
            false => self.as_it_came(stream, came, &config).await,
        }
    }

    /// A connection of which nothing is read.
    pub(crate) async fn as_it_came(
        &self,
        stream: Box<dyn Socket>,
        came: Came,
        config: &Arc<Config>,
    ) {
        // What cannot be written in a file leads nowhere.
        if let Some(way) = Way::find(came, None, config) {
            self.pass(stream, BytesMut::new(), way, config).await;
        }
    }

    /// A connection that begins with `start` and goes where its TLS handshake says, if an entry has that.
    pub(crate) async fn by_server_name(
        &self,
        mut stream: Box<dyn Socket>,
        mut start: BytesMut,
        came: Came,
        config: &Arc<Config>,
    ) {
        let Some(towards) = came.towards(config) else {
            return;
        };
        let limit = config.timeouts.tls_hello;
        let read = tokio::select! {
            biased;
            read = timeout(limit, read_hello(&mut stream, &mut start)) => read,
            () = self.origin.shared.drain.closing_idle() => return,
        };
        let name = match read.unwrap_or(Some(Err(HelloError::Timeout))) {
            Some(Ok(name)) => name,
            Some(Err(error)) => return self.refuse(&towards.to_string(), error.reason()),
            None => return,
        };
        match Way::find(came, Some(name.clone()), config) {
            Some(way) => self.pass(stream, start, way, config).await,
            None => {
                let to = Endpoint {
                    host: name,
                    ..towards
                };
                self.refuse(&to.to_string(), UNKNOWN);
                // Whoever does not take it is told by the end of the connection.
                let _ = timeout(ALERT, stream.write_all(&UNRECOGNIZED_NAME)).await;
            }
        }
    }

    /// Puts on record that a connection goes no further.
    pub(crate) fn refuse(&self, destination: &str, reason: &'static str) {
        let metrics = &self.origin.shared.metrics;
        metrics.connection_ended(Direction::Outbound, reason);
        metrics.destination_refused(destination);
        let mut exchange = Exchange::begin(&self.origin, Some(&head_to(destination)));
        exchange.failed(&Failure::UnknownDestination {
            host: destination.to_owned(),
            id: DecisionId::new(),
        });
        exchange.broke_off(reason);
    }

    async fn pass(&self, stream: Box<dyn Socket>, start: BytesMut, way: Way, config: &Arc<Config>) {
        let mut exchange = Exchange::begin(&self.origin, Some(&head_to(&way.to.to_string())));
        let admission = &self.origin.shared.admission;
        let _tunnel = match admission
            .take_request()
            .and_then(|()| admission.take_tunnel(Direction::Outbound))
        {
            Ok(tunnel) => tunnel,
            Err(failure) => return exchange.failed(&failure),
        };
        let server = match self.connect(&way, config, &mut exchange).await {
            Ok(server) => server,
            Err(error) => return exchange.failed(&error.into()),
        };
        exchange.allowed(None);
        let cut = self.withdrawn(&way, config);
        carry(stream, start, server, config, &mut exchange, cut).await;
    }

    /// Waits until the configuration no longer has `way`; neither side has a certificate of ours that could end.
    async fn withdrawn(&self, way: &Way, config: &Arc<Config>) -> &'static str {
        let mut seen = Arc::clone(config);
        while way.is_in(&seen) {
            seen = self.origin.shared.config.other_than(&seen).await;
        }
        WITHDRAWN
    }

    /// A connection to an endpoint that can be reached.
    async fn connect(
        &self,
        way: &Way,
        config: &Config,
        exchange: &mut Exchange<'_>,
    ) -> Result<Box<dyn Socket>, ConnectError> {
        let limit = config.timeouts.upstream_connect;
        let server = match &way.tls {
            Tls::Originate(roots) => Some(Server::new(&way.to.host, roots)?),
            Tls::Passthrough | Tls::None => None,
        };
        let shared = &self.origin.shared;
        let endpoints = shared.discovery.outside(&way.endpoints);
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let (server, metrics) = (server.as_ref(), &shared.metrics);
        let connecting = reach(&endpoints, turn, limit, |destination| {
            exchange.forwarded(&destination.to_string().into());
            async move {
                let stream = connect_outside(&destination, &self.own).await?;
                let Some(server) = server else {
                    return Ok(stream);
                };
                let (tls, _) = server.connect(stream, Wanted::Http1, metrics).await?;
                Ok(Box::new(tls) as Box<dyn Socket>)
            }
        });
        connecting.await
    }
}

/// No entry has it.
pub(crate) const UNKNOWN: &str = "unknown_destination";

/// Reads until the hello is whole; `start` has all that came then. None when the connection ends before.
async fn read_hello(
    stream: &mut Box<dyn Socket>,
    start: &mut BytesMut,
) -> Option<Result<String, HelloError>> {
    let mut hello = Hello::new();
    loop {
        if let Some(read) = hello.read(start).transpose() {
            return Some(read);
        }
        if stream.read_buf(start).await.unwrap_or_default() == 0 {
            return None;
        }
    }
}
