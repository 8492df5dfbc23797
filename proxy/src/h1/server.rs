//! A caller's HTTP/1.1 connection: one request after the other, in the order in which they came (RFC 9112 section 9.3.2).

use super::body::Decoder;
use super::coding::Coding;
use super::head::{Framing, HeadError, HeadReader, Limits, RequestHead};
use super::wire::{FIRST_READ, Wire};
use super::write;
use crate::body::{Broken, Piece};
use crate::config::Config;
use crate::connection::Activity;
use crate::progress::Deadline;
use crate::upgrade::Upgrade;
use bytes::Bytes;
use http::header::TE;
use http::{HeaderMap, HeaderValue, Method, Version, response};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// The rest of an unwanted body is read, so that the connection can go on, if it is no longer than this.
const MOST_DISCARDED: u64 = 64 * 1024;
/// How long a connection that is closed waits for the caller to have read the last response: closing with unread bytes in
/// the socket would make the kernel take it back (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(1);

/// A connection with at most one request in work.
#[derive(Debug)]
pub(crate) struct Connection {
    wire: Wire,
    heads: HeadReader,
    limits: Limits,
    activity: Arc<Activity>,
    pub(crate) deadline: Deadline,
    head_timeout: Duration,
    idle: Duration,
    is_first: bool,
    request: Request,
    /// None before it has begun.
    response: Option<Coding>,
    keep_alive: bool,
}

/// What the present request asks of its body and its response.
#[derive(Debug)]
struct Request {
    body: Decoder,
    is_head: bool,
    /// HTTP/1.0: the response ends with the connection.
    is_old: bool,
    takes_trailers: bool,
    /// The caller waits for our word before it sends the body (RFC 9110 section 10.1.1).
    waits_for_continue: bool,
}

/// What comes next on a connection.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and a box would cost each request an allocation"
)]
pub(crate) enum Next {
    Request(RequestHead),
    /// A head that is not read; nothing after it is, either.
    Refused(HeadError),
    End,
}

impl Connection {
    /// `http10` says whether requests of HTTP/1.0 are taken.
    pub(crate) fn new(wire: Wire, config: &Config, http10: bool, activity: Arc<Activity>) -> Self {
        let limits = Limits {
            head_bytes: config.sizes.max_head_bytes,
            fields: config.sizes.max_headers,
            field_bytes: config.sizes.max_field_bytes,
            http10,
        };
        Self {
            wire,
            heads: HeadReader::new(),
            activity,
            deadline: Deadline::default(),
            head_timeout: config.timeouts.request_head,
            idle: config.timeouts.idle,
            is_first: true,
            request: Request {
                body: Decoder::new(Framing::Empty, &limits),
                is_head: false,
                is_old: false,
                takes_trailers: false,
                waits_for_continue: false,
            },
            response: None,
            keep_alive: true,
            limits,
        }
    }

    /// Waits for a request.
    pub(crate) async fn next(&mut self) -> Next {
        let since = Instant::now();
        let mut begun = (!self.wire.input.is_empty() || self.is_first).then_some(since);
        self.is_first = false;
        let next = poll_fn(|cx| self.poll_next(since, &mut begun, cx)).await;
        if let Next::Request(head) = &next {
            let headers = &head.parts.headers;
            self.request = Request {
                body: Decoder::new(head.body, &self.limits),
                is_head: head.parts.method == Method::HEAD,
                is_old: head.parts.version == Version::HTTP_10,
                takes_trailers: headers.get(TE).is_some_and(names_trailers),
                waits_for_continue: head.expects_continue && head.body != Framing::Empty,
            };
            self.keep_alive = head.keep_alive;
            self.response = None;
        } else {
            self.request.is_head = false;
            self.response = None;
            self.keep_alive = false;
        }
        next
    }

    /// `begun` is when the head began to arrive.
    fn poll_next(
        &mut self,
        since: Instant,
        begun: &mut Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Next> {
        let mut has_come = false;
        loop {
            match self.heads.request(&mut self.wire.input, &self.limits) {
                Ok(Some(head)) => return Poll::Ready(Next::Request(head)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Next::Refused(error)),
            }
            if self.wire.input.is_empty() {
                self.wire.shrink(FIRST_READ);
            }
            match self.wire.poll_fill(0, cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::End),
                Poll::Ready(Ok(_)) => has_come = true,
                // What has come by now is still answered.
                Poll::Pending if self.wire.input.is_empty() && self.activity.is_leaving() => {
                    return Poll::Ready(Next::End);
                }
                Poll::Pending => {
                    // Most heads come whole, and then nobody asks when they began.
                    if has_come {
                        begun.get_or_insert_with(Instant::now);
                    }
                    let ends = begun.map_or(since + self.idle, |begun| begun + self.head_timeout);
                    return self.deadline.poll(ends, cx).map(|()| Next::End);
                }
            }
        }
    }

    pub(crate) fn is_head(&self) -> bool {
        self.request.is_head
    }

    /// Whether the request has a body that is not read to its end.
    pub(crate) fn has_body(&self) -> bool {
        !self.request.body.is_end()
    }

