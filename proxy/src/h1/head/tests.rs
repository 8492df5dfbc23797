use super::{Framing, HeadError, HeadReader, Limits, RequestHead, ResponseHead};
use bytes::BytesMut;
use http::{Method, Version};
use policy::target::{MAX_TARGET_BYTES, Reject};

const LIMITS: Limits = Limits {
    head_bytes: 16 * 1024,
    fields: 100,
    field_bytes: 8 * 1024,
    http10: false,
};

fn request(bytes: impl AsRef<[u8]>) -> Result<Option<RequestHead>, HeadError> {
    HeadReader::new().request(&mut BytesMut::from(bytes.as_ref()), &LIMITS)
}

fn response(method: &Method, bytes: impl AsRef<[u8]>) -> Result<Option<ResponseHead>, HeadError> {
    HeadReader::new().response(&mut BytesMut::from(bytes.as_ref()), method, &LIMITS)
}

#[test]
fn a_request_line_that_two_servers_could_read_differently_is_refused() {
    for (line, expected) in [
        ("", HeadError::RequestLine),
        ("GET", HeadError::RequestLine),
        ("GET /", HeadError::RequestLine),
        ("GET / ", HeadError::RequestLine),
        ("GET  / HTTP/1.1", HeadError::RequestLine),
        ("GET /  HTTP/1.1", HeadError::RequestLine),
        ("GET / HTTP/1.1 ", HeadError::RequestLine),
        (" GET / HTTP/1.1", HeadError::RequestLine),
        ("GET /a b HTTP/1.1", HeadError::RequestLine),
        ("CONNECT  HTTP/1.1", HeadError::RequestLine),
        ("GET\t/\tHTTP/1.1", HeadError::RequestLine),
        ("GET / http/1.1", HeadError::RequestLine),
        ("GET / HTTP/1", HeadError::RequestLine),
        ("GET / HTTP/1.10", HeadError::RequestLine),
        ("GET / HTTP/11", HeadError::RequestLine),
        ("GET / HTTP/+.1", HeadError::RequestLine),
        ("GET / HTTPS/1.1", HeadError::RequestLine),
        ("G(T / HTTP/1.1", HeadError::RequestLine),
        ("G\0T / HTTP/1.1", HeadError::RequestLine),
        ("GÉT / HTTP/1.1", HeadError::RequestLine),
        ("\x16\x03\x01 / HTTP/1.1", HeadError::RequestLine),
        ("GET / HTTP/1.0", HeadError::Version),
        ("GET / HTTP/1.2", HeadError::Version),
        ("GET / HTTP/0.9", HeadError::Version),
        ("GET / HTTP/2.0", HeadError::Version),
        ("PRI * HTTP/2.0", HeadError::Version),
        ("GET /a#b HTTP/1.1", HeadError::Target(Reject::BadCharacter)),
        ("GET # HTTP/1.1", HeadError::Target(Reject::BadCharacter)),
        ("GET /\0 HTTP/1.1", HeadError::Target(Reject::BadCharacter)),
        ("GET /\t HTTP/1.1", HeadError::Target(Reject::BadCharacter)),
        (
            "GET /\x7F HTTP/1.1",
            HeadError::Target(Reject::BadCharacter),
        ),
        ("GET /é HTTP/1.1", HeadError::Target(Reject::BadCharacter)),
    ] {
        // Judged at the CRLF, before any field.
        let read = request(format!("{line}\r\n"));
        assert_eq!(read.err(), Some(expected), "{line:?}");
    }
}

