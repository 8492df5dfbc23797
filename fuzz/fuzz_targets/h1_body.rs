//! Bodies alone: never more than was announced, the same in every segmentation, and chunks as a second decoder reads them.
#![no_main]

use bytes::BytesMut;
use fuzz::h1::{BodyEnd, Input, check_fields, is_body_read_back, read_body};
use proxy::h1::head::Framing;

fuzz::target!(|bytes: &[u8]| {
    let Some(input) = Input::new(bytes) else {
        return;
    };
    let framing = match input.choice >> 1 {
        0 => Framing::Empty,
        1 => Framing::UntilClose,
        length @ 2..32 => Framing::Length(u64::from(length) - 2),
        32 => Framing::Length(u64::MAX),
        _ => Framing::Chunked,
    };
    let (body, left) = input.in_any_segments(|mut segments| {
        let mut arrived = BytesMut::new();
        let body = read_body(framing, &input.limits, &mut arrived, &mut segments);
        // What was not taken: an error leaves the input in no particular state.
        let left = match body.end {
            BodyEnd::Broken(_) => Vec::new(),
            _ => [&arrived, segments.rest()].concat(),
        };
        (body, left)
    });
    let taken = input.message.len() - left.len();
    match body.end {
        BodyEnd::Complete if framing == Framing::Chunked => {
            assert!(input.message.ends_with(&left));
            let mut rest = &input.message[..taken];
            let mut data = Vec::new();
            while let Some(chunk) = next_chunk(&mut rest) {
                data.extend_from_slice(chunk);
            }
            assert_eq!(data, body.data);
            assert_eq!(body.trailers.is_none(), rest == b"\r\n", "{rest:?}");
            assert!(rest.ends_with(b"\r\n"));
        }
        BodyEnd::Complete | BodyEnd::Closed { is_end: true } => {
            assert_eq!(body.data, input.message[..taken]);
        }
        BodyEnd::Closed { is_end: false } | BodyEnd::Broken(_) => {}
    }
    body.trailers.iter().for_each(check_fields);
    if body.end == BodyEnd::Complete {
        is_body_read_back(framing, &body);
    }
});

/// RFC 9112, section 7.1, for a body that is known to be well-formed; `None` is the last chunk.
fn next_chunk<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let text = rest.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let (line, _) = text.split_once("\r\n").expect("a size has a line");
    let digits = line.split(';').next().unwrap_or_default();
    let size = usize::from_str_radix(digits, 16).expect("a size is hexadecimal");
    let after = &rest[line.len() + 2..];
    if size == 0 {
        *rest = after;
        return None;
    }
    let (chunk, after) = after.split_at(size);
    *rest = after.strip_prefix(b"\r\n").expect("a chunk ends in CRLF");
    Some(chunk)
}
