//! Requests on an HTTP/1.1 connection, one after the other: the verdict does not depend on segments, an accepted head can
//! be read in one way only, and what we would send on is read back as the same request.
#![no_main]

use bytes::BytesMut;
use fuzz::assert_one_line;
use fuzz::h1::{
    Body, BodyEnd, Input, READ_BACK, Segments, check_framing, read_body, second_reading,
    without_framing,
};
use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, Method, Uri};
use proxy::h1::head::{Framing, HeadError, HeadReader, Limits, RequestHead};
use proxy::h1::write;

fuzz::target!(|bytes: &[u8]| {
    if let Some(input) = Input::new(bytes) {
        input.in_any_segments(|segments| connection(segments, &input.limits));
    }
});

#[derive(Debug, PartialEq)]
enum Event {
    Request(Seen, Body),
    Refused(HeadError),
    /// All that arrived is the beginning of a head.
    Unfinished(Vec<u8>),
}

#[derive(Debug, PartialEq)]
struct Seen {
    method: Method,
    uri: Uri,
    fields: HeaderMap,
    framing: Framing,
    keep_alive: bool,
    expects_continue: bool,
}

fn connection(mut segments: Segments<'_>, limits: &Limits) -> Vec<Event> {
    let mut events = Vec::new();
    let mut input = BytesMut::new();
    loop {
        let (head, bytes) = match next_head(&mut input, &mut segments, limits) {
            Ok(next) => next,
            Err(last) => {
                events.push(last);
                return events;
            }
        };
        let body = read_body(head.body, limits, &mut input, &mut segments);
        check(&head, &bytes, limits);
        if body.end == BodyEnd::Complete {
            is_read_back(&head, &body);
        }
        let goes_on = head.keep_alive && body.end == BodyEnd::Complete;
        events.push(Event::Request(seen(head), body));
        if !goes_on {
            return events;
        }
    }
}

/// The next head and the bytes it was read from.
fn next_head(
    input: &mut BytesMut,
    segments: &mut Segments<'_>,
    limits: &Limits,
) -> Result<(RequestHead, Vec<u8>), Event> {
    let mut reader = HeadReader::new();
    loop {
        let before = input.to_vec();
        match reader.request(input, limits) {
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
                assert!(matches!(error.status(), 400 | 405 | 414 | 431 | 501 | 505));
                return Err(Event::Refused(error));
            }
        }
    }
}

fn check(head: &RequestHead, bytes: &[u8], limits: &Limits) {
    let Parts {
        method,
        uri,
        headers,
        ..
    } = &head.parts;
    check_framing(headers, head.body);
    let line = second_reading(bytes, headers, limits);
    let words: Vec<&str> = line.split(' ').collect();
    let [word, target, "HTTP/1.1"] = words[..] else {
        panic!("{line:?}");
    };
    assert_eq!(method.as_str(), word);
    assert!(
        !target.is_empty()
            && target
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'#')
    );
    if target.starts_with('/') {
        assert_eq!(
            uri.path_and_query().map(|target| target.as_str()),
            Some(target)
        );
        assert_eq!((uri.scheme(), uri.authority()), (None, None));
    }
}

/// Written as we write it, a request is the same request: no byte of it becomes another one's.
fn is_read_back(head: &RequestHead, body: &Body) {
    let parts = &head.parts;
    let Some(target) = parts
        .uri
        .path_and_query()
        .filter(|target| target.as_str().starts_with('/'))
    else {
        return;
    };
    let mut out = BytesMut::new();
    write::request_head(
        &mut out,
        &parts.method,
        target.as_str(),
        &parts.headers,
        head.body,
    );
    let read = HeadReader::new().request(&mut out, &READ_BACK);
    let again = read.expect("what is written is a head").expect("all of it");
    assert_eq!(again.parts.method, parts.method);
    assert_eq!(again.parts.uri.to_string(), target.as_str());
    assert_eq!(again.body, head.body);
    assert_eq!(again.keep_alive, head.keep_alive);
    assert_eq!(again.expects_continue, head.expects_continue);
    let mut fields = without_framing(&parts.headers);
    if let Some(first) = parts.headers.get(HOST) {
        fields.insert(HOST, first.clone());
    }
    assert_eq!(without_framing(&again.parts.headers), fields);
    assert!(out.is_empty());
    fuzz::h1::is_body_read_back(head.body, body);
}

fn seen(head: RequestHead) -> Seen {
    Seen {
        method: head.parts.method,
        uri: head.parts.uri,
        fields: head.parts.headers,
        framing: head.body,
        keep_alive: head.keep_alive,
        expects_continue: head.expects_continue,
    }
}
