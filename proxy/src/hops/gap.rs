//! From a sidecar's inbound side to an outbound listener that stands where an opaque app should: bytes that nobody looks into
//! cannot say how far they have come, so the connection does, to any sidecar of this machine. On a Unix socket the caller's own
//! name says it. On loopback its traffic class does, which the outbound side is told where it asks whose the connection is
//! (sock_diag(7)); nothing has to be remembered, nor a port bound.

use super::{Hops, MOST};
use crate::config::{Destination, Endpoint};
use crate::error::ConnectError;
use crate::socket::Socket;
use crate::upstream::random::Random;
use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use tokio::net::{TcpSocket, TcpStream, UnixSocket, UnixStream, lookup_host};

/// Begins the abstract name (unix(7)) of a connection to an app; the count and something that nobody else has follow.
const NAME: &str = "\0tipstaff-hops-";
/// Of the part that nobody else has: 2^64 names, so that two are never the same.
const SOME: usize = 1 << 32;

/// Ends the code points that are for local use: `xxxx11` (RFC 2474 section 6). They are one for each count.
const LOCAL_USE: u8 = 0b11;
/// Of the octet, those that are not the code point's (RFC 3168 section 5).
const CONGESTION_BITS: u32 = 2;

/// Connects to an opaque app that is told of `hops`, if it is a sidecar; the caller of this sets the deadline.
pub(crate) async fn connect(
    destination: &Destination,
    hops: Hops,
) -> Result<Box<dyn Socket>, ConnectError> {
    let connected: io::Result<Box<dyn Socket>> = match destination {
        Destination::Tcp(endpoint) => match connect_tcp(endpoint, hops).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(error),
        },
        Destination::Unix(path) => match connect_unix(path, hops).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(error),
        },
    };
    connected.map_err(|error| ConnectError::Io(Arc::new(error)))
}

async fn connect_tcp(endpoint: &Endpoint, hops: Hops) -> io::Result<TcpStream> {
    let mut failure = io::ErrorKind::NotFound.into();
    for address in lookup_host((endpoint.host.as_str(), endpoint.port)).await? {
        match connect_to(address, hops).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn connect_to(address: SocketAddr, hops: Hops) -> io::Result<TcpStream> {
    let address = match address.ip().to_canonical() {
        // What IPv4 carries has IPv4's traffic class, also on a socket of IPv6 (RFC 4291 section 2.5.5.2).
        mapped @ IpAddr::V4(_) => SocketAddr::new(mapped, address.port()),
        IpAddr::V6(_) => address,
    };
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Elsewhere it would mean something to the network, and nothing to anybody else.
    if address.ip().is_loopback() {
        let class = traffic_class(hops).into();
        match address {
            SocketAddr::V4(_) => socket.set_tos_v4(class)?,
            SocketAddr::V6(_) => socket.set_tclass_v6(class)?,
        }
    }
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

/// That of a connection which has come so far; 0, the usual one, for one that has come from no sidecar.
fn traffic_class(hops: Hops) -> u8 {
    match hops.0.min(MOST).checked_sub(1) {
        Some(place) => (place << 2 | LOCAL_USE) << CONGESTION_BITS,
        None => 0,
    }
}

/// What a connection of that traffic class has come through. A workload that makes it up ends its own connections with it and no
/// others.
pub(crate) fn hops_of_class(class: u8) -> Hops {
    let point = class >> CONGESTION_BITS;
    match point & LOCAL_USE == LOCAL_USE {
        true => Hops((point >> 2) + 1),
        false => Hops::default(),
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
    use socket2::SockRef;
    use tokio::net::{TcpListener, UnixListener};

    #[test]
    fn each_count_has_a_traffic_class_and_those_of_others_say_nothing() {
        for count in 0..=MOST {
            assert_eq!(hops_of_class(traffic_class(Hops(count))), Hops(count));
        }
        // Expedited forwarding, the classes of assured forwarding and the selectors; and lowest delay, as ssh asks for it.
        for point in (0..64).filter(|point| point % 2 == 0) {
            assert_eq!(hops_of_class(point << CONGESTION_BITS), Hops(0), "{point}");
        }
        assert_eq!(hops_of_class(0x10), Hops(0));
    }

    /// Linux gives it IPv4's class, and an address may be written in either way.
    #[tokio::test]
    async fn a_loopback_address_of_ipv4_that_is_written_as_one_of_ipv6_is_told_as_well() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "::ffff:127.0.0.1"] {
            let address = SocketAddr::new(host.parse().unwrap(), port);
            let stream = connect_to(address, Hops::of(3)).await.unwrap();
            let class = SockRef::from(&stream).tos_v4().unwrap();
            assert_eq!(
                hops_of_class(class.try_into().unwrap()),
                Hops::of(3),
                "{host}"
            );
        }
    }

    #[tokio::test]
    async fn a_connection_to_a_unix_socket_says_it_in_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app");
        let listener = UnixListener::bind(&path).unwrap();
        for hops in [1, 16] {
            let to = Destination::Unix(path.clone());
            let _open = connect(&to, Hops::of(hops)).await.unwrap();
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
