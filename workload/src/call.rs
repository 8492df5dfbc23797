//! What every call begins with: who asks, and what that caller may have.

use crate::caller::{Caller, Look, Peer};
use crate::holdings::{Holdings, View};
use crate::server::{Service, Shared};
use futures_util::stream::{self, Stream};
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// For a caller to be looked at, those before it included. Reading a gigabyte that is not in memory takes about as long.
const LOOK: Duration = Duration::from_secs(10);

/// The calls of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Calls(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    service: Service,
    peer: Peer,
    /// With all connections of this user.
    shared: Shared,
    /// Held while this one is.
    look: Arc<Semaphore>,
    is_admitted: bool,
    /// Cancelled when the connection is told to go away: streams end then.
    leaving: CancellationToken,
}

impl Calls {
    pub(crate) fn new(
        service: Service,
        (peer, shared): (Peer, Shared),
        is_admitted: bool,
        leaving: CancellationToken,
    ) -> Self {
        Self(Arc::new(Connection {
            service,
            peer,
            shared,
            look: Arc::new(Semaphore::new(1)),
            is_admitted,
            leaving,
        }))
    }

    /// Finds out who asks. Nothing that it sends is read before.
    ///
    /// # Errors
    /// `PermissionDenied` for a process that the socket does not admit, or that is entitled to nothing.
    pub(crate) async fn authenticate(&self) -> Result<Entitlement, Status> {
        if !self.0.is_admitted {
            return Err(Status::permission_denied(
                "this user may not use this socket",
            ));
        }
        let mut entitlement = Entitlement {
            calls: self.clone(),
            caller: self.0.peer.user(),
            seen: Look::User,
            holdings: self.0.service.holdings.clone(),
        };
        entitlement.look().await?;
        Ok(entitlement)
    }
}

impl Calls {
    /// The caller, looked at on a thread that may wait. Whoever holds the permits is that thread: a caller that goes away, or
    /// is not waited for any more, does not make room for another before its file has been read.
    async fn look(&self, look: Look) -> Result<Caller, Status> {
        timeout(LOOK, self.look_in_turn(look))
            .await
            .map_err(|_| Status::unavailable("it takes too long to tell who asks"))?
    }

    async fn look_in_turn(&self, look: Look) -> Result<Caller, Status> {
        let unknown = |_| Status::internal("cannot tell who asks");
        let own = Arc::clone(&self.0.look).acquire_owned().await;
        let of_user = Arc::clone(&self.0.shared.looks).acquire_owned().await;
        let permits = (own.map_err(unknown)?, of_user.map_err(unknown)?);
        let (peer, digests) = (self.0.peer.clone(), Arc::clone(&self.0.service.digests));
        let looking = tokio::task::spawn_blocking(move || {
            let caller = peer.attest((look == Look::Contents).then_some(&*digests));
            drop(permits);
            caller
        });
        let looked = looking.await;
        let looked = looked.map_err(|_| Status::internal("cannot tell who asks"))?;
        looked.map_err(|error| {
            if let Some(left_out) = self.0.service.lines.admit() {
                tracing::warn!(%error, left_out, "cannot tell what a process runs that asks for an identity");
            }
            Status::unavailable("cannot tell who asks at present; ask again")
        })
    }
}

/// A caller that is known, and what it may have from now on.
#[derive(Debug, Clone)]
pub(crate) struct Entitlement {
    /// Of its connection.
    calls: Calls,
    caller: Caller,
    /// How much of it was looked at.
    seen: Look,
    holdings: watch::Receiver<Arc<Holdings>>,
}

impl Entitlement {
    /// What the caller may have now, if it still is what it was.
    ///
    /// # Errors
    /// `PermissionDenied` when it is entitled to nothing (SPIFFE Workload API section 5).
    pub(crate) fn view(&mut self) -> Result<View, Status> {
        let holdings = Arc::clone(&self.holdings.borrow_and_update());
        self.view_of(&holdings)
    }

    fn view_of(&self, holdings: &Holdings) -> Result<View, Status> {
        let view = holdings.view(&self.caller, SystemTime::now());
        view.ok_or_else(|| self.refusal())
    }

