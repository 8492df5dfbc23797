//! Callers to the workload: handshake, then one function per request.

use crate::authorize::{Asked, Rulebook, admit, authorize};
use crate::config::{self, Config, Protocol};
use crate::connection::{self, Answer, Terms};
use crate::downstream::Downstream;
use crate::error::Failure;
use crate::exchange::{Exchange, Origin};
use crate::forward::{App, Ended};
use crate::limit;
use crate::listener::Slot;
use crate::metrics::Direction;
use crate::normalize::{Hosts, normalize};
use crate::peer::Peer;
use crate::proof::{Ends, Hold};
use crate::redirect::Apps;
use crate::relay::Passage;
use crate::socket::Socket;
use crate::tcp;
use crate::tls::{Acceptors, Alpn};
use crate::upgrade::Upgrade;
use crate::upstream::Deadlines;
use crate::worker::Shared;
use bytes::BytesMut;
use http::request::Parts;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

/// One inbound listener of one worker.
#[derive(Debug)]
pub(crate) struct Inbound {
    shared: Arc<Shared>,
    acceptors: Acceptors,
    config: config::Inbound,
    apps: Arc<Apps>,
}

impl Inbound {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        acceptors: &Acceptors,
        config: &config::Inbound,
        apps: Arc<Apps>,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::clone(shared),
            acceptors: acceptors.clone(),
            config: config.clone(),
            apps,
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
        let Some(Admitted {
            tls,
            alpn,
            caller,
            ends,
            _hold,
        }) = Box::pin(self.admit(stream, &config)).await
        else {
            return;
        };
        let terms = match alpn {
            Alpn::Tcp => return caller.carry(tls, &ends, &config).await,
            protocol => Terms {
                protocol,
                http10: caller.rulebook.rules(caller.peer()).takes_http10(),
                ends: Some(ends),
                drain: shared.drain.clone(),
            },
        };
        connection::serve(tls, BytesMut::new(), terms, &config, caller).await;
    }

    /// The handshake; `None` if nobody was let in.
    async fn admit(&self, stream: TcpStream, config: &Config) -> Option<Admitted> {
        let shared = &self.shared;
        // Fails for those who left between accept and here.
        let address = stream.peer_addr().ok()?;
        let (app, port) = match self.apps.of(&stream) {
            Ok(found) => found,
            Err(misled) => {
                shared
                    .metrics
                    .connection_refused(Direction::Inbound, misled.reason());
                tracing::debug!(%address, error = %misled, "connection of a caller refused");
                return None;
            }
        };
        let protocol = self.config.protocol_at(port);
        let accepting = self.acceptors.of(protocol).accept(stream);
        let accepted = match timeout(config.timeouts.tls_hello, accepting).await {
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
        // Only who has asked for bytes that nobody looks into gets them, and never where HTTP is expected.
        let is_tcp = accepted.alpn == Alpn::Tcp;
        if accepted.alpn != Alpn::Proof && is_tcp != (protocol == Protocol::Tcp) {
            shared
                .metrics
                .handshake_failure(Direction::Inbound, "no_common_protocol");
            return None;
        }
        shared.metrics.handshake(Direction::Inbound);
        let peer = accepted.peer;
        if accepted.alpn == Alpn::Proof {
            let (held, ends) = (&shared.held, accepted.ends);
            let answered = held.answer(accepted.tls, peer.id(), &accepted.own, ends);
            // A caller that breaks off has only itself to prove to.
            let _ = timeout(config.timeouts.tls_hello, answered).await;
            return None;
        }
        let ends = Arc::new(Ends::new(accepted.ends));
        let hold = shared
            .held
            .hold(accepted.name, peer.id(), &accepted.own, &ends);
        let rulebook = Rulebook::new(shared, &peer, accepted.own, port);
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
            app,
        });
        Some(Admitted {
            tls: Box::new(accepted.tls),
            alpn: accepted.alpn,
            caller,
            ends,
            _hold: hold,
        })
    }
}

/// A caller that was let in.
struct Admitted {
    tls: Box<dyn Socket>,
    alpn: Alpn,
    caller: Arc<Caller>,
    ends: Arc<Ends>,
    _hold: Hold,
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

    /// The life of an opaque TCP connection.
    async fn carry(&self, socket: Box<dyn Socket>, ends: &Ends, config: &Config) {
        let head = tcp::head();
        let mut exchange = Exchange::begin(&self.origin, Some(&head));
        let (app, _tunnel) = match self.open(&head, &mut exchange, config).await {
            Ok(opened) => opened,
            // There is no way to say so but to close.
            Err(failure) => return exchange.failed(&failure),
        };
        let cut = async {
            tokio::select! {
                () = ends.reached() => tcp::CERTIFICATE_ENDED,
                () = self.rulebook.withdrawn(self.peer(), Asked::Connection) => tcp::WITHDRAWN,
            }
        };
        tcp::carry(socket, app, config, &mut exchange, cut).await;
    }

    /// The app's side of an opaque TCP connection, if it is allowed.
    async fn open(
        &self,
        head: &Parts,
        exchange: &mut Exchange<'_>,
        config: &Config,
    ) -> Result<(Box<dyn Socket>, OwnedSemaphorePermit), Failure> {
        let shared = &self.origin.shared;
        shared.admission.take_request()?;
        let peer = self.peer();
        let rules = self.rulebook.rules(peer);
        exchange.decided_by(Arc::clone(&rules));
        let permit = admit(&rules, exchange.time)?;
        limit::charge(shared, &permit, head, peer, self.address)?;
        exchange.allowed(Some(permit.allow().grant()));
        let tunnel = shared.admission.take_tunnel()?;
        let limit = config.timeouts.upstream_connect;
        Ok((self.app.open(permit, limit, exchange).await?, tunnel))
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

        let mut normal = normalize(head, rules.reading(&self.origin.hosts))?;
        normal.has_body = caller.has_body();
        exchange.normalized(head);

        let permit = authorize(&rules, head, &normal, exchange.time)?;
        limit::charge(shared, &permit, head, peer, self.address)?;
        exchange.allowed(Some(permit.allow().grant()));

        let way = Passage {
            caller,
            deadlines: Deadlines::of(&shared.config.load()),
            exchange,
        };
        // A request that is upgraded keeps its connection to the app.
        let _tunnel = match head.extensions.get::<Upgrade>() {
            Some(_) => Some(shared.admission.take_tunnel()?),
            None => None,
        };
        let who = (peer, &self.rulebook);
        if way.to_app(permit, head, &normal, who, &self.app).await? == Ended::ByItself {
            return Ok(());
        }
        caller.abort();
        exchange.broke_off(tcp::WITHDRAWN);
        Ok(())
    }
}
