//! Our side of a connection to a server: the local app, or a sidecar that speaks no HTTP/2.

use super::body::Decoder;
use super::coding::Coding;
use super::head::{Framing, HeadReader, Limits};
use super::wire::{MOST_READ, Wire};
use super::write;
use crate::body::{Broken, Piece};
use crate::upgrade::Upgrade;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, request, response};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

/// What a server may send: larger heads than we take from callers, since the app is not an enemy of its own sidecar.
const LIMITS: Limits = Limits {
    head_bytes: 64 * 1024,
    fields: 200,
    field_bytes: 64 * 1024,
    http10: false,
};
/// Informational responses before the final one (RFC 9110 section 15.2); a server that sends more says nothing.
const MAX_INFORMATIONAL: u8 = 16;

/// A connection that carries one exchange after the other.
#[derive(Debug)]
pub(crate) struct Connection {
    wire: Wire,
    heads: HeadReader,
    method: Method,
    /// The protocol that was asked for.
    upgrade: Option<Upgrade>,
    upload: Coding,
    informational: u8,
    body: Decoder,
    keep_alive: bool,
    /// Whether a byte of the response has come.
    is_answered: bool,
    /// From here on no exchange begins: a certificate at one of the two ends will have ended.
    retire_at: Option<SystemTime>,
    /// Says to whoever counts that there is this connection.
    _counted: Option<Arc<()>>,
}

impl Connection {
    pub(crate) fn new(wire: Wire, retire_at: Option<SystemTime>) -> Self {
        Self {
            wire,
            heads: HeadReader::new(),
            method: Method::GET,
            upgrade: None,
            upload: Coding::Ended,
            informational: 0,
            body: Decoder::new(Framing::Empty, &LIMITS),
            keep_alive: true,
            is_answered: false,
            retire_at,
            _counted: None,
        }
    }

    /// One of those that `count` is kept of.
    pub(crate) fn counted(self, count: &Arc<()>) -> Self {
        Self {
            _counted: Some(Arc::clone(count)),
            ..self
        }
    }

    /// Begins an exchange. `framing` says how the body will come; it is sent with [`Self::send`].
    pub(crate) fn begin(&mut self, head: &request::Parts, framing: Framing) {
        self.upgrade = head.extensions.get().cloned();
        let target = head
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        write::request_head(
            self.wire.output(),
            &head.method,
            target,
            &head.headers,
            framing,
        );
        self.method.clone_from(&head.method);
        self.upload = Coding::new(framing);
        self.informational = 0;
        self.keep_alive = false;
        self.is_answered = false;
    }

    pub(crate) fn asks_for_upgrade(&self) -> bool {
        self.upgrade.is_some()
    }

    /// Waits until a piece may be sent.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.wire.poll_room(cx).map_err(Broken::Io)
    }

    /// Sends a piece of the body. There has to be [room](Self::poll_room).
    pub(crate) fn send(&mut self, data: Bytes) {
        self.upload.send(&mut self.wire, data);
    }

    /// Ends the body.
    pub(crate) fn end(&mut self, trailers: Option<&HeaderMap>) {
        self.upload.end(&mut self.wire, trailers);
    }

    /// Writes what waits.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let flushed = self.upload.poll_flush(&mut self.wire, cx);
        flushed.map_err(Broken::Io)
    }

    /// Waits for the head of the final response.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(response::Parts, Framing), Broken>> {
        loop {
            let head = self
                .heads
                .response(&mut self.wire.input, &self.method, &LIMITS);
            match head.map_err(Broken::Head)? {
                Some(head) if head.parts.status == StatusCode::SWITCHING_PROTOCOLS => {
                    return Poll::Ready(self.switch(head.parts));
                }
                Some(head) if head.parts.status.is_informational() => {
                    self.informational += 1;
                    if self.informational > MAX_INFORMATIONAL {
                        return Poll::Ready(Err(Broken::Closed));
                    }
                }
                Some(head) => {
                    self.body = Decoder::new(head.body, &LIMITS);
                    self.keep_alive = head.keep_alive;
                    return Poll::Ready(Ok((head.parts, head.body)));
                }
                None => {
                    if ready!(self.wire.poll_fill(0, cx))? == 0 {
                        return Poll::Ready(Err(Broken::Closed));
                    }
                    self.is_answered = true;
                }
            }
        }
    }

    /// From here on both directions carry the other protocol.
    fn switch(&mut self, mut head: response::Parts) -> Result<(response::Parts, Framing), Broken> {
        let asked = self.upgrade.take();
        let upgrade = asked
            .filter(|upgrade| upgrade.is_granted_by(&head.headers))
            .ok_or(Broken::UnaskedUpgrade)?;
        head.extensions.insert(upgrade);
        self.open_tunnel();
        Ok((head, Framing::UntilClose))
    }

    /// From here on nothing is a message of HTTP: whatever comes is body, and so is whatever is sent.
    pub(crate) fn open_tunnel(&mut self) {
        self.body = Decoder::new(Framing::UntilClose, &LIMITS);
        self.upload = Coding::Raw;
        self.keep_alive = false;
    }

    /// The next piece of the response's body; `None` is its end.
    pub(crate) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, Broken>>> {
        super::poll_body(&mut self.body, &mut self.wire, cx)
    }

    /// Whether the whole response was read.
    pub(crate) fn is_end(&self) -> bool {
        self.body.is_end()
    }

    /// Whether the server has begun to answer. Before that it may not have seen the request.
    pub(crate) fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// Whether the exchange is over and the connection at a message boundary.
    pub(crate) fn is_reusable(&self) -> bool {
        self.keep_alive
            && self.body.is_end()
            && self.upload == Coding::Ended
            && self.wire.is_flushed()
            && self.wire.input.is_empty()
    }

    /// Whether a connection that rested is still open, with nothing on it that nobody asked for. `asks_kernel` makes sure
    /// that nothing has come since the runtime last looked.
    pub(crate) fn is_at_rest(&mut self, asks_kernel: bool) -> bool {
        self.retire_at.is_none_or(|at| SystemTime::now() < at) && self.wire.is_at_rest(asks_kernel)
    }

    /// Gives back memory before a rest.
    pub(crate) fn rest(&mut self) {
        // The next response is likely as long as the last.
        self.wire.shrink(MOST_READ);
    }
}
