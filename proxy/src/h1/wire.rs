//! A socket with its buffers: what has arrived and is not yet read, and what is to be sent.
//!
//! Heads and small pieces leave together in one plain write: the kernel takes longer to import a vector than we take to copy
//! a head and a short body. Large pieces are not copied. Nothing here is unbounded: whoever sends asks for room first, and
//! whoever reads takes what is there before more is read.

use bytes::{Bytes, BytesMut};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

/// Any kind of connection. Boxed, so that HTTP is compiled once and not once for each kind.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A first read: most heads are smaller.
pub(crate) const FIRST_READ: usize = 2 * 1024;
/// The most that one read takes; also what one large body holds in us on this side.
const MOST_READ: usize = 64 * 1024;
/// Pieces up to this size are copied behind the head.
const SMALL: usize = 2 * 1024;
/// No more is taken for sending while this much waits.
const ENOUGH: usize = 16 * 1024;
/// Buffers that have grown beyond this are given back when nothing is in them.
const KEPT: usize = 4 * 1024;

pub(crate) struct Wire {
    socket: Box<dyn Socket>,
    pub(super) input: BytesMut,
    next_read: usize,
    /// Sent in this order.
    before: BytesMut,
    large: Bytes,
    after: BytesMut,
}

impl Wire {
    /// `input` is what was read from the socket before.
    pub(crate) fn new(socket: Box<dyn Socket>, input: BytesMut) -> Self {
        Self {
            socket,
            input,
            next_read: FIRST_READ,
            before: BytesMut::new(),
            large: Bytes::new(),
            after: BytesMut::new(),
        }
    }

    /// Waits for bytes and appends them to the input. Zero: the other side sends no more.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.reserve(self.next_read);
        let before = self.input.capacity() - self.input.len();
        let read = ready!(poll_read_buf(
            Pin::new(&mut self.socket),
            cx,
            &mut self.input
        ))?;
        // Large bodies fill what they are given; the next read may take more.
        if read == before && self.next_read < MOST_READ {
            self.next_read *= 2;
        }
        Poll::Ready(Ok(read))
    }

    /// Whether a connection at rest is as it was left: open, and nothing has come that nobody asked for.
    pub(super) fn is_at_rest(&mut self) -> bool {
        let mut probe = [0; 1];
        let mut probe = tokio::io::ReadBuf::new(&mut probe);
        let mut cx = Context::from_waker(Waker::noop());
        self.input.is_empty()
            && Pin::new(&mut self.socket)
                .poll_read(&mut cx, &mut probe)
                .is_pending()
    }

    /// Gives back what a large message has made grow, before a wait that may be long.
    pub(super) fn shrink(&mut self) {
        self.next_read = FIRST_READ;
        for buffer in [&mut self.input, &mut self.before, &mut self.after] {
            if buffer.is_empty() && buffer.capacity() > KEPT {
                *buffer = BytesMut::new();
            }
        }
    }

    /// Where heads and other small things are appended to be sent. There has to be [room](Self::has_room).
    pub(super) fn output(&mut self) -> &mut BytesMut {
        if self.large.is_empty() {
            &mut self.before
        } else {
            &mut self.after
        }
    }

    /// Sends a piece of a body. There has to be [room](Self::has_room).
    pub(super) fn send(&mut self, data: Bytes) {
        debug_assert!(self.large.is_empty());
        if data.len() <= SMALL {
            self.before.extend_from_slice(&data);
        } else {
            self.large = data;
        }
    }

    /// Whether more may be sent before what waits has left.
    pub(super) fn has_room(&self) -> bool {
        self.large.is_empty() && self.before.len() < ENOUGH
    }

    /// Waits until everything has left.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_flushed() {
            let socket = Pin::new(&mut self.socket);
            let written = if self.large.is_empty() {
                ready!(socket.poll_write(cx, &self.before))?
            } else {
                let parts = [&self.before[..], &self.large, &self.after].map(IoSlice::new);
                // An empty slice in front would be all that a socket without vectored writes takes.
                let first = usize::from(self.before.is_empty());
                ready!(socket.poll_write_vectored(cx, &parts[first..]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.before.is_empty() && self.large.is_empty()
    }

    /// Ends our direction.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn advance(&mut self, written: usize) {
        use bytes::Buf;
        let of_before = written.min(self.before.len());
        self.before.advance(of_before);
        let of_large = (written - of_before).min(self.large.len());
        self.large.advance(of_large);
        self.after.advance(written - of_before - of_large);
        if self.large.is_empty() && !self.after.is_empty() {
            debug_assert!(self.before.is_empty());
            std::mem::swap(&mut self.before, &mut self.after);
        }
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("input", &self.input.len())
            .field("output", &(self.before.len() + self.large.len() + self.after.len()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
