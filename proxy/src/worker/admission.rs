//! Who may come in, and what may be begun.

use crate::config::Config;
use crate::descriptors;
use crate::error::Failure;
use crate::metrics::Direction;
use crate::overload::Overload;
use std::io;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Whether there is room: memory, and places for open connections. Callers cannot take those of the workload's own
/// calls, nor the other way round.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) overload: Arc<Overload>,
    inbound: Places,
    outbound: Places,
}

/// The places of one direction.
#[derive(Debug)]
struct Places {
    connections: Arc<Semaphore>,
    /// Connections of which each has another of its own behind it, for as long as it lasts: these come out of the files
    /// that are not for callers.
    tunnels: Arc<Semaphore>,
    /// How many more take the place of a connection. Callers that share a few connections, as sidecars do, would leave those
    /// places empty while their WebSockets are refused; the rest stays with whoever connects.
    lent: Arc<Semaphore>,
}

/// Of the places for connections, tunnels get three in four when their own are taken and nobody has connected.
const LENT_OF_4: usize = 3;

/// Held for as long as a tunnel lasts.
#[derive(Debug)]
pub(crate) struct Tunnel {
    _place: OwnedSemaphorePermit,
    _connection: Option<OwnedSemaphorePermit>,
}

impl Places {
    fn new(connections: usize, tunnels: usize) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(connections)),
            tunnels: Arc::new(Semaphore::new(tunnels)),
            lent: Arc::new(Semaphore::new(connections / 4 * LENT_OF_4)),
        }
    }

    fn take_tunnel(&self) -> Option<Tunnel> {
        if let Some(place) = taken(&self.tunnels) {
            return Some(Tunnel {
                _place: place,
                _connection: None,
            });
        }
        Some(Tunnel {
            _place: taken(&self.lent)?,
            _connection: Some(taken(&self.connections)?),
        })
    }
}

fn taken(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(places).try_acquire_owned().ok()
}

impl Admission {
    /// As many places as the configuration names, or as the limit on open files leaves room for once all listeners are bound.
    pub(crate) fn new(config: &Config, overload: Arc<Overload>) -> io::Result<Self> {
        let wanted = config.sizes.max_connections;
        let directions =
            u64::from(!config.inbound.is_empty()) + u64::from(config.outbound.is_some());
        let possible = descriptors::connections(directions)?;
        if possible < wanted {
            tracing::warn!(
                wanted,
                possible,
                "the limit on open files lowers sizes.maxConnections"
            );
        }
        let tunnels = descriptors::tunnels(possible).min(wanted);
        let places = || Places::new(wanted.min(possible), tunnels);
        Ok(Self {
            overload,
            inbound: places(),
            outbound: places(),
        })
    }

    /// The places of open connections.
    pub(crate) fn connections(&self, direction: Direction) -> &Arc<Semaphore> {
        &self.places(direction).connections
    }

    /// A place for a connection that shares nothing: a WebSocket to the app, opaque TCP.
    pub(crate) fn take_tunnel(&self, direction: Direction) -> Result<Tunnel, Failure> {
        let tunnel = self.places(direction).take_tunnel();
        tunnel.ok_or(Failure::Overloaded)
    }

    /// Whether a request may be taken on, asked before its body is read.
    pub(crate) fn take_request(&self) -> Result<(), Failure> {
        if self.overload.takes_requests() {
            Ok(())
        } else {
            Err(Failure::Overloaded)
        }
    }

    fn places(&self, direction: Direction) -> &Places {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    /// They were one pool: callers with WebSockets kept the workload from its database.
    #[test]
    fn tunnels_of_one_direction_take_no_place_of_the_other() {
        let overload = Overload::new(None, Metrics::new()).unwrap();
        let admission = Admission {
            overload: Arc::new(overload),
            inbound: Places::new(1, 1),
            outbound: Places::new(1, 1),
        };
        let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
        for (full, other) in [(inbound, outbound), (outbound, inbound)] {
            let held = admission.take_tunnel(full).unwrap();
            assert!(admission.take_tunnel(full).is_err());
            assert!(admission.take_tunnel(other).is_ok());
            drop(held);
            assert!(admission.take_tunnel(full).is_ok());
        }
    }

    /// An eighth of the open files was all that WebSockets got, however few connections they came on.
    #[test]
    fn tunnels_take_places_of_connections_that_nobody_uses_and_leave_some() {
        let places = Places::new(8, 1);
        let tunnels: Vec<_> = std::iter::from_fn(|| places.take_tunnel()).collect();
        assert_eq!(tunnels.len(), 1 + 6);
        assert_eq!(places.connections.available_permits(), 2);
        drop(tunnels);

        let connected: Vec<_> = std::iter::from_fn(|| taken(&places.connections)).collect();
        assert_eq!(connected.len(), 8);
        let own = places.take_tunnel().unwrap();
        assert!(places.take_tunnel().is_none());
        drop((connected, own));
        let tunnels: Vec<_> = std::iter::from_fn(|| places.take_tunnel()).collect();
        assert_eq!(tunnels.len(), 7, "what was refused has kept nothing");
    }
}
