//! The endpoints of a service as one worker knows them: they follow what is found, and connections to those that stay are
//! kept.

use crate::config::{self, Destination, Resilience, Service};
use crate::discovery::{Following, Member};
use crate::error::ConnectError;
use crate::external::Server;
use crate::proof::{Claims, keep_proven};
use crate::redirect::OwnPorts;
use crate::tls::{Connector, Wanted};
use crate::upstream::balance::Balance;
use crate::upstream::http2::{Lanes, Remote, keep_fresh};
use crate::worker::Shared;
use identity::SpiffeId;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Where the requests for one service may go.
#[derive(Debug)]
pub(super) struct Endpoints {
    pub(super) balance: Arc<Balance>,
    /// Whose they are, and how these are used. None outside the mesh.
    of: Option<Service>,
    follower: Follower,
    /// Keeps `balance` up to date; ends with this.
    _following: JoinSet<()>,
}

impl Endpoints {
    /// `open` are connections there are already; those to endpoints of this service go on being used.
    pub(super) fn new(service: &Service, shared: &Arc<Shared>, open: &[Arc<Lanes>]) -> Arc<Self> {
        let found = shared.discovery.follow(&service.endpoints);
        let whom = Whom::Sidecar(service.identity.clone());
        let follower = Follower::new(found, whom, &service.resilience, shared);
        Self::following(Some(service.clone()), follower, open)
    }

    /// Those of a server outside the mesh.
    pub(super) fn outside(
        endpoints: &config::Endpoints,
        server: Stranger,
        shared: &Arc<Shared>,
    ) -> Arc<Self> {
        let found = shared.discovery.outside(endpoints);
        let whom = Whom::Stranger(server);
        let follower = Follower::new(found, whom, &Resilience::default(), shared);
        Self::following(None, follower, &[])
    }

    fn following(of: Option<Service>, follower: Follower, open: &[Arc<Lanes>]) -> Arc<Self> {
        if let Some(members) = follower.found.members() {
            follower.take(&members, open);
        }
        let mut following = JoinSet::new();
        following.spawn(follower.clone().run());
        Arc::new(Self {
            balance: Arc::clone(&follower.balance),
            of,
            follower,
            _following: following,
        })
    }

    /// Whether these are found and used as those of `service` are, still, and have the same identity to prove.
    pub(super) fn are_of(&self, service: &Service) -> bool {
        self.of.as_ref().is_some_and(|of| {
            self.follower.found.is_live()
                && of.endpoints == service.endpoints
                && of.identity == service.identity
                && of.resilience == service.resilience
        })
    }

    /// Waits until some are known, which at first they may not be.
    ///
    /// # Errors
    /// When nobody knows any, or has not said so within `limit`.
    pub(super) async fn known(&self, limit: Duration) -> Result<(), ConnectError> {
        let members = self.follower.found.known(limit).await?;
        // Whoever does so as well takes the same.
        self.follower.take(&members, &self.balance.lanes());
        Ok(())
    }
}

/// Who is at the endpoints.
#[derive(Debug, Clone)]
enum Whom {
    Sidecar(SpiffeId),
    Stranger(Stranger),
}

/// A server outside the mesh.
#[derive(Debug, Clone)]
pub(in crate::outbound) struct Stranger {
    /// None in plain text.
    pub(in crate::outbound) server: Option<Server>,
    /// Where no connection may lead to.
    pub(in crate::outbound) own: OwnPorts,
}

/// Has a service's requests go where its endpoints are.
#[derive(Debug, Clone)]
struct Follower {
    balance: Arc<Balance>,
    whom: Whom,
    max_connections: usize,
    shared: Arc<Shared>,
    found: Following,
}

impl Follower {
    fn new(found: Following, whom: Whom, rules: &Resilience, shared: &Arc<Shared>) -> Self {
        let ejected = shared.metrics.endpoints_ejected.clone();
        Self {
            balance: Arc::new(Balance::new(rules.clone(), ejected)),
            whom,
            max_connections: rules.max_connections,
            shared: Arc::clone(shared),
            found,
        }
    }

    async fn run(mut self) {
        while self.found.changed().await {
            if let Some(members) = self.found.members() {
                self.take(&members, &self.balance.lanes());
            }
        }
    }

    fn take(&self, members: &[Member], open: &[Arc<Lanes>]) {
        let expected = match &self.whom {
            Whom::Sidecar(identity) => Some(identity),
            Whom::Stranger(_) => None,
        };
        let members = members.iter().map(|member| {
            let destination = Destination::from(member.address.clone());
            let kept = open
                .iter()
                .find(|lanes| lanes.leads_to(&destination, expected));
            let lanes = match (kept, &self.whom) {
                (Some(lanes), _) => Arc::clone(lanes),
                (None, Whom::Sidecar(identity)) => connections(destination, identity, &self.shared),
                (None, Whom::Stranger(stranger)) => stranger.connections(destination, &self.shared),
            };
            lanes.set_most(self.max_connections);
            (Member::clone(member), lanes)
        });
        self.balance.set(members.collect());
    }
}

impl Stranger {
    fn connections(&self, destination: Destination, shared: &Shared) -> Arc<Lanes> {
        let remote = Remote::Outside {
            server: self.server.clone(),
            own: self.own.clone(),
        };
        Lanes::new(destination, remote, Arc::clone(&shared.metrics))
    }
}

fn connections(destination: Destination, identity: &SpiffeId, shared: &Arc<Shared>) -> Arc<Lanes> {
    let connector = |wanted| {
        let live = Arc::clone(&shared.identity);
        Connector::new(identity.clone(), wanted, live)
    };
    let claims = Claims::new(connector(Wanted::Proof));
    tokio::spawn(keep_proven(Arc::downgrade(&claims), Arc::clone(shared)));
    let remote = Remote::Sidecar {
        connector: connector(Wanted::Http),
        http1: connector(Wanted::Http1),
        claims,
    };
    let lanes = Lanes::new(destination, remote, Arc::clone(&shared.metrics));
    tokio::spawn(keep_fresh(
        Arc::downgrade(&lanes),
        Arc::clone(&shared.identity),
        shared.config.load().timeouts.upstream_connect,
    ));
    lanes
}
