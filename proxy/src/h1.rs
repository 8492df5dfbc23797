//! HTTP/1.1 as we read and write it: one strict reading of every message, or none.
//!
//! The modules `head`, `body` and `write` are pure: bytes in, values out, no I/O and no clock, so that a fuzzer reaches all
//! of them. What they are given in pieces they read like the whole: the verdict never depends on where a segment ended.
//! Nothing is repaired. A message that two servers could read differently is an error (RFC 9112, sections 2.2, 5 and 6),
//! and the connection it came on is of no further use.
//!
//! Deliberately not here: what a request means. Methods, targets and Host are judged by `normalize`, with the same rules
//! for both versions of HTTP.

pub mod head;

pub mod body;

pub mod write;

mod line;

mod field;

pub(crate) mod spare;

pub(crate) mod wire;

mod coding;

pub(crate) mod server;

pub(crate) mod client;

use crate::body::{Broken, Piece};
use std::task::{Context, Poll, ready};

/// The next piece of the body that `decoder` reads from `wire`; `None` is its end.
fn poll_body(
    decoder: &mut body::Decoder,
    wire: &mut wire::Wire,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Piece, Broken>>> {
    // What came with the head and filled that read is not all that is there: one piece costs less than two.
    if let Some(left) = decoder.remaining()
        && left > wire.input.len() as u64
        && wire.has_begun_full()
        && let Poll::Ready(Err(error)) = wire.poll_fill(left, cx)
    {
        return Poll::Ready(Some(Err(error.into())));
    }
    loop {
        let step = match decoder.next(&mut wire.input) {
            Ok(step) => step,
            Err(error) => return Poll::Ready(Some(Err(Broken::Body(error)))),
        };
        match step {
            body::Step::Data(data) => return Poll::Ready(Some(Ok(Piece::Data(data)))),
            body::Step::Trailers(trailers) => {
                return Poll::Ready(Some(Ok(Piece::Trailers(trailers))));
            }
            body::Step::End => return Poll::Ready(None),
            body::Step::More => {
                match ready!(wire.poll_fill(decoder.remaining().unwrap_or(0), cx)) {
                    Ok(0) => {
                        if decoder.eof().is_err() {
                            return Poll::Ready(Some(Err(Broken::Closed)));
                        }
                    }
                    Ok(_) => {}
                    Err(error) => return Poll::Ready(Some(Err(error.into()))),
                }
            }
        }
    }
}
