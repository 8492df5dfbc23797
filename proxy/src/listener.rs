//! Accepting: a cap on open connections, and a pause while memory is full or the system has no descriptors left.
//! `listener/bind.rs` opens what is accepted from.

mod bind;

pub(crate) use bind::{OutboundSocket, Sockets, WorkerSockets, bind, bind_unix};

use crate::drain::{Drain, InFlight};
use crate::overload::Overload;
use socket2::SockRef;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long accepting pauses after an error of the system (no descriptors, no memory): long enough not to spin, short
/// enough that a caller's connect does not time out.
const PAUSE: Duration = Duration::from_millis(100);

/// What the kernel may hold for a caller beyond what it has sent. Without a bound it takes 4 MiB for each that reads slowly,
/// and filling that for hundreds at once kept everyone else waiting for seconds. Twice what a turn of a relay
/// holds, so that one who reads fast does not wait; with more, thousands of slow readers bring the kernel to its own bound
/// (`tcp_mem`), and what it then does not take stays with us.
pub(crate) const UNSENT: u32 = 128 * 1024;

/// Something that yields connections.
pub(crate) trait Accept {
    type Stream: Send + 'static;
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;
    async fn next(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        // Heads and small bodies are written in one piece; waiting for more only adds latency.
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT)?;
        Ok(stream)
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;
    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

/// A place under the cap on open connections, free again when dropped. Until then a drain waits.
#[derive(Debug)]
pub(crate) struct Slot {
    _place: OwnedSemaphorePermit,
    _in_flight: InFlight,
}

/// Accepts until the drain starts. At the cap and without memory it waits with one connection in hand, and the kernel's
/// queue holds back the others.
pub(crate) async fn accept<L: Accept>(
    listener: L,
    slots: &Arc<Semaphore>,
    overload: &Overload,
    drain: &Drain,
    mut serve: impl FnMut(L::Stream, Slot),
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.next() => accepted,
            () = drain.started() => return,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) if is_callers_own(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // Once accepted it is ours to serve: a drain that starts now waits for it, too.
        let in_flight = drain.hold();
        // The place comes second: a quiet listener holds none that a busy one needs.
        let place = Arc::clone(slots).acquire_owned().await;
        while !overload.takes_connections() {
            tokio::time::sleep(PAUSE).await;
        }
        let slot = Slot {
            _place: place.expect("the semaphore is never closed"),
            _in_flight: in_flight,
        };
        serve(stream, slot);
    }
}

/// Whether an accept error concerns only the connection that was about to be accepted.
fn is_callers_own(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::InvalidInput
    )
}
