//! How the body of a message of ours is written, and how far it is. Its length is counted here, whoever has checked it
//! before: a connection is used again only at the end of a body that was what its head said.

use super::head::Framing;
use super::wire::Wire;
use super::write;
use bytes::Bytes;
use http::HeaderMap;
use std::io;
use std::num::NonZeroUsize;
use std::task::{Context, Poll, ready};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// Bytes that are still owed.
    Sized(u64),
    Chunked,
    /// Another protocol's bytes, after an upgrade: they end with our direction of the connection.
    Raw,
    /// The same, at its end: our direction is to be shut down.
    RawEnded,
    /// All of it was written, or there is none.
    Ended,
    /// It is not what its head said, and never will be.
    Broken,
}

impl Coding {
    pub(super) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Empty | Framing::Length(0) => Self::Ended,
            Framing::Length(length) => Self::Sized(length),
            Framing::Chunked | Framing::UntilClose => Self::Chunked,
        }
    }

    /// Writes a piece. There has to be [room](Wire::poll_room). What comes after the end is left out.
    pub(super) fn send(&mut self, wire: &mut Wire, data: Bytes) {
        // An empty chunk would be the last one.
        let Some(length) = NonZeroUsize::new(data.len()) else {
            return;
        };
        match *self {
            Self::Sized(left) => match left.checked_sub(data.len() as u64) {
                Some(left) => {
                    *self = Self::Sized(left);
                    wire.send(data);
                }
                None => *self = Self::Broken,
            },
            Self::Chunked => {
                write::chunk_start(wire.output(), length);
                wire.send(data);
                write::chunk_end(wire.output());
            }
            Self::Raw => wire.send(data),
            Self::RawEnded | Self::Ended | Self::Broken => {}
        }
    }

    /// Writes the end. Trailers are left out where the framing has no place for them.
    pub(super) fn end(&mut self, wire: &mut Wire, trailers: Option<&HeaderMap>) {
        *self = match *self {
            Self::Sized(1..) | Self::Broken => Self::Broken,
            Self::Sized(0) | Self::Ended => Self::Ended,
            Self::Raw | Self::RawEnded => Self::RawEnded,
            Self::Chunked => {
                write::last_chunk(wire.output(), trailers);
                Self::Ended
            }
        };
    }

    /// Waits until what was written has left, and with it the end where that is the connection's own.
    pub(super) fn poll_flush(
        &mut self,
        wire: &mut Wire,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if *self != Self::RawEnded {
            return wire.poll_flush(cx);
        }
        ready!(wire.poll_shutdown(cx))?;
        *self = Self::Ended;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;

    fn written(framing: Framing, pieces: &[&'static str]) -> (Coding, BytesMut) {
        let (near, _far) = tokio::io::duplex(1);
        let mut wire = Wire::new(Box::new(near), BytesMut::new());
        let mut coding = Coding::new(framing);
        for piece in pieces {
            coding.send(&mut wire, Bytes::from_static(piece.as_bytes()));
        }
        coding.end(&mut wire, None);
        (coding, wire.output().split())
    }

    #[test]
    fn a_body_ends_only_as_its_head_said() {
        use Coding::{Broken, Ended};
        for (framing, pieces, end, bytes) in [
            (Framing::Length(5), &["he", "", "llo"][..], Ended, "hello"),
            (Framing::Length(5), &["hell"], Broken, "hell"),
            (Framing::Length(5), &["hello", "!"], Broken, "hello"),
            (Framing::Length(5), &["hello!"], Broken, ""),
            (Framing::Length(0), &["x"], Ended, ""),
            (Framing::Empty, &["x"], Ended, ""),
            (
                Framing::Chunked,
                &["hello", ""],
                Ended,
                "5\r\nhello\r\n0\r\n\r\n",
            ),
        ] {
            let (coding, output) = written(framing, pieces);
            assert_eq!(coding, end, "{framing:?} {pieces:?}");
            assert_eq!(output, bytes, "{framing:?} {pieces:?}");
        }
    }
}
