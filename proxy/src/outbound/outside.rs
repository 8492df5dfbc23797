//! HTTP to hosts outside the mesh (`outbound.external`): which entry has a host, and the connections to it.

use super::route::{Route, Stranger};
use crate::config::Config;
use crate::config::external::{External, Tls, closest};
use crate::external::Server;
use crate::redirect::OwnPorts;
use crate::worker::Shared;
use http::HeaderValue;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Hosts to which connections are kept: with wildcards the workload makes up the names.
const MAX_HOSTS: usize = 256;
/// Of a host that nobody has called for so long, no connection is kept.
const FORGET_AFTER: Duration = Duration::from_secs(300);

/// The hosts that the workload has called lately.
#[derive(Debug)]
pub(super) struct Outside {
    own: OwnPorts,
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug)]
struct Known {
    entry: External,
    route: Arc<Route>,
    used: Instant,
}

impl Outside {
    pub(super) fn new(own: OwnPorts) -> Self {
        Self {
            own,
            known: Mutex::default(),
        }
    }

    /// The way to the server at `authority`, whose canonical host is `name`; None if no entry has that.
    pub(super) fn find(
        &self,
        authority: &str,
        name: &str,
        config: &Config,
        shared: &Arc<Shared>,
    ) -> Option<Arc<Route>> {
        let mut hosts = self.lock();
        if let Some(known) = hosts.get_mut(authority) {
            known.used = Instant::now();
            return Some(Arc::clone(&known.route));
        }
        let (entry, port) = entry(authority, name, config)?;
        let route = Arc::new(self.route(entry, name, port, shared)?);
        if hosts.len() >= MAX_HOSTS {
            let oldest = hosts.iter().min_by_key(|(_, known)| known.used);
            if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
                hosts.remove(&oldest);
            }
        }
        let known = Known {
            entry: entry.clone(),
            route: Arc::clone(&route),
            used: Instant::now(),
        };
        hosts.insert(authority.to_owned(), known);
        Some(route)
    }

    /// Forgets what `config` no longer has; connections to all other hosts are kept.
    pub(super) fn follow(&self, config: &Config) {
        self.lock().retain(|authority, known| {
            let name = authority.split(':').next().unwrap_or_default();
            entry(authority, name, config).is_some_and(|(entry, _)| *entry == known.entry)
        });
    }

    /// Closes pooled connections that the servers would soon close themselves, and forgets hosts that are not called any more.
    pub(super) fn sweep(&self, limit: Duration) {
        self.lock().retain(|_, known| {
            known.route.sweep(limit);
            known.used.elapsed() < FORGET_AFTER
        });
    }

    fn route(
        &self,
        entry: &External,
        name: &str,
        port: u16,
        shared: &Arc<Shared>,
    ) -> Option<Route> {
        let (server, default_port) = match &entry.tls {
            Tls::Originate(roots) => (Some(Server::new(name, roots).ok()?), 443),
            Tls::Passthrough | Tls::None => (None, 80),
        };
        let endpoints = entry.endpoints_of(name, port);
        let server = Stranger {
            server,
            own: self.own.clone(),
        };
        let host = match port == default_port {
            true => name.to_owned(),
            false => format!("{name}:{port}"),
        };
        let host = HeaderValue::try_from(host).ok()?;
        let timeout = entry.timeout;
        Some(Route::outside(&endpoints, server, host, timeout, shared))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry that names a host most closely, if it has the port; and that port.
fn entry<'c>(authority: &str, name: &str, config: &'c Config) -> Option<(&'c External, u16)> {
    let external = config
        .outbound
        .iter()
        .flat_map(|outbound| &outbound.external);
    let entry = closest(external.filter(|entry| entry.is_http()), name)?;
    let port = match authority.strip_prefix(name)?.strip_prefix(':') {
        None => *entry.ports.first()?,
        Some(port) => port.parse().ok()?,
    };
    entry.ports.contains(&port).then_some((entry, port))
}