#[test]
fn a_field_line_that_two_servers_could_read_differently_is_refused() {
    for (line, expected) in [
        (&b"a\nb: c"[..], HeadError::BareLf),
        (b"a: b\nc: d", HeadError::BareLf),
        (b"\n", HeadError::BareLf),
        (b"a: b\rc: d", HeadError::BareCr),
        (b"a: b\r\rc: d", HeadError::BareCr),
        (b"\ra: b", HeadError::BareCr),
        (b" a: b", HeadError::Fold),
        (b"\ta: b", HeadError::Fold),
        (b"a: b\r\n c", HeadError::Fold),
        (b"a: b\r\n\tc", HeadError::Fold),
        (b"a: b\r\n ", HeadError::Fold),
        (b"a : b", HeadError::FieldName),
        (b"a\t: b", HeadError::FieldName),
        (b": b", HeadError::FieldName),
        (b"a", HeadError::FieldName),
        (b"a b: c", HeadError::FieldName),
        (b"a\0: b", HeadError::FieldName),
        (b"a(: b", HeadError::FieldName),
        (b"\"a\": b", HeadError::FieldName),
        (b"\xE9: b", HeadError::FieldName),
        (b"\x0Ba: b", HeadError::FieldName),
        (b"a: \0", HeadError::FieldValue),
        (b"a: b\0c", HeadError::FieldValue),
        (b"a: \x0B", HeadError::FieldValue),
        (b"a: b\x0C", HeadError::FieldValue),
        (b"a: b\x1F", HeadError::FieldValue),
        (b"a: b\x7F", HeadError::FieldValue),
    ] {
        for before in ["", "x: y\r\n"] {
            let fields = [before.as_bytes(), line, b"\r\n\r\n"].concat();
            let message = [b"GET / HTTP/1.1\r\n", &fields[..]].concat();
            let text = String::from_utf8_lossy(&message);
            assert_eq!(request(&message).err(), Some(expected), "{text:?}");
            let message = [b"HTTP/1.1 200 OK\r\n", &fields[..]].concat();
            let read = response(&Method::GET, message);
            assert_eq!(read.err(), Some(expected), "{text:?}");
        }
    }
}

#[test]
fn a_body_without_one_agreed_end_is_refused() {
    use HeadError::{ContentLength, Framing, TransferCoding, TransferEncoding};
    for (fields, expected) in [
        ("Content-Length: 6\r\nTransfer-Encoding: chunked", Framing),
        ("Transfer-Encoding: chunked\r\nContent-Length: 6", Framing),
        ("Content-Length: 5\r\nContent-Length: 0", Framing),
        ("Content-Length: 5\r\nContent-Length: 5", Framing),
        ("Content-Length: 5\r\nx: y\r\ncontent-length: 5", Framing),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            Framing,
        ),
        ("Content-Length: 5, 5", ContentLength),
        ("Content-Length: 5,", ContentLength),
        ("Content-Length:", ContentLength),
        ("Content-Length: +5", ContentLength),
        ("Content-Length: -5", ContentLength),
        ("Content-Length: 0x5", ContentLength),
        ("Content-Length: 05", ContentLength),
        ("Content-Length: 00", ContentLength),
        ("Content-Length: 5_0", ContentLength),
        ("Content-Length: 5.0", ContentLength),
        ("Content-Length: 5 0", ContentLength),
        ("Content-Length: \u{663}", ContentLength),
        ("Content-Length: 18446744073709551616", ContentLength),
        ("Transfer-Encoding:", TransferEncoding),
        ("Transfer-Encoding: xchunked", TransferEncoding),
        ("Transfer-Encoding: identity", TransferEncoding),
        ("Transfer-Encoding: gzip", TransferEncoding),
        ("Transfer-Encoding: chunked, gzip", TransferEncoding),
        ("Transfer-Encoding: chunked, chunked", TransferEncoding),
        ("Transfer-Encoding: identity, chunked", TransferEncoding),
        ("Transfer-Encoding: , chunked", TransferEncoding),
        ("Transfer-Encoding: chunked,", TransferEncoding),
        ("Transfer-Encoding: chunked;q=1", TransferEncoding),
        ("Transfer-Encoding: \"chunked\"", TransferEncoding),
        ("Transfer-Encoding: [chunked]", TransferEncoding),
        ("Transfer-Encoding: chunked\u{ff}", TransferEncoding),
        ("Transfer-Encoding: gzip, chunked", TransferCoding),
        (
            "Transfer-Encoding: GZip , deflate,\tChunked",
            TransferCoding,
        ),
    ] {
        let read = request(format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n"));
        assert_eq!(read.err(), Some(expected), "{fields}");
        let message = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
        assert_eq!(
            response(&Method::GET, message).err(),
            Some(expected),
            "{fields}"
        );
    }
}

