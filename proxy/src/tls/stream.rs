//! A TLS connection after its handshake: rustls keeps the protocol, and here is when the socket is read and written. Each
//! system call carries as much as there is: records are read from the socket many at a time, and what HTTP/2 flushes frame
//! by frame leaves together.

use super::Alpn;
use bytes::{Buf, BufMut, BytesMut};
use rustls::Connection;
use std::cell::RefCell;
use std::io::{self, BufRead, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{client, server};
use tokio_util::io::poll_read_buf;

/// The most that is read from a socket at once.
const MOST_READ: usize = 64 * 1024;
/// The least that is asked of a socket at once, for readers that take a few bytes at a time.
const LEAST_READ: usize = 2 * 1024;
/// Nothing more is encrypted while this much waits for the socket.
const ENOUGH: usize = 64 * 1024;
/// Buffers that a thread keeps for its next reads: hardly ever is there something in more than one.
const MOST_SPARE: usize = 2;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Carries application data, in whichever role.
#[derive(Debug)]
pub(crate) struct Stream<S> {
    socket: S,
    session: Connection,
    /// Read from the socket and not yet looked at. It is the thread's buffer while there is something in it, and else none.
    input: BytesMut,
    /// Bytes that were encrypted since all had left.
    waiting: usize,
    flushing: Flushing,
    /// Whether what waits has to leave before more is read.
    is_due: bool,
    is_closing: bool,
    /// Why nothing more is read.
    failed: Option<rustls::Error>,
}

/// What a flush does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flushing {
    AtOnce,
    /// Wakes the task instead: what waits leaves when that task reads again, together with what others have added in
    /// between. For HTTP/2, which flushes behind each DATA frame and always reads before it waits.
    BeforeReading,
}

impl<S> Stream<S> {
    pub(crate) fn server(tls: server::TlsStream<S>, alpn: Alpn) -> Self {
        let (socket, session) = tls.into_inner();
        Self::new(socket, session.into(), alpn)
    }

    pub(crate) fn client(tls: client::TlsStream<S>, alpn: Alpn) -> Self {
        let (socket, session) = tls.into_inner();
        Self::new(socket, session.into(), alpn)
    }

    fn new(socket: S, mut session: Connection, alpn: Alpn) -> Self {
        // It is bounded here.
        session.set_buffer_limit(None);
        Self {
            socket,
            session,
            input: BytesMut::new(),
            waiting: 0,
            flushing: if alpn == Alpn::Http2 {
                Flushing::BeforeReading
            } else {
                Flushing::AtOnce
            },
            is_due: false,
            is_closing: false,
            failed: None,
        }
    }

    /// Where the records come and go.
    pub(crate) fn socket(&self) -> &S {
        &self.socket
    }

    pub(crate) fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream<S> {
    /// Decrypts what was read. Once there is none of it left, more is read; `wanted` is what there is room for.
    fn poll_decrypt(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<()>> {
        if let Some(error) = &self.failed {
            let error = io::Error::new(io::ErrorKind::InvalidData, error.clone());
            return Poll::Ready(Err(error));
        }
        if self.input.is_empty() {
            ready!(self.poll_fill(cx, wanted))?;
        }
        // Nothing is the end of it: rustls knows whether the other side may end here.
        let taken = self.session.read_tls(&mut &self.input[..])?;
        self.input.advance(taken);
        if taken > 0 && self.input.is_empty() {
            self.give_back();
        }
        if let Err(error) = self.session.process_new_packets() {
            // Says why, if the socket takes it.
            let _ = self.poll_send(cx);
            // Told at the next call: what came before is read first.
            self.failed = Some(error);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let most = match self.flushing {
            // Whoever does not come back for the rest would hold the thread's buffer for it.
            Flushing::AtOnce => wanted.clamp(LEAST_READ, MOST_READ),
            // Its reader always does.
            Flushing::BeforeReading => MOST_READ,
        };
        let spare = SPARE.with_borrow_mut(Vec::pop);
        self.input = spare.unwrap_or_else(|| BytesMut::with_capacity(MOST_READ));
        let mut input = (&mut self.input).limit(most);
        let read = poll_read_buf(Pin::new(&mut self.socket), cx, &mut input);
        if self.input.is_empty() {
            self.give_back();
        }
        read
    }

    fn give_back(&mut self) {
        let mut input = std::mem::take(&mut self.input);
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < MOST_SPARE {
                input.clear();
                // What was taken from its front is room again.
                input.reserve(MOST_READ);
                spare.push(input);
            }
        });
    }

    /// Writes all that waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            let mut socket = Blocking {
                socket: &mut self.socket,
                cx,
            };
            match self.session.write_tls(&mut socket) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => self.waiting = self.waiting.saturating_sub(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.waiting = 0;
        self.is_due = false;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_encrypt(
        &mut self,
        cx: &mut Context<'_>,
        encrypt: impl FnOnce(&mut rustls::Writer<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.waiting >= ENOUGH {
            ready!(self.poll_send(cx))?;
        }
        let taken = encrypt(&mut self.session.writer())?;
        self.waiting += taken;
        Poll::Ready(Ok(taken))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.is_due {
            // A failure shows when nothing more can be read: a response may have come before the other side closed.
            let _ = this.poll_send(cx);
        }
        let before = buffer.filled().len();
        while buffer.remaining() > 0 {
            match this.session.reader().into_first_chunk() {
                Ok([]) => break,
                Ok(data) => {
                    let part = data.len().min(buffer.remaining());
                    buffer.put_slice(&data[..part]);
                    this.session.reader().consume(part);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            if this.input.is_empty() && buffer.filled().len() > before {
                break;
            }
            match this.poll_decrypt(cx, buffer.remaining()) {
                Poll::Ready(Ok(())) => {}
                // What has come counts; the next call says why there is no more.
                Poll::Ready(Err(_)) if buffer.filled().len() > before => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_encrypt(cx, |session| session.write(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_encrypt(cx, |session| session.write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.flushing == Flushing::AtOnce || self.waiting >= ENOUGH {
            return self.poll_send(cx);
        }
        if self.session.wants_write() && !self.is_due {
            self.is_due = true;
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.is_closing, true) {
            self.session.send_close_notify();
        }
        ready!(self.poll_send(cx))?;
        match ready!(Pin::new(&mut self.socket).poll_shutdown(cx)) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// A socket as rustls writes to it: what has to wait is an error.
struct Blocking<'s, 'c, 'w, S> {
    socket: &'s mut S,
    cx: &'c mut Context<'w>,
}

impl<S: AsyncWrite + Unpin> Write for Blocking<'_, '_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut *self.socket).poll_write(self.cx, bytes) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.socket).poll_write_vectored(self.cx, slices) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
