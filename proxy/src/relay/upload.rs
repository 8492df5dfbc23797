//! The request's body, on its way up: to the server that was asked first, and again to another as long as all of it is at hand.

use super::Relay;
use crate::body::{Broken, Piece};
use crate::normalize::strip_trailers;
use crate::upstream::Upstream;
use bytes::Bytes;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// The longest piece of a request's body that is kept until the server answers.
const KEPT: usize = 4 * 1024;

/// What of the request's body the caller no longer has.
#[derive(Debug)]
pub(super) enum Taken {
    Nothing,
    /// One short piece, kept until the server answers: it can be sent again.
    Piece(Bytes),
    TooMuch,
}

/// How far the request's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upload {
    Open,
    /// All of it was read; what waits is being written.
    Sent,
    /// The server takes no more of it. It may have answered already.
    Unwanted,
}

impl Relay<'_, '_, '_> {
    /// Whether all that was taken of the request's body can be sent again.
    pub(crate) fn can_ask_again(&self) -> bool {
        !matches!(self.taken, Taken::TooMuch)
    }

    /// The same request, whose head was sent to another server, for an attempt until `ends`. What was
    /// [taken](Self::can_ask_again) of its body follows.
    pub(crate) fn ask_again(&mut self, up: Upstream, ends: Option<Instant>) {
        self.up = up;
        self.attempt_ends = ends;
        self.upload = Upload::Sent;
        if self.has_upload && self.resume().is_err() {
            self.upload = Upload::Unwanted;
        }
    }

    fn resume(&mut self) -> Result<(), Broken> {
        let ends = !self.way.caller.has_body();
        if let Taken::Piece(data) = &self.taken {
            self.up.send(data.clone(), ends)?;
        }
        if ends {
            return self.up.end(None);
        }
        self.upload = Upload::Open;
        Ok(())
    }

    /// Fails when the caller's body does. A server that takes no more of it is left to say why.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        while self.upload == Upload::Open {
            match self.up.poll_room(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    self.upload = Upload::Unwanted;
                    return Ok(());
                }
                Poll::Pending => return Ok(()),
            }
            match self.way.caller.poll_body(cx) {
                Poll::Ready(piece) => {
                    if self.pass_up(piece.transpose()?).is_err() {
                        self.upload = Upload::Unwanted;
                    }
                }
                Poll::Pending => {
                    if matches!(self.up.poll_flush(cx), Poll::Ready(Err(_))) {
                        self.upload = Upload::Unwanted;
                    }
                    return Ok(());
                }
            }
        }
        if self.upload == Upload::Sent && matches!(self.up.poll_flush(cx), Poll::Ready(Err(_))) {
            self.upload = Upload::Unwanted;
        }
        Ok(())
    }

    fn pass_up(&mut self, piece: Option<Piece>) -> Result<(), Broken> {
        let trailers = match piece {
            Some(Piece::Data(data)) => {
                let length = data.len() as u64;
                self.way.exchange.received += length;
                self.progress.upload(length);
                let ends = !self.way.caller.has_body();
                self.taken = match self.taken {
                    Taken::Nothing if data.len() <= KEPT => Taken::Piece(data.clone()),
                    _ => Taken::TooMuch,
                };
                self.up.send(data, ends)?;
                if !ends {
                    return Ok(());
                }
                None
            }
            Some(Piece::Trailers(mut trailers)) => {
                strip_trailers(&mut trailers);
                self.taken = Taken::TooMuch;
                Some(trailers)
            }
            None => None,
        };
        self.progress.touch();
        self.upload = Upload::Sent;
        self.up.end(trailers)
    }
}
