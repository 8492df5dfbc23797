//! Who may use the outbound listener: only the proxy's own workload, since it lends out the proxy's identity.
//!
//! The kernel is asked which user made the connecting socket: `SO_PEERCRED` on a Unix socket, sock_diag(7) on loopback
//! TCP. No answer is a refusal. Asked once per connection, before its first byte is read. Not defended: root, other
//! programs under an allowed uid, and a workload that hands its socket to someone else.

mod sock_diag;

use crate::hops::{Hops, hops_of_class};
use crate::redirect::Misled;
use std::io;
use std::net::SocketAddr;

use tokio::net::UnixStream;

/// The users whose processes may connect.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    uids: Vec<u32>,
}

impl Workload {
    /// An empty list admits nobody.
    pub(crate) fn new(uids: Vec<u32>) -> Self {
        Self { uids }
    }

    /// Admits a connection to a loopback listener, and says how far it has come. `peer` and `local` are as the accepted socket
    /// reports them. A few microseconds, without waiting: the kernel answers within the call.
    ///
    /// # Errors
    /// When the owner is not allowed, or the kernel does not say who it is.
    pub(crate) fn admit_tcp(&self, peer: SocketAddr, local: SocketAddr) -> Result<Hops, Stranger> {
        let owner = sock_diag::owner(peer, local).map_err(Stranger::Query)?;
        let owner = owner.ok_or(Stranger::Unknown(peer))?;
        self.admit(owner.uid)?;
        Ok(hops_of_class(owner.traffic_class))
    }

    /// Admits a connection to a Unix socket.
    ///
    /// # Errors
    /// As [`Workload::admit_tcp`].
    pub(crate) fn admit_unix(&self, stream: &UnixStream) -> Result<(), Stranger> {
        self.admit(stream.peer_cred().map_err(Stranger::Query)?.uid())
    }

    fn admit(&self, uid: u32) -> Result<(), Stranger> {
        if self.uids.contains(&uid) {
            return Ok(());
        }
        Err(Stranger::Uid {
            allowed: self.uids.clone(),
            found: uid,
        })
    }
}

/// The user whose process made the loopback connection from `peer` to `local`, as the accepted socket reports them; `None` when
/// no process has it any more, or it did not come over loopback.
///
/// # Errors
/// When the kernel cannot be asked or answers out of form.
pub fn loopback_owner(peer: SocketAddr, local: SocketAddr) -> io::Result<Option<u32>> {
    Ok(sock_diag::owner(peer, local)?.map(|owner| owner.uid))
}

/// Why a connection to the outbound listener was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stranger {
    #[error("expected a process of one of the uids {allowed:?}, found uid {found}")]
    Uid { allowed: Vec<u32>, found: u32 },
    #[error("the kernel does not know who owns the connection from {0}")]
    Unknown(SocketAddr),
    #[error("cannot ask the kernel who owns the connection")]
    Query(#[source] io::Error),
    #[error(transparent)]
    Misled(#[from] Misled),
}

impl Stranger {
    /// A word from a closed set, as a metric label.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Misled(misled) => misled.reason(),
            _ => "not_the_workload",
        }
    }
}

#[cfg(test)]
mod tests;