    /// The same, once the caller has been looked at again: what it ran at the beginning of a stream it need not run any more, and
    /// a program that it has executed since is entitled by what it is itself. `None`, and no look, if what it was last seen as
    /// has no news: nothing would be sent, and every stream hears of every identity's changes.
    ///
    /// # Errors
    /// As above, and `Unavailable` when that takes too long, or cannot be told at present.
    pub(crate) async fn view_again(
        &mut self,
        is_news: impl FnOnce(&View) -> bool,
    ) -> Result<Option<View>, Status> {
        let as_last_seen = self.view_as_last_seen();
        if as_last_seen.is_some_and(|view| !is_news(&view)) {
            return Ok(None);
        }
        self.look().await.map(Some)
    }

    /// `None` too when it takes another look to tell.
    fn view_as_last_seen(&mut self) -> Option<View> {
        let holdings = Arc::clone(&self.holdings.borrow_and_update());
        match holdings.asks_for(&self.caller, self.seen) {
            Some(_) => None,
            None => holdings.view(&self.caller, SystemTime::now()),
        }
    }

    /// Looks at the caller from the beginning, as far as it takes to tell what it may have.
    async fn look(&mut self) -> Result<View, Status> {
        (self.caller, self.seen) = (self.calls.0.peer.user(), Look::User);
        loop {
            let holdings = Arc::clone(&self.holdings.borrow_and_update());
            let Some(next) = holdings.asks_for(&self.caller, self.seen) else {
                return self.view_of(&holdings);
            };
            self.caller = self.calls.look(next).await?;
            self.seen = next;
        }
    }

    /// What the caller may have now, with at least one certificate.
    ///
    /// # Errors
    /// As above, and `Unavailable` before the first certificate has arrived, or when all have expired.
    pub(crate) fn view_with_svid(&mut self) -> Result<View, Status> {
        let view = self.view()?;
        if view.svids.is_empty() {
            return Err(Status::unavailable("no valid certificate yet; ask again"));
        }
        Ok(view)
    }

    /// Ready when there may be something else; false when the stream has to end.
    pub(crate) async fn changed(&mut self) -> bool {
        tokio::select! {
            () = self.calls.0.leaving.cancelled() => false,
            changed = self.holdings.changed() => changed.is_ok(),
        }
    }

    fn refusal(&self) -> Status {
        if let Some(left_out) = self.calls.0.service.lines.admit() {
            tracing::warn!(
                caller.uid = self.caller.uid,
                caller.gid = self.caller.gid,
                caller.process = ?self.caller.process,
                left_out,
                "a process that is entitled to no identity asked for one"
            );
        }
        Status::permission_denied("no identity is issued to this process")
    }

    /// `first`, and then whatever of the caller's view `is_same` tells apart from what was sent before. Ends with the refusal
    /// when the caller is entitled to nothing any more.
    pub(crate) fn follow<T: 'static>(
        self,
        first: View,
        is_same: fn(&View, &View) -> bool,
        make: fn(&View) -> T,
    ) -> impl Stream<Item = Result<T, Status>> + use<T> {
        let start = Following {
            entitlement: self,
            sent: None,
            next: Some(first),
        };
        stream::unfold(Some(start), move |following| async move {
            let mut following = following?;
            match following.next(is_same).await? {
                Ok(view) => {
                    let message = make(&view);
                    following.sent = Some(view);
                    Some((Ok(message), Some(following)))
                }
                Err(refusal) => Some((Err(refusal), None)),
            }
        })
    }
}

struct Following {
    entitlement: Entitlement,
    sent: Option<View>,
    next: Option<View>,
}

impl Following {
    /// `None` when the stream ends.
    async fn next(&mut self, is_same: fn(&View, &View) -> bool) -> Option<Result<View, Status>> {
        if let Some(first) = self.next.take() {
            return Some(Ok(first));
        }
        loop {
            if !self.entitlement.changed().await {
                return None;
            }
            let sent = self.sent.as_ref();
            let is_news = |view: &View| sent.is_none_or(|sent| !is_same(sent, view));
            match self.entitlement.view_again(is_news).await {
                Ok(Some(view)) if is_news(&view) => return Some(Ok(view)),
                Ok(_) => {}
                Err(refusal) => return Some(Err(refusal)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
