//! The bytes of one exchange, both ways at once: the request's body up, the response down. Neither side is read faster than
//! the other takes it, and an exchange in which nothing moves is ended. The way up, which may be gone again, is in `relay/upload.rs`.

mod upload;

use crate::access_log::{CALLER_GONE, DEADLINE_EXCEEDED};
use crate::body::{Broken, Piece};
use crate::date;
use crate::downstream::Downstream;
use crate::error::Failure;
use crate::exchange::Exchange;
use crate::h1::head::Framing;
use crate::normalize::{Rejection, strip_trailers};
use crate::progress::Progress;
use crate::respond;
use crate::upstream::{Deadlines, Upstream, Wait};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode, Version, response};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;
use tokio::time::Instant;
use upload::{Taken, Upload};

/// One side of an upgraded connection is gone while the other goes on.
const TUNNEL_BROKEN: &str = "tunnel_broken";

/// The way of one request: from whom, how long each step may take, and what is put on record.
pub(crate) struct Passage<'p, 'c, 'o> {
    pub(crate) caller: &'p mut Downstream<'c>,
    pub(crate) deadlines: Deadlines,
    pub(crate) exchange: &'p mut Exchange<'o>,
}

/// One exchange whose request head has been sent.
pub(crate) struct Relay<'p, 'c, 'o> {
    way: Passage<'p, 'c, 'o>,
    up: Upstream,
    progress: Progress,
    upload: Upload,
    /// Whether the request came with a body.
    has_upload: bool,
    taken: Taken,
    /// After an upgrade both directions last until each has ended.
    is_tunnel: bool,
    /// Single messages with long rests between them: a gRPC call, server-sent events.
    is_stream: bool,
    /// Whether the caller does not take what is there for it.
    is_blocked: bool,
    /// Whether the response may end otherwise than its source meant it to: in trailers.
    takes_trailers: bool,
    /// When another attempt may follow this one, unless the request's body moves meanwhile.
    attempt_ends: Option<Instant>,
    is_answered: bool,
}

impl<'p, 'c, 'o> Relay<'p, 'c, 'o> {
    /// `is_stream` says that single small messages are to be expected.
    pub(crate) fn new(way: Passage<'p, 'c, 'o>, up: Upstream, is_stream: bool) -> Self {
        // Before the server has agreed to an upgrade nothing of it flows.
        let asks_for_upgrade = up.asks_for_upgrade();
        let has_body = way.caller.has_body() && !asks_for_upgrade;
        let begun = way.deadlines.begun;
        Self {
            way,
            up,
            progress: Progress::new(is_stream || asks_for_upgrade, begun),
            upload: if has_body { Upload::Open } else { Upload::Sent },
            has_upload: has_body,
            taken: Taken::Nothing,
            is_tunnel: false,
            is_stream,
            is_blocked: false,
            takes_trailers: false,
            attempt_ends: None,
            is_answered: false,
        }
    }

    /// The response is waited for until `ends` of this attempt.
    pub(crate) fn within(mut self, ends: Option<Instant>) -> Self {
        self.attempt_ends = ends;
        self
    }

    /// No other attempt follows.
    pub(crate) fn wait_on(&mut self) {
        self.attempt_ends = None;
    }

    /// Two connections of which nobody but their ends knows what they carry.
    pub(crate) fn tunnel(way: Passage<'p, 'c, 'o>, up: Upstream) -> Self {
        Self {
            upload: Upload::Open,
            taken: Taken::TooMuch,
            is_tunnel: true,
            ..Self::new(way, up, true)
        }
    }

    /// How long the request may wait for another connection.
    pub(crate) fn wait(&mut self) -> Wait {
        self.way.deadlines.wait(self.progress.moved())
    }

    /// Where the request goes instead.
    pub(crate) fn forwarded(&mut self, upstream: &Arc<str>) {
        self.way.exchange.forwarded(upstream);
    }

    /// Whether the server has begun to answer. Before that it may not have seen the request.
    pub(crate) fn has_begun(&self) -> bool {
        matches!(&self.up, Upstream::Http1(connection) if connection.is_answered())
    }

    pub(crate) fn speaks_http1(&self) -> bool {
        self.way.caller.version() != Version::HTTP_2
    }

