//! Writes heads and chunks (RFC 9112). Exactly one framing is written, ours: whatever Content-Length or Transfer-Encoding
//! the fields have is left out, so that what is sent ends where we end it.

use super::head::Framing;
use bytes::{BufMut, BytesMut};
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING};
use http::{Method, StatusCode};
use std::num::NonZeroUsize;

/// Bytes of a head beside its target and fields, with room to spare.
const HEAD_BYTES: usize = 128;

/// Appends a request head. `target` is canonical and in origin-form. Host comes first (RFC 9110, section 7.2); of several,
/// only the first is written.
///
/// A request cannot end with its connection: [`Framing::UntilClose`] is written as [`Framing::Chunked`].
pub fn request_head(
    out: &mut BytesMut,
    method: &Method,
    target: &str,
    headers: &HeaderMap,
    framing: Framing,
) {
    out.reserve(HEAD_BYTES + target.len() + length(headers));
    out.put_slice(method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(target.as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    if let Some(host) = headers.get(HOST) {
        field(out, b"host", host.as_bytes());
    }
    match framing {
        Framing::Empty => {}
        Framing::Length(length) => content_length(out, length),
        Framing::Chunked | Framing::UntilClose => chunked(out),
    }
    for (name, value) in headers {
        if name != HOST && name != CONTENT_LENGTH && name != TRANSFER_ENCODING {
            field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    out.put_slice(b"\r\n");
}

/// Appends a response head; `close` says that the connection ends with it.
///
/// `framing` is `None` where the status or the method of the request rules a body out (HEAD, 1xx, 204, 304): a
/// Content-Length in `headers` then says how long a body would be and is kept, except where RFC 9110, section 8.6, rules
/// it out too (1xx, 204). [`Framing::Empty`] is written as a length of 0, since a response without framing lasts as long
/// as the connection; [`Framing::UntilClose`] closes whatever `close` says.
pub fn response_head(
    out: &mut BytesMut,
    status: StatusCode,
    headers: &HeaderMap,
    framing: Option<Framing>,
    close: bool,
) {
    let reason = status.canonical_reason().unwrap_or_default();
    out.reserve(HEAD_BYTES + length(headers));
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(reason.as_bytes());
    out.put_slice(b"\r\n");
    match framing {
        None | Some(Framing::UntilClose) => {}
        Some(Framing::Empty) => content_length(out, 0),
        Some(Framing::Length(length)) => content_length(out, length),
        Some(Framing::Chunked) => chunked(out),
    }
    if close || framing == Some(Framing::UntilClose) {
        field(out, b"connection", b"close");
    }
    let keeps_length =
        framing.is_none() && !status.is_informational() && status != StatusCode::NO_CONTENT;
    for (name, value) in headers {
        if name != TRANSFER_ENCODING && (name != CONTENT_LENGTH || keeps_length) {
            field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    out.put_slice(b"\r\n");
}

/// Appends what stands before `length` bytes of a chunked body. A chunk of no bytes would end the body, hence the type.
pub fn chunk_start(out: &mut BytesMut, length: NonZeroUsize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let length = length.get();
    let digits = length.ilog2() / 4;
    for digit in (0..=digits).rev() {
        out.put_u8(DIGITS[length >> (digit * 4) & 0xF]);
    }
    out.put_slice(b"\r\n");
}

/// Appends what stands behind the bytes of a chunk.
pub fn chunk_end(out: &mut BytesMut) {
    out.put_slice(b"\r\n");
}

/// Appends the end of a chunked body.
pub fn last_chunk(out: &mut BytesMut, trailers: Option<&HeaderMap>) {
    out.put_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        out.reserve(length(trailers) + 2);
        for (name, value) in trailers {
            if name != CONTENT_LENGTH && name != TRANSFER_ENCODING {
                field(out, name.as_str().as_bytes(), value.as_bytes());
            }
        }
    }
    out.put_slice(b"\r\n");
}

fn content_length(out: &mut BytesMut, length: u64) {
    let mut digits = itoa::Buffer::new();
    field(out, b"content-length", digits.format(length).as_bytes());
}

fn chunked(out: &mut BytesMut) {
    field(out, b"transfer-encoding", b"chunked");
}

fn field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// Bytes that the fields take at most.
fn length(fields: &HeaderMap) -> usize {
    fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
}

#[cfg(test)]
mod tests;
