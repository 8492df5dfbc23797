//! Binding and accepting: one socket per worker and address (`SO_REUSEPORT`), a cap on open connections, and a pause
//! while memory is full or the system has no descriptors left.

use crate::config::{Config, OutboundListen};
use crate::drain::Drain;
use crate::overload::Overload;
use crate::{Address, BuildError};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::future::Future;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections that the kernel may hold for us between two turns of the accept loop.
const BACKLOG: i32 = 1024;
/// How long accepting pauses after an error of the system (no descriptors, no memory): long enough not to spin, short
/// enough that a caller's connect does not time out.
const PAUSE: Duration = Duration::from_millis(100);

/// What the kernel may hold for a caller beyond what it has sent. Without a bound it takes 4 MiB for each that reads slowly,
/// and filling that for hundreds at once kept everyone else waiting for seconds. Twice what a turn of a relay
/// holds, so that one who reads fast does not wait; with more, thousands of slow readers bring the kernel to its own bound
/// (`tcp_mem`), and what it then does not take stays with us.
pub(crate) const UNSENT: u32 = 128 * 1024;

/// All listening sockets: one set per worker.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) inbound: Vec<SocketAddr>,
    pub(crate) outbound: Option<Address>,
    pub(crate) tcp: Vec<Address>,
    pub(crate) per_worker: Vec<WorkerSockets>,
}

/// The listening sockets of one worker.
#[derive(Debug, Default)]
pub(crate) struct WorkerSockets {
    /// In the order of the configuration.
    pub(crate) inbound: Vec<std::net::TcpListener>,
    /// One, or for redirected connections one for each family of addresses; none without an outbound side.
    pub(crate) outbound: Vec<OutboundSocket>,
    /// Of the TCP services that have a listener, in the order of the configuration.
    pub(crate) tcp: Vec<OutboundSocket>,
}

#[derive(Debug)]
pub(crate) enum OutboundSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// Binds what the configuration names, once per worker.
pub(crate) fn bind(config: &Config) -> Result<Sockets, BuildError> {
    let workers = config.workers.get();
    let mut sockets = Sockets {
        inbound: Vec::new(),
        outbound: None,
        tcp: Vec::new(),
        per_worker: std::iter::repeat_with(WorkerSockets::default)
            .take(workers)
            .collect(),
    };
    for inbound in &config.inbound {
        let (address, listeners) = bind_tcp(inbound.listen, workers)?;
        sockets.inbound.push(address);
        for (worker, listener) in sockets.per_worker.iter_mut().zip(listeners) {
            worker.inbound.push(listener);
        }
    }
    if let Some(outbound) = &config.outbound {
        let (address, listeners) = bind_outbound(&outbound.listen, workers)?;
        sockets.outbound = Some(address);
        for (worker, listener) in sockets.per_worker.iter_mut().zip(listeners) {
            worker.outbound.push(listener);
        }
        if outbound.redirected {
            bind_ipv6_beside(&mut sockets, workers)?;
        }
        for listen in outbound.tcp.iter().filter_map(|tcp| tcp.listen.as_ref()) {
            let (address, listeners) = bind_outbound(listen, workers)?;
            sockets.tcp.push(address);
            for (worker, listener) in sockets.per_worker.iter_mut().zip(listeners) {
                worker.tcp.push(listener);
            }
        }
    }
    Ok(sockets)
}

