//! How a connection outlives the certificates it was made with (no connection outlives its identity): the caller's sidecar
//! proves the same SPIFFE ID again, with the certificates of now, on a connection of its own, and names the old one there by
//! a value that only the two ends of that one can know (TLS exporter, RFC 8446 section 7.5). For what lasts for long:
//! WebSockets, gRPC streams, opaque TCP. Everything else moves to a new connection in time.
//!
//! On the wire, under an ALPN of its own: names of 32 octets go up; for each comes down, in order, the moment until which
//! the connection may go on now, as seconds since 1970 in 8 octets, or 0 if nobody here knows such a connection of this caller.
//! A name alone is of no use: whoever says it has to hold a key for the same identity. After an upgrade the connection may be one
//! of a process before this: that is told, by the newer one that it has given its sockets to (`handover/elders.rs`).
//!
//! Here are how long a connection lasts and the answering side; `claims` has the asking side.

mod claims;
mod until;

pub(crate) use claims::{Claim, Claims, Lasting, keep_proven};
pub(crate) use until::Until;

use crate::authorize::LOOK_AGAIN;
use crate::handover::Elders;
use crate::tls::LiveIdentity;
use identity::{SpiffeId, VerifiedChain};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The label of the exporter.
pub(crate) const LABEL: &[u8] = b"EXPORTER-tipstaff-connection";
/// Names on one connection: few callers have more in use at once, and those make another.
const MOST_NAMES: usize = 1024;

pub(crate) const NAME_BYTES: usize = 32;

/// What the ends of one connection call it.
pub(crate) type Name = [u8; NAME_BYTES];

/// That the two ends of a connection are still who they were. Made where the caller's certificate was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) name: Name,
    pub(crate) peer: SpiffeId,
    pub(crate) own: SpiffeId,
    /// In seconds since 1970: when the first of the two certificates ends.
    pub(crate) until: u64,
}

/// When a connection has to end: with the first of its two certificates, later if its peer has proven itself since, or at
/// once when the peer's certificate is revoked.
#[derive(Debug)]
pub(crate) struct Ends {
    moment: AtomicU64,
    /// None of this can be put off by a proof: that may come from whoever has stolen the certificate.
    peer: Revocable,
}

impl Ends {
    pub(crate) fn new(moment: SystemTime, peer: Revocable) -> Self {
        Self {
            moment: AtomicU64::new(seconds(moment)),
            peer,
        }
    }

    /// In the past once the peer is revoked. Look again after [`LOOK_AGAIN`].
    pub(crate) fn moment(&self) -> SystemTime {
        if self.peer.is_revoked() {
            return UNIX_EPOCH;
        }
        UNIX_EPOCH + Duration::from_secs(self.moment.load(Ordering::Relaxed))
    }

    /// `until` is in seconds since 1970.
    pub(crate) fn put_off(&self, until: u64) {
        self.moment.fetch_max(until, Ordering::Relaxed);
    }

    /// Waits until it has come and was not put off.
    pub(crate) async fn reached(&self) {
        while let Ok(left) = self.moment().duration_since(SystemTime::now()) {
            // At least a moment, so that a clock behind the timer does not make this spin.
            tokio::time::sleep(left.clamp(Duration::from_millis(10), LOOK_AGAIN)).await;
        }
    }
}

/// The peer of a connection, whose certificate may be revoked while the connection is open.
#[derive(Debug, Clone)]
pub(crate) struct Revocable {
    chain: Arc<VerifiedChain>,
    live: Arc<LiveIdentity>,
}

impl Revocable {
    pub(crate) fn new(chain: &Arc<VerifiedChain>, live: &Arc<LiveIdentity>) -> Self {
        Self {
            chain: Arc::clone(chain),
            live: Arc::clone(live),
        }
    }

    fn is_revoked(&self) -> bool {
        self.live.is_revoked(&self.chain)
    }
}

/// When a connection has to be replaced or proven again, from the certificates at its two ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Validity {
    /// From here on that is due.
    pub(crate) replace_at: SystemTime,
    /// From here on it takes no request.
    pub(crate) retire_at: SystemTime,
}

impl Validity {
    pub(crate) fn new(now: SystemTime, not_after: SystemTime) -> Self {
        let left = not_after.duration_since(now).unwrap_or_default();
        // Well before the server side sends us away, and early enough for a second attempt.
        Self {
            replace_at: not_after - (left / 2).min(Duration::from_secs(60)),
            retire_at: not_after - (left / 4).min(Duration::from_secs(20)),
        }
    }
}

/// Certificates end with a whole second.
fn seconds(moment: SystemTime) -> u64 {
    moment
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Connections for which there is always room.
const LEAST_ROOM: usize = 128;

/// The connections of callers that may be named: one for the process, since a proof may come to any worker.
#[derive(Debug, Default)]
pub(crate) struct Held {
    connections: Mutex<HashMap<Name, Connection>>,
    /// Who else may have the connection that a caller names.
    pub(crate) elders: Arc<Elders>,
}

#[derive(Debug)]
struct Connection {
    peer: SpiffeId,
    own: SpiffeId,
    ends: Arc<Ends>,
}

impl Held {
    /// Makes a connection known until the value is dropped.
    pub(crate) fn hold(
        self: &Arc<Self>,
        name: Name,
        peer: &SpiffeId,
        own: &SpiffeId,
        ends: &Arc<Ends>,
    ) -> Hold {
        let connection = Connection {
            peer: peer.clone(),
            own: own.clone(),
            ends: Arc::clone(ends),
        };
        self.lock().insert(name, connection);
        Hold {
            held: Arc::clone(self),
            name,
        }
    }

    /// Lets a connection of this process go on, if it is between the same two.
    pub(crate) fn prove(&self, proof: &Proof) -> bool {
        match self.lock().get(&proof.name) {
            Some(known) if known.peer == proof.peer && known.own == proof.own => {
                known.ends.put_off(proof.until);
                true
            }
            _ => false,
        }
    }

    /// Answers a caller that has proven to be `peer`, by certificates that end at `until`.
    pub(crate) async fn answer(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        peer: &SpiffeId,
        own: &SpiffeId,
        until: SystemTime,
    ) -> io::Result<()> {
        let mut proof = Proof {
            name: [0; NAME_BYTES],
            peer: peer.clone(),
            own: own.clone(),
            until: seconds(until),
        };
        for _ in 0..MOST_NAMES {
            match stream.read_exact(&mut proof.name).await {
                Err(end) if end.kind() == io::ErrorKind::UnexpectedEof => break,
                read => read?,
            };
            let granted = self.prove(&proof) || self.elders.prove(&proof).await;
            let answer = if granted { proof.until } else { 0 };
            stream.write_all(&answer.to_be_bytes()).await?;
            stream.flush().await?;
        }
        stream.shutdown().await
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Connection>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that may be named.
#[derive(Debug)]
pub(crate) struct Hold {
    held: Arc<Held>,
    name: Name,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut connections = self.held.lock();
        connections.remove(&self.name);
        // What a flood of connections has made it grow is given back, in steps that removals pay for.
        let wanted = 2 * connections.len();
        if connections.capacity() > 2 * wanted + LEAST_ROOM {
            connections.shrink_to(wanted);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
