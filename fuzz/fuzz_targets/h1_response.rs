//! Responses of an app: as for requests, and a body where there is none to be read is never waited for.
#![no_main]

use bytes::BytesMut;
use fuzz::assert_one_line;
use fuzz::h1::{
    Body, BodyEnd, Input, READ_BACK, Segments, check_framing, read_body, second_reading,
    without_framing,
};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http::{HeaderMap, Method, StatusCode, Version};
use proxy::h1::head::{Framing, HeadError, HeadReader, Limits, ResponseHead};
use proxy::h1::write;

fuzz::target!(|bytes: &[u8]| {
    if let Some(input) = Input::new(bytes) {
        let method = if input.choice & 2 == 0 {
            Method::GET
        } else {
            Method::HEAD
        };
        input.in_any_segments(|segments| connection(segments, &method, &input.limits));
    }
});

#[derive(Debug, PartialEq)]
enum Event {
    Response(Seen, Body),
    Refused(HeadError),
    Unfinished(Vec<u8>),
}

#[derive(Debug, PartialEq)]
struct Seen {
    status: StatusCode,
    version: Version,
    fields: HeaderMap,
    framing: Framing,
    keep_alive: bool,
}

fn connection(mut segments: Segments<'_>, method: &Method, limits: &Limits) -> Vec<Event> {
    let mut events = Vec::new();
    let mut input = BytesMut::new();
    loop {
        let (head, bytes) = match next_head(&mut input, &mut segments, method, limits) {
            Ok(next) => next,
            Err(last) => {
                events.push(last);
                return events;
            }
        };
        check(&head, &bytes, method, limits);
        let body = read_body(head.body, limits, &mut input, &mut segments);
        is_read_back(&head, &body, method);
        let goes_on = head.keep_alive && body.end == BodyEnd::Complete;
        events.push(Event::Response(seen(head), body));
        if !goes_on {
            return events;
        }
    }
}

/// The next head and the bytes it was read from.
fn next_head(
    input: &mut BytesMut,
    segments: &mut Segments<'_>,
    method: &Method,
    limits: &Limits,
) -> Result<(ResponseHead, Vec<u8>), Event> {
    let mut reader = HeadReader::new();
    loop {
        let before = input.to_vec();
        match reader.response(input, method, limits) {
            Ok(Some(head)) => return Ok((head, before[..before.len() - input.len()].to_vec())),
            Ok(None) => {
                assert_eq!(*input, before);
                assert!(
                    input.len() < limits.head_bytes,
                    "more is held than a head may have"
                );
                if !segments.arrive(input) {
                    return Err(Event::Unfinished(before));
                }
            }
            Err(error) => {
                assert_one_line(&error);
                return Err(Event::Refused(error));
            }
        }
    }
}

fn check(head: &ResponseHead, bytes: &[u8], method: &Method, limits: &Limits) {
    let (status, version) = (head.parts.status, head.parts.version);
    second_reading(bytes, &head.parts.headers, limits);
    let written = format!("{version:?} {status_code}", status_code = status.as_str());
    assert!(bytes.starts_with(written.as_bytes()));
    // RFC 9112, section 6.3: what has no body, whatever its fields say.
    if *method == Method::HEAD || status.is_informational() || [204, 304].contains(&status.as_u16())
    {
        assert_eq!(head.body, Framing::Empty);
    } else {
        assert_ne!(head.body, Framing::Empty);
        check_framing(&head.parts.headers, head.body);
    }
    if version == Version::HTTP_10 {
        assert!(!head.keep_alive && head.body != Framing::Chunked);
    }
    assert!(!head.keep_alive || head.body != Framing::UntilClose);
}

/// Written as we write it, a response is the same response and ends where it ended.
fn is_read_back(head: &ResponseHead, body: &Body, method: &Method) {
    let parts = &head.parts;
    let framing = Some(head.body).filter(|framing| *framing != Framing::Empty);
    let mut out = BytesMut::new();
    write::response_head(
        &mut out,
        parts.status,
        &parts.headers,
        framing,
        !head.keep_alive,
    );
    let read = HeadReader::new().response(&mut out, method, &READ_BACK);
    let again = read.expect("what is written is a head").expect("all of it");
    assert_eq!(again.parts.status, parts.status);
    assert_eq!((again.body, again.keep_alive), (head.body, head.keep_alive));
    let mut fields = without_framing(&again.parts.headers);
    if !head.keep_alive {
        // Ours comes first.
        let mut values: Vec<HeaderValue> = fields.get_all(CONNECTION).iter().cloned().collect();
        assert_eq!(values.remove(0), "close");
        fields.remove(CONNECTION);
        for value in values {
            fields.append(CONNECTION, value);
        }
    }
    assert_eq!(fields, without_framing(&parts.headers));
    assert!(again.parts.headers.get_all(CONTENT_LENGTH).iter().count() <= 1);
    assert!(out.is_empty());
    if body.end == BodyEnd::Complete {
        fuzz::h1::is_body_read_back(head.body, body);
    }
}

fn seen(head: ResponseHead) -> Seen {
    Seen {
        status: head.parts.status,
        version: head.parts.version,
        fields: head.parts.headers,
        framing: head.body,
        keep_alive: head.keep_alive,
    }
}
