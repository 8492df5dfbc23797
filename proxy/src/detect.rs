//! What a connection speaks, told by its first bytes. Nothing of them is lost. Whoever calls sets the deadline.

use crate::h1::wire::FIRST_READ;
use crate::socket::Socket;
use crate::tls::Alpn;
use bytes::BytesMut;
use std::io;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The type of the record that a TLS client begins with (RFC 8446 section 5.1). No HTTP begins like that.
const HANDSHAKE: u8 = 22;
/// How an HTTP/2 connection begins (RFC 9113 section 3.4). No HTTP/1.1 method is `PRI`.
const PREFACE: &[u8] = b"PRI ";

/// Whether bytes can be the start of a TLS connection.
pub(crate) fn begins_as_tls(start: &[u8]) -> bool {
    start.first() == Some(&HANDSHAKE)
}

/// Whether a connection begins as TLS. One byte says so, and it stays in the socket: what is wrong with those after it is for
/// the handshake to find, since nothing that began as TLS is ever read as anything else.
pub(crate) async fn is_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; 1];
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first == [HANDSHAKE]),
    }
}

/// Reads just enough to tell HTTP/2 with prior knowledge from HTTP/1.1. Answers what was read, too.
pub(crate) async fn http(stream: &mut Box<dyn Socket>) -> io::Result<(Alpn, BytesMut)> {
    let mut start = BytesMut::with_capacity(FIRST_READ);
    loop {
        if stream.read_buf(&mut start).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let seen = start.len().min(PREFACE.len());
        if start[..seen] != PREFACE[..seen] {
            return Ok((Alpn::Http1, start));
        }
        if seen == PREFACE.len() {
            return Ok((Alpn::Http2, start));
        }
    }
}
