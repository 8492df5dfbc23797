//! Just enough HTTP/1.1 to send exact bytes and to read what comes back.

use super::PATIENCE;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    /// The first value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    fn parse(raw: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(raw);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let reply = Self {
            status,
            head: head.to_owned(),
            body: String::new(),
        };
        let body = match reply.header("transfer-encoding") {
            Some("chunked") => unchunk(body)?,
            _ => body.to_owned(),
        };
        Some(Self { body, ..reply })
    }
}

/// Sends `bytes` and reads until the peer closes. `None` when the answer is no HTTP.
pub(crate) fn exchange(mut stream: impl Read + Write, bytes: &[u8]) -> Option<Reply> {
    stream.write_all(bytes).ok()?;
    let mut raw = Vec::new();
    // A reset after the answer is still an answer.
    let _end: io::Result<usize> = stream.read_to_end(&mut raw);
    Reply::parse(&raw)
}

/// Sends a whole request that asks for the connection to be closed.
pub(crate) fn call(to: SocketAddr, request: &str) -> Reply {
    exchange(connect(to), request.as_bytes())
        .unwrap_or_else(|| panic!("no answer from {to} to {request:?}"))
}

/// GET from an administration port; `None` when nobody answers.
pub(crate) fn get(to: SocketAddr, target: &str) -> Option<Reply> {
    let stream = TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    exchange(
        stream,
        format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes(),
    )
}

pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    let stream =
        TcpStream::connect(to).unwrap_or_else(|error| panic!("connecting to {to}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    stream
}

fn unchunk(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole += rest.get(..size)?;
        body = rest.get(size + 2..)?;
    }
}