#[test]
fn what_is_over_a_limit_is_refused_before_its_end() {
    let limits = Limits {
        head_bytes: 100,
        fields: 3,
        field_bytes: 30,
        http10: false,
    };
    let read = |fields: &str| {
        let mut input = BytesMut::from(format!("GET / HTTP/1.1\r\n{fields}").as_str());
        let head = HeadReader::new().request(&mut input, &limits);
        head.map(|head| head.is_some())
    };
    let name_and_value = |length: usize| format!("a:{}", "b".repeat(length - 2));
    let line = name_and_value(27) + "\r\n";
    for (fields, expected) in [
        (name_and_value(30) + "\r\n\r\n", Ok(true)),
        (name_and_value(30), Ok(false)),
        (name_and_value(31), Err(HeadError::FieldTooLong)),
        (
            "a: ".to_owned() + &" ".repeat(28),
            Err(HeadError::FieldTooLong),
        ),
        ("a:b\r\n".repeat(3) + "\r\n", Ok(true)),
        ("a:b\r\n".repeat(3) + "a", Err(HeadError::TooManyFields)),
        // 16 for the first line, 29 for each of these, 2 at the end.
        (line.repeat(2) + "a: 4567890123456789012\r\n\r\n", Ok(true)),
        (line.repeat(2) + "a: 4567890123456789012\r\n", Ok(false)),
        (
            line.repeat(2) + "a: 45678901234567890123\r\n",
            Err(HeadError::HeadTooLong),
        ),
        (
            line.repeat(2) + "a: 45678901234567890123456",
            Err(HeadError::HeadTooLong),
        ),
    ] {
        assert_eq!(read(&fields), expected, "{fields:?}");
    }
}

#[test]
fn a_first_line_is_as_long_as_its_limit_and_no_longer() {
    let target = |length: usize| format!("GET /{}", "a".repeat(length - 1));
    let too_long = HeadError::Target(Reject::TooLong);
    for (line, expected) in [
        (target(MAX_TARGET_BYTES) + " HTTP/1.1\r\n", None),
        (
            target(MAX_TARGET_BYTES + 1) + " HTTP/1.1\r\n",
            Some(too_long),
        ),
        (target(MAX_TARGET_BYTES + 100), Some(too_long)),
        (format!("{} / HTTP/1.1\r\n", "A".repeat(32)), None),
        (
            format!("{} / HTTP/1.1\r\n", "A".repeat(33)),
            Some(HeadError::RequestLine),
        ),
        (
            "A".repeat(MAX_TARGET_BYTES + 100),
            Some(HeadError::RequestLine),
        ),
        (
            "A / ".to_owned() + &" ".repeat(MAX_TARGET_BYTES + 100),
            Some(HeadError::RequestLine),
        ),
    ] {
        let read = request(&line);
        assert_eq!(read.err(), expected, "{line:.60} of {}", line.len());
    }
    let small = Limits {
        head_bytes: 20,
        ..LIMITS
    };
    let mut input = BytesMut::from("GET /aaaaaaaaaaaaaaa");
    let read = HeadReader::new().request(&mut input, &small);
    assert_eq!(read.err(), Some(HeadError::HeadTooLong));
}

#[test]
fn every_refusal_has_its_status() {
    for (error, status) in [
        (HeadError::RequestLine, 400),
        (HeadError::Framing, 400),
        (HeadError::Target(Reject::TooLong), 414),
        (HeadError::HeadTooLong, 431),
        (HeadError::FieldTooLong, 431),
        (HeadError::TooManyFields, 431),
        (HeadError::TransferCoding, 501),
        (HeadError::Version, 505),
    ] {
        assert_eq!(error.status(), status, "{error}");
    }
}

