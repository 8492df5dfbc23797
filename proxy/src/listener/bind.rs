//! Opening the listening sockets: one per worker and address (`SO_REUSEPORT`), or those of the process before this one.

use crate::config::{Config, OutboundListen};
use crate::handover::{Inherited, Listening};
use crate::{Address, BuildError};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Connections that the kernel may hold for us between two turns of the accept loop.
const BACKLOG: i32 = 1024;

/// All listening sockets: one set per worker.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) inbound: Vec<SocketAddr>,
    pub(crate) outbound: Option<Address>,
    pub(crate) tcp: Vec<Address>,
    pub(crate) per_worker: Vec<WorkerSockets>,
}

/// The listening sockets of one worker. Each address has at least one, and more when there were more workers once: none of
/// those may be closed, since connections wait in it.
#[derive(Debug, Default)]
pub(crate) struct WorkerSockets {
    /// In the order of the configuration.
    pub(crate) inbound: Vec<Vec<TcpListener>>,
    /// Of one address, or for redirected connections of one in each family; none without an outbound side.
    pub(crate) outbound: Vec<OutboundSocket>,
    /// Of the TCP services that have a listener, then of external ones, in the order of the configuration.
    pub(crate) tcp: Vec<Vec<OutboundSocket>>,
}

#[derive(Debug)]
pub(crate) enum OutboundSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AsFd for OutboundSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// Binds what the configuration names, once per worker; what is `inherited` of that is taken from there. The kernel puts no TCP
/// connection into the new ones before [`Sockets::listen`].
pub(crate) fn bind(config: &Config, inherited: &mut Inherited) -> Result<Sockets, BuildError> {
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
        let (address, listeners) = bind_tcp(inbound.listen, workers, inherited)?;
        sockets.inbound.push(address);
        for (worker, listeners) in sockets.per_worker.iter_mut().zip(deal(listeners, workers)) {
            worker.inbound.push(listeners);
        }
    }
    if let Some(outbound) = &config.outbound {
        let (address, listeners) = bind_outbound(&outbound.listen, workers, inherited)?;
        sockets.outbound = Some(address);
        for (worker, listeners) in sockets.per_worker.iter_mut().zip(deal(listeners, workers)) {
            worker.outbound.extend(listeners);
        }
        if outbound.redirected {
            bind_ipv6_beside(&mut sockets, workers, inherited)?;
        }
        for listen in outbound.opaque_listens() {
            let (address, listeners) = bind_outbound(listen, workers, inherited)?;
            sockets.tcp.push(address);
            for (worker, listeners) in sockets.per_worker.iter_mut().zip(deal(listeners, workers)) {
                worker.tcp.push(listeners);
            }
        }
    }
    Ok(sockets)
}

impl Sockets {
    /// Takes connections from now on. Those that wait in a socket are lost with it, so whoever may yet give way to the process
    /// before it does this last.
    pub(crate) fn listen(&self) -> io::Result<()> {
        for worker in &self.per_worker {
            let outbound = worker.outbound.iter().chain(worker.tcp.iter().flatten());
            let outbound = outbound.filter_map(|socket| match socket {
                OutboundSocket::Tcp(listener) => Some(listener),
                OutboundSocket::Unix(_) => None,
            });
            for listener in worker.inbound.iter().flatten().chain(outbound) {
                // Nothing changes for those that were inherited: they listen.
                rustix::net::listen(listener, BACKLOG)?;
            }
        }
        Ok(())
    }

    /// Second handles of all of them, for a process to come.
    pub(crate) fn listening(&self) -> io::Result<Vec<Listening>> {
        let mut all = Vec::new();
        for worker in &self.per_worker {
            for socket in worker.inbound.iter().flatten() {
                all.push(Listening::of_tcp(socket)?);
            }
            for socket in worker.outbound.iter().chain(worker.tcp.iter().flatten()) {
                match socket {
                    OutboundSocket::Tcp(listener) => all.push(Listening::of_tcp(listener)?),
                    OutboundSocket::Unix(listener) => all.push(Listening::of_unix(listener)?),
                }
            }
        }
        Ok(all)
    }
}

/// Shares out the listeners of one address, of which there is at least one for each worker.
fn deal<L>(listeners: Vec<L>, workers: usize) -> Vec<Vec<L>> {
    let mut shares: Vec<Vec<L>> = std::iter::repeat_with(Vec::new).take(workers).collect();
    for (number, listener) in listeners.into_iter().enumerate() {
        shares[number % workers].push(listener);
    }
    shares
}

