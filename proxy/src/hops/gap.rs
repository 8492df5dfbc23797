//! From a sidecar's inbound side to an outbound listener that stands where an opaque app should: bytes that nobody looks into
//! cannot say how far they have come, so the connection does. On a Unix socket the caller's own name says it, to any sidecar of
//! this machine; on loopback this process remembers by the caller's port.
//!
//! Not seen: a loopback connection to the listener of another sidecar on the same machine.

use super::Hops;
use crate::config::{Destination, Endpoint};
use crate::error::ConnectError;
use crate::socket::Socket;
use crate::upstream::random::Random;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::{TcpSocket, TcpStream, UnixSocket, UnixStream, lookup_host};

/// Begins the abstract name (unix(7)) of a connection to an app; the count and something that nobody else has follow.
const NAME: &str = "\0tipstaff-hops-";
/// Of the part that nobody else has: 2^64 names, so that two are never the same.
const SOME: usize = 1 << 32;

/// What the loopback connections of this process to opaque apps have come through, by their ports.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    ports: Mutex<HashMap<u16, Hops>>,
}

/// Remembered until dropped.
#[derive(Debug)]
pub(crate) struct Told {
    gaps: Arc<Gaps>,
    port: u16,
}

impl Gaps {
    /// Connects to an opaque app that is told of `hops`, if it is a sidecar; the caller of this sets the deadline.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        destination: &Destination,
        hops: Hops,
    ) -> Result<(Box<dyn Socket>, Option<Told>), ConnectError> {
        let connected = match destination {
            Destination::Tcp(endpoint) => self.connect_tcp(endpoint, hops).await,
            Destination::Unix(path) => {
                let stream = connect_unix(path, hops).await;
                stream.map(|stream| (Box::new(stream) as Box<dyn Socket>, None))
            }
        };
        connected.map_err(|error| ConnectError::Io(Arc::new(error)))
    }

    async fn connect_tcp(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        hops: Hops,
    ) -> io::Result<(Box<dyn Socket>, Option<Told>)> {
        let mut failure = io::ErrorKind::NotFound.into();
        for address in lookup_host((endpoint.host.as_str(), endpoint.port)).await? {
            match self.connect_to(address, hops).await {
                Ok((stream, told)) => return Ok((Box::new(stream), told)),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// It has its port, and that is known, before anybody can accept it.
    async fn connect_to(
        self: &Arc<Self>,
        address: SocketAddr,
        hops: Hops,
    ) -> io::Result<(TcpStream, Option<Told>)> {
        let (socket, any) = match address {
            SocketAddr::V4(_) => (TcpSocket::new_v4()?, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (TcpSocket::new_v6()?, Ipv6Addr::UNSPECIFIED.into()),
        };
        let told = match address.ip().to_canonical().is_loopback() {
            true => {
                socket.bind(SocketAddr::new(any, 0))?;
                let port = socket.local_addr()?.port();
                self.lock().insert(port, hops);
                let gaps = Arc::clone(self);
                Some(Told { gaps, port })
            }
            false => None,
        };
        socket.set_nodelay(true)?;
        Ok((socket.connect(address).await?, told))
    }

    /// What a connection that was accepted on loopback has come through.
    pub(crate) fn hops_of(&self, stream: &TcpStream) -> Hops {
        let peer = stream.peer_addr().map(|peer| peer.port());
        let told = peer.ok().and_then(|port| self.lock().get(&port).copied());
        told.unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u16, Hops>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.gaps.lock().remove(&self.port);
    }
}

async fn connect_unix(path: &Path, hops: Hops) -> io::Result<UnixStream> {
    let mut random = Random::new();
    let own = [random.below(SOME), random.below(SOME)];
    let name = format!("{NAME}{}-{:08x}{:08x}", hops.count(), own[0], own[1]);
    let socket = UnixSocket::new_stream()?;
    socket.bind(OsStr::from_bytes(name.as_bytes()))?;
    socket.connect(path).await
}

/// What a connection that was accepted on a Unix socket has come through. Whoever makes up such a name ends its own
/// connections with it and no others.
pub(crate) fn hops_of_unix(stream: &UnixStream) -> Hops {
    let Ok(peer) = stream.peer_addr() else {
        return Hops::default();
    };
    let count = peer.as_abstract_name().and_then(count_in);
    count.map_or_else(Hops::default, Hops::of)
}

fn count_in(name: &[u8]) -> Option<usize> {
    let said = name.strip_prefix(&NAME.as_bytes()[1..])?;
    let (count, _) = std::str::from_utf8(said).ok()?.split_once('-')?;
    count.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, UnixListener};

    #[tokio::test]
    async fn a_loopback_connection_is_known_by_its_port_for_as_long_as_it_lasts() {
        let gaps = Arc::<Gaps>::default();
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(any).await.unwrap();
            let to = Destination::from(listener.local_addr().unwrap());
            let connected = gaps.connect(&to, Hops::of(3)).await;
            let (_open, told) = connected.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            assert_eq!(gaps.hops_of(&accepted), Hops::of(3), "{any}");
            drop(told);
            assert_eq!(gaps.hops_of(&accepted), Hops::default(), "{any}");
            let other = TcpStream::connect(listener.local_addr().unwrap()).await;
            let (accepted, _) = listener.accept().await.unwrap();
            assert_eq!(gaps.hops_of(&accepted), Hops::default(), "{other:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_to_a_unix_socket_says_it_in_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app");
        let listener = UnixListener::bind(&path).unwrap();
        for hops in [1, 16] {
            let to = Destination::Unix(path.clone());
            let gaps = Arc::<Gaps>::default();
            let _open = gaps.connect(&to, Hops::of(hops)).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            assert_eq!(hops_of_unix(&accepted), Hops::of(hops));
        }
        let _open = UnixStream::connect(&path).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert_eq!(hops_of_unix(&accepted), Hops::default());
    }

    #[test]
    fn a_name_that_is_not_ours_says_nothing() {
        for (name, count) in [
            ("tipstaff-hops-3-0011", Some(3)),
            ("tipstaff-hops-999-0011", Some(999)),
            ("tipstaff-hops-3", None),
            ("tipstaff-hops--0011", None),
            ("tipstaff-hops-x-0011", None),
            ("other-3-0011", None),
            ("", None),
        ] {
            assert_eq!(count_in(name.as_bytes()), count, "{name}");
        }
    }
}
