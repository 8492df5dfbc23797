//! The endpoints of a service as one worker knows them: they follow what is found, and connections to those that stay are
//! kept.

use crate::config::{Destination, Endpoint, Resilience, Service};
use crate::discovery::{Following, Member};
use crate::error::ConnectError;
use crate::proof::{Claims, keep_proven};
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
    of: Option<(Service, Follower)>,
    /// Keeps `balance` up to date; ends with this.
    _following: JoinSet<()>,
}

impl Endpoints {
    /// `open` are connections there are already; those to endpoints of this service go on being used.
    pub(super) fn new(service: &Service, shared: &Arc<Shared>, open: &[Arc<Lanes>]) -> Arc<Self> {
        let balance = Arc::new(Balance::new(
            service.resilience.clone(),
            shared.metrics.endpoints_ejected.clone(),
        ));
        let follower = Follower {
            balance: Arc::clone(&balance),
            identity: service.identity.clone(),
            max_connections: service.resilience.max_connections,
            shared: Arc::clone(shared),
            found: shared.discovery.follow(&service.endpoints),
        };
        if let Some(members) = follower.found.members() {
            follower.take(&members, open);
        }
        let mut following = JoinSet::new();
        following.spawn(follower.clone().run());
        Arc::new(Self {
            balance,
            of: Some((service.clone(), follower)),
            _following: following,
        })
    }

    /// Connections outside the mesh, to endpoints that stay as they are.
    pub(super) fn fixed(
        lanes: impl IntoIterator<Item = (Endpoint, Arc<Lanes>)>,
        shared: &Shared,
    ) -> Arc<Self> {
        let balance = Balance::new(
            Resilience::default(),
            shared.metrics.endpoints_ejected.clone(),
        );
        let members = lanes
            .into_iter()
            .map(|(address, lanes)| (Member::at(address), lanes));
        balance.set(members.collect());
        Arc::new(Self {
            balance: Arc::new(balance),
            of: None,
            _following: JoinSet::new(),
        })
    }

    /// Whether these are found and used as those of `service` are, still, and have the same identity to prove.
    pub(super) fn are_of(&self, service: &Service) -> bool {
        self.of.as_ref().is_some_and(|(of, follower)| {
            follower.found.is_live()
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
        let Some((_, follower)) = &self.of else {
            return Err(ConnectError::Unstable); // What is fixed is never empty.
        };
        let members = follower.found.known(limit).await?;
        // Whoever does so as well takes the same.
        follower.take(&members, &self.balance.lanes());
        Ok(())
    }
}

/// Has a service's requests go where its endpoints are.
#[derive(Debug, Clone)]
struct Follower {
    balance: Arc<Balance>,
    identity: SpiffeId,
    max_connections: usize,
    shared: Arc<Shared>,
    found: Following,
}

impl Follower {
    async fn run(mut self) {
        while self.found.changed().await {
            if let Some(members) = self.found.members() {
                self.take(&members, &self.balance.lanes());
            }
        }
    }

    fn take(&self, members: &[Member], open: &[Arc<Lanes>]) {
        let members = members.iter().map(|member| {
            let destination = Destination::from(member.address.clone());
            let kept = open
                .iter()
                .find(|lanes| lanes.leads_to(&destination, &self.identity));
            let lanes = match kept {
                Some(lanes) => Arc::clone(lanes),
                None => connections(destination, &self.identity, &self.shared),
            };
            lanes.set_most(self.max_connections);
            (Member::clone(member), lanes)
        });
        self.balance.set(members.collect());
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
        metrics: Arc::clone(&shared.metrics),
    };
    let lanes = Lanes::new(destination, remote);
    tokio::spawn(keep_fresh(
        Arc::downgrade(&lanes),
        Arc::clone(&shared.identity),
        shared.config.load().timeouts.upstream_connect,
    ));
    lanes
}
