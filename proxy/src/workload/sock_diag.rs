//! One question to sock_diag(7): which user made the TCP socket between these two addresses, and of what traffic class is it?
//!
//! The request and the reply are three fixed structures of `linux/netlink.h` and `linux/inet_diag.h`, behind the last of which
//! attributes follow, so they are laid out here rather than with a netlink crate.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// `INET_DIAG_NOCOOKIE`: we know the addresses only.
const NO_COOKIE: [u8; 8] = [0xff; 8];
/// States other than LISTEN, which is left out so that a listener on the caller's port cannot answer for it.
const NOT_LISTENING: u32 = !(1 << 10);

const HEADER_BYTES: usize = 16;
const ID_BYTES: usize = 48;
const REQUEST_BYTES: usize = HEADER_BYTES + 8 + ID_BYTES;
/// Of `inet_diag_msg`: family, state, timer, retransmits; id; expires, rqueue, wqueue, uid, inode.
const REPLY_BYTES: usize = HEADER_BYTES + 4 + ID_BYTES + 20;

/// Attributes, of which the request has a bit each: the traffic class by IPv4 and by IPv6.
const INET_DIAG_TOS: u16 = 5;
const INET_DIAG_TCLASS: u16 = 6;
const WANTED: u8 = 1 << (INET_DIAG_TOS - 1) | 1 << (INET_DIAG_TCLASS - 1);
/// Of struct nlattr: length and type.
const ATTRIBUTE_BYTES: usize = 4;

/// Whose a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: u32,
    /// 0 unless its owner has chosen another.
    pub(super) traffic_class: u8,
}

/// The owner of the socket whose own address is `own` and whose peer is `other`. None when there is no such socket, or no
/// process has it any more.
///
/// # Errors
/// When the kernel cannot be asked or answers out of form.
pub(super) fn owner(own: SocketAddr, other: SocketAddr) -> io::Result<Option<Owner>> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(SOCK_DIAG),
    )?;
    let kernel = SocketAddrNetlink::new(0, 0);
    let id = socket_id(own, other);
    rustix::net::sendto(&socket, &request(own, &id), SendFlags::empty(), &kernel)?;
    // The kernel has queued its answer before sendto returns, so there is nothing to wait for.
    let mut reply = [0; 512];
    let (length, _, sender) = rustix::net::recvfrom(&socket, &mut reply, RecvFlags::empty())?;
    let from_kernel =
        sender.is_some_and(|sender| SocketAddrNetlink::try_from(sender) == Ok(kernel));
    if !from_kernel {
        return Err(out_of_form());
    }
    let mapped = socket_id(as_mapped(own), as_mapped(other));
    let class = match own {
        SocketAddr::V4(_) => INET_DIAG_TOS,
        SocketAddr::V6(_) => INET_DIAG_TCLASS,
    };
    read_reply(&reply[..length], &[id, mapped], class)
}

/// How the kernel reports the same address when the socket is an IPv6 one (as gRPC's C core makes for every peer).
fn as_mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped(), address.port()).into(),
        IpAddr::V6(_) => address,
    }
}

fn request(own: SocketAddr, id: &[u8; ID_BYTES]) -> Vec<u8> {
    let mut request = Vec::with_capacity(REQUEST_BYTES);
    // struct nlmsghdr: length, type, flags, sequence, port id.
    request.extend((REQUEST_BYTES as u32).to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    // struct inet_diag_req_v2: family, protocol, extensions, padding, states, id.
    let family = if own.is_ipv4() { AF_INET } else { AF_INET6 };
    request.extend([family, IPPROTO_TCP, WANTED, 0]);
    request.extend(NOT_LISTENING.to_ne_bytes());
    request.extend(id);
    request
}

/// struct inet_diag_sockid: both ports and addresses in network order, interface, cookie.
fn socket_id(own: SocketAddr, other: SocketAddr) -> [u8; ID_BYTES] {
    let mut id = [0; ID_BYTES];
    id[0..2].copy_from_slice(&own.port().to_be_bytes());
    id[2..4].copy_from_slice(&other.port().to_be_bytes());
    put_address(&mut id[4..20], own.ip());
    put_address(&mut id[20..36], other.ip());
    id[40..48].copy_from_slice(&NO_COOKIE);
    id
}

fn put_address(field: &mut [u8], address: IpAddr) {
    match address {
        IpAddr::V4(v4) => field[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => field.copy_from_slice(&v6.octets()),
    }
}

/// `asked` holds the ways in which the kernel may write the two addresses, `class` is the attribute that counts.
fn read_reply(reply: &[u8], asked: &[[u8; ID_BYTES]], class: u16) -> io::Result<Option<Owner>> {
    let kind = reply.get(4..6).ok_or_else(out_of_form)?;
    if kind != SOCK_DIAG_BY_FAMILY.to_ne_bytes() {
        // NLMSG_ERROR, most of the time "no such socket"; whatever it is, nobody vouches for the caller.
        return Ok(None);
    }
    let (reply, attributes) = reply
        .split_at_checked(REPLY_BYTES)
        .ok_or_else(out_of_form)?;
    let id = &reply[HEADER_BYTES + 4..];
    // The kernel falls back to a listener on the same port, and an answer about another socket must not count.
    if !asked.iter().any(|asked| id[..36] == asked[..36]) {
        return Ok(None);
    }
    let [.., u0, u1, u2, u3, i0, i1, i2, i3] = *reply else {
        return Err(out_of_form());
    };
    let uid = u32::from_ne_bytes([u0, u1, u2, u3]);
    let inode = u32::from_ne_bytes([i0, i1, i2, i3]);
    // A socket that its process has closed reports uid 0, which would pass for root: connect, send, close. The kernel
    // reads uid before inode and a closed socket stays closed, so an inode means that the uid is real.
    Ok((inode != 0).then(|| Owner {
        uid,
        traffic_class: octet_of(class, attributes).unwrap_or_default(),
    }))
}

/// The one octet of that attribute.
fn octet_of(wanted: u16, mut attributes: &[u8]) -> Option<u8> {
    while let [l0, l1, k0, k1, value @ ..] = attributes {
        if u16::from_ne_bytes([*k0, *k1]) == wanted {
            return value.first().copied();
        }
        // Each begins at a multiple of four octets; one without a length would never end.
        let length = usize::from(u16::from_ne_bytes([*l0, *l1])).max(ATTRIBUTE_BYTES);
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn out_of_form() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "expected an answer of sock_diag(7), found something else",
    )
}
