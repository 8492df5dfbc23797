//! Who is at the other end of a connection: what the kernel says of the process that made it.
//!
//! User and group are those at the time of the connection (SO_PEERCRED). The program is looked at with each call, and before
//! each later message of a stream, through a handle on the very process that connected (SO_PEERPIDFD, a pidfd): while that
//! process lives its number is nobody else's, and once it is gone nothing is said of its successor. What it was when it was
//! first looked at it remains while it runs the same file, replaced or not. Not defended: root, whoever may trace the process,
//! and a process that hands its socket to another while it lives itself.

mod process;

#[cfg(test)]
pub(crate) use process::Inode;
pub(crate) use process::{Digests, Process};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::UnixStream;

/// How much of a caller is looked at, each with what is before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Look {
    /// User and group, which the kernel has said.
    User,
    /// The paths of its program and its parent's.
    Program,
    /// The digest of its program.
    Contents,
}

/// What is known of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// What it runs; `None` when nobody asked, or when it could not be told for certain.
    pub(crate) process: Option<Process>,
}

/// The other end of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: Option<i32>,
    handle: Option<Arc<OwnedFd>>,
    /// What it ran when it was last looked at.
    last: Arc<Mutex<Option<Process>>>,
}

impl Peer {
    /// Asks the kernel about the other end of `stream`.
    ///
    /// # Errors
    /// When it does not tell who that is, or has no room for a handle on it at present.
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = credentials.pid();
        Ok(Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid,
            handle: handle(stream, pid)?.map(Arc::new),
            last: Arc::default(),
        })
    }

    /// A process that did not connect, as this user.
    #[cfg(test)]
    pub(crate) fn of_process(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        let number = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            pid: Some(pid),
            handle: Some(Arc::new(pidfd_open(number, PidfdFlags::empty())?)),
            last: Arc::default(),
        })
    }

    /// User and group alone.
    pub(crate) fn user(&self) -> Caller {
        Caller {
            uid: self.uid,
            gid: self.gid,
            process: None,
        }
    }

    /// The same and what it runs; with `digests` its contents too. Reads files, so not on a thread that serves others.
    ///
    /// # Errors
    /// When that cannot be told at present, as with too many open files. Of a process that has ended, or that we may not look
    /// at, nothing is known, which is no error.
    pub(crate) fn attest(&self, digests: Option<&Digests>) -> io::Result<Caller> {
        let (Some(pid), Some(handle)) = (self.pid, &self.handle) else {
            return Ok(self.user());
        };
        let process = process::unless_certain(process::read(pid, handle, digests))?;
        Ok(Caller {
            process: process.map(|process| self.known(process)),
            ..self.user()
        })
    }

    fn known(&self, process: Process) -> Process {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let process = match &*last {
            Some(last) => process.since(last),
            None => process,
        };
        *last = Some(process.clone());
        process
    }
}

/// A handle on the process that connected.
fn handle(stream: &UnixStream, pid: Option<i32>) -> io::Result<Option<OwnedFd>> {
    or_by_number(getsockopt(stream, sockopt::PeerPidfd), pid)
}

/// Before Linux 6.5 there is only the number. A process that ended between its connecting and our asking could have been
/// followed by another with the same number; `process::read` cannot see that, so it is asked at once, at the accept.
///
/// A kernel that has the handle and does not give it, as for a process that is gone, is not asked by number.
///
/// # Errors
/// When there is no room for a handle: the connection would be refused for as long as it lasts.
fn or_by_number(asked: nix::Result<OwnedFd>, pid: Option<i32>) -> io::Result<Option<OwnedFd>> {
    let opened = match (asked, pid.and_then(Pid::from_raw)) {
        (Err(Errno::ENOPROTOOPT), Some(pid)) => pidfd_open(pid, PidfdFlags::empty())
            .map_err(|error| Errno::from_raw(error.raw_os_error())),
        (asked, _) => asked,
    };
    match opened {
        Ok(handle) => Ok(Some(handle)),
        Err(full @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => Err(full.into()),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests;
