//! Who is at the other end of a connection: what the kernel says of the process that made it.
//!
//! User and group are those at the time of the connection (SO_PEERCRED). The program is looked at with each call, and before
//! each later message of a stream, through a handle on the very process that connected (SO_PEERPIDFD, a pidfd): while that
//! process lives its number is nobody else's, and once it is gone nothing is said of its successor. Not defended: root,
//! whoever may trace the process, and a process that hands its socket to another while it lives itself.

mod process;

pub(crate) use process::{Digests, Process};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
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
}

impl Peer {
    /// Asks the kernel about the other end of `stream`.
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = credentials.pid();
        Ok(Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid,
            handle: handle(stream, pid).map(Arc::new),
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
    pub(crate) fn attest(&self, digests: Option<&Digests>) -> Caller {
        let process = match (self.pid, &self.handle) {
            (Some(pid), Some(handle)) => process::read(pid, handle, digests),
            _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
        };
        let process = process
            .inspect_err(|error| {
                tracing::debug!(%error, pid = self.pid, "what a caller runs is not known");
            })
            .ok();
        Caller {
            process,
            ..self.user()
        }
    }
}

/// A handle on the process that connected.
fn handle(stream: &UnixStream, pid: Option<i32>) -> Option<OwnedFd> {
    or_by_number(getsockopt(stream, sockopt::PeerPidfd), pid)
}

/// Before Linux 6.5 there is only the number. A process that ended between its connecting and our asking could have been
/// followed by another with the same number; `process::read` cannot see that, so it is asked at once, at the accept.
///
/// A kernel that has the handle and does not give it, as for a process that is gone, is not asked by number.
fn or_by_number(asked: nix::Result<OwnedFd>, pid: Option<i32>) -> Option<OwnedFd> {
    match asked {
        Ok(handle) => Some(handle),
        Err(Errno::ENOPROTOOPT) => pidfd_open(Pid::from_raw(pid?)?, PidfdFlags::empty()).ok(),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests;
