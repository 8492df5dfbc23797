//! A new process takes the place of the one that runs, and no connection is lost: it asks on the admin socket
//! (`POST /upgrade`), is given the listening sockets (SCM_RIGHTS), obtains an identity of its own, serves, and says so.
//! Only then the old process stops accepting, and drains. Until then it serves as if nothing had happened, whatever becomes of
//! the new one.
//!
//! A connection that nobody has accepted belongs to its listening socket, not to a process: while either holds the
//! socket, the connection waits in it. So every single one is handed over, those of all workers too, and is accepted from for
//! as long as the address is served. Keys, certificates and open connections stay where they are.
//!
//! After the 101 the old process sends a list of addresses (its length in four octets, JSON) and as many descriptors; the new
//! one says `READY` when it serves, and is answered `DONE`, or at any time `KEPT`. `wire.rs` has the descriptors, `give.rs`
//! the old process's side, `take.rs` the new one's. The conversation lasts as long as both: `elders.rs` says what for.

mod elders;
mod give;
mod take;
mod wire;

pub(crate) use elders::Elders;
pub(crate) use give::answer;
pub use take::{AskError, Inherited, Predecessor, RelieveError};

use crate::listener::Sockets;
use crate::proof::Held;
use crate::{Address, admin};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// What the new process asks for, by the HTTP field Upgrade. Another conversation gets another number.
const PROTOCOL: &str = "tipstaff-listeners-2";
/// From the new process: it serves.
const READY: u8 = b'r';
/// From the old process: it does not accept any more.
const DONE: u8 = b'd';
/// From the old process: the sockets stay its own.
const KEPT: u8 = b'k';

/// A listening socket and where it listens.
#[derive(Debug)]
pub(crate) struct Listening {
    address: Address,
    socket: OwnedFd,
}

/// Second handles: closing one leaves the other listening.
impl Listening {
    pub(crate) fn of_tcp(listener: &TcpListener) -> io::Result<Self> {
        Ok(Self {
            address: Address::Tcp(listener.local_addr()?),
            socket: listener.as_fd().try_clone_to_owned()?,
        })
    }

    pub(crate) fn of_unix(listener: &UnixListener) -> io::Result<Self> {
        let bound = listener.local_addr()?;
        let path = bound.as_pathname().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self {
            address: Address::Unix(absolute(path)),
            socket: listener.as_fd().try_clone_to_owned()?,
        })
    }
}

/// The name of a Unix socket in any working directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The listening sockets of this process, and whose they are.
#[derive(Debug)]
pub(crate) struct Handover {
    state: Mutex<State>,
    /// What is proven again wherever the sockets are.
    held: Arc<Held>,
    owned: CancellationToken,
    given: CancellationToken,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    sockets: Arc<[Listening]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The process before this one has not yet let go of them.
    Theirs,
    Ours,
    /// Another process has copies and may become ready.
    Lent,
    /// Another process serves on them.
    Given,
}

/// Why another process gets no sockets now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotNow {
    #[error("another process is taking over already")]
    Lent,
    #[error("this process is itself taking over from another, and is not done")]
    Theirs,
    #[error("another process has taken over")]
    Given,
    #[error("this process is about to stop")]
    Stopping,
}

impl Handover {
    /// All that listens. `is_heir` says that another process holds the same sockets and has to be relieved first. Without an
    /// admin socket nobody can ask for them, and no second handles are made.
    pub(crate) fn of(
        sockets: &Sockets,
        admin: &admin::Bound,
        held: Arc<Held>,
        is_heir: bool,
    ) -> io::Result<Arc<Self>> {
        let mut all = admin.listening()?;
        if !all.is_empty() {
            all.extend(sockets.listening()?);
        }
        Ok(Self::new(all, held, is_heir))
    }

    pub(crate) fn new(sockets: Vec<Listening>, held: Arc<Held>, is_heir: bool) -> Arc<Self> {
        let handover = Self {
            state: Mutex::new(State {
                stage: Stage::Theirs,
                sockets: sockets.into(),
            }),
            held,
            owned: CancellationToken::new(),
            given: CancellationToken::new(),
        };
        if !is_heir {
            handover.own();
        }
        Arc::new(handover)
    }

    /// The process before this one has let go.
    fn own(&self) {
        self.lock().stage = Stage::Ours;
        self.owned.cancel();
    }

    /// Whether the paths of Unix sockets are this process's to remove.
    pub(crate) fn is_owner(&self) -> bool {
        matches!(self.lock().stage, Stage::Ours | Stage::Lent)
    }

    /// Resolves once no process before this one serves on the sockets. Cancel safe.
    pub(crate) async fn owned(&self) {
        self.owned.cancelled().await;
    }

    /// Whether another process serves on the sockets.
    pub(crate) fn is_given(&self) -> bool {
        self.given.is_cancelled()
    }

    /// Resolves once another process serves on the sockets. Cancel safe.
    pub(crate) async fn given(&self) {
        self.given.cancelled().await;
    }

    /// Closes what is kept for a process to come. What waits in the sockets is lost then, unless another process has them.
    pub(crate) fn close(&self) {
        self.lock().sockets = Arc::new([]);
    }

    /// For one process at a time.
    fn lend(self: &Arc<Self>) -> Result<Loan, NotNow> {
        let mut state = self.lock();
        match state.stage {
            Stage::Ours if state.sockets.is_empty() => return Err(NotNow::Stopping),
            Stage::Ours => state.stage = Stage::Lent,
            Stage::Theirs => return Err(NotNow::Theirs),
            Stage::Lent => return Err(NotNow::Lent),
            Stage::Given => return Err(NotNow::Given),
        }
        Ok(Loan {
            sockets: Arc::clone(&state.sockets),
            handover: Arc::clone(self),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sockets on their way to another process: ours again when dropped, unless they were [given](Loan::give).
#[derive(Debug)]
struct Loan {
    handover: Arc<Handover>,
    sockets: Arc<[Listening]>,
}

impl Loan {
    fn give(self) {
        self.handover.lock().stage = Stage::Given;
        self.handover.given.cancel();
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut state = self.handover.lock();
        if state.stage == Stage::Lent {
            state.stage = Stage::Ours;
        }
    }
}

#[cfg(test)]
mod tests;
