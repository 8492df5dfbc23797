//! Opaque TCP over mutual TLS, under an ALPN of its own. Who may connect is decided by identity alone: inbound once for each
//! connection, and again whenever the answer may have changed. Outbound each service has a listener of its own.

use crate::config::{Config, TcpService};
use crate::discovery::Following;
use crate::downstream::Downstream;
use crate::error::{ConnectError, Failure};
use crate::exchange::{Exchange, Origin};
use crate::h1::wire::Wire;
use crate::h1::{client, server};
use crate::hops::Hops;
use crate::listener::Slot;
use crate::metrics::Direction;
use crate::normalize::{Hosts, Rejection};
use crate::proof::{Claim, Claims, keep_proven};
use crate::relay::{Passage, Relay};
use crate::socket::Socket;
use crate::tls::{Alpn, Connected, Connector, Wanted};
use crate::upstream::reach::reach;
use crate::upstream::{Deadlines, Upstream, connect_sidecar_with};
use crate::worker::Shared;
use bytes::BytesMut;
use http::header::HOST;
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::Instant;

/// A connection as the access log shows it: as a CONNECT, of which HTTP lets none pass.
pub(crate) fn head() -> Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = Method::CONNECT;
    head
}

/// The same for a connection that says, or whose address says, where it is going.
pub(crate) fn head_to(destination: &str) -> Parts {
    let mut head = head();
    if let Ok(host) = HeaderValue::from_str(destination) {
        head.headers.insert(HOST, host);
    }
    head
}

/// Carries bytes between two connections until both have ended, nothing moves for the idle time, or `cut` says why it ends
/// before. `start` was read from `down` already.
pub(crate) async fn carry(
    down: Box<dyn Socket>,
    start: BytesMut,
    up: Box<dyn Socket>,
    config: &Config,
    exchange: &mut Exchange<'_>,
    cut: impl Future<Output = &'static str>,
) {
    let mut down = server::Connection::new(Wire::new(down, start), config, false, Arc::default());
    let mut up = client::Connection::new(Wire::new(up, BytesMut::new()), None);
    down.open_tunnel();
    up.open_tunnel();
    exchange.answered(StatusCode::OK.as_u16());
    let way = Passage {
        caller: &mut Downstream::Http1(&mut down),
        deadlines: Deadlines::of(config, Instant::now()),
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
    endpoints: Following,
    next: AtomicUsize,
    connector: Connector,
    claims: Arc<Claims<Claim>>,
}

impl Outbound {
    pub(crate) fn new(shared: &Arc<Shared>, service: &TcpService) -> Arc<Self> {
        let connector = |wanted| {
            let live = Arc::clone(&shared.identity);
            Connector::new(service.identity.clone(), wanted, live)
        };
        let claims = Claims::new(connector(Wanted::Proof));
        tokio::spawn(keep_proven(Arc::downgrade(&claims), Arc::clone(shared)));
        Arc::new(Self {
            origin: Origin {
                shared: Arc::clone(shared),
                direction: Direction::Outbound,
                who: None,
                hosts: Hosts::default(),
            },
            endpoints: shared.discovery.follow(&service.endpoints),
            next: AtomicUsize::new(0),
            connector: connector(Wanted::Tcp),
            claims,
        })
    }

    /// A connection of the workload from accept to end. Whether it is the workload's was checked before.
    /// `hops` is how far it has come.
    pub(crate) async fn serve(self: Arc<Self>, stream: Box<dyn Socket>, hops: Hops, slot: Slot) {
        let _slot = slot;
        let shared = &self.origin.shared;
        let _open = shared.metrics.connection(Direction::Outbound);
        let config = shared.config.load_full();
        let mut exchange = Exchange::begin(&self.origin, Some(&head()));
        let _tunnel = match shared.admission.take_tunnel(Direction::Outbound) {
            Ok(tunnel) => tunnel,
            Err(failure) => return exchange.failed(&failure),
        };
        let (connected, claim) = match self.connect(&config, hops, &mut exchange).await {
            Ok(connected) => connected,
            Err(failure) => return exchange.failed(&failure),
        };
        exchange.allowed(None);
        self.claims.add(&claim);
        let cut = async {
            claim.ends.reached().await;
            CERTIFICATE_ENDED
        };
        let (start, up) = (BytesMut::new(), Box::new(connected.tls));
        carry(stream, start, up, &config, &mut exchange, cut).await;
    }

    /// A connection to an endpoint that can be reached.
    async fn connect(
        &self,
        config: &Config,
        hops: Hops,
        exchange: &mut Exchange<'_>,
    ) -> Result<(Connected<Box<dyn Socket>>, Arc<Claim>), Failure> {
        self.origin.shared.admission.take_request()?;
        hops.check().map_err(Rejection::from)?;
        let limit = config.timeouts.upstream_connect;
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let metrics = &self.origin.shared.metrics;
        let connecting = reach(&self.endpoints, turn, limit, |destination| {
            exchange.forwarded(&destination.to_string().into());
            async move {
                let credentials = self.connector.credentials()?.after(hops);
                let own = (&self.connector, credentials);
                let connected = connect_sidecar_with(&destination, own, metrics).await?;
                match connected.alpn {
                    Alpn::Tcp(_) => Ok(connected),
                    _ => Err(ConnectError::Protocol),
                }
            }
        });
        let connected = connecting.await?;
        let claim = Claim::of(&connected)?;
        Ok((connected, Arc::new(claim)))
    }
}

/// Why a connection was cut: no connection outlives its identity.
pub(crate) const CERTIFICATE_ENDED: &str = "certificate_ended";
/// Why a connection was cut: the policy no longer allows it.
pub(crate) const WITHDRAWN: &str = "grant_withdrawn";