#[test]
fn a_request_is_read_as_it_was_written() {
    let mut input = BytesMut::from(
        &b"PATCH /a/%7e?b=[c] HTTP/1.1\r\nHost: a.example\r\nACCEPT:\r\nX-One: \t a\tb c \t\r\n\
           x-one:\xE9\xFF\r\n!#$%&'*+-.^_`|~09: z\r\n\r\nGET"[..],
    );
    let mut reader = HeadReader::new();
    let head = reader.request(&mut input, &LIMITS).unwrap().unwrap();
    assert_eq!(head.parts.method, Method::PATCH);
    assert_eq!(head.parts.uri, "/a/%7e?b=[c]");
    assert_eq!(head.parts.version, Version::HTTP_11);
    let fields: Vec<(&str, &[u8])> = head
        .parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    assert_eq!(
        fields,
        [
            ("host", &b"a.example"[..]),
            ("accept", b""),
            ("x-one", b"a\tb c"),
            ("x-one", b"\xE9\xFF"),
            ("!#$%&'*+-.^_`|~09", b"z"),
        ]
    );
    assert_eq!(head.body, Framing::Empty);
    assert_eq!((head.keep_alive, head.expects_continue), (true, false));
    // The next message is left, and the reader ready for it.
    assert_eq!(&input[..], b"GET");
    input.extend_from_slice(b" /next HTTP/1.1\r\n\r\n");
    let next = reader.request(&mut input, &LIMITS).unwrap().unwrap();
    assert_eq!(next.parts.uri, "/next");
    assert!(input.is_empty());
}

#[test]
fn a_request_behind_connect_is_none() {
    let head = request("CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n");
    let head = head.unwrap().unwrap();
    assert_eq!(
        (head.parts.method, head.keep_alive),
        (Method::CONNECT, false)
    );
}

/// Values used to be slices of all that was read at once, and HTTP/2 keeps them for as long as a connection lasts.
#[test]
fn a_head_does_not_keep_what_was_read_with_it() {
    let mut input = BytesMut::from("GET /a HTTP/1.1\r\nHost: b\r\n\r\nbody");
    let _head = HeadReader::new().request(&mut input, &LIMITS).unwrap();
    assert!(input.freeze().is_unique());
}

#[test]
fn a_head_that_is_not_all_there_is_left_alone() {
    let whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for length in 0..whole.len() {
        let mut input = BytesMut::from(&whole[..length]);
        let read = HeadReader::new().request(&mut input, &LIMITS);
        assert!(matches!(read, Ok(None)), "{length}");
        assert_eq!(input, whole[..length]);
    }
}

#[test]
fn fields_say_where_a_body_ends_and_whether_the_connection_does() {
    for (fields, body, keep_alive, expects_continue) in [
        ("content-length: 0", Framing::Length(0), true, false),
        ("Content-Length: \t5 ", Framing::Length(5), true, false),
        (
            "CONTENT-LENGTH:18446744073709551615",
            Framing::Length(u64::MAX),
            true,
            false,
        ),
        ("Transfer-Encoding: chunked", Framing::Chunked, true, false),
        ("transfer-encoding: Chunked", Framing::Chunked, true, false),
        ("Connection: close", Framing::Empty, false, false),
        ("Connection: CLOSE", Framing::Empty, false, false),
        ("Connection: a, \tClose ,b", Framing::Empty, false, false),
        (
            "Connection: keep-alive\r\nConnection: close",
            Framing::Empty,
            false,
            false,
        ),
        ("Connection: keep-alive", Framing::Empty, true, false),
        ("Connection: closed, clo se", Framing::Empty, true, false),
        ("Expect: 100-Continue", Framing::Empty, true, true),
        (
            "Expect: 100-continue\r\nExpect: 100-continue",
            Framing::Empty,
            true,
            false,
        ),
        ("Expect: y 100-continue", Framing::Empty, true, false),
    ] {
        let head = request(format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n"));
        let head = head.unwrap().unwrap();
        let found = (head.body, head.keep_alive, head.expects_continue);
        assert_eq!(found, (body, keep_alive, expects_continue), "{fields}");
    }
}
