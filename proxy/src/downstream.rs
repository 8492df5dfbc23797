//! The caller's side of one exchange, in either protocol.

use crate::body::{Broken, Piece};
use crate::h1::head::Framing;
use crate::progress::Deadline;
use crate::{h1, h2};
use bytes::Bytes;
use http::{HeaderMap, Version, response};
use std::task::{Context, Poll};

/// Where a request comes from and its response goes.
///
/// The order of calls is that of a response: [`respond`](Self::respond), then for each piece [`poll_room`](Self::poll_room)
/// and [`send`](Self::send), then [`end`](Self::end), and [`poll_flush`](Self::poll_flush) whenever there is nothing more to
/// send for now. A response that is not ended is aborted, never made to look whole.
#[derive(Debug)]
pub(crate) enum Downstream<'c> {
    Http1(&'c mut h1::server::Connection),
    Http2(h2::server::Stream),
}

impl Downstream<'_> {
    pub(crate) fn version(&self) -> Version {
        match self {
            Self::Http1(_) => Version::HTTP_11,
            Self::Http2(_) => Version::HTTP_2,
        }
    }

    /// Whether the request asks for the head of a response alone.
    pub(crate) fn is_head(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_head(),
            Self::Http2(stream) => stream.is_head(),
        }
    }

    /// The timer for what this exchange waits for.
    pub(crate) fn deadline(&mut self) -> &mut Deadline {
        match self {
            Self::Http1(connection) => &mut connection.deadline,
            Self::Http2(stream) => &mut stream.deadline,
        }
    }

    /// Whether more of the request's body is to come.
    pub(crate) fn has_body(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.has_body(),
            Self::Http2(stream) => stream.has_body(),
        }
    }

    /// The next piece of the request's body; `None` is its end.
    pub(crate) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, Broken>>> {
        match self {
            Self::Http1(connection) => connection.poll_body(cx),
            Self::Http2(stream) => stream.poll_body(cx),
        }
    }

    /// Begins the response. `body` is what its source has; `close` ends an HTTP/1.1 connection after it.
    pub(crate) fn respond(
        &mut self,
        head: response::Parts,
        body: Framing,
        close: bool,
    ) -> Result<(), Broken> {
        match self {
            Self::Http1(connection) => {
                connection.respond(&head, body, close);
                h1::spare::keep(head.headers);
                Ok(())
            }
            Self::Http2(stream) => stream.respond(head, body),
        }
    }

    /// Has the connection end with the requests that it has brought by now. To be called before the response begins.
    pub(crate) fn dismiss(&mut self) {
        match self {
            Self::Http1(connection) => connection.dismiss(),
            Self::Http2(stream) => stream.dismiss(),
        }
    }

    /// Waits until a piece of the response may be sent.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::Http1(connection) => connection.poll_room(cx),
            Self::Http2(stream) => stream.poll_room(cx),
        }
    }

    /// Sends a piece of the response's body; `ends` says that nothing follows.
    pub(crate) fn send(&mut self, data: Bytes, ends: bool) -> Result<(), Broken> {
        match self {
            Self::Http1(connection) => {
                connection.send(data);
                Ok(())
            }
            Self::Http2(stream) => stream.send(data, ends),
        }
    }

    pub(crate) fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        match self {
            Self::Http1(connection) => {
                connection.end(trailers.as_ref());
                Ok(())
            }
            Self::Http2(stream) => stream.end(trailers),
        }
    }

    /// Waits until what was sent has left our hands.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::Http1(connection) => connection.poll_flush(cx),
            Self::Http2(stream) => stream.poll_room(cx),
        }
    }

    /// Waits until the caller gives the exchange up. On HTTP/1.1 that shows only when we write: a caller that has closed its
    /// direction may well wait for the response.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        match self {
            Self::Http1(_) => Poll::Pending,
            Self::Http2(stream) => stream.poll_reset(cx),
        }
    }

    /// Ends an exchange whose response cannot be ended as it should. An HTTP/1.1 connection is closed by its owner then.
    pub(crate) fn abort(&mut self) {
        match self {
            Self::Http1(connection) => connection.abort(),
            Self::Http2(stream) => stream.abort(),
        }
    }
}
