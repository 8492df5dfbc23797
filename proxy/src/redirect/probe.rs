//! Whether the kernel leads connections here at all: this sidecar connects to a port that nothing listens on and that the rules
//! of `tipstaff redirect` lead to its listeners, and looks whether that arrives.
//!
//! What this proves is that the rules are loaded in this network namespace, that the kernel obeys them, and that they lead to
//! the ports of this sidecar. The workload's own connections, and those of callers, go by other rules of the same table.

use super::Misled;
use crate::config::{self, Config, INBOUND_DOOR, OUTBOUND_DOOR};
use crate::drain::{Readiness, Unready};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// How often what has worked is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// And what has not: a process that takes over from another is not ready until a connection is not the other's any more.
const SOON: Duration = Duration::from_millis(250);
/// On one machine anything else is a sidecar too busy to accept.
const PATIENCE: Duration = Duration::from_secs(2);

const MISSING: &str = "interception does not work: run tipstaff redirect install";

/// The connections that this sidecar makes to itself, and those that have arrived.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    /// One for each listener and family. Empty unless connections are redirected.
    doors: Vec<SocketAddr>,
    /// Where the present one comes from: no other socket can have that address.
    knocking: Mutex<Option<(SocketAddr, oneshot::Sender<()>)>>,
}

/// What came of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knock {
    Arrived,
    /// Nobody is there.
    Refused,
    /// Somebody is, and it did not arrive: an old process that drains, a listener with no room.
    Unclear,
}

impl Probe {
    /// `takes_ipv6` says whether outbound connections of that family are redirected.
    pub(crate) fn new(config: &Config, takes_ipv6: bool) -> Self {
        let (ipv4, ipv6) = (
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        );
        let mut doors = Vec::new();
        if config.outbound.as_ref().is_some_and(|out| out.redirected) {
            doors.push(SocketAddr::new(ipv4, OUTBOUND_DOOR));
            if takes_ipv6 {
                doors.push(SocketAddr::new(ipv6, OUTBOUND_DOOR));
            }
        }
        let mut listens = config.inbound.iter();
        // One at a single address is out of reach from here, and the rules lead to one port alone.
        let listen = listens.find_map(|inbound| {
            let is_open =
                inbound.app == config::App::Original && inbound.listen.ip().is_unspecified();
            is_open.then_some(inbound.listen)
        });
        if let Some(listen) = listen {
            doors.push(SocketAddr::new(ipv4, INBOUND_DOOR));
            if listen.is_ipv6() {
                doors.push(SocketAddr::new(ipv6, INBOUND_DOOR));
            }
        }
        Self {
            doors,
            knocking: Mutex::default(),
        }
    }

    /// A connection from `peer` was redirected here on its way to `destination`.
    ///
    /// # Errors
    /// When it was on its way to a door: it has done what it was for.
    pub(super) fn look_at(
        &self,
        peer: io::Result<SocketAddr>,
        destination: SocketAddr,
    ) -> Result<(), Misled> {
        if !self.doors.contains(&destination) {
            return Ok(());
        }
        let knocking = self
            .lock()
            .take_if(|(from, _)| peer.is_ok_and(|peer| peer == *from));
        if let Some((_, arrived)) = knocking {
            // Whoever waits for it may have given up.
            let _ = arrived.send(());
        }
        Err(Misled::Probe)
    }

    /// Keeps `readiness` from being given until every door was seen to lead here.
    pub(crate) fn unready(&self, readiness: &Readiness) -> Option<Unready> {
        (!self.doors.is_empty()).then(|| readiness.wait_for(MISSING))
    }

    /// Goes on looking, and takes readiness back when the rules are gone. Without `unready` they are believed to be there.
    pub(crate) async fn watch(
        &self,
        readiness: &Readiness,
        mut unready: Option<Unready>,
    ) -> Infallible {
        if self.doors.is_empty() {
            return std::future::pending().await;
        }
        let mut missing = match unready {
            Some(_) => self.doors.clone(),
            None => Vec::new(),
        };
        loop {
            self.look(&mut missing).await;
            if missing.is_empty() {
                if unready.take().is_some() {
                    tracing::info!("redirected connections arrive");
                }
            } else if unready.is_none() {
                tracing::warn!(?missing, "{MISSING}");
                unready = self.unready(readiness);
            }
            sleep(if missing.is_empty() { AGAIN } else { SOON }).await;
        }
    }

    /// Knocks at the doors that are `missing`, or when none is, at all.
    async fn look(&self, missing: &mut Vec<SocketAddr>) {
        let doors = match missing.is_empty() {
            true => self.doors.clone(),
            false => missing.clone(),
        };
        for door in doors {
            match self.knock(door).await {
                Knock::Arrived => missing.retain(|other| *other != door),
                Knock::Refused if !missing.contains(&door) => missing.push(door),
                Knock::Refused | Knock::Unclear => {}
            }
        }
    }

    async fn knock(&self, door: SocketAddr) -> Knock {
        let (arrived, arrival) = oneshot::channel();
        let connected = timeout(PATIENCE, self.connect(door, arrived)).await;
        let knock = match connected {
            Ok(Ok(mut stream)) => {
                let mut nothing = [0; 1];
                let arrival = async {
                    tokio::select! {
                        biased;
                        arrived = arrival => arrived.is_ok(),
                        // Whoever took it lets go of it: another process of ours, or not ours at all.
                        _ = stream.read(&mut nothing) => false,
                    }
                };
                match timeout(PATIENCE, arrival).await {
                    Ok(true) => Knock::Arrived,
                    Ok(false) | Err(_) => Knock::Unclear,
                }
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Knock::Refused,
            // A family that this machine does not have has no connections to lead anywhere.
            Ok(Err(error)) if is_absent(&error) && door.is_ipv6() => Knock::Arrived,
            Ok(Err(_)) | Err(_) => Knock::Unclear,
        };
        *self.lock() = None;
        knock
    }

    async fn connect(
        &self,
        door: SocketAddr,
        arrived: oneshot::Sender<()>,
    ) -> io::Result<TcpStream> {
        let socket = match door {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.bind(SocketAddr::new(door.ip(), 0))?;
        *self.lock() = Some((socket.local_addr()?, arrived));
        socket.connect(door).await
    }

    fn lock(&self) -> MutexGuard<'_, Option<(SocketAddr, oneshot::Sender<()>)>> {
        self.knocking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, Unsupported};
    matches!(error.kind(), AddrNotAvailable | Unsupported)
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

#[cfg(test)]
mod tests;