    /// The next piece of the request's body; `None` is its end. The first call tells a caller that waits for it to go on.
    pub(crate) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, Broken>>> {
        if std::mem::take(&mut self.request.waits_for_continue) && self.response.is_none() {
            self.wire
                .output()
                .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if self.response.is_none() {
            // The word is short and the socket's buffer empty; if it has to wait, so does the body.
            ready!(self.wire.poll_flush(cx)).map_err(Broken::Io)?;
        }
        let piece = ready!(super::poll_body(&mut self.request.body, &mut self.wire, cx));
        if matches!(piece, Some(Err(_))) {
            // Where the next request would begin is not known, whatever the response has said meanwhile.
            self.keep_alive = false;
        }
        Poll::Ready(piece)
    }

    /// Begins the response. `body` is what its source has; `close` ends the connection after it.
    pub(crate) fn respond(&mut self, head: &response::Parts, body: Framing, close: bool) {
        if head.extensions.get::<Upgrade>().is_some() {
            return self.switch(head);
        }
        let has_none = self.request.is_head
            || head.status.is_informational()
            || matches!(head.status.as_u16(), 204 | 304);
        let framing = match body {
            _ if has_none => None,
            Framing::Empty => Some(Framing::Length(0)),
            Framing::Chunked | Framing::UntilClose if self.request.is_old => {
                Some(Framing::UntilClose)
            }
            Framing::UntilClose => Some(Framing::Chunked),
            framing => Some(framing),
        };
        self.keep_alive &=
            !close && !self.request.waits_for_continue && !self.activity.is_closing();
        let is_last = !self.keep_alive;
        write::response_head(
            self.wire.output(),
            head.status,
            &head.headers,
            framing,
            is_last,
        );
        self.response = Some(match framing {
            None => Coding::Ended,
            Some(Framing::UntilClose) => Coding::Raw,
            Some(framing) => Coding::new(framing),
        });
    }

    /// Has the response to come be the last one.
    pub(crate) fn dismiss(&mut self) {
        self.keep_alive = false;
    }

    /// From here on both directions carry the other protocol.
    fn switch(&mut self, head: &response::Parts) {
        write::response_head(self.wire.output(), head.status, &head.headers, None, false);
        self.open_tunnel();
    }

    /// From here on nothing is a message of HTTP: whatever comes is body, and so is whatever is sent.
    pub(crate) fn open_tunnel(&mut self) {
        self.request.body = Decoder::new(Framing::UntilClose, &self.limits);
        self.response = Some(Coding::Raw);
        self.keep_alive = false;
    }

    /// Waits until a piece of the response may be sent.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.wire.poll_room(cx).map_err(Broken::Io)
    }

    /// Sends a piece of the response's body. There has to be [room](Self::poll_room).
    pub(crate) fn send(&mut self, data: Bytes) {
        if let Some(response) = &mut self.response {
            response.send(&mut self.wire, data);
        }
    }

    /// Ends the response. Trailers are for those who take them.
    pub(crate) fn end(&mut self, trailers: Option<&HeaderMap>) {
        let trailers = trailers.filter(|_| self.request.takes_trailers);
        if let Some(response) = &mut self.response {
            response.end(&mut self.wire, trailers);
        }
    }

    /// Gives up the response: one that does not leave in time is as little use as one that broke off.
    pub(crate) fn abort(&mut self) {
        self.response = None;
    }

    /// Writes what waits.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let flushed = match &mut self.response {
            Some(response) => response.poll_flush(&mut self.wire, cx),
            None => self.wire.poll_flush(cx),
        };
        flushed.map_err(Broken::Io)
    }

    /// Brings the connection to where the next request begins; false if there can be none, and it has to be closed.
    pub(crate) async fn finish(&mut self) -> bool {
        if self.response != Some(Coding::Ended)
            || !self.keep_alive
            || self.request.waits_for_continue
        {
            return false;
        }
        if self.request.body.is_end() {
            return true;
        }
        let idle = self.idle;
        timeout(idle, self.discard(MOST_DISCARDED))
            .await
            .unwrap_or(false)
    }

    /// Reads the rest of a body that nobody wants; false if it is longer than `most` or broken.
    async fn discard(&mut self, most: u64) -> bool {
        let mut left = most;
        if self
            .request
            .body
            .remaining()
            .is_some_and(|remaining| remaining > most)
        {
            return false;
        }
        poll_fn(|cx| {
            loop {
                match ready!(super::poll_body(&mut self.request.body, &mut self.wire, cx)) {
                    None => return Poll::Ready(true),
                    Some(Ok(Piece::Trailers(_))) => {}
                    Some(Ok(Piece::Data(data))) if data.len() as u64 <= left => {
                        left -= data.len() as u64;
                    }
                    Some(_) => return Poll::Ready(false),
                }
            }
        })
        .await
    }

    /// Closes after a whole response, so that the caller gets to read it. A response that broke off is not made to look
    /// whole: then this only drops the connection.
    pub(crate) async fn close(mut self) {
        if self.response != Some(Coding::Ended) {
            return;
        }
        let linger = poll_fn(|cx| {
            if ready!(self.wire.poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            loop {
                self.wire.input.clear();
                match ready!(self.wire.poll_fill(0, cx)) {
                    Ok(0) | Err(_) => return Poll::Ready(()),
                    Ok(_) => {}
                }
            }
        });
        // Whoever goes on sending for longer is not waiting for our answer.
        let _ = timeout(LINGER, linger).await;
    }
}

fn names_trailers(value: &HeaderValue) -> bool {
    let mut codings = value.as_bytes().split(|byte| *byte == b',');
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}
