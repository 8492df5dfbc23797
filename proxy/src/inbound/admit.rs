//! From an accepted connection to a [`Caller`]: by a handshake, or on a permissive listener in plain text.

use super::{Caller, Inbound};
use crate::authorize::Rulebook;
use crate::config::{Config, Mtls, Protocol};
use crate::detect;
use crate::exchange::Origin;
use crate::forward::App;
use crate::hops::Hops;
use crate::metrics::Direction;
use crate::normalize::Hosts;
use crate::peer::Who;
use crate::proof::{Ends, Hold};
use crate::redirect::Misled;
use crate::socket::Socket;
use crate::tls::{Accepted, Alpn};
use bytes::BytesMut;
use identity::SpiffeId;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A caller that was let in.
pub(super) struct Admitted {
    pub(super) socket: Box<dyn Socket>,
    /// What was read from it already.
    pub(super) start: BytesMut,
    pub(super) alpn: Alpn,
    pub(super) caller: Arc<Caller>,
    pub(super) held: Option<Held>,
}

/// A connection that ends with its certificates.
pub(super) struct Held {
    pub(super) ends: Arc<Ends>,
    /// Keeps it known to proofs.
    pub(super) _hold: Hold,
}

/// Where a connection came from, and where to.
struct Way {
    address: IpAddr,
    app: Arc<App>,
    port: u16,
    protocol: Protocol,
}

impl Inbound {
    /// `None` if nobody was let in.
    pub(super) async fn admit(&self, stream: TcpStream, config: &Config) -> Option<Admitted> {
        let way = self.way(&stream)?;
        match self.config.mtls {
            Mtls::Permissive if !self.begins_as_tls(&stream, &way, config).await? => {
                self.unauthenticated(stream, way, config).await
            }
            Mtls::Strict | Mtls::Permissive => self.authenticated(stream, way, config).await,
        }
    }

    fn way(&self, stream: &TcpStream) -> Option<Way> {
        // Fails for those who left between accept and here.
        let address = stream.peer_addr().ok()?.ip().to_canonical();
        match self.apps.of(stream) {
            Ok((app, port)) => Some(Way {
                address,
                app,
                port,
                protocol: self.config.protocol_at(port),
            }),
            Err(Misled::Probe) => None,
            Err(misled) => {
                let metrics = &self.shared.metrics;
                metrics.connection_refused(Direction::Inbound, misled.reason());
                tracing::debug!(%address, error = %misled, "connection of a caller refused");
                None
            }
        }
    }

    /// Whether a caller of a permissive listener means to shake hands.
    async fn begins_as_tls(&self, stream: &TcpStream, way: &Way, config: &Config) -> Option<bool> {
        let limit = match way.protocol {
            Protocol::Http => config.timeouts.tls_hello,
            Protocol::Tcp => config.timeouts.detect,
        };
        let detected = tokio::select! {
            biased;
            detected = timeout(limit, detect::is_tls(stream)) => detected,
            // Who has said nothing by then has nothing to lose.
            () = self.shared.drain.closing_idle() => return None,
        };
        match (detected, way.protocol) {
            (Ok(is_tls), _) => is_tls.ok(),
            // It waits for the server to speak.
            (Err(_), Protocol::Tcp) => Some(false),
            (Err(_), Protocol::Http) => {
                self.handshake_failed("hello_timeout");
                None
            }
        }
    }

    async fn authenticated(
        &self,
        stream: TcpStream,
        way: Way,
        config: &Config,
    ) -> Option<Admitted> {
        let shared = &self.shared;
        let limit = config.timeouts.tls_hello;
        let accepted = self.shake_hands(stream, &way, limit).await?;
        shared.metrics.handshake(Direction::Inbound);
        let (peer, own) = (accepted.peer, accepted.own);
        if accepted.alpn == Alpn::Proof {
            let (held, ends) = (&shared.held, accepted.ends);
            let answered = held.answer(accepted.tls, peer.id(), &own, ends);
            // A caller that breaks off has only itself to prove to.
            let _ = timeout(limit, answered).await;
            return None;
        }
        let ends = Arc::new(Ends::new(accepted.ends, accepted.revocable));
        let hold = shared.held.hold(accepted.name, peer.id(), &own, &ends);
        let counters = shared.metrics.caller(peer.id());
        Some(Admitted {
            socket: Box::new(accepted.tls),
            start: BytesMut::new(),
            alpn: accepted.alpn,
            caller: self.caller(Who::Peer(peer, counters), own, way),
            held: Some(Held { ends, _hold: hold }),
        })
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
        way: &Way,
        limit: Duration,
    ) -> Option<Accepted<TcpStream>> {
        let accepting = self.acceptors.of(way.protocol).accept(stream);
        let accepted = match timeout(limit, accepting).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => {
                self.handshake_failed(error.reason());
                // Counted in full above; a line each would let strangers fill the disk.
                tracing::debug!(
                    address = %way.address,
                    reason = error.reason(),
                    error = &error as &dyn std::error::Error,
                    "handshake with a caller failed"
                );
                return None;
            }
            Err(_) => {
                self.handshake_failed("hello_timeout");
                return None;
            }
        };
        // Only who has asked for bytes that nobody looks into gets them, and never where HTTP is expected.
        let is_tcp = matches!(accepted.alpn, Alpn::Tcp(_));
        if accepted.alpn != Alpn::Proof && is_tcp != (way.protocol == Protocol::Tcp) {
            self.handshake_failed("no_common_protocol");
            return None;
        }
        Some(accepted)
    }

    fn handshake_failed(&self, reason: &'static str) {
        let metrics = &self.shared.metrics;
        metrics.handshake_failure(Direction::Inbound, reason);
    }

    /// A caller in plain text. What it may do is decided like anyone's: nothing, unless a grant says `unauthenticated`.
    async fn unauthenticated(
        &self,
        stream: TcpStream,
        way: Way,
        config: &Config,
    ) -> Option<Admitted> {
        let shared = &self.shared;
        let ended = |reason| {
            let metrics = &shared.metrics;
            metrics.connection_ended(Direction::Inbound, reason);
        };
        // Grants speak of who is called, which this sidecar has to know of itself first.
        let own = match shared.identity.present() {
            Ok(own) => own.id().clone(),
            Err(error) => {
                ended(error.reason());
                return None;
            }
        };
        let mut socket: Box<dyn Socket> = Box::new(stream);
        let (alpn, start) = match way.protocol {
            Protocol::Tcp => (Alpn::Tcp(Hops::default()), BytesMut::new()),
            Protocol::Http => {
                let limit = config.timeouts.request_head;
                let detected = tokio::select! {
                    biased;
                    detected = timeout(limit, detect::http(&mut socket)) => detected,
                    () = shared.drain.closing_idle() => return None,
                };
                let Ok(detected) = detected else {
                    ended("preface_timeout");
                    return None;
                };
                detected.ok()?
            }
        };
        let who = Who::Unauthenticated(way.address);
        Some(Admitted {
            socket,
            start,
            alpn,
            caller: self.caller(who, own, way),
            held: None,
        })
    }

    fn caller(&self, who: Who, own: SpiffeId, way: Way) -> Arc<Caller> {
        let shared = &self.shared;
        let rulebook = Rulebook::new(shared, &who, own, way.port);
        let seen = self.seen.connected(&who, way.port);
        Arc::new(Caller {
            origin: Origin {
                shared: Arc::clone(shared),
                direction: Direction::Inbound,
                who: Some(who),
                hosts: Hosts::default(),
            },
            rulebook,
            address: way.address,
            app: way.app,
            seen,
        })
    }
}
