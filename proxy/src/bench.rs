//! The steps between the head of an inbound request and its forwarding, one by one, for `benches/path.rs`. No interface:
//! nothing else may use it.
//!
//! The functions are the ones that `inbound` calls, in its order, for a peer that a handshake has proven.

use crate::authorize::{self, Rulebook};
use crate::config::Protocol;
use crate::exchange::{Exchange, Origin};
use crate::metrics::Direction;
use crate::normalize::Hosts;
use crate::peer::Who;
use crate::tls::{Acceptor, Connector, LiveIdentity, Wanted};
use crate::worker::Shared;
use crate::{Bound, IdentityFeed, drain, limit, normalize};
use http::request::Parts;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::time::Instant;

/// Room for a whole handshake, so that neither side waits for the other to read.
const PIPE_BYTES: usize = 64 * 1024;

/// An authenticated connection, without its bytes.
#[derive(Debug)]
pub struct Connection {
    origin: Origin,
    rulebook: Rulebook,
    address: IpAddr,
}

/// What is in force for a request.
#[derive(Debug)]
pub struct Rules(Arc<authorize::Rules>);

/// What normalising a head has found out.
#[derive(Debug, Clone, Copy)]
pub struct Normal(normalize::Normal);

/// A request that a grant allows.
#[derive(Debug)]
pub struct Permit<'r>(authorize::Permit<'r>);

impl Connection {
    /// A caller with the identity of `caller` and the sidecar that `bound` would be shake hands in memory. A step that
    /// fails, here or below, is a mistake in the bench.
    pub async fn new(bound: Bound, caller: &IdentityFeed) -> Self {
        let shared = Arc::new(Shared::new(
            bound.config,
            (&bound.identity, &bound.policy),
            bound.metrics,
            bound.admission,
            bound.access_log,
            bound.discovery,
            (drain::Drain::new(), Arc::default()),
        ));
        let own = shared.identity.present().expect("an SVID of the sidecar");
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let connector = Connector::new(own.id().clone(), Wanted::Http, LiveIdentity::new(caller));
        let credentials = connector.credentials().expect("an SVID of the caller");
        let acceptor = Acceptor::new(Arc::clone(&shared.identity), Protocol::Http);
        let (accepted, connected) = tokio::join!(
            acceptor.accept(ours),
            connector.connect(credentials, theirs)
        );
        connected.expect("the caller trusts the sidecar");
        let peer = accepted.expect("the sidecar trusts the caller").peer;
        let port = shared.config.load().inbound[0].port();
        let port = port.expect("the app of a bench has a port");
        let counters = shared.metrics.caller(peer.id());
        let who = Who::Peer(peer, counters);
        let rulebook = Rulebook::new(&shared, &who, own.id().clone(), port);
        Self {
            origin: Origin {
                shared,
                direction: Direction::Inbound,
                who: Some(who),
                hosts: Hosts::default(),
            },
            rulebook,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    fn who(&self) -> &Who {
        self.origin.who.as_ref().expect("made with a peer")
    }

    /// The rules of the connection.
    pub fn rules(&self) -> Rules {
        Rules(self.rulebook.rules(self.who()))
    }

    /// Step 1: one reading of the head.
    pub fn normalize(&self, rules: &Rules, head: &mut Parts) -> Normal {
        let normal = normalize::normalize(head, rules.0.reading(&self.origin.hosts));
        let mut normal = normal.expect("a plain request");
        normal.has_body = false;
        Normal(normal)
    }

    /// Step 2: the policy's answer.
    pub fn decide<'r>(
        &self,
        rules: &'r Rules,
        head: &Parts,
        normal: &Normal,
        now: SystemTime,
    ) -> Permit<'r> {
        Permit(authorize::authorize(&rules.0, head, &normal.0, now).expect("a granted request"))
    }

    /// Step 3: charges every limit of the grant.
    pub fn limit(&self, permit: &Permit<'_>, head: &Parts) {
        self.limit_at(permit, head, Instant::now());
    }

    fn limit_at(&self, permit: &Permit<'_>, head: &Parts, begun: Instant) {
        let (shared, asked) = (&self.origin.shared, (self.who(), self.address));
        limit::charge(shared, &permit.0, head, asked, begun).expect("room in the limit");
    }

    /// Step 5: what is kept of a request from its first look at the clock, and its record once it was answered.
    pub fn record(&self, head: &Parts, rules: &Rules, permit: &Permit<'_>) {
        let mut exchange = Exchange::begin(&self.origin, Some(head));
        exchange.decided_by(Arc::clone(&rules.0));
        exchange.normalized(head);
        exchange.allowed(Some(permit.0.allow().grant()));
        exchange.answered(200);
    }

    /// All of them, as `inbound` takes them.
    pub fn handle(&self, head: &mut Parts) {
        let mut exchange = Exchange::begin(&self.origin, Some(head));
        let rules = self.rules();
        exchange.decided_by(Arc::clone(&rules.0));
        let normal = self.normalize(&rules, head);
        exchange.normalized(head);
        let permit = self.decide(&rules, head, &normal, exchange.time);
        self.limit_at(&permit, head, exchange.begun);
        exchange.allowed(Some(permit.0.allow().grant()));
        exchange.answered(200);
    }
}
