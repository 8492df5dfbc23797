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
}

impl Places {
    fn new(connections: usize, tunnels: usize) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(connections)),
            tunnels: Arc::new(Semaphore::new(tunnels)),
        }
    }
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
    pub(crate) fn take_tunnel(
        &self,
        direction: Direction,
    ) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.places(direction).tunnels)
            .try_acquire_owned()
            .map_err(|_| Failure::Overloaded)
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
}
