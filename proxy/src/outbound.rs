//! The workload's own calls: route by authority, then forward over mutual TLS to exactly the identity that the service names.

mod outside;
mod route;

pub(crate) use route::{Attempt, Route};

use crate::authorize::DecisionId;
use crate::config::Config;
use crate::connection::{self, Answer, Terms};
use crate::detect;
use crate::downstream::Downstream;
use crate::error::Failure;
use crate::exchange::{Exchange, Origin};
use crate::external::{Came, External, UNKNOWN};
use crate::hops::HOPS;
use crate::listener::Slot;
use crate::metrics::Direction;
use crate::normalize::{Hosts, Reading, normalize};
use crate::redirect::OwnPorts;
use crate::relay::Passage;
use crate::socket::Socket;
use crate::upgrade::Upgrades;
use crate::upstream::Deadlines;
use crate::worker::Shared;
use http::header::HOST;
use http::request::Parts;
use outside::Outside;
use policy::target::{EmptySegments, EncodedSlash, PathParams, Profile};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// The callee's profile decides what its paths may hold, at its sidecar; here only what no profile allows is refused.
const WIDEST: Profile = Profile {
    encoded_slash: EncodedSlash::Opaque,
    path_params: PathParams::Literal,
    empty_segments: EmptySegments::Literal,
};

/// The outbound side of one worker.
#[derive(Debug)]
pub(crate) struct Outbound {
    origin: Origin,
    routes: Mutex<Arc<Routes>>,
    outside: Outside,
    external: External,
}

impl Outbound {
    pub(crate) fn new(shared: &Arc<Shared>, own: &OwnPorts) -> Arc<Self> {
        let config = shared.config.load_full();
        Arc::new(Self {
            routes: Mutex::new(Arc::new(Routes::new(config, shared, None))),
            origin: Origin {
                shared: Arc::clone(shared),
                direction: Direction::Outbound,
                who: None,
                hosts: Hosts::default(),
            },
            outside: Outside::new(own.clone()),
            external: External::new(shared, own.clone()),
        })
    }

    /// A connection of the workload from accept to end. Whether it is the workload's was checked before.
    /// `destination` is where one that was redirected was going.
    pub(crate) async fn serve(
        self: Arc<Self>,
        mut stream: Box<dyn Socket>,
        destination: Option<SocketAddr>,
        slot: Slot,
    ) {
        let _slot = slot;
        let shared = Arc::clone(&self.origin.shared);
        let _open = shared.metrics.connection(Direction::Outbound);
        let config = shared.config.load_full();
        if let Some(destination) = destination
            && let Some(outbound) = &config.outbound
            && outbound
                .external
                .iter()
                .any(|entry| entry.has_address(destination))
        {
            let came = Came::Redirected(destination);
            return self.external.as_it_came(stream, came, &config).await;
        }
        let detected = tokio::select! {
            biased;
            detected = timeout(config.timeouts.request_head, detect::http(&mut stream)) => detected,
            () = shared.drain.closing_idle() => return,
        };
        let (protocol, start) = match (detected, destination) {
            // What listens first, or says what is no HTTP, names no service: its destination is one that nobody listed.
            (Err(_), Some(destination)) => {
                return self.external.refuse(&destination.to_string(), UNKNOWN);
            }
            (Ok(Ok((_, start))), Some(destination)) if detect::begins_as_tls(&start) => {
                let came = Came::Redirected(destination);
                return self
                    .external
                    .by_server_name(stream, start, came, &config)
                    .await;
            }
            (Ok(Ok((_, start))), Some(destination)) if !begins_as_http(&start) => {
                return self.external.refuse(&destination.to_string(), UNKNOWN);
            }
            (Ok(Ok(detected)), _) => detected,
            _ => return, // Closed or silent before it said what it speaks: nobody to answer.
        };
        let terms = Terms {
            protocol,
            http10: false,
            ends: None,
            drain: shared.drain.clone(),
        };
        connection::serve(stream, start, terms, &config, self).await;
    }

    /// Closes pooled connections that servers outside would soon close themselves.
    pub(crate) fn sweep(&self, limit: Duration) {
        self.outside.sweep(limit);
        self.origin.shared.discovery.forget();
    }

    /// The routes of the present configuration; connections to endpoints that stay are kept.
    fn routes(&self) -> Arc<Routes> {
        let shared = &self.origin.shared;
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let config = shared.config.load();
        if !Arc::ptr_eq(&config, &routes.config) {
            *routes = Arc::new(Routes::new(Arc::clone(&config), shared, Some(&routes)));
            self.outside.follow(&config);
        }
        Arc::clone(&routes)
    }
}

impl Answer for Outbound {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The life of an outbound request. Whether the workload may do this is decided where it arrives, by who it proves to
    /// be.
    async fn handle(
        &self,
        head: &mut Parts,
        caller: &mut Downstream<'_>,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), Failure> {
        self.origin.shared.admission.take_request()?;
        let normal = normalize(
            head,
            Reading {
                profile: &WIDEST,
                upgrades: Upgrades::Any,
                takes_http10: false,
                hosts: &self.origin.hosts,
            },
        )?;
        exchange.normalized(head);

        let routes = self.routes();
        let host = normal.host(&head.headers);
        let authority = head.headers.get(HOST);
        let authority = authority
            .and_then(|host| host.to_str().ok())
            .unwrap_or(host);
        let shared = &self.origin.shared;
        let route = routes
            .find(authority, host)
            .or_else(|| self.outside.find(authority, host, &routes.config, shared))
            .ok_or_else(|| {
                shared.metrics.destination_refused(authority);
                Failure::UnknownDestination {
                    host: authority.to_owned(),
                    id: DecisionId::new(),
                }
            })?;
        exchange.allowed(None);
        if let Some(host) = &route.outside {
            head.headers.insert(HOST, host.clone());
        } else if let Some(hops) = normal.hops.as_told() {
            head.headers.insert(HOPS, hops);
        }

        let way = Passage {
            caller,
            deadlines: Deadlines {
                response: route.timeout,
                attempt: route.try_timeout,
                ..Deadlines::of(&routes.config, exchange.begun)
            },
            exchange,
        };
        way.to_service(head, &route).await
    }
}

/// Where the workload's requests may go.
#[derive(Debug)]
struct Routes {
    config: Arc<Config>,
    by_host: HashMap<String, Arc<Route>>,
}

impl Routes {
    fn new(config: Arc<Config>, shared: &Arc<Shared>, previous: Option<&Self>) -> Self {
        let services = config
            .outbound
            .iter()
            .flat_map(|outbound| &outbound.services);
        let mut by_host = HashMap::new();
        for service in services {
            let known = previous.iter().flat_map(|routes| routes.by_host.values());
            let route = Arc::new(Route::new(service, shared, known));
            for host in &service.hosts {
                by_host.insert(host.clone(), Arc::clone(&route));
            }
        }
        Self { config, by_host }
    }

    /// The service that has the request's host, with its port if the configuration names one, else by name alone.
    fn find(&self, authority: &str, name: &str) -> Option<Arc<Route>> {
        let route = self.by_host.get(authority);
        route.or_else(|| self.by_host.get(name)).cloned()
    }
}

/// Whether bytes can be the start of a request line or of HTTP/2. A TLS handshake, for one, cannot.
fn begins_as_http(start: &[u8]) -> bool {
    start.first().is_some_and(u8::is_ascii_alphabetic)
}
