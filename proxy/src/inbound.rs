//! Callers to the workload: who they are (`inbound/admit.rs`), then one function per request.

mod admit;

use crate::authorize::{Asked, Rulebook, admit, authorize};
use crate::config::{self, Config};
use crate::connection::{self, Answer, Terms};
use crate::downstream::Downstream;
use crate::error::Failure;
use crate::exchange::{Exchange, Origin};
use crate::forward::{App, Ended};
use crate::hops::Hops;
use crate::limit;
use crate::listener::Slot;
use crate::metrics::Direction;
use crate::normalize::normalize;
use crate::peer::Who;
use crate::plaintext;
use crate::proof::Ends;
use crate::redirect::Apps;
use crate::relay::Passage;
use crate::socket::Socket;
use crate::tcp;
use crate::tls::{Acceptors, Alpn};
use crate::upgrade::Upgrade;
use crate::upstream::Deadlines;
use crate::worker::{Shared, Tunnel};
use http::request::Parts;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::net::TcpStream;

/// One inbound listener of one worker.
#[derive(Debug)]
pub(crate) struct Inbound {
    shared: Arc<Shared>,
    acceptors: Acceptors,
    config: config::Inbound,
    apps: Arc<Apps>,
    seen: Arc<plaintext::Listener>,
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
            seen: shared.metrics.plaintext.of(config.listen, config.mtls),
        })
    }

    /// A connection from accept to end.
    pub(crate) async fn serve(self: Arc<Self>, stream: TcpStream, slot: Slot) {
        let _slot = slot;
        let shared = &self.shared;
        let _open = shared.metrics.connection(Direction::Inbound);
        let config = shared.config.load_full();
        // Boxed: its memory is free again when it ends, which is long before the connection does.
        let Some(admitted) = Box::pin(self.admit(stream, &config)).await else {
            return;
        };
        let (socket, caller) = (admitted.socket, admitted.caller);
        let ends = admitted.held.as_ref().map(|held| Arc::clone(&held.ends));
        let terms = match admitted.alpn {
            Alpn::Tcp(hops) => {
                let opened = (socket, hops);
                return caller.carry(opened, ends.as_deref(), &config).await;
            }
            protocol => Terms {
                protocol,
                http10: caller.rulebook.rules(caller.who()).takes_http10(),
                ends,
                drain: shared.drain.clone(),
            },
        };
        connection::serve(socket, admitted.start, terms, &config, caller).await;
    }
}

/// A connection that was let in.
#[derive(Debug)]
struct Caller {
    origin: Origin,
    rulebook: Rulebook,
    address: IpAddr,
    app: Arc<App>,
    /// On a permissive listener.
    seen: Option<plaintext::Connection>,
}

impl Caller {
    fn who(&self) -> &Who {
        let who = self.origin.who.as_ref();
        who.expect("inbound connections are made with a caller")
    }

    /// Counts a request, or an opaque connection.
    fn asked(&self) {
        if let Some(seen) = &self.seen {
            seen.asked();
        }
    }

    /// A grant covers it, for as long as what this returns is kept.
    fn granted(&self) -> Option<plaintext::Open> {
        self.seen.as_ref().and_then(plaintext::Connection::granted)
    }

    /// The life of an opaque TCP connection.
    async fn carry(
        &self,
        (socket, hops): (Box<dyn Socket>, Hops),
        ends: Option<&Ends>,
        config: &Config,
    ) {
        let head = tcp::head();
        let mut exchange = Exchange::begin(&self.origin, Some(&head));
        let (app, _held) = match self.open(&head, hops, &mut exchange, config).await {
            Ok(opened) => opened,
            // There is no way to say so but to close.
            Err(failure) => return exchange.failed(&failure),
        };
        let cut = async {
            tokio::select! {
                () = reached(ends) => tcp::CERTIFICATE_ENDED,
                () = self.rulebook.withdrawn(self.who(), Asked::Connection) => tcp::WITHDRAWN,
            }
        };
        tcp::carry(
            socket,
            bytes::BytesMut::new(),
            app,
            config,
            &mut exchange,
            cut,
        )
        .await;
    }

    /// The app's side of an opaque TCP connection, if it is allowed, and what is held for as long as it lasts.
    async fn open(
        &self,
        head: &Parts,
        hops: Hops,
        exchange: &mut Exchange<'_>,
        config: &Config,
    ) -> Result<(Box<dyn Socket>, Held), Failure> {
        let shared = &self.origin.shared;
        self.asked();
        shared.admission.take_request()?;
        let who = self.who();
        let rules = self.rulebook.rules(who);
        exchange.decided_by(Arc::clone(&rules));
        let permit = admit(&rules, exchange.time)?;
        let granted = self.granted();
        limit::charge(shared, &permit, head, (who, self.address), exchange.begun)?;
        exchange.allowed(Some(permit.allow().grant()));
        let tunnel = shared.admission.take_tunnel(Direction::Inbound)?;
        let limit = config.timeouts.upstream_connect;
        let app = self.app.open(permit, limit, hops, exchange).await?;
        Ok((app, (tunnel, granted)))
    }
}

/// The place of an opaque connection, and that it counts as open plain text if it is.
type Held = (Tunnel, Option<plaintext::Open>);

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
        self.asked();
        let shared = &self.origin.shared;
        shared.admission.take_request()?;
        let who = self.who();
        let rules = self.rulebook.rules(who);
        exchange.decided_by(Arc::clone(&rules));

        let mut normal = normalize(head, rules.reading(&self.origin.hosts))?;
        normal.has_body = caller.has_body();
        exchange.normalized(head);

        let permit = authorize(&rules, head, &normal, exchange.time)?;
        let _granted = self.granted();
        limit::charge(shared, &permit, head, (who, self.address), exchange.begun)?;
        exchange.allowed(Some(permit.allow().grant()));

        let way = Passage {
            caller,
            deadlines: Deadlines::of(&shared.config.load(), exchange.begun),
            exchange,
        };
        // A request that is upgraded keeps its connection to the app.
        let _tunnel = match head.extensions.get::<Upgrade>() {
            Some(_) => Some(shared.admission.take_tunnel(Direction::Inbound)?),
            None => None,
        };
        let asked = (who, &self.rulebook);
        if way.to_app(permit, head, &normal, asked, &self.app).await? == Ended::ByItself {
            return Ok(());
        }
        caller.abort();
        exchange.broke_off(tcp::WITHDRAWN);
        Ok(())
    }
}

/// Waits for the end of a certificate. Who has none waits for ever.
async fn reached(ends: Option<&Ends>) {
    match ends {
        Some(ends) => ends.reached().await,
        None => std::future::pending().await,
    }
}
