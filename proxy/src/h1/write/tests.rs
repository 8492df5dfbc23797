use super::{chunk_end, chunk_start, last_chunk, request_head, response_head};
use crate::h1::body::{Decoder, Step};
use crate::h1::head::{Framing, HeadReader, Limits};
use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use std::num::NonZeroUsize;

const LIMITS: Limits = Limits {
    head_bytes: 16 * 1024,
    fields: 100,
    field_bytes: 8 * 1024,
    http10: false,
};

/// Fields with framing of their own, which is not to be believed.
fn fields() -> HeaderMap {
    let fields = [
        ("accept", &b"*/*"[..]),
        ("content-length", b"77"),
        ("transfer-encoding", b"gzip"),
        ("x-empty", b""),
        ("host", b"a.example:8080"),
        ("x-opaque", b"\xE9\t\xFF"),
        ("accept", b"text/html"),
    ];
    let field = |(name, value): &(&'static str, &[u8])| {
        let value = HeaderValue::from_bytes(value).unwrap();
        (HeaderName::from_static(name), value)
    };
    let mut map = HeaderMap::new();
    for (name, value) in fields.iter().map(field) {
        map.append(name, value);
    }
    map
}

/// What is expected to be read of `fields`, with the framing that was written.
fn with_framing(mut fields: HeaderMap, framing: Framing) -> HeaderMap {
    fields.remove("content-length");
    fields.remove("transfer-encoding");
    match framing {
        Framing::Length(length) => drop(fields.insert("content-length", length.into())),
        Framing::Chunked => {
            fields.insert("transfer-encoding", HeaderValue::from_static("chunked"));
        }
        Framing::Empty | Framing::UntilClose => {}
    }
    fields
}

#[test]
fn one_framing_is_written_whatever_the_fields_say() {
    let mut out = BytesMut::new();
    request_head(&mut out, &Method::PUT, "/a", &fields(), Framing::Length(5));
    assert_eq!(
        out,
        &b"PUT /a HTTP/1.1\r\nhost: a.example:8080\r\ncontent-length: 5\r\naccept: */*\r\n\
           accept: text/html\r\nx-empty: \r\nx-opaque: \xE9\t\xFF\r\n\r\n"[..]
    );
}

#[test]
fn a_request_is_read_back_as_it_was_written() {
    for method in [Method::GET, Method::from_bytes(b"PURGE").unwrap()] {
        for framing in [
            Framing::Empty,
            Framing::Length(0),
            Framing::Length(u64::MAX),
            Framing::Chunked,
        ] {
            let mut out = BytesMut::new();
            request_head(&mut out, &method, "/a/%7B?b=c", &fields(), framing);
            let head = HeadReader::new().request(&mut out, &LIMITS);
            let head = head.unwrap().unwrap();
            assert!(out.is_empty());
            assert_eq!(head.parts.method, method);
            assert_eq!(head.parts.uri, "/a/%7B?b=c");
            assert_eq!(head.parts.headers, with_framing(fields(), framing));
            assert_eq!((head.body, head.keep_alive), (framing, true));
        }
    }
}

#[test]
fn a_request_does_not_end_with_its_connection() {
    let mut out = BytesMut::new();
    let fields = HeaderMap::new();
    request_head(&mut out, &Method::PUT, "/", &fields, Framing::UntilClose);
    let head = HeadReader::new().request(&mut out, &LIMITS);
    assert_eq!(head.unwrap().unwrap().body, Framing::Chunked);
}

#[test]
fn a_response_is_read_back_as_it_was_written() {
    let unknown = StatusCode::from_u16(599).unwrap();
    for status in [StatusCode::OK, StatusCode::BAD_GATEWAY, unknown] {
        for framing in [
            Framing::Length(0),
            Framing::Length(u64::MAX),
            Framing::Chunked,
            Framing::UntilClose,
        ] {
            for close in [false, true] {
                let mut out = BytesMut::new();
                response_head(&mut out, status, &fields(), Some(framing), close);
                let head = HeadReader::new().response(&mut out, &Method::GET, &LIMITS);
                let head = head.unwrap().unwrap();
                let is_last = close || framing == Framing::UntilClose;
                let mut expected = with_framing(fields(), framing);
                if is_last {
                    expected.insert("connection", HeaderValue::from_static("close"));
                }
                assert!(out.is_empty());
                assert_eq!(head.parts.status, status);
                assert_eq!(head.parts.headers, expected);
                assert_eq!((head.body, head.keep_alive), (framing, !is_last));
            }
        }
    }
}

#[test]
fn a_response_without_a_body_keeps_the_length_where_that_is_allowed() {
    let head = Method::HEAD;
    for (method, status, framing, length) in [
        (&head, StatusCode::OK, None, Some("77")),
        (&Method::GET, StatusCode::NOT_MODIFIED, None, Some("77")),
        (&Method::GET, StatusCode::NO_CONTENT, None, None),
        (&Method::GET, StatusCode::CONTINUE, None, None),
        (
            &Method::GET,
            StatusCode::OK,
            Some(Framing::Empty),
            Some("0"),
        ),
    ] {
        let mut out = BytesMut::new();
        response_head(&mut out, status, &fields(), framing, false);
        let head = HeadReader::new().response(&mut out, method, &LIMITS);
        let head = head.unwrap().unwrap();
        let found = head.parts.headers.get("content-length");
        assert_eq!(
            found.map(|found| found.to_str().unwrap()),
            length,
            "{status}"
        );
        assert!(!head.parts.headers.contains_key("transfer-encoding"));
        assert!(matches!(head.body, Framing::Empty | Framing::Length(0)));
        assert!(head.keep_alive);
    }
}

#[test]
fn chunks_are_read_back_as_they_were_written() {
    for length in [1, 9, 10, 15, 16, 17, 255, 256, 65_535, 65_536] {
        let mut out = BytesMut::new();
        chunk_start(&mut out, NonZeroUsize::new(length).unwrap());
        assert!(
            out.starts_with(format!("{length:x}\r\n").as_bytes()),
            "{out:?}"
        );
        out.extend_from_slice(&vec![b'a'; length]);
        chunk_end(&mut out);
        let mut trailers = fields();
        last_chunk(&mut out, Some(&trailers));
        let mut decoder = Decoder::new(Framing::Chunked, &LIMITS);
        let data = decoder.next(&mut out).unwrap();
        assert!(matches!(data, Step::Data(data) if data.len() == length));
        trailers = with_framing(trailers, Framing::Empty);
        let step = decoder.next(&mut out).unwrap();
        assert!(matches!(step, Step::Trailers(found) if found == trailers));
        assert!(decoder.is_end() && out.is_empty());
    }
}

#[test]
fn the_longest_chunk_has_all_its_digits() {
    let mut out = BytesMut::new();
    chunk_start(&mut out, NonZeroUsize::MAX);
    assert_eq!(out, "ffffffffffffffff\r\n");
}

#[test]
fn a_body_without_trailers_ends_with_an_empty_line() {
    let mut out = BytesMut::new();
    last_chunk(&mut out, None);
    assert_eq!(out, "0\r\n\r\n");
}
