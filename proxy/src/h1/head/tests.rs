use super::{HeadError, HeadReader, Limits, RequestHead, ResponseHead};
use bytes::BytesMut;
use http::Method;
use policy::target::Reject;

const LIMITS: Limits = Limits {
    head_bytes: 16 * 1024,
    fields: 100,
    field_bytes: 8 * 1024,
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
