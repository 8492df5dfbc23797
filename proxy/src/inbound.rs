//! Callers to the workload: handshake, then one function per request.

use crate::authorize::{Rulebook, authorize};
use crate::config::{self, Config};
use crate::connection::{self, Answer, Terms};
use crate::downstream::Downstream;
use crate::error::Failure;
use crate::exchange::{Exchange, Origin};
use crate::forward::App;
use crate::limit;
use crate::listener::Slot;
use crate::metrics::Direction;
use crate::normalize::{Hosts, normalize};
use crate::peer::Peer;
use crate::relay::Passage;
use crate::socket::Socket;
use crate::tls::Acceptor;
use crate::upstream::Deadlines;
use crate::worker::Shared;
use bytes::BytesMut;
use http::request::Parts;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// One inbound listener of one worker.
#[derive(Debug)]
pub(crate) struct Inbound {
    shared: Arc<Shared>,
    acceptor: Acceptor,
    pub(crate) app: Arc<App>,
    port: u16,
}

impl Inbound {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        acceptor: &Acceptor,
        config: &config::Inbound,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::clone(shared),
            acceptor: acceptor.clone(),
            app: App::new(&config.app),
            port: config.port(),
        })
    }

    /// A connection from accept to end.
    pub(crate) async fn serve(self: Arc<Self>, stream: TcpStream, slot: Slot) {
        let _slot = slot;
        let shared = &self.shared;
        let _open = shared.metrics.connection(Direction::Inbound);
        let _in_flight = shared.drain.hold();
        let config = shared.config.load_full();
        // Boxed: its memory is free again when it ends, which is long before the connection does.
        let Some((tls, terms, caller)) = Box::pin(self.admit(stream, &config)).await else {
            return;
        };
        connection::serve(tls, BytesMut::new(), terms, &config, caller).await;
    }

    /// The handshake; `None` if nobody was let in.
    async fn admit(
        &self,
        stream: TcpStream,
        config: &Config,
    ) -> Option<(Box<dyn Socket>, Terms, Arc<Caller>)> {
        let shared = &self.shared;
        // Fails for those who left between accept and here.
        let address = stream.peer_addr().ok()?;
        let accepted = match timeout(config.timeouts.tls_hello, self.acceptor.accept(stream)).await
        {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => {
                shared
                    .metrics
                    .handshake_failure(Direction::Inbound, error.reason());
                // Counted in full above; a line each would let strangers fill the disk.
                tracing::debug!(
                    %address,
                    reason = error.reason(),
                    error = &error as &dyn std::error::Error,
                    "handshake with a caller failed"
                );
                return None;
            }
            Err(_) => {
                shared
                    .metrics
                    .handshake_failure(Direction::Inbound, "hello_timeout");
                return None;
            }
        };
        shared.metrics.handshake(Direction::Inbound);
        let peer = accepted.peer;
        let rulebook = Rulebook::new(shared, &peer, accepted.own, self.port);
        let counters = shared.metrics.caller(peer.id());
        let caller = Arc::new(Caller {
            origin: Origin {
                shared: Arc::clone(shared),
                direction: Direction::Inbound,
                peer: Some((peer, counters)),
                hosts: Hosts::default(),
            },
            rulebook,
            address: address.ip(),
            app: Arc::clone(&self.app),
        });
        let terms = Terms {
            protocol: accepted.alpn,
            ends: Some(accepted.ends),
            drain: shared.drain.clone(),
        };
        Some((Box::new(accepted.tls), terms, caller))
    }
}

/// An authenticated connection.
#[derive(Debug)]
struct Caller {
    origin: Origin,
    rulebook: Rulebook,
    address: IpAddr,
    app: Arc<App>,
}

impl Caller {
    fn peer(&self) -> &Peer {
        let (peer, _) = self
            .origin
            .peer
            .as_ref()
            .expect("inbound connections are made with a peer");
        peer
    }
}

impl Answer for Caller {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The life of an inbound request. What was decided is in `exchange`, which writes the record when the response has
    /// ended.
    async fn handle(
        &self,
        head: &mut Parts,
        caller: &mut Downstream<'_>,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), Failure> {
        let shared = &self.origin.shared;
        shared.admission.take_request()?;
        let peer = self.peer();
        let rules = self.rulebook.rules(peer);
        exchange.decided_by(Arc::clone(&rules));

        let normal = normalize(head, rules.reading(&self.origin.hosts))?;
        exchange.normalized(head);

        let permit = authorize(&rules, head, &normal, exchange.time)?;
        limit::charge(shared, &permit, head, peer, self.address)?;
        exchange.allowed(Some(permit.allow().grant()));

        let way = Passage {
            caller,
            deadlines: deadlines(&shared.config.load()),
            exchange,
        };
        way.to_app(permit, head, &normal, peer, &self.app).await
    }
}

fn deadlines(config: &Config) -> Deadlines {
    Deadlines {
        connect: config.timeouts.upstream_connect,
        response: config.timeouts.response,
        idle: config.timeouts.idle,
        tunnel_idle: config.timeouts.tunnel_idle,
    }
}
