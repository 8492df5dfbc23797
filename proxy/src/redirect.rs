//! Connections that the kernel led here, although they were going elsewhere (`tipstaff redirect`): where to, and that they
//! do not come back to us.
//!
//! Under redirection every connection ends at one of two listeners, so one that was made to the listener itself, or to any
//! other of this sidecar's ports, is a loop or a probe. It is refused before its first byte is read.

mod probe;

pub(crate) use probe::Probe;

use crate::config::{self, Config, Range};
use crate::forward::App;
use crate::hops::Hops;
use crate::listener::{OutboundSocket, Slot, Sockets};
use crate::metrics::Metrics;
use crate::outbound;
use crate::socket::Socket;
use crate::tcp;
use crate::worker::Shared;
use crate::workload::{Stranger, Workload};
use rustix::io::Errno;
use socket2::SockRef;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;

/// Apps whose connections are kept, one per port that callers named. A pod has few ports; a caller can name all there are.
const MAX_APPS: usize = 64;

/// Why a connection to a redirected listener leads nowhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Misled {
    #[error("expected a redirected connection, found one made to {0} itself")]
    Direct(SocketAddr),
    #[error("{0} is this sidecar itself")]
    Loop(SocketAddr),
    /// This sidecar's own, to find out whether it would arrive.
    #[error("a probe of this sidecar's own")]
    Probe,
    #[error("cannot tell where the connection was going")]
    Unknown(#[source] io::Error),
}

impl Misled {
    /// A word from a closed set, as a metric label.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Direct(_) => "not_redirected",
            Self::Loop(_) => "loop_to_self",
            Self::Probe => "probe",
            Self::Unknown(_) => "no_original_destination",
        }
    }
}

/// The ports that this sidecar listens on.
#[derive(Debug, Clone)]
pub(crate) struct OwnPorts {
    ports: Arc<[u16]>,
    probe: Arc<Probe>,
}

impl OwnPorts {
    pub(crate) fn new(config: &Config, sockets: &Sockets) -> Self {
        let inbound = sockets.inbound.iter().map(SocketAddr::port);
        let outbound = sockets.outbound.iter().chain(&sockets.tcp);
        let outbound = outbound.filter_map(|address| match address {
            crate::Address::Tcp(address) => Some(address.port()),
            crate::Address::Unix(_) => None,
        });
        let admin = std::iter::once(config.admin.listen.port());
        let mut listeners = sockets.per_worker.iter().flat_map(|own| &own.outbound);
        let takes_ipv6 = listeners.any(|listener| match listener {
            OutboundSocket::Tcp(listener) => listener.local_addr().is_ok_and(|at| at.is_ipv6()),
            OutboundSocket::Unix(_) => false,
        });
        Self {
            ports: inbound.chain(outbound).chain(admin).collect(),
            probe: Arc::new(Probe::new(config, takes_ipv6)),
        }
    }

    pub(crate) fn probe(&self) -> &Probe {
        &self.probe
    }

    /// Where `stream` was going.
    ///
    /// # Errors
    /// When it was coming here, or the kernel does not say.
    pub(crate) fn destination(&self, stream: &TcpStream) -> Result<SocketAddr, Misled> {
        let local = canonical(stream.local_addr().map_err(Misled::Unknown)?);
        let socket = SockRef::from(stream);
        let original = match local {
            SocketAddr::V4(_) => socket.original_dst_v4(),
            SocketAddr::V6(_) => socket.original_dst_v6(),
        };
        let original = match original {
            Ok(address) => address.as_socket().map(canonical),
            // The kernel keeps no record of what nothing redirects.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(local),
            Err(error) => return Err(Misled::Unknown(error)),
        };
        let original =
            original.ok_or_else(|| Misled::Unknown(io::ErrorKind::InvalidData.into()))?;
        let destination = self.check(local, original)?;
        let peer = stream.peer_addr().map(canonical);
        self.probe.look_at(peer, destination)?;
        Ok(destination)
    }

    /// Whether a connection to `address` would come back to this sidecar.
    pub(crate) fn lead_to(&self, address: SocketAddr) -> bool {
        self.ports.contains(&address.port()) && is_own(address.ip())
    }

    /// The port of this machine that a caller means who was going to `destination`. It need not be an address of ours for the
    /// connection to end here.
    fn port_here(&self, destination: SocketAddr) -> Result<u16, Misled> {
        let port = destination.port();
        match self.ports.contains(&port) {
            true => Err(Misled::Loop(destination)),
            false => Ok(port),
        }
    }

    fn check(&self, local: SocketAddr, original: SocketAddr) -> Result<SocketAddr, Misled> {
        if original == local {
            return Err(Misled::Direct(local));
        }
        if self.lead_to(original) {
            return Err(Misled::Loop(original));
        }
        Ok(original)
    }
}

