//! Our connections to one service that may outlive their certificates: where they lead, and when they are proven again.

use super::{Ends, MOST_NAMES, Name, Validity, seconds};
use crate::authorize::reached;
use crate::error::ConnectError;
use crate::socket::Socket;
use crate::tls::{Alpn, Connected, Connector};
use crate::worker::Shared;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Between two proofs of one connection: a server that is as old as the connection has no more to give for a while.
const AGAIN: Duration = Duration::from_secs(1);
/// From a renewal to the proofs that follow it: requests in flight are mostly over by then and need none.
const AFTER_RENEWAL: Duration = Duration::from_millis(250);
/// Connections made for proofs at once: each is a handshake.
const AT_ONCE: usize = 4;

/// What the sidecar at the other end of a connection of ours can be asked to let go on.
#[derive(Debug)]
pub(crate) struct Claim {
    name: Name,
    /// Of the very sidecar: the endpoint's name may stand for several. Behind an address that does, too, another one may be
    /// asked, which knows nothing; the next attempt may reach the right one.
    peer: SocketAddr,
    pub(crate) ends: Ends,
    due: Mutex<SystemTime>,
}

impl Claim {
    /// # Errors
    /// The connection is gone already.
    pub(crate) fn of(connected: &Connected<Box<dyn Socket>>) -> Result<Self, ConnectError> {
        let peer = connected.tls.peer();
        let claim = Self {
            name: connected.name,
            peer: peer.map_err(|error| ConnectError::Io(Arc::new(error)))?,
            ends: Ends::new(connected.ends, connected.revocable.clone()),
            due: Mutex::new(connected.ends),
        };
        claim.ask_later(SystemTime::now());
        Ok(claim)
    }

    fn due(&self) -> SystemTime {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask_later(&self, now: SystemTime) {
        let due = Validity::new(now, self.ends.moment()).replace_at;
        *self.due.lock().unwrap_or_else(PoisonError::into_inner) = due.max(now + AGAIN);
    }
}

/// A connection of ours, as it is now.
pub(crate) trait Lasting: Send + Sync + 'static {
    /// None in plain text.
    fn claim(&self) -> Option<&Claim>;

    /// Whether something is on it that would be lost.
    fn is_needed(&self) -> bool;
}

/// Opaque TCP: one stream from the first byte to the last.
impl Lasting for Claim {
    fn claim(&self) -> Option<&Claim> {
        Some(self)
    }

    fn is_needed(&self) -> bool {
        true
    }
}

/// The connections to one service.
#[derive(Debug)]
pub(crate) struct Claims<L> {
    connector: Connector,
    made: Mutex<Vec<Weak<L>>>,
    /// Told when there is one more, or none to come.
    changed: Arc<Notify>,
}

impl<L> Drop for Claims<L> {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

impl<L: Lasting> Claims<L> {
    /// `connector` is for proofs alone.
    pub(crate) fn new(connector: Connector) -> Arc<Self> {
        Arc::new(Self {
            connector,
            made: Mutex::default(),
            changed: Arc::default(),
        })
    }

    /// Has a connection proven again for as long as the value is there and needed.
    pub(crate) fn add(&self, made: &Arc<L>) {
        self.made().push(Arc::downgrade(made));
        self.changed.notify_one();
    }

    /// Those that have not ended.
    fn living(&self, now: SystemTime) -> Vec<Arc<L>> {
        let mut made = self.made();
        made.retain(|one| one.strong_count() > 0);
        let lives = |one: &Arc<L>| one.claim().is_some_and(|claim| claim.ends.moment() > now);
        made.iter()
            .filter_map(Weak::upgrade)
            .filter(lives)
            .collect()
    }

    fn due(&self) -> Option<SystemTime> {
        let living = self.living(SystemTime::now());
        living
            .iter()
            .filter_map(|one| Some(one.claim()?.due()))
            .min()
    }

    /// Asks for all that are needed, each at the sidecar it leads to. What was granted counts, whatever happens after.
    async fn prove_again(self: &Arc<Self>, limit: Duration) {
        let now = SystemTime::now();
        let mut by_peer: HashMap<SocketAddr, Vec<Arc<L>>> = HashMap::new();
        for one in self.living(now) {
            let Some(claim) = one.claim() else { continue };
            claim.ask_later(now);
            if one.is_needed() {
                by_peer.entry(claim.peer).or_default().push(one);
            }
        }
        let mut proofs = JoinSet::new();
        for (peer, needed) in by_peer {
            for part in needed.chunks(MOST_NAMES) {
                if proofs.len() == AT_ONCE {
                    proofs.join_next().await;
                }
                let (claims, part) = (Arc::clone(self), part.to_vec());
                proofs.spawn(async move {
                    let proven = timeout(limit, claims.prove(peer, &part)).await;
                    if let Err(error) = proven.unwrap_or(Err(ConnectError::Timeout(limit))) {
                        tracing::warn!(%error, %peer, "cannot prove again who we are for connections in use");
                    }
                });
            }
        }
        while proofs.join_next().await.is_some() {}
    }

    /// Proves ourselves to the sidecar at `peer`. No more than [`MOST_NAMES`]; the caller of this sets the deadline.
    async fn prove(&self, peer: SocketAddr, needed: &[Arc<L>]) -> Result<(), ConnectError> {
        let lost = |error: io::Error| ConnectError::Io(Arc::new(error));
        let credentials = self.connector.credentials()?;
        let stream = TcpStream::connect(peer).await.map_err(lost)?;
        stream.set_nodelay(true).map_err(lost)?;
        let mut connected = self.connector.connect(credentials, stream).await?;
        if connected.alpn != Alpn::Proof {
            return Err(ConnectError::Protocol);
        }
        let claims = || needed.iter().filter_map(|one| one.claim());
        let names: Vec<Name> = claims().map(|claim| claim.name).collect();
        // Its answers are few enough to wait for us until all was said.
        let stream = &mut connected.tls;
        stream.write_all(names.as_flattened()).await.map_err(lost)?;
        stream.flush().await.map_err(lost)?;
        for claim in claims() {
            let until = stream.read_u64().await.map_err(lost)?;
            // Theirs is the earlier of both sides' certificates; a greater one than ours is not believed.
            let until = until.min(seconds(connected.ends));
            claim.ends.put_off(until);
            claim.ask_later(SystemTime::now());
        }
        Ok(())
    }

    fn made(&self) -> MutexGuard<'_, Vec<Weak<L>>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the connections go on when one of their certificates is renewed. Ends with the claims, or with the identity.
pub(crate) async fn keep_proven<L: Lasting>(claims: Weak<Claims<L>>, shared: Arc<Shared>) {
    let mut svid = shared.identity.watch();
    svid.mark_unchanged();
    let due = |claims: Arc<Claims<L>>| (claims.due(), Arc::clone(&claims.changed));
    while let Some((due, changed)) = claims.upgrade().map(due) {
        tokio::select! {
            renewed = svid.changed() => match renewed {
                Ok(()) => sleep(AFTER_RENEWAL).await,
                Err(_) => return,
            },
            () = changed.notified() => continue,
            () = reached(due) => {}
        }
        let limit = shared.config.load().timeouts.upstream_connect;
        if let Some(claims) = claims.upgrade() {
            claims.prove_again(limit).await;
        }
    }
}
