//! What the HTTP/1 targets share: one input fed in different segments, and a second reading of a head.

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use proxy::h1::body::{Decoder, Step};
use proxy::h1::head::{Framing, Limits};
use proxy::h1::write;
use std::num::NonZeroUsize;

/// What the proxy runs with, more or less.
const USUAL: Limits = Limits {
    head_bytes: 32 * 1024,
    fields: 100,
    field_bytes: 8 * 1024,
    http10: false,
};

/// So small that an input of a few bytes reaches every limit.
const SMALL: Limits = Limits {
    head_bytes: 96,
    fields: 4,
    field_bytes: 32,
    http10: false,
};

/// For what we write ourselves: never longer than this, and spaces may have come in.
pub const READ_BACK: Limits = Limits {
    head_bytes: 1 << 20,
    fields: 1 << 10,
    field_bytes: 1 << 18,
    http10: false,
};

/// An input of these targets: one byte of choices, two lengths of segments, and the message.
#[derive(Debug)]
pub struct Input<'a> {
    pub choice: u8,
    pub limits: Limits,
    lengths: [usize; 2],
    pub message: &'a [u8],
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let ([choice, one, other], message) = bytes.split_first_chunk()?;
        Some(Self {
            choice: *choice,
            limits: if choice & 1 == 0 { USUAL } else { SMALL },
            lengths: [usize::from(*one) + 1, usize::from(*other) + 1],
            message,
        })
    }

    /// What `read` makes of the message, which must not depend on the segments it arrives in.
    pub fn in_any_segments<T: PartialEq + std::fmt::Debug>(
        &self,
        read: impl Fn(Segments<'a>) -> T,
    ) -> T {
        let whole = read(Segments::new(self.message, [usize::MAX; 2]));
        for lengths in [[1, 1], self.lengths] {
            let cut = read(Segments::new(self.message, lengths));
            assert_eq!(cut, whole, "in segments of {lengths:?}");
        }
        whole
    }
}

/// A message as it arrives.
#[derive(Debug)]
pub struct Segments<'a> {
    rest: &'a [u8],
    lengths: [usize; 2],
}

impl<'a> Segments<'a> {
    fn new(message: &'a [u8], lengths: [usize; 2]) -> Self {
        Self {
            rest: message,
            lengths,
        }
    }

    /// Adds the next segment to what has arrived; false when there is none.
    pub fn arrive(&mut self, input: &mut BytesMut) -> bool {
        if self.rest.is_empty() {
            return false;
        }
        let (segment, rest) = self.rest.split_at(self.rest.len().min(self.lengths[0]));
        input.extend_from_slice(segment);
        self.rest = rest;
        self.lengths.reverse();
        true
    }

