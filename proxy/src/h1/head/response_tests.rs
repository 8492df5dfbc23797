use super::{Framing, HeadError, HeadReader, Limits};
use bytes::BytesMut;
use http::{Method, Version};

const LIMITS: Limits = Limits {
    head_bytes: 16 * 1024,
    fields: 100,
    field_bytes: 8 * 1024,
    http10: false,
};

#[test]
fn a_status_line_that_is_none_is_refused() {
    let long_reason = format!("HTTP/1.1 200 {}", "a".repeat(1024));
    for (line, expected) in [
        ("", HeadError::StatusLine),
        ("HTTP/1.1", HeadError::StatusLine),
        ("HTTP/1.1 ", HeadError::StatusLine),
        ("HTTP/1.1 20", HeadError::StatusLine),
        ("HTTP/1.1 2000", HeadError::StatusLine),
        ("HTTP/1.1 200OK", HeadError::StatusLine),
        ("HTTP/1.1  200 OK", HeadError::StatusLine),
        ("HTTP/1.1\t200 OK", HeadError::StatusLine),
        ("HTTP/1.1 099 OK", HeadError::StatusLine),
        ("HTTP/1.1 +20 OK", HeadError::StatusLine),
        ("HTTP/1.1 2x0 OK", HeadError::StatusLine),
        ("HTTP/1.1 200 O\0K", HeadError::StatusLine),
        (" HTTP/1.1 200 OK", HeadError::StatusLine),
        ("http/1.1 200 OK", HeadError::StatusLine),
        ("ICY 200 OK", HeadError::StatusLine),
        ("HTTP/2.0 200 OK", HeadError::Version),
        ("HTTP/0.9 200 OK", HeadError::Version),
        (&long_reason, HeadError::StatusLine),
    ] {
        let mut input = BytesMut::from(format!("{line}\r\n").as_str());
        let read = HeadReader::new().response(&mut input, &Method::GET, &LIMITS);
        assert_eq!(read.err(), Some(expected), "{line:?}");
    }
}

#[test]
fn an_old_server_cannot_send_chunks() {
    let mut input = BytesMut::from("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let read = HeadReader::new().response(&mut input, &Method::GET, &LIMITS);
    assert_eq!(read.err(), Some(HeadError::Framing));
}

#[test]
fn a_response_is_read_with_the_request_in_mind() {
    let (get, head) = (Method::GET, Method::HEAD);
    for (method, message, status, body, keep_alive) in [
        (&get, "HTTP/1.1 200 OK\r\n", 200, Framing::UntilClose, false),
        (&get, "HTTP/1.1 200 \r\n", 200, Framing::UntilClose, false),
        (&get, "HTTP/1.1 200\r\n", 200, Framing::UntilClose, false),
        (
            &get,
            "HTTP/1.1 299 \u{e9}\tb\r\ncontent-length: 0\r\n",
            299,
            Framing::Length(0),
            true,
        ),
        (
            &get,
            "HTTP/1.1 999 x\r\ncontent-length: 7\r\n",
            999,
            Framing::Length(7),
            true,
        ),
        (
            &get,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n",
            200,
            Framing::Chunked,
            true,
        ),
        (
            &get,
            "HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n",
            200,
            Framing::Length(7),
            false,
        ),
        (&get, "HTTP/1.0 200 OK\r\n", 200, Framing::UntilClose, false),
        (
            &get,
            "HTTP/1.0 200 OK\r\ncontent-length: 7\r\nconnection: keep-alive\r\n",
            200,
            Framing::Length(7),
            false,
        ),
        (&get, "HTTP/1.1 100 Continue\r\n", 100, Framing::Empty, true),
        (
            &get,
            "HTTP/1.1 103 Early Hints\r\nlink: a\r\n",
            103,
            Framing::Empty,
            true,
        ),
        (
            &get,
            "HTTP/1.1 204 No Content\r\ncontent-length: 7\r\n",
            204,
            Framing::Empty,
            true,
        ),
        (
            &get,
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n",
            304,
            Framing::Empty,
            true,
        ),
        (
            &head,
            "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n",
            200,
            Framing::Empty,
            true,
        ),
        (&head, "HTTP/1.1 200 OK\r\n", 200, Framing::Empty, true),
        (
            &head,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n",
            200,
            Framing::Empty,
            true,
        ),
    ] {
        let mut input = BytesMut::from(format!("{message}\r\nrest").as_str());
        let read = HeadReader::new().response(&mut input, method, &LIMITS);
        let read = read.unwrap().unwrap();
        let found = (read.parts.status.as_u16(), read.body, read.keep_alive);
        assert_eq!(found, (status, body, keep_alive), "{method} {message:?}");
        let is_old = message.starts_with("HTTP/1.0");
        assert_eq!(read.parts.version == Version::HTTP_10, is_old);
        assert_eq!(&input[..], b"rest");
    }
}
