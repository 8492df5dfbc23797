//! HTTP/2 as the `h2` crate speaks it: [`server`] has the connections of callers, `upstream/http2.rs` ours to servers.
//! Here is what the streams of both have in common.

pub(crate) mod server;

pub(crate) mod flood;

use crate::body::{Broken, Piece};
use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use identity::tls::RECORD_BYTES;
use std::task::{Context, Poll, ready};

/// What one stalled body may hold in us (RFC 9113 section 6.9.2 starts at 64 KiB, too).
pub(crate) const STREAM_WINDOW: u32 = 64 * 1024;
/// What a stream may have queued for a slow reader.
pub(crate) const SEND_BUFFER: usize = 64 * 1024;

/// Longest frame: what fits a window twice, so that one can be on its way while the other is read. With its head it fills
/// two records to the last byte.
pub(crate) const FRAME: u32 = 2 * RECORD_BYTES as u32 - FRAME_HEAD;
/// What stands before the payload of a frame (RFC 9113 section 4.1).
const FRAME_HEAD: u32 = 9;

/// The most of a body that is sent before the reader has made room.
const SHORT: usize = 4 * 1024;

/// Pieces up to this size are copied when they have to wait.
const SMALL: usize = 2 * 1024;

/// The sending half of a stream. What the reader has no window for is held here, one piece at most.
#[derive(Debug)]
pub(crate) struct Sender {
    stream: SendStream<Bytes>,
    waiting: Bytes,
    /// Whether the stream ends with what waits.
    ends: bool,
    has_begun: bool,
}

impl Sender {
    pub(crate) fn new(stream: SendStream<Bytes>) -> Self {
        Self {
            stream,
            waiting: Bytes::new(),
            ends: false,
            has_begun: false,
        }
    }

    /// Hands over what waits, as the reader makes room for it.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while !self.waiting.is_empty() {
            self.stream.reserve_capacity(self.waiting.len());
            let room = self.stream.capacity().min(self.waiting.len());
            if room > 0 {
                let part = self.waiting.split_to(room);
                let ends = self.ends && self.waiting.is_empty();
                self.stream.send_data(part, ends)?;
            } else if ready!(self.stream.poll_capacity(cx)).transpose()?.is_none() {
                return Poll::Ready(Err(Broken::Closed));
            }
            // What `poll_capacity` says may be none at all: sent as an empty frame, it would count as an attack.
        }
        Poll::Ready(Ok(()))
    }

    /// Sends a piece; `ends` says that nothing follows. There has to be [room](Self::poll_room).
    pub(crate) fn send(&mut self, data: Bytes, ends: bool) -> Result<(), Broken> {
        debug_assert!(self.waiting.is_empty());
        self.ends = ends;
        // Most bodies are one short piece: it goes without asking for room, and waits in the library if there is none.
        let is_short = data.len() <= SHORT && !std::mem::replace(&mut self.has_begun, true);
        if is_short || data.is_empty() {
            if ends || !data.is_empty() {
                self.stream.send_data(data, ends)?;
            }
        } else if data.len() <= SMALL {
            // Many small pieces, each with the whole buffer it was read into, would be far more than the queue's bound.
            self.waiting = Bytes::copy_from_slice(&data);
        } else {
            self.waiting = data;
        }
        Ok(())
    }

    /// Ends the stream. There has to be [room](Self::poll_room).
    pub(crate) fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        match trailers {
            Some(trailers) => self.stream.send_trailers(trailers)?,
            None if self.ends => {}
            None => self.stream.send_data(Bytes::new(), true)?,
        }
        Ok(())
    }

    /// Waits until the reader gives the stream up.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        self.stream
            .poll_reset(cx)
            .map(|reset| Broken::Http2(reset.map_or_else(|error| error, h2::Error::from)))
    }

    /// Gives the stream up.
    pub(crate) fn reset(&mut self, reason: h2::Reason) {
        self.stream.send_reset(reason);
    }
}

/// The next piece of a stream's body; `None` is its end. Room for more is given back at once: whoever takes a piece has
/// a place for it.
pub(crate) fn poll_body(
    stream: &mut RecvStream,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Piece, Broken>>> {
    loop {
        match ready!(stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // Fails only for more than was received.
                let _ = stream.flow_control().release_capacity(data.len());
                if !data.is_empty() {
                    return Poll::Ready(Some(Ok(Piece::Data(data))));
                }
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => {
                let trailers = ready!(stream.poll_trailers(cx));
                return Poll::Ready(match trailers {
                    Ok(trailers) => trailers.map(|trailers| Ok(Piece::Trailers(trailers))),
                    Err(error) => Some(Err(error.into())),
                });
            }
        }
    }
}

/// Why a connection ended before its time, as a word from a closed set.
pub(crate) fn ended_reason(error: &h2::Error) -> &'static str {
    use h2::Reason;
    match error.reason() {
        _ if error.is_io() => "connection_lost",
        _ if error.is_remote() => "ended_by_peer",
        Some(Reason::ENHANCE_YOUR_CALM) => "enhance_your_calm",
        Some(Reason::FLOW_CONTROL_ERROR) => "flow_control_error",
        Some(Reason::FRAME_SIZE_ERROR) => "frame_size_error",
        Some(Reason::COMPRESSION_ERROR) => "compression_error",
        _ => "protocol_error",
    }
}
