//! Descriptors over a Unix socket (unix(7), SCM_RIGHTS).

use super::Listening;
use super::elders::MOST;
use crate::Address;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
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

/// What the descriptors behind it are, in their order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    listening: Vec<Address>,
    /// How many conversations with processes before.
    elders: usize,
}

/// Sends a list of what follows, then the descriptors in the same order.
pub(super) async fn send(
    stream: &mut UnixStream,
    sockets: &[Listening],
    elders: &[OwnedFd],
) -> io::Result<()> {
    let list = serde_json::to_vec(&List {
        listening: sockets.iter().map(|one| one.address.clone()).collect(),
        elders: elders.len(),
    })?;
    let length = u32::try_from(list.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&list).await?;
    let listening = sockets.iter().map(|one| one.socket.as_fd());
    let all: Vec<BorrowedFd<'_>> = listening.chain(elders.iter().map(AsFd::as_fd)).collect();
    for batch in all.chunks(BATCH) {
        stream
            .async_io(Interest::WRITABLE, || send_batch(stream, batch))
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

/// Listening sockets, and conversations with processes before.
type Received = (Vec<(Address, OwnedFd)>, Vec<StdUnixStream>);

/// Receives what [`send`] sends, and makes sure that each descriptor is what the list calls it.
///
/// # Errors
/// When the other side breaks off, says something else, or takes too long.
pub(super) fn receive(stream: &mut Timely<'_>) -> io::Result<Received> {
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
    let List { listening, elders } = serde_json::from_slice(&list)?;
    if elders > MOST {
        return Err(garbage(format!(
            "expected at most {MOST} processes before, found {elders}"
        )));
    }
    let expected = listening.len() + elders;
    let mut sockets = Vec::new();
    while sockets.len() < expected {
        let before = sockets.len();
        receive_batch(stream, &mut sockets)?;
        if sockets.len() == before || sockets.len() > expected {
            return Err(garbage(format!(
                "expected {expected} descriptors, found {}",
                sockets.len()
            )));
        }
    }
    let elders = sockets.split_off(listening.len());
    for (address, socket) in listening.iter().zip(&sockets) {
        check(address, socket)?;
    }
    let elders = elders.into_iter().map(conversation);
    Ok((
        listening.into_iter().zip(sockets).collect(),
        elders.collect::<io::Result<_>>()?,
    ))
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

fn conversation(socket: OwnedFd) -> io::Result<StdUnixStream> {
    let line = SockRef::from(&socket);
    if line.local_addr()?.is_unix() && !line.is_listener()? {
        return Ok(socket.into());
    }
    Err(garbage(
        "expected a conversation with a process before, found another socket".to_owned(),
    ))
}

fn garbage(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
