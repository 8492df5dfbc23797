//! Callers to the workload: handshake, then one function per request.

use crate::authorize::{Rulebook, authorize};
use crate::config::{self, Config};
use crate::connection::{self, Terms};
use crate::error::Failure;
use crate::exchange::{Body, Exchange, Origin};
use crate::forward::{self, Answered, App};
use crate::gather::Gather;
use crate::limit;
use crate::listener::Slot;
use crate::metrics::Direction;
use crate::normalize::normalize;
use crate::peer::Peer;
use crate::respond::{self, Manner};
use crate::tls::Acceptor;
use crate::upstream::{Deadlines, is_grpc};
use crate::worker::Shared;
use http::{Request, Response};
use hyper::body::Incoming;
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
            port: config.app.port,
        })
    }

    /// A connection from accept to end.
    pub(crate) async fn serve(self: Arc<Self>, stream: TcpStream, slot: Slot) {
        let _slot = slot;
        let shared = &self.shared;
        let _open = shared.metrics.connection(Direction::Inbound);
        let _in_flight = shared.drain.hold();
        let config = shared.config.load_full();
        let Ok(address) = stream.peer_addr() else {
            return; // Gone between accept and here.
        };
        let hello = config.timeouts.tls_hello;
        let accepted = match timeout(hello, self.acceptor.accept(Gather(stream))).await {
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
                return;
            }
            Err(_) => {
                shared
                    .metrics
                    .handshake_failure(Direction::Inbound, "hello_timeout");
                return;
            }
        };
        shared.metrics.handshake(Direction::Inbound);
        let peer = accepted.peer;
        let rulebook = Rulebook::new(shared, &peer, accepted.own, self.port);
        let counters = shared.metrics.caller(peer.id());
        let caller = Arc::new(Caller {
            origin: Arc::new(Origin {
                shared: Arc::clone(shared),
                direction: Direction::Inbound,
                peer: Some((peer, counters)),
            }),
            rulebook,
            address: address.ip(),
            app: Arc::clone(&self.app),
        });
        let terms = Terms {
            protocol: accepted.alpn,
            ends: Some(accepted.ends),
            drain: shared.drain.clone(),
        };
        connection::serve(accepted.tls, terms, &config, |request| {
            answer(Arc::clone(&caller), request)
        })
        .await;
    }
}

/// An authenticated connection.
#[derive(Debug)]
struct Caller {
    origin: Arc<Origin>,
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

async fn answer(caller: Arc<Caller>, request: Request<Incoming>) -> Response<Body> {
    let manner = Manner {
        version: request.version(),
        is_grpc: is_grpc(request.method(), request.headers()),
    };
    let mut exchange = Exchange::begin(&caller.origin, &request);
    match handle(&caller, Box::new(request), &mut exchange).await {
        Ok(answered) => answered.into_response(manner.version, exchange),
        Err(failure) => respond::failure(&failure, manner, exchange),
    }
}

/// The life of an inbound request. What it decided is in `exchange`, which writes the record when the response has ended.
async fn handle(
    caller: &Caller,
    mut request: Box<Request<Incoming>>,
    exchange: &mut Exchange,
) -> Result<Answered, Failure> {
    let shared = &caller.origin.shared;
    let peer = caller.peer();
    let rules = caller.rulebook.rules(peer);
    exchange.decided_by(Arc::clone(&rules));

    let normal = normalize(&mut request, &rules.profile)?;
    exchange.normalized(&request);

    let permit = authorize(&rules, &request, &normal, exchange.time)?;
    limit::charge(shared, &permit, &request, peer, caller.address)?;
    exchange.allowed(Some(permit.allow().grant()));

    let deadlines = deadlines(&shared.config.load());
    forward::to_app(
        permit,
        request,
        &normal,
        peer,
        &caller.app,
        deadlines,
        exchange,
    )
    .await
}

fn deadlines(config: &Config) -> Deadlines {
    Deadlines {
        connect: config.timeouts.upstream_connect,
        response: config.timeouts.response,
        idle: config.timeouts.idle,
    }
}
