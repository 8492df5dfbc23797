//! Opaque TCP over mutual TLS, under an ALPN of its own. Who may connect is decided by identity alone: inbound once for each
//! connection, and again whenever the answer may have changed. Outbound each service has a listener of its own.

use crate::authorize::reached;
use crate::config::{Config, Destination, TcpService};
use crate::downstream::Downstream;
use crate::error::{ConnectError, Failure};
use crate::exchange::{Exchange, Origin};
use crate::h1::wire::Wire;
use crate::h1::{client, server};
use crate::listener::Slot;
use crate::metrics::Direction;
use crate::normalize::Hosts;
use crate::proof::{Ends, Name, prove};
use crate::relay::{Passage, Relay};
use crate::socket::Socket;
use crate::tls::{Alpn, Connected, Connector, Wanted};
use crate::upstream::http2::Validity;
use crate::upstream::{Deadlines, Upstream, connect_sidecar};
use crate::worker::Shared;
use bytes::BytesMut;
use http::request::Parts;
use http::{Method, Request, StatusCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use tokio::time::timeout;

/// A connection as the access log shows it: as a CONNECT, of which HTTP lets none pass.
pub(crate) fn head() -> Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = Method::CONNECT;
    head
}

/// Carries bytes between two connections until both have ended, nothing moves for the idle time, or `cut` says why it ends
/// before.
pub(crate) async fn carry(
    down: Box<dyn Socket>,
    up: Box<dyn Socket>,
    config: &Config,
    exchange: &mut Exchange<'_>,
    cut: impl Future<Output = &'static str>,
) {
    let mut down = server::Connection::new(
        Wire::new(down, BytesMut::new()),
        config,
        false,
        Arc::default(),
    );
    let mut up = client::Connection::new(Wire::new(up, BytesMut::new()), None);
    down.open_tunnel();
    up.open_tunnel();
    exchange.answered(StatusCode::OK.as_u16());
    let way = Passage {
        caller: &mut Downstream::Http1(&mut down),
        deadlines: Deadlines::of(config),
        exchange,
    };
    let mut relay = Relay::tunnel(way, Upstream::Http1(Box::new(up)));
    let reason = tokio::select! {
        biased;
        () = relay.body() => return,
        reason = cut => reason,
    };
    exchange.broke_off(reason);
}

/// One service of one worker.
#[derive(Debug)]
pub(crate) struct Outbound {
    origin: Origin,
    /// Never empty.
    endpoints: Vec<(Destination, Arc<str>)>,
    next: AtomicUsize,
    connector: Connector,
    prover: Connector,
}

/// Between two proofs of one connection.
const PROVE_AGAIN: Duration = Duration::from_secs(1);

impl Outbound {
    pub(crate) fn new(shared: &Arc<Shared>, service: &TcpService) -> Arc<Self> {
        let endpoints = service.endpoints.iter().map(|endpoint| {
            let name = endpoint.to_string().into();
            (Destination::from(endpoint.clone()), name)
        });
        let connector = |wanted| {
            let live = Arc::clone(&shared.identity);
            Connector::new(service.identity.clone(), wanted, live)
        };
        Arc::new(Self {
            origin: Origin {
                shared: Arc::clone(shared),
                direction: Direction::Outbound,
                peer: None,
                hosts: Hosts::default(),
            },
            endpoints: endpoints.collect(),
            next: AtomicUsize::new(0),
            connector: connector(Wanted::Tcp),
            prover: connector(Wanted::Proof),
        })
    }

    /// A connection of the workload from accept to end. Whether it is the workload's was checked before.
    pub(crate) async fn serve(self: Arc<Self>, stream: Box<dyn Socket>, slot: Slot) {
        let _slot = slot;
        let shared = &self.origin.shared;
        let _open = shared.metrics.connection(Direction::Outbound);
        let _in_flight = shared.drain.hold();
        let config = shared.config.load_full();
        let mut exchange = Exchange::begin(&self.origin, Some(&head()));
        let _tunnel = match shared.admission.take_tunnel() {
            Ok(tunnel) => tunnel,
            Err(failure) => return exchange.failed(&failure),
        };
        let (connected, destination) = match self.connect(&config, &mut exchange).await {
            Ok(connected) => connected,
            Err(failure) => return exchange.failed(&failure),
        };
        exchange.allowed(None);
        let ends = Ends::new(connected.ends);
        let cut = async {
            tokio::select! {
                () = ends.reached() => CERTIFICATE_ENDED,
                () = self.keep_proven(destination, connected.name, &ends, &config) => CERTIFICATE_ENDED,
            }
        };
        carry(stream, Box::new(connected.tls), &config, &mut exchange, cut).await;
    }

    /// A connection to the next endpoint in turn, or to the first after it that can be reached.
    async fn connect(
        &self,
        config: &Config,
        exchange: &mut Exchange<'_>,
    ) -> Result<(Connected<Box<dyn Socket>>, &Destination), Failure> {
        self.origin.shared.admission.take_request()?;
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let limit = config.timeouts.upstream_connect;
        let mut failure = ConnectError::Unstable;
        for turn in 0..self.endpoints.len() {
            let (destination, name) =
                &self.endpoints[first.wrapping_add(turn) % self.endpoints.len()];
            exchange.forwarded(name);
            let metrics = &self.origin.shared.metrics;
            let connected = timeout(
                limit,
                connect_sidecar(destination, &self.connector, metrics),
            );
            match connected.await.unwrap_or(Err(ConnectError::Timeout(limit))) {
                Ok(connected) if connected.alpn == Alpn::Tcp => {
                    return Ok((connected, destination));
                }
                Ok(_) => failure = ConnectError::Protocol,
                Err(error) => failure = error,
            }
        }
        Err(failure.into())
    }

    /// Has a connection go on when one of its certificates is renewed. Never ends.
    async fn keep_proven(
        &self,
        destination: &Destination,
        name: Name,
        ends: &Ends,
        config: &Config,
    ) {
        let mut svid = self.origin.shared.identity.watch();
        svid.mark_unchanged();
        let limit = config.timeouts.upstream_connect;
        loop {
            let due = Validity::new(SystemTime::now(), ends.moment()).replace_at;
            tokio::select! {
                // Not all at once: each proof is a handshake.
                Ok(()) = svid.changed() => tokio::time::sleep(turn(name, ends.moment())).await,
                () = reached(Some(due)) => {}
            }
            match timeout(limit, prove(&self.prover, destination, &[name])).await {
                Ok(Ok(answers)) => {
                    if let Some(until) = answers.first().copied().flatten() {
                        ends.put_off(until);
                    }
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, %destination, "cannot prove a connection's identity again")
                }
                Err(_) => tracing::debug!(%destination, "no answer to a proof"),
            }
            // A server that is as old as the connection has no more to give for a while.
            tokio::time::sleep(PROVE_AGAIN).await;
        }
    }
}

/// When it is a connection's turn to be proven after a renewal: up to an eighth of what it has left, 10 s at most, by its name,
/// which is as good as random.
fn turn(name: Name, ends: SystemTime) -> Duration {
    const MOST: Duration = Duration::from_secs(10);
    let left = ends.duration_since(SystemTime::now()).unwrap_or_default();
    (left / 8).min(MOST) * u32::from(name[0]) / u32::from(u8::MAX)
}

/// Why a connection was cut: no connection outlives its identity.
pub(crate) const CERTIFICATE_ENDED: &str = "certificate_ended";
/// Why a connection was cut: the policy no longer allows it.
pub(crate) const WITHDRAWN: &str = "grant_withdrawn";
