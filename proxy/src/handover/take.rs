//! The new process.

use super::wire::{self, Timely};
use super::{DONE, KEPT, PROTOCOL, READY, absolute};
use crate::admin::is_operator;
use crate::drain::Drain;
use crate::{Address, Bound, RunError, descriptors};
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// What the old process takes at most to hand over its sockets, and then to let go of them; it does either at once.
const ANSWER: Duration = Duration::from_secs(10);
/// For a CA that is restarted at the same time, or the network of a machine that was just woken.
const IDENTITY: Duration = Duration::from_secs(60);
/// For a resolver. Endpoints that are not known by then are sought while requests wait for them, as after any start.
const ENDPOINTS: Duration = Duration::from_secs(5);
const LONGEST_HEAD: usize = 8 * 1024;
const LONGEST_REFUSAL: u64 = 64 * 1024;

/// Listening sockets that another process has opened.
#[derive(Debug, Default)]
pub struct Inherited(HashMap<Address, Vec<OwnedFd>>);

impl Inherited {
    /// Those of a TCP address, of all the workers there were.
    pub(crate) fn tcp(&mut self, address: SocketAddr) -> Vec<TcpListener> {
        let sockets = self.0.remove(&Address::Tcp(address)).unwrap_or_default();
        sockets.into_iter().map(TcpListener::from).collect()
    }

    pub(crate) fn unix(&mut self, path: &Path) -> Option<UnixListener> {
        let sockets = self.0.remove(&Address::Unix(absolute(path)))?;
        sockets.into_iter().next().map(UnixListener::from)
    }
}

/// The process that serves on the [`Inherited`] sockets and goes on doing so, unless it is relieved.
#[derive(Debug)]
pub struct Predecessor {
    pub(crate) stream: UnixStream,
    /// Conversations with those before it.
    pub(crate) elders: Vec<UnixStream>,
}

impl Predecessor {
    /// Asks the process whose admin socket is at `path` for its sockets. Blocks, for some seconds at most.
    ///
    /// # Errors
    /// When there is none, it belongs to another user, or it refuses. It goes on as before then.
    pub fn ask(path: &Path) -> Result<(Self, Inherited), AskError> {
        descriptors::raise();
        let stream = connect(path).map_err(|source| AskError::Nobody {
            path: path.to_owned(),
            source,
        })?;
        let peer = rustix::net::sockopt::socket_peercred(&stream).map_err(io::Error::from)?;
        if !is_operator(peer.uid.as_raw()) {
            return Err(AskError::Foreign {
                path: path.to_owned(),
                uid: peer.uid.as_raw(),
            });
        }
        let request = format!(
            "POST /upgrade HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n"
        );
        let mut timely = Timely::new(&stream, ANSWER);
        (&stream).write_all(request.as_bytes())?;
        let head = read_head(&mut timely)?;
        if !head.starts_with("HTTP/1.1 101 ") {
            let mut reason = String::new();
            timely.take(LONGEST_REFUSAL).read_to_string(&mut reason)?;
            return Err(AskError::Refused(said(&head, &reason)));
        }
        let mut sockets = Inherited::default();
        let (listening, elders) = wire::receive(&mut timely)?;
        for (address, socket) in listening {
            sockets.0.entry(address).or_default().push(socket);
        }
        Ok((Self { stream, elders }, sockets))
    }

    /// Says that this process serves, and waits until the other has let go. Gives the conversations with all that have.
    ///
    /// # Errors
    /// When it keeps the sockets: then they must not be served on any longer.
    pub(crate) fn relieve(self) -> Result<Vec<UnixStream>, RelieveError> {
        self.relieve_within(ANSWER)
    }

    pub(super) fn relieve_within(
        mut self,
        limit: Duration,
    ) -> Result<Vec<UnixStream>, RelieveError> {
        // What it said before it closed is read all the same.
        match self.stream.write_all(&[READY]) {
            Err(error) if !is_end(&error) => return Err(RelieveError::Io(error)),
            _ => {}
        }
        let mut answer = [0];
        let mut heard = Timely::new(&self.stream, limit).read_exact(&mut answer);
        if let Err(error) = &heard
            && !is_end(error)
        {
            // It may say the word in this moment, and go. After this it cannot, and has said it or has not.
            self.stream
                .shutdown(Shutdown::Both)
                .map_err(RelieveError::Io)?;
            heard = self.stream.read_exact(&mut answer);
            if heard.is_err() {
                return Err(RelieveError::Late);
            }
        }
        match (heard, answer) {
            (Ok(()), [DONE]) => {
                self.elders.push(self.stream);
                Ok(self.elders)
            }
            (Ok(()), [KEPT]) => Err(RelieveError::Kept),
            (Ok(()), _) => Err(RelieveError::Garbage),
            // It does not go without a word unless it dies, and then nobody else has the sockets.
            (Err(error), _) if is_end(&error) => {
                tracing::warn!("the process before this one has died; going on without it");
                Ok(self.elders)
            }
            (Err(error), _) => Err(RelieveError::Io(error)),
        }
    }
}