/// Redirected IPv6 connections arrive at `::1`, on the port that IPv4 ones have.
fn bind_ipv6_beside(sockets: &mut Sockets, workers: usize) -> Result<(), BuildError> {
    let Some(Address::Tcp(ipv4)) = sockets.outbound else {
        return Ok(());
    };
    let ipv6 = (Ipv6Addr::LOCALHOST, ipv4.port()).into();
    match bind_tcp(ipv6, workers) {
        Ok((_, listeners)) => {
            for (worker, listener) in sockets.per_worker.iter_mut().zip(listeners) {
                worker.outbound.push(OutboundSocket::Tcp(listener));
            }
            Ok(())
        }
        // A machine without IPv6 redirects none.
        Err(BuildError::Bind { source, .. })
            if matches!(
                Errno::from_io_error(&source),
                Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT)
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// One listener for each worker.
fn bind_outbound(
    listen: &OutboundListen,
    workers: usize,
) -> Result<(Address, Vec<OutboundSocket>), BuildError> {
    match listen {
        OutboundListen::Tcp(address) => {
            let (address, listeners) = bind_tcp(*address, workers)?;
            let listeners = listeners.into_iter().map(OutboundSocket::Tcp);
            Ok((Address::Tcp(address), listeners.collect()))
        }
        OutboundListen::Unix { path, mode } => {
            let at = |source| BuildError::Bind {
                address: path.display().to_string(),
                source,
            };
            let listener = bind_unix(path, *mode).map_err(at)?;
            let clones = (0..workers).map(|_| listener.try_clone().map(OutboundSocket::Unix));
            let listeners = clones.collect::<io::Result<_>>().map_err(at)?;
            Ok((Address::Unix(path.clone()), listeners))
        }
    }
}

fn bind_tcp(
    address: SocketAddr,
    workers: usize,
) -> Result<(SocketAddr, Vec<std::net::TcpListener>), BuildError> {
    let at = |source| BuildError::Bind {
        address: address.to_string(),
        source,
    };
    let first = listen(address).map_err(at)?;
    // With port 0 the first socket learns the port and the others join it there.
    let bound = first.local_addr().map_err(at)?;
    let mut listeners = vec![first];
    for _ in 1..workers {
        listeners.push(listen(bound).map_err(at)?);
    }
    Ok((bound, listeners))
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

pub(crate) fn bind_unix(path: &Path, mode: u32) -> io::Result<std::os::unix::net::UnixListener> {
    // A socket that nobody answers on was left by a dead process; anything else stays and is an error. Connecting to a
    // file of another kind is refused just the same, so that alone would delete whatever a wrong path names.
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket
        && std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Something that yields connections.
pub(crate) trait Accept {
    type Stream: Send + 'static;
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;
    async fn next(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        // Heads and small bodies are written in one piece; waiting for more only adds latency.
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT)?;
        Ok(stream)
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;
    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

/// A place under the cap on open connections; free again when dropped.
pub(crate) type Slot = OwnedSemaphorePermit;

/// Accepts until the drain starts. At the cap and without memory it waits with one connection in hand, and the kernel's
/// queue holds back the others.
pub(crate) async fn accept<L: Accept>(
    listener: L,
    slots: &Arc<Semaphore>,
    overload: &Overload,
    drain: &Drain,
    mut serve: impl FnMut(L::Stream, Slot),
) {
    loop {
        let next = async {
            let accepted = listener.next().await;
            // The slot comes second: a quiet listener holds none that a busy one needs.
            let slot = Arc::clone(slots).acquire_owned().await;
            while !overload.takes_connections() {
                tokio::time::sleep(PAUSE).await;
            }
            (accepted, slot.expect("the semaphore is never closed"))
        };
        let (accepted, slot) = tokio::select! {
            next = next => next,
            () = drain.started() => return,
        };
        match accepted {
            Ok(stream) => serve(stream, slot),
            Err(error) if is_callers_own(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether an accept error concerns only the connection that was about to be accepted.
fn is_callers_own(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::InvalidInput
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of any other kind used to be deleted.
    #[test]
    fn only_a_dead_socket_makes_way_for_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let (file, socket) = (folder.path().join("file"), folder.path().join("socket"));
        std::fs::write(&file, "kept").unwrap();
        assert!(bind_unix(&file, 0o600).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"kept");

        let living = bind_unix(&socket, 0o600).unwrap();
        assert!(bind_unix(&socket, 0o600).is_err());
        drop(living);
        assert!(bind_unix(&socket, 0o600).is_ok());
    }
}
