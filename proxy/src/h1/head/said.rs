//! What the fields of a head say about the message: where its body ends, and whether the connection goes on.

use super::{Framing, HeadError};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, TRANSFER_ENCODING};

/// What the fields say, once they agree.
pub(super) struct Said {
    /// [`Framing::Length`] or [`Framing::Chunked`].
    pub(super) framing: Option<Framing>,
    pub(super) close: bool,
    pub(super) expectations: Expectations,
}

#[derive(PartialEq, Eq)]
pub(super) enum Expectations {
    None,
    /// `100-continue` and nothing else.
    Continue,
    Other,
}

impl Said {
    pub(super) fn in_fields(fields: &HeaderMap) -> Result<Self, HeadError> {
        let mut said = Self {
            framing: None,
            close: false,
            expectations: Expectations::None,
        };
        for (name, value) in fields {
            if name == CONTENT_LENGTH {
                said.frame(Framing::Length(content_length(value.as_bytes())?))?;
            } else if name == TRANSFER_ENCODING {
                said.frame(transfer_encoding(value.as_bytes())?)?;
            } else if name == CONNECTION {
                said.close |=
                    elements(value.as_bytes()).any(|option| option.eq_ignore_ascii_case(b"close"));
            } else if name == EXPECT {
                let is_continue = value.as_bytes().eq_ignore_ascii_case(b"100-continue");
                said.expectations = match said.expectations {
                    Expectations::None if is_continue => Expectations::Continue,
                    _ => Expectations::Other,
                };
            }
        }
        Ok(said)
    }

    /// One field says where the body ends; a second, even an equal one, is a message made for two readers.
    fn frame(&mut self, framing: Framing) -> Result<(), HeadError> {
        match self.framing.replace(framing) {
            None => Ok(()),
            Some(_) => Err(HeadError::Framing),
        }
    }
}

/// Digits alone, the way a number is written: `+5`, `5, 5`, `0x5` and `05` are read differently by different servers.
fn content_length(value: &[u8]) -> Result<u64, HeadError> {
    let is_plain = match value {
        [] => false,
        [b'0', rest @ ..] => rest.is_empty(),
        digits => digits.iter().all(u8::is_ascii_digit),
    };
    let digits = str::from_utf8(value).ok().filter(|_| is_plain);
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or(HeadError::ContentLength)
}

/// `chunked` alone is served. What names another coding and then ends in `chunked` is a message that we do not implement
/// (RFC 9112, section 6.1); everything else has no end that all would agree on.
fn transfer_encoding(value: &[u8]) -> Result<Framing, HeadError> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(Framing::Chunked);
    }
    let mut codings = elements(value).rev();
    let ends_chunked = codings
        .next()
        .is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
    let others_are_known = |coding: &[u8]| {
        [
            &b"gzip"[..],
            b"deflate",
            b"compress",
            b"x-gzip",
            b"x-compress",
        ]
        .iter()
        .any(|known| coding.eq_ignore_ascii_case(known))
    };
    if ends_chunked && codings.all(others_are_known) {
        return Err(HeadError::TransferCoding);
    }
    Err(HeadError::TransferEncoding)
}

/// The elements of a comma-separated list (RFC 9110, section 5.6.1), empty ones included.
fn elements(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim)
}

/// Without spaces and tabs around it; `trim_ascii` would take form feeds too.
fn trim(value: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let start = value.iter().position(is_text).unwrap_or(value.len());
    let end = value
        .iter()
        .rposition(is_text)
        .map_or(start, |last| last + 1);
    &value[start..end]
}