    /// Begins the response; `body` is what its source has, and `close` ends an HTTP/1.1 connection after it.
    pub(crate) fn respond(
        &mut self,
        mut head: response::Parts,
        body: Framing,
        close: bool,
    ) -> Result<(), Failure> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            self.is_tunnel = true;
            self.upload = Upload::Open;
        }
        let content_type = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        self.is_stream |= content_type.is_some_and(|it| it.starts_with(b"text/event-stream"));
        self.takes_trailers = !self.speaks_http1() && body == Framing::Chunked;
        date::stamp(&mut head.headers, SystemTime::now);
        self.way.exchange.answered(head.status.as_u16());
        let begun = self.way.caller.respond(head, body, close);
        begun.map_err(|_| Failure::CallerGone)
    }

    /// Waits for the response head, while the request's body goes up.
    ///
    /// # Errors
    /// What the caller is to be answered.
    pub(crate) async fn head(&mut self) -> Result<(response::Parts, Framing), Failure> {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(response::Parts, Framing), Failure>> {
        if let Err(broken) = self.poll_upload(cx) {
            return Poll::Ready(Err(match broken {
                Broken::Body(error) => Failure::Rejected(Rejection::Body(error)),
                _ => Failure::CallerGone,
            }));
        }
        if let Poll::Ready(head) = self.up.poll_head(cx) {
            if head.is_ok() {
                self.progress.touch();
                self.taken = Taken::TooMuch;
            }
            return Poll::Ready(head.map_err(Failure::NoResponse));
        }
        if self.way.caller.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Failure::CallerGone));
        }
        // Since the last move of the upload: a large body is no slow app.
        let deadlines = self.way.deadlines;
        let moved = self.progress.moved();
        let until = deadlines.wait(moved).until;
        if let (Some(ends), Some(limit)) = (self.attempt_ends, deadlines.attempt)
            && ends.max(moved + limit) < until
        {
            ready!(self.way.caller.deadline().poll(ends.max(moved + limit), cx));
            return Poll::Ready(Err(Failure::TryTimeout(limit)));
        }
        ready!(self.way.caller.deadline().poll(until, cx));
        Poll::Ready(Err(match deadlines.are_over() {
            true => Failure::DeadlineExceeded,
            false => Failure::ResponseTimeout(deadlines.response),
        }))
    }

    /// Passes on the response's body, and what is left of the request's, until the response has ended. One that breaks off
    /// is put on record, and the caller sees that it is not whole.
    pub(crate) async fn body(&mut self) {
        match poll_fn(|cx| self.poll_response(cx)).await {
            Ok(()) => self.way.exchange.ended(),
            Err(reason) => {
                if reason != DEADLINE_EXCEEDED || self.end_call().is_err() {
                    self.way.caller.abort();
                }
                self.way.exchange.broke_off(reason);
            }
        }
    }

    /// Tells the caller that its deadline is over, where that can be said after what it was sent.
    fn end_call(&mut self) -> Result<(), Broken> {
        match self.takes_trailers && !self.is_answered {
            true => self.way.caller.end(Some(respond::deadline_trailers())),
            false => Err(Broken::Closed),
        }
    }

    /// The server's side, for further use.
    pub(crate) fn into_upstream(self) -> Upstream {
        self.up
    }

    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        let down = self.poll_download(cx)?;
        if down.is_ready() && !self.is_tunnel {
            return Poll::Ready(Ok(()));
        }
        // A response goes on without the rest of its request, whoever is to blame.
        if self.poll_upload(cx).is_err() {
            self.upload = Upload::Unwanted;
        }
        match self.upload {
            Upload::Sent if self.is_tunnel && down.is_ready() => {
                if let Poll::Ready(flushed) = self.up.poll_flush(cx) {
                    return Poll::Ready(flushed.map_err(|_| TUNNEL_BROKEN));
                }
            }
            Upload::Unwanted if self.is_tunnel => return Poll::Ready(Err(TUNNEL_BROKEN)),
            _ => {}
        }
        if self.way.caller.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(CALLER_GONE));
        }
        let (idle, reason) = match self.is_tunnel {
            true => (self.way.deadlines.tunnel_idle, "tunnel_idle"),
            // A stream may rest; a caller that does not read holds what is ours.
            false if self.is_stream && !self.is_blocked => {
                (self.way.deadlines.tunnel_idle, "response_stalled")
            }
            false => (self.way.deadlines.idle, "response_stalled"),
        };
        let stalls = self.progress.moved() + idle;
        let ends = self
            .way
            .deadlines
            .ends
            .map_or(stalls, |ends| ends.min(stalls));
        ready!(self.way.caller.deadline().poll(ends, cx));
        Poll::Ready(Err(match self.way.deadlines.are_over() {
            true => DEADLINE_EXCEEDED,
            false => reason,
        }))
    }

    fn poll_download(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        self.is_blocked = true;
        while !self.is_answered {
            if ready!(self.way.caller.poll_room(cx)).is_err() {
                return Poll::Ready(Err(CALLER_GONE));
            }
            let piece = match self.up.poll_body(cx) {
                Poll::Ready(piece) => piece.transpose(),
                Poll::Pending => {
                    // What came goes down before there is more.
                    let flushed = ready!(self.way.caller.poll_flush(cx));
                    self.is_blocked = false;
                    return flushed.map_or(Poll::Ready(Err(CALLER_GONE)), |()| Poll::Pending);
                }
            };
            let Ok(piece) = piece else {
                return Poll::Ready(Err("response_broken"));
            };
            self.progress.touch();
            if self.pass_down(piece).is_err() {
                return Poll::Ready(Err(CALLER_GONE));
            }
        }
        self.way.caller.poll_flush(cx).map_err(|_| CALLER_GONE)
    }

    fn pass_down(&mut self, piece: Option<Piece>) -> Result<(), Broken> {
        let trailers = match piece {
            Some(Piece::Data(data)) => {
                self.way.exchange.sent += data.len() as u64;
                let ends = self.up.is_end();
                self.way.caller.send(data, ends)?;
                if !ends {
                    return Ok(());
                }
                None
            }
            Some(Piece::Trailers(mut trailers)) => {
                strip_trailers(&mut trailers);
                Some(trailers)
            }
            None => None,
        };
        self.is_answered = true;
        self.way.caller.end(trailers)
    }
}