    /// What has not arrived yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// What became of a body.
#[derive(Debug, PartialEq)]
pub struct Body {
    pub data: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    pub end: BodyEnd,
}

#[derive(Debug, PartialEq)]
pub enum BodyEnd {
    Complete,
    /// Everything arrived, and the body had not ended. Whether that is an end is for [`Decoder::eof`] to say.
    Closed {
        is_end: bool,
    },
    Broken(&'static str),
}

/// Reads one body, and holds the decoder to what a caller may rely on.
pub fn read_body(
    framing: Framing,
    limits: &Limits,
    input: &mut BytesMut,
    segments: &mut Segments<'_>,
) -> Body {
    let mut decoder = Decoder::new(framing, limits);
    let (mut data, mut trailers) = (Vec::new(), None);
    let end = loop {
        let before = input.len();
        let step = match decoder.next(input) {
            Ok(step) => step,
            Err(error) => {
                crate::assert_one_line(&error);
                assert!(matches!(error.status(), 400 | 431));
                break BodyEnd::Broken(error.reason());
            }
        };
        match step {
            Step::Data(piece) => {
                assert!(!piece.is_empty() && piece.len() <= before - input.len());
                assert!(trailers.is_none(), "data behind the trailers");
                data.extend_from_slice(&piece);
            }
            Step::Trailers(fields) => {
                assert!(!fields.is_empty() && decoder.is_end());
                assert!(trailers.replace(fields).is_none());
            }
            Step::End => {
                assert!(decoder.is_end() && decoder.remaining() == Some(0));
                assert_eq!(decoder.eof(), Ok(()));
                // What follows belongs to the next message.
                let left = input.clone();
                assert!(matches!(decoder.next(input), Ok(Step::End)));
                assert_eq!(*input, left);
                break BodyEnd::Complete;
            }
            Step::More => {
                assert!(!decoder.is_end());
                if !segments.arrive(input) {
                    let is_end = decoder.eof().is_ok();
                    assert_eq!(is_end, framing == Framing::UntilClose);
                    break BodyEnd::Closed { is_end };
                }
            }
        }
        if let Framing::Length(length) = framing {
            assert!(data.len() as u64 <= length);
            assert_eq!(decoder.remaining(), Some(length - data.len() as u64));
        }
    };
    assert!(framing == Framing::Chunked || trailers.is_none());
    assert!(framing != Framing::Empty || data.is_empty());
    Body {
        data,
        trailers,
        end,
    }
}

/// Written as we write it, a complete body is the same body, and nothing follows it.
pub fn is_body_read_back(framing: Framing, body: &Body) {
    let mut out = BytesMut::new();
    if framing == Framing::Chunked {
        if let Some(length) = NonZeroUsize::new(body.data.len()) {
            write::chunk_start(&mut out, length);
            out.extend_from_slice(&body.data);
            write::chunk_end(&mut out);
        }
        write::last_chunk(&mut out, body.trailers.as_ref());
    } else {
        out.extend_from_slice(&body.data);
    }
    let again = read_body(
        framing,
        &READ_BACK,
        &mut out,
        &mut Segments::new(&[], [1, 1]),
    );
    assert_eq!((&again.data, &again.end), (&body.data, &body.end));
    let sent = body
        .trailers
        .as_ref()
        .map(without_framing)
        .filter(|fields| !fields.is_empty());
    assert_eq!(again.trailers, sent);
    assert!(out.is_empty());
}

/// Reads a head, taken off the input as `head`, once more and as plainly as can be: a first line, which is given back, and
/// these fields, in lines that nobody can divide in another way.
pub fn second_reading<'h>(head: &'h [u8], fields: &HeaderMap, limits: &Limits) -> &'h str {
    assert!(head.len() <= limits.head_bytes && fields.len() <= limits.fields);
    let block = head
        .strip_suffix(b"\r\n\r\n")
        .expect("a head ends in an empty line");
    let mut lines = split_crlf(block).into_iter();
    let first = lines.next().and_then(|line| str::from_utf8(line).ok());
    let mut count = 0;
    for line in lines {
        count += 1;
        assert!(line.len() <= limits.field_bytes);
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .expect("a field has a colon");
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let name = str::from_utf8(name)
            .expect("a name is ASCII")
            .to_ascii_lowercase();
        assert!(!name.is_empty() && name.bytes().all(is_token), "{name:?}");
        assert!(
            fields
                .get_all(&name)
                .iter()
                .any(|found| found.as_bytes() == value),
            "{name}: {value:?}"
        );
    }
    assert_eq!(count, fields.len());
    check_fields(fields);
    first.unwrap_or_default()
}

/// What no accepted message has: controls in a value, and more than one word on where its body ends.
pub fn check_fields(fields: &HeaderMap) {
    for (name, value) in fields {
        assert!(name.as_str().bytes().all(is_token));
        let is_text = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7F);
        assert!(value.as_bytes().iter().all(is_text), "{name}: {value:?}");
    }
}

/// Where a head says its body ends, and how often it says so.
pub fn check_framing(fields: &HeaderMap, framing: Framing) {
    let lengths: Vec<&[u8]> = fields
        .get_all(CONTENT_LENGTH)
        .iter()
        .map(|value| value.as_bytes())
        .collect();
    let codings: Vec<&[u8]> = fields
        .get_all(TRANSFER_ENCODING)
        .iter()
        .map(|value| value.as_bytes())
        .collect();
    match (framing, &lengths[..], &codings[..]) {
        (Framing::Empty | Framing::UntilClose, [], []) => {}
        (Framing::Length(length), [written], []) => {
            assert_eq!(length.to_string().as_bytes(), *written)
        }
        (Framing::Chunked, [], [coding]) => assert!(coding.eq_ignore_ascii_case(b"chunked")),
        _ => panic!("{framing:?} with {lengths:?} and {codings:?}"),
    }
}

/// The fields that do not depend on how a message is framed, with the order of each name's values.
pub fn without_framing(fields: &HeaderMap) -> HeaderMap {
    let mut fields = fields.clone();
    fields.remove(CONTENT_LENGTH);
    fields.remove(TRANSFER_ENCODING);
    fields
}

fn split_crlf(block: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut start = 0;
    for at in 0..block.len() {
        let is_end = block[at] == b'\r' && block.get(at + 1) == Some(&b'\n');
        assert!(
            is_end
                || !b"\r\n".contains(&block[at])
                || (at > 0 && block[at] == b'\n' && block[at - 1] == b'\r')
        );
        if is_end {
            lines.push(&block[start..at]);
            start = at + 2;
        }
    }
    lines.push(&block[start..]);
    lines
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
