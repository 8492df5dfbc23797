//! Message bodies as they pass through: in pieces, of which none is copied and few are held.

use crate::h1;
use bytes::Bytes;
use http::HeaderMap;
use std::io;

/// What a body comes in.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    /// Always the last.
    Trailers(HeaderMap),
}

/// Why a message broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the connection ended before the message did")]
    Closed,
    #[error("the head is not acceptable")]
    Head(#[source] h1::head::HeadError),
    #[error("the body is not acceptable")]
    Body(#[source] h1::body::BodyError),
    #[error("the HTTP/2 stream failed")]
    Http2(#[from] h2::Error),
    #[error("it switched protocols without having been asked")]
    UnaskedUpgrade,
}

impl Broken {
    /// Whether the other side ends the connection for no fault of anyone's (RFC 9113, section 6.8: GOAWAY with NO_ERROR), and
    /// has not looked at this request.
    pub(crate) fn is_orderly(&self) -> bool {
        matches!(self, Self::Http2(error)
            if error.is_remote() && error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR))
    }
}