impl Bound {
    /// Obtains an identity, serves, relieves `predecessor`, and goes on like [`Bound::run`].
    ///
    /// # Errors
    /// Those of [`Bound::run`], and [`RunError::NotRelieved`] when the predecessor goes on in our place; what was accepted
    /// meanwhile has ended then.
    pub async fn run_after(self, predecessor: Predecessor, drain: Drain) -> Result<(), RunError> {
        tokio::select! {
            obtained = self.obtain_identity() => obtained?,
            () = drain.started() => return Err(RelieveError::Stopped.into()),
        }
        self.sockets.listen().map_err(RunError::Listen)?;
        let (handover, readiness) = (Arc::clone(&self.handover), self.readiness.clone());
        let elders = Arc::clone(&handover.held.elders);
        let discovery = Arc::clone(&self.discovery);
        let unready = readiness.wait_for("workers");
        let serving = self.serve(drain.clone(), unready);
        let relieved = async {
            readiness.complete().await;
            if timeout(ENDPOINTS, discovery.settled()).await.is_err() {
                tracing::warn!("taking over before all endpoints of services are known");
            }
            tokio::task::spawn_blocking(|| predecessor.relieve())
                .await
                .unwrap_or(Err(RelieveError::Stopped))
        };
        tokio::pin!(serving);
        let relieved = tokio::select! {
            ended = &mut serving => return ended,
            relieved = relieved => relieved,
        };
        match relieved {
            Ok(conversations) => {
                elders.add(conversations).await;
                handover.own();
                tracing::info!("taken over from the process before this one");
                serving.await
            }
            Err(error) => {
                drain.start();
                serving.await?;
                Err(error.into())
            }
        }
    }

    async fn obtain_identity(&self) -> Result<(), RelieveError> {
        let mut svid = self.identity.svid.clone();
        let obtained = timeout(IDENTITY, svid.wait_for(Option::is_some)).await;
        match obtained {
            Ok(Ok(_)) => Ok(()),
            _ => {
                let failing = self.identity.state.borrow().failing.clone();
                let reason =
                    failing.map_or_else(|| "no answer".to_owned(), |failing| failing.error);
                Err(RelieveError::NoIdentity { reason })
            }
        }
    }
}

/// A process that is stuck leaves no room to connect, and that is waited for like everything else.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(ANSWER))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

/// To the end of the head and not an octet further: descriptors come behind it.
fn read_head(stream: &mut impl Read) -> Result<String, AskError> {
    let mut head = Vec::new();
    let mut octet = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == LONGEST_HEAD {
            return Err(AskError::Refused("a head without end".to_owned()));
        }
        stream.read_exact(&mut octet)?;
        head.push(octet[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// The reason in a refusal: what the admin side calls `error`, or the status line of whoever else answered.
fn said(head: &str, body: &str) -> String {
    serde_json::from_str(body)
        .ok()
        .and_then(|body: serde_json::Value| Some(body.get("error")?.as_str()?.to_owned()))
        .unwrap_or_else(|| head.lines().next().unwrap_or_default().to_owned())
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
    )
}

/// Why there are no sockets to take over.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("expected a sidecar that answers at admin.socket {}; start without --upgrade if none runs", .path.display())]
    Nobody {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("expected a process of this user at admin.socket {}, found one of user {uid}", .path.display())]
    Foreign { path: PathBuf, uid: u32 },
    #[error("the running process refuses: {0}")]
    Refused(String),
    #[error("the running process does not hand over its sockets")]
    Io(#[from] io::Error),
}

/// Why the process before this one goes on.
#[derive(Debug, thiserror::Error)]
pub enum RelieveError {
    #[error("no identity within {} s: {reason}", IDENTITY.as_secs())]
    NoIdentity { reason: String },
    #[error("the running process keeps its sockets; its own log says why")]
    Kept,
    #[error("the running process has not let go of its sockets within {} s", ANSWER.as_secs())]
    Late,
    #[error("the running process said something that no process says")]
    Garbage,
    #[error("this process was told to stop")]
    Stopped,
    #[error("the running process does not answer")]
    Io(#[source] io::Error),
}
