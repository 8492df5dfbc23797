//! A caller's HTTP/2 connection: many requests at once, each a task of its own.

use super::flood::{self, Alarm, Guarded, Role};
use super::{FRAME, SEND_BUFFER, STREAM_WINDOW, Sender};
use crate::body::{Broken, Piece};
use crate::config::Config;
use crate::connection::Turn;
use crate::h1::head::Framing;
use crate::progress::Deadline;
use crate::socket::Socket;
use crate::upgrade;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::EXPECT;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, response};
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{interval, timeout};

/// What one caller's stalled uploads may hold in us together: 64 of them do not yet block their neighbours.
const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;
/// Streams a client may open and reset before we have looked at them: rapid reset (CVE-2023-44487).
const PENDING_RESETS: usize = 32;
/// Resets that a client may make us send: MadeYouReset (CVE-2025-8671). Each may have cost the app a request.
const LOCAL_RESETS: usize = 100;
/// How long a client that has to go may take to read why.
const FAREWELL: Duration = Duration::from_millis(500);

/// A connection on which requests come in.
pub(crate) struct Connection {
    inner: h2::server::Connection<Guarded<Box<dyn Socket>>, Bytes>,
    alarm: Alarm,
}

/// A request as it comes in, and where its response goes.
pub(crate) type Incoming = (Request<RecvStream>, SendResponse<Bytes>);

/// Reads the preface and sends our settings. The caller of this sets the deadline.
pub(crate) async fn handshake(
    socket: Box<dyn Socket>,
    config: &Config,
) -> Result<Connection, h2::Error> {
    let (socket, alarm) = flood::guard(socket, Role::Client);
    let head_bytes = u32::try_from(config.sizes.max_head_bytes).unwrap_or(u32::MAX);
    let inner = h2::server::Builder::new()
        .max_concurrent_streams(config.sizes.max_streams)
        .max_header_list_size(head_bytes)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(LOCAL_RESETS))
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_connect_protocol()
        .handshake(socket)
        .await?;
    Ok(Connection { inner, alarm })
}

impl Connection {
    /// The next request; `None` once the connection has ended as it should.
    ///
    /// # Errors
    /// Why it ended otherwise, as a word from a closed set.
    pub(crate) fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Incoming, &'static str>>> {
        match self.inner.poll_accept(cx) {
            Poll::Ready(accepted) => Poll::Ready(accepted.map(|request| {
                request.map_err(|error| {
                    tracing::debug!(%error, "HTTP/2 connection of a caller ended");
                    super::ended_reason(&error)
                })
            })),
            Poll::Pending => match self.alarm.raised() {
                Some(flood) => Poll::Ready(Some(Err(flood.as_str()))),
                None => Poll::Pending,
            },
        }
    }

    /// Takes no more requests and ends with the last one.
    pub(crate) fn wind_down(&mut self) {
        self.inner.graceful_shutdown();
    }

    /// Refuses requests until `is_quiet` says that those before have ended, or the caller leaves. It need not do so when it is
    /// asked to, and asks for more for as long as it likes.
    pub(crate) async fn refuse(&mut self, is_quiet: impl Fn() -> bool) {
        self.wind_down();
        let mut look = interval(FAREWELL);
        look.reset();
        loop {
            let accepted = tokio::select! {
                accepted = poll_fn(|cx| self.poll_accept(cx)) => accepted,
                _ = look.tick() => match is_quiet() {
                    true => return,
                    false => continue,
                },
            };
            match accepted {
                Some(Ok((_, mut respond))) => respond.send_reset(Reason::REFUSED_STREAM),
                Some(Err(_)) => return self.dismiss().await,
                None => return,
            }
        }
    }

    /// Says why to a client that floods us, and waits for a moment until that has left.
    pub(crate) async fn dismiss(&mut self) {
        if self.alarm.raised().is_some() {
            self.inner.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            let closed = poll_fn(|cx| self.inner.poll_closed(cx));
            // It has to go either way.
            let _ = timeout(FAREWELL, closed).await;
        }
    }
}

/// One exchange. Dropping it before the response has ended resets the stream.
#[derive(Debug)]
pub(crate) struct Stream {
    respond: SendResponse<Bytes>,
    body: RecvStream,
    response: Option<Sender>,
    is_head: bool,
    /// An extended CONNECT (RFC 8441).
    is_connect: bool,
    waits_for_continue: bool,
    pub(crate) deadline: Deadline,
    turn: Turn,
}

fn is_continue(expected: &HeaderValue) -> bool {
    expected.as_bytes().eq_ignore_ascii_case(b"100-continue")
}

impl Stream {
    /// The stream and the head of a request that was accepted.
    pub(crate) fn new(
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        turn: Turn,
    ) -> (http::request::Parts, Self) {
        let (head, body) = request.into_parts();
        let waits_for_continue =
            !body.is_end_stream() && head.headers.get(EXPECT).is_some_and(is_continue);
        let stream = Self {
            respond,
            body,
            response: None,
            is_head: head.method == Method::HEAD,
            is_connect: head.method == Method::CONNECT,
            waits_for_continue,
            deadline: Deadline::default(),
            turn,
        };
        (head, stream)
    }

    pub(crate) fn is_head(&self) -> bool {
        self.is_head
    }

    pub(crate) fn has_body(&self) -> bool {
        !self.body.is_end_stream()
    }

    pub(crate) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, Broken>>> {
        // Whoever asks for the body wants it (RFC 9110 section 10.1.1).
        if std::mem::take(&mut self.waits_for_continue) && self.response.is_none() {
            let mut go_on = Response::new(());
            *go_on.status_mut() = StatusCode::CONTINUE;
            // Fails on a stream that has ended, as the next line tells.
            let _ = self.respond.send_informational(go_on);
        }
        super::poll_body(&mut self.body, cx)
    }

    /// Has the connection take no more requests.
    pub(crate) fn dismiss(&self) {
        self.turn.dismiss();
    }

    /// Begins the response; `body` is what its source has.
    pub(crate) fn respond(
        &mut self,
        mut head: response::Parts,
        body: Framing,
    ) -> Result<(), Broken> {
        let is_whole = self.is_head || matches!(body, Framing::Empty | Framing::Length(0));
        if self.is_connect {
            upgrade::answer_connect(&mut head, is_whole);
        }
        let response = Response::from_parts(head, ());
        let mut sender = Sender::new(self.respond.send_response(response, is_whole)?);
        sender.ends = is_whole;
        self.response = Some(sender);
        Ok(())
    }

    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match &mut self.response {
            Some(sender) => sender.poll_room(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    pub(crate) fn send(&mut self, data: Bytes, ends: bool) -> Result<(), Broken> {
        match &mut self.response {
            Some(sender) if !sender.ends => sender.send(data, ends),
            _ => Ok(()),
        }
    }

    pub(crate) fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        match &mut self.response {
            Some(sender) if !sender.ends => sender.end(trailers),
            _ => Ok(()),
        }
    }

    /// Waits until the caller gives the stream up.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        match &mut self.response {
            Some(sender) => sender.poll_reset(cx),
            None => self
                .respond
                .poll_reset(cx)
                .map(|reset| Broken::Http2(reset.map_or_else(|error| error, h2::Error::from))),
        }
    }

    /// Ends a stream whose response cannot be ended as it should.
    pub(crate) fn abort(&mut self) {
        match &mut self.response {
            Some(sender) => sender.reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }
}
