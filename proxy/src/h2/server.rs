//! A caller's HTTP/2 connection: many requests at once, each a task of its own.

use super::{CONNECTION_WINDOW, SEND_BUFFER, STREAM_WINDOW, Sender};
use crate::body::{Broken, Piece};
use crate::config::Config;
use crate::connection::Turn;
use crate::h1::head::Framing;
use crate::h1::wire::Socket;
use crate::progress::Deadline;
use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, Response, response};
use std::task::{Context, Poll};

/// Streams a client may open and reset before we have looked at them: rapid reset (CVE-2023-44487).
const PENDING_RESETS: usize = 32;
/// Resets that a client may make us send: MadeYouReset (CVE-2025-8671).
const LOCAL_RESETS: usize = 256;

/// Reads the preface and sends our settings. The caller of this sets the deadline.
pub(crate) async fn handshake(
    socket: Box<dyn Socket>,
    config: &Config,
) -> Result<Connection<Box<dyn Socket>, Bytes>, h2::Error> {
    let head_bytes = u32::try_from(config.sizes.max_head_bytes).unwrap_or(u32::MAX);
    h2::server::Builder::new()
        .max_concurrent_streams(config.sizes.max_streams)
        .max_header_list_size(head_bytes)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(LOCAL_RESETS))
        .max_send_buffer_size(SEND_BUFFER)
        .handshake(socket)
        .await
}

/// One exchange. Dropping it before the response has ended resets the stream.
#[derive(Debug)]
pub(crate) struct Stream {
    respond: SendResponse<Bytes>,
    body: RecvStream,
    response: Option<Sender>,
    is_head: bool,
    pub(crate) deadline: Deadline,
    _turn: Turn,
}

impl Stream {
    /// The stream and the head of a request that was accepted.
    pub(crate) fn new(
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        turn: Turn,
    ) -> (http::request::Parts, Self) {
        let (head, body) = request.into_parts();
        let stream = Self {
            respond,
            body,
            response: None,
            is_head: head.method == Method::HEAD,
            deadline: Deadline::default(),
            _turn: turn,
        };
        (head, stream)
    }

    pub(crate) fn has_body(&self) -> bool {
        !self.body.is_end_stream()
    }

    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, Broken>>> {
        super::poll_body(&mut self.body, cx)
    }

    /// Begins the response; `body` is what its source has.
    pub(crate) fn respond(&mut self, head: response::Parts, body: Framing) -> Result<(), Broken> {
        let is_whole = self.is_head || matches!(body, Framing::Empty | Framing::Length(0));
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