/// Redirected IPv6 connections arrive at `::1`, on the port that IPv4 ones have.
fn bind_ipv6_beside(
    sockets: &mut Sockets,
    workers: usize,
    inherited: &mut Inherited,
) -> Result<(), BuildError> {
    let Some(Address::Tcp(ipv4)) = sockets.outbound else {
        return Ok(());
    };
    let ipv6 = (Ipv6Addr::LOCALHOST, ipv4.port()).into();
    match bind_tcp(ipv6, workers, inherited) {
        Ok((_, listeners)) => {
            let listeners = listeners.into_iter().map(OutboundSocket::Tcp).collect();
            for (worker, listeners) in sockets.per_worker.iter_mut().zip(deal(listeners, workers)) {
                worker.outbound.extend(listeners);
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

/// At least one listener for each worker.
fn bind_outbound(
    listen: &OutboundListen,
    workers: usize,
    inherited: &mut Inherited,
) -> Result<(Address, Vec<OutboundSocket>), BuildError> {
    match listen {
        OutboundListen::Tcp(address) => {
            let (address, listeners) = bind_tcp(*address, workers, inherited)?;
            let listeners = listeners.into_iter().map(OutboundSocket::Tcp);
            Ok((Address::Tcp(address), listeners.collect()))
        }
        OutboundListen::Unix { path, mode } => {
            let at = |source| BuildError::Bind {
                address: path.display().to_string(),
                source,
            };
            let listener = bind_unix(path, *mode, inherited).map_err(at)?;
            let clones = (0..workers).map(|_| listener.try_clone().map(OutboundSocket::Unix));
            let listeners = clones.collect::<io::Result<_>>().map_err(at)?;
            Ok((Address::Unix(path.clone()), listeners))
        }
    }
}

fn bind_tcp(
    address: SocketAddr,
    workers: usize,
    inherited: &mut Inherited,
) -> Result<(SocketAddr, Vec<TcpListener>), BuildError> {
    let at = |source| BuildError::Bind {
        address: address.to_string(),
        source,
    };
    let mut listeners = inherited.tcp(address);
    if listeners.is_empty() {
        listeners.push(bind_one(address).map_err(at)?);
    }
    // With port 0 the first socket learns the port and the others join it there.
    let bound = listeners[0].local_addr().map_err(at)?;
    while listeners.len() < workers {
        listeners.push(bind_one(bound).map_err(at)?);
    }
    Ok((bound, listeners))
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A listener at `path`, inherited or new, with the permissions `mode`.
pub(crate) fn bind_unix(
    path: &Path,
    mode: u32,
    inherited: &mut Inherited,
) -> io::Result<UnixListener> {
    let listener = match inherited.unix(path) {
        Some(listener) => listener,
        None => listen_unix(path)?,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    // A socket that nobody answers on was left by a dead process; anything else stays and is an error. Connecting to a
    // file of another kind is refused just the same, so that alone would delete whatever a wrong path names.
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    /// A file of any other kind used to be deleted.
    #[test]
    fn only_a_dead_socket_makes_way_for_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let (file, socket) = (folder.path().join("file"), folder.path().join("socket"));
        let bind = |path: &Path| bind_unix(path, 0o600, &mut Inherited::default());
        std::fs::write(&file, "kept").unwrap();
        assert!(bind(&file).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"kept");

        let living = bind(&socket).unwrap();
        assert!(bind(&socket).is_err());
        drop(living);
        assert!(bind(&socket).is_ok());
    }

    /// A new process with more workers took connections while it still waited for its identity, and lost them when none came.
    #[test]
    fn sockets_that_were_bound_take_nothing_before_they_are_told_to() {
        const CALLERS: usize = 32;
        let any = "127.0.0.1:0".parse().unwrap();
        let (address, serving) = bind_tcp(any, 1, &mut Inherited::default()).unwrap();
        rustix::net::listen(&serving[0], BACKLOG).unwrap();
        let (_, new) = bind_tcp(address, 4, &mut Inherited::default()).unwrap();
        let new = Sockets {
            inbound: vec![address],
            outbound: None,
            tcp: Vec::new(),
            per_worker: vec![WorkerSockets {
                inbound: vec![new],
                ..WorkerSockets::default()
            }],
        };
        let call = || TcpStream::connect(address).unwrap();
        let _callers: Vec<_> = std::iter::repeat_with(call).take(CALLERS).collect();
        assert!((0..CALLERS).all(|_| serving[0].accept().is_ok()));

        drop(serving);
        assert!(TcpStream::connect(address).is_err());
        new.listen().unwrap();
        assert!(TcpStream::connect(address).is_ok());
    }

    #[test]
    fn no_listener_is_left_out_when_there_are_fewer_workers_than_before() {
        assert_eq!(deal(vec![1, 2, 3, 4, 5], 2), [vec![1, 3, 5], vec![2, 4]]);
        assert_eq!(deal(vec![1, 2], 2), [[1], [2]]);
    }
}
