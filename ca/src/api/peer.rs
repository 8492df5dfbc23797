//! Who calls.

use super::{Api, Refused};
use identity::{VerifiedChain, VerifyError};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

/// Who is at the other end of a connection. Made by the listener after the handshake, and by nothing else.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// The client certificate, which the handshake verified.
    pub(crate) svid: Option<Arc<VerifiedChain>>,
    /// Cancelled when the connection is told to go away: streams end then.
    pub(crate) leaving: CancellationToken,
}

impl Api {
    /// The caller of a call that only the holder of a valid SVID may make.
    pub(super) fn authenticated<T>(
        &self,
        call: &Request<T>,
    ) -> Result<(Peer, Arc<VerifiedChain>), Refused> {
        let peer = call.extensions().get::<Peer>().cloned();
        let Some((peer, svid)) = peer.and_then(|peer| peer.svid.clone().map(|svid| (peer, svid)))
        else {
            return Err(Refused::NoClientCertificate);
        };
        // The listener closes the connection at that time, but by another clock.
        if svid.leaf.not_after <= SystemTime::now() {
            return Err(Refused::ExpiredClientCertificate);
        }
        // The handshake has looked, and the connection may be older than the revocation.
        let revocations = self.authority.revocations();
        match revocations.borrow().check(&svid) {
            Err(VerifyError::Revoked { what, .. }) => {
                Err(Refused::RevokedClientCertificate { what })
            }
            _ => Ok((peer, svid)),
        }
    }
}

/// Where a call comes from.
pub(super) fn address<T>(call: &Request<T>) -> Result<IpAddr, Status> {
    let peer = call.extensions().get::<Peer>();
    // The listener has put it there.
    peer.map(|peer| peer.address)
        .ok_or_else(|| Status::internal("expected a call on a connection"))
}