/// IPv4 in its own form; a socket for both families shows it in that of IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether an address is this machine's: only such can be bound.
fn is_own(address: IpAddr) -> bool {
    address.is_unspecified()
        || !UdpSocket::bind((address, 0)).is_err_and(|error| is_elsewhere(&error))
}

/// Whether an address could not be bound because it is not this machine's. For want of descriptors, say, it may well be.
fn is_elsewhere(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT)
    )
}

/// The workload behind one inbound listener: one app, or whatever is on the port that a caller meant.
#[derive(Debug)]
pub(crate) enum Apps {
    One {
        app: Arc<App>,
        port: u16,
    },
    ByPort {
        own: OwnPorts,
        kept: Mutex<HashMap<u16, Arc<App>>>,
        metrics: Arc<Metrics>,
    },
}

impl Apps {
    pub(crate) fn new(inbound: &config::Inbound, own: &OwnPorts, metrics: &Arc<Metrics>) -> Self {
        match (&inbound.app, inbound.port()) {
            (config::App::At(destination), Some(port)) => Self::One {
                app: App::new(destination, metrics),
                port,
            },
            _ => Self::ByPort {
                own: own.clone(),
                kept: Mutex::default(),
                metrics: Arc::clone(metrics),
            },
        }
    }

    /// The app that the caller on `stream` means, and its port as policy documents know it.
    ///
    /// # Errors
    /// When that is this sidecar, or nothing.
    pub(crate) fn of(&self, stream: &TcpStream) -> Result<(Arc<App>, u16), Misled> {
        match self {
            Self::One { app, port } => Ok((Arc::clone(app), *port)),
            Self::ByPort { own, kept, metrics } => {
                let port = own.port_here(own.destination(stream)?)?;
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(app) = kept.get(&port) {
                    return Ok((Arc::clone(app), port));
                }
                let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into();
                let app = App::new(&to, metrics);
                if kept.len() < MAX_APPS {
                    kept.insert(port, Arc::clone(&app));
                }
                Ok((app, port))
            }
        }
    }

    /// Closes pooled connections that the apps would soon close themselves.
    pub(crate) fn sweep(&self, limit: Duration) {
        match self {
            Self::One { app, .. } => app.http1.sweep(limit),
            Self::ByPort { kept, .. } => {
                let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.values().for_each(|app| app.http1.sweep(limit));
            }
        }
    }
}

/// The workload's connections, wherever they were going.
#[derive(Debug)]
pub(crate) struct Outbound {
    own: OwnPorts,
    workload: Workload,
    /// By destination, in the order of the configuration; the first counts.
    tcp: Vec<(Vec<Range>, Arc<tcp::Outbound>)>,
    /// For everything else, by authority.
    http: Arc<outbound::Outbound>,
}

impl Outbound {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        config: &config::Outbound,
        own: OwnPorts,
        http: Arc<outbound::Outbound>,
    ) -> Arc<Self> {
        // The rules leave our own connections alone. One that comes back all the same would come back for ever.
        let ours = rustix::process::geteuid().as_raw();
        let uids = config.uids.iter().copied().filter(|uid| *uid != ours);
        let tcp = config
            .tcp
            .iter()
            .filter(|service| !service.destinations.is_empty());
        let tcp = tcp.map(|service| {
            let outbound = tcp::Outbound::new(shared, service);
            (service.destinations.clone(), outbound)
        });
        Arc::new(Self {
            own,
            workload: Workload::new(uids.collect()),
            tcp: tcp.collect(),
            http,
        })
    }

    /// Where a connection of the workload was going.
    ///
    /// # Errors
    /// When it is not the workload's, or was going nowhere but here.
    pub(crate) fn admit(&self, stream: &TcpStream) -> Result<SocketAddr, Stranger> {
        let destination = self.own.destination(stream)?;
        let peer = stream.peer_addr().map_err(Stranger::Query)?;
        // As the workload's socket knows it: that was connected to its destination, not to us.
        self.workload.admit_tcp(canonical(peer), destination)?;
        Ok(destination)
    }

    /// A connection that was admitted, from accept to end.
    pub(crate) async fn serve(
        self: Arc<Self>,
        stream: Box<dyn Socket>,
        destination: SocketAddr,
        slot: Slot,
    ) {
        let to =
            |(ranges, _): &&(Vec<Range>, _)| ranges.iter().any(|range| range.contains(destination));
        match self.tcp.iter().find(to) {
            // Never this sidecar's own: it is none of the users.
            Some((_, service)) => {
                let service = Arc::clone(service);
                service.serve(stream, Hops::default(), slot).await;
            }
            None => {
                let http = Arc::clone(&self.http);
                http.serve(stream, Some(destination), slot).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
