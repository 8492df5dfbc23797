//! Who may use the outbound listener: only the proxy's own workload, since it lends the proxy's identity.
//!
//! The kernel is asked which user owns the connecting socket: `SO_PEERCRED` on a Unix socket, sock_diag(7) on loopback
//! TCP. No answer is a refusal. Asked once per connection. Not defended: root, and other programs under an allowed uid.

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

    /// Admits a connection to a loopback listener. `peer` and `local` are as the accepted socket reports them.
    ///
    /// # Errors
    /// When the owner is not allowed, or the kernel does not say who it is.
    pub(crate) fn admit_tcp(&self, peer: SocketAddr, local: SocketAddr) -> Result<(), Stranger> {
        todo!()
    }

    /// Admits a connection to a Unix socket.
    ///
    /// # Errors
    /// As [`Workload::admit_tcp`].
    pub(crate) fn admit_unix(&self, stream: &UnixStream) -> Result<(), Stranger> {
        todo!()
    }
}

/// Why a connection to the outbound listener was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stranger {
    #[error("expected a process of uid {allowed:?}, found uid {found}")]
    Uid { allowed: Vec<u32>, found: u32 },
    #[error("the kernel does not know who owns the connection from {0}")]
    Unknown(SocketAddr),
    #[error("cannot ask the kernel who owns the connection")]
    Query(#[source] std::io::Error),
}
