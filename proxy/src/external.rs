//! The way out of the mesh for what is not HTTP: to a server that the configuration names by host or address
//! (`outbound.external`). HTTP goes by `outbound.rs`, with `Server` from here.
//!
//! With `tls: passthrough` the name in the TLS handshake says where a connection goes, and we look that name up
//! ourselves: where the workload meant to send it does not count. By address, nothing is read.

pub mod hello;

mod server;

pub(crate) use server::Server;

use crate::authorize::DecisionId;
use crate::config::external::{External as Entry, Tls};
use crate::config::{Config, Destination};
use crate::error::{ConnectError, Failure};
use crate::exchange::{Exchange, Origin};
use crate::listener::Slot;
use crate::metrics::Direction;
use crate::normalize::Hosts;
use crate::redirect::OwnPorts;
use crate::socket::Socket;
use crate::tcp::{carry, head_to};
use crate::upstream::connect_outside;
use crate::worker::Shared;
use bytes::BytesMut;
use hello::{Hello, HelloError};
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// A fatal alert, `unrecognized_name` (RFC 6066 section 3): clients show it.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
/// It fits into any socket that was just opened.
const ALERT: Duration = Duration::from_secs(1);

/// What one worker carries out of the mesh unread.
#[derive(Debug)]
pub(crate) struct External {
    origin: Origin,
    own: OwnPorts,
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
        }
    }

    /// A connection to the listener of `entry`, from accept to end. Whether it is the workload's was checked before.
    pub(crate) async fn serve(
        self: Arc<Self>,
        entry: Arc<Entry>,
        stream: Box<dyn Socket>,
        slot: Slot,
    ) {
        let _slot = slot;
        let shared = &self.origin.shared;
        let _open = shared.metrics.connection(Direction::Outbound);
        let _in_flight = shared.drain.hold();
        let config = shared.config.load_full();
        let only = entry.hosts.first().and_then(|host| host.exact());
        match (
            &entry.tls,
            only,
            entry.ports.first(),
            entry.destinations.first(),
        ) {
            (Tls::Passthrough, _, Some(port), _) => {
                self.by_server_name(
                    stream,
                    BytesMut::new(),
                    Meant::Listener(&entry, *port),
                    &config,
                )
                .await;
            }
            (_, Some(name), Some(port), _) => {
                let way = Way::to_host(&entry, name, *port);
                self.pass(stream, BytesMut::new(), way, &config).await;
            }
            (.., Some(range)) if let Some(address) = range.socket() => {
                self.pass(stream, BytesMut::new(), Way::to_address(address), &config)
                    .await;
            }
            // What cannot be written in a file leads nowhere.
            _ => {}
        }
    }

    /// A redirected connection to an address that an entry has.
    pub(crate) async fn by_address(
        &self,
        stream: Box<dyn Socket>,
        address: SocketAddr,
        config: &Config,
    ) {
        self.pass(stream, BytesMut::new(), Way::to_address(address), config)
            .await;
    }

    /// A connection that begins with `start` and goes where its TLS handshake says, if an entry has that.
    pub(crate) async fn by_server_name(
        &self,
        mut stream: Box<dyn Socket>,
        mut start: BytesMut,
        meant: Meant<'_>,
        config: &Config,
    ) {
        let limit = config.timeouts.tls_hello;
        let read = tokio::select! {
            read = timeout(limit, read_hello(&mut stream, &mut start)) => read,
            () = self.origin.shared.drain.started() => return,
        };
        let name = match read.unwrap_or(Some(Err(HelloError::Timeout))) {
            Some(Ok(name)) => name,
            Some(Err(error)) => return self.refuse(&meant.to_string(), error.reason()),
            None => return,
        };
        let port = meant.port();
        match meant.entry(&name, config) {
            Some(entry) => {
                self.pass(stream, start, Way::to_host(entry, &name, port), config)
                    .await
            }
            None => {
                self.refuse(&format!("{name}:{port}"), UNKNOWN);
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

    async fn pass(&self, stream: Box<dyn Socket>, start: BytesMut, way: Way, config: &Config) {
        let mut exchange = Exchange::begin(&self.origin, Some(&head_to(&way.name)));
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
        // Neither has a certificate of ours or a grant that could end.
        carry(stream, start, server, config, &mut exchange, pending()).await;
    }

    /// A connection to the first endpoint that can be reached.
    async fn connect(
        &self,
        way: &Way,
        config: &Config,
        exchange: &mut Exchange<'_>,
    ) -> Result<Box<dyn Socket>, ConnectError> {
        let limit = config.timeouts.upstream_connect;
        let mut failure = ConnectError::Unstable;
        for destination in &way.endpoints {
            exchange.forwarded(&destination.to_string().into());
            let connected = async {
                let stream = connect_outside(destination, &self.own).await?;
                match &way.server {
                    None => Ok(stream),
                    Some(server) => {
                        let metrics = &self.origin.shared.metrics;
                        Ok(Box::new(server.connect(stream, metrics).await?) as Box<dyn Socket>)
                    }
                }
            };
            match timeout(limit, connected)
                .await
                .unwrap_or(Err(ConnectError::Timeout(limit)))
            {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// No entry has it.
pub(crate) const UNKNOWN: &str = "unknown_destination";

/// How a connection came that names its server itself.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meant<'e> {
    /// To the listener of one entry, for a port outside.
    Listener(&'e Entry, u16),
    /// Redirected on its way to an address, of which only the port counts.
    Redirected(SocketAddr),
}

impl<'e> Meant<'e> {
    fn port(self) -> u16 {
        match self {
            Self::Listener(_, port) => port,
            Self::Redirected(address) => address.port(),
        }
    }

    fn entry(self, name: &str, config: &'e Config) -> Option<&'e Entry> {
        match self {
            Self::Listener(entry, _) => entry.names(name).map(|_| entry),
            Self::Redirected(address) => {
                let outbound = config.outbound.as_ref()?;
                let entries = outbound.external.iter();
                let entries = entries.filter(|entry| {
                    entry.is_by_server_name() && entry.ports.contains(&address.port())
                });
                let closest = entries.filter_map(|entry| Some((entry.names(name)?, entry)));
                let closest = closest.max_by_key(|(closeness, _)| *closeness);
                closest.map(|(_, entry)| entry)
            }
        }
    }
}

impl std::fmt::Display for Meant<'_> {
    /// Where it was going, as far as that is known without a name.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listener(entry, port) => {
                let mut hosts = entry.hosts.iter();
                match (hosts.next(), hosts.next()) {
                    (Some(host), None) => write!(f, "{host}:{port}"),
                    _ => write!(f, "*:{port}"),
                }
            }
            Self::Redirected(address) => address.fmt(f),
        }
    }
}

/// Where a connection goes, and what is asked of whom it finds there.
#[derive(Debug)]
struct Way {
    name: String,
    /// Never empty.
    endpoints: Vec<Destination>,
    /// Who has to answer, where we speak TLS.
    server: Option<Server>,
}

impl Way {
    fn to_host(entry: &Entry, name: &str, port: u16) -> Self {
        let endpoints = entry.endpoints_of(name, port).into_iter();
        Self {
            name: format!("{name}:{port}"),
            endpoints: endpoints.map(Destination::Tcp).collect(),
            server: match &entry.tls {
                Tls::Originate(roots) => Server::new(name, roots),
                Tls::Passthrough | Tls::None => None,
            },
        }
    }

    fn to_address(address: SocketAddr) -> Self {
        Self {
            name: address.to_string(),
            endpoints: vec![address.into()],
            server: None,
        }
    }
}

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
