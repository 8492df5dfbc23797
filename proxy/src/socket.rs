//! Connections of any kind, and how much of what we send them they take.

use crate::tls;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Interest, Join};
use tokio::net::{TcpStream, UnixStream};

/// Any kind of connection. Boxed, so that HTTP is compiled once and not once for each kind.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {
    /// Waits until the kernel takes more. A write that it takes in part leaves the rest with us for as long as the other
    /// side pleases; who asks first has nothing left. Those that cannot tell are always ready.
    fn poll_room(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// The connection is gone, or none that has an address.
    fn peer(&self) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Whether the kernel has something for us to read, or the end. Those that cannot tell have nothing.
    fn has_input(&self) -> bool {
        false
    }
}

impl Socket for TcpStream {
    fn peer(&self) -> io::Result<SocketAddr> {
        self.peer_addr()
    }

    fn has_input(&self) -> bool {
        has_input(self)
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_write_ready(cx))?;
            match self.try_io(Interest::WRITABLE, || has_room(self)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                answer => return Poll::Ready(answer),
            }
        }
    }
}

/// To and from the workload itself, which is no stranger that may hold what is ours.
impl Socket for UnixStream {
    fn has_input(&self) -> bool {
        has_input(self)
    }
}

impl Socket for Box<dyn Socket> {
    fn peer(&self) -> io::Result<SocketAddr> {
        self.as_ref().peer()
    }

    fn has_input(&self) -> bool {
        self.as_ref().has_input()
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.as_mut().poll_room(cx)
    }
}

impl<S: Socket> Socket for tls::Stream<S> {
    fn peer(&self) -> io::Result<SocketAddr> {
        self.socket().peer()
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket_mut().poll_room(cx)
    }
}

/// A connection with its start put back (HTTP/2 to which the workload is the client).
impl<R, W> Socket for Join<R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
}

/// Tests and benches.
impl Socket for DuplexStream {}

/// `WouldBlock` if it has none: the runtime's own idea of it is as old as the last write that it could not do, and it is told
/// when that changes only once the kernel was asked.
fn has_room(socket: &impl AsFd) -> io::Result<()> {
    let mut asked = [PollFd::new(socket, PollFlags::OUT)];
    match retry_on_intr(|| poll(&mut asked, Some(&Timespec::default())))? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    }
}

/// A kernel that does not say is taken for one with something to say.
fn has_input(socket: &impl AsFd) -> bool {
    let mut asked = [PollFd::new(socket, PollFlags::IN)];
    retry_on_intr(|| poll(&mut asked, Some(&Timespec::default()))) != Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::UNSENT;
    use socket2::SockRef;
    use std::future::poll_fn;
    use std::task::Waker;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Whoever did not read used to leave up to 200 KiB with us.
    #[tokio::test]
    async fn what_is_sent_when_there_is_room_is_taken_whole() {
        const PIECE: usize = 64 * 1024;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut reader = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        SockRef::from(&socket)
            .set_tcp_notsent_lowat(UNSENT)
            .unwrap();

        let mut cx = Context::from_waker(Waker::noop());
        let mut sent = 0;
        while socket.poll_room(&mut cx).is_ready() {
            assert_eq!(socket.try_write(&[1; PIECE]).unwrap(), PIECE);
            sent += PIECE;
            assert!(sent < 1 << 30, "room without end");
        }
        let read = async {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).await.unwrap();
            all.len()
        };
        let write = async {
            poll_fn(|cx| socket.poll_room(cx)).await.unwrap();
            socket.shutdown().await.unwrap();
        };
        let (arrived, ()) = tokio::join!(read, write);
        assert_eq!(arrived, sent);
    }
}
