//! A connection that is over when its certificates are, whoever reads or writes then.

use super::Ends;
use crate::socket::Socket;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// For connections that nothing else watches: HTTP/1.1 to a sidecar. They are never proven again.
pub(crate) struct Until {
    socket: Box<dyn Socket>,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_over: bool,
}

impl Until {
    pub(crate) fn new(socket: Box<dyn Socket>, ends: Ends) -> Self {
        Self {
            socket,
            over: Box::pin(async move { ends.reached().await }),
            is_over: false,
        }
    }

    /// The connection, for as long as nothing has ended. Whoever waits on it is woken when it does.
    fn socket(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut Box<dyn Socket>>> {
        self.is_over = self.is_over || self.over.as_mut().poll(cx).is_ready();
        if self.is_over {
            let reason = "the certificate of the connection has ended";
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
        Ok(Pin::new(&mut self.socket))
    }
}

impl AsyncRead for Until {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.socket(cx)?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Until {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.socket(cx)?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket(cx)?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket(cx)?.poll_shutdown(cx)
    }
}

impl Socket for Until {
    fn has_input(&self) -> bool {
        self.socket.has_input()
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket(cx)?.poll_room(cx)
    }
}
