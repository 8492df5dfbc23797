//! Descriptors over a Unix socket (unix(7), SCM_RIGHTS).

use super::Listening;
use crate::Address;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use socket2::SockRef;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::{Duration, Instant};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// Descriptors in one message; the kernel takes 253.
const BATCH: usize = 64;
/// More than 256 workers with a hundred listeners each.
const LONGEST_LIST: u32 = 4 * 1024 * 1024;
/// What carries a batch: a message has to have an octet.
const CARRIER: u8 = b'.';

/// Sends the addresses, then the descriptors in the same order.
pub(super) async fn send(stream: &mut UnixStream, sockets: &[Listening]) -> io::Result<()> {
    let addresses: Vec<&Address> = sockets.iter().map(|one| &one.address).collect();
    let list = serde_json::to_vec(&addresses)?;
    let length = u32::try_from(list.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&list).await?;
    for batch in sockets.chunks(BATCH) {
        let batch: Vec<BorrowedFd<'_>> = batch.iter().map(|one| one.socket.as_fd()).collect();
        stream
            .async_io(Interest::WRITABLE, || send_batch(stream, &batch))
            .await?;
    }
    Ok(())
}

fn send_batch(stream: &UnixStream, batch: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(batch)) {
        return Err(ErrorKind::InvalidInput.into());
    }
    let carrier = [IoSlice::new(&[CARRIER])];
    sendmsg(stream, &carrier, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A stream of which all reads together take no longer than a limit.
pub(super) struct Timely<'s> {
    stream: &'s StdUnixStream,
    ends: Instant,
}

impl<'s> Timely<'s> {
    pub(super) fn new(stream: &'s StdUnixStream, limit: Duration) -> Self {
        Self {
            stream,
            ends: Instant::now() + limit,
        }
    }

    /// Has the next read end in time.
    fn hurry(&self) -> io::Result<()> {
        let left = self.ends.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))
    }
}

impl Read for Timely<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.hurry()?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

/// Receives what [`send`] sends, and makes sure that each descriptor is what the list calls it.
///
/// # Errors
/// When the other side breaks off, says something else, or takes too long.
pub(super) fn receive(stream: &mut Timely<'_>) -> io::Result<Vec<(Address, OwnedFd)>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > LONGEST_LIST {
        return Err(garbage(format!(
            "expected a list of at most {LONGEST_LIST} octets, found one of {length}"
        )));
    }
    let mut list = Vec::new();
    stream.by_ref().take(length.into()).read_to_end(&mut list)?;
    let addresses: Vec<Address> = serde_json::from_slice(&list)?;
    let mut sockets = Vec::new();
    while sockets.len() < addresses.len() {
        let before = sockets.len();
        receive_batch(stream, &mut sockets)?;
        if sockets.len() == before || sockets.len() > addresses.len() {
            return Err(garbage(format!(
                "expected {} descriptors, found {}",
                addresses.len(),
                sockets.len()
            )));
        }
    }
    for (address, socket) in addresses.iter().zip(&sockets) {
        check(address, socket)?;
    }
    Ok(addresses.into_iter().zip(sockets).collect())
}

fn receive_batch(stream: &Timely<'_>, sockets: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut carrier = [0];
    stream.hurry()?;
    let received = rustix::io::retry_on_intr(|| {
        let mut carrier = [IoSliceMut::new(&mut carrier)];
        recvmsg(
            stream.stream,
            &mut carrier,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            sockets.extend(rights);
        }
    }
    // Out of descriptors: the kernel has left some out.
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(garbage("not all descriptors could be taken".to_owned()));
    }
    Ok(())
}

/// The list may be wrong; what a socket listens on is the kernel's word.
fn check(address: &Address, socket: &OwnedFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let bound = socket.local_addr()?;
    let is_it = match address {
        Address::Tcp(address) => bound.as_socket().as_ref() == Some(address),
        Address::Unix(_) => bound.is_unix(),
    };
    if is_it && socket.is_listener()? {
        return Ok(());
    }
    Err(garbage(format!(
        "expected a socket that listens on {address}, found another"
    )))
}

fn garbage(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
