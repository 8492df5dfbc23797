//! A socket with its buffers: what has arrived and is not yet read, and what is to be sent.
//!
//! Heads and small pieces leave together in one plain write: the kernel takes longer to import a vector than we take to copy
//! a head and a short body. Large pieces are not copied. Nothing here is unbounded: whoever sends asks for room first, and
//! whoever reads takes what is there before more is read.

use crate::h2::FRAME;
use crate::socket::Socket;
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

/// A first read: most heads are smaller.
pub(crate) const FIRST_READ: usize = 2 * 1024;
/// The most that one read takes; also what one large body holds in us on this side. Two frames of HTTP/2.
pub(super) const MOST_READ: usize = 2 * FRAME as usize;
/// Pieces up to this size are copied behind the head.
const SMALL: usize = 2 * 1024;
/// No more is taken for sending while this much waits.
const ENOUGH: usize = 64 * 1024;
/// After as much the kernel is asked whether it has room, before more is taken from the other side. What a socket takes while
/// it says so (`listener::UNSENT`) is more than what is sent between two questions: whoever reads slowly leaves next to nothing
/// with us.
const ASK_AFTER: usize = 64 * 1024;
/// Buffers that have grown beyond this are given back when nothing is in them.
const KEPT: usize = 4 * 1024;
/// Pieces that one write takes.
const SLICES: usize = 16;

pub(crate) struct Wire {
    socket: Box<dyn Socket>,
    pub(super) input: BytesMut,
    next_read: usize,
    /// Sent first: large pieces, and what stands between them.
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Sent then.
    output: BytesMut,
    /// Bytes of bodies since the kernel was asked for room.
    unasked: usize,
}

impl Wire {
    /// `input` is what was read from the socket before.
    pub(crate) fn new(socket: Box<dyn Socket>, input: BytesMut) -> Self {
        Self {
            socket,
            input,
            next_read: FIRST_READ,
            queue: VecDeque::new(),
            queued: 0,
            output: BytesMut::new(),
            unasked: 0,
        }
    }

    /// Waits for bytes and appends them to the input. Zero: the other side sends no more. `expected` is how many are known
    /// to come.
    pub(super) fn poll_fill(
        &mut self,
        expected: u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let expected = usize::try_from(expected).unwrap_or(MOST_READ);
        self.input
            .reserve(expected.clamp(self.next_read, MOST_READ));
        let room = self.input.capacity() - self.input.len();
        let socket = Pin::new(&mut self.socket);
        let Poll::Ready(read) = poll_read_buf(socket, cx, &mut self.input) else {
            // What a large body might fill is not held while none of it comes.
            if self.input.is_empty() && self.input.capacity() > KEPT {
                self.input = BytesMut::new();
            }
            return Poll::Pending;
        };
        let read = read?;
        // Bodies of unknown length fill what they are given; the next read may take more.
        if read == room {
            self.next_read = (self.next_read * 2).min(MOST_READ);
        } else if read < self.next_read / 4 {
            self.next_read = (self.next_read / 2).max(FIRST_READ);
        }
        Poll::Ready(Ok(read))
    }

    /// Whether there is a little input, after a read that took no more for want of room.
    pub(super) fn has_begun_full(&self) -> bool {
        let length = self.input.len();
        (1..=FIRST_READ).contains(&length) && length == self.input.capacity()
    }

    /// Whether a connection at rest is as it was left: open, and nothing has come that nobody asked for.
    pub(super) fn is_at_rest(&mut self, asks_kernel: bool) -> bool {
        let mut probe = [0; 1];
        let mut probe = tokio::io::ReadBuf::new(&mut probe);
        let mut cx = Context::from_waker(Waker::noop());
        self.input.is_empty()
            && Pin::new(&mut self.socket)
                .poll_read(&mut cx, &mut probe)
                .is_pending()
            && !(asks_kernel && self.socket.has_input())
    }

    /// Gives back what a large message has made grow, before a wait that may be long. `next_read` is the most that the first
    /// read after it takes.
    pub(super) fn shrink(&mut self, next_read: usize) {
        self.next_read = self.next_read.min(next_read);
        for buffer in [&mut self.input, &mut self.output] {
            if buffer.is_empty() && buffer.capacity() > KEPT {
                *buffer = BytesMut::new();
            }
        }
    }

    /// Where heads and other small things are appended to be sent.
    pub(super) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Sends a piece of a body. There has to be [room](Self::poll_room).
    pub(super) fn send(&mut self, data: Bytes) {
        self.unasked += data.len();
        if data.len() <= SMALL {
            self.output.extend_from_slice(&data);
            return;
        }
        let before = self.output.split().freeze();
        for piece in [before, data] {
            if !piece.is_empty() {
                self.queued += piece.len();
                self.queue.push_back(piece);
            }
        }
    }

    /// Waits until more may be sent: what waits is little, and the other side takes it.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_due = self.unasked >= ASK_AFTER;
        if is_due || self.queued + self.output.len() >= ENOUGH {
            ready!(self.poll_flush(cx))?;
        }
        if is_due {
            ready!(self.socket.poll_room(cx))?;
            self.unasked = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Waits until everything has left.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_flushed() {
            let socket = Pin::new(&mut self.socket);
            let written = if self.queue.is_empty() {
                ready!(socket.poll_write(cx, &self.output))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let mut count = 0;
                let pieces = self.queue.iter().map(Bytes::as_ref);
                for (slice, piece) in slices.iter_mut().zip(pieces.chain([&self.output[..]])) {
                    *slice = IoSlice::new(piece);
                    count += 1;
                }
                ready!(socket.poll_write_vectored(cx, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.queue.is_empty() && self.output.is_empty()
    }

    /// Ends our direction.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.queue.front_mut() {
            let part = written.min(first.len());
            first.advance(part);
            self.queued -= part;
            written -= part;
            if !first.is_empty() {
                return;
            }
            self.queue.pop_front();
        }
        self.output.advance(written);
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("input", &self.input.len())
            .field("output", &(self.queued + self.output.len()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
